"""`flawmap inspect`: masks, overlays, regions and verdicts of many images."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawmap.commands.inspection_files import ENDINGS, inspection_files
from flawmap.commands.outputs import InspectionOutputs, usable_folder
from flawmap.core.errors import ConfigError, InputError, OutputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import clean_stale_parts, sha256_of
from flawmap.core.parallel import parallel_map
from flawmap.core.records import Inspection
from flawmap.core.runtime import Runtime
from flawmap.data.finding import FoundImage, find_images
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import WHOLE_PIXELS, opened_image
from flawmap.imaging.threads import one_opencv_thread
from flawmap.reporting.logs import InspectionLog
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import InspectionBuilder
from flawmap.scoring.model_file import load_artifact

log = logging.getLogger(__name__)

PICTURE_BYTES, RESIDUAL_BYTES = 2, 4  # for each pixel: mask and overlay, residual map


@dataclass(frozen=True)
class InspectionRow:
    """One line of the summary: what was found, or why the image could not be read. notes: about the file."""

    path: str
    score: float | None
    verdict: str
    regions: int
    flawed_pixels: int
    error: str | None = None
    notes: tuple[str, ...] = ()


def inspect(
    model: Path,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    outputs: InspectionOutputs | None = None,
    runtime: Runtime | None = None,
    roi_masks: Path | None = None,
    resume: bool = False,
    events: Events = SILENT,
) -> tuple[InspectionRow, ...]:
    """Inspect files, folders and globs with a model, and write what was found.

    For each image, under its path relative to what was given: `NAME_mask.png`, `NAME_overlay.png` and, if asked for,
    `NAME_residual.tif` (float32, opened). For all: `inspections.jsonl`, a line for each image as soon as it is done,
    and `regions.csv`. An unreadable image is listed, and the run goes on. The mask of an image of more than
    WHOLE_PIXELS pixels is a TIFF, too, and its overlay is reduced.

    Args:
        roi_masks: the folder of masks on this machine, for a model whose region of interest is a folder of masks.
        resume: go on with what an earlier run left in the folder; its images are not inspected again.
    Raises:
        InputError, ConfigError, ArtifactError: before any image is looked at. OutputError: a disk that filled up.
    """
    outputs, runtime = outputs or InspectionOutputs(), runtime or Runtime()
    detector = Detector.of(load_artifact(model).with_roi_masks(roi_masks), runtime)
    _check_threshold(model, detector.artifact.threshold if outputs.threshold is None else outputs.threshold)
    found = _not_in(out, find_images(inputs))
    names = _output_names(found)
    run = _identity(model, detector, outputs)
    with InspectionLog(usable_folder(out, _bytes_needed(found, outputs)), run, resume=resume) as records:
        clean_stale_parts(out)
        done = {record["path"]: _row_of(record) for record in records.kept}
        remaining = [image for image in found if str(image.path) not in done]
        if done:
            events.message(f"{len(done)} images were inspected before, {len(remaining)} remain")
        try:
            _inspect_all(detector, remaining, out, names, outputs, records=records, done=done, events=events)
        except KeyboardInterrupt:
            events.message(f"{len(done)} of {len(found)} images are done and listed in {out}; go on with --resume")
            raise
    return tuple(done[str(image.path)] for image in found)


def _inspect_all(
    detector: Detector,
    images: Sequence[FoundImage],
    out: Path,
    names: dict[FoundImage, Path],
    outputs: InspectionOutputs,
    *,
    records: InspectionLog,
    done: dict[str, InspectionRow],
    events: Events,
) -> None:
    """Inspect images side by side; each is listed, in order, as soon as it is done."""

    def look(image: FoundImage) -> Inspection | InputError:
        try:
            return _inspect_file(detector, image.path, out / names[image], outputs)
        except OutputError:
            raise
        except InputError as error:
            return error

    results = parallel_map(look, images, pixels=lambda image: read_header(image.path).pixels)
    with one_opencv_thread(), closing(results):
        for number, (image, result) in enumerate(zip(images, results, strict=True), start=1):
            path = str(image.path)
            failed = isinstance(result, InputError)
            record = records.fail(path, str(result)) if isinstance(result, InputError) else records.add(result)
            done[path] = _row_of(record)
            for note in () if failed else record["notes"]:
                log.info("%s: %s", path, note)
            events.progress(number, len(images), path)


def _inspect_file(detector: Detector, path: Path, target: Path, outputs: InspectionOutputs) -> Inspection:
    """Inspect an image by bands, and write its pictures."""
    with opened_image(path, detector.config.images) as image:
        height, width, _ = image.shape
        builder = InspectionBuilder(detector.threshold(outputs.threshold))
        with inspection_files(target, image.shape, outputs, large=height * width > WHOLE_PIXELS) as files:
            for band in detector.scan(image):
                files.add(band, builder.add(band))
        return builder.inspection(path, image.notes)


def _identity(model: Path, detector: Detector, outputs: InspectionOutputs) -> dict[str, Any]:
    """What decides the results of a run; a run with another identity does not go on with its results."""
    return {
        "model_sha256": sha256_of(model),
        "precision": str(detector.scorer.precision).removeprefix("torch."),
        "engine": detector.runtime.engine,
        **outputs.to_dict(),
    }


def _row_of(record: dict[str, Any]) -> InspectionRow:
    """The summary of a line of `inspections.jsonl`."""
    if "error" in record:
        return InspectionRow(record["path"], None, "unreadable", 0, 0, record["error"])
    return InspectionRow(
        record["path"],
        record["score"],
        record["verdict"],
        len(record["regions"]),
        record["flawed_pixels"],
        notes=tuple(record["notes"]),
    )


def _check_threshold(model: Path, threshold: float | None) -> None:
    if threshold is None:
        raise ConfigError(
            f"{model} has no threshold, since no good images were held out when it was trained; give one with "
            "--threshold, or train with --set split.validation=0.1"
        )
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold must be a finite number, got {threshold}")


def _not_in(out: Path, found: Sequence[FoundImage]) -> list[FoundImage]:
    """The images without those in the output folder, so that a second run does not inspect the masks of the first."""
    own = out.resolve()
    kept = [image for image in found if not image.path.resolve().is_relative_to(own)]
    if not kept:
        raise InputError(f"all images found lie in the output folder {out} itself; name another one with -o")
    foreign = [image.path for image in set(found).difference(kept) if not image.path.stem.endswith(ENDINGS)]
    if foreign:
        log.warning(
            "%d images in the output folder %s are left out, %s for one; to inspect them name another folder with -o",
            len(foreign),
            out,
            min(foreign),
        )
    return kept


def _bytes_needed(found: Iterable[FoundImage], outputs: InspectionOutputs) -> int:
    """About what an inspection writes; unreadable images need nothing."""
    pixels = 0
    for image in found:
        with suppress(InputError):
            pixels += read_header(image.path).pixels
    return pixels * (PICTURE_BYTES * outputs.overlays + RESIDUAL_BYTES * outputs.residuals + 1)


def _output_names(found: Iterable[FoundImage]) -> dict[FoundImage, Path]:
    """Each image's relative path without its suffix; with it where two images would share a name."""
    images = list(found)
    shared = Counter(image.relative.with_suffix("") for image in images)
    return {
        image: image.relative.with_suffix("") if shared[image.relative.with_suffix("")] == 1 else image.relative
        for image in images
    }

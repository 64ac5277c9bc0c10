"""`flawmap inspect`: masks, overlays, regions and verdicts of many images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from flawmap.commands.inspection_files import Writing, inspection_files
from flawmap.commands.inspection_items import Item, Pages, bytes_needed, items_of, pixels_of
from flawmap.commands.outputs import InspectionOutputs, usable_folder
from flawmap.core.errors import ConfigError, InputError, OutputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import clean_stale_parts
from flawmap.core.parallel import pipelined_map
from flawmap.core.records import Inspection
from flawmap.core.runtime import Runtime
from flawmap.imaging.reading import WHOLE_PIXELS, opened_image
from flawmap.imaging.threads import one_opencv_thread
from flawmap.reporting.logs import InspectionLog
from flawmap.scoring.detector import Detector
from flawmap.scoring.engine_choice import chosen
from flawmap.scoring.inspection import InspectionBuilder
from flawmap.scoring.model_file import load_artifact, model_sha256

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class InspectionRow:
    """One line of the summary: what was found, or why the image could not be read.

    notes: sentences about the file. page: of a file with several, counted from 1; None: the file has one.
    """

    path: str
    score: float | None
    verdict: str
    regions: int
    flawed_pixels: int
    error: str | None = None
    notes: tuple[str, ...] = ()
    page: int | None = None


def inspect(
    model: Path,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    outputs: InspectionOutputs | None = None,
    runtime: Runtime | None = None,
    point: str | None = None,
    pages: Pages = None,
    roi_masks: Path | None = None,
    resume: bool = False,
    report: bool = True,
    events: Events = SILENT,
) -> tuple[InspectionRow, ...]:
    """Inspect files, folders and globs with a model, and write what was found.

    For each image, under its path relative to what was given: `NAME_mask.png`, `NAME_overlay.png` and, if asked for,
    `NAME_residual.tif` (float32, opened). For all: `inspections.jsonl`, a line for each image as soon as it is done,
    `regions.csv`, and at the end the pages of `flawmap report`. An unreadable image is listed, and the run goes on. The
    mask of an image of more than WHOLE_PIXELS pixels is a TIFF, too, and its overlay is reduced.

    Args:
        point: the operating point that decides; None: the model's own.
        pages: the page of files with several, or "all"; the pictures of page 3 are named `NAME_p003`.
        roi_masks: the folder of masks on this machine, for a model whose region of interest is a folder of masks.
        resume: keep what an earlier run left in the folder, and inspect the images that are missing there.
        report: whether the pages are written.
    Raises:
        InputError, ConfigError, ArtifactError: before any image is looked at. OutputError: a disk that filled up.
    """
    outputs, runtime = outputs or InspectionOutputs(), runtime or Runtime()
    artifact = load_artifact(model).at_point(point).with_roi_masks(roi_masks)
    if outputs.threshold is None:  # at another one no verdict was compared
        runtime = chosen(artifact, runtime, events=events)
    detector = Detector.of(artifact, runtime)
    _check_threshold(model, detector.artifact.threshold if outputs.threshold is None else outputs.threshold)
    items = items_of(inputs, out, pages)
    run = _identity(model, detector, outputs)
    found_in = detector.artifact.calibration.get("precision", run["precision"])
    if outputs.threshold is None and found_in != run["precision"] and not detector.keeps_verdicts:
        events.message(f"the threshold was found in {found_in}, scores are computed in {run['precision']}")
    folder = usable_folder(out, bytes_needed(items, outputs, detector.config.images.pixel_limit))
    with InspectionLog(folder, run, resume=resume) as records:
        clean_stale_parts(out)
        before = {(record["path"], record.get("page")): record for record in records.kept}
        done = {item: _row_of(before[item.key]) for item in items if item.key in before}
        remaining = [item for item in items if item not in done]
        if done:
            events.message(f"{len(done)} images were inspected before, {len(remaining)} remain")
        try:
            _inspect_all(detector, remaining, out, outputs, records=records, done=done, events=events)
        except KeyboardInterrupt:
            events.message(f"{len(done)} of {len(items)} images are done and listed in {out}; go on with --resume")
            raise
    if report:
        from flawmap.commands.report import report as write_pages  # noqa: PLC0415 - after the last verdict

        write_pages(out, model, events=events)
    return tuple(done[item] for item in items)


def _inspect_all(
    detector: Detector,
    items: Sequence[Item],
    out: Path,
    outputs: InspectionOutputs,
    *,
    records: InspectionLog,
    done: dict[Item, InspectionRow],
    events: Events,
) -> None:
    """Inspect images side by side, and write their pictures on another thread; each image is listed, in order, as soon
    as its pictures are there."""

    def look(item: Item) -> tuple[Inspection, Writing] | InputError:
        return _attempted(lambda: _inspect_item(detector, item, out, outputs))

    def write(looked: tuple[Inspection, Writing] | InputError) -> Inspection | InputError:
        if isinstance(looked, InputError):
            return looked
        inspection, writing = looked
        return _attempted(writing) or inspection

    with one_opencv_thread(), closing(pipelined_map(look, write, items, pixels=pixels_of)) as results:
        for number, (item, result) in enumerate(zip(items, results, strict=True), start=1):
            if isinstance(result, InputError):
                record = records.fail(item.path, str(result), item.page)
            else:
                record = records.add(result, item.page, item.target)
            done[item] = _row_of(record)
            for note in done[item].notes:
                log.info("%s: %s", item, note)
            events.progress(number, len(items), str(item))


def _attempted(step: Callable[[], Result]) -> Result | InputError:
    """What a step of an image gives, or why it cannot; what the disk refuses ends the whole run."""
    try:
        return step()
    except OutputError:
        raise
    except InputError as error:
        return error


def _inspect_item(detector: Detector, item: Item, out: Path, outputs: InspectionOutputs) -> tuple[Inspection, Writing]:
    """Inspect an image by bands: what was found, and what is left to be written of its pictures."""
    with opened_image(item.path, detector.config.images, page=item.page) as image:
        height, width, _ = image.shape
        builder = InspectionBuilder(detector.point(outputs.threshold))
        with inspection_files(out / item.target, image.shape, outputs, large=height * width > WHOLE_PIXELS) as files:
            for band in detector.scan(image):
                builder.add(band)
                files.add(band)
            writing = files.finish(builder.masks())
        return builder.inspection(item.path, image.notes, detector.artifact.good_scores), writing


def _identity(model: Path, detector: Detector, outputs: InspectionOutputs) -> dict[str, Any]:
    """What decides the results of a run; a run with another identity does not go on with its results."""
    return {
        "model_sha256": model_sha256(model),
        "point": detector.artifact.active,
        "precision": detector.precision_name,
        "engine": detector.runtime.engine,
        **asdict(outputs),
    }


def _row_of(record: dict[str, Any]) -> InspectionRow:
    """The summary of a line of `inspections.jsonl`."""
    if "error" in record:
        return InspectionRow(record["path"], None, "unreadable", 0, 0, record["error"], page=record.get("page"))
    return InspectionRow(
        record["path"],
        record["score"],
        record["verdict"],
        len(record["regions"]),
        record["flawed_pixels"],
        notes=tuple(record["notes"]),
        page=record.get("page"),
    )


def _check_threshold(model: Path, threshold: float | None) -> None:
    if threshold is None:
        raise ConfigError(
            f"{model} has no threshold, since no good images were held out when it was trained; give one with "
            "--threshold, or train with --set split.validation=0.1"
        )
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold must be a finite number, got {threshold}")

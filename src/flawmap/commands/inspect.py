"""`flawmap inspect`: masks, overlays, regions and verdicts of many images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flawmap.commands.inspect_bands import by_bands, inspect_bands
from flawmap.commands.outputs import Done, _silent, _usable
from flawmap.commands.train import log
from flawmap.core.errors import ConfigError, InputError, OutputError
from flawmap.core.files import writable_folder
from flawmap.core.parallel import exclusive_slot, parallel_map
from flawmap.core.records import Findings, Inspection
from flawmap.data.finding import FoundImage, find_images
from flawmap.imaging.codecs import read_header as image_header
from flawmap.imaging.writing import write_image
from flawmap.reporting.logs import InspectionLog
from flawmap.reporting.pictures import overlay
from flawmap.scoring.detector import Detector

PICTURE_BYTES, RESIDUAL_BYTES = 2, 4  # and before an inspection, for each pixel: mask and overlay, residual map

OUTPUTS = ("_mask", "_overlay", "_residual")  # what the names of an inspection's pictures end in


# ------------------------------------------------------------------------------------------------------------ inspect


@dataclass(frozen=True)
class InspectionRow:
    """One line of the summary: what was found, or why the image could not be read."""

    path: str
    score: float | None
    verdict: str
    regions: int
    flawed_pixels: int
    error: str | None = None


def inspect(
    model: Path,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    threshold: float | None = None,
    residuals: bool = False,
    overlays: bool = True,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "torch",
    done: Done = _silent,
) -> tuple[InspectionRow, ...]:
    """Inspect files, folders and globs with a model, and write what was found.

    For each image, under its path relative to what was given: `NAME_mask.png`, `NAME_overlay.png` and, if asked for,
    `NAME_residual.tif` (float32, opened). For all: `inspections.jsonl` and `regions.csv`. An unreadable image is
    listed, and the run goes on. An image of more than `huge.WHOLE_PIXELS` pixels is inspected by bands of rows: its
    mask is a TIFF, too, `NAME_mask.tif`, and its overlay is scaled down.

    Args:
        threshold: instead of the model's own. engine: what runs the network: torch, onnxruntime or openvino.
    Raises:
        InputError, ConfigError, ArtifactError: before any image is looked at, or a disk that filled up meanwhile.
    """
    detector = Detector.load(model, device=device, precision=precision, engine=engine)
    _check_threshold(model, detector.artifact.threshold if threshold is None else threshold)
    found = _not_in(out, find_images(inputs))
    _usable(out, _bytes_needed(found, residuals=residuals, overlays=overlays))
    names = _output_names(found)

    cores = torch.get_num_threads()

    def look(image: FoundImage) -> Findings | InputError:
        target = out / names[image]
        try:
            header = image_header(image.path)
            with exclusive_slot(header.pixels, cores):
                inspected = inspect_bands if by_bands(header, detector.config.images) else _inspect_whole
                return inspected(
                    detector, image.path, target, threshold=threshold, residuals=residuals, overlays=overlays
                )
        except OutputError:
            raise
        except InputError as error:
            return error

    rows: list[InspectionRow] = []
    with InspectionLog(out) as records, closing(parallel_map(look, found)) as results:
        for number, (image, result) in enumerate(zip(found, results, strict=True)):
            if isinstance(result, InputError):
                records.fail(str(image.path), str(result))
                rows.append(InspectionRow(str(image.path), None, "unreadable", 0, 0, str(result)))
            else:
                records.add(result)
                rows.append(_summary_row(result))
            done(number + 1, len(found), str(image.path))
    return tuple(rows)


def _inspect_whole(
    detector: Detector, path: Path, target: Path, *, threshold: float | None, residuals: bool, overlays: bool
) -> Findings:
    """Inspect an image file in one piece, and write its pictures."""
    loaded = detector.read(path)
    explained = detector.explain(loaded.pixels, path=path)
    inspection = detector.judge(explained, path=path, notes=loaded.notes, threshold=threshold)
    _write_pictures(target, inspection, loaded.pixels, residuals=residuals, overlays=overlays)
    return inspection.findings


def _check_threshold(model: Path, threshold: float | None) -> None:
    if threshold is None:
        raise ConfigError(
            f"{model} has no threshold, since no good images were held out when it was trained; give one with "
            "--threshold, or train with --validation 0.1"
        )
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold must be a finite number, got {threshold}")


def _not_in(out: Path, found: Sequence[FoundImage]) -> list[FoundImage]:
    """The images without those in the output folder, so that a second run does not inspect the masks of the first."""
    own = out.resolve()
    kept = [image for image in found if not image.path.resolve().is_relative_to(own)]
    if not kept:
        raise InputError(f"all images found lie in the output folder {out} itself; name another one with -o")
    foreign = [image.path for image in set(found).difference(kept) if not image.path.stem.endswith(OUTPUTS)]
    if foreign:
        log.warning(
            "%d images in the output folder %s are passed over, %s for one; to inspect them name another one with -o",
            len(foreign),
            out,
            min(foreign),
        )
    return kept


def _bytes_needed(found: Iterable[FoundImage], *, residuals: bool, overlays: bool) -> int:
    """About what an inspection writes; unreadable images need nothing."""
    pixels = 0
    for image in found:
        with suppress(InputError):
            header = image_header(image.path)
            pixels += header.width * header.height
    return pixels * (PICTURE_BYTES * overlays + RESIDUAL_BYTES * residuals + 1)


def _output_names(found: Iterable[FoundImage]) -> dict[FoundImage, Path]:
    """Each image's relative path without its suffix; with it where two images would share a name."""
    images = list(found)
    shared = Counter(image.relative.with_suffix("") for image in images)
    return {
        image: image.relative.with_suffix("") if shared[image.relative.with_suffix("")] == 1 else image.relative
        for image in images
    }


def _write_pictures(
    target: Path, inspection: Inspection, pixels: NDArray[np.float32], *, residuals: bool, overlays: bool
) -> None:
    folder = writable_folder(target.parent)
    write_image(folder / f"{target.name}_mask.png", inspection.mask)
    if overlays:
        write_image(folder / f"{target.name}_overlay.png", overlay(pixels, inspection.mask))
    if residuals:
        write_image(folder / f"{target.name}_residual.tif", inspection.residual)


def _summary_row(findings: Findings) -> InspectionRow:
    return InspectionRow(
        str(findings.path), findings.score, findings.verdict, len(findings.regions), findings.flawed_pixels
    )

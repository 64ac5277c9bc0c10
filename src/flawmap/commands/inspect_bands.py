"""Inspecting images of any size by bands of rows: memory grows with their width and not with their height.

What comes out is what `Detector.inspect` finds in one piece, to float32 rounding; maps go to files as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.core.files import writable_folder
from flawmap.core.records import Findings, FloatMap, Mask, Verdict
from flawmap.core.settings import ImageSettings
from flawmap.imaging.bigtiff import tiled_tiff
from flawmap.imaging.codecs import Header
from flawmap.imaging.morphology import RegionGathering, opened, threshold_mask
from flawmap.imaging.reading import ImageRows, Pixels, opened_image
from flawmap.imaging.roi import box_within
from flawmap.imaging.rows import BlockReduce, band_rows, block_counts, map_bands
from flawmap.imaging.writing import write_image
from flawmap.reporting.pictures import overlay
from flawmap.scoring.detector import Detector

WHOLE_PIXELS = 2**25  # an image of more is inspected by bands; 33,554,432
OVERLAY_SIDE = 4096  # pixels, at most, of the overlay of such an image

Box = tuple[int, int, int, int]
"""left, top, right, bottom; right and bottom are outside; pixels."""

See = Callable[[Pixels], None]
Found = Callable[[Mask, FloatMap], None]


def _unseen(pixels: Pixels) -> None:
    return None


def by_bands(header: Header, settings: ImageSettings) -> bool:
    """Whether an image is inspected by bands: it is large, and no region of interest needs all of it at once."""
    if header.pixels <= min(WHOLE_PIXELS, settings.pixel_limit):
        return False
    region = settings.roi
    return header.pixels > settings.pixel_limit or (region.masks is None and region.brightness is None)


def inspect_bands(
    detector: Detector,
    path: Path,
    target: Path,
    *,
    threshold: float | None = None,
    residuals: bool = False,
    overlays: bool = True,
) -> Findings:
    """Inspect an image file by bands and write `TARGET_mask.tif` and, if asked for, `TARGET_overlay.png` and
    `TARGET_residual.tif`: BigTIFF in tiles, the mask 0 and 255, the residual map float32 and opened.

    The overlay is scaled down by a whole factor to at most OVERLAY_SIDE pixels; a pixel of it is outlined as flawed if
    any of those that it stands for is. Files are written whole or not at all.

    Raises:
        InputError: the image cannot be read or scored. OutputError: a file cannot be written.
    """
    with opened_image(path, detector.config.images) as image, ExitStack() as files:
        height, width, channels = image.shape
        folder = writable_folder(target.parent)
        mask_rows = files.enter_context(tiled_tiff(folder / f"{target.name}_mask.tif", (height, width), np.uint8))
        residual_rows: Callable[[NDArray[Any]], None] | None = None
        if residuals:
            named = folder / f"{target.name}_residual.tif"
            residual_rows = files.enter_context(tiled_tiff(named, (height, width), np.float32))
        picture = _Picture(height, width, channels)

        def found(mask: Mask, residual: FloatMap) -> None:
            mask_rows(mask.astype(np.uint8) * np.uint8(255))
            if overlays:
                picture.mask.add(mask)
            if residual_rows is not None:
                residual_rows(residual)

        see = picture.image.add if overlays else _unseen
        findings = judge_bands(detector, image, path, threshold=threshold, see=see, found=found)
    if overlays:
        write_image(folder / f"{target.name}_overlay.png", overlay(picture.pixels(), picture.mask.values))
    return findings


def judge_bands(
    detector: Detector,
    image: ImageRows,
    path: Path,
    *,
    threshold: float | None = None,
    see: See = _unseen,
    found: Found = lambda mask, residual: None,
) -> Findings:
    """What `Detector.inspect` says of an image, with its maps handed out by bands.

    Args:
        see: given every band of the image, (h, W, C). found: given every band of the mask and of the opened residual
            map, (h, W) each, 0 outside the region of interest.
    Raises:
        InputError: the image cannot be read or scored, or its region of interest is no box.
    """
    limit, (height, width, _) = detector.limit(threshold), image.shape
    box = _box(detector, path, (height, width))
    score, flawed, top, regions = -np.inf, 0, 0, RegionGathering()
    for residual in _opened_bands(detector, image, box, see):
        inside = _inside(box, top, residual.shape)
        residual[~inside] = 0
        mask = threshold_mask(residual, limit, inside)
        regions.add(mask, residual)
        found(mask, residual)
        score, flawed, top = max(score, float(residual.max())), flawed + int(mask.sum()), top + len(residual)
    verdict: Verdict = "flawed" if flawed else "ok"
    return Findings(width, height, score, limit, verdict, flawed, regions.regions(), str(path), image.notes)


def _opened_bands(detector: Detector, image: ImageRows, box: Box, see: See) -> Iterator[FloatMap]:
    """Bands of the opened residual map, as wide as the image; every band of the image is read, whatever the box."""
    height, width, _ = image.shape
    part = _cut(image.bands(), box, see)
    scored = detector.score_bands(part, (box[3] - box[1], box[2] - box[0]), (height, width))
    spread = _spread(scored, box, (height, width))
    diameter = detector.config.threshold.opening
    yield from map_bands(spread, height, band_rows(width), diameter + 1, lambda rows: opened(rows, diameter))
    for _ in part:
        pass


def _cut(bands: Iterable[Pixels], box: Box, see: See) -> Iterator[Pixels]:
    """What lies in the box, by rows; all of it is seen."""
    left, top, right, bottom = box
    start = 0
    for band in bands:
        see(band)
        inside = band[max(0, top - start) : max(0, bottom - start), left:right]
        start += len(band)
        if len(inside):
            yield inside


def _spread(scored: Iterable[FloatMap], box: Box, shape: tuple[int, int]) -> Iterator[FloatMap]:
    """The map of a box in that of its image, 0 outside."""
    (left, top, right, bottom), (height, width) = box, shape
    yield from _zeros(top, width)
    for rows in scored:
        yield np.pad(rows, ((0, 0), (left, width - right)))
    yield from _zeros(height - bottom, width)


def _zeros(rows: int, width: int) -> Iterator[FloatMap]:
    step = band_rows(width)
    for start in range(0, rows, step):
        yield np.zeros((min(step, rows - start), width), np.float32)


def _inside(box: Box, top: int, shape: tuple[int, int]) -> Mask:
    inside = np.zeros(shape, np.bool_)
    inside[max(0, box[1] - top) : max(0, box[3] - top), box[0] : box[2]] = True
    return inside


def _box(detector: Detector, path: Path, shape: tuple[int, int]) -> Box:
    """The region of interest; everywhere is a box too."""
    region = detector.config.images.roi
    if region.everywhere:
        return 0, 0, shape[1], shape[0]
    if region.box is None:
        kind = "a folder of masks" if region.masks is not None else "a brightness range"
        raise InputError(
            f"{path} has {shape[1]} x {shape[0]} = {shape[0] * shape[1]:,} pixels and is inspected by bands of rows, "
            f"where a region of interest is a box or everywhere, got {kind}; train with --roi-box or none, or "
            f"cut the image into files of at most {detector.config.images.pixel_limit:,} pixels"
        )
    return box_within(path, shape, region.box)


class _Picture:
    """Image and mask, scaled down by a whole factor while their bands come."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self._factor, self._size = -(-max(height, width) // OVERLAY_SIDE), (height, width)
        self.image = BlockReduce((height, width, channels), self._factor, np.add, np.float64)
        self.mask = BlockReduce((height, width), self._factor, np.logical_or, np.bool_)

    def pixels(self) -> Pixels:
        means = self.image.values / block_counts(self._size, self._factor)[:, :, None]
        return np.clip(means, 0, 1).astype(np.float32)

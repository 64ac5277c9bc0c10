"""Images scored by bands of rows and counted as they come, several images at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from flawmap.core.arrays import Array
from flawmap.core.errors import InputError
from flawmap.core.parallel import parallel_map
from flawmap.core.records import Inspection, Mask
from flawmap.core.settings import RegionOfInterest
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.image_counts import CountedImage, ImageCounts
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import ImageRows, opened_image
from flawmap.imaging.resize import to_size
from flawmap.imaging.roi import Box, Roi, find_roi
from flawmap.imaging.threads import one_opencv_thread
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import Band, InspectionBuilder
from flawmap.scoring.operating_point import OperatingPoint


class Scan(NamedTuple):
    """One image, scored. hit: defective pixels above the threshold. seen: what a viewer made of it."""

    inspection: Inspection
    counts: CountedImage
    hit: int
    seen: Any = None


class Located(Protocol):
    """Something with an image file."""

    @property
    def path(self) -> Path: ...


class Viewer(Protocol):
    """Sees an image while it is scored: its bands from the top down, then their masks. At the end it tells what it
    made of them, which can be pickled."""

    def add(self, band: Band) -> None: ...
    def add_mask(self, mask: Mask) -> None: ...
    def finish(self) -> Any: ...


Item = TypeVar("Item", bound=Located)
Result = TypeVar("Result")
Pairs = Generator[tuple[Item, Result | InputError], None, None]
"""Each image with its result, or with the error that kept it from one, in order."""


class Mapper(Protocol):
    """Gives each image to a function of a detector: on the threads of this process, or on other machines. For these,
    function, images and results can be pickled."""

    def __call__(
        self, function: Callable[[Detector, Item], Result], items: Sequence[Item], /
    ) -> Pairs[Item, Result]: ...


def scan_image(
    detector: Detector,
    image: ImageRows,
    truth: Mask | None,
    *,
    point: OperatingPoint,
    box: Box | None = None,
    viewer: Viewer | None = None,
) -> Scan:
    """Score an image, or the part of it in a box, and count its pixels.

    Args:
        truth: (H, W) bool, True = defective; None: all pixels are good.
        point: what is a flaw. viewer: sees the bands, with reconstructions where the method has them.
    """
    builder, counts, hit, top = InspectionBuilder(point), ImageCounts(), 0, 0
    for band in detector.scan(image, box=box, reconstruction=viewer is not None):
        rows = slice(band.top, band.top + len(band.residual))
        drawn = np.zeros(band.residual.shape, np.bool_) if truth is None else truth[rows]
        builder.add(band)
        counts.add(band.residual, drawn, band.inside)
        if viewer is not None:
            viewer.add(band)
    if truth is not None or viewer is not None:
        for mask in builder.masks():
            if truth is not None:
                hit += int((mask & truth[top : top + len(mask)]).sum())
            if viewer is not None:
                viewer.add_mask(mask)
            top += len(mask)
    seen = None if viewer is None else viewer.finish()
    return Scan(builder.inspection(image.path, image.notes), counts.counted(), hit, seen)


def scan_good(detector: Detector, region: ImageRegion, *, point: OperatingPoint) -> Scan | None:
    """Score a good image, or an area of one by itself; None if nothing of it lies in the region of interest."""
    with opened_image(region.path, detector.config.images) as image:
        if region.box is not None and detector.region(image).cut(region.box) is None:
            return None
        return scan_image(detector, image, None, point=point, box=region.box)


def mapper_of(detector: Detector) -> Mapper:
    """The images by this detector, on the threads of this process."""

    def mapped(function: Callable[[Detector, Item], Result], items: Sequence[Item]) -> Pairs[Item, Result]:
        return in_parallel(partial(function, detector), items)

    return mapped


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> Pairs[Item, Result]:
    """Each image with its result, or with the error that kept it from one, in order; large images take turns."""

    def attempt(item: Item) -> Result | InputError:
        try:
            return function(item)
        except InputError as error:
            return error

    results = parallel_map(attempt, items, pixels=lambda item: read_header(item.path).pixels)
    with one_opencv_thread(), closing(results):
        yield from zip(items, results, strict=True)


def each(function: Callable[[Item], Result | None], items: Sequence[Item]) -> list[Result]:
    """The results of `in_parallel` that are not None. Raises the first InputError."""
    results = []
    with closing(in_parallel(function, items)) as pairs:
        for _, found in pairs:
            if isinstance(found, InputError):
                raise found
            if found is not None:
                results.append(found)
    return results


def evenly(items: Sequence[Result], most: int) -> list[Result]:
    """At most so many of these (areas, files), from the first to the last at even distances."""
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[place] for place in places]


def part_of(image: ImageRows, box: Box | None, settings: RegionOfInterest) -> tuple[ImageRows, Roi | None]:
    """The part of an image in a box (None: all of it), and its region of interest; None: nothing of it lies there."""
    roi = find_roi(image, settings)
    return (image, roi) if box is None else (image.cut(box), roi.cut(box))


def good_layers(detector: Detector, region: ImageRegion) -> Iterator[tuple[Array, Mask, int, tuple[int, int]]]:
    """Bands of an image's layers (L, h, w), where they count, their first row, and (height, width) of the whole.

    No pixel that counts has a share outside of the region of interest. Nothing: the area lies outside.
    """
    with opened_image(region.path, detector.config.images) as whole:
        image, roi = part_of(whole, region.box, detector.config.images.roi)
        if roi is None:
            return
        size = detector.working_size(image, roi)
        inside = np.ones(size, np.bool_)
        if roi.mask is not None:
            left, top, right, bottom = roi.box
            inside = to_size(roi.mask[top:bottom, left:right].astype(np.float32), size) > 1 - 1e-4
        row = 0
        for band in detector.working_layers(image, roi):
            yield band, inside[row : row + band.shape[1]], row, size
            row += band.shape[1]

"""Parts of good images with defects pasted in: what good images alone can say of how well defects are found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.data.defects import FLAWS, add_flaw
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.scans import part_of
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import ImageRows, Pixels, opened_image
from flawmap.imaging.roi import Roi, find_roi, of_mask
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import joined

CROP = 1024  # pixels: side of the part of an image that defects are pasted into, at most


class Turn(NamedTuple):
    """A good image and the seed of what is done to it."""

    path: Path
    region: ImageRegion
    seed: int


def turns(regions: Sequence[ImageRegion], count: int, first_seed: int = 0) -> list[Turn]:
    """So many turns: the images one after the other, from the start again where there are fewer."""
    chosen = islice(cycle(regions), count)
    return [Turn(region.path, region, seed) for seed, region in enumerate(chosen, start=first_seed)]


class Part(NamedTuple):
    """A part of a good image, by itself.

    pixels: (H, W, C) as the detector takes them. inside: (H, W) bool, the region of interest; None: everywhere. whole:
    (height, width) of the image that it was cut from.
    """

    path: Path
    pixels: Pixels
    inside: Mask | None
    whole: tuple[int, int]

    def shown(self, pixels: Pixels) -> tuple[ImageRows, Roi]:
        """Other pixels in its place, as a detector scans them, with their region of interest."""
        height, width = pixels.shape[:2]
        rows = ImageRows(pixels.shape, lambda: iter([pixels]), path=self.path, whole=self.whole)
        return rows, Roi((0, 0, width, height)) if self.inside is None else of_mask(self.inside)


def scale_at(detector: Detector, path: Path) -> float:
    """Pixels of the working scale for one of an image file. Raises InputError if its header cannot be read."""
    scale = detector.config.images.scale
    return scale if isinstance(scale, float) else scale[0] / read_header(path).width


def good_part(detector: Detector, turn: Turn, side: int = CROP, *, working: bool = False) -> Part | None:
    """A part of a good image, at most `side` pixels high and wide, or as a patch where that is larger, drawn by the
    seed; None: outside the region.

    working: whether the side is in pixels of the working scale.

    Raises:
        InputError: the image cannot be read.
    """
    random = np.random.default_rng(turn.seed)
    scale = scale_at(detector, turn.path)
    side = max(math.ceil(side / scale) if working else side, math.ceil(detector.config.model.patch / scale))
    with opened_image(turn.path, detector.config.images) as whole:
        image, roi = part_of(whole, turn.region.box, detector.config.images.roi)
        if roi is None:
            return None
        left, top, right, bottom = roi.box
        left += int(random.integers(max(1, right - left - side + 1)))
        top += int(random.integers(max(1, bottom - top - side + 1)))
        box = left, top, min(right, left + side), min(bottom, top + side)
        pixels = detector.checked(image.cut(box).pixels())
        inside = None if roi.mask is None else roi.mask[box[1] : box[3], box[0] : box[2]]
        return None if inside is not None and not inside.any() else Part(turn.path, pixels, inside, whole.shape[:2])


class Pasted(NamedTuple):
    """A part with a defect. flawed: its pixels; mask: (H, W) bool, the defect."""

    part: Part
    flawed: Pixels
    mask: Mask

    @property
    def path(self) -> Path:
        return self.part.path


def with_defect(
    part: Part | None, seed: int, kind: str | None = None, *, size: float | None = None, contrast: float | None = None
) -> Pasted | None:
    """A part with one defect; None: there is no part, or no place for the defect. kind: None: by the seed, in turn."""
    if part is None:
        return None
    chosen = FLAWS[seed % len(FLAWS)] if kind is None else kind
    try:
        return Pasted(part, *add_flaw(part.pixels, chosen, seed, size=size, contrast=contrast, inside=part.inside))
    except InputError:
        return None


def score_part(detector: Detector, part: Part, pixels: Pixels) -> tuple[FloatMap, Mask]:
    """The opened residuals (H, W) of a part with other pixels in its place, and where they count."""
    rows, roi = part.shown(pixels)
    whole = joined(list(detector.scan(rows, roi=roi)))
    return whole.residual, whole.inside


def middle_of(detector: Detector, image: ImageRows, side: int = CROP) -> Pixels:
    """The middle of an image's region of interest, (H, W, C) as the detector takes it, at most `side` pixels a side."""
    left, top, right, bottom = find_roi(image, detector.config.images.roi).box
    left, top = left + max(0, right - left - side) // 2, top + max(0, bottom - top - side) // 2
    return detector.checked(image.cut((left, top, min(right, left + side), min(bottom, top + side))).pixels())

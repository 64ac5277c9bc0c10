"""The region of interest: where an image is trained on and scored. A box, a mask per image, or a brightness range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.core.settings import RegionOfInterest
from flawmap.imaging.formats import IMAGE_SUFFIXES
from flawmap.imaging.reading import ImageRows, luma, read_mask
from flawmap.imaging.rows import band_rows, map_bands

Box = tuple[int, int, int, int]
"""left, top, right, bottom; right and bottom are outside; pixels."""

RoiLabel = Literal["good", "defective", "outside"]

BRIGHTNESS_WINDOW = 31
"""Side of the box whose mean grey value is compared with a brightness range, pixels of the image."""


@dataclass(frozen=True)
class Roi:
    """Where an image counts.

    box: (left, top, right, bottom) around all of it, right and bottom are outside. mask: (H, W) bool of the whole
    image, True = inside; None: all of the box.
    """

    box: Box
    mask: Mask | None = None

    def rows(self, top: int, bottom: int, width: int) -> Mask:
        """(bottom - top, W) bool: rows of the image, True = inside."""
        if self.mask is not None:
            return self.mask[top:bottom]
        left, first, right, last = self.box
        inside = np.zeros((bottom - top, width), np.bool_)
        inside[max(0, first - top) : max(0, last - top), left:right] = True
        return inside

    def cut(self, box: Box) -> Roi | None:
        """The region within a part of the image, in that part's pixels; None: nothing of it lies there."""
        left, top, right, bottom = box
        if self.mask is not None:
            part = self.mask[top:bottom, left:right]
            return of_mask(part) if part.any() else None
        within = max(self.box[0], left), max(self.box[1], top), min(self.box[2], right), min(self.box[3], bottom)
        if within[0] >= within[2] or within[1] >= within[3]:
            return None
        return Roi((within[0] - left, within[1] - top, within[2] - left, within[3] - top))


def of_mask(mask: Mask) -> Roi:
    """The region of a mask (H, W) with at least one True."""
    return Roi(bounding_box(mask), mask)


def find_roi(image: ImageRows, settings: RegionOfInterest) -> Roi:
    """The region of interest of an image, in its own pixels, before any scaling.

    A brightness range reads the image once; the others need its size alone.

    Raises:
        InputError: a box that does not lie in the image, no mask or several for it, a mask of another size, or
            nothing inside.
    """
    name, shape = image.path or Path("the image"), (image.shape[0], image.shape[1])
    if settings.brightness is not None:
        mask, what = _bright(image, settings.brightness), "the brightness range"
    elif settings.masks is not None:
        if image.path is None:
            raise InputError(
                "the region of interest is a folder of masks, found by the image's name; pass the image as a file, or "
                "its path= beside it"
            )
        file = _mask_for(image.path, settings.masks)
        mask, what = read_mask(file, shape), f"the mask {file}"
    else:
        return Roi((0, 0, shape[1], shape[0]) if settings.box is None else box_within(name, shape, settings.box))
    if not mask.any():
        raise InputError(f"{what} leaves nothing of {name}; change the region of interest or leave the image out")
    return of_mask(mask)


def roi_mask_of_shape(path: Path, shape: tuple[int, int], region: RegionOfInterest) -> Mask | None:
    """`find_roi` without the pixels, as (H, W) bool: for all regions but a brightness range. None: everywhere."""
    if region.everywhere:
        return None
    assert region.brightness is None, "a brightness range needs the pixels"
    return find_roi(ImageRows((*shape, 1), lambda: iter(()), path=path), region).rows(0, *shape)


def box_within(path: Path, shape: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom), which must lie in an image of (H, W). InputError if it does not."""
    left, top, right, bottom = box
    if right > shape[1] or bottom > shape[0]:
        raise InputError(
            f"the box {left},{top},{right},{bottom} (left, top, right, bottom) does not lie in {path}, "
            f"which is {shape[1]} x {shape[0]}"
        )
    return box


def label_in_roi(label: Literal["good", "defective"], mask: Mask | None, inside: Mask | None) -> RoiLabel:
    """What an image counts as within its region: one whose defects all lie outside is neither good nor defective."""
    if label == "defective" and mask is not None and inside is not None and mask.any() and not (mask & inside).any():
        return "outside"
    return label


def bounding_box(inside: Mask) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the True pixels, of which there is one at least; right and bottom are outside."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _bright(image: ImageRows, bounds: tuple[float, float]) -> Mask:
    height, width, _ = image.shape
    grey = (luma(band) for band in image.bands())
    window = (BRIGHTNESS_WINDOW, BRIGHTNESS_WINDOW)
    means = map_bands(grey, height, band_rows(width), BRIGHTNESS_WINDOW // 2, lambda rows: cv2.blur(rows, window))
    slack = 1e-6  # the mean of a white area may come out a rounding error above 1
    return np.concatenate([(mean >= bounds[0] - slack) & (mean <= bounds[1] + slack) for mean in means])


def _mask_for(path: Path, folder: Path) -> Path:
    """The folder's mask with the image's name; first beside folders named like the image's own, then directly in it.

    Test images of different kinds often share names (bent/000.png, glue/000.png), so the folders' names count too.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of masks: {folder}")
    parents = path.absolute().parts[:-1]
    names = [path.stem + spelt for suffix in IMAGE_SUFFIXES for spelt in (suffix, suffix.upper())]
    for depth in (2, 1, 0):
        place = folder.joinpath(*parents[len(parents) - depth :])
        found = sorted({place / name for name in names if (place / name).is_file()})
        if len(found) > 1:
            raise InputError(f"{path} has several masks: {', '.join(str(mask) for mask in found)}; leave one")
        if found:
            return found[0]
    raise InputError(
        f"no mask for {path} in {folder}; a mask has its image's name and one of {', '.join(IMAGE_SUFFIXES)}"
    )

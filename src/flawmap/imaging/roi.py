"""The region of interest: where an image is trained on, scored and judged. A box, a mask per image, or a brightness."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.core.settings import RegionOfInterest
from flawmap.imaging.codecs import IMAGE_SUFFIXES
from flawmap.imaging.reading import Pixels, luma, read_mask

RoiLabel = Literal["good", "defective", "outside"]

BRIGHTNESS_WINDOW = 31
"""Side of the box whose mean grey value is compared with a brightness range, pixels of the image."""


def roi_mask(path: Path, pixels: Pixels, region: RegionOfInterest) -> Mask | None:
    """Where the image counts, in its own pixels, before any scaling; None: everywhere.

    Args:
        path: names the image, in messages and among a folder's masks. pixels: (H, W, C) in [0, 1].
    Returns:
        (H, W) bool, True = inside; at least one pixel is.
    Raises:
        InputError: a box that does not lie in the image, no mask or several for it, a mask of another size, or
            nothing inside.
    """
    if region.brightness is not None:
        return _some(path, _bright(pixels, region.brightness), "the brightness range")
    return roi_mask_of_shape(path, pixels.shape[:2], region)


def roi_mask_of_shape(path: Path, shape: tuple[int, int], region: RegionOfInterest) -> Mask | None:
    """`roi_mask` for the regions that need the image's (H, W) only, not its pixels: a box, or a mask per image."""
    if region.everywhere:
        return None
    if region.box is not None:
        left, top, right, bottom = box_within(path, shape, region.box)
        inside = np.zeros(shape, dtype=np.bool_)
        inside[top:bottom, left:right] = True
        return inside
    assert region.masks is not None, "a brightness range needs the pixels"
    mask = _mask_for(path, region.masks)
    return _some(path, read_mask(mask, shape), f"the mask {mask}")


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


def _bright(pixels: Pixels, bounds: tuple[float, float]) -> Mask:
    mean = cv2.blur(luma(pixels), (BRIGHTNESS_WINDOW, BRIGHTNESS_WINDOW))
    slack = 1e-6  # the mean of a white area may come out a rounding error above 1
    return np.asarray((mean >= bounds[0] - slack) & (mean <= bounds[1] + slack))


def _mask_for(path: Path, folder: Path) -> Path:
    """The folder's mask with the image's name; first beside folders named like the image's own, then directly in it.

    Test images of different kinds often share names (bent/000.png, glue/000.png), so the folders' names count too.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of masks: {folder}")
    parents = path.absolute().parts[:-1]
    for depth in (2, 1, 0):
        place = folder.joinpath(*parents[len(parents) - depth :])
        found = sorted(
            {place / (path.stem + suffix) for suffix in _spellings() if (place / (path.stem + suffix)).is_file()}
        )
        if len(found) > 1:
            raise InputError(f"{path} has several masks: {', '.join(str(mask) for mask in found)}; leave one")
        if found:
            return found[0]
    raise InputError(
        f"no mask for {path} in {folder}; a mask has its image's name and one of {', '.join(IMAGE_SUFFIXES)}"
    )


def _spellings() -> tuple[str, ...]:
    return (*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES))


def _some(path: Path, inside: Mask, what: str) -> Mask:
    if not inside.any():
        raise InputError(f"{what} leaves nothing of {path}; change the region of interest or leave the image out")
    return inside

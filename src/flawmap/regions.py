"""From a residual map to regions: opening, threshold, connected components.

A flat opening commutes with thresholding, so one grey-value opening of the map gives the opened mask at every
threshold: the map is opened once, and thresholds may move afterwards at no cost.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flawmap.checks import finite, shape_text
from flawmap.errors import InputError
from flawmap.records import FloatMap, Mask, Region


def disk(diameter: int) -> NDArray[np.uint8]:
    """The circle of a diameter on the pixel grid, as 0 and 1.

    A pixel belongs to it when its centre lies within diameter / 2 of the circle's centre. The circle's centre is the
    centre of a pixel for odd diameters and a corner between four pixels for even ones; 4 is 4x4 without its corners.

    Args:
        diameter: pixels, at least 1.
    Returns:
        (diameter, diameter) uint8.
    Raises:
        InputError: the diameter is below 1.
    """
    if diameter < 1:
        raise InputError(f"diameter must be at least 1 pixel, got {diameter}")
    twice = 2 * np.arange(diameter) - (diameter - 1)  # offsets in half pixels: the test stays in whole numbers
    return (twice[:, None] ** 2 + twice[None, :] ** 2 <= diameter**2).astype(np.uint8)


def opened(residual: FloatMap, diameter: int) -> FloatMap:
    """Grey-value opening of a residual map with a circle: flaws into which the circle does not fit vanish.

    At every pixel the largest value that a circle which covers it holds throughout. Circles may reach over the border
    as long as their centre lies in the image; what lies outside is ignored. Never above the map, the same when
    repeated or done on a turned or mirrored map, and `opened(m, d) > t` is the binary opening of `m > t` at every t.

    Args:
        residual: (H, W) float32, finite.
        diameter: of the circle, pixels; 0 and 1 leave the map as it is (a copy).
    Returns:
        (H, W) float32.
    Raises:
        InputError: not (H, W), not floating point, not finite, or a negative diameter.
    References:
        Steger, Ulrich, Wiedemann 2018, Machine Vision Algorithms and Applications; the circle of diameter 4 is that
        of Bergmann et al. 2019, arXiv:1807.02011.
    """
    _check_map(residual, "residual")
    if diameter < 0:
        raise InputError(f"diameter must be 0 (no opening) or more pixels, got {diameter}")
    image = np.array(residual, dtype=np.float32, order="C")
    if diameter <= 1 or image.size == 0:
        return image
    height, width = image.shape
    circle = disk(diameter)
    # Between n pixels there are n + 1 corners where an even circle's centre may lie, borders included: one more row
    # and column make room for them. OpenCV ignores what lies outside, and so must this padding: it holds infinity.
    even = 1 - diameter % 2
    room = cv2.copyMakeBorder(image, 0, even, 0, even, cv2.BORDER_CONSTANT, value=[np.inf])
    # cv2.MORPH_OPEN dilates with the anchor of the erosion, which for even circles moves the result by a pixel.
    anchor, mirrored = diameter // 2, diameter - 1 - diameter // 2
    eroded = cv2.erode(room, circle, anchor=(anchor, anchor))
    dilated = cv2.dilate(eroded, circle, anchor=(mirrored, mirrored))
    return np.ascontiguousarray(dilated[:height, :width], dtype=np.float32)


def threshold_mask(opened: FloatMap, threshold: float, inside: Mask | None = None) -> Mask:
    """The pixels strictly above a threshold, within a region of interest.

    Strict for every threshold, also for one between two float32 values, so a mask is empty exactly when the largest
    value in it does not exceed the threshold.

    Args:
        opened: (H, W) float32, finite.
        threshold: in the map's unit; infinity gives an empty mask.
        inside: (H, W) bool, True = inspected; None: everywhere.
    Returns:
        (H, W) bool.
    Raises:
        InputError: a shape, a type, or a NaN.
    """
    _check_map(opened, "opened")
    if np.isnan(threshold):
        raise InputError("threshold must be a number, got NaN")
    with np.errstate(over="ignore"):
        limit = np.float32(threshold)
    if float(limit) > threshold:  # rounded upwards: the next value below gives the same answer as the exact threshold
        limit = np.nextafter(limit, np.float32(-np.inf))
    mask: Mask = opened > limit
    if inside is not None:
        check_mask(inside, opened.shape, "inside")
        mask &= inside
    return mask


def find_regions(mask: Mask, opened_residual: FloatMap) -> tuple[Region, ...]:
    """The 8-connected components of a mask, by falling peak; equal peaks from the top, then from the left.

    Args:
        mask: (H, W) bool.
        opened_residual: (H, W) float32, finite: where peak and mean are taken.
    Returns:
        One Region per component; () for an empty mask.
    Raises:
        InputError: a shape, a type, or a NaN.
    """
    _check_map(opened_residual, "opened_residual")
    check_mask(mask, opened_residual.shape, "mask")
    if not mask.any():
        return ()
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    where = np.flatnonzero(labels)
    owner = np.asarray(labels, dtype=np.int32).ravel()[where]
    values = opened_residual.ravel()[where]
    peaks = np.full(count, -np.inf, dtype=np.float32)
    np.maximum.at(peaks, owner, values)
    sums = np.bincount(owner, weights=values, minlength=count)
    areas = stats[:, cv2.CC_STAT_AREA]
    order = np.lexsort((stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP], -peaks))
    return tuple(
        Region(
            area=int(areas[index]),
            box=(int(stats[index, 0]), int(stats[index, 1]), int(stats[index, 2]), int(stats[index, 3])),
            centroid=(float(centroids[index, 0]), float(centroids[index, 1])),
            peak=float(peaks[index]),
            mean=float(sums[index] / areas[index]),
        )
        for index in order
        if index != 0  # 0 is the background
    )


def label(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """The 8-connected components of a (H, W) bool mask: (H, W) int32 with 0 outside and 1 to n inside, and n."""
    check_mask(mask, mask.shape, "mask")
    if mask.size == 0:
        return np.zeros(mask.shape, dtype=np.int32), 0
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(labels, dtype=np.int32), count - 1


def check_mask(mask: Mask, shape: tuple[int, ...], name: str) -> None:
    """Refuse anything but a bool array of a (H, W) shape."""
    if mask.dtype != np.bool_:
        raise InputError(f"{name} must be bool, got {mask.dtype}; pass {name} > 0 if non-zero means True")
    if mask.ndim != 2 or mask.shape != shape:
        raise InputError(f"{name} must be (H, W) = {shape_text(shape)}, got {shape_text(mask.shape)}")


def _check_map(values: FloatMap, name: str) -> None:
    if values.ndim != 2:
        raise InputError(f"{name} must be (H, W), got {shape_text(values.shape)}")
    if values.dtype != np.float32:
        raise InputError(f"{name} must be float32, got {values.dtype}; pass {name}.astype(np.float32)")
    finite(values, name)

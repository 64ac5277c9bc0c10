"""Sizes: from the pixels of a file to those that are worked on, and back. By area down, bilinear up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawmap.core.records import FloatMap
from flawmap.imaging.reading import Pixels
from flawmap.imaging.rows import RowBuffer, band_rows, windows


def working_size(height: int, width: int, scale: float | tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which an image is worked: `scale` is a factor or (width, height); at least one pixel."""
    if isinstance(scale, tuple):
        return scale[1], scale[0]
    return max(1, round(height * scale)), max(1, round(width * scale))


def to_working_size(image: Pixels, scale: float | tuple[int, int]) -> Pixels:
    """An (H, W, C) image at the size it is worked at: by area where a side shrinks, bilinear where it grows."""
    return _resized(image, working_size(image.shape[0], image.shape[1], scale))


def scale_of_part(
    scale: float | tuple[int, int], whole: tuple[int, int], part: tuple[int, int]
) -> float | tuple[int, int]:
    """The scale of a part, (h, w), cut out of an image, (H, W), that as a whole is worked at `scale`."""
    if not isinstance(scale, tuple):
        return scale
    return max(1, round(scale[0] * part[1] / whole[1])), max(1, round(scale[1] * part[0] / whole[0]))


def to_size(values: FloatMap, shape: tuple[int, int]) -> FloatMap:
    """A (h, w) map brought back to the image's own (H, W): bilinear where it grows, by area where it shrinks."""
    return _resized(values[:, :, None], shape)[:, :, 0]


def _resized(image: Pixels, shape: tuple[int, int]) -> Pixels:
    """One side after the other where one shrinks and the other grows: OpenCV averages by area only if both shrink."""
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    smaller = min(height, shape[0]), min(width, shape[1])
    sized: NDArray[Any] = image
    for target, how in ((smaller, cv2.INTER_AREA), (shape, cv2.INTER_LINEAR)):
        if sized.shape[:2] != target:
            sized = cv2.resize(sized, (target[1], target[0]), interpolation=how).reshape(*target, -1)
    # Means of values in a range lie in it, but for rounding.
    clipped: Pixels = np.clip(sized, image.min(), image.max()).astype(np.float32, copy=False)
    return clipped


def resized_bands(
    blocks: Iterable[NDArray[np.float32]], size: tuple[int, int], target: tuple[int, int]
) -> Iterator[NDArray[np.float32]]:
    """An image (H, W, C) that comes as blocks of rows, brought to another size as `to_working_size` and `to_size` do.

    Args:
        blocks: (h, W, C) float32. size: (H, W). target: (height, width) to come to.
    """
    if size == target:
        yield from blocks
        return
    source = RowBuffer(blocks)
    rows = max(1, min(band_rows(target[1]), band_rows(size[1]) * target[0] // size[0]))
    for window in windows(target[0], rows, 0):
        first, weights = _row_weights(size[0], target[0], window.first, window.last)
        part = source.take(first, first + weights.shape[1])
        wide = _resized(part, (len(part), target[1]))
        sized = np.tensordot(weights, wide, axes=1)
        yield np.clip(sized, wide.min(), wide.max())  # as in `_resized`


_LEAST_SHARE = 1e-3  # of a pixel: OpenCV leaves out smaller ones when it averages by area


def _row_weights(height: int, target: int, top: int, bottom: int) -> tuple[int, NDArray[np.float32]]:
    """The first source row and the weights (bottom - top, n) of it and those below in rows `top` to `bottom`."""
    scale = height / target
    places = np.arange(top, bottom, dtype=np.float64)
    if target <= height:
        starts, ends = places * scale, np.minimum((places + 1) * scale, height)
        first, last = int(starts[0] + 1e-9), min(height, math.ceil(ends[-1] - 1e-9))
        rows = np.arange(first, last)
        shares = np.minimum(ends[:, None], rows + 1) - np.maximum(starts[:, None], rows)
        shares[shares <= _LEAST_SHARE] = 0
        return first, (shares / (ends - starts)[:, None]).astype(np.float32)
    centres = np.clip((places + 0.5) * scale - 0.5, 0, height - 1)
    above = np.minimum(centres.astype(np.int64), max(0, height - 2))
    first, last = int(above[0]), min(height, int(above[-1]) + 2)
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(first, last)), 0, 1)
    return first, weights.astype(np.float32)

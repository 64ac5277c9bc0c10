"""The one resize: from an image's own pixels to the working scale and back, by bands of rows.

Every side is averaged by area where it shrinks and interpolated linearly where it grows. Training, calibration and
scoring all use it, so they agree however an image arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from flawmap.core.records import FloatMap
from flawmap.imaging.rows import RowBuffer, band_rows, windows

Image = NDArray[np.float32]
"""(H, W, C) float32."""


def working_size(height: int, width: int, scale: float | tuple[int, int]) -> tuple[int, int]:
    """(height, width) at the working scale, which is a factor or (width, height); at least one pixel."""
    if isinstance(scale, tuple):
        return scale[1], scale[0]
    return max(1, round(height * scale)), max(1, round(width * scale))


def scale_of_part(
    scale: float | tuple[int, int], whole: tuple[int, int], part: tuple[int, int]
) -> float | tuple[int, int]:
    """The scale of a part, (h, w), cut out of an image, (H, W), whose own working scale is `scale`."""
    if not isinstance(scale, tuple):
        return scale
    return max(1, round(scale[0] * part[1] / whole[1])), max(1, round(scale[1] * part[0] / whole[0]))


def to_size(values: FloatMap, shape: tuple[int, int]) -> FloatMap:
    """A (h, w) map at another size, (H, W)."""
    return resized(values[:, :, None], shape)[:, :, 0]


def resized(image: Image, shape: tuple[int, int]) -> Image:
    """An (H, W, C) image at another size: `resized_bands` in one piece."""
    size = image.shape[0], image.shape[1]
    return image if size == shape else np.concatenate(list(resized_bands([image], size, shape)))


def resized_bands(blocks: Iterable[Image], size: tuple[int, int], target: tuple[int, int]) -> Iterator[Image]:
    """An image (H, W, C) that arrives as blocks of rows, at another size.

    Args:
        blocks: (h, W, C) float32. size: (H, W). target: the new (height, width).
    """
    if size == target:
        yield from blocks
        return
    source = RowBuffer(blocks)
    rows = max(1, min(band_rows(target[1]), band_rows(size[1]) * target[0] // size[0]))
    for window in windows(target[0], rows, 0):
        starts, weights = _row_weights(size[0], target[0], window.first, window.last)
        part = source.take(int(starts[0]), min(size[0], int(starts[-1]) + weights.shape[1]))
        wide = _columns(part, target[1])
        yield wide if size[0] == target[0] else _rows(wide, starts - starts[0], weights)


def _rows(wide: Image, starts: NDArray[np.int64], weights: NDArray[np.float64]) -> Image:
    """Weighted means of rows, one after the other in float64: no bit depends on how many are computed together."""
    total = np.zeros((len(starts), *wide.shape[1:]))
    for place, share in enumerate(weights.T):
        total += share[:, None, None] * wide[np.minimum(starts + place, len(wide) - 1)]
    return total.astype(np.float32)


def _columns(rows: Image, width: int) -> Image:
    """Rows (h, W, C) with another number of columns."""
    if rows.shape[1] == width:
        return rows
    how = cv2.INTER_AREA if width < rows.shape[1] else cv2.INTER_LINEAR
    sized = cv2.resize(rows, (width, len(rows)), interpolation=how).reshape(len(rows), width, -1)
    bounds = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)  # a mean lies in them, but for rounding
    return np.clip(sized, *bounds).astype(np.float32, copy=False)


_LEAST_SHARE = 1e-3  # of a pixel: smaller shares are left out of an average by area, as OpenCV does for columns


def _row_weights(height: int, target: int, top: int, bottom: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For rows `top` to `bottom`, (n,) each one's first source row, and (n, k) the weights of it and of those below."""
    scale = height / target
    places = np.arange(top, bottom, dtype=np.float64)
    if target <= height:
        begins, ends = places * scale, np.minimum((places + 1) * scale, height)
        starts = (begins + 1e-9).astype(np.int64)
        sources = starts[:, None] + np.arange(int((np.ceil(ends - 1e-9) - starts).max()))
        shares = np.minimum(ends[:, None], sources + 1) - np.maximum(begins[:, None], sources)
        shares[shares <= _LEAST_SHARE] = 0
        return starts, shares / shares.sum(axis=1, keepdims=True)
    centres = np.clip((places + 0.5) * scale - 0.5, 0, height - 1)
    starts = np.minimum(centres.astype(np.int64), max(0, height - 2))
    return starts, np.clip(1 - np.abs(centres[:, None] - starts[:, None] - np.arange(2)), 0, 1)

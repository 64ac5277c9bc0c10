"""Weighted window means along both axes of images, as matrix products, on arrays of either library.

A separable window is a product with a banded matrix on each side. The matrix is mostly zeros, so a side is taken tile
by tile: each tile of outputs is a product with the few inputs that reach it. With the rows of all images first, both
sides are products of two matrices that lie in memory as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import Array, converted, device_of, namespace_of

Border = Literal["valid", "reflect"]
Floats = NDArray[np.float64]

TILES = {"cpu": 16}  # outputs of a tile along a side, at least the window's: small ones leave out most zeros
TILE = 256  # on other devices, where many kernels cost more than multiplying by zeros


def gaussian_window(size: int, sigma: float) -> tuple[float, ...]:
    """The `size` weights (odd) of a Gaussian window along one axis, summing to 1."""
    distance = np.arange(size, dtype=np.float64) - size // 2
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return tuple((weights / weights.sum()).tolist())


def window_means(stack: Array, weights: tuple[float, ...], border: Border, adjoint: bool = False) -> Array:
    """Weighted window means along rows and columns of images (H, ..., W), whose rows come first. Not differentiable.

    Args:
        weights: K of them, K odd, summing to 1, of the window along each axis.
        border: `reflect` keeps the size, and needs sides above K / 2; `valid` gives (H - K + 1, ..., W - K + 1).
        adjoint: take the transpose of this linear map instead.
    """
    xp, device = namespace_of(stack), device_of(stack)
    rows, *others, columns = stack.shape
    down, across = (_tiles(side, weights, border, adjoint, stack.dtype, device) for side in (rows, columns))
    lines = stack.reshape(-1, columns)
    narrow = xp.empty((len(lines), across[-1].stop), dtype=stack.dtype, device=device)
    for start, stop, first, last, band in across:
        xp.matmul(lines[:, first:last], band.T, out=narrow[:, start:stop])
    narrow = narrow.reshape(rows, -1)
    means = xp.empty((down[-1].stop, narrow.shape[1]), dtype=stack.dtype, device=device)
    for start, stop, first, last, band in down:
        xp.matmul(band, narrow[first:last], out=means[start:stop])
    return means.reshape(len(means), *others, -1)


class _Tile(NamedTuple):
    """Outputs `start` to `stop` of a side: a band (outputs, inputs) times inputs `first` to `last`; ends exclusive."""

    start: int
    stop: int
    first: int
    last: int
    band: Array


@lru_cache(maxsize=64)
def _tiles(  # noqa: PLR0917 - a cache's key
    side: int, weights: tuple[float, ...], border: Border, adjoint: bool, dtype: Any, device: Any
) -> tuple[_Tile, ...]:
    size, kernel = len(weights), np.array(weights)
    reach = size // 2 if border == "reflect" else size - 1
    outputs = side if border == "reflect" else side + reach * (1 if adjoint else -1)
    full = outputs if adjoint else side  # before the blur
    step = max(TILES.get(getattr(device, "type", device), TILE), size)
    tiles: list[_Tile] = []
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        first = max(0, start - (reach if adjoint or border == "reflect" else 0))
        last = min(side, stop + (0 if adjoint and border == "valid" else reach))
        if adjoint:
            band = _rows(first, last, kernel, full, border)[:, start:stop].T
        else:
            band = _rows(start, stop, kernel, full, border)[:, first:last]
        tiles.append(_Tile(start, stop, first, last, converted(band, dtype, device)))
    return tuple(tiles)


def _rows(start: int, stop: int, kernel: Floats, side: int, border: Border) -> Floats:
    """Rows of the banded matrix, (stop - start, side); a reflecting border folds the window back inside."""
    size = len(kernel)
    columns = np.arange(start, stop)[:, None] + np.arange(size) - (size // 2 if border == "reflect" else 0)
    columns = np.abs(columns)
    columns = np.where(columns >= side, 2 * (side - 1) - columns, columns)
    rows = np.zeros((stop - start, side))
    np.add.at(rows, (np.arange(stop - start)[:, None], columns), kernel)
    return rows

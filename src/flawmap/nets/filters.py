"""Weighted window means along both axes of images, as matrix products; differentiable.

A separable window is a product with a banded matrix on each side. The matrix is mostly zeros, so a side is taken tile
by tile: each tile of outputs is a product with the few inputs that reach it. With the rows of all images first, both
sides are products of two matrices that lie in memory as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Border = Literal["valid", "reflect"]

TILES = {"cpu": 16}  # outputs of a tile along a side, at least the window's: small ones leave out most zeros
TILE = 256  # on other devices, where many kernels cost more than multiplying by zeros


def gaussian_weights(size: int, sigma: float) -> Tensor:
    """The `size` weights (odd) of a Gaussian window along one axis, float64, summing to 1."""
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum()


def blur(stack: Tensor, weights: Tensor, border: Border) -> Tensor:
    """Weighted window means along rows and columns of images (H, ..., W), whose rows come first.

    Args:
        weights: (K,), on the CPU, K odd, summing to 1, of the window along each axis.
        border: `reflect` keeps the size, and needs sides above K / 2; `valid` gives (H - K + 1, ..., W - K + 1).
    """
    blurred: Tensor = _Blur.apply(stack, tuple(weights.tolist()), border, False)  # type: ignore[no-untyped-call]
    return blurred


def blur_adjoint(stack: Tensor, weights: Tensor, border: Border) -> Tensor:
    """The transpose of `blur` as a linear map: from the gradients by its result to those by its argument."""
    spread: Tensor = _Blur.apply(stack, tuple(weights.tolist()), border, True)  # type: ignore[no-untyped-call]
    return spread


class _Blur(torch.autograd.Function):
    """The blur or its adjoint: the gradient of each is the other."""

    @staticmethod
    def forward(ctx: Any, stack: Tensor, weights: tuple[float, ...], border: Border, adjoint: bool) -> Tensor:
        ctx.rest = weights, border, not adjoint
        return _both_axes(stack, weights, border, adjoint)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Blur.apply(gradients[0], *ctx.rest), None, None, None  # type: ignore[no-untyped-call]


def _both_axes(stack: Tensor, weights: tuple[float, ...], border: Border, adjoint: bool) -> Tensor:
    rows, *others, columns = stack.shape
    down, across = (_tiles(side, weights, border, adjoint, stack.dtype, stack.device) for side in (rows, columns))
    lines = stack.reshape(-1, columns)
    narrow = lines.new_empty((len(lines), across[-1].stop))
    for start, stop, first, last, band in across:
        torch.mm(lines[:, first:last], band.mT, out=narrow[:, start:stop])
    narrow = narrow.view(rows, -1)
    blurred = narrow.new_empty((down[-1].stop, narrow.shape[1]))
    for start, stop, first, last, band in down:
        torch.mm(band, narrow[first:last], out=blurred[start:stop])
    return blurred.view(len(blurred), *others, -1)


class _Tile(NamedTuple):
    """Outputs `start` to `stop` of a side: a band (outputs, inputs) times inputs `first` to `last`; ends exclusive."""

    start: int
    stop: int
    first: int
    last: int
    band: Tensor


@lru_cache(maxsize=64)
def _tiles(  # noqa: PLR0917 - a cache's key
    side: int, weights: tuple[float, ...], border: Border, adjoint: bool, dtype: torch.dtype, device: torch.device
) -> tuple[_Tile, ...]:
    size = len(weights)
    reach = size // 2 if border == "reflect" else size - 1
    outputs = side if border == "reflect" else side + reach * (1 if adjoint else -1)
    full = outputs if adjoint else side  # before the blur
    step = max(TILES.get(device.type, TILE), size)
    tiles: list[_Tile] = []
    with torch.inference_mode(False):  # kept for trainings too
        kernel = torch.tensor(weights, dtype=torch.float64)
        for start in range(0, outputs, step):
            stop = min(start + step, outputs)
            first = max(0, start - (reach if adjoint or border == "reflect" else 0))
            last = min(side, stop + (0 if adjoint and border == "valid" else reach))
            if adjoint:
                band = _rows(first, last, kernel, full, border)[:, start:stop].mT
            else:
                band = _rows(start, stop, kernel, full, border)[:, first:last]
            band = band.to(dtype).to(device).contiguous()  # MPS knows no float64
            tiles.append(_Tile(start, stop, first, last, band))
    return tuple(tiles)


def _rows(start: int, stop: int, kernel: Tensor, side: int, border: Border) -> Tensor:
    """Rows of the banded matrix, (stop - start, side); a reflecting border folds the window back inside."""
    size = len(kernel)
    columns = torch.arange(start, stop)[:, None] + torch.arange(size) - (size // 2 if border == "reflect" else 0)
    columns = columns.abs()
    columns = torch.where(columns >= side, 2 * (side - 1) - columns, columns)
    rows = torch.zeros(stop - start, side, dtype=kernel.dtype)
    return rows.scatter_add_(1, columns, kernel.expand(stop - start, size))

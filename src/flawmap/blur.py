"""Weighted window means along both axes of images, as matrix products; differentiable.

A separable window is a product with a banded matrix on each side: whole sides where they are short, tile by tile where
they are long.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Border = Literal["valid", "reflect"]

WHOLE_SIDE = 256  # sides up to this are blurred by one matrix; longer ones tile by tile
TILE = 96  # outputs of one tile along a side; a little above the window keeps the banded matrix dense


def gaussian_weights(size: int, sigma: float) -> Tensor:
    """The `size` weights (odd) of a Gaussian window along one axis, float64, summing to 1."""
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    return weights / weights.sum()


def blur(stack: Tensor, weights: Tensor, border: Border) -> Tensor:
    """Weighted window means of (..., H, W) along both axes.

    Args:
        weights: (K,), K odd, summing to 1, of the window along each axis.
        border: `reflect` keeps the size, and wants sides above K / 2; `valid` gives (..., H - K + 1, W - K + 1).
    """
    weights = weights.to(stack.dtype).to(stack.device)  # MPS knows no float64
    rows = _blur_last(stack, weights, border)
    return _blur_last(rows.mT, weights, border).mT


def _blur_last(stack: Tensor, weights: Tensor, border: Border) -> Tensor:
    """Window means along the last axis: one banded matrix, or for long sides one per tile."""
    side, size = stack.shape[-1], len(weights)
    if side <= WHOLE_SIDE:
        return stack @ _band(side, weights, border).mT
    if border == "reflect":
        flat = functional.pad(stack.reshape(-1, *stack.shape[-2:]), (size // 2, size // 2), mode="reflect")
        stack = flat.reshape(*stack.shape[:-1], side + size - 1)
    outputs = stack.shape[-1] - size + 1
    tiles = -(-outputs // TILE)
    padded = functional.pad(stack, (0, tiles * TILE + size - 1 - stack.shape[-1]))
    windows = padded.unfold(-1, TILE + size - 1, TILE)  # (..., H, tiles, TILE + K - 1)
    blurred = windows @ _band(TILE + size - 1, weights, "valid").mT
    return blurred.flatten(-2)[..., :outputs]


def _band(side: int, weights: Tensor, border: Border) -> Tensor:
    """The matrix (outputs, side) whose rows hold the window's weights; a reflecting border folds them back inside."""
    size = len(weights)
    half = size // 2 if border == "reflect" else 0
    outputs = side if border == "reflect" else side - size + 1
    columns = torch.arange(outputs, device=weights.device)[:, None] + torch.arange(size, device=weights.device) - half
    columns = columns.abs()
    columns = torch.where(columns >= side, 2 * (side - 1) - columns, columns)
    band = torch.zeros(outputs, side, dtype=weights.dtype, device=weights.device)
    return band.scatter_add_(1, columns, weights.expand(outputs, size))

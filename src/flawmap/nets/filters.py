"""The window means of `flawmap.nets.window_means` on tensors, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flawmap.nets.window_means import Border, gaussian_window, window_means


def gaussian_weights(size: int, sigma: float) -> Tensor:
    """The `size` weights (odd) of a Gaussian window along one axis, float64, summing to 1."""
    return torch.tensor(gaussian_window(size, sigma), dtype=torch.float64)


def blur(stack: Tensor, weights: Tensor, border: Border) -> Tensor:
    """Weighted window means along rows and columns of images (H, ..., W), whose rows come first.

    Args:
        weights: (K,), on the CPU, K odd, summing to 1, of the window along each axis.
        border: `reflect` keeps the size, and needs sides above K / 2; `valid` gives (H - K + 1, ..., W - K + 1).
    """
    return differentiable_means(stack, tuple(weights.tolist()), border)


def differentiable_means(stack: Tensor, weights: tuple[float, ...], border: Border) -> Tensor:
    """`blur` by weights as numbers."""
    blurred: Tensor = _Blur.apply(stack, weights, border, False)  # type: ignore[no-untyped-call]
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
        found: Tensor = window_means(stack, weights, border, adjoint)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Blur.apply(gradients[0], *ctx.rest), None, None, None  # type: ignore[no-untyped-call]

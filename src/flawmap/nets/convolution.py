"""Convolutions that train quickly on a CPU: PyTorch's weights and values, gradients computed in other ways.

PyTorch's own take ten times as long as a product of matrices for the weights of a layer with few input channels, four
to ten times as long for a kernel that covers its whole input, and lose time on the bias. On other devices this is
`nn.Conv2d` itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

FEW_CHANNELS = 4  # of an input; up to them the products of columns beat PyTorch's kernel
BACKWARD = torch.ops.aten.convolution_backward

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, None, None]


class Convolution(nn.Conv2d):
    """(N, I, H, W) to (N, O, ...), as `nn.Conv2d` with square kernels and one stride for both axes."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        input, weight, bias = autocast_parts(self, input)
        stride, padding = self.stride[0], int(self.padding[0])
        output: Tensor = _Convolved.apply(input, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
        return output


def autocast_parts(layer: nn.Conv2d | nn.ConvTranspose2d, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What goes in, the weight and the bias, in the precision of autocast on a CPU."""
    assert layer.bias is not None
    parts = input, layer.weight, layer.bias
    if not torch.is_autocast_enabled("cpu"):
        return parts
    precision = torch.get_autocast_dtype("cpu")
    input, weight, bias = (tensor.to(precision) for tensor in parts)
    return input, weight, bias


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:  # noqa: PLR0917
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        ctx.covered = x.shape[-2:] == weight.shape[-2:] and padding == 0
        if ctx.covered:
            return functional.linear(pixels_first(x), pixels_first(weight), bias)[:, :, None, None]
        return functional.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        gradient = gradient.to(x.dtype)
        by_bias = gradient.sum(dim=(0, 2, 3)) if for_bias else None
        if ctx.covered:
            slopes = gradient.flatten(1)
            by_x = pixels_last(slopes @ pixels_first(weight), x) if for_x else None
            by_weight = pixels_last(slopes.mT @ pixels_first(x), weight) if for_weight else None
        elif not for_x and for_weight and x.shape[1] <= FEW_CHANNELS:
            by_x, by_weight = None, _by_columns(x, gradient, weight, stride, padding)
        else:
            geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
            by_x, by_weight, _ = BACKWARD(gradient, x, weight, None, *geometry, [for_x, for_weight, False])
        return by_x, by_weight, by_bias, None, None


def _by_columns(x: Tensor, gradient: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient by the weight: for each image, what the kernel sees at every place, times the gradient there."""
    columns = functional.unfold(x, weight.shape[-1], padding=padding, stride=stride)  # (N, I K K, places)
    slopes = gradient.permute(0, 2, 3, 1).reshape(len(x), -1, len(weight))
    return (columns @ slopes).sum(0).mT.reshape(weight.shape)


def pixels_first(images: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W C), without a copy where channels lie last."""
    return images.permute(0, 2, 3, 1).flatten(1)


def pixels_last(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse, with channels last. like: an image of the wanted (C, H, W)."""
    channels, height, width = like.shape[1:]
    return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)

"""Transposed convolutions that are quick on a CPU: PyTorch's weights and values, computed in other ways.

PyTorch's own spend half of their backward time on the bias, and most of their forward time on layers with few output
channels or a single input pixel. On other devices this is `nn.ConvTranspose2d` itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from flawmap.nets.convolution import autocast_parts, pixels_first, pixels_last

FEW_CHANNELS = 4  # of an output; up to them one product and sixteen shifted sums beat PyTorch's kernel
BACKWARD = torch.ops.aten.convolution_backward


class TransposedConvolution(nn.ConvTranspose2d):
    """(N, I, H, W) to (N, O, ...), as `nn.ConvTranspose2d` with square kernels and one stride for both axes.

    Groups, dilation, output padding and an output size are not taken.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        input, weight, bias = autocast_parts(self, input)
        output: Tensor = _Transposed.apply(input, weight, bias, self.stride[0], self.padding[0])  # type: ignore[no-untyped-call]
        return output


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:  # noqa: PLR0917
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        if x.shape[-2:] == (1, 1) and padding == 0:
            return _of_a_pixel(x, weight, bias)
        if weight.shape[1] <= FEW_CHANNELS and weight.shape[2:] == (4, 4) and (stride, padding) == (2, 1):
            return _few_channels(x, weight, bias)
        return functional.conv_transpose2d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        gradient = gradient.to(x.dtype)
        by_bias = gradient.sum(dim=(0, 2, 3)) if for_bias else None
        if x.shape[-2:] == (1, 1) and padding == 0:
            pixel, slopes = x.flatten(1), pixels_first(gradient)
            by_x = (slopes @ pixels_first(weight).mT)[:, :, None, None] if for_x else None
            by_weight = pixels_last(pixel.mT @ slopes, weight) if for_weight else None
        else:
            geometry = [stride] * 2, [padding] * 2, [1, 1], True, [0, 0], 1
            by_x, by_weight, _ = BACKWARD(gradient, x, weight, None, *geometry, [for_x, for_weight, False])
        return by_x, by_weight, by_bias, None, None


def _of_a_pixel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A latent vector (N, I, 1, 1) to (N, O, K, K): one product of matrices."""
    return pixels_last(x.flatten(1) @ pixels_first(weight), weight) + bias[:, None, None]


def _few_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Kernel 4, stride 2, padding 1: each input pixel adds to the 4x4 outputs around it; the sum is in float32.

    Output pixel 2i + k - 1 gets input pixel i's share k. So an even one, 2m, gets share 1 of pixel m and share 3 of the
    pixel before; an odd one, 2m + 1, share 2 of pixel m and share 0 of the pixel after.
    """
    count, inputs, height, width = x.shape
    channels = weight.shape[1]
    pixels = x.permute(0, 2, 3, 1).reshape(count, height * width, inputs)
    shares = (weight.reshape(inputs, -1).mT @ pixels.mT).view(count, channels, 4, 4, height, width)
    sums = torch.empty(2, 2, count, channels, height, width, dtype=torch.promote_types(x.dtype, torch.float32))
    for down in range(2):
        for across in range(2):
            total = sums[down, across].copy_(bias[:, None, None].expand(*sums.shape[2:]))
            for row, (to_row, from_row) in _SHARES[down].items():
                for column, (to_column, from_column) in _SHARES[across].items():
                    total[..., to_row, to_column] += shares[:, :, row, column, from_row, from_column]
    return sums.permute(2, 3, 4, 0, 5, 1).reshape(count, channels, 2 * height, 2 * width)


_ALL, _BUT_FIRST, _BUT_LAST = slice(None), slice(1, None), slice(None, -1)
_SHARES = (  # for an even and an odd output pixel: the rows or columns that a share goes to, and those it comes from
    {1: (_ALL, _ALL), 3: (_BUT_FIRST, _BUT_LAST)},
    {2: (_ALL, _ALL), 0: (_BUT_LAST, _BUT_FIRST)},
)

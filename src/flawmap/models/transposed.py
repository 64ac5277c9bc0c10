"""Transposed convolutions that are quick on a CPU: PyTorch's weights and values, by other routes.

PyTorch's own take half of their backward time over the bias, and most of their forward time where few channels come
out. On other devices this is `nn.ConvTranspose2d` itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

FEW_CHANNELS = 4  # of an output; up to them one product and sixteen shifted sums beat PyTorch's kernel
BACKWARD = torch.ops.aten.convolution_backward


class TransposedConvolution(nn.ConvTranspose2d):
    """(N, I, H, W) to (N, O, ...), as `nn.ConvTranspose2d` with square kernels and one stride for both axes."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight, bias = self.weight, self.bias
        if input.device.type != "cpu" or bias is None or torch.compiler.is_compiling():
            return super().forward(input, output_size)
        if torch.is_autocast_enabled("cpu"):
            precision = torch.get_autocast_dtype("cpu")
            input, weight, bias = (tensor.to(precision) for tensor in (input, weight, bias))
        output: Tensor = _Transposed.apply(input, weight, bias, self.stride[0], self.padding[0])  # type: ignore[no-untyped-call]
        return output


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:  # noqa: PLR0917
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
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
        by_x, by_weight, _ = BACKWARD(
            gradient,
            x,
            weight,
            None,
            [stride] * 2,
            [padding] * 2,
            [1, 1],
            True,
            [0, 0],
            1,
            [for_x, for_weight, False],
        )
        return by_x, by_weight, gradient.sum(dim=(0, 2, 3)) if for_bias else None, None, None


def _few_channels(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Kernel 4, stride 2, padding 1: what each input pixel adds to the 4x4 outputs around it, summed in float32.

    Output pixel 2i + k - 1 gets input pixel i's share k: an even and an odd row lie side by side, and k's upper bit
    moves on by one pair.
    """
    count, inputs, height, width = x.shape
    channels = weight.shape[1]
    shares = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ weight.reshape(inputs, -1)
    shares = shares.view(count, height, width, channels, 4, 4).permute(4, 5, 0, 3, 1, 2)
    sums = torch.empty(count, channels, height + 2, 2, width + 2, 2, dtype=torch.promote_types(x.dtype, torch.float32))
    sums[:] = bias[:, None, None, None, None]
    for row in range(4):
        for column in range(4):
            down, across = row // 2, column // 2
            sums[:, :, down : down + height, row % 2, across : across + width, column % 2] += shares[row, column]
    whole = sums.view(count, channels, 2 * height + 4, 2 * width + 4)
    return whole[:, :, 1 : 2 * height + 1, 1 : 2 * width + 1].contiguous()

"""Layers in a row as engines take them: what goes in, what comes out, and the ranges of whole numbers of 8 bits.

Engines get plain convolutions alone. A transposed one of table 1 is one, followed by a shuffle of pixels: engines have
quick kernels for these, and in 8 bits for no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.layer_table import spacing

Shape = tuple[int | str, ...]

Ranges = tuple[tuple[float, float], ...]
"""The lowest and the highest value of what goes into the first layer, then of what leaves each convolution but the
last."""


SHARES = tuple(step / 20 for step in range(20, 5, -1))  # of a range that are tried
SAMPLED = 200_000  # values that the choice is made by


class Layers(NamedTuple):
    """A network on its device, or a part of it: layers in a row. given, made: what goes in and comes out, with names
    for the sides of any length. ranges: where an engine computes in whole numbers of 8 bits."""

    layers: nn.Sequential
    given: tuple[str, Shape]
    made: tuple[str, Shape]
    ranges: Ranges | None = None


def all_layers(network: Autoencoder) -> Layers:
    """Patches to reconstructions. A network that gives a distribution decodes its mean, as its `forward` does."""
    (patch, channels, _), layers = network.shape, nn.Sequential(*network.encoder, *network.decoder)
    shape: Shape = ("N", channels, patch, patch)
    return Layers(layers, ("patches", shape), ("reconstructions", shape))


def half_layers(network: Autoencoder) -> tuple[Layers, Layers]:
    """Images to features, and patches' features to reconstructions."""
    *before, last = network.encoder
    assert isinstance(last, nn.Conv2d)
    patch, channels, _ = network.shape
    side, number = patch // spacing(network.shape), last.in_channels
    image = Layers(
        nn.Sequential(*before), ("image", (1, channels, "H", "W")), ("features", (1, number, "rows", "columns"))
    )
    rest = nn.Sequential(last, *network.decoder)
    ends = ("features", ("N", number, side, side)), ("reconstructions", ("N", channels, patch, patch))
    return image, Layers(rest, *ends)


def cast(network: Layers, precision: str) -> nn.Sequential:
    """The layers themselves, their weights cast once instead of at every batch; the detector runs them under
    autocast."""
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(getattr(torch, precision))
    return network.layers


@torch.no_grad()
def ranges_of(layers: Layers, samples: Sequence[Tensor]) -> Ranges:
    """The ranges of layers in float32 over samples, batches of what goes in."""
    *_, end = (place for place, layer in enumerate(layers.layers) if is_convolution(layer))
    values, found = list(samples), [best_range(samples)]
    for layer in list(layers.layers)[:end]:
        values = [layer(batch) for batch in values]
        if is_convolution(layer):
            found.append(best_range(values))
    return tuple(found)


def best_range(values: Sequence[Tensor]) -> tuple[float, float]:
    """The range of 8 bits that rounds values with the least mean squared error: theirs, or a part of it.

    It holds 0, which padding adds (Nagel et al. 2021, arXiv:2106.08295, section 3.1). SAMPLED values are enough.
    """
    every = torch.cat([batch.flatten() for batch in values])
    some = every[:: max(1, len(every) // SAMPLED)]
    low, high = min(0.0, float(every.min())), max(0.0, float(every.max()))
    tried = [(share * low, share * high) for share in SHARES]
    return min(tried, key=lambda limits: float(((rounded(some, limits) - some) ** 2).mean()))


def rounded(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Values as 8 bits of a range hold them."""
    scale, zero = scale_and_zero(limits)
    return ((values / scale).round().add(zero).clamp(0, 255) - zero) * scale


def scale_and_zero(limits: tuple[float, float]) -> tuple[float, int]:
    """The scale and the zero of a range of 8 bits: q stands for scale * (q - zero).

    >>> scale_and_zero((-31.875, 95.625))
    (0.5, 64)
    """
    low, high = limits
    scale = max((high - low) / 255, 1e-12)
    return scale, round(-low / scale)


def is_convolution(layer: nn.Module) -> bool:
    """A plain or a transposed one."""
    return isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)


@torch.no_grad()
def plain_layers(layers: Layers) -> list[nn.Module]:
    """The same function by plain convolutions: (N, C, H, W) to (N, O, ...), to rounding of float32.

    Activations come before shuffles, as their order does not matter and fewer layers lie between two convolutions.
    """
    plain: list[nn.Module] = []
    moves: list[nn.Module] = []
    for layer in layers.layers:
        if not is_convolution(layer):
            plain.append(layer)
            continue
        plain += moves
        convolution, moves = _plain(layer)
        plain.append(convolution)
    return plain + moves


def _plain(layer: nn.Module) -> tuple[nn.Conv2d, list[nn.Module]]:
    """A convolution of table 1 as a plain one, and what moves its pixels to their places."""
    if isinstance(layer, nn.Conv2d):
        return layer, []
    assert isinstance(layer, nn.ConvTranspose2d)
    weight, kernel, stride, padding = layer.weight, layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    inputs, outputs = weight.shape[:2]
    if padding == 0:  # of one pixel
        mixed = weight.permute(1, 2, 3, 0).reshape(-1, inputs, 1, 1)
        return _convolution(layer, mixed), [nn.PixelShuffle(kernel)]
    if stride == 1:
        return _convolution(layer, weight.flip(2, 3).transpose(0, 1), kernel - 1 - padding), []
    assert (kernel, stride, padding) == (4, 2, 1)
    # Output pixel 2i + k - 1 gets input pixel i's share k. Of input pixels p - 1 and p, output pixel 2p - 1 gets shares
    # 2 and 0, and output pixel 2p shares 3 and 1.
    shares = torch.tensor([[2, 0], [3, 1]])
    both = weight[:, :, shares][..., shares]  # (I, O, row of outputs, of inputs, column of outputs, of inputs)
    mixed = both.permute(1, 2, 4, 0, 3, 5).reshape(4 * outputs, inputs, 2, 2)
    return _convolution(layer, mixed, 1), [nn.PixelShuffle(2), nn.ZeroPad2d(-1)]


def _convolution(layer: nn.ConvTranspose2d, weight: Tensor, padding: int = 0) -> nn.Conv2d:
    """weight: (M * O, I, K, K), of which M outputs in a row have one bias."""
    assert layer.bias is not None
    outputs, inputs, kernel, _ = weight.shape
    plain = nn.Conv2d(inputs, outputs, kernel, padding=padding, device="meta")
    plain.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    plain.bias = nn.Parameter(layer.bias.repeat_interleave(outputs // len(layer.bias)), requires_grad=False)
    return plain

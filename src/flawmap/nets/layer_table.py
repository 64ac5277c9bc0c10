"""The layers of the autoencoder's encoder as numbers: table 1 of Bergmann et al. 2019, and what follows from it.

`flawmap.nets.autoencoder` shows the whole table and builds the network. No torch here: an exported network has the same
layers.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class NetworkShape(NamedTuple):
    """patch: P, pixels: 32, 64, 128 or 256. channels: C, 1 or 3. latent: D, dimensions."""

    patch: int = 128
    channels: int = 1
    latent: int = 100


class Layer(NamedTuple):
    channels: int
    kernel: int
    stride: int
    padding: int


TABLE_1 = (
    Layer(32, 4, 2, 1),
    Layer(32, 4, 2, 1),
    Layer(32, 3, 1, 1),
    Layer(64, 4, 2, 1),
    Layer(64, 3, 1, 1),
    Layer(128, 4, 2, 1),
    Layer(64, 3, 1, 1),
    Layer(32, 3, 1, 1),
)
FRONT_256 = Layer(32, 4, 2, 1)


def encoder_layers(shape: NetworkShape) -> tuple[Layer, ...]:
    """Table 1 for a patch side: the last layer's kernel covers the remaining side."""
    rows = (FRONT_256, *TABLE_1) if shape.patch == 256 else TABLE_1
    left = shape.patch
    for row in rows:
        left //= row.stride
    return (*rows, Layer(shape.latent, left, 1, 0))


def spacing(shape: NetworkShape) -> int:
    """Pixels between neighbouring features.

    >>> spacing(NetworkShape(patch=128)), spacing(NetworkShape(patch=256))
    (16, 32)
    """
    return math.prod(layer.stride for layer in encoder_layers(shape))


def reach(shape: NetworkShape) -> int:
    """Pixels beyond its own square, of side `spacing`, that a feature depends on.

    >>> reach(NetworkShape(patch=128))
    59
    """
    first = last = 0
    for layer in encoder_layers(shape)[-2::-1]:
        first = first * layer.stride - layer.padding
        last = last * layer.stride - layer.padding + layer.kernel - 1
    return max(-first, last + 1 - spacing(shape))

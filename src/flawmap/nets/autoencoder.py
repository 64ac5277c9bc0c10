"""The convolutional autoencoder of Bergmann et al. 2019, table 1, for 128x128 patches (kernel / stride / padding):

    Conv1  4/2/1  64x64x32        Conv4  4/2/1  16x16x64       Conv7  3/1/1  8x8x64
    Conv2  4/2/1  32x32x32        Conv5  3/1/1  16x16x64       Conv8  3/1/1  8x8x32
    Conv3  3/1/1  32x32x32        Conv6  4/2/1  8x8x128        Conv9  8/1/0  1x1xd

The decoder is the same read backwards, by transposed convolutions. LeakyReLU with slope 0.2 follows every layer but
the last of the encoder and the last of the decoder, which are linear: reconstructions may leave [0, 1] a little.

Other patch sides: the kernel of Conv9 covers the remaining side (2 for 32, 4 for 64); patches of 256 have one more
4/2/1 layer of 32 channels in front, as in MVTec AD (Bergmann et al. 2021, doi:10.1007/s11263-020-01400-4).

Shapes: N batch, C channels, P patch side, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.nets.convolution import Convolution
from flawmap.nets.layer_table import Layer, NetworkShape, encoder_layers
from flawmap.nets.transposed import TransposedConvolution

SLOPE = 0.2


class Drawn(NamedTuple):
    """reconstructions: (N, C, P, P). kl: the mean KL divergence of a patch, a scalar; None: the network has none."""

    reconstructions: Tensor
    kl: Tensor | None


class Autoencoder(nn.Module):
    """Patches (N, C, P, P) to a latent vector (N, D, 1, 1) and back to their reconstruction (N, C, P, P)."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        layers = encoder_layers(shape)
        inputs = [shape.channels, *(layer.channels for layer in layers[:-1])]
        self.encoder = nn.Sequential(*stack(Convolution, inputs, layers))
        mirrored = [layer._replace(channels=own) for layer, own in zip(layers, inputs, strict=True)][::-1]
        outputs = [layer.channels for layer in reversed(layers)]
        self.decoder = nn.Sequential(*stack(TransposedConvolution, outputs, mirrored))

    def forward(self, x_NCPP: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(x_NCPP))
        return reconstruction

    def features(self, x_NCHW: Tensor) -> Tensor:
        """(N, F, H / S, W / S): the layer before the latent vector. Images may be larger than patches, in steps of S,
        the `spacing`."""
        features: Tensor = self.encoder[:-1](x_NCHW)
        return features

    def decoded(self, features: Tensor) -> Tensor:
        """The reconstructions (N, C, P, P) of patches with these features (N, F, P / S, P / S)."""
        reconstruction: Tensor = self.decoder(self.encoder[-1](features))
        return reconstruction

    def draw(self, x_NCPP: Tensor, generator: torch.Generator) -> Drawn:
        """The reconstructions that training compares with the patches, from samples where the network has a
        distribution.

        generator: of the noise.
        """
        return Drawn(self(x_NCPP), None)


def stack(
    convolution: type[nn.Conv2d] | type[nn.ConvTranspose2d], inputs: Sequence[int], layers: Sequence[Layer]
) -> list[nn.Module]:
    """Convolutions with LeakyReLU between them, none after the last."""
    modules: list[nn.Module] = []
    for channels, layer in zip(inputs, layers, strict=True):
        modules.append(convolution(channels, layer.channels, layer.kernel, stride=layer.stride, padding=layer.padding))
        modules.append(nn.LeakyReLU(SLOPE, inplace=True))
    return modules[:-1]

"""Networks of adversarial training (Goodfellow et al. 2014, arXiv:1406.2661) on table 1's layers.

The generator is the autoencoder's decoder: latent vectors that are standard normal to patches. The discriminator is its
encoder without the last layer, T, and a head on what that leaves, S x S pixels (4 x 4 of a patch of 64):

    features  = LeakyReLU(conv1x1(T(x)))             64 channels, S x S
    logit     = convSxS(features)                    positive: the patch looks real

A joint discriminator judges pairs of a patch and a latent vector (Donahue et al. 2017, arXiv:1605.09782): the vector
enters the 1x1 convolution beside T(x), the same at every place.

There is no batch normalisation: a patch's score must not depend on the patches beside it, in training neither. Scaling
every layer on real patches at the start (`initialise_discriminator`) stands in for it.

Shapes: N batch, C channels, P patch side, D latent dimension, S side of the features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from flawmap.nets.autoencoder import SLOPE, Autoencoder, stack
from flawmap.nets.layer_table import NetworkShape, encoder_layers

FEATURES = 64  # channels of the features


class Discriminator(nn.Module):
    """Patches (N, C, P, P), and latent vectors (N, D, 1, 1) if it is joint, to logits (N,): positive for real ones."""

    def __init__(self, shape: NetworkShape, *, joint: bool = False) -> None:
        super().__init__()
        self.joint = joint
        *layers, last = encoder_layers(shape)
        inputs = [shape.channels, *(layer.channels for layer in layers[:-1])]
        self.trunk = nn.Sequential(*stack(nn.Conv2d, inputs, layers), nn.LeakyReLU(SLOPE, inplace=True))
        self.mix = nn.Conv2d(layers[-1].channels + joint * shape.latent, FEATURES, 1)
        self.verdict = nn.Conv2d(FEATURES, 1, last.kernel)

    def forward(self, x_NCPP: Tensor, z_ND11: Tensor | None = None) -> Tensor:
        logits: Tensor = self.verdict(self.features(x_NCPP, z_ND11))
        return logits.float().flatten()

    def features(self, x_NCPP: Tensor, z_ND11: Tensor | None = None) -> Tensor:
        """(N, 64, S, S): the layer before the logit. z: given if it is joint."""
        return functional.leaky_relu(self.mix(self.seen(x_NCPP, z_ND11)), SLOPE)

    def seen(self, x_NCPP: Tensor, z_ND11: Tensor | None = None) -> Tensor:
        """What the 1x1 convolution gets."""
        maps: Tensor = self.trunk(x_NCPP)
        assert self.joint == (z_ND11 is not None)
        if z_ND11 is None:
            return maps
        return torch.cat((maps, z_ND11.to(maps.dtype).expand(-1, -1, *maps.shape[2:])), dim=1)


class GenerativePair(nn.Module):
    """A generator and its discriminator: latent vectors (N, D, 1, 1) to patches (N, C, P, P)."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.decoder = Autoencoder(shape).decoder
        self.discriminator = Discriminator(shape)

    def forward(self, z_ND11: Tensor) -> Tensor:
        patches: Tensor = self.decoder(z_ND11)
        return patches


class AdversarialAutoencoder(Autoencoder):
    """An autoencoder with a discriminator, which training needs and reconstructing does not."""

    def __init__(self, shape: NetworkShape, *, joint: bool = False) -> None:
        super().__init__(shape)
        self.discriminator = Discriminator(shape, joint=joint)

    def matched(self, x_NCPP: Tensor, z_ND11: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions (N, C, P, P), and the distances (N, P, P) of their features from those of the patches.

        z: the latent vectors of the patches.
        """
        reconstructions, known = self.decoder(z_ND11), z_ND11 if self.discriminator.joint else None
        ours, theirs = (self.discriminator.features(batch, known) for batch in (x_NCPP, reconstructions))
        return reconstructions, feature_distance(ours, theirs, self.shape.patch)


def feature_distance(ours: Tensor, theirs: Tensor, side: int) -> Tensor:
    """(N, side, side): the absolute difference of features (N, F, S, S), mean over channels, each over its square of
    pixels; so its mean over a patch is the mean difference of the patch's features."""
    distance = (ours.float() - theirs.float()).abs().mean(dim=1, keepdim=True)
    return functional.interpolate(distance, size=(side, side), mode="nearest")[:, 0]

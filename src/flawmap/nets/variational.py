"""The variational autoencoder (Kingma and Welling 2014, arXiv:1312.6114) on table 1's layers.

The encoder gives a distribution, Q(z|x) = N(mean, diag exp(log-variance)), instead of a point. The plain encoder's
output is the mean; a second convolution beside its last one, of the same kernel, gives the log-variances. Together
they are one last convolution of 2D channels. The decoder is the plain one.

The network also keeps the mean squared error of its reconstructions of good patches. A pixel's probability needs it:
the spread of decoded samples shows how uncertain the decoder is, not how well it reconstructs.

Shapes: N batch, S samples, C channels, P patch side, D latent dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from flawmap.nets.autoencoder import Autoencoder, Drawn
from flawmap.nets.layer_table import NetworkShape, encoder_layers

LOG_VARIANCE = (-10.0, 4.0)  # limits: standard deviations of 0.007 to 7.4 times the prior's, so that exp stays finite
MEMORY = 0.99  # fraction of the noise that a step keeps


class Posterior(NamedTuple):
    """Q(z|x), a Gaussian with independent dimensions. mean, log_variance: (N, D, 1, 1) float32."""

    mean: Tensor
    log_variance: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """The latent vectors for standard normal noise, whose shape must broadcast to the mean's."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


class VariationalAutoencoder(Autoencoder):
    """Patches (N, C, P, P) to a distribution over latent vectors, and samples of it to reconstructions.

    `forward` decodes the mean. noise: a buffer, the variance of a pixel's error on good patches.
    """

    noise: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        *_, before, last = encoder_layers(shape)
        self.log_variance = nn.Conv2d(before.channels, shape.latent, last.kernel)
        self.register_buffer("noise", torch.ones(()))

    def encode(self, x_NCPP: Tensor) -> Posterior:
        """The distribution of each patch's latent vector, in single precision whatever the network runs in."""
        return self.posterior(self.features(x_NCPP))

    def posterior(self, features: Tensor) -> Posterior:
        """The same from the features of patches (N, F, P / S, P / S)."""
        mean, log_variance = self.encoder[-1](features).float(), self.log_variance(features).float()
        return Posterior(mean, log_variance.clamp(*LOG_VARIANCE))

    def draw(self, x_NCPP: Tensor, generator: torch.Generator) -> Drawn:
        """One sample's reconstruction, and the mean KL divergence of a patch, not yet weighted.

        In training the noise follows the error of these reconstructions: a mean over about the last hundred steps.
        """
        posterior = self.encode(x_NCPP)
        noise_ND11 = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
        reconstructions = self.decoder(posterior.at(noise_ND11))
        if self.training:
            with torch.no_grad():
                error = (reconstructions.float() - x_NCPP).square().mean()
                self.noise.lerp_(error, 1 - MEMORY)
        return Drawn(reconstructions, kl_to_prior(posterior).mean())

    def samples(self, posterior: Posterior, noise_SD: Tensor) -> Tensor:
        """(N, S, C, P, P) float32: every patch decoded once for each row of standard normal noise (S, D)."""
        # One at a time: a batch of N suits the caches, one of N x S does not.
        decoded = [self.decoder(posterior.at(noise_D[:, None, None])).float() for noise_D in noise_SD]
        return torch.stack(decoded, dim=1)


def kl_to_prior(posterior: Posterior) -> Tensor:
    """KL(Q(z|x) || N(0, I)) of each patch in nats, summed over the latent dimensions: (N,), 0 = the prior itself.

    References:
        Kingma and Welling 2014, arXiv:1312.6114, appendix B.
    """
    mean, log_variance = posterior
    # expm1, because exp(v) - 1 - v cancels where Q is close to the prior.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).flatten(1).sum(1)


def bhattacharyya(p: Posterior, q: Posterior) -> Tensor:
    """The Bhattacharyya distance of Gaussians, summed over the latent dimensions: (N,), 0 = the same distribution.

    p, q: (N, D, 1, 1), or 1 for N in one of both. For variances v, w and means m, n of a dimension:

        (m - n)^2 / (4 (v + w)) + log((v + w) / (2 sqrt(v w))) / 2

    References:
        Bhattacharyya 1943; Vasilev et al. 2018, arXiv:1806.02997, for its use in a latent space.
    """
    variances = p.log_variance.exp() + q.log_variance.exp()
    means = (p.mean - q.mean).square() / (4 * variances)
    # log cosh of half the difference of the logarithms, without the cancellation of close variances.
    spreads = 0.5 * torch.log1p(2 * torch.sinh((p.log_variance - q.log_variance) / 4).square())
    return (means + spreads).flatten(1).sum(1)


def fixed_noise(samples: int, latent: int) -> Tensor:
    """(S, D) standard normal numbers, the same at every call, so that scores depend on the image alone."""
    return torch.randn(samples, latent, generator=torch.Generator().manual_seed(0))

"""What a variational autoencoder's latent space says of a patch, and how little its samples vary. Nothing is mapped.

The residual map asks the decoder. Two scores of a whole patch do without it: how far its distribution is from the
prior (Soukup and Pinetz 2018), and how far its mean is from those of good patches, one of the distances that Vasilev
et al. 2018 compare; which distance is our choice. Both are larger for what is newer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flawmap.checks import shape_text
from flawmap.errors import InputError
from flawmap.methods import BATCH
from flawmap.models import VariationalAutoencoder, divergence, fixed_noise

SHRINKAGE = 0.05  # share of the covariance that is replaced by its mean variance: unused dimensions hardly vary


class LatentReference(NamedTuple):
    """Where the latent means of good patches lie. mean: (D,). factor: (D, D), Cholesky's, of their covariance."""

    mean: Tensor
    factor: Tensor


class LatentScores(NamedTuple):
    """Of N patches. divergence: (N,), nats. distance: (N,), in deviations of good patches. Larger is newer."""

    divergence: Tensor
    distance: Tensor

    def largest(self) -> tuple[float, float]:
        """Divergence and distance of the image that the patches cover: those of its newest patch."""
        return float(self.divergence.max()), float(self.distance.max())


class SampleSpread(NamedTuple):
    """Of N patches. deviation: (N,), of the decoded samples. error: (N,), of their mean. Both intensities.

    Roots of means over pixels and channels. ratio: (N,), the deviation by the error: small = samples hardly vary.
    """

    deviation: Tensor
    error: Tensor

    @property
    def ratio(self) -> Tensor:
        return self.deviation / self.error


def latent_reference(network: VariationalAutoencoder, patches: Tensor) -> LatentReference:
    """Mean and covariance of the latent means of good patches (N, C, P, P), the covariance shrunk to be regular.

    Raises:
        InputError: fewer than two patches, or all of them are alike to the network.
    """
    if len(patches) < 2:
        raise InputError(f"a covariance needs at least 2 patches, got {len(patches)}; draw some hundred good ones")
    means = _by_batch(patches, lambda batch: network.encode(batch).mean.flatten(1)).double()
    centred = means - means.mean(0)
    covariance = centred.T @ centred / (len(means) - 1)
    variance = covariance.diagonal().mean()
    if not variance > 0:
        raise InputError("good patches must differ, but the network sees all of them as one; check network and patches")
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * variance * torch.eye(len(covariance)).to(covariance)
    return LatentReference(means.mean(0), torch.linalg.cholesky(shrunk))


def latent_scores(network: VariationalAutoencoder, patches: Tensor, reference: LatentReference) -> LatentScores:
    """Divergence from the prior, and Mahalanobis distance to the good patches' latent means, of patches (N, C, P, P).

    References:
        Soukup and Pinetz 2018 for the divergence, Vasilev et al. 2018 for distances in latent space, both as cited by
        Bergmann et al. 2019.
    """
    dimensions = network.log_variance.out_channels
    if reference.mean.shape != (dimensions,):
        raise InputError(
            f"reference must be of this network, of {dimensions} latent dimensions, "
            f"got one of shape {shape_text(tuple(reference.mean.shape))}; make it with latent_reference"
        )
    divergences = _by_batch(patches, lambda batch: divergence(network.encode(batch)))
    means = _by_batch(patches, lambda batch: network.encode(batch).mean.flatten(1)).double()
    whitened = torch.linalg.solve_triangular(reference.factor, (means - reference.mean).T, upper=False)
    return LatentScores(divergences, whitened.norm(dim=0).float())


def sample_spread(network: VariationalAutoencoder, patches: Tensor, samples: int) -> SampleSpread:
    """How much the decoded samples of patches (N, C, P, P) vary, and how wrong their mean is.

    samples: decoded for each patch, at least 2. The deviation is that of one sample (population, not of the mean).
    """
    if samples < 2:
        raise InputError(f"a spread needs at least 2 samples, got {samples}")
    noise = fixed_noise(samples, network.log_variance.out_channels).to(patches.device)

    def figures(batch: Tensor) -> Tensor:
        spread, mean = torch.var_mean(network.samples(batch, noise), dim=1, correction=0)
        return torch.stack([part.flatten(1).mean(1).sqrt() for part in (spread, (mean - batch).square())], dim=1)

    return SampleSpread(*_by_batch(patches, figures).unbind(1))


@torch.no_grad()
def _by_batch(patches: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([function(batch) for batch in torch.split(patches, BATCH)])

"""How unlike good patches a patch is by its latent distribution Q(z|x) alone; the decoder is disregarded.

A measure gives one value for a patch. Some compare Q(z|x) with the prior N(0, I), others with the distributions of good
training patches, which a fit keeps beside the network's weights.

Shapes: N patches, M good patches, D latent dimension.

References:
    Soukup and Pinetz 2018, Reliably decoding autoencoders' latent spaces for one-class learning image inspection
    scenarios (as Bergmann et al. 2019 describe it: the KL divergence of encoder distribution and prior); Vasilev et
    al. 2018, q-Space novelty detection with variational autoencoders, arXiv:1806.02997, for the distances. The
    two-sided comparison of KL divergences with those of good patches is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flawmap.core.errors import ArtifactError
from flawmap.core.settings import LatentName
from flawmap.methods.interface import Patches
from flawmap.nets.variational import Posterior, VariationalAutoencoder, bhattacharyya, kl_to_prior

GOOD_PATCHES = 1000  # M
BATCH = 32  # patches at once
LEAST_SPREAD = 1e-6  # nats; below it all good patches have one latent distribution
PREFIX = "good."  # of the names of their tensors


class Latent(NamedTuple):
    """posterior: of N patches. good: of M good training patches; None: not kept, or of no use to the measure."""

    posterior: Posterior
    good: Posterior | None = None


Measure = Callable[[Latent], Tensor]
"""(N,) at least 0; larger is worse."""


def relative_kl(latent: Latent) -> Tensor:
    """How far the KL divergence from the prior is from that of good patches, in their standard deviations: (N,).

    Either side counts: a flaw that is plainer than the texture lies closer to the prior than good patches do.
    """
    assert latent.good is not None
    spread, usual = torch.std_mean(kl_to_prior(latent.good))
    return (kl_to_prior(latent.posterior) - usual).abs() / spread.clamp(min=LEAST_SPREAD)


def mean_norm(latent: Latent) -> Tensor:
    """The length of the mean, which is its distance from the prior's: (N,). The prior's density falls with it."""
    return latent.posterior.mean.square().flatten(1).sum(1).sqrt()


def nearest_mean(latent: Latent) -> Tensor:
    """The Euclidean distance of the mean from the nearest mean of a good patch: (N,)."""
    assert latent.good is not None
    means = (latent.posterior.mean.flatten(1), latent.good.mean.flatten(1))
    return torch.cdist(*means, compute_mode="donot_use_mm_for_euclid_dist").amin(1)  # exact for near ones


def nearest_distribution(latent: Latent) -> Tensor:
    """The Bhattacharyya distance to the nearest distribution of a good patch: (N,)."""
    good = latent.good
    assert good is not None
    one_by_one = [Posterior(*patch) for patch in zip(*latent.posterior, strict=True)]  # (M, D) fits a cache
    return torch.stack([bhattacharyya(patch, good).amin() for patch in one_by_one])


MEASURES: dict[LatentName, Measure] = {
    "kl": lambda latent: kl_to_prior(latent.posterior),
    "relative_kl": relative_kl,
    "norm": mean_norm,
    "euclidean": nearest_mean,
    "bhattacharyya": nearest_distribution,
}
COMPARED: tuple[LatentName, ...] = ("relative_kl", "euclidean", "bhattacharyya")
"""Measures that need the distributions of good patches."""


@torch.no_grad()
def encoded(network: VariationalAutoencoder, patches: Patches, seed: int) -> dict[str, Tensor]:
    """The latent distributions of good training patches, as the model file keeps them: two tensors (M, D) float32.

    network: in evaluation mode. seed: of the draw.
    """
    drawn = patches.draw(GOOD_PATCHES, np.random.default_rng(seed))
    found = []
    for start in range(0, len(drawn), BATCH):
        batch = torch.from_numpy(patches.cut(drawn[start : start + BATCH])).to(network.noise.device)
        found.append(network.encode(batch.contiguous(memory_format=torch.channels_last)))
    joined = Posterior(*(torch.cat(parts).flatten(1) for parts in zip(*found, strict=True)))
    return {f"{PREFIX}{name}": tensor for name, tensor in joined._asdict().items()}


def without_good(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors of those of a model."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def good_posterior(tensors: dict[str, Tensor], name: LatentName, device: torch.device) -> Posterior:
    """The distributions of good patches that a model keeps. ArtifactError: it keeps none. name: of the measure."""
    try:
        parts = [tensors[f"{PREFIX}{part}"].to(device)[..., None, None] for part in Posterior._fields]
    except KeyError:
        raise ArtifactError(
            f"the residual {name} needs the latent distributions of good patches, which this model does not hold; "
            "train anew, or map kl"
        ) from None
    return Posterior(*parts)

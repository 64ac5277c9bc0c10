"""The scoring of `anogan`: the latent vector whose generated patch is closest to a patch, found by gradient descent.

A search begins at the prior's mean, 0, and each patch has its own: a score depends on the patch alone.

References:
    Schlegl et al. 2017, arXiv:1703.05921, sections 2.2 and 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flawmap.core.device import autocast, choose_device, choose_precision, name_of
from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from flawmap.methods.adversarial import build_pair
from flawmap.methods.autoencoder import BATCH_ELSEWHERE, filled
from flawmap.methods.config import Config
from flawmap.methods.interface import PatchScorer, State
from flawmap.methods.reconstruction import comparing
from flawmap.methods.residuals import Decoded
from flawmap.methods.settings import AnoGANSettings
from flawmap.nets.adversarial import GenerativePair, feature_distance
from flawmap.nets.engines import BATCH


def scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    """Raises ArtifactError where the weights are those of other settings, ConfigError for another engine than torch."""
    if runtime.engine not in ("auto", "torch"):
        raise ConfigError(
            f"the method anogan needs gradients to score, which the engine {runtime.engine} lacks; leave --engine out"
        )
    settings = config.method
    assert isinstance(settings, AnoGANSettings)  # the table gives this function no other method
    device = choose_device(runtime.device)
    precision, network = choose_precision(runtime.precision, device), filled(build_pair(config), state.tensors)
    placed = network.requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def decode(patches: Tensor) -> Decoded:
        with autocast(device, precision):
            made = placed(searched(placed, patches, settings))
            ours, theirs = (placed.discriminator.features(batch) for batch in (patches, made))
        return Decoded(made.float().contiguous(), features=feature_distance(ours, theirs, config.model.patch))

    batch = BATCH if device.type == "cpu" else BATCH_ELSEWHERE
    return comparing(config, decode, device, name_of(precision), batch)


def searched(network: GenerativePair, patches: Tensor, settings: AnoGANSettings) -> Tensor:
    """The latent vectors (N, D, 1, 1) of patches (N, C, P, P): Adam's steps on `search_losses` from 0.

    network: its parameters take no gradients.
    """
    latent = torch.zeros(len(patches), network.shape.latent, 1, 1, device=patches.device)
    optimizer = torch.optim.Adam([latent], lr=settings.search_rate)
    wanted = network.discriminator.features(patches)
    for _ in range(settings.search_steps):
        with torch.enable_grad():
            sought = latent.detach().requires_grad_()
            loss = search_losses(network, patches, wanted, sought, settings.feature_share).sum()
            (latent.grad,) = torch.autograd.grad(loss, sought)
        optimizer.step()
    return latent.detach()


def search_losses(network: GenerativePair, patches: Tensor, wanted: Tensor, latent: Tensor, share: float) -> Tensor:
    """(N,): (1 - lambda) R + lambda D, which is also the anomaly score of a patch as a whole.

    R is the sum of the absolute differences of pixels, D that of the discriminator's features. wanted: those of the
    patches. share: lambda.

    References:
        Schlegl et al. 2017, eq. 3, 5, 6 and 7.
    """
    made = network(latent)
    residual = (made.float() - patches).abs().flatten(1).sum(1)
    features = (network.discriminator.features(made).float() - wanted.float()).abs().flatten(1).sum(1)
    losses: Tensor = (1 - share) * residual + share * features
    return losses

"""A method = network + loss + what it gives for a patch. One row each; everything behind `residual_map` is shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from flawmap.core.settings import Config, LossSettings, ModelSettings
from flawmap.methods.losses import LOSSES, Loss
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.variational import VariationalAutoencoder

Average = Literal["reconstructions", "residuals"]


class Method(NamedTuple):
    """What is trained, what it minimises, and which overlapping things are averaged when an image is scored."""

    network: str
    loss: Callable[[LossSettings], Loss]
    average: Average


METHODS: dict[str, Method] = {
    "l2": Method("autoencoder", LOSSES["l2"], "reconstructions"),
    "ssim": Method("autoencoder", LOSSES["ssim"], "reconstructions"),
    "vae": Method("variational", LOSSES["l2"], "residuals"),  # and the network's divergence, which training adds
    "fm": Method("autoencoder", LOSSES["fm"], "reconstructions"),
}


NETWORKS: dict[str, Callable[[ModelSettings], Autoencoder]] = {
    "autoencoder": Autoencoder,
    "variational": VariationalAutoencoder,
}


def build_network(config: Config) -> Autoencoder:
    """The method's network, not yet initialised."""
    with torch.random.fork_rng(devices=()):  # torch draws weights that nobody keeps: the caller's numbers stay his
        return NETWORKS[METHODS[config.loss.name].network](config.model)

"""What the paper says of generative adversarial networks, as numbers: how much of the good patches a generator covers,
and how both that and what follows from it change with the moment of stopping.

The paper says that such networks drop modes, and that the end of their training has to be judged by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from flawmap.core.errors import ConfigError
from flawmap.methods.adversarial import build_pair, latent_noise
from flawmap.methods.autoencoder import filled, restored
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Patches, State
from flawmap.methods.settings import AnoGANSettings, BiGANSettings
from flawmap.methods.table import METHODS
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.initialisation import initialise
from flawmap.nets.layer_table import NetworkShape

Floats = NDArray[np.float64]
PatchArray = NDArray[np.float32]
T = TypeVar("T")

NEIGHBOURS = 5  # k of Naeem et al.
DRAWN = 1000  # patches of each kind
BATCH = 100
LEAST_SPREAD = 1e-9  # of a feature, so that one that never changes divides by something


@dataclass(frozen=True)
class Coverage:
    """Shares of held-out good patches, in [0, 1]. generated: those with a generated patch near. real: those with one of
    as many other training patches near, which a perfect generator would equal."""

    generated: float
    real: float


def coverage_of(
    config: Config,
    state: State,
    training: Patches,
    held_out: Patches,
    *,
    drawn: int = DRAWN,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> Coverage:
    """How much of the held-out good patches a trained generator covers.

    Args:
        state: of `anogan` or `bigan`. drawn: patches of each kind: held-out, generated, and training ones, which are
            drawn twice.
    Raises:
        ConfigError: the method has no generator that draws from a prior.
    """
    generator = np.random.default_rng(seed)
    known, others = np.split(training.cut(training.draw(2 * drawn, generator)), 2)
    unseen, made = held_out.cut(held_out.draw(drawn, generator)), generated(config, state, drawn, seed)
    flat = features_of(known)
    real = flat(known)
    return Coverage(*(covered(flat(unseen), real, flat(patches), neighbours) for patches in (made, others)))


def covered(held_out: Floats, real: Floats, made: Floats, neighbours: int = NEIGHBOURS) -> float:
    """The share of held-out points (M, F) whose nearest of `made` is no further than their k-th nearest of `real`.

    real, made: (N, F) each. 1: every one is covered; of points of one and the same distribution about 1 - 2^-k.

    References:
        Naeem et al. 2020, arXiv:2002.09797, eq. 6; there the points are real ones themselves, here others, so that a
        generator that learnt the training patches by heart gains nothing.
    """
    radii = NearestNeighbors(n_neighbors=neighbours).fit(real).kneighbors(held_out)[0][:, -1]
    nearest = NearestNeighbors(n_neighbors=1).fit(made).kneighbors(held_out)[0][:, 0]
    return float((nearest <= radii).mean())


def features_of(reference: PatchArray, seed: int = 0) -> Callable[[PatchArray], Floats]:
    """The function that describes patches (N, C, P, P) by features (N, F): mean and standard deviation over a patch of
    every channel of an untrained encoder's layers, each scaled to mean 0 and variance 1 on the reference.

    Random features judge textures that no pretrained network has seen better than pretrained ones do (Naeem et al.
    2020, section 5). A shift of the texture changes them little.
    """
    _, channels, patch, _ = reference.shape
    with torch.random.fork_rng(devices=()):
        network = Autoencoder(NetworkShape(patch, channels))
    initialise(network, torch.from_numpy(reference[:BATCH]), seed)

    @torch.no_grad()
    def described(patches: PatchArray) -> Floats:
        parts = [_pooled(network, batch) for batch in torch.split(torch.from_numpy(patches), BATCH)]
        found: Floats = torch.cat(parts).double().numpy()
        return found

    known = described(reference)
    mean, spread = known.mean(0), known.std(0).clip(min=LEAST_SPREAD)
    return lambda patches: (described(patches) - mean) / spread


def _pooled(network: Autoencoder, patches: Tensor) -> Tensor:
    """(N, F): mean and standard deviation of each layer's channels over a patch."""
    found, maps = [], patches
    for layer in list(network.encoder)[:-1]:
        maps = layer(maps)
        if isinstance(layer, torch.nn.LeakyReLU):
            found += [maps.mean((2, 3)), maps.std((2, 3))]
    return torch.cat(found, dim=1)


@torch.no_grad()
def generated(config: Config, state: State, count: int, seed: int = 0) -> PatchArray:
    """(count, C, P, P): patches by a trained generator from latent vectors of its prior, clipped to [0, 1].

    Raises:
        ConfigError: the method has no generator that draws from a prior.
    """
    if isinstance(config.method, AnoGANSettings):
        decoder = filled(build_pair(config), state.tensors).decoder
    elif isinstance(config.method, BiGANSettings):
        decoder = restored(config, state.tensors).decoder
    else:
        raise ConfigError(
            f"the method {config.method.name} has no generator that draws from a prior; use anogan or bigan"
        )
    shape = NetworkShape(config.model.patch, config.model.channels or 1, config.method.latent)
    noise = latent_noise(count, shape, torch.Generator().manual_seed(seed))
    made: Tensor = torch.cat([decoder(part) for part in torch.split(noise, BATCH)])
    return made.clamp(0, 1).numpy()


def at_moments(
    config: Config, patches: Patches, moments: int, measure: Callable[[State], T], context: FitContext | None = None
) -> dict[int, T]:
    """What is measured of one training at several moments of stopping: values by the step, its end the last.

    moments: how many, at even distances. measure: of a state, which it may keep.
    """
    found: dict[int, T] = {}

    def look(step: int, tensors: dict[str, Tensor]) -> None:
        found[step] = measure(State({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}))

    context = replace(context or FitContext(), looks=moments, on_look=look)
    state = METHODS[config.method.name].fit(config, patches, context)
    return found | {state.provenance["training"]["steps"]: measure(state)}

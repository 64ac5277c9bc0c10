"""A statistical model that needs no training: Gaussian mixtures of small windows, one for each level of detail.

At every pixel a window is read, at a level s every s-th pixel of the image that a Gaussian of s / 2 has smoothed. Its
main components follow a mixture of Gaussians, and what they leave over a Gaussian of one spread. The residual is minus
the logarithm of the density, one map for each level.

References:
    Böttger and Ulrich 2016, doi:10.1134/S1054661816010053, for mixtures on a pyramid; Zoran and Weiss 2011,
    doi:10.1109/ICCV.2011.6126278, for mixtures of patches.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional

from flawmap.core.device import choose_device
from flawmap.core.errors import ArtifactError
from flawmap.core.runtime import Runtime
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Patches, PatchScorer, PatchScores, State
from flawmap.methods.settings import MixtureSettings
from flawmap.nets.engines import refuse_engine
from flawmap.nets.filters import blur, gaussian_weights

Floats = NDArray[np.float64]

PATCHES = 64  # that windows are drawn from
ROUNDS = 30  # of expectation and maximisation, at most
LEAST_VARIANCE = 1e-7  # of intensities in [0, 1]: rounding of 8 bits has 1e-6
BATCH = 8


class Level(NamedTuple):
    """The mixture of one level, as convolutions. K components, M dimensions, D = C side^2 values of a window.

    mean: (D,) of windows. basis: (M, D), their main components. filters: (K M, M) and shifts: (K M,), which whiten main
    components for each Gaussian. heights: (K,), the logarithm of their weights and normalisations. spread: (1,),
    1 / (2 v) with the variance v of what the main components leave, 0 where they leave nothing.
    """

    mean: Tensor
    basis: Tensor
    filters: Tensor
    shifts: Tensor
    heights: Tensor
    spread: Tensor


def fit(config: Config, patches: Patches, context: FitContext) -> State:
    """Fit the mixtures to windows of good patches. Nothing of it is random but the seed's draw."""
    settings, rng = _settings(config), np.random.default_rng(config.training.seed)
    drawn = torch.from_numpy(patches.cut(patches.draw(PATCHES, rng)))
    tensors: dict[str, Tensor] = {}
    for level in settings.levels:
        values = windows(smooth(drawn, level), settings.side, level).movedim(1, -1).flatten(0, -2)
        chosen = rng.permutation(len(values))[: settings.samples]
        found = _fitted(values[torch.from_numpy(chosen)].double().numpy(), settings, config.training.seed)
        tensors |= {f"{level}.{name}": tensor for name, tensor in found._asdict().items()}
    return State(tensors, {"windows": settings.samples})


def scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    """Raises ArtifactError where the tensors are those of other settings, ConfigError for another engine than torch."""
    refuse_engine(runtime.engine, config.method.name)
    settings, device = _settings(config), choose_device(runtime.device)
    try:
        levels = [
            (level, Level(*(state.tensors[f"{level}.{name}"].to(device) for name in Level._fields)))
            for level in settings.levels
        ]
    except KeyError as error:
        raise ArtifactError(f"the model lacks a part of its mixtures: {error}") from None

    def score(patches: Tensor) -> PatchScores:
        maps = [surprise(patches, level, mixture, settings.side) for level, mixture in levels]
        return PatchScores(torch.stack(maps, dim=1))

    return PatchScorer(score, device, "float32", BATCH, parts=len(levels))


def surprise(patches: Tensor, level: int, mixture: Level, side: int) -> Tensor:
    """(N, C, H, W) to (N, H, W): minus the logarithm of the density of the window around each pixel."""
    channels = patches.shape[1]
    room = _padded(smooth(patches, level), side, level)

    def convolved(rows: Tensor, shift: Tensor) -> Tensor:
        return functional.conv2d(room, rows.view(len(rows), channels, side, side), shift, dilation=level)

    main = convolved(mixture.basis, -mixture.basis @ mixture.mean)
    density = torch.stack([_density(one.flatten(1), mixture) for one in main]).view(-1, *main.shape[-2:])
    if not mixture.spread:
        return -density
    ones = torch.ones_like(mixture.mean)[None].view(1, channels, side, side)
    length = functional.conv2d(room.square(), ones, dilation=level)[:, 0]
    centred = length + convolved(-2 * mixture.mean[None], mixture.mean.square().sum()[None])[:, 0]
    return mixture.spread * (centred - main.square().sum(1)).clamp(min=0) - density


def _density(main: Tensor, mixture: Level) -> Tensor:
    """(M, n) main components of one patch to (n,): the logarithm of the mixture's density.

    One Gaussian comes after the other, so that what is computed stays in the caches.
    """
    filters, shifts = (part.chunk(len(mixture.heights)) for part in (mixture.filters, mixture.shifts))
    heights = [
        height - torch.addmm(shift[:, None], rows, main).square().sum(0) / 2
        for height, rows, shift in zip(mixture.heights, filters, shifts, strict=True)
    ]
    return torch.logsumexp(torch.stack(heights), dim=0)


def windows(images: Tensor, side: int, level: int) -> Tensor:
    """(N, C, H, W) to (N, C side^2, H, W): the window around each pixel; borders reflect."""
    found = functional.unfold(_padded(images, side, level), side, dilation=level)
    return found.view(*found.shape[:2], *images.shape[-2:])


def smooth(images: Tensor, level: int) -> Tensor:
    """(N, C, H, W) for a level: smoothed by a Gaussian of level / 2 pixels, so that no detail falls between pixels."""
    if level == 1:
        return images
    weights = gaussian_weights(2 * math.ceil(1.5 * level) + 1, level / 2)
    return blur(images.permute(2, 0, 1, 3), weights, "reflect").permute(1, 2, 0, 3)


def _padded(images: Tensor, side: int, level: int) -> Tensor:
    reach = side // 2 * level
    return functional.pad(images, (reach, reach, reach, reach), mode="reflect")


def _fitted(values: Floats, settings: MixtureSettings, seed: int) -> Level:
    """values: (n, D), windows."""
    mean = values.mean(axis=0)
    spreads, axes = np.linalg.eigh(np.cov(values - mean, rowvar=False))
    count = min(settings.dimensions, len(mean))
    basis = axes[:, ::-1][:, :count].T
    rest = spreads[::-1][count:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that still moves a little serves as well
        mixture = GaussianMixture(
            settings.components, covariance_type="full", reg_covar=LEAST_VARIANCE, max_iter=ROUNDS, random_state=seed
        ).fit((values - mean) @ basis.T)
    root = mixture.precisions_cholesky_  # (K, M, M), so that (z - m) @ root is white
    shifts = -np.einsum("km,kmn->kn", mixture.means_, root)
    heights = (
        np.log(mixture.weights_)
        + np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        - 0.5 * count * math.log(2 * math.pi)
    )
    spread = np.array([1 / (2 * max(float(rest.mean()), LEAST_VARIANCE)) if len(rest) else 0.0])
    parts = (mean, basis, root.transpose(0, 2, 1).reshape(-1, count), shifts.reshape(-1), heights, spread)
    return Level(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts))


def _settings(config: Config) -> MixtureSettings:
    assert isinstance(config.method, MixtureSettings)  # the table gives these functions no other method
    return config.method

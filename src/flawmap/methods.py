"""A method = network + loss + what it gives for a patch. One row each; everything behind `residual_map` is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flawmap.blur import blur, gaussian_weights
from flawmap.config import Config, LossSettings, ResidualSettings
from flawmap.losses import LOSSES, Loss
from flawmap.models import NETWORKS, Autoencoder
from flawmap.residuals import RESIDUALS, Decoded, Residual
from flawmap.tiling import Grid, Weights, merge, split

BATCH = 32  # patches reconstructed and compared at once: more spills the caches of a CPU, and SSIM and samples
# need several times their memory

Average = Literal["reconstructions", "residuals"]
Reconstruct = Callable[[Tensor], Tensor]
Decode = Callable[[Tensor], Tensor | Decoded]
"""Patches to reconstructions, or to the mean and spread of samples of them. A `Reconstruct` is one."""


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


def build_network(config: Config) -> Autoencoder:
    """The method's network, not yet initialised."""
    with torch.random.fork_rng(devices=()):  # torch draws weights that nobody keeps: the caller's numbers stay his
        return NETWORKS[METHODS[config.loss.name].network](config.model)


def residual_of(settings: ResidualSettings) -> Callable[[Tensor, Tensor | Decoded], Tensor]:
    """The residual named by the settings, as a function of (N, C, H, W) images and what was made of them."""
    function: Residual = RESIDUALS[settings.name]
    return lambda image, decoded: function(image, _decoded(decoded), settings)


def _decoded(output: Tensor | Decoded) -> Decoded:
    return Decoded(output) if isinstance(output, Tensor) else output


class Scored(NamedTuple):
    """residual: (H, W), larger is worse. reconstruction: (C, H, W), the average of the overlapping patches."""

    residual: Tensor
    reconstruction: Tensor


def score_image(image: Tensor, reconstruct: Decode, config: Config) -> Scored:
    """Stride over an image, reconstruct every patch, average where patches overlap, and map the residual.

    The one place that knows whether reconstructions are averaged and then compared (Bergmann et al. 2019, section
    4.2), or every patch is compared by itself and the residuals are averaged (Bergmann et al. 2021).

    Args:
        image: (C, H, W) float32 in [0, 1], at least one patch large.
        reconstruct: up to BATCH patches (N, C, P, P) to reconstructions of the same shape, with the spread of samples
            if the residual asks for it; any callable.
    """
    grid = Grid(config.model.patch, config.tiling.stride)
    size = (image.shape[-2], image.shape[-1])
    weights: Weights = config.tiling.weights
    residual = residual_of(config.residual)
    by_patch = (config.tiling.average or METHODS[config.loss.name].average) == "residuals"
    outputs, residuals = [], []
    for patches in torch.split(split(image, grid), BATCH):
        decoded = _decoded(reconstruct(patches))
        outputs.append(decoded.reconstruction)
        if by_patch:
            residuals.append(residual(patches, decoded))
    reconstruction = merge(torch.cat(outputs), grid, size, weights)
    if by_patch:
        mapped = merge(torch.cat(residuals)[:, None], grid, size, weights)[0]
    else:
        mapped = residual(image[None], reconstruction[None])[0]
    return Scored(smoothed(mapped, config.residual.smoothing), reconstruction)


def smoothed(residual: Tensor, sigma: float) -> Tensor:
    """A residual map (H, W) blurred by a Gaussian of a deviation in pixels, 0 = as it is.

    A flaw is a place where many pixels in a row disagree; texture that is reproduced a little off disagrees here and
    there. The window ends at three deviations, or at the map's own side, and reflects at the border.
    """
    if sigma == 0:
        return residual
    reach = min(math.ceil(3 * sigma), min(residual.shape) - 1)
    return blur(residual, gaussian_weights(2 * reach + 1, sigma), "reflect")

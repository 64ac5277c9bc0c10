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
from flawmap.residuals import RESIDUALS, Residual
from flawmap.tiling import Grid, Weights, merge, split

COMPARED = 32  # patches whose residuals are taken at once: SSIM needs several times their memory

Average = Literal["reconstructions", "residuals"]
Reconstruct = Callable[[Tensor], Tensor]


class Method(NamedTuple):
    """What is trained, what it minimises, and which overlapping things are averaged when an image is scored."""

    network: str
    loss: Callable[[LossSettings], Loss]
    average: Average


METHODS: dict[str, Method] = {
    "l2": Method("autoencoder", LOSSES["l2"], "reconstructions"),
    "ssim": Method("autoencoder", LOSSES["ssim"], "reconstructions"),
}


def build_network(config: Config) -> Autoencoder:
    """The method's network, not yet initialised."""
    with torch.random.fork_rng(devices=()):  # torch draws weights that nobody keeps: the caller's numbers stay his
        return NETWORKS[METHODS[config.loss.name].network](config.model)


def residual_of(settings: ResidualSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """The residual named by the settings, as a function of (N, C, H, W) images and reconstructions."""
    function: Residual = RESIDUALS[settings.name]
    return lambda image, reconstruction: function(image, reconstruction, settings)


class Scored(NamedTuple):
    """residual: (H, W), larger is worse. reconstruction: (C, H, W), the average of the overlapping patches."""

    residual: Tensor
    reconstruction: Tensor


def score_image(image: Tensor, reconstruct: Reconstruct, config: Config) -> Scored:
    """Stride over an image, reconstruct every patch, average where patches overlap, and map the residual.

    The one place that knows whether reconstructions are averaged and then compared (Bergmann et al. 2019, section
    4.2), or every patch is compared by itself and the residuals are averaged (Bergmann et al. 2021).

    Args:
        image: (C, H, W) float32 in [0, 1], at least one patch large.
        reconstruct: patches (N, C, P, P) to reconstructions of the same shape; any callable.
    """
    grid = Grid(config.model.patch, config.tiling.stride)
    size = (image.shape[-2], image.shape[-1])
    weights: Weights = config.tiling.weights
    residual = residual_of(config.residual)
    patches = split(image, grid)
    outputs = reconstruct(patches)
    reconstruction = merge(outputs, grid, size, weights)
    smoothing = config.residual.smoothing
    if (config.tiling.average or METHODS[config.loss.name].average) == "reconstructions":
        return Scored(smoothed(residual(image[None], reconstruction[None])[0], smoothing), reconstruction)
    pairs = zip(torch.split(patches, COMPARED), torch.split(outputs, COMPARED), strict=True)
    residuals = torch.cat([residual(patch, output) for patch, output in pairs])
    return Scored(smoothed(merge(residuals[:, None], grid, size, weights)[0], smoothing), reconstruction)


def smoothed(residual: Tensor, sigma: float) -> Tensor:
    """A residual map (H, W) blurred by a Gaussian of a deviation in pixels, 0 = as it is.

    A flaw is a place where many pixels in a row disagree; texture that is reproduced a little off disagrees here and
    there. The window ends at three deviations, or at the map's own side, and reflects at the border.
    """
    if sigma == 0:
        return residual
    reach = min(math.ceil(3 * sigma), min(residual.shape) - 1)
    return blur(residual, gaussian_weights(2 * reach + 1, sigma), "reflect")

"""Losses of reconstructions: functions of a batch of patches and their reconstructions.

A loss is made from its method's settings once, before a training: some have something to load.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flawmap.core.checks import same_shape
from flawmap.core.settings import MethodSettings, SSIMSettings
from flawmap.methods.settings import FeatureMatchingSettings, StructuralSettings
from flawmap.nets.pretrained import load_features
from flawmap.nets.ssim import mean_ssim

Loss = Callable[[Tensor, Tensor], Tensor]
"""(N, C, P, P) patches and reconstructions to a scalar, at least float32; 0 = the same, larger is worse."""


def loss_of(method: MethodSettings) -> Loss:
    """The loss between patches and reconstructions that a method's settings ask for.

    Raises:
        InputError: a pretrained network's weights are missing or another network's.
    """
    if isinstance(method, StructuralSettings):
        settings = method.ssim
        return lambda patches, reconstructions: ssim_loss(patches, reconstructions, settings)
    return feature_loss(method) if isinstance(method, FeatureMatchingSettings) else l2_loss


def l2_loss(patches: Tensor, reconstructions: Tensor) -> Tensor:
    """Squared difference, summed over a patch's pixels, mean over the batch.

    patches, reconstructions: (N, C, P, P). Returns a scalar, at least float32.
    """
    same_shape(patches, reconstructions, "patches", "reconstructions")
    return (reconstructions.float() - patches).square().flatten(1).sum(1).mean()


def ssim_loss(patches: Tensor, reconstructions: Tensor, settings: SSIMSettings) -> Tensor:
    """1 - SSIM, mean over pixels, channels and batch: 0 = the same, about 1 = nothing in common.

    patches, reconstructions: (N, C, P, P), intensities in [0, 1]. Borders reflect, so that a patch's edge counts too.
    """
    return 1 - mean_ssim(patches, reconstructions, settings, border="reflect")


def feature_loss(method: FeatureMatchingSettings) -> Loss:
    """Squared differences of pixels and of features: ||x - x^||^2 + lambda ||F(x) - F(x^)||^2, mean over the batch.

    Both are summed over a patch's elements, pixels and feature maps. F is the frozen network of `method.features`,
    lambda is `method.feature_weight`. Gradients go through F to the reconstructions alone.

    Raises:
        InputError: F's weights are missing or another network's; and by the loss, patches below 32 pixels.
    References:
        Dosovitskiy and Brox 2016, arXiv:1602.02644; Bergmann et al. 2019, with lambda = 1 and AlexNet.
    """
    network = load_features(method.features)

    def loss(patches: Tensor, reconstructions: Tensor) -> Tensor:
        pixels = l2_loss(patches, reconstructions)
        network.to(patches.device)  # nothing, from the second call on
        with torch.no_grad():
            wanted = network(patches).float()
        features: Tensor = (network(reconstructions).float() - wanted).square().flatten(1).sum(1).mean()
        return pixels + method.feature_weight * features

    return loss

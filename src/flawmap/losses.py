"""What training minimises: a table of names to functions of a batch of patches and their reconstructions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flawmap.checks import same_shape
from flawmap.config import LossSettings
from flawmap.ssim import ssim

Loss = Callable[[Tensor, Tensor, LossSettings], Tensor]


def l2_loss(patches: Tensor, reconstructions: Tensor, settings: LossSettings) -> Tensor:
    """Squared difference, summed over a patch's pixels, mean over the batch.

    patches, reconstructions: (N, C, P, P). Returns a scalar, at least float32.
    """
    same_shape(patches, reconstructions, "patches", "reconstructions")
    return (reconstructions.float() - patches).square().flatten(1).sum(1).mean()


def ssim_loss(patches: Tensor, reconstructions: Tensor, settings: LossSettings) -> Tensor:
    """1 - SSIM, mean over pixels, channels and batch: 0 = the same, about 1 = nothing in common.

    patches, reconstructions: (N, C, P, P), intensities in [0, 1]. Borders reflect, so that a patch's edge counts too.
    """
    return 1 - ssim(patches, reconstructions, settings.ssim, border="reflect").mean()


LOSSES: dict[str, Loss] = {"l2": l2_loss, "ssim": ssim_loss}

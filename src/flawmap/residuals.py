"""What is mapped when an image is scored: a table of names to functions of an image and its reconstruction."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flawmap.checks import same_shape
from flawmap.config import ResidualSettings
from flawmap.ssim import ssim

Residual = Callable[[Tensor, Tensor, ResidualSettings], Tensor]


def l2_residual(image: Tensor, reconstruction: Tensor, settings: ResidualSettings) -> Tensor:
    """Squared difference per pixel, mean over channels.

    image, reconstruction: (N, C, H, W). Returns (N, H, W); 0 = the same, larger is worse.
    """
    same_shape(image, reconstruction, "image", "reconstruction")
    return (reconstruction.float() - image).square().mean(dim=1)


def ssim_residual(image: Tensor, reconstruction: Tensor, settings: ResidualSettings) -> Tensor:
    """Local structural disagreement: (1 - SSIM) / 2 per pixel, mean over channels.

    image, reconstruction: (N, C, H, W), intensities in [0, 1]. Returns (N, H, W) in [0, 1]: 0 = same structure,
    1 = inverted structure. Larger is worse. Borders reflect, so no pixel is lost.

    References:
        Wang et al. 2004, doi:10.1109/TIP.2003.819861; Bergmann et al. 2019, eq. 4-8.
    """
    similarity = ssim(image, reconstruction, settings.ssim, border="reflect").mean(dim=1)
    return ((1 - similarity) / 2).clamp(0, 1)  # rounding may lift the similarity of equal windows above 1


RESIDUALS: dict[str, Residual] = {"l2": l2_residual, "ssim": ssim_residual}

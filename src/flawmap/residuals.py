"""What is mapped when an image is scored: a table of names to functions of an image and its reconstruction."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flawmap.checks import same_shape
from flawmap.config import ResidualSettings
from flawmap.ssim import ssim, ssim_parts

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
    return _disagreement(ssim(image, reconstruction, settings.ssim, border="reflect"))


def _part_residual(part: str) -> Residual:
    def residual(image: Tensor, reconstruction: Tensor, settings: ResidualSettings) -> Tensor:
        similarity: Tensor = getattr(ssim_parts(image, reconstruction, settings.ssim, border="reflect"), part)
        return _disagreement(similarity)

    residual.__doc__ = f"""One part of SSIM, its {part}, by itself: (1 - {part}) / 2 per pixel, as `ssim_residual`."""
    return residual


def _disagreement(similarity: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] to (N, H, W) in [0, 1]; rounding may lift the similarity of equal windows above 1."""
    return ((1 - similarity.mean(dim=1)) / 2).clamp(0, 1)


RESIDUALS: dict[str, Residual] = {
    "l2": l2_residual,
    "ssim": ssim_residual,
    "luminance": _part_residual("luminance"),
    "contrast": _part_residual("contrast"),
    "structure": _part_residual("structure"),
}

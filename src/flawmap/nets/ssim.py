"""Structural similarity (SSIM): luminance, contrast and structure of whole windows instead of single pixels.

Pure functions on tensors, differentiable, for intensities in [0, 1]. Symbols as in the paper:
mu_p, sigma_p, sigma_pq, c1, c2.

References:
    Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    Bergmann et al. 2019, arXiv:1807.02011, eq. 4-8.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flawmap.core.settings import SSIMSettings
from flawmap.nets.filters import blur_adjoint, differentiable_means
from flawmap.nets.similarity import (
    Compared,
    Parts,
    constants,
    is_product,
    plane_pairs,
    powered,
    prepared,
    similarity,
    similarity_parts,
    window,
)
from flawmap.nets.window_means import Border

log = logging.getLogger(__name__)


def ssim(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect") -> Tensor:
    """The similarity l^alpha * c^beta * s^gamma at every pixel (eq. 4; eq. 8 where all exponents are 1).

    Args:
        p, q: (N, C, H, W), floating point, intensities in [0, 1] (a reconstruction may leave the range a little).
        border: `reflect` gives every pixel a value; `valid` only those whose window lies inside.
    Returns:
        (N, C, H, W), or (N, C, H - K + 1, W - K + 1) for `valid`, in [-1, 1]; 1 = the same. At least float32.
        For a gamma other than 1, negative structure keeps its sign: sign(s) |s|^gamma.
    Raises:
        InputError: shapes differ, not floating point, or an image smaller than the window.
    """
    if torch.is_grad_enabled() and (p.requires_grad or q.requires_grad):
        found: Tensor = powered(ssim_parts(p, q, settings, border), settings)
    else:
        found = similarity(p, q, settings, border)
    return found


def mean_ssim(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect") -> Tensor:
    """The mean of `ssim` over all its values, a scalar; quicker than by way of the map, gradient included."""
    if not is_product(settings):
        return ssim(p, q, settings, border).mean()
    p, q = (image.flatten(0, 1) for image in prepared(p, q, settings))
    with torch.autocast(p.device.type, enabled=False):
        mean: Tensor = _MeanOfProduct.apply(p, q, settings, border)  # type: ignore[no-untyped-call]
    return mean


def ssim_parts(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect") -> Parts:
    """Luminance, contrast and structure apart (eq. 5-7), as `ssim` takes and returns them."""
    return similarity_parts(p, q, settings, border, differentiable_means)


@lru_cache
def window_weights(settings: SSIMSettings) -> Tensor:
    """The K weights of the separable window along one axis, float64, summing to 1."""
    return torch.tensor(window(settings), dtype=torch.float64)


def _gradients(compared: Compared, wanted: Sequence[bool], settings: SSIMSettings, border: Border) -> list[Tensor]:
    """A quarter of the similarity's gradients by those of p and q that are wanted, (H, M, W)."""
    by_r1, by_r2 = compared.f2 / compared.b1, compared.f1 / compared.b2  # but for a factor of -2 / b
    signs = [sign for sign, needed in zip((1, -1), wanted, strict=True) if needed]
    rows, *others = by_r1.shape
    stack = by_r1.new_empty((rows, len(signs) + 2, *others))
    by_mus, by_squares = by_r1.new_empty((rows, 2, *others)), stack[:, -2:]
    for by_both, by_r, r in ((by_mus, by_r1, compared.r1), (by_squares, by_r2, compared.r2)):
        torch.mul(by_r, r, out=by_both[:, 0])
        torch.sub(by_both[:, 0], by_r, out=by_both[:, 1])
    by_means = by_mus.mul_(compared.mus).addcmul_(compared.means, by_squares, value=-1)
    for place, sign in enumerate(signs):
        torch.add(by_means[:, 0], by_means[:, 1], alpha=sign, out=stack[:, place])
    *gradients, by_total, by_difference = blur_adjoint(stack, window_weights(settings), border).unbind(1)
    for gradient, sign in zip(gradients, signs, strict=True):
        gradient.addcmul_(by_total, compared.values[:, 0]).addcmul_(by_difference, compared.values[:, 1], value=sign)
    return gradients


class _MeanOfProduct(torch.autograd.Function):
    """The mean of eq. 8 over planes (M, H, W). Its gradient, up to a factor, is computed forwards, while the maps that
    it needs are in the caches."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, settings: SSIMSettings, border: Border) -> Tensor:
        kernel = kernel_for(p, settings)
        mean_of = _by_chunks if kernel is None else partial(_compiled, kernel)
        mean, gradients, ctx.factor = mean_of(p, q, settings, border, ctx.needs_input_grad[:2])
        ctx.save_for_backward(*gradients)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients, factor = iter(ctx.saved_tensors), gradient * ctx.factor
        return (*(factor * next(gradients) if needed else None for needed in ctx.needs_input_grad[:2]), None, None)


def _by_chunks(
    p: Tensor, q: Tensor, settings: SSIMSettings, border: Border, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor], float]:
    """The mean, and its gradients by those of p and q that are wanted, but for the factor that follows."""
    total, count, quarters = p.new_zeros(()), 0, []
    for pair in plane_pairs(p, q):
        compared = Compared.of(*pair, settings, border)
        total, count = total + compared.similarity.sum(), count + compared.f1.numel()
        if any(wanted):
            quarters.append(_gradients(compared, wanted, settings, border))
    gradients = [torch.cat([part.movedim(0, 1) for part in own]) for own in zip(*quarters, strict=True)]
    return total / count, gradients, 4 / count


def kernel_for(planes: Tensor, settings: SSIMSettings) -> ModuleType | None:
    """The compiled form of `_by_chunks`: for float32 on a CPU, where numba of the extra `kernels` is installed."""
    if planes.device.type != "cpu" or planes.dtype != torch.float32:
        return None
    kernel = _kernel()
    return None if kernel is None or settings.size > kernel.LARGEST else kernel


@lru_cache(maxsize=1)
def _kernel() -> ModuleType | None:
    try:
        from flawmap.nets import ssim_kernel  # noqa: PLC0415 - it takes half a second, and trainings alone want it
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            log.warning("numba cannot be used, so SSIM takes three times as long: %s", error)
        return None
    return ssim_kernel


def _compiled(kernel: ModuleType, p: Tensor, q: Tensor, *rest: Any) -> tuple[Tensor, list[Tensor], float]:
    """As `_by_chunks`."""
    settings, border, wanted = rest
    planes = p.detach().contiguous().numpy(), q.detach().contiguous().numpy()
    shape = window(settings), constants(settings)
    how = {"reflect": border == "reflect", "threads": torch.get_num_threads()}
    pairs = [planes[::step] for step, needed in zip((-1, 1), wanted, strict=True) if needed]  # by the last of a pair
    found = [kernel.mean_and_gradient(*pair, *shape, **how, differentiated=True) for pair in pairs]
    mean, _ = found[0] if found else kernel.mean_and_gradient(*planes, *shape, **how, differentiated=False)
    return p.new_tensor(mean), [torch.from_numpy(gradient) for _, gradient in found], 1.0

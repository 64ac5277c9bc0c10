"""Structural similarity (SSIM): luminance, contrast and structure of whole windows instead of single pixels.

Pure functions on tensors, differentiable, for intensities in [0, 1]. Symbols as in the paper:
mu_p, sigma_p, sigma_pq, c1, c2.

References:
    Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    Bergmann et al. 2019, arXiv:1807.02011, eq. 4-8.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flawmap.core.checks import image_batch, same_shape
from flawmap.core.errors import InputError
from flawmap.core.settings import SSIMSettings
from flawmap.nets.filters import Border, blur, blur_adjoint, gaussian_weights

log = logging.getLogger(__name__)

CONSTANTS = {"paper": (0.01, 0.03), "wang": (0.01**2, 0.03**2)}
"""c1, c2 for intensities in [0, 1]: as Bergmann et al. print them; Wang et al.'s (0.01 L)^2, (0.03 L)^2 for L = 1."""

CHUNK = 1 << 18  # values compared at once on a CPU: the dozen maps between them then stay in its caches


class Parts(NamedTuple):
    """Luminance, contrast and structure, each (N, C, H, W) in [0, 1], structure in [-1, 1]; 1 = alike."""

    luminance: Tensor
    contrast: Tensor
    structure: Tensor


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
    differentiated = torch.is_grad_enabled() and (p.requires_grad or q.requires_grad)
    if not _is_product(settings) or differentiated:
        luminance, contrast, structure = ssim_parts(p, q, settings, border)
        return _power(luminance, settings.alpha) * _power(contrast, settings.beta) * _power(structure, settings.gamma)
    p, q = _prepared(p, q, settings)
    with torch.autocast(p.device.type, enabled=False):
        pairs = _pairs(p.flatten(0, 1), q.flatten(0, 1))
        planes = [_Compared.of(*pair, settings, border).similarity.movedim(0, 1) for pair in pairs]
    return torch.cat(planes).view(*p.shape[:2], *planes[0].shape[1:])


def mean_ssim(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect") -> Tensor:
    """The mean of `ssim` over all its values, a scalar; quicker than by way of the map, gradient included."""
    if not _is_product(settings):
        return ssim(p, q, settings, border).mean()
    p, q = (image.flatten(0, 1) for image in _prepared(p, q, settings))
    with torch.autocast(p.device.type, enabled=False):
        mean: Tensor = _MeanOfProduct.apply(p, q, settings, border)  # type: ignore[no-untyped-call]
    return mean


def ssim_parts(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect") -> Parts:
    """Luminance, contrast and structure apart (eq. 5-7), as `ssim` takes and returns them."""
    p, q = _prepared(p, q, settings)
    c1, c2 = constants(settings)
    with torch.autocast(p.device.type, enabled=False):
        (p, offset_p), (q, offset_q) = _centred(p), _centred(q)
        mean_p, mean_q, square_p, square_q, product = (
            blur(values.movedim(2, 0), window_weights(settings), border).movedim(0, 2)  # alike for p and q, bit by bit
            for values in (p, q, p * p, q * q, p * q)
        )
        sigma_p = _root(square_p - mean_p * mean_p)
        sigma_q = _root(square_q - mean_q * mean_q)
        sigma_pq = product - mean_p * mean_q
        mu_p, mu_q = mean_p + offset_p, mean_q + offset_q
        return Parts(
            luminance=(2 * mu_p * mu_q + c1) / (mu_p * mu_p + mu_q * mu_q + c1),
            contrast=(2 * sigma_p * sigma_q + c2) / (sigma_p * sigma_p + sigma_q * sigma_q + c2),
            structure=(2 * sigma_pq + c2) / (2 * sigma_p * sigma_q + c2),
        )


def constants(settings: SSIMSettings) -> tuple[float, float]:
    """c1 and c2 as numbers."""
    named = settings.constants
    return CONSTANTS[named] if isinstance(named, str) else named


@lru_cache
def window_weights(settings: SSIMSettings) -> Tensor:
    """The K weights of the separable window along one axis, float64, summing to 1."""
    if settings.window == "uniform":
        return torch.full((settings.size,), 1 / settings.size, dtype=torch.float64)
    return gaussian_weights(settings.size, settings.sigma)


def _is_product(settings: SSIMSettings) -> bool:
    """Whether eq. 8 holds: there sigma_p sigma_q cancels, so no root is taken and four blurs are enough."""
    return settings.alpha == settings.beta == settings.gamma == 1


def _pairs(p: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both stacks of planes, (M, H, W), in chunks."""
    at_once = len(p) if p.device.type != "cpu" else max(1, CHUNK // max(1, p[0].numel()))
    return zip(torch.split(p, at_once), torch.split(q, at_once), strict=True)


class _Compared(NamedTuple):
    """Planes p and q by the sum t and the difference d of their values, which make eq. 8 a product of two factors:

        SSIM = f1 f2,    f1 = 1 - 2 r1,    r1 = mu_d^2 / b1,       b1 = mu_t^2 + mu_d^2 + 2 c1,
                         f2 = 1 - 2 r2,    r2 = sigma_d^2 / b2,    b2 = sigma_t^2 + sigma_d^2 + 2 c2.

    Where little differs r is small, free of the rounding of large squares; equal planes give 1 exactly, exchanged ones
    the same. Rows come first, as `blur` wants them: values are (H, 2, M, W) for M planes, t and d less their means,
    since E[t^2] - E[t]^2 cancels badly for values far from 0; variances stay the same. Their window means are `means`,
    and `mus` with the subtracted means added again; these and the rest, (H, M, W), are as large as the border leaves.
    """

    values: Tensor
    means: Tensor
    mus: Tensor
    r1: Tensor
    b1: Tensor
    f1: Tensor
    r2: Tensor
    b2: Tensor
    f2: Tensor

    @classmethod
    def of(cls, p: Tensor, q: Tensor, settings: SSIMSettings, border: Border) -> _Compared:
        """p, q: (M, H, W)."""
        c1, c2 = constants(settings)
        p, q = p.movedim(1, 0), q.movedim(1, 0)
        stack = p.new_empty((len(p), 4, *p.shape[1:]))
        values, squares = stack[:, :2], stack[:, 2:]
        torch.add(p, q, out=values[:, 0])
        torch.sub(p, q, out=values[:, 1])
        offsets = values.mean((0, 3), keepdim=True)
        values.sub_(offsets)
        torch.mul(values, values, out=squares)
        blurred = blur(stack, window_weights(settings), border)
        means, variances = blurred[:, :2], blurred[:, 2:]
        variances.addcmul_(means, means, value=-1).clamp_min_(0)
        mus = means + offsets
        r1, b1, f1 = _factor(mus * mus, 2 * c1)
        r2, b2, f2 = _factor(variances, 2 * c2)
        return cls(values, means, mus, r1, b1, f1, r2, b2, f2)

    @property
    def similarity(self) -> Tensor:
        return self.f1 * self.f2

    def gradients(self, wanted: Sequence[bool], settings: SSIMSettings, border: Border) -> list[Tensor]:
        """A quarter of the similarity's gradients by those of p and q that are wanted, (H, M, W)."""
        by_r1, by_r2 = self.f2 / self.b1, self.f1 / self.b2  # but for a factor of -2 / b
        signs = [sign for sign, needed in zip((1, -1), wanted, strict=True) if needed]
        rows, *others = by_r1.shape
        stack = by_r1.new_empty((rows, len(signs) + 2, *others))
        by_mus, by_squares = by_r1.new_empty((rows, 2, *others)), stack[:, -2:]
        for by_both, by_r, r in ((by_mus, by_r1, self.r1), (by_squares, by_r2, self.r2)):
            torch.mul(by_r, r, out=by_both[:, 0])
            torch.sub(by_both[:, 0], by_r, out=by_both[:, 1])
        by_means = by_mus.mul_(self.mus).addcmul_(self.means, by_squares, value=-1)
        for place, sign in enumerate(signs):
            torch.add(by_means[:, 0], by_means[:, 1], alpha=sign, out=stack[:, place])
        *gradients, by_total, by_difference = blur_adjoint(stack, window_weights(settings), border).unbind(1)
        for gradient, sign in zip(gradients, signs, strict=True):
            gradient.addcmul_(by_total, self.values[:, 0]).addcmul_(by_difference, self.values[:, 1], value=sign)
        return gradients


def _factor(squares: Tensor, constant: float) -> tuple[Tensor, Tensor, Tensor]:
    """r, b and f from the squares of sum and difference, (H, 2, M, W)."""
    total, difference = squares.unbind(1)
    b = torch.add(total, difference).add_(constant)
    r = difference / b
    return r, b, torch.rsub(r, 1, alpha=2)


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
    for pair in _pairs(p, q):
        compared = _Compared.of(*pair, settings, border)
        total, count = total + compared.similarity.sum(), count + compared.f1.numel()
        if any(wanted):
            quarters.append(compared.gradients(wanted, settings, border))
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
    window = tuple(window_weights(settings).tolist()), constants(settings)
    how = {"reflect": border == "reflect", "threads": torch.get_num_threads()}
    pairs = [planes[::step] for step, needed in zip((-1, 1), wanted, strict=True) if needed]  # by the last of a pair
    found = [kernel.mean_and_gradient(*pair, *window, **how, differentiated=True) for pair in pairs]
    mean, _ = found[0] if found else kernel.mean_and_gradient(*planes, *window, **how, differentiated=False)
    return p.new_tensor(mean), [torch.from_numpy(gradient) for _, gradient in found], 1.0


def _prepared(p: Tensor, q: Tensor, settings: SSIMSettings) -> tuple[Tensor, Tensor]:
    image_batch(p, "p")
    image_batch(q, "q")
    same_shape(p, q, "p", "q")
    height, width = p.shape[-2:]
    if min(height, width) < settings.size:
        raise InputError(
            f"image must be at least as large as the {settings.size}x{settings.size} window, got {width}x{height}; "
            "use a smaller window or a larger image"
        )
    dtype = torch.float64 if torch.float64 in (p.dtype, q.dtype) else torch.float32
    return p.to(dtype), q.to(dtype)


def _centred(image: Tensor) -> tuple[Tensor, Tensor]:
    """Less its mean, and the mean (N, C, 1, 1): E[x^2] - E[x]^2 cancels badly for values far from 0.

    Variances and covariance do not depend on it, so it counts as a constant when gradients are taken.
    """
    offset = image.detach().mean(dim=(-2, -1), keepdim=True)
    return image - offset, offset


def _root(variance: Tensor) -> Tensor:
    """The root of a variance that rounding may have pushed below 0, with a gradient of 0 instead of infinity there."""
    positive = variance > torch.finfo(variance.dtype).tiny
    return torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


def _power(values: Tensor, exponent: float) -> Tensor:
    if exponent == 1:
        return values
    if exponent == 0:
        return torch.ones_like(values)
    return values.sign() * values.abs().clamp_min(1e-12) ** exponent

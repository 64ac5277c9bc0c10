"""Structural similarity (SSIM): luminance, contrast and structure of whole windows instead of single pixels.

Pure functions on tensors, differentiable, for intensities in [0, 1]. Symbols as in the paper:
mu_p, sigma_p, sigma_pq, c1, c2.

References:
    Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    Bergmann et al. 2019, arXiv:1807.02011, eq. 4-8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from flawmap.blur import Border, blur, blur_adjoint, gaussian_weights
from flawmap.checks import image_batch, same_shape
from flawmap.config import SSIMSettings
from flawmap.errors import InputError

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
    if settings.alpha == settings.beta == settings.gamma == 1:
        return _closed_product(p, q, settings, border)
    parts = ssim_parts(p, q, settings, border)
    return (
        _power(parts.luminance, settings.alpha)
        * _power(parts.contrast, settings.beta)
        * _power(parts.structure, settings.gamma)
    )


def ssim_parts(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border = "reflect") -> Parts:
    """Luminance, contrast and structure apart (eq. 5-7), as `ssim` takes and returns them."""
    p, q = _prepared(p, q, settings)
    c1, c2 = constants(settings)
    with torch.autocast(p.device.type, enabled=False):
        (p, offset_p), (q, offset_q) = _centred(p), _centred(q)
        blurred = blur(torch.stack((p, q, p * p, q * q, p * q)), window_weights(settings), border)
        mean_p, mean_q, square_p, square_q, product = blurred.unbind(0)
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


def window_weights(settings: SSIMSettings) -> Tensor:
    """The K weights of the separable window along one axis, float64, summing to 1."""
    if settings.window == "uniform":
        return torch.full((settings.size,), 1 / settings.size, dtype=torch.float64)
    return gaussian_weights(settings.size, settings.sigma)


def _closed_product(p: Tensor, q: Tensor, settings: SSIMSettings, border: Border) -> Tensor:
    """Eq. 8: sigma_p sigma_q cancels, so no root is taken and four blurs are enough."""
    p, q = _prepared(p, q, settings)
    at_once = len(p) if p.device.type != "cpu" else max(1, CHUNK // max(1, p[0].numel()))
    with torch.autocast(p.device.type, enabled=False):
        pairs = zip(torch.split(p, at_once), torch.split(q, at_once), strict=True)
        products: list[Tensor] = [
            _ClosedProduct.apply(*pair, settings, border)  # type: ignore[no-untyped-call]
            for pair in pairs
        ]
    return products[0] if len(products) == 1 else torch.cat(products)


class _ClosedProduct(torch.autograd.Function):
    """Eq. 8 with its gradient written out: three or four blurs back, and no map for each step of the way.

    S = A1 A2 / (B1 B2), where A1 = 2 mu_p mu_q + c1, A2 = 2 sigma_pq + c2, B1 = mu_p^2 + mu_q^2 + c1,
    B2 = sigma_p^2 + sigma_q^2 + c2.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, settings: SSIMSettings, border: Border) -> Tensor:
        weights, (c1, c2) = window_weights(settings), constants(settings)
        (p, offset_p), (q, offset_q) = _centred(p), _centred(q)
        blurred = blur(torch.stack((p, q, (p * p).add_(q * q), p * q)), weights, border)
        mean_p, mean_q, squares, product = blurred.unbind(0)
        mu_p, mu_q = mean_p + offset_p, mean_q + offset_q
        # Every step is rounded alike above and below the line: p and q may be exchanged, and equal ones give 1 exactly.
        means = (mean_p * mean_p).add_(mean_q * mean_q)
        a1 = (mu_p * mu_q).mul_(2).add_(c1)
        a2 = (product - mean_p * mean_q).mul_(2).add_(c2)
        b1 = (mu_p * mu_p).add_(mu_q * mu_q).add_(c1)
        b2 = (squares - means).clamp_min_(0).add_(c2)
        whole = b1 * b2
        similarity: Tensor = (a1 * a2).div_(whole)
        ctx.save_for_backward(p, q, mean_p, mean_q, mu_p, mu_q, a1, a2, b1, b2, whole, similarity)
        ctx.blurred = weights, border
        return similarity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        p, q, mean_p, mean_q, mu_p, mu_q, a1, a2, b1, b2, whole, similarity = ctx.saved_tensors
        scaled, weighted = gradient / whole, gradient * similarity
        by_a1, by_a2 = scaled * a2, scaled.mul_(a1)
        by_b1, by_b2 = (weighted / b1).neg_(), weighted.div_(b2).neg_()

        def by_mean(mean: Tensor, mu: Tensor, other_mean: Tensor, other_mu: Tensor) -> Tensor:
            """Half the derivative by one image's window mean, which all four terms hold."""
            half: Tensor = (by_a1 * other_mu).addcmul_(by_b1, mu)
            return half.addcmul_(by_b2, mean, value=-1).addcmul_(by_a2, other_mean, value=-1)

        wanted = ctx.needs_input_grad[:2]
        halves = [
            by_mean(*ones)
            for ones, needed in zip(((mean_p, mu_p, mean_q, mu_q), (mean_q, mu_q, mean_p, mu_p)), wanted, strict=True)
            if needed
        ]
        *from_means, from_squares, from_product = blur_adjoint(torch.stack((*halves, by_b2, by_a2)), *ctx.blurred)
        gradients = [
            torch.addcmul(from_means.pop(0), image, from_squares).addcmul_(other, from_product).mul_(2)
            if needed
            else None
            for image, other, needed in zip((p, q), (q, p), wanted, strict=True)
        ]
        return gradients[0], gradients[1], None, None


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

    Variances and covariance do not feel it, so it counts as a constant when gradients are taken.
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

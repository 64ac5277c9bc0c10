"""The formulas of structural similarity (SSIM) on arrays of either library, for intensities in [0, 1].

Pure functions. `flawmap.nets.ssim` adds gradients. Symbols as in the paper: mu_p, sigma_p, sigma_pq, c1, c2.

References:
    Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    Bergmann et al. 2019, arXiv:1807.02011, eq. 4-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from flawmap.core.arrays import Array, add_product, device_of, namespace_of, on_cpu, unchanging, without_autocast
from flawmap.core.checks import image_batch, same_shape
from flawmap.core.errors import InputError
from flawmap.core.settings import SSIMSettings
from flawmap.nets.window_means import Border, gaussian_window, window_means

CONSTANTS = {"paper": (0.01, 0.03), "wang": (0.01**2, 0.03**2)}
"""c1, c2 for intensities in [0, 1]: as Bergmann et al. print them; Wang et al.'s (0.01 L)^2, (0.03 L)^2 for L = 1."""

CHUNK = 1 << 18  # values compared at once on a CPU: the dozen maps between them then stay in its caches

Means = Callable[[Array, tuple[float, ...], Border], Array]
"""Window means as `window_means` gives them."""


class Parts(NamedTuple):
    """Luminance, contrast and structure, each (N, C, H, W) in [0, 1], structure in [-1, 1]; 1 = alike."""

    luminance: Array
    contrast: Array
    structure: Array


def similarity(p: Array, q: Array, settings: SSIMSettings, border: Border = "reflect") -> Array:
    """The similarity l^alpha * c^beta * s^gamma at every pixel (eq. 4; eq. 8 where all exponents are 1), without
    gradients.

    Args:
        p, q: (N, C, H, W), floating point, intensities in [0, 1] (a reconstruction may leave the range a little).
        border: `reflect` gives every pixel a value; `valid` only those whose window lies inside.
    Returns:
        (N, C, H, W), or (N, C, H - K + 1, W - K + 1) for `valid`, in [-1, 1]; 1 = the same. At least float32.
        For a gamma other than 1, negative structure keeps its sign: sign(s) |s|^gamma.
    Raises:
        InputError: shapes differ, not floating point, or an image smaller than the window.
    """
    if not is_product(settings):
        return powered(similarity_parts(p, q, settings, border), settings)
    p, q = prepared(p, q, settings)
    xp, (number, channels, height, width) = namespace_of(p), p.shape
    with without_autocast(p):
        pairs = plane_pairs(p.reshape(-1, height, width), q.reshape(-1, height, width))
        planes = [xp.moveaxis(Compared.of(*pair, settings, border).similarity, 0, 1) for pair in pairs]
    return xp.concat(planes).reshape(number, channels, *planes[0].shape[1:])


def similarity_parts(
    p: Array, q: Array, settings: SSIMSettings, border: Border = "reflect", means: Means = window_means
) -> Parts:
    """Luminance, contrast and structure apart (eq. 5-7), as `similarity` takes and returns them. means: those whose
    gradients are known, where gradients are taken."""
    p, q = prepared(p, q, settings)
    xp, (c1, c2) = namespace_of(p), constants(settings)
    with without_autocast(p):
        (p, offset_p), (q, offset_q) = _centred(p), _centred(q)
        mean_p, mean_q, square_p, square_q, product = (
            xp.moveaxis(means(xp.moveaxis(values, 2, 0), window(settings), border), 0, 2)  # alike for p and q
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


def powered(parts: Parts, settings: SSIMSettings) -> Array:
    """The product of the parts, each to its exponent (eq. 4)."""
    luminance, contrast, structure = parts
    return _power(luminance, settings.alpha) * _power(contrast, settings.beta) * _power(structure, settings.gamma)


def constants(settings: SSIMSettings) -> tuple[float, float]:
    """c1 and c2 as numbers."""
    named = settings.constants
    return CONSTANTS[named] if isinstance(named, str) else named


@lru_cache
def window(settings: SSIMSettings) -> tuple[float, ...]:
    """The K weights of the separable window along one axis, summing to 1."""
    if settings.window == "uniform":
        return (1 / settings.size,) * settings.size
    return gaussian_window(settings.size, settings.sigma)


def is_product(settings: SSIMSettings) -> bool:
    """Whether eq. 8 holds: there sigma_p sigma_q cancels, so no root is taken and four blurs are enough."""
    return settings.alpha == settings.beta == settings.gamma == 1


def plane_pairs(p: Array, q: Array) -> Iterator[tuple[Array, Array]]:
    """Both stacks of planes, (M, H, W), in chunks."""
    at_once = max(1, CHUNK // max(1, p.shape[1] * p.shape[2])) if on_cpu(p) else len(p)
    return ((p[first : first + at_once], q[first : first + at_once]) for first in range(0, len(p), at_once))


class Compared(NamedTuple):
    """Planes p and q by the sum t and the difference d of their values, which make eq. 8 a product of two factors:

        SSIM = f1 f2,    f1 = 1 - 2 r1,    r1 = mu_d^2 / b1,       b1 = mu_t^2 + mu_d^2 + 2 c1,
                         f2 = 1 - 2 r2,    r2 = sigma_d^2 / b2,    b2 = sigma_t^2 + sigma_d^2 + 2 c2.

    Where little differs r is small, free of the rounding of large squares; equal planes give 1 exactly, exchanged ones
    the same. Rows come first, as `window_means` wants them: values are (H, 2, M, W) for M planes, t and d less their
    means, since E[t^2] - E[t]^2 cancels badly for values far from 0; variances stay the same. Their window means are
    `means`, and `mus` with the subtracted means added again; these and the rest, (H, M, W), are as large as the border
    leaves.
    """

    values: Array
    means: Array
    mus: Array
    r1: Array
    b1: Array
    f1: Array
    r2: Array
    b2: Array
    f2: Array

    @classmethod
    def of(cls, p: Array, q: Array, settings: SSIMSettings, border: Border) -> Compared:
        """p, q: (M, H, W)."""
        xp, (c1, c2) = namespace_of(p), constants(settings)
        p, q = xp.moveaxis(p, 1, 0), xp.moveaxis(q, 1, 0)
        stack = xp.empty((len(p), 4, *p.shape[1:]), dtype=p.dtype, device=device_of(p))
        values, squares = stack[:, :2], stack[:, 2:]
        xp.add(p, q, out=values[:, 0])
        xp.subtract(p, q, out=values[:, 1])
        offsets = xp.mean(values, axis=(0, 3), keepdims=True)
        values -= offsets
        xp.multiply(values, values, out=squares)
        blurred = window_means(stack, window(settings), border)
        means, variances = blurred[:, :2], blurred[:, 2:]
        add_product(variances, means, means, -1)
        xp.clip(variances, 0, None, out=variances)
        mus = means + offsets
        r1, b1, f1 = _factor(mus * mus, 2 * c1)
        r2, b2, f2 = _factor(variances, 2 * c2)
        return cls(values, means, mus, r1, b1, f1, r2, b2, f2)

    @property
    def similarity(self) -> Array:
        return self.f1 * self.f2


def _factor(squares: Array, constant: float) -> tuple[Array, Array, Array]:
    """r, b and f from the squares of sum and difference, (H, 2, M, W)."""
    total, difference = squares[:, 0], squares[:, 1]
    b = total + difference
    b += constant
    r = difference / b
    f = -2 * r
    f += 1
    return r, b, f


def prepared(p: Array, q: Array, settings: SSIMSettings) -> tuple[Array, Array]:
    """Both in float32 or float64. InputError: see `similarity`."""
    image_batch(p, "p")
    image_batch(q, "q")
    same_shape(p, q, "p", "q")
    height, width = p.shape[-2:]
    if min(height, width) < settings.size:
        raise InputError(
            f"image must be at least as large as the {settings.size}x{settings.size} window, got {width}x{height}; "
            "use a smaller window or a larger image"
        )
    xp = namespace_of(p)
    dtype = xp.float64 if xp.float64 in (p.dtype, q.dtype) else xp.float32
    return xp.astype(p, dtype, copy=False), xp.astype(q, dtype, copy=False)


def _centred(image: Array) -> tuple[Array, Array]:
    """Less its mean, and the mean (N, C, 1, 1): E[x^2] - E[x]^2 cancels badly for values far from 0.

    Variances and covariance do not depend on it, so it counts as a constant when gradients are taken.
    """
    offset = namespace_of(image).mean(unchanging(image), axis=(-2, -1), keepdims=True)
    return image - offset, offset


def _root(variance: Array) -> Array:
    """The root of a variance that rounding may have pushed below 0, with a gradient of 0 instead of infinity there."""
    xp = namespace_of(variance)
    positive = variance > xp.finfo(variance.dtype).smallest_normal
    return xp.where(positive, xp.sqrt(xp.where(positive, variance, 1.0)), 0.0)


def _power(values: Array, exponent: float) -> Array:
    xp = namespace_of(values)
    if exponent == 1:
        return values
    if exponent == 0:
        return xp.ones_like(values)
    return xp.sign(values) * xp.clip(xp.abs(values), 1e-12, None) ** exponent

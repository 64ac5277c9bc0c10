"""The density of pairs of numbers, fitted once and looked up fast: a grid of logarithms, or a single Gaussian."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gaussian_kde
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float64]

GRID = 200  # points along each axis
LEAST = 1e-300  # of a sum of kernels: none is farther from every sample than 37 standard deviations
MARGIN = 3.0  # of the grid around the samples, standard deviations of a kernel


class Density(NamedTuple):
    """Logarithms of a density on a grid of white coordinates, in which a kernel has the variance 1 along each axis.

    centre: (2,) and white: (2, 2), so that (point - centre) @ white are white coordinates. low: (2,), of the grid's
    first point. spacing: (2,), between its points. heights: (G, G), the logarithms, 0 at their largest, by the first
    and the second coordinate. margin: (1,), from the grid's edge to the samples.
    """

    centre: Tensor
    white: Tensor
    low: Tensor
    spacing: Tensor
    heights: Tensor
    margin: Tensor


def kernel_density(samples: Floats) -> Density:
    """The kernel density estimate of (n, 2) samples, with Gaussian kernels and Scott's bandwidth.

    Raises:
        numpy.linalg.LinAlgError: the samples lie on a line.
    """
    centre, white = samples.mean(axis=0), _whitening(gaussian_kde(samples.T).covariance)
    whitened = (samples - centre) @ white
    low, high = whitened.min(axis=0) - MARGIN, whitened.max(axis=0) + MARGIN
    # A kernel is a product of one Gaussian along each axis, so that the sum over the samples is a product of matrices.
    first, second = np.exp(-((np.linspace(low, high, GRID)[:, :, None] - whitened.T) ** 2).swapaxes(0, 1) / 2)
    heights = np.log(np.maximum(first @ second.T, LEAST))
    return _density(centre, white, low, (high - low) / (GRID - 1), heights - heights.max(), np.array([MARGIN]))


def gaussian_density(samples: Floats) -> Density:
    """One Gaussian with the mean and the covariance of (n, 2) samples: a grid of one point.

    Raises:
        numpy.linalg.LinAlgError: the samples lie on a line.
    """
    white = _whitening(np.cov(samples, rowvar=False))
    return _density(samples.mean(axis=0), white, np.zeros(2), np.ones(2), np.zeros((1, 1)), np.zeros(1))


def rarity(points: Tensor, density: Density) -> Tensor:
    """(n, 2) to (n,): the logarithm of the largest density minus that at each point; at least 0, larger is rarer.

    Between the grid's points it is interpolated. Beyond them the density falls like a kernel at the outermost sample.
    """
    white = (points - density.centre) @ density.white
    last = torch.tensor(density.heights.shape).to(white) - 1
    place = (white - density.low) / density.spacing
    inside = place.clamp(min=torch.zeros_like(last), max=last)
    beyond = ((place - inside) * density.spacing).abs()
    # grid_sample counts from -1 to 1 and takes the second coordinate first.
    wanted = (2 * inside / last.clamp(min=1) - 1).flip(-1)[None, None]
    heights = functional.grid_sample(density.heights[None, None], wanted, align_corners=True)[0, 0, 0]
    return ((density.margin + beyond).square() - density.margin.square()).sum(-1) / 2 - heights


def _whitening(covariance: Floats) -> Floats:
    """(2, 2), so that centred rows times it have the covariance 1."""
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)).T)


def _density(*parts: Floats) -> Density:
    return Density(*(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts))

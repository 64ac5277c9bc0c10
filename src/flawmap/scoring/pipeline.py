"""From an image to its residual map: patches, reconstructions, overlaps, smoothing; whole or by bands of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from flawmap.core.settings import WINDOWED, Config, ResidualSettings
from flawmap.imaging.rows import RowBuffer, band_rows, map_bands, windows
from flawmap.methods.residuals import RESIDUALS, Decoded, Residual
from flawmap.methods.table import METHODS
from flawmap.nets.filters import blur, gaussian_weights
from flawmap.scoring.tiling import Grid, Merger, patch_batches

BATCH = 32  # most patches at once on a CPU: more spill its caches, and SSIM and samples need several times their memory
BATCH_ELSEWHERE = 256  # fewer leave a GPU waiting for the host
Reconstruct = Callable[[Tensor], Tensor]
Decode = Callable[[Tensor], Tensor | Decoded]
"""Patches to reconstructions, or to the mean and spread of samples of them. A `Reconstruct` is one."""


def residual_of(settings: ResidualSettings) -> Callable[[Tensor, Tensor | Decoded], Tensor]:
    """The residual named by the settings, as a function of (N, C, H, W) images and what was made of them."""
    function: Residual = RESIDUALS[settings.name]
    return lambda image, decoded: function(image, _decoded(decoded), settings)


def _decoded(output: Tensor | Decoded) -> Decoded:
    return Decoded(output) if isinstance(output, Tensor) else output


class Scored(NamedTuple):
    """residual: (H, W), larger is worse. reconstruction: (C, H, W), the average of the overlapping patches."""

    residual: Tensor
    reconstruction: Tensor


def batch_size(number: int, most: int = BATCH) -> int:
    """Patches in a batch, of this many: batches of one size, as few as may be, so that the last lacks least.

    >>> batch_size(620), batch_size(33), batch_size(1)
    (31, 17, 1)
    """
    return math.ceil(number / math.ceil(number / most))


def score_image(image: Tensor, reconstruct: Decode, config: Config, most: int = BATCH) -> Scored:
    """Stride over an image, reconstruct every patch, average where patches overlap, and map the residual.

    The one place that knows whether reconstructions are averaged and then compared (Bergmann et al. 2019, section
    4.2), or every patch is compared by itself and the residuals are averaged (Bergmann et al. 2021).

    Args:
        image: (C, H, W) float32 in [0, 1], at least one patch large.
        reconstruct: patches (N, C, P, P) to reconstructions of the same shape, with the spread of samples if the
            residual asks for it; any callable. Its batches are of one size, the last one filled up:
            scores depend on nothing but the image.
        most: patches at once.
    """
    size = (image.shape[-2], image.shape[-1])
    parts = list(_overlapping([image], size, reconstruct, config, most))
    reconstruction, rows = torch.cat([rebuilt for rebuilt, _ in parts], dim=1), band_rows(size[1])
    if averages_residuals(config):
        mapped = iter([torch.cat([residual for _, residual in parts if residual is not None])])
    else:
        mapped = _compared([image], [reconstruction], size[0], config.residual, rows)
    return Scored(torch.cat(list(_smoothed(mapped, size[0], config.residual.smoothing, rows))), reconstruction)


def score_bands(
    blocks: Iterable[Tensor],
    size: tuple[int, int],
    reconstruct: Decode,
    config: Config,
    *,
    rows: int,
    most: int = BATCH,
) -> Iterator[Tensor]:
    """The residual map of `score_image` for an image that comes as blocks of rows, to float32 rounding.

    Every patch is reconstructed once. Memory grows with the image's width and not with its height.

    Args:
        blocks: (C, h, W) float32 in [0, 1], one below the other.
        size: (height, width) of the image. rows: of a band, where residuals are computed with context.
        most: patches at once.
    Returns:
        Bands (h, W) of the map, one below the other.
    """
    if averages_residuals(config):
        parts = _overlapping(blocks, size, reconstruct, config, most)
        mapped: Iterator[Tensor] = (residual for _, residual in parts if residual is not None)
    else:
        seen, again = tee(blocks)
        rebuilt = (reconstruction for reconstruction, _ in _overlapping(seen, size, reconstruct, config, most))
        mapped = _compared(again, rebuilt, size[0], config.residual, rows)
    return _smoothed(mapped, size[0], config.residual.smoothing, rows)


def averages_residuals(config: Config) -> bool:
    """Whether patches are compared by themselves and their residuals averaged, or the other way round."""
    return (config.tiling.average or METHODS[config.loss.name].average) == "residuals"


def _overlapping(
    blocks: Iterable[Tensor], size: tuple[int, int], reconstruct: Decode, config: Config, most: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows of the averaged reconstruction (C, h, W) and, where residuals are averaged, of these (h, W); h may be 0."""
    grid = Grid(config.model.patch, config.tiling.stride)
    residual = residual_of(config.residual)
    rebuilt = Merger(grid, size, config.tiling.weights)
    mapped = Merger(grid, size, config.tiling.weights) if averages_residuals(config) else None
    count = batch_size(math.prod(map(len, grid.sides(size))), most)
    for patches in patch_batches(blocks, grid, size, count):
        filled = functional.pad(patches, (0, 0, 0, 0, 0, 0, 0, count - len(patches)))
        decoded = _decoded(reconstruct(filled))
        residuals = None if mapped is None else mapped.add(residual(filled, decoded)[: len(patches), None])[0]
        yield rebuilt.add(decoded.reconstruction[: len(patches)]), residuals


def _compared(
    image: Iterable[Tensor], reconstruction: Iterable[Tensor], height: int, settings: ResidualSettings, rows: int
) -> Iterator[Tensor]:
    """The residual of an image and its reconstruction, both in blocks (C, h, W), by bands (h, W)."""
    residual = residual_of(settings)
    margin = settings.ssim.size if settings.name in WINDOWED else 0  # a whole window: a last band may be a row
    ours, theirs = RowBuffer(image, axis=1), RowBuffer(reconstruction, axis=1)
    for window in windows(height, rows, margin):
        pair = (rolling.take(window.first, window.last)[None] for rolling in (ours, theirs))
        yield residual(*pair)[0][window.inner]


def _smoothed(mapped: Iterator[Tensor], height: int, sigma: float, rows: int) -> Iterator[Tensor]:
    """`smoothed` for a map that comes by bands."""
    if sigma == 0:
        return mapped
    return map_bands(mapped, height, rows, math.ceil(3 * sigma), lambda part: smoothed(part, sigma))


def smoothed(residual: Tensor, sigma: float) -> Tensor:
    """A residual map (H, W) blurred by a Gaussian of a deviation in pixels, 0 = as it is.

    A flaw is a place where many pixels in a row disagree; texture that is reproduced a little off disagrees here and
    there. The window ends at three deviations, or at the map's own side, and reflects at the border.
    """
    if sigma == 0:
        return residual
    reach = min(math.ceil(3 * sigma), min(residual.shape) - 1)
    return blur(residual, gaussian_weights(2 * reach + 1, sigma), "reflect")

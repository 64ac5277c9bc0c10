"""From an image that arrives by rows to its residual map by bands of rows: one pipeline for every size of image.

Patches are scored in batches of one size, overlapping results are averaged, and bands leave as soon as no later patch
covers them. Memory grows with an image's width and not with its height, and any cut into bands gives the same map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, tee
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from flawmap.core.settings import TilingSettings
from flawmap.imaging.rows import RowBuffer, band_rows, map_bands, windows
from flawmap.methods.interface import PatchScorer
from flawmap.nets.filters import blur, gaussian_weights
from flawmap.scoring.tiling import Grid, Merger, patch_batches


class ScoredRows(NamedTuple):
    """A band at the working scale. residual: (h, W). reconstruction: (C, h, W), the average of overlapping patches."""

    residual: Tensor
    reconstruction: Tensor | None


class _Merged(NamedTuple):
    """Rows that are final once a batch of patches was merged; their number may be 0."""

    residual: Tensor | None
    reconstruction: Tensor | None


def batch_size(number: int, largest: int) -> int:
    """Patches in a batch, of this many: batches of one size, as few as possible, so that the last lacks least.

    >>> batch_size(620, 32), batch_size(33, 32), batch_size(1, 32)
    (31, 17, 1)
    """
    return math.ceil(number / math.ceil(number / largest))


def score_rows(
    blocks: Iterable[Tensor],
    size: tuple[int, int],
    scorer: PatchScorer,
    grid: Grid,
    tiling: TilingSettings,
    *,
    smoothing: float = 0.0,
    reconstruction: bool = False,
) -> Iterator[ScoredRows]:
    """Stride over an image, score every patch once, average where patches overlap, and map the residual.

    The one place that knows whether reconstructions are averaged and then compared (Bergmann et al. 2019, section
    4.2), or every patch is compared by itself and the residuals are averaged (Bergmann et al. 2021).

    Args:
        blocks: (C, h, W) float32 in [0, 1], one below the other. size: (H, W) of the image, at least one patch.
        smoothing: sigma of a Gaussian over the map, pixels; 0: none.
        reconstruction: whether bands carry the reconstruction, where the method has one.
    """
    height, rows = size[0], band_rows(size[1])
    residuals, pictures = _mapped(blocks, size, scorer, grid, tiling, reconstruction=reconstruction)
    if smoothing:
        margin = math.ceil(3 * smoothing)
        residuals = map_bands(residuals, height, rows, margin, lambda part: smoothed(part, smoothing))
    maps, shown = RowBuffer(residuals), None if pictures is None else RowBuffer(pictures, axis=1)
    for window in windows(height, rows, 0):
        residual = maps.take(window.first, window.last)
        yield ScoredRows(residual, None if shown is None else shown.take(window.first, window.last))


def _mapped(
    blocks: Iterable[Tensor],
    size: tuple[int, int],
    scorer: PatchScorer,
    grid: Grid,
    tiling: TilingSettings,
    *,
    reconstruction: bool,
) -> tuple[Iterator[Tensor], Iterator[Tensor] | None]:
    """Bands of the map, not smoothed yet, and of the reconstruction, if it is asked for and the method has one."""
    if scorer.compare is None:
        merged = _merged(blocks, size, scorer, grid, tiling, reconstruction=reconstruction)
        parts, others = tee(merged) if reconstruction else (merged, iter(()))
        residuals = (part.residual for part in parts if part.residual is not None)
        first = next(others, None)
        if first is None or first.reconstruction is None:
            return residuals, None
        pictures = chain(
            (first.reconstruction,), (part.reconstruction for part in others if part.reconstruction is not None)
        )
        return residuals, pictures
    seen, again = tee(blocks)
    merged = _merged(seen, size, scorer, grid, tiling, reconstruction=True)
    rebuilt = (part.reconstruction for part in merged if part.reconstruction is not None)
    compared, shown = tee(rebuilt) if reconstruction else (rebuilt, None)
    return _compared(again, compared, size[0], scorer, band_rows(size[1])), shown


def _merged(
    blocks: Iterable[Tensor],
    size: tuple[int, int],
    scorer: PatchScorer,
    grid: Grid,
    tiling: TilingSettings,
    *,
    reconstruction: bool,
) -> Iterator[_Merged]:
    """Averages of overlapping patches: of residuals, of reconstructions, or of both, as far as they are needed."""
    residuals = Merger(grid, size, tiling.weights) if scorer.compare is None else None
    pictures = Merger(grid, size, tiling.weights) if scorer.compare is not None or reconstruction else None
    count = batch_size(math.prod(map(len, grid.sides(size))), scorer.batch)
    for patches in patch_batches(blocks, grid, size, count):
        number = len(patches)
        filled = functional.pad(patches, (0, 0, 0, 0, 0, 0, 0, count - number))
        scores = scorer.score(filled)
        residual = picture = None
        if residuals is not None:
            assert scores.residual is not None, "a method without compare() gives residuals"
            residual = residuals.add(_per_pixel(scores.residual[:number], grid.patch)[:, None])[0]
        if pictures is not None and scores.reconstruction is not None:
            picture = pictures.add(scores.reconstruction[:number])
        yield _Merged(residual, picture)


def _per_pixel(residual: Tensor, side: int) -> Tensor:
    """(N, P, P): a patch's one residual counts for all of its pixels."""
    return residual if residual.ndim == 3 else residual[:, None, None].expand(-1, side, side)


def _compared(
    image: Iterable[Tensor], reconstruction: Iterable[Tensor], height: int, scorer: PatchScorer, rows: int
) -> Iterator[Tensor]:
    """The residual of an image and its reconstruction, both in blocks (C, h, W), by bands (h, W)."""
    assert scorer.compare is not None
    first, second = RowBuffer(image, axis=1), RowBuffer(reconstruction, axis=1)
    for window in windows(height, rows, scorer.context):
        pair = (buffer.take(window.first, window.last)[None] for buffer in (first, second))
        yield scorer.compare(*pair)[0][window.inner]


def smoothed(residual: Tensor, sigma: float) -> Tensor:
    """A residual map (H, W) after a Gaussian filter with this standard deviation in pixels, 0 = as it is.

    A flaw is a place where many neighbouring pixels disagree; texture that is reconstructed inexactly disagrees at
    scattered pixels. The filter ends at three standard deviations, or at the map's side, and reflects at the border.
    """
    if sigma == 0:
        return residual
    radius = min(math.ceil(3 * sigma), min(residual.shape) - 1)
    return blur(residual, gaussian_weights(2 * radius + 1, sigma), "reflect")

"""From an image that arrives by rows to its residual map by bands of rows: one pipeline for every size of image.

Patches are scored in batches of one size, overlapping results are averaged, and bands leave as soon as no later patch
covers them. Memory grows with an image's width and not with its height, and any cut into bands gives the same map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product, tee

from flawmap.core.arrays import Array, namespace_of, on_cpu, zeros_of
from flawmap.core.parallel import side_by_side
from flawmap.core.settings import TilingSettings
from flawmap.imaging.rows import RowBuffer, band_rows, windows
from flawmap.methods.interface import ImageEncoder, PatchScorer
from flawmap.nets.window_means import gaussian_window, window_means
from flawmap.scoring.tiling import Grid, Merger, patch_batches

SMALL = 1 << 16  # pixels of a map: below, starting threads would take longer than they save


def batch_size(number: int, largest: int) -> int:
    """Patches in a batch, of this many: batches of one size, as few as possible, so that the last lacks least.

    >>> batch_size(620, 32), batch_size(33, 32), batch_size(1, 32)
    (31, 17, 1)
    """
    return math.ceil(number / math.ceil(number / largest))


def score_rows(
    blocks: Iterable[Array],
    size: tuple[int, int],
    scorer: PatchScorer,
    grid: Grid,
    tiling: TilingSettings,
    *,
    scales: Sequence[float] = (0.0,),
    reconstruction: bool = False,
) -> Iterator[Array]:
    """Stride over an image, score every patch once, average where patches overlap, and map the residual.

    The one place that knows whether reconstructions are averaged and then compared (Bergmann et al. 2019, section
    4.2), or every patch is compared by itself and the residuals are averaged (Bergmann et al. 2021).

    Args:
        blocks: (C, h, W) float32 in [0, 1], one below the other. size: (H, W) of the image, at least one patch.
        scales: sigmas of Gaussians over each residual map, pixels; 0: none.
        reconstruction: whether bands carry the reconstruction, where the method has one.
    Returns:
        Bands (L + C, h, W): layers, which are each of the method's residuals at each scale, all scales of the first
        residual first, and the reconstruction; (L, h, W) without the latter.
    """
    mapped = RowBuffer(
        (_merged if scorer.compare is None else _compared)(
            blocks, size, scorer, grid, tiling, reconstruction=reconstruction
        ),
        axis=1,
    )
    for window in windows(size[0], band_rows(size[1]), math.ceil(3 * max(scales))):
        band = mapped.take(window.first, window.last)
        each = side_by_side if on_cpu(band) and math.prod(band.shape[1:]) > SMALL else map
        layers = each(lambda pair: smoothed(*pair)[None], product(band[: scorer.parts], scales))
        yield namespace_of(band).concat((*layers, band[scorer.parts :]))[:, window.inner]


def _merged(
    blocks: Iterable[Array],
    size: tuple[int, int],
    scorer: PatchScorer,
    grid: Grid,
    tiling: TilingSettings,
    *,
    reconstruction: bool,
) -> Iterator[Array]:
    """Averages of overlapping patches: of residuals unless there is `compare`, and of reconstructions if asked for."""
    merger = Merger(grid, size, tiling.weights)
    count = batch_size(math.prod(map(len, grid.sides(size))), scorer.batch)
    for patches, *features in _batches(blocks, size, scorer.encoder, grid, count):
        scores = scorer.score(*(_filled(part, count) for part in (patches, *features)))
        parts = []
        if scorer.compare is None:
            assert scores.residual is not None, "a method without compare() gives residuals"
            parts.append(_per_pixel(scores.residual, grid.patch))
        if reconstruction and scores.reconstruction is not None:
            parts.append(scores.reconstruction)
        yield merger.add(namespace_of(patches).concat(parts, axis=1)[: len(patches)])


def _batches(
    blocks: Iterable[Array], size: tuple[int, int], encoder: ImageEncoder | None, grid: Grid, count: int
) -> Iterator[tuple[Array, ...]]:
    """Batches of patches, beside their features where there is an encoder, which sees the image once."""
    if encoder is None:
        yield from ((patches,) for patches in patch_batches(blocks, grid, size, count))
        return
    seen, again = tee(blocks)
    height, width = (side // encoder.spacing for side in size)
    features = patch_batches(_encoded(again, size, encoder), grid.among(encoder.spacing), (height, width), count)
    yield from zip(patch_batches(seen, grid, size, count), features, strict=True)


def _encoded(blocks: Iterable[Array], size: tuple[int, int], encoder: ImageEncoder) -> Iterator[Array]:
    """The features of an image (F, h, w), by bands that see as far over their borders as a feature reaches."""
    image, spacing = RowBuffer(blocks, axis=1), encoder.spacing
    rows, margin = (-(-least // spacing) * spacing for least in (band_rows(size[1]), encoder.reach))
    for window in windows(size[0], rows, margin):
        features = encoder.encode(image.take(window.first, window.last)[None])[0]
        yield features[:, window.inner.start // spacing : window.inner.stop // spacing]


def _compared(
    blocks: Iterable[Array],
    size: tuple[int, int],
    scorer: PatchScorer,
    grid: Grid,
    tiling: TilingSettings,
    *,
    reconstruction: bool,
) -> Iterator[Array]:
    """The residual of an image and its averaged reconstruction, and the latter if asked for."""
    assert scorer.compare is not None
    seen, again = tee(blocks)
    image = RowBuffer(again, axis=1)
    rebuilt = RowBuffer(_merged(seen, size, scorer, grid, tiling, reconstruction=True), axis=1)
    for window in windows(size[0], band_rows(size[1]), scorer.context):
        shown, merged = (rows.take(window.first, window.last) for rows in (image, rebuilt))
        residuals = scorer.compare(shown[None], merged[None])[0]
        found = namespace_of(shown).concat((residuals, merged)) if reconstruction else residuals
        yield found[:, window.inner]


def _filled(batch: Array, count: int) -> Array:
    """A batch of so many patches: those that it lacks are black."""
    if len(batch) == count:
        return batch
    return namespace_of(batch).concat((batch, zeros_of(batch, count - len(batch), *batch.shape[1:])))


def _per_pixel(residual: Array, side: int) -> Array:
    """(N, K, P, P): a patch's one residual counts for all of its pixels."""
    if residual.ndim == 1:
        return namespace_of(residual).broadcast_to(residual[:, None, None, None], (len(residual), 1, side, side))
    return residual if residual.ndim == 4 else residual[:, None]


def smoothed(residual: Array, sigma: float) -> Array:
    """A residual map (H, W) after a Gaussian filter with this standard deviation in pixels, 0 = as it is.

    A flaw is a place where many neighbouring pixels disagree; texture that is reconstructed inexactly disagrees at
    scattered pixels. The filter ends at three standard deviations, or at the map's side, and reflects at the border.
    """
    if sigma == 0:
        return residual
    radius = min(math.ceil(3 * sigma), min(residual.shape) - 1)
    return window_means(residual, gaussian_window(2 * radius + 1, sigma), "reflect")

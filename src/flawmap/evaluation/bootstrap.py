"""Percentile intervals of the pixel metrics, by resampling whole images: what that means is said in `intervals`.

Each image is kept as counts by coarse bin (`image_counts.ImageScores`), so the counts of all resamples are a matrix
product, (S, N) times (N, C), and the metrics are those of `formulas`, a row for each resample. Where scores spread over
a few octaves, the coarse bins move AUROC and AU-PRO by less than 1e-4, average precision and F1 by less than 1e-3, and
the overlap of a region by the few of its pixels that lie in the bin of the threshold. An interval is shifted by as much
against its metric, and is no wider for it.

Memory beside the images' own counts: some 100 MB, 4 bytes for each image and resample, and 8 bytes for each region and
distinct threshold of the overlap. Time: some tenths of a second, and 1 to 5 ms for each image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.evaluation.formulas import PIXEL_METRICS, Cumulative, Floats, Formula, weighted_quantiles
from flawmap.evaluation.histograms import grouped, undefined_because
from flawmap.evaluation.image_counts import ImageScores
from flawmap.evaluation.intervals import (
    RESAMPLES,
    Bootstrap,
    bootstrap_weights,
    percentile_interval,
    row_blocks,
)
from flawmap.evaluation.metrics import OVERLAP_QUANTILES, OVERLAP_RATE

QUARTILES = tuple(f"overlap_at_5_q{100 * quantile:g}" for quantile in OVERLAP_QUANTILES)
METRICS = (*PIXEL_METRICS, *QUARTILES)
COLUMNS = 8192  # about the most columns a table of images has
BLOCK = 1 << 20  # cells of a table at a time: 8 MiB
NEVER_BOTH = "no resample has both good and defective pixels; draw more"

Integers = NDArray[np.int64]


def bootstrap(images: Sequence[ImageScores], resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
    """Percentile intervals of the pixel metrics, by drawing good and defective images, apart, with replacement.

    Args:
        images: what each image adds, in any order, but the draws go by it: another order is another seed.
        resamples: how many sets are drawn; 1000 settle two digits of an interval's ends.
    Raises:
        InputError: resamples below 1.
    """
    values = resampled(images, bootstrap_weights(defective_of(images), resamples, seed))
    dropped = int(np.isnan(values["auroc"]).sum())
    reason = _undefined(images) or (NEVER_BOTH if dropped == resamples else None)
    defined = {name: found[~np.isnan(found)] for name, found in values.items()}
    intervals = {name: percentile_interval(found) if len(found) else None for name, found in defined.items()}
    return Bootstrap(intervals, resamples, dropped, reason)


def defective_of(images: Sequence[ImageScores]) -> NDArray[np.bool_]:
    """(N,): which images have a defective pixel."""
    return np.array([len(image.regions.area) > 0 for image in images], np.bool_)


def resampled(images: Sequence[ImageScores], weights: NDArray[np.integer[Any]]) -> dict[str, Floats]:
    """Every metric of every resample.

    Args:
        images: N of them. weights: (S, N), how often each image counts.
    Returns:
        (S,) by metric; NaN where a resample has no good or no defective pixels.
    """
    values = {name: np.full(len(weights), np.nan) for name in METRICS}
    if _undefined(images) is not None:
        return values
    table = _Table.of(images)
    lowest = np.zeros(len(weights), np.int64)
    for block in row_blocks(len(weights), table.columns, BLOCK):
        counts = table.cumulative(weights[block])
        lowest[block] = _lowest_column(counts.false)
        for rows in row_blocks(block.stop - block.start, table.columns):
            part = Cumulative(*(array[rows] for array in counts))
            place = slice(block.start + rows.start, block.start + rows.stop)
            for name, formula in PIXEL_METRICS.items():
                values[name][place] = _defined(formula, part)
    values |= dict(zip(QUARTILES, table.overlap_quantiles(weights, lowest).T, strict=True))
    lacking = np.isnan(values["auroc"])
    return {name: np.where(lacking, np.nan, found) for name, found in values.items()}


def _defined(formula: Formula, counts: Cumulative) -> Floats:
    """The metric of each row, NaN for those without good or without defective pixels."""
    both = (counts.false[:, -1] > 0) & (counts.true[:, -1] > 0)
    if both.all():
        return formula(counts).value
    values = np.full(len(both), np.nan)
    if both.any():
        values[both] = formula(Cumulative(*(array[both] for array in counts))).value
    return values


def _lowest_column(false: Floats) -> Integers:
    """(S,): the last column before which no more than the rate of the good pixels lies; false: (S, C), cumulative."""
    before = np.concatenate([np.zeros((len(false), 1)), false[:, :-1]], axis=1)
    columns: Integers = np.sum(before <= OVERLAP_RATE * false[:, -1:], axis=1) - 1
    return columns


@dataclass(frozen=True, eq=False)
class _Table:
    """Images as rows of counts in columns of falling scores: one column holds one or several coarse bins.

    Rows are made when they are used, some images at a time, so that memory does not grow with their number.
    column_of: the column of each coarse bin; those that are occupied by no image have any.
    """

    images: Sequence[ImageScores]
    column_of: Integers
    columns: int

    @classmethod
    def of(cls, images: Sequence[ImageScores]) -> _Table:
        bins = [(image.bin, image.count, *_coarse(image)) for image in images]
        good, defective = np.zeros((2, 1 + max(int(part.max(initial=0)) for b in bins for part in (b[0], b[2]))))
        for good_bin, good_count, defective_bin, defective_count in bins:
            good[good_bin] += good_count
            np.add.at(defective, defective_bin, defective_count)
        occupied = np.flatnonzero(good + defective)[::-1]  # falling scores
        groups = grouped(good[occupied], defective[occupied], COLUMNS)
        column_of = np.zeros(len(good), np.int64)
        column_of[occupied] = groups
        return cls(images, column_of, int(groups[-1]) + 1)

    def cumulative(self, weights: NDArray[np.integer[Any]]) -> Cumulative:
        """The counts of some resamples, (S, C) each. weights: (S, N)."""
        sums = np.zeros((5, len(weights), self.columns))
        false, true, overlap, image_overlap, normal = sums
        for block in row_blocks(len(self.images), self.columns, BLOCK):
            images, times = self.images[block], weights[:, block].astype(np.float64)
            flawed = defective_of(images)
            free = ~flawed & np.array([image.good_pixels > 0 for image in images])
            good = self._rows((image.bin, image.count) for image in images)
            false += times @ good
            normal += (times[:, free] / good[free].sum(axis=1)) @ good[free]
            if flawed.any():
                regions = [(_coarse(image)[0], image.regions) for image in images if len(image.regions.area)]
                defective = self._rows((bins, part.count) for bins, part in regions)
                true += times[:, flawed] @ defective
                image_overlap += (times[:, flawed] / defective.sum(axis=1)) @ defective
                overlap += times[:, flawed] @ self._rows((bins, part.fraction) for bins, part in regions)
        return Cumulative(*np.cumsum(sums, axis=2, out=sums))

    def _rows(self, images: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Floats:
        """(n, C) of n images: the sums of weights in each column, from coarse bins with weights."""
        return np.stack([np.bincount(self.column_of[bins], weights, self.columns) for bins, weights in images])

    def overlap_quantiles(self, weights: NDArray[np.integer[Any]], lowest: Integers) -> Floats:
        """(S, 3): quantiles over regions of the fraction of each that lies in columns before the lowest one allowed.

        weights: (S, N). lowest: (S,), a column.
        """
        thresholds, which = np.unique(-lowest, return_inverse=True)  # -column rises with the scores
        regions = [replace(image.regions, bin=-self.column_of[_coarse(image)[0]]) for image in self.images]
        fractions = np.concatenate([part.fractions_above(thresholds) for part in regions], axis=1)
        owner = np.repeat(np.arange(len(regions)), [len(part.area) for part in regions])
        return np.concatenate(
            [
                weighted_quantiles(fractions[which[rows]], weights[rows][:, owner], OVERLAP_QUANTILES)
                for rows in row_blocks(len(weights), len(owner))
            ]
        )


def _coarse(image: ImageScores) -> tuple[Integers, Integers]:
    """The coarse bins of an image's defective pixels, as of its good ones, with counts."""
    return image.regions.bin >> image.dropped_bits, image.regions.count


def _undefined(images: Sequence[ImageScores]) -> str | None:
    good, defective = (sum(image.good_pixels for image in images), sum(image.defective_pixels for image in images))
    return undefined_because(good, defective, "pixels")

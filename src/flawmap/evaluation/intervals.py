"""Confidence intervals over images: how far a metric might vary with the images that were measured.

The pixels of an image are not independent, neighbours least of all; images are. So whole images are drawn with
replacement, as many as there are, and the metric is computed again; the percentile interval holds the middle of the
resampled values. Good and defective images are drawn apart, so every resample has as many of each as the set. An
interval answers "what if other images of the same kinds had been measured", and nothing about other trainings, other
materials or other labels.

Percentile intervals of a few images are rough: below some twenty they tend to be too narrow, and one image has an
interval without width, which says nothing. Where most images lack defects, or one holds most of the defective pixels,
the same holds for many more.

References:
    Efron, Tibshirani 1993, An Introduction to the Bootstrap, chapters 6, 8 and 13. Clopper, Pearson 1934, Biometrika,
    doi:10.1093/biomet/26.4.404.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log1p
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawmap.core.errors import InputError
from flawmap.evaluation.curves import labelled
from flawmap.evaluation.formulas import CURVE_METRICS, Floats
from flawmap.evaluation.histograms import undefined_because

RESAMPLES = 1000
CONFIDENCE = 0.95  # the fraction of the resampled values inside: they end at the 2.5 % and 97.5 % quantiles
CELLS = 1 << 18  # of one matrix that formulas work on: 2 MiB, which caches hold

Weights = NDArray[np.int32]


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals by metric; None where a metric is undefined, all of them where `undefined` says why.

    resamples: how many were drawn. dropped: how many of them count nowhere, for want of good or of defective pixels;
    as good and defective images are drawn apart, that takes images without pixels in the region of interest.
    """

    intervals: dict[str, Interval | None]
    resamples: int
    dropped: int
    undefined: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types: [low, high] by metric, None where undefined."""
        ends = {name: None if ends is None else list(ends) for name, ends in self.intervals.items()}
        return {"level": CONFIDENCE, "resamples": self.resamples, "dropped": self.dropped, **ends}


def bootstrap_weights(defective: NDArray[np.bool_], resamples: int, seed: int) -> Weights:
    """(S, N): how often each image is in each resample; a function of the seed.

    Good and defective images are drawn apart: over each kind a row adds up to the number of its images.
    Memory: 4 bytes for each image and resample.

    Args:
        defective: (N,) bool, the kind of each image.
    Raises:
        InputError: resamples below 1.
    """
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    generator = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(defective)), np.int32)
    for kind in (~defective, defective):
        images = int(kind.sum())
        for rows in row_blocks(resamples, images) if images else ():
            drawn = generator.multinomial(images, np.full(images, 1 / images), size=rows.stop - rows.start)
            weights[rows, kind] = drawn
    return weights


def image_intervals(scores: ArrayLike, defective: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
    """Intervals of the metrics of whole images, AUROC, average precision and F1-max.

    Args:
        scores: (N,), finite, larger is worse. defective: (N,) bool.
    Raises:
        InputError: two shapes, NaN or infinite scores, or resamples below 1.
    """
    values, flawed = labelled(scores, defective)
    reason = undefined_because(int((~flawed).sum()), int(flawed.sum()), "images")
    if reason is not None:
        return Bootstrap(dict.fromkeys(CURVE_METRICS), resamples, resamples, reason)
    weights = bootstrap_weights(flawed, resamples, seed)
    order = np.argsort(-values, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    found: dict[str, list[Floats]] = {name: [] for name in CURVE_METRICS}
    for part in row_blocks(resamples, len(values)):
        drawn = weights[part][:, order]
        false, true = (
            np.cumsum(drawn * kind[order], axis=1)[:, last_of_ties].astype(np.float64) for kind in (~flawed, flawed)
        )
        for name, formula in CURVE_METRICS.items():
            found[name].append(formula(false, true).value)
    intervals = {name: percentile_interval(np.concatenate(parts)) for name, parts in found.items()}
    return Bootstrap(dict(intervals), resamples, 0)


def rate_interval(
    counts: Sequence[int], totals: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The interval of a pooled rate, sum of counts over sum of totals, by drawing whole images (a cluster bootstrap).

    It has no width where all counts are 0; `binomial_interval` of the images with a count says then what is known.

    Args:
        counts, totals: of each image, pixels say; totals above 0.
    Raises:
        InputError: no image, or resamples below 1.
    """
    if not len(counts):
        raise InputError("a rate needs at least one image, got none")
    weights = bootstrap_weights(np.zeros(len(counts), np.bool_), resamples, seed)
    return percentile_interval((weights @ np.asarray(counts)) / (weights @ np.asarray(totals)))


def binomial_interval(count: int, total: int) -> Interval:
    """The exact (Clopper-Pearson) interval of a fraction of independent images.

    Args:
        count: how many of `total` images, at least 1.
    Raises:
        InputError: a count outside 0 to total, or no images.
    """
    if not 0 <= count <= total or total < 1:
        raise InputError(f"count must lie in 0 to total, and total be at least 1, got {count} of {total}")
    tail = (1 - CONFIDENCE) / 2
    number = np.arange(total + 1)
    factorials = np.cumsum(np.log(np.maximum(number, 1)))  # logarithms
    ways = factorials[-1] - factorials - factorials[::-1]

    def at_least(least: int, rate: float) -> float:
        """The probability of at least so many images at a rate."""
        return float(np.exp(ways + number * log(rate) + (total - number) * log1p(-rate))[least:].sum())

    low = 0.0 if count == 0 else _bisected(lambda rate: at_least(count, rate) > tail)
    high = 1.0 if count == total else _bisected(lambda rate: at_least(count + 1, rate) > 1 - tail)
    return Interval(low, high)


def percentile_interval(values: Floats) -> Interval:
    """The interval that holds the middle of some values, (S,), with S at least 1."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def row_blocks(rows: int, columns: int, cells: int = CELLS) -> list[slice]:
    """Slices of so many rows that a matrix of that many columns has about `cells` cells; one row at least."""
    step = max(1, cells // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _bisected(above: Callable[[float], bool]) -> float:
    """The rate in (0, 1) from which on a rising condition holds, to the last bit or so."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high

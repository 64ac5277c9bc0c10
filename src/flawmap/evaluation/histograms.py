"""Mergeable histograms of scores: the pixels of a data set in constant memory.

The bins are the upper 20 bits of a float32's bit pattern. The patterns of floats are ordered as the floats are, so no
range need be known beforehand, bins are 0.05 % of a value wide, and histograms of images, of processes and of machines
add up to that of the whole set. Where all scores fit in memory, `Distinct` gives every score a bin of its own, and
nothing is lost. Everywhere "above a threshold" means strictly above, and larger scores are worse.

A histogram holds its occupied bins alone, a few thousand for an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import Mask

BITS = 20
BINS = 1 << BITS

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class FloatBits:
    """Bins by the upper bits of a float's pattern, the same for every set.

    count: of all bins. dropped_bits: of a bin's number, by `image_counts.ImageScores`.
    """

    count: int = BINS
    dropped_bits: int = 3  # leaves bins 0.4 % of a value wide

    def of(self, scores: Floats) -> NDArray[np.int64]:
        """The bin of each score: the upper bits of its pattern, turned so that their order is the scores' order."""
        if scores.dtype != np.float32:
            raise InputError(f"scores must be float32, got {scores.dtype}; pass scores.astype(np.float32)")
        finite(scores, "scores")
        bits = np.ascontiguousarray(scores + np.float32(0)).view(np.uint32)  # + 0: -0 and 0 are one score
        negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones below zero: there the order reverses
        keys = bits ^ (negative | np.uint32(1 << 31))
        return (keys >> (32 - BITS)).astype(np.int64)

    def edge(self, bins: NDArray[np.integer[Any]]) -> Floats:
        """The largest float32 of each bin: a threshold there has exactly the higher bins strictly above it."""
        keys = (((bins.astype(np.int64) + 1) << (32 - BITS)) - 1).astype(np.uint32)
        bits = np.where(keys >> 31, keys ^ np.uint32(1 << 31), ~keys)
        # -0 has a pattern of its own below that of 0, but is no smaller: 0 would not lie above it.
        return np.where(bits == 1 << 31, np.uint32((1 << 31) + 1), bits).view(np.float32)


@dataclass(frozen=True, eq=False)
class Distinct:
    """A bin for each distinct score of a set: exact, as long as memory holds them. values: (D,) float, ascending."""

    values: NDArray[Any]
    dropped_bits: int = 0

    @classmethod
    def among(cls, scores: Iterable[NDArray[Any]]) -> Distinct:
        """The bins for all scores of a set."""
        values = np.concatenate([part.ravel() for part in scores])
        finite(values, "scores")
        return cls(np.unique(values))

    @property
    def count(self) -> int:
        return len(self.values)

    def of(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """The bin of each score."""
        places = np.searchsorted(self.values, scores)
        if scores.size and (places.max() == self.count or not np.array_equal(self.values[places], scores)):
            raise InputError("scores must be among those that the bins were made of; make them of all scores")
        return places

    def edge(self, bins: NDArray[np.integer[Any]]) -> Floats:
        """The score of each bin; of the bin before the first one a number below all scores."""
        below_all = np.nextafter(self.values[0], self.values.dtype.type(-np.inf))
        edges: Floats = np.where(bins < 0, below_all, self.values[np.maximum(bins, 0)])
        return edges


Binning = FloatBits | Distinct
"""Maps scores to numbered bins; larger scores have larger numbers."""

FLOAT_BITS = FloatBits()


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """Counts of good and of defective pixels in the occupied bins; `+` merges histograms of one binning.

    bins: (B,) int64, ascending. good, defective: (B,) int64, not both 0.
    """

    bins: NDArray[np.int64]
    good: Counts
    defective: Counts
    binning: Binning = FLOAT_BITS

    @classmethod
    def empty(cls, binning: Binning = FLOAT_BITS) -> ScoreHistogram:
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, binning)

    @classmethod
    def of(cls, scores: NDArray[Any], defective: Mask | None = None, binning: Binning = FLOAT_BITS) -> ScoreHistogram:
        """The histogram of some scores.

        Args:
            scores: of any shape, finite; float32 for `FLOAT_BITS`.
            defective: bool of the same shape; None: all are good.
        Raises:
            InputError: another type, two shapes, NaN or infinite scores.
        """
        if defective is not None and (defective.shape != scores.shape or defective.dtype != np.bool_):
            raise InputError(
                f"defective must be bool of the scores' shape {shape_text(scores.shape)}, "
                f"got {defective.dtype} {shape_text(defective.shape)}"
            )
        bins = binning.of(scores).ravel()
        if not len(bins):
            return cls.empty(binning)
        first = int(bins.min())  # the range between the extreme scores is counted, not all bins
        both = np.bincount(bins - first)
        occupied = np.flatnonzero(both)
        if defective is None or not defective.any():
            return cls(occupied + first, both[occupied], np.zeros(len(occupied), np.int64), binning)
        flawed = np.bincount(bins[defective.ravel()] - first, minlength=len(both))
        return cls(occupied + first, (both - flawed)[occupied], flawed[occupied], binning)

    @classmethod
    def merged(cls, parts: Sequence[ScoreHistogram]) -> ScoreHistogram:
        """The sum of histograms of one binning, at least one."""
        bins = np.unique(np.concatenate([part.bins for part in parts]))
        good, defective = np.zeros((2, len(bins)), np.int64)
        for part in parts:
            places = np.searchsorted(bins, part.bins)
            good[places] += part.good
            defective[places] += part.defective
        return cls(bins, good, defective, parts[0].binning)

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram.merged((self, other))

    @property
    def good_pixels(self) -> int:
        return int(self.good.sum())

    @property
    def defective_pixels(self) -> int:
        return int(self.defective.sum())

    @property
    def undefined(self) -> str | None:
        """Why no ROC curve exists: "no pixels", "no defective pixels" or "no good pixels"; None if one does."""
        return undefined_because(self.good_pixels, self.defective_pixels, "pixels")


def quantile_from_good(good: ScoreHistogram, rate: float) -> float:
    """The smallest edge of a bin with at most a given fraction of the good pixels strictly above it.

    With bins of floats it is at most 0.05 % above the smallest such score; with `Distinct` ones it is that score.

    Args:
        good: pooled residuals; the good pixels alone are read.
        rate: fraction of the pixels, in [0, 1); 0 gives a threshold that no pixel exceeds.
    Raises:
        InputError: no good pixels, or a rate outside [0, 1).
    """
    check_rate(rate, "rate")
    if good.good_pixels == 0:
        raise InputError("a threshold needs good pixels, got none; score at least one good image")
    return float(good.binning.edge(good.bins[[quantile_place(good, rate)]])[0])


def quantile_place(histogram: ScoreHistogram, rate: float) -> int:
    """The place among the occupied bins of the lowest one with at most this rate of good pixels in higher bins."""
    cumulative = np.cumsum(histogram.good)
    return int(np.argmax((cumulative[-1] - cumulative) / cumulative[-1] <= rate))


def grouped(good: NDArray[Any], defective: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Groups of neighbouring bins: about `most` of them, or each bin its own group where there are no more bins.

    A new group begins where the cumulative fractions pass a point of a grid. Half of the grid is even in the mean of
    both fractions, and half in the logarithm of the false positive rate, where the areas up to a small rate lie.

    Args:
        good, defective: (B,) counts of pixels in bins of falling scores; neither may be all 0 where B > `most`.
    Returns:
        (B,) ascending, from 0: the group of each bin; at most `most` + 1 groups.
    """
    if len(good) <= most:
        return np.arange(len(good))
    false, true = np.cumsum(good), np.cumsum(defective)
    steps = most // 2
    even = np.floor((false / false[-1] + true / true[-1]) / 2 * steps)
    fine = np.floor(np.log(np.maximum(false, 1)) / np.log(false[-1] + 1) * steps)
    return np.concatenate([[0], np.cumsum((np.diff(even) > 0) | (np.diff(fine) > 0))])


def undefined_because(good: int, defective: int, what: str) -> str | None:
    """Why a metric of two classes has no value; None where both are there."""
    if good and defective:
        return None
    return f"no {what}" if not good and not defective else f"no defective {what}" if good else f"no good {what}"


def check_rate(rate: float, name: str, *, closed: bool = False) -> None:
    """Refuse anything outside [0, 1), or outside (0, 1] if `closed`."""
    if not (0 < rate <= 1 if closed else 0 <= rate < 1):
        raise InputError(f"{name} must lie in {'(0, 1]' if closed else '[0, 1)'}, got {rate}")

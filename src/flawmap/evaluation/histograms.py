"""Mergeable histograms of scores: what is kept of a data set's pixels, in constant memory.

The bins are the upper 20 bits of a float32's bit pattern: the patterns of floats are ordered as the floats are, so no
range need be known beforehand, bins are 0.05 % of a value wide, and histograms of images, of processes and of machines
add up to that of the whole set. Where all scores fit in memory, `Distinct` gives every score a bin of its own, and
nothing is lost. Everywhere "above a threshold" means strictly above, and larger scores are worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.imaging.morphology import label

BITS = 20
BINS = 1 << BITS

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]


class Binning(Protocol):
    """Scores to numbered bins, rising with the scores.

    count: of all bins. dropped_bits: of a bin's number, by `metrics.ImageScores`.
    """

    @property
    def count(self) -> int: ...

    @property
    def dropped_bits(self) -> int: ...

    def of(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """The bin of each score."""

    def edge(self, bins: NDArray[np.integer[Any]]) -> Floats:
        """The largest float32 of each bin; of the bin before the first one a number below all scores."""


@dataclass(frozen=True)
class FloatBits:
    """Bins by the upper bits of a float's pattern, the same for every set."""

    count: int = BINS
    dropped_bits: int = 3  # leaves bins 0.4 % of a value wide

    def of(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        return bin_of(scores)

    def edge(self, bins: NDArray[np.integer[Any]]) -> Floats:
        return bin_edge(bins)


@dataclass(frozen=True, eq=False)
class Distinct:
    """A bin for each distinct score of a set: exact, for as many as memory holds. values: (D,) float, rising."""

    values: NDArray[Any]
    dropped_bits: int = 0

    @classmethod
    def among(cls, scores: Iterable[NDArray[Any]]) -> Distinct:
        """Of all scores of a set."""
        values = np.concatenate([part.ravel() for part in scores])
        finite(values, "scores")
        return cls(np.unique(values))

    @property
    def count(self) -> int:
        return len(self.values)

    def of(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        places = np.searchsorted(self.values, scores)
        if scores.size and (places.max() == self.count or not np.array_equal(self.values[places], scores)):
            raise InputError("scores must be among those that the bins were made of; make them of all scores")
        return places

    def edge(self, bins: NDArray[np.integer[Any]]) -> Floats:
        below_all = np.nextafter(self.values[0], self.values.dtype.type(-np.inf))
        edges: Floats = np.where(bins < 0, below_all, self.values[np.maximum(bins, 0)])
        return edges


FLOAT_BITS = FloatBits()


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """Counts of good and of defective pixels by bin, (B,) int64 each; `+` merges those of one binning. 16 MiB."""

    good: Counts
    defective: Counts
    binning: Binning = FLOAT_BITS

    @classmethod
    def empty(cls, binning: Binning = FLOAT_BITS) -> ScoreHistogram:
        return cls(np.zeros(binning.count, np.int64), np.zeros(binning.count, np.int64), binning)

    @classmethod
    def of(cls, scores: NDArray[Any], defective: Mask | None = None, binning: Binning = FLOAT_BITS) -> ScoreHistogram:
        """The histogram of some scores.

        Args:
            scores: of any shape, finite; float32 for `FLOAT_BITS`.
            defective: bool of the same shape; None: all are good.
        Raises:
            InputError: another type, two shapes, NaN or infinite scores.
        """
        bins = binning.of(scores).ravel()
        both = np.bincount(bins, minlength=binning.count)
        if defective is None:
            return cls(both, np.zeros(binning.count, np.int64), binning)
        if defective.shape != scores.shape or defective.dtype != np.bool_:
            raise InputError(
                f"defective must be bool of the scores' shape {shape_text(scores.shape)}, "
                f"got {defective.dtype} {shape_text(defective.shape)}"
            )
        flawed = np.bincount(bins[defective.ravel()], minlength=binning.count)
        return cls(both - flawed, flawed, binning)

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(self.good + other.good, self.defective + other.defective, self.binning)

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


@dataclass(frozen=True, eq=False)
class RegionScores:
    """The scores of ground-truth regions: `count` pixels of region `region` lie in bin `bin`; `+` appends.

    region, bin, count: (N,), N at most the number of defective pixels. area: (R,), pixels of each region.
    """

    region: NDArray[np.int64]
    bin: NDArray[np.int64]
    count: Counts
    area: Counts

    @classmethod
    def of(cls, scores: FloatMap, truth: Mask, binning: Binning = FLOAT_BITS) -> RegionScores:
        """The 8-connected components of a (H, W) mask, with their scores."""
        labels, regions = label(truth)
        flat = labels.ravel()
        where = np.flatnonzero(flat)
        owner = flat[where].astype(np.int64) - 1
        pairs, count = np.unique(owner * binning.count + binning.of(scores.ravel()[where]), return_counts=True)
        region, bin = np.divmod(pairs, binning.count)
        return cls(region, bin, count.astype(np.int64), np.bincount(owner, minlength=regions))

    @classmethod
    def join(cls, parts: Iterable[RegionScores]) -> RegionScores:
        """All regions of several images in one."""
        parts = list(parts)
        nothing = np.zeros(0, np.int64)
        if not parts:
            return cls(nothing, nothing, nothing, nothing)
        first = np.cumsum([0] + [len(part.area) for part in parts[:-1]])
        return cls(
            np.concatenate([part.region + start for part, start in zip(parts, first, strict=True)]),
            np.concatenate([part.bin for part in parts]),
            np.concatenate([part.count for part in parts]),
            np.concatenate([part.area for part in parts]),
        )

    def __add__(self, other: RegionScores) -> RegionScores:
        return RegionScores.join((self, other))

    def shares_above(self, bin: int) -> NDArray[np.float64]:
        """(R,): the share of each region in bins above one."""
        above = np.bincount(self.region, weights=self.count * (self.bin > bin), minlength=len(self.area))
        return above / self.area


def quantile_from_good(good: ScoreHistogram | Floats, rate: float) -> float:
    """The smallest threshold with at most a share of the good pixels strictly above it.

    From scores it is exact: one of them. From a histogram it is the upper edge of that score's bin, at most 0.05 %
    larger, so the rate holds all the same.

    Args:
        good: pooled residuals of good images; of a histogram the good pixels alone are read.
        rate: share of the pixels, in [0, 1); 0 gives a threshold that no pixel exceeds.
    Raises:
        InputError: no good pixels, or a rate outside [0, 1).
    """
    check_rate(rate, "rate")
    total = good.good_pixels if isinstance(good, ScoreHistogram) else good.size
    if total == 0:
        raise InputError("a threshold needs good pixels, got none; score at least one good image")
    if isinstance(good, ScoreHistogram):
        return float(good.binning.edge(np.array([quantile_bin(good, rate)]))[0])
    finite(good, "scores")
    allowed = int(rate * total)  # pixels that may lie above, but for rounding: 0.29 * 100 is below 29
    allowed += (allowed + 1) / total <= rate
    allowed -= allowed / total > rate
    return float(np.partition(good.ravel(), total - 1 - allowed)[total - 1 - allowed])


def bin_of(scores: Floats) -> NDArray[np.int64]:
    """The bin of each score: the upper bits of its bit pattern, turned so that their order is the scores' order."""
    if scores.dtype != np.float32:
        raise InputError(f"scores must be float32, got {scores.dtype}; pass scores.astype(np.float32)")
    finite(scores, "scores")
    bits = np.ascontiguousarray(scores + np.float32(0)).view(np.uint32)  # + 0: -0 and 0 are one score
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones below zero: there the order of patterns reverses
    keys = bits ^ (negative | np.uint32(1 << 31))
    return (keys >> (32 - BITS)).astype(np.int64)


def bin_edge(bins: NDArray[np.integer[Any]]) -> Floats:
    """The largest float32 of each bin: a threshold there has exactly the higher bins strictly above it."""
    keys = (((bins.astype(np.int64) + 1) << (32 - BITS)) - 1).astype(np.uint32)
    bits = np.where(keys >> 31, keys ^ np.uint32(1 << 31), ~keys)
    # -0 has a pattern of its own below that of 0, but is no smaller: 0 would not lie above it.
    return np.where(bits == 1 << 31, np.uint32((1 << 31) + 1), bits).view(np.float32)


def quantile_bin(histogram: ScoreHistogram, rate: float) -> int:
    """The lowest bin with at most a share of the good pixels in higher bins."""
    upto = np.cumsum(histogram.good)
    return int(np.argmax((upto[-1] - upto) / upto[-1] <= rate))


def undefined_because(good: int, defective: int, what: str) -> str | None:
    if good and defective:
        return None
    return f"no {what}" if not good and not defective else f"no defective {what}" if good else f"no good {what}"


def check_rate(rate: float, name: str, *, closed: bool = False) -> None:
    if not (0 < rate <= 1 if closed else 0 <= rate < 1):
        raise InputError(f"{name} must lie in {'(0, 1]' if closed else '[0, 1)'}, got {rate}")

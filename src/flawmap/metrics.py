"""Pixel metrics pooled over a data set, in one pass and constant memory.

Scores go into mergeable histograms (`histograms`). Each point of a curve drawn from one is exact, as thresholds lie on
the borders of bins; only how good and defective pixels mix within a bin is unknown, and every metric comes with a bound
on what that can change. Equal scores count as a sort with ties would count them.

Everywhere "above a threshold" means strictly above, and larger scores are worse.

References:
    ROC and region overlap: Bergmann et al. 2019, arXiv:1807.02011. AU-PRO: Bergmann et al. 2021, International Journal
    of Computer Vision, doi:10.1007/s11263-020-01400-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawmap.checks import finite, shape_text
from flawmap.errors import InputError
from flawmap.histograms import (
    BINS,
    BITS,
    Counts,
    RegionScores,
    ScoreHistogram,
    bin_edge,
    bin_of,
    check_rate,
    quantile_bin,
    undefined_because,
)
from flawmap.records import Curve, FloatMap, Mask
from flawmap.regions import check_mask


class Measure(NamedTuple):
    """A metric; or None and the reason. An exact sort of all scores would give `value` to within `bound`."""

    value: float | None
    bound: float = 0.0
    reason: str | None = None


# ------------------------------------------------------------------------------------------------ what is accumulated

KEPT_BITS = 17  # of a bin's 20, for each single image: bins 0.4 % of a value wide


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What one image adds to the metrics of a set, small enough to be kept for every image.

    bin, count: (B,) int32, the occupied coarse bins of its good pixels, rising, and how many lie in each; a coarse bin
    is a histogram's bin without its last bits. regions: its ground-truth regions, which hold every defective pixel.
    """

    bin: NDArray[np.int32]
    count: NDArray[np.int32]
    regions: RegionScores

    @classmethod
    def of(cls, residual: FloatMap, mask: Mask, inside: Mask | None = None) -> ImageScores:
        """From a map and its ground truth, as `PixelMetrics.add` takes them."""
        flawed, good = (mask, ~mask) if inside is None else (mask & inside, inside & ~mask)
        counts = np.bincount(bin_of(residual[good]) >> (BITS - KEPT_BITS))
        occupied = np.flatnonzero(counts)
        regions = RegionScores.of(residual, flawed)
        return cls(occupied.astype(np.int32), counts[occupied].astype(np.int32), regions)

    @property
    def good_pixels(self) -> int:
        return int(self.count.sum())

    @property
    def defective_pixels(self) -> int:
        return int(self.regions.area.sum())


@dataclass
class PixelMetrics:
    """Accumulates the pixels of a labelled set, image by image; `+` merges two accumulators.

    Memory: 16 MiB, 24 bytes a defective pixel at most, and 8 bytes for each occupied coarse bin of an image, of which
    there are a few thousand.
    """

    images: int = 0
    histogram: ScoreHistogram = field(default_factory=ScoreHistogram.empty)
    per_image: list[ImageScores] = field(default_factory=list)

    def add(self, residual: FloatMap, mask: Mask, inside: Mask | None = None) -> None:
        """Count one image.

        Args:
            residual: (H, W) float32, finite; opened, if the opened mask is what is judged.
            mask: (H, W) bool, the ground truth, True = defective; all False for a good image.
            inside: (H, W) bool, True = inspected. Pixels outside count for nothing; regions are cut, then labelled.
        Raises:
            InputError: a shape, a type, NaN or infinite residuals.
        """
        if residual.ndim != 2:
            raise InputError(f"residual must be (H, W), got {shape_text(residual.shape)}")
        check_mask(mask, residual.shape, "mask")
        if inside is None:
            counted = ScoreHistogram.of(residual, mask)
        else:
            check_mask(inside, residual.shape, "inside")
            counted = ScoreHistogram.of(residual[inside], mask[inside])
        self.per_image.append(ImageScores.of(residual, mask, inside))
        self.histogram = self.histogram + counted
        self.images += 1

    def __add__(self, other: PixelMetrics) -> PixelMetrics:
        per_image = [*self.per_image, *other.per_image]
        return PixelMetrics(self.images + other.images, self.histogram + other.histogram, per_image)

    @property
    def regions(self) -> RegionScores:
        return RegionScores.join(scores.regions for scores in self.per_image)

    def curve(self, points: int = 2000) -> Curve | None:
        """The ROC curve, thinned for drawing; None where it is undefined."""
        curve = roc(self.histogram)
        return None if curve is None else thin(curve, points)

    def result(self) -> dict[str, Any]:
        """All metrics as JSON's types: values (None where undefined), `bounds` and `undefined` by metric, counts."""
        regions = self.regions
        measures = {
            "auroc": auroc(self.histogram),
            "average_precision": average_precision(self.histogram),
            "f1_max": f1_max(self.histogram),
            "au_pro_30": au_pro(self.histogram, regions, 0.3),
            "au_pro_05": au_pro(self.histogram, regions, 0.05),
        }
        why = {name: measure.reason for name, measure in measures.items() if measure.reason is not None}
        if self.histogram.undefined is not None:
            why["overlap_at_5"] = self.histogram.undefined
        return {
            **{name: measure.value for name, measure in measures.items()},
            "overlap_at_5": overlap_quantiles(self.histogram, regions, 0.05),
            "images": self.images,
            "good_pixels": self.histogram.good_pixels,
            "defective_pixels": self.histogram.defective_pixels,
            "regions": len(regions.area),
            "bounds": {name: measure.bound for name, measure in measures.items() if measure.value is not None},
            "undefined": why,
        }


# ------------------------------------------------------------------------------------------------------------- curves


def roc(histogram: ScoreHistogram) -> Curve | None:
    """The ROC curve of a histogram: every point exact, one for each occupied bin. None where it is undefined."""
    if histogram.undefined is not None:
        return None
    bins, good, defective = _falling(histogram)
    # The smallest threshold that has a bin's pixels above it is the upper edge of the next occupied bin.
    thresholds = bin_edge(np.append(bins, bins[-1] - 1))
    return Curve(_shares(good), _shares(defective), thresholds.astype(np.float64))


def roc_exact(scores: ArrayLike, defective: ArrayLike) -> Curve | None:
    """The ROC curve by a sort of all scores, for sets that fit in memory.

    Args:
        scores: (N,) or any shape, finite, larger is worse. defective: bool of the same shape.
    Returns:
        A Curve with a point for every distinct score; None where there are no good or no defective ones.
    Raises:
        InputError: two shapes, NaN or infinite scores.
    """
    values, flawed = _labelled(scores, defective)
    if undefined_because(int((~flawed).sum()), int(flawed.sum()), "scores") is not None:
        return None
    distinct, index = np.unique(values, return_inverse=True)
    index = index.ravel()
    good = np.bincount(index[~flawed], minlength=len(distinct))[::-1]
    bad = np.bincount(index[flawed], minlength=len(distinct))[::-1]
    below_all = np.nextafter(distinct[0], -np.inf)
    return Curve(_shares(good), _shares(bad), np.append(distinct[::-1], below_all))


def thin(curve: Curve, points: int = 2000, tolerance: float = 1e-4) -> Curve:
    """A curve with fewer of its own points, spread evenly along it and along the logarithm of its x axis.

    At most `points` are kept; more only where the area under the curve would else change by more than `tolerance`.

    Raises:
        InputError: fewer than 4 points.
    """
    if points < 4:
        raise InputError(f"points must be at least 4, got {points}")
    x, y = curve.false_positive_rate, curve.true_positive_rate
    area = curve.area
    while points < len(x):
        along = np.linspace(0, 2, points // 2)
        rising = np.geomspace(x[x > 0][0], 1, points // 2 - 2)
        wanted = np.concatenate([np.searchsorted(x + y, along), np.searchsorted(x, rising), [len(x) - 1]])
        kept = np.unique(np.minimum(wanted, len(x) - 1))
        thinner = Curve(x[kept], y[kept], curve.thresholds[kept])
        if abs(thinner.area - area) <= tolerance:
            return thinner
        points *= 2
    return curve


# ------------------------------------------------------------------------------------------------------------ metrics


def auroc(histogram: ScoreHistogram) -> Measure:
    """Area under the ROC curve pooled over all pixels: 1 = perfect, 0.5 = chance, 0 = reversed."""
    if histogram.undefined is not None:
        return Measure(None, reason=histogram.undefined)
    _, good, defective = _falling(histogram)
    x, y = _shares(good), _shares(defective)
    value = float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
    # Pairs of a good and a defective pixel in one bin count half; a sort would count each 0, half or 1.
    return Measure(value, bound=float(np.sum(np.diff(x) * np.diff(y)) / 2))


def average_precision(histogram: ScoreHistogram) -> Measure:
    """The mean precision over all steps of recall, without interpolation; chance = the share of defective pixels."""
    if histogram.undefined is not None:
        return Measure(None, reason=histogram.undefined)
    _, good, defective = _falling(histogram)
    true, false = np.cumsum(defective), np.cumsum(good)
    hit = np.flatnonzero(defective)  # recall steps only there
    step = defective[hit] / true[-1]
    precision = true[hit] / (true + false)[hit]
    # In the best order of a bin all its defective pixels come first; in the worst one all but one come last.
    highest = true[hit] / (true + false - good)[hit]
    first = (true - defective)[hit] + 1
    lowest = first / (first + false[hit])
    bound = np.sum(step * np.maximum(highest - precision, precision - lowest))
    return Measure(float(np.sum(step * precision)), bound=float(bound))


def f1_max(histogram: ScoreHistogram) -> Measure:
    """The largest F1 (harmonic mean of precision and recall) of any threshold.

    A ceiling for comparing maps: its threshold is picked on the labels, which nobody has in production.
    """
    if histogram.undefined is not None:
        return Measure(None, reason=histogram.undefined)
    _, good, defective = _falling(histogram)
    true, false = np.cumsum(defective), np.cumsum(good)
    value = float(np.max(2 * true / (true + false + true[-1])))
    highest = float(np.max(2 * true / (true + false - good + true[-1])))
    return Measure(value, bound=highest - value)


def au_pro(histogram: ScoreHistogram, regions: RegionScores, limit: float = 0.3) -> Measure:
    """Area under the per-region overlap up to a false positive rate, divided by that rate: 1 = perfect.

    The overlap at a threshold is the mean over ground-truth regions (8-connected) of the share of each that lies above
    it, so a small region weighs as much as a large one; the false positive rate is that of all good pixels of the set.
    Trapezoids, with a straight line to the limit. Chance is limit / 2.

    Args:
        histogram: all pixels of the set. regions: all ground-truth regions of the set.
        limit: the largest false positive rate, in (0, 1].
    Raises:
        InputError: the limit is not in (0, 1].
    References:
        Bergmann et al. 2021, doi:10.1007/s11263-020-01400-4.
    """
    check_rate(limit, "limit", closed=True)
    if histogram.undefined is not None:
        return Measure(None, reason=histogram.undefined)
    bins, good, _ = _falling(histogram)
    # A region's pixels weigh 1 / area each: the mean share above a threshold is then one weighted count.
    weights = np.bincount(regions.bin, weights=regions.count / regions.area[regions.region], minlength=BINS)
    x, y = _shares(good), _shares(weights[bins])
    value, bound = _area_up_to(x, y, limit)
    return Measure(value, bound=bound)


def overlap_quantiles(
    histogram: ScoreHistogram, regions: RegionScores, rate: float, quantiles: Sequence[float] = (0.25, 0.5, 0.75)
) -> dict[str, float] | None:
    """Quantiles over ground-truth regions of the share of each that is found, at a false positive rate.

    The threshold is the smallest border of a bin with at most `rate` of the good pixels above it.

    Returns:
        "q25", "q50", ... by quantile, the "threshold", and the "false_positive_rate" really reached, at most `rate`;
        None without good or without defective pixels.
    Raises:
        InputError: the rate is not in [0, 1).
    """
    check_rate(rate, "rate")
    if histogram.undefined is not None:
        return None
    bin = quantile_bin(histogram, rate)
    levels = np.quantile(regions.shares_above(bin), quantiles)
    return {
        **{f"q{100 * name:g}": float(level) for name, level in zip(quantiles, levels, strict=True)},
        "threshold": float(bin_edge(np.array([bin]))[0]),
        "false_positive_rate": int(histogram.good[bin + 1 :].sum()) / histogram.good_pixels,
    }


def image_auroc(scores: ArrayLike, defective: ArrayLike) -> Measure:
    """Area under the ROC curve of whole images: (N,) scores, larger is worse, and (N,) bool, True = defective."""
    values, flawed = _labelled(scores, defective)
    reason = undefined_because(int((~flawed).sum()), int(flawed.sum()), "images")
    curve = roc_exact(values, flawed)
    return Measure(None, reason=reason) if curve is None else Measure(curve.area)


def _falling(histogram: ScoreHistogram) -> tuple[NDArray[np.int64], Counts, Counts]:
    """The occupied bins from the highest down, and the good and defective pixels in each."""
    bins = np.flatnonzero(histogram.good + histogram.defective)[::-1]
    return bins, histogram.good[bins], histogram.defective[bins]


def _shares(counts: NDArray[Any]) -> NDArray[np.float64]:
    """0, then the cumulative shares up to exactly 1."""
    sums = np.cumsum(counts)
    return np.concatenate([[0.0], sums / sums[-1]])


def _area_up_to(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> tuple[float, float]:
    """Area under a rising polygon from 0 to a limit over the limit, and how far the curve it samples may be off."""
    stop = int(np.searchsorted(x, limit, side="right"))
    dx, dy = np.diff(x[:stop]), np.diff(y[:stop])
    area = np.sum(dx * (y[1:stop] + y[: stop - 1])) / 2
    off = np.sum(dx * dy) / 2  # a rising curve through two corners of a rectangle stays in it
    if stop < len(x) and x[stop - 1] < limit:
        width, run, rise = limit - x[stop - 1], x[stop] - x[stop - 1], y[stop] - y[stop - 1]
        triangle = rise * width**2 / run / 2
        area += width * y[stop - 1] + triangle
        off += rise * width - triangle
    return float(area / limit), float(off / limit)


def _labelled(scores: ArrayLike, defective: ArrayLike) -> tuple[NDArray[np.float64], Mask]:
    values: NDArray[Any] = np.asarray(scores, dtype=np.float64)
    flawed = np.asarray(defective, dtype=np.bool_)
    if values.shape != flawed.shape:
        raise InputError(
            f"scores and defective must have one shape, got {shape_text(values.shape)} and {shape_text(flawed.shape)}"
        )
    finite(values, "scores")
    return values.ravel(), flawed.ravel()

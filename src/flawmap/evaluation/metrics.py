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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import Curve, FloatMap, Mask
from flawmap.evaluation.histograms import (
    FLOAT_BITS,
    Binning,
    Counts,
    Distinct,
    RegionScores,
    ScoreHistogram,
    check_rate,
    quantile_bin,
    undefined_because,
)
from flawmap.imaging.morphology import check_mask

PIMO_LIMITS = (1e-5, 1e-4)  # false positive rates, as its authors have them


class Measure(NamedTuple):
    """A metric; or None and the reason. An exact sort of all scores would give `value` to within `bound`."""

    value: float | None
    bound: float = 0.0
    reason: str | None = None


# ------------------------------------------------------------------------------------------------ what is accumulated


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What one image adds to the metrics of a set, small enough to be kept for every image.

    bin, count: (B,) int32, the occupied coarse bins of its good pixels, rising, and how many lie in each; a coarse bin
    is a histogram's bin without its last `dropped_bits`. regions: its ground-truth regions, which hold every defective
    pixel.
    """

    bin: NDArray[np.int32]
    count: NDArray[np.int32]
    regions: RegionScores
    dropped_bits: int

    @classmethod
    def of(cls, good: Counts, regions: RegionScores, binning: Binning = FLOAT_BITS) -> ImageScores:
        """From the good pixels in each bin and the regions."""
        bins = np.flatnonzero(good)
        coarse = np.bincount(bins >> binning.dropped_bits, weights=good[bins])
        occupied = np.flatnonzero(coarse)
        counts = coarse[occupied].astype(np.int32)
        return cls(occupied.astype(np.int32), counts, regions, binning.dropped_bits)

    @property
    def good_pixels(self) -> int:
        return int(self.count.sum())

    @property
    def defective_pixels(self) -> int:
        return int(self.regions.area.sum())


@dataclass(frozen=True, eq=False)
class NormalScores:
    """The good images of a set, those without a defective pixel: every image weighs the same, whatever its size.

    shares: (B,), sums over the images of the share of each one's pixels in a bin. images: how many. `+` merges.
    """

    shares: NDArray[np.float64]
    images: int

    @classmethod
    def empty(cls, binning: Binning = FLOAT_BITS) -> NormalScores:
        return cls(np.zeros(binning.count), 0)

    @classmethod
    def of(cls, good: Counts) -> NormalScores:
        """One image, from its pixels in each bin."""
        return cls(good / good.sum(), 1)

    def __add__(self, other: NormalScores) -> NormalScores:
        return NormalScores(self.shares + other.shares, self.images + other.images)


@dataclass
class PixelMetrics:
    """Accumulates the pixels of a labelled set, image by image; `+` merges two accumulators of one binning.

    Memory: 24 MiB, 24 bytes a defective pixel at most, and 8 bytes for each occupied coarse bin of an image, of which
    there are a few thousand.
    """

    images: int = 0
    histogram: ScoreHistogram = field(default_factory=ScoreHistogram.empty)
    per_image: list[ImageScores] = field(default_factory=list)
    normal: NormalScores = field(default_factory=NormalScores.empty)

    @classmethod
    def exact(cls, maps: Sequence[tuple[FloatMap, Mask, Mask | None]]) -> PixelMetrics:
        """All (residual, mask, inside) of a set at once, as `add` takes them, by a sort: nothing is lost to bins.

        To check the histograms by, and for sets that fit in memory: some 40 bytes a pixel.
        """
        binning = Distinct.among(residual for residual, _, _ in maps)
        metrics = cls(histogram=ScoreHistogram.empty(binning), normal=NormalScores.empty(binning))
        for residual, mask, inside in maps:
            metrics.add(residual, mask, inside)
        return metrics

    def add(self, residual: FloatMap, mask: Mask, inside: Mask | None = None) -> ScoreHistogram:
        """Count one image, and give its own histogram.

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
        binning = self.histogram.binning
        if inside is None:
            counted, flawed = ScoreHistogram.of(residual, mask, binning), mask
        else:
            check_mask(inside, residual.shape, "inside")
            counted, flawed = ScoreHistogram.of(residual[inside], mask[inside], binning), mask & inside
        regions = RegionScores.of(residual, flawed, binning)
        self.per_image.append(ImageScores.of(counted.good, regions, binning))
        self.histogram = self.histogram + counted
        if not len(regions.area) and counted.good_pixels:
            self.normal = self.normal + NormalScores.of(counted.good)
        self.images += 1
        return counted

    def __add__(self, other: PixelMetrics) -> PixelMetrics:
        return PixelMetrics(
            self.images + other.images,
            self.histogram + other.histogram,
            [*self.per_image, *other.per_image],
            self.normal + other.normal,
        )

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
            "iou_max": iou_max(self.histogram),
            "au_pro_30": au_pro(self.histogram, regions, 0.3),
            "au_pro_05": au_pro(self.histogram, regions, 0.05),
            "aupimo": aupimo(self.normal, self.per_image),
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
    thresholds = histogram.binning.edge(np.append(bins, bins[-1] - 1))
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


def iou_max(histogram: ScoreHistogram) -> Measure:
    """The largest intersection over union of any threshold, pooled over all pixels. A ceiling, as `f1_max` is."""
    best = f1_max(histogram)
    if best.value is None:
        return best
    # The one rises with the other: IoU = F1 / (2 - F1).
    value, highest = best.value / (2 - best.value), (best.value + best.bound) / (2 - best.value - best.bound)
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
    shares = regions.count / regions.area[regions.region]
    weights = np.bincount(regions.bin, weights=shares, minlength=len(histogram.good))
    x, y = _shares(good), _shares(weights[bins])
    value, bound = _area_up_to(x, y, limit)
    return Measure(value, bound=bound)


def aupimo(normal: NormalScores, images: Sequence[ImageScores], limits: tuple[float, float] = PIMO_LIMITS) -> Measure:
    """The mean over defective images of `aupimo_per_image`; None, and why, where it is undefined."""
    values = [measure for measure in aupimo_per_image(normal, images, limits) if measure is not None]
    if not values or normal.images == 0:
        return Measure(None, reason="no good images" if values or normal.images == 0 else "no defective images")
    return Measure(float(np.mean([m.value for m in values])), bound=float(np.mean([m.bound for m in values])))


def aupimo_per_image(
    normal: NormalScores, images: Sequence[ImageScores], limits: tuple[float, float] = PIMO_LIMITS
) -> list[Measure | None]:
    """Area under the per-image overlap, of each defective image: 1 = perfect, near 0 = chance.

    The share of an image's defective pixels that is found, averaged over the logarithm of the false positive rate
    between two limits. The rate is that of good images alone, each of which weighs the same, so no defective image has
    a say in where thresholds lie. At a rate the threshold is the smallest that keeps it, so that rates which too few
    good pixels cannot resolve count as the next lower one.

    Args:
        normal: the good images. images: all images of the set; one without regions is good.
        limits: the lowest and the highest rate, in (0, 1].
    Returns:
        By image; None for a good one. Without good images the measures have no value, but the reason.
    Raises:
        InputError: limits that are no range.
    References:
        Bertoldo, Ameln, Vaidya, Akcay 2024, AUPIMO, arXiv:2401.01984.
    """
    low, high = limits
    if not 0 < low < high <= 1:
        raise InputError(f"limits must be a range of rates in (0, 1], got {low} to {high}")
    if normal.images == 0:
        return [Measure(None, reason="no good images") if len(image.regions.area) else None for image in images]
    bins = np.flatnonzero(normal.shares)[::-1]
    # From one rate to the next the threshold is the edge of one bin, so only what lies in higher bins is found.
    rates = np.concatenate([[0.0], np.cumsum(normal.shares[bins]) / normal.images])
    logarithms = np.log(np.clip(rates, low, high))
    logarithms[-1] = np.log(high)  # 1, but for rounding
    spans = np.zeros(len(normal.shares))
    spans[bins] = np.diff(logarithms) / np.log(high / low)
    upto = np.cumsum(spans)
    found: list[Measure | None] = []
    for image in images:
        regions = image.regions
        if not len(regions.area):
            found.append(None)
            continue
        weights = regions.count / regions.area.sum()
        mixed = float(weights @ spans[regions.bin])
        found.append(Measure(float(weights @ upto[regions.bin]) - mixed, bound=mixed))
    return found


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
        "threshold": float(histogram.binning.edge(np.array([bin]))[0]),
        "false_positive_rate": int(histogram.good[bin + 1 :].sum()) / histogram.good_pixels,
    }


def image_metrics(scores: ArrayLike, defective: ArrayLike) -> dict[str, Measure]:
    """AUROC, average precision and F1-max of whole images, exact.

    scores: (N,), finite, larger is worse. defective: (N,) bool.
    """
    values, flawed = _labelled(scores, defective)
    histogram = ScoreHistogram.of(values, flawed, Distinct.among([values]))
    reason = undefined_because(histogram.good_pixels, histogram.defective_pixels, "images")
    return {
        name: Measure(metric(histogram).value) if reason is None else Measure(None, reason=reason)
        for name, metric in IMAGE_METRICS.items()
    }


def own_metrics(histogram: ScoreHistogram) -> dict[str, float | None]:
    """AUROC, average precision and F1-max of one image's own pixels; None where undefined."""
    return {name: metric(histogram).value for name, metric in IMAGE_METRICS.items()}


IMAGE_METRICS: dict[str, Callable[[ScoreHistogram], Measure]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "f1_max": f1_max,
}


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

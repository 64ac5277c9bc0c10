"""Pixel metrics pooled over a data set, image by image, and the metrics of whole images.

Pixels go into mergeable histograms (`histograms`), so memory does not grow with them; what is kept of each image
(`image_counts.ImageScores`, some ten kilobytes) is what intervals are drawn from. The formulas are in `formulas`.

Everywhere "above a threshold" means strictly above, and larger scores are worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawmap.core.records import Curve, FloatMap, Mask
from flawmap.evaluation.curves import exact_histogram, labelled, roc, thin
from flawmap.evaluation.formulas import (
    CURVE_METRICS,
    PIMO_LIMITS,
    PIXEL_METRICS,
    Cumulative,
    Estimate,
    Floats,
    pimo_spans,
    weighted_quantiles,
)
from flawmap.evaluation.histograms import (
    BINS,
    FLOAT_BITS,
    Binning,
    ScoreHistogram,
    check_rate,
    quantile_place,
    undefined_because,
)
from flawmap.evaluation.image_counts import CountedImage, ImageCounts, ImageScores, RegionScores

OVERLAP_RATE, OVERLAP_QUANTILES = 0.05, (0.25, 0.5, 0.75)


class Measure(NamedTuple):
    """A metric; or None and the reason. An exact sort of all scores would give `value` to within `bound`."""

    value: float | None
    bound: float = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class PixelResult:
    """Every pixel metric of a set of images, by the names of `PIXEL_METRICS`, and what was counted.

    overlap_at_5: of regions, at a false positive rate of 5 %; None where `overlap_reason` says why.
    """

    measures: dict[str, Measure]
    overlap_at_5: dict[str, float] | None
    overlap_reason: str | None
    images: int
    good_pixels: int
    defective_pixels: int
    regions: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types: values (None where undefined), `bounds` and `undefined` by metric, counts."""
        why = {name: measure.reason for name, measure in self.measures.items() if measure.reason is not None}
        if self.overlap_reason is not None:
            why["overlap_at_5"] = self.overlap_reason
        return {
            **{name: measure.value for name, measure in self.measures.items()},
            "overlap_at_5": self.overlap_at_5,
            "images": self.images,
            "good_pixels": self.good_pixels,
            "defective_pixels": self.defective_pixels,
            "regions": self.regions,
            "bounds": {name: measure.bound for name, measure in self.measures.items() if measure.value is not None},
            "undefined": why,
        }


class PixelMetrics:
    """Accumulates the pixels of a labelled set, image by image; `+` merges two accumulators of one binning.

    per_image: what each image adds.
    Memory: up to 80 MiB; and for each image 8 bytes for an occupied coarse bin, of which there are up to a few
    thousand, and 24 bytes at most for a defective pixel.
    """

    def __init__(self, binning: Binning = FLOAT_BITS) -> None:
        self.per_image: list[ImageScores] = []
        self._parts = [ScoreHistogram.empty(binning)]
        self._normal = np.zeros(binning.count)  # sums over good images of the fraction of the pixels of each

    def add(self, residual: FloatMap, mask: Mask, inside: Mask | None = None) -> CountedImage:
        """Count one image, given whole, and return its own counts. For the arguments see `ImageCounts.add`."""
        counts = ImageCounts(self._parts[0].binning)
        counts.add(residual, mask, inside)
        image = counts.counted()
        self.add_image(image)
        return image

    def add_image(self, image: CountedImage) -> None:
        """Add one image that was counted; one without defective pixels is good."""
        histogram, regions = image
        self.per_image.append(ImageScores.of(image))
        self._parts.append(histogram)
        # Merged when they outgrow the sum so far: each bin is merged a few times, however many images there are.
        if sum(len(part.bins) for part in self._parts[1:]) > max(len(self._parts[0].bins), BINS):
            self._parts = [ScoreHistogram.merged(self._parts)]
        if not len(regions.area) and len(histogram.bins):
            self._normal[histogram.bins] += histogram.good / histogram.good_pixels

    def __add__(self, other: PixelMetrics) -> PixelMetrics:
        merged = PixelMetrics(self._parts[0].binning)
        merged.per_image = self.per_image + other.per_image
        merged._parts = [self.histogram + other.histogram]
        merged._normal = self._normal + other._normal
        return merged

    @property
    def histogram(self) -> ScoreHistogram:
        """All pixels that were added."""
        if len(self._parts) > 1:
            self._parts = [ScoreHistogram.merged(self._parts)]
        return self._parts[0]

    @property
    def regions(self) -> RegionScores:
        """All ground-truth regions that were added."""
        return RegionScores.join(scores.regions for scores in self.per_image)

    def curve(self, points: int = 2000) -> Curve | None:
        """The ROC curve, thinned for drawing; None where it is undefined."""
        curve = roc(self.histogram)
        return None if curve is None else thin(curve, points)

    def cumulative(self) -> Cumulative:
        """What the formulas take, (B,) each; the set has good and defective pixels."""
        histogram, regions = self.histogram, self.regions
        by_image = [(image.regions, image.defective_pixels) for image in self.per_image]
        of_image = np.concatenate([part.count / max(pixels, 1) for part, pixels in by_image])

        def falling(bins: NDArray[np.int64], weights: Floats) -> Floats:
            places = np.searchsorted(histogram.bins, bins)
            return np.cumsum(np.bincount(places, weights, len(histogram.bins))[::-1])

        return Cumulative(
            false=np.cumsum(histogram.good[::-1]).astype(np.float64),
            true=np.cumsum(histogram.defective[::-1]).astype(np.float64),
            overlap=falling(regions.bin, regions.fraction),
            image_overlap=falling(regions.bin, of_image),
            normal=np.cumsum(self._normal[histogram.bins][::-1]),
        )

    def result(self) -> PixelResult:
        """Every metric, or why it has no value."""
        histogram, regions = self.histogram, self.regions
        good_images = sum(bool(image.good_pixels and not len(image.regions.area)) for image in self.per_image)
        reasons: dict[str, str | None] = dict.fromkeys(PIXEL_METRICS, histogram.undefined)
        reasons["aupimo"] = (
            "no good images" if not good_images else None if histogram.defective_pixels else "no defective images"
        )
        counts = None if histogram.undefined else self.cumulative()
        return PixelResult(
            measures={
                name: Measure(None, reason=reasons[name])
                if counts is None or reasons[name] is not None
                else measure_of(formula(counts))
                for name, formula in PIXEL_METRICS.items()
            },
            overlap_at_5=overlap_quantiles(histogram, regions, OVERLAP_RATE),
            overlap_reason=histogram.undefined,
            images=len(self.per_image),
            good_pixels=histogram.good_pixels,
            defective_pixels=histogram.defective_pixels,
            regions=len(regions.area),
        )

    def aupimo_per_image(self, limits: tuple[float, float] = PIMO_LIMITS) -> list[Measure | None]:
        """The AUPIMO of every image, see `formulas.aupimo`; None for a good one.

        Without good images the measures have no value, but the reason.
        """
        bins = np.flatnonzero(self._normal)
        if not len(bins):
            none = Measure(None, reason="no good images")
            return [none if len(image.regions.area) else None for image in self.per_image]
        spans = pimo_spans(np.cumsum(self._normal[bins][::-1]), limits)[::-1]
        below = np.concatenate([[0.0], np.cumsum(spans)])  # the axis over which the threshold lies in lower bins
        return [_own_aupimo(image.regions, bins, spans, below) for image in self.per_image]


def _own_aupimo(regions: RegionScores, bins: NDArray[np.int64], spans: Floats, below: Floats) -> Measure | None:
    """Of one image. bins: (B,) ascending, those of good images. spans: (B,), below: (B + 1,), of the axis."""
    if not len(regions.area):
        return None
    weights = regions.count / regions.area.sum()
    place = np.searchsorted(bins, regions.bin)
    mixed = np.isin(regions.bin, bins)
    return Measure(float(weights @ below[place]), bound=float(weights[mixed] @ spans[place[mixed]]))


def overlap_quantiles(histogram: ScoreHistogram, regions: RegionScores, rate: float) -> dict[str, float] | None:
    """Quantiles over ground-truth regions of the fraction of each that is found, at a false positive rate.

    The threshold is the smallest border of a bin with at most `rate` of the good pixels above it.

    Returns:
        "q25", "q50" and "q75", the threshold, and the rate there; None without good or without defective pixels.
    Raises:
        InputError: the rate is not in [0, 1).
    """
    check_rate(rate, "rate")
    if histogram.undefined is not None:
        return None
    place = quantile_place(histogram, rate)
    bins = histogram.bins[[place]]
    fractions = regions.fractions_above(bins)
    levels = weighted_quantiles(fractions, np.ones(fractions.shape, np.int64), OVERLAP_QUANTILES)[0]
    return {
        **{f"q{100 * name:g}": float(level) for name, level in zip(OVERLAP_QUANTILES, levels, strict=True)},
        "threshold": float(histogram.binning.edge(bins)[0]),
        "false_positive_rate": int(histogram.good[place + 1 :].sum()) / histogram.good_pixels,
    }


def image_metrics(scores: ArrayLike, defective: ArrayLike) -> dict[str, Measure]:
    """AUROC, average precision and F1-max of whole images, exact.

    scores: (N,), finite, larger is worse. defective: (N,) bool.
    """
    found = curve_metrics(exact_histogram(*labelled(scores, defective)), "images")
    return {name: measure._replace(bound=0.0) for name, measure in found.items()}


def curve_metrics(histogram: ScoreHistogram, what: str = "pixels") -> dict[str, Measure]:
    """AUROC, average precision and F1-max of a histogram; no values where they are undefined, but why.

    what: its scores are scores of these.
    """
    reason = undefined_because(histogram.good_pixels, histogram.defective_pixels, what)
    if reason is not None:
        return {name: Measure(None, reason=reason) for name in CURVE_METRICS}
    false, true = (np.cumsum(counts[::-1]).astype(np.float64) for counts in (histogram.good, histogram.defective))
    return {name: measure_of(formula(false, true)) for name, formula in CURVE_METRICS.items()}


def measure_of(estimate: Estimate) -> Measure:
    """The metric of one set."""
    return Measure(float(estimate.value), float(estimate.bound))

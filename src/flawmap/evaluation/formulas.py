"""Metrics as formulas on cumulative counts, for one set or for many at once.

All arrays are (..., B): bins of falling scores along the last axis, one row for each set. An entry is what lies in its
bin and in all higher ones, so the last entry of a row is the total. Every point of a curve through these entries is
exact, as thresholds lie on the borders of bins; only the order of good and defective pixels within a bin is unknown.
Each formula gives a value, and a bound on how far an exact sort of all scores might be from it. Equal scores count as a
sort with ties would count them. Rows without good or without defective pixels have no value: what is given for them
means nothing.

References:
    ROC and region overlap: Bergmann et al. 2019, arXiv:1807.02011. AU-PRO: Bergmann et al. 2021, International Journal
    of Computer Vision, doi:10.1007/s11263-020-01400-4. AUPIMO: Bertoldo, Ameln, Vaidya, Akcay 2024, arXiv:2401.01984.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.evaluation.histograms import check_rate

PIMO_LIMITS = (1e-5, 1e-4)  # false positive rates, as its authors have them

Floats = NDArray[np.float64]


class Cumulative(NamedTuple):
    """What lies in a bin or above it, by bins of falling scores, (..., B) each.

    false: good pixels. true: defective pixels.
    overlap: the sum over ground-truth regions (8-connected) of the fraction of each.
    image_overlap: the sum over defective images of the fraction of the defective pixels of each.
    normal: the sum over good images of the fraction of the pixels of each.
    """

    false: Floats
    true: Floats
    overlap: Floats
    image_overlap: Floats
    normal: Floats


class Estimate(NamedTuple):
    """A metric of each row, (...), and how far an exact sort might be from it."""

    value: Floats
    bound: Floats


def area_up_to(x: Floats, y: Floats, limit: float = 1.0) -> Estimate:
    """Area under the polygon from (0, 0) through the points of cumulative counts, up to x = limit, over the limit.

    Both axes are fractions of their totals; to the limit itself leads a straight line. With good and defective pixels
    it is the area under the ROC curve: 1 = perfect, 0.5 = chance, 0 = reversed.

    Raises:
        InputError: the limit is not in (0, 1].
    """
    check_rate(limit, "limit", closed=True)
    x, y = x / x[..., -1:], y / y[..., -1:]
    # Bins that lie beyond the limit in every row add nothing.
    stop = int(np.sum((x <= limit).any(axis=tuple(range(x.ndim - 1))))) + 1
    x, y = x[..., :stop], y[..., :stop]
    run, rise = _steps(x), _steps(y)
    width = np.clip(limit - (x - run), 0, run)
    part = np.divide(width, run, out=np.zeros_like(run), where=run > 0)  # below 1 only where the limit cuts
    # A rising curve through two corners of a rectangle stays in it.
    bound = np.sum(width * rise * (1 - part / 2), axis=-1) / limit
    return Estimate(np.sum(width * y, axis=-1) / limit - bound, bound)


def average_precision(false: Floats, true: Floats) -> Estimate:
    """The mean precision over all steps of recall, without interpolation; chance = the fraction of defective pixels."""
    step = _steps(true)
    weight = step / true[..., -1:]
    precision = true / np.maximum(true + false, 1)
    # In the best order of a bin all its defective pixels come first; in the worst one all but one come last.
    highest = true / np.maximum(true + false - _steps(false), 1)
    first = true - step + 1
    lowest = first / (first + false)
    bound = np.sum(weight * np.maximum(highest - precision, precision - lowest), axis=-1)
    return Estimate(np.sum(weight * precision, axis=-1), bound)


def f1_max(false: Floats, true: Floats) -> Estimate:
    """The largest F1 (harmonic mean of precision and recall) of any threshold.

    A ceiling for comparing maps: its threshold is picked on the labels, which nobody has in production.
    """
    return _best(lambda found: 2 * true / (found + true + true[..., -1:]), false)


def iou_max(false: Floats, true: Floats) -> Estimate:
    """The largest intersection over union of any threshold, pooled over all pixels. A ceiling, as `f1_max` is."""
    return _best(lambda found: true / (found + true[..., -1:]), false)


def aupimo(normal: Floats, image_overlap: Floats, limits: tuple[float, float] = PIMO_LIMITS) -> Estimate:
    """Area under the per-image overlap, the mean over defective images: 1 = perfect, near 0 = chance.

    The fraction of an image's defective pixels that is found, averaged over the logarithm of the false positive rate
    between two limits. The rate is that of good images alone, each of which weighs the same, so no defective image has
    a say in where thresholds lie. At a rate the threshold is the smallest that keeps it, so that rates which too few
    good pixels cannot resolve count as the next lower one.

    Args:
        normal, image_overlap: see `Cumulative`. Without good images the value is NaN.
        limits: the lowest and the highest rate, in (0, 1].
    Raises:
        InputError: limits that are no range.
    """
    spans, step, images = pimo_spans(normal, limits), _steps(image_overlap), image_overlap[..., -1]
    bound = np.sum(spans * step, axis=-1) / images
    return Estimate(np.sum(spans * image_overlap, axis=-1) / images - bound, bound)


def pimo_spans(normal: Floats, limits: tuple[float, float] = PIMO_LIMITS) -> Floats:
    """(..., B): the part of AUPIMO's axis over which the threshold is the edge of each bin; the parts add up to 1.

    Between two rates the threshold is the edge of one bin, so only what lies in higher bins is found.
    """
    low, high = limits
    if not 0 < low < high <= 1:
        raise InputError(f"limits must be a range of rates in (0, 1], got {low} to {high}")
    rates = np.divide(normal, normal[..., -1:], out=np.full_like(normal, np.nan), where=normal[..., -1:] > 0)
    spans: Floats = _steps(np.log(np.clip(rates, low, high)), np.log(low)) / np.log(high / low)
    return spans


def weighted_quantiles(values: Floats, times: NDArray[Any], quantiles: Sequence[float]) -> Floats:
    """(S, Q): the quantiles of each row with every value repeated so many times, as `numpy.quantile` has them.

    values, times: (S, R).
    """
    order = np.argsort(values, axis=1, kind="stable")
    values, cumulative = np.take_along_axis(values, order, 1), np.cumsum(np.take_along_axis(times, order, 1), axis=1)
    last = values.shape[1] - 1
    found = np.empty((len(values), len(quantiles)))
    for index, quantile in enumerate(quantiles):
        place = quantile * np.maximum(cumulative[:, -1:] - 1, 0)
        below, above = (
            np.take_along_axis(values, np.minimum(np.sum(cumulative <= rank, axis=1, keepdims=True), last), 1)[:, 0]
            for rank in (np.floor(place), np.ceil(place))
        )
        found[:, index] = below + (above - below) * (place % 1)[:, 0]
    return found


Formula = Callable[[Cumulative], Estimate]

CURVE_METRICS: dict[str, Callable[[Floats, Floats], Estimate]] = {
    "auroc": area_up_to,
    "average_precision": average_precision,
    "f1_max": f1_max,
}
"""Metrics of good and defective pixels, or images, alone: (false, true) -> Estimate."""


def _of_pixels(formula: Callable[[Floats, Floats], Estimate], counts: Cumulative) -> Estimate:
    return formula(counts.false, counts.true)


PIXEL_METRICS: dict[str, Formula] = {
    **{name: partial(_of_pixels, formula) for name, formula in CURVE_METRICS.items()},
    "iou_max": partial(_of_pixels, iou_max),
    "au_pro_30": lambda counts: area_up_to(counts.false, counts.overlap, 0.3),
    "au_pro_05": lambda counts: area_up_to(counts.false, counts.overlap, 0.05),
    "aupimo": lambda counts: aupimo(counts.normal, counts.image_overlap),
}
"""Every metric of a set of maps. AU-PRO is the area under the mean overlap of regions, up to a false positive rate:
a small region weighs as much as a large one; chance is half the limit."""


def _steps(cumulative: Floats, before: float | np.floating[Any] = 0.0) -> Floats:
    """What each bin adds."""
    steps: Floats = np.diff(cumulative, axis=-1, prepend=before)
    return steps


def _best(score: Callable[[Floats], Floats], false: Floats) -> Estimate:
    """The largest score of any threshold. At best all defective pixels of a bin come before its good ones."""
    value = np.max(score(false), axis=-1)
    return Estimate(value, np.max(score(false - _steps(false)), axis=-1) - value)

"""How far pixel metrics might have come out otherwise: percentile intervals by resampling whole images.

The pixels of an image are no independent witnesses, its neighbours least of all: what was drawn at random is images.
So whole images are drawn with replacement, as many as there are, and every metric is taken again; the interval holds
the middle share of what comes out. It answers "had other images of the same kind been measured", and nothing about
other trainings, other materials or other labels.

Percentile intervals of a few images are rough: below some twenty they tend to be too narrow, and one image has an
interval without width, which says nothing. Where most images lack defects, or one holds most of the defective pixels,
the same holds for many more.

Each image is kept as counts by coarse bin (`metrics.ImageScores`), so all resamples are a matrix product, (S, N) times
(N, C), and the metrics are sums along its rows. Where scores spread over a few octaves, the coarse bins move AUROC and
AU-PRO by less than 1e-4, average precision and F1 by less than 1e-3, and a region's overlap by the few of its pixels
that share a bin with the threshold: an interval lies that much beside its figure, and is no wider for it.

References:
    Efron, Tibshirani 1993, An Introduction to the Bootstrap, chapters 6, 8 and 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.evaluation.histograms import undefined_because
from flawmap.evaluation.metrics import PIMO_LIMITS, ImageScores

Metric = Literal[
    "auroc",
    "average_precision",
    "f1_max",
    "iou_max",
    "au_pro_30",
    "au_pro_05",
    "aupimo",
    "overlap_at_5_q25",
    "overlap_at_5_q50",
    "overlap_at_5_q75",
]
METRICS: tuple[Metric, ...] = get_args(Metric)
COLUMNS = 8192  # about the most columns a table of images has
CELLS = 1 << 18  # of one matrix at work: 2 MiB, which caches hold
OVERLAP_RATE, OVERLAP_QUANTILES = 0.05, (0.25, 0.5, 0.75)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Interval(NamedTuple):
    """The middle share of the resampled values, both ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by metric; none at all where `undefined` says why, and none of AUPIMO without good images.

    resamples: how many were drawn. dropped: how many of them count nowhere, for want of good or of defective pixels;
    where they are many, the intervals are those of the sets that happened to have both.
    """

    intervals: dict[Metric, Interval]
    resamples: int
    dropped: int
    level: float
    undefined: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types: [low, high] by metric, None where undefined."""
        ends: dict[str, Any] = {
            name: list(self.intervals[name]) if name in self.intervals else None for name in METRICS
        }
        return {"level": self.level, "resamples": self.resamples, "dropped": self.dropped, **ends}


@dataclass(frozen=True)
class Difference:
    """How much larger a metric of one map is than that of another on the same images.

    value: on all images as they are; None, as is the interval, where `undefined` says why. An interval without 0 is
    what chance among images does not explain, at this level.
    """

    value: float | None
    interval: Interval | None
    resamples: int
    dropped: int
    level: float
    undefined: str | None = None


def bootstrap(images: Sequence[ImageScores], resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Bootstrap:
    """Percentile intervals of the pixel metrics, by drawing whole images with replacement.

    Args:
        images: what each image adds, in any order, but the draws go by it: another order is another seed.
        resamples: how many sets are drawn; 1000 settle two digits of an interval's ends.
        level: the share of the resampled values inside, in (0, 1); at 0.95 they end at the 2.5 % and 97.5 % quantiles.
    Raises:
        InputError: resamples below 1, or a level outside (0, 1).
    """
    _check(resamples, level)
    reason = _undefined(images)
    if reason is not None:
        return Bootstrap({}, resamples, resamples, level, reason)
    values = resampled(images, draws(len(images), resamples, seed))
    kept = ~np.isnan(values["auroc"])
    dropped = int(resamples - kept.sum())
    if dropped == resamples:
        return Bootstrap({}, resamples, dropped, level, NEVER_BOTH)
    defined = {name: values[name][~np.isnan(values[name])] for name in METRICS}
    intervals = {name: _middle(found, level) for name, found in defined.items() if len(found)}
    return Bootstrap(intervals, resamples, dropped, level)


def paired_difference(
    a: Sequence[ImageScores],
    b: Sequence[ImageScores],
    metric: Metric,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """How much larger a metric is of map a than of map b, with the interval of the same images drawn for both.

    What makes an image hard for both maps cancels, so this is narrower than two intervals side by side suggest.

    Args:
        a, b: the same images in the same order, scored by two maps.
    Raises:
        InputError: other images, an unknown metric, resamples below 1, or a level outside (0, 1).
    """
    _check(resamples, level)
    if metric not in METRICS:
        raise InputError(f"metric must be one of {', '.join(METRICS)}, got {metric}")
    _check_pairs(a, b)
    reason = _undefined(a)
    if reason is not None:
        return Difference(None, None, resamples, resamples, level, reason)
    weights = np.vstack([np.ones((1, len(a)), np.int64), draws(len(a), resamples, seed)])  # first the set as it is
    differences = resampled(a, weights)[metric] - resampled(b, weights)[metric]
    kept = differences[1:][~np.isnan(differences[1:])]
    dropped = resamples - len(kept)
    interval, reason = (_middle(kept, level), None) if len(kept) else (None, NEVER_BOTH)
    return Difference(float(differences[0]), interval, resamples, dropped, level, reason)


def draws(images: int, resamples: int, seed: int) -> Integers:
    """(S, N): how often each image is in each resample. Rows add up to N; a function of the seed."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def resampled(images: Sequence[ImageScores], weights: Integers) -> dict[Metric, Floats]:
    """Every metric of every resample.

    Args:
        images: N of them. weights: (S, N), how often each image counts.
    Returns:
        (S,) by metric; NaN where a resample has no good or no defective pixels.
    """
    if _undefined(images) is not None:
        return {name: np.full(len(weights), np.nan) for name in METRICS}
    table = _table(images)
    # Few images have few multisets: each is worked once.
    distinct, where = np.unique(weights, axis=0, return_inverse=True)
    rows = max(1, CELLS // max(table.good.shape[1], len(table.owner), 1))
    parts = [_measured(table, distinct[start : start + rows]) for start in range(0, len(distinct), rows)]
    return {name: np.concatenate([part[name] for part in parts])[where.ravel()] for name in METRICS}


# -------------------------------------------------------------------------------------------------- images as a table


@dataclass(frozen=True, eq=False)
class _Table:
    """N images, their R regions and the C columns, falling scores: one column holds one or several coarse bins.

    good, defective: (N, C) counts. overlap: (N, C), sums over an image's regions of the share of each in a column.
    owner: (R,), the image of each region. area: (R,), pixels.
    region, column, count: (E,), so many pixels of a region lie in a column.
    """

    good: Floats
    defective: Floats
    overlap: Floats
    owner: Integers
    area: Integers
    region: Integers
    column: Integers
    count: Integers


def _table(images: Sequence[ImageScores]) -> _Table:
    number = len(images)
    sizes = [len(image.regions.area) for image in images]
    owner = np.repeat(np.arange(number), sizes)
    first = np.cumsum([0, *sizes])
    region = np.concatenate([image.regions.region + start for image, start in zip(images, first, strict=False)])
    scored = np.concatenate([image.regions.bin >> image.dropped_bits for image in images])
    count = np.concatenate([image.regions.count for image in images])
    area = np.concatenate([image.regions.area for image in images])
    good_owner = np.repeat(np.arange(number), [len(image.bin) for image in images])
    good_bin = np.concatenate([image.bin for image in images]).astype(np.int64)
    good_count = np.concatenate([image.count for image in images])

    occupied, place = np.unique(np.concatenate([good_bin, scored]), return_inverse=True)
    place = len(occupied) - 1 - place.ravel()  # falling scores
    good_place, place = place[: len(good_bin)], place[len(good_bin) :]
    column_of = _columns(_sums(good_place, good_count, len(occupied)), _sums(place, count, len(occupied)))
    columns = int(column_of[-1]) + 1
    column = column_of[place]

    def spread(owner: Integers, column: Integers, weights: NDArray[Any]) -> Floats:
        return _sums(owner * columns + column, weights, number * columns).reshape(number, columns)

    image_of = owner[region]
    return _Table(
        good=spread(good_owner, column_of[good_place], good_count),
        defective=spread(image_of, column, count),
        overlap=spread(image_of, column, count / area[region]),
        owner=owner,
        area=area,
        region=region,
        column=column,
        count=count,
    )


def _sums(place: Integers, weights: NDArray[Any], length: int) -> Floats:
    """(length,): the sum of the weights at each place."""
    return np.bincount(place, weights=weights, minlength=length).astype(np.float64, copy=False)


def _columns(good: Floats, defective: Floats) -> Integers:
    """The column of each of the occupied bins, both (B,) in falling order of scores: all their own if they are few.

    Else a new column begins where the pooled shares pass a point of a grid, half of it even in the sum of both shares
    and half even in the logarithm of the false positive rate, where the areas up to a small rate lie.
    """
    if len(good) <= COLUMNS:
        return np.arange(len(good))
    false, true = np.cumsum(good), np.cumsum(defective)
    steps = COLUMNS // 2
    even = np.floor((false / false[-1] + true / true[-1]) / 2 * steps)
    fine = np.floor(np.log(np.maximum(false, 1)) / np.log(false[-1] + 1) * steps)
    return np.concatenate([[0], np.cumsum((np.diff(even) > 0) | (np.diff(fine) > 0))])


# ------------------------------------------------------------------------------------------------------------ metrics


def _measured(table: _Table, weights: Integers) -> dict[Metric, Floats]:
    """Every metric of some resamples, (S, N): the formulas of `metrics`, row by row."""
    times = weights.astype(np.float64)
    good, defective = times @ table.good, times @ table.defective
    false, true = np.cumsum(good, axis=1), np.cumsum(defective, axis=1)
    all_good, all_defective = false[:, -1:], true[:, -1:]
    defined = (all_good[:, 0] > 0) & (all_defective[:, 0] > 0)
    all_good, all_defective = np.maximum(all_good, 1), np.maximum(all_defective, 1)
    found = np.maximum(false + true, 1)  # 0 only before the first occupied column, where nothing is counted
    rate = false / all_good
    regions = np.maximum(times @ np.bincount(table.owner, minlength=weights.shape[1]), 1)
    overlap = np.cumsum(times @ table.overlap, axis=1) / regions[:, None]
    quartiles = _overlap_quantiles(table, weights, (false - good) / all_good)
    values: dict[Metric, Floats] = {
        "auroc": np.sum(good * (true - defective / 2), axis=1) / (all_good * all_defective)[:, 0],
        "average_precision": np.sum(defective * true / found, axis=1) / all_defective[:, 0],
        "f1_max": np.max(2 * true / (false + true + all_defective), axis=1),
        "iou_max": np.max(true / (false + all_defective), axis=1),
        "au_pro_30": _area_up_to(rate, overlap, 0.3),
        "au_pro_05": _area_up_to(rate, overlap, 0.05),
        "aupimo": _aupimo(table, times),
        "overlap_at_5_q25": quartiles[:, 0],
        "overlap_at_5_q50": quartiles[:, 1],
        "overlap_at_5_q75": quartiles[:, 2],
    }
    return {name: np.where(defined, value, np.nan) for name, value in values.items()}


def _area_up_to(x: Floats, y: Floats, limit: float) -> Floats:
    """Area under each row's polygon, from (0, 0) through its points to a limit, over the limit."""
    # Columns that lie beyond the limit in every row add nothing.
    stop = int(np.sum((x <= limit).any(axis=0))) + 1
    x, y = x[:, :stop], y[:, :stop]
    run = np.diff(x, axis=1, prepend=0)
    rise = np.diff(y, axis=1, prepend=0)
    width = np.clip(limit - (x - run), 0, run)
    share = np.divide(width, run, out=np.zeros_like(run), where=run > 0)
    # y - rise is the segment's lower end; cut at the limit it has risen by a share of the rise.
    area: Floats = np.sum(width * (y - rise + rise * share / 2), axis=1) / limit
    return area


def _aupimo(table: _Table, times: Floats) -> Floats:
    """(S,): mean over a resample's defective images of the area under their overlap; NaN without good images."""
    area = table.defective.sum(axis=1)
    normal = np.flatnonzero((area == 0) & (table.good.sum(axis=1) > 0))
    flawed = np.flatnonzero(area)
    images, found = times[:, normal].sum(axis=1), times[:, flawed].sum(axis=1)
    low, high = PIMO_LIMITS
    shares = table.good[normal] / table.good[normal].sum(axis=1, keepdims=True)
    rates = np.cumsum(times[:, normal] @ shares, axis=1) / np.maximum(images, 1)[:, None]
    logarithms = np.log(np.clip(rates, low, high))
    logarithms[:, -1] = np.log(high)
    spans = np.diff(logarithms, axis=1, prepend=np.log(low)) / np.log(high / low)
    overlap = table.defective[flawed] / area[flawed, None]
    before = np.cumsum(overlap, axis=1) - overlap
    each = spans @ before.T  # (S, defective images): a column's span finds what lies in the columns before it
    total = np.sum(each * times[:, flawed], axis=1)
    return np.where((images > 0) & (found > 0), total / np.maximum(found, 1), np.nan)


def _overlap_quantiles(table: _Table, weights: Integers, rate_before: Floats) -> Floats:
    """(S, 3): quantiles over regions of the share of each that lies in columns before the last one allowed.

    rate_before: (S, C), the false positive rate of all columns before each.
    """
    ends = np.sum(rate_before <= OVERLAP_RATE, axis=1) - 1
    thresholds, which = np.unique(ends, return_inverse=True)
    slots = len(thresholds) + 1
    # An entry in column c lies before every threshold above c.
    slot = np.searchsorted(thresholds, table.column, side="right")
    cells = _sums(table.region * slots + slot, table.count, len(table.area) * slots)
    shares = np.cumsum(cells.reshape(-1, slots), axis=1)[:, :-1] / table.area[:, None]
    return _weighted_quantiles(shares.T[which.ravel()], weights[:, table.owner])


def _weighted_quantiles(values: Floats, times: Integers) -> Floats:
    """(S, 3): the quantiles of each row with every value repeated so many times, as `numpy.quantile` has them."""
    order = np.argsort(values, axis=1, kind="stable")
    values, upto = np.take_along_axis(values, order, 1), np.cumsum(np.take_along_axis(times, order, 1), axis=1)
    last = values.shape[1] - 1
    quantiles = np.empty((len(values), len(OVERLAP_QUANTILES)))
    for index, quantile in enumerate(OVERLAP_QUANTILES):
        place = quantile * np.maximum(upto[:, -1:] - 1, 0)
        below, above = (
            np.take_along_axis(values, np.minimum(np.sum(upto <= rank, axis=1, keepdims=True), last), 1)[:, 0]
            for rank in (np.floor(place), np.ceil(place))
        )
        quantiles[:, index] = below + (above - below) * (place % 1)[:, 0]
    return quantiles


# ------------------------------------------------------------------------------------------------------------- checks

NEVER_BOTH = "no resample has both good and defective pixels; draw more"


def _undefined(images: Sequence[ImageScores]) -> str | None:
    good, defective = (sum(image.good_pixels for image in images), sum(image.defective_pixels for image in images))
    return undefined_because(good, defective, "pixels")


def _middle(values: Floats, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _check(resamples: int, level: float) -> None:
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise InputError(f"level must lie in (0, 1), got {level}; 0.95 for 95 %")


def _check_pairs(a: Sequence[ImageScores], b: Sequence[ImageScores]) -> None:
    if len(a) != len(b):
        raise InputError(f"a and b must score the same images, got {len(a)} and {len(b)} of them")
    for index, (first, second) in enumerate(zip(a, b, strict=True)):
        if first.good_pixels != second.good_pixels or not np.array_equal(first.regions.area, second.regions.area):
            raise InputError(
                "a and b must score the same images in the same order with the same masks, but image "
                f"{index} has {_counted(first)} in a, {_counted(second)} in b"
            )


def _counted(image: ImageScores) -> str:
    return (
        f"{image.good_pixels} good and {image.defective_pixels} defective pixels "
        f"(regions of {', '.join(map(str, image.regions.area)) or 'none'})"
    )

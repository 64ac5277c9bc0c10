"""Pixel metrics: hand-counted cases, scikit-learn, a slow AU-PRO, laws, degenerate sets."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from flawmap.core.errors import InputError
from flawmap.core.records import Curve
from flawmap.evaluation.curves import roc, roc_exact, thin
from flawmap.evaluation.formulas import PIXEL_METRICS, Cumulative, area_up_to, aupimo, weighted_quantiles
from flawmap.evaluation.histograms import (
    FLOAT_BITS,
    Binning,
    Distinct,
    ScoreHistogram,
    grouped,
    quantile_from_good,
)
from flawmap.evaluation.image_counts import ImageCounts
from flawmap.evaluation.metrics import (
    Measure,
    PixelMetrics,
    curve_metrics,
    image_metrics,
    measure_of,
    overlap_quantiles,
)

Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]


def a_set(seed: int, images: int = 4, shape: tuple[int, int] = (60, 70), lift: float = 1.5) -> list[Pair]:
    """Smooth residual maps in (0, 1), raised where random rectangles are defective."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(images):
        mask = np.zeros(shape, np.bool_)
        for _ in range(0 if index == 0 else rng.integers(1, 5)):  # the first image is good
            top, left = rng.integers(0, shape[0] - 12), rng.integers(0, shape[1] - 12)
            mask[top : top + rng.integers(2, 12), left : left + rng.integers(2, 12)] = True
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 2) * 6 + rng.standard_normal(shape) * 0.3
        pairs.append(((1 / (1 + np.exp(2 - noise - lift * mask))).astype(np.float32), mask))
    return pairs


def coarse(pairs: list[Pair], levels: int = 64) -> list[Pair]:
    """Scores rounded to a few levels: many ties, and no two distinct scores in one bin, so all metrics are exact."""
    return [((np.round(scores * levels) / levels).astype(np.float32), mask) for scores, mask in pairs]


def gather(pairs: list[Pair], binning: Binning = FLOAT_BITS, inside: NDArray[np.bool_] | None = None) -> PixelMetrics:
    metrics = PixelMetrics(binning)
    for scores, mask in pairs:
        metrics.add(scores, mask, inside)
    return metrics


def sorted_out(pairs: list[Pair], inside: NDArray[np.bool_] | None = None) -> PixelMetrics:
    """With a bin for each distinct score: what a sort gives."""
    return gather(pairs, Distinct.among(scores for scores, _ in pairs), inside)


def pooled(pairs: list[Pair]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return np.concatenate([s.ravel() for s, _ in pairs]), np.concatenate([m.ravel() for _, m in pairs])


def slow_au_pro(pairs: list[Pair], limit: float) -> float:
    """Threshold by threshold, region by region, then trapezoids up to the limit."""
    scores, mask = pooled(pairs)
    regions = []
    for values, truth in pairs:
        labels, count = ndimage.label(truth, np.ones((3, 3)))
        regions += [values[labels == number] for number in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        rate = float((scores[~mask] >= threshold).mean())
        points.append((rate, float(np.mean([(values >= threshold).mean() for values in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < limit:
            at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + at_limit) / 2
    return area / limit


def sure(measure: Measure) -> float:
    assert measure.value is not None
    return measure.value


def auroc(histogram: ScoreHistogram) -> Measure:
    return curve_metrics(histogram)["auroc"]


def au_pro(metrics: PixelMetrics, limit: float) -> Measure:
    counts = metrics.cumulative()
    return measure_of(area_up_to(counts.false, counts.overlap, limit))


def mean_aupimo(metrics: PixelMetrics, limits: tuple[float, float]) -> Measure:
    counts = metrics.cumulative()
    return measure_of(aupimo(counts.normal, counts.image_overlap, limits))


def results(metrics: PixelMetrics) -> dict[str, Any]:
    return metrics.result().to_dict()


# ------------------------------------------------------------------------------------------------ against a sort


@pytest.mark.parametrize("seed", range(4))
def test_auroc_and_average_precision_equal_scikit_learn(seed: int) -> None:
    """On smooth scores the histogram is within 1e-4 and within its own bound of scikit-learn's sort."""
    pairs = a_set(seed, images=6, shape=(150, 160))
    scores, mask = pooled(pairs)
    histogram = gather(pairs).histogram
    for measure, theirs in (
        (auroc(histogram), roc_auc_score(mask, scores)),
        (curve_metrics(histogram)["average_precision"], average_precision_score(mask, scores)),
    ):
        assert abs(sure(measure) - theirs) <= min(1e-4, measure.bound)
    assert auroc(histogram).bound < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_tied_scores_count_as_scikit_learn_counts_them(seed: int) -> None:
    """With scores on a few levels, negative ones among them, all metrics are exact to rounding."""
    pairs = [(scores * 2 - 1, mask) for scores, mask in coarse(a_set(seed))]
    scores, mask = pooled(pairs)
    histogram = gather(pairs).histogram
    precision, recall, _ = precision_recall_curve(mask, scores)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    found = {name: sure(measure) for name, measure in curve_metrics(histogram).items()}
    assert found == pytest.approx(
        {
            "auroc": roc_auc_score(mask, scores),
            "average_precision": average_precision_score(mask, scores),
            "f1_max": best,
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_au_pro_equals_a_slow_reference(limit: float) -> None:
    """AU-PRO equals a loop over thresholds and regions: exactly with ties, within its bound without."""
    tied = coarse(a_set(5), 40)
    metrics = gather(tied)
    assert sure(au_pro(metrics, limit)) == pytest.approx(slow_au_pro(tied, limit), abs=1e-12)
    smooth = a_set(6, images=3, shape=(40, 40))
    metrics = gather(smooth)
    measure = au_pro(metrics, limit)
    assert abs(sure(measure) - slow_au_pro(smooth, limit)) <= measure.bound < 2e-3


def test_bounds_hold_when_all_scores_share_few_bins() -> None:
    """Scores crowded into a few bins, the histogram's worst case: the truth stays within the bound, which is wide."""
    for seed in range(5):
        pairs = [((1 + scores / 400).astype(np.float32), mask) for scores, mask in a_set(seed, shape=(30, 30))]
        scores, mask = pooled(pairs)
        metrics = gather(pairs)
        precision, recall, _ = precision_recall_curve(mask, scores)
        truths = {
            "auroc": roc_auc_score(mask, scores),
            "average_precision": average_precision_score(mask, scores),
            "f1_max": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)),
            "au_pro_30": slow_au_pro(pairs, 0.3),
            "au_pro_05": slow_au_pro(pairs, 0.05),
        }
        result = results(metrics)
        for name, truth in truths.items():
            assert abs(result[name] - truth) <= result["bounds"][name] + 1e-12, name
        assert result["bounds"]["auroc"] > 0.01


def test_exact_curve_equals_scikit_learn() -> None:
    """The sorted curve has scikit-learn's points and area, for ties and for distinct scores."""
    for pairs in (a_set(7), coarse(a_set(7))):
        scores, mask = pooled(pairs)
        curve = roc_exact(scores, mask)
        assert curve is not None
        false, true, _ = roc_curve(mask, scores, drop_intermediate=False)
        assert np.allclose(curve.false_positive_rate, false, atol=1e-12)
        assert np.allclose(curve.true_positive_rate, true, atol=1e-12)
        assert curve.area == pytest.approx(roc_auc_score(mask, scores), abs=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_thresholds_of_a_curve_give_its_rates(exact: bool) -> None:
    """At every threshold the shares of good and defective pixels strictly above it are the point's, bit for bit."""
    scores, mask = pooled(coarse(a_set(8), 30) if exact else a_set(8, images=2, shape=(25, 25)))
    scores = np.concatenate([np.maximum(scores - np.float32(0.5), 0), np.zeros(2, np.float32)])  # many zeros
    mask = np.concatenate([mask, [True, False]])
    if exact:
        scores -= np.float32(0.25)  # negative ones too
    curve = roc_exact(scores, mask) if exact else roc(ScoreHistogram.of(scores, mask))
    assert curve is not None
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    assert (np.diff(curve.thresholds) < 0).all()
    for false, true, threshold in zip(
        curve.false_positive_rate, curve.true_positive_rate, curve.thresholds, strict=True
    ):
        above = scores.astype(np.float64) > threshold
        assert (above[~mask].mean(), above[mask].mean()) == (false, true)


# ------------------------------------------------------------------------------------------------------- by hand


def test_a_tiny_set_counted_by_hand() -> None:
    """Four good pixels, two regions of one and two pixels: every number follows on paper."""
    scores = np.array([[0.9, 0.1, 0.8, 0.4], [0.2, 0.3, 0.5, 0.1]], np.float32)
    mask = np.array([[1, 0, 0, 1], [0, 0, 0, 1]], np.bool_)
    metrics = gather([(scores, mask)])
    # Falling: 0.9 defect | 0.8 good | 0.5 good | 0.4 defect | 0.3, 0.2 good | 0.1 good and defect
    assert {name: sure(measure) for name, measure in curve_metrics(metrics.histogram).items()} == pytest.approx(
        {
            "auroc": (5 + 3 + 0.5) / 15,
            "average_precision": (1 + 2 / 4 + 3 / 8) / 3,
            "f1_max": 2 * 2 / (2 * 2 + 2 + 1),
        }
    )
    # Overlap (1 and 2 pixel region): 0.5 from FPR 0, 0.75 from 0.4, 1 at FPR 1 and 0.875 on the way from 0.8
    assert sure(au_pro(metrics, 0.4)) == pytest.approx(0.5)
    assert sure(au_pro(metrics, 0.9)) == pytest.approx((0.4 * 0.5 + 0.4 * 0.75 + 0.1 * (0.75 + 0.875) / 2) / 0.9)
    found = overlap_quantiles(metrics.histogram, metrics.regions, 0.45)
    assert found is not None
    assert found == {
        "q25": 0.625,
        "q50": 0.75,
        "q75": 0.875,
        "threshold": pytest.approx(0.3, rel=1e-3),
        "false_positive_rate": 0.4,
    }


def test_regions_are_eight_connected_and_cut_by_the_region_of_interest() -> None:
    """Diagonal pixels are one region; a region that the region of interest cuts in two counts as two."""
    scores = np.full((5, 6), 0.5, np.float32)
    mask = np.zeros((5, 6), np.bool_)
    mask[0, 0] = mask[1, 1] = True
    mask[4, :] = True
    inside = np.ones((5, 6), np.bool_)
    inside[:, 2:4] = False
    metrics = gather([(scores, mask)])
    assert metrics.regions.area.tolist() == [2, 6]
    metrics = PixelMetrics()
    metrics.add(scores, mask, inside)
    assert metrics.regions.area.tolist() == [2, 2, 2]
    assert (metrics.histogram.good_pixels, metrics.histogram.defective_pixels) == (14, 6)


def test_a_region_of_interest_hides_what_lies_outside() -> None:
    """Any scores and labels outside leave every result as it is."""
    scores, mask = a_set(9)[1]
    inside = np.zeros(mask.shape, np.bool_)
    inside[10:50, 5:60] = True
    first, second = PixelMetrics(), PixelMetrics()
    first.add(scores, mask, inside)
    second.add(np.where(inside, scores, np.float32(7)), mask | ~inside, inside)
    assert results(first) == results(second)


# ---------------------------------------------------------------------------------------------------------- laws


def test_merging_is_adding_images_in_any_order_and_grouping() -> None:
    """Accumulators merge associatively and commutatively to what one accumulator sees, through pickling too."""
    pairs = a_set(10, images=5)
    parts = [pickle.loads(pickle.dumps(gather([pair]))) for pair in pairs]
    whole = results(gather(pairs))
    for merged in (
        reduce(add, parts),
        reduce(add, parts[::-1]),
        (parts[0] + parts[1]) + (parts[2] + (parts[3] + parts[4])),
        PixelMetrics() + reduce(add, parts) + PixelMetrics(),
    ):
        result = results(merged)
        assert result.pop("overlap_at_5") == pytest.approx(whole["overlap_at_5"], abs=1e-12)
        assert result.pop("bounds") == pytest.approx(whole["bounds"], abs=1e-12)
        assert result.pop("undefined") == {}
        assert result == pytest.approx({name: whole[name] for name in result}, abs=1e-12)


def test_merging_leaves_its_parts_alone() -> None:
    """A sum shares nothing that a later image could change."""
    first, second = (gather([pair]) for pair in a_set(11, images=3)[1:])
    before = results(first)
    total = first + second
    total.add(*a_set(12)[1])
    assert results(first) == before


def test_the_order_of_pixels_does_not_matter() -> None:
    """Shuffled pixels have the same curve."""
    scores, mask = pooled(a_set(13))
    order = np.random.default_rng(0).permutation(len(scores))
    assert auroc(ScoreHistogram.of(scores, mask)) == auroc(ScoreHistogram.of(scores[order], mask[order]))
    assert image_metrics(scores, mask)["auroc"] == image_metrics(scores[order], mask[order])["auroc"]


def test_rising_transforms_change_no_exact_area() -> None:
    """A ROC curve depends on the order of scores alone: powers, logarithms and shifts leave its area."""
    scores, mask = pooled(a_set(14, images=2))
    values = scores.astype(np.float64)
    transforms: tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], ...] = (
        np.square,
        np.log,
        lambda v: v * 1e6 - 3,
    )
    for transform in transforms:
        assert image_metrics(transform(values), mask)["auroc"] == image_metrics(values, mask)["auroc"]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_no_range_need_be_known(scale: float) -> None:
    """Scores of any magnitude and sign are resolved alike; powers of two change nothing at all."""
    scores, mask = pooled(a_set(15))
    exact = image_metrics(scores, mask)["auroc"]
    for sign in (1, -1):
        scaled = (scores * scale).astype(np.float32)
        measure = auroc(ScoreHistogram.of(sign * scaled, mask if sign > 0 else ~mask))
        assert sure(measure) == pytest.approx(sure(exact), abs=1e-5)
    assert auroc(ScoreHistogram.of(scores * np.float32(8), mask)) == auroc(ScoreHistogram.of(scores, mask))


def test_perfect_reversed_and_constant_scores() -> None:
    """Perfect scores give 1, reversed ones 0, constant ones chance: 0.5, the prevalence, half the limit."""
    mask = a_set(16)[1][1]
    perfect = results(gather([(mask.astype(np.float32), mask)]))
    for name in ("auroc", "average_precision", "f1_max", "au_pro_30", "au_pro_05"):
        assert perfect[name] == 1, name
    assert [perfect["overlap_at_5"][name] for name in ("q25", "q50", "q75")] == [1, 1, 1]
    turned = results(gather([(1 - mask.astype(np.float32), mask)]))
    assert (turned["auroc"], turned["au_pro_30"], turned["overlap_at_5"]["q75"]) == (0, 0, 0)
    constant = results(gather([(np.full(mask.shape, 0.25, np.float32), mask)]))
    assert constant["auroc"] == 0.5
    assert constant["average_precision"] == pytest.approx(mask.mean())
    assert constant["au_pro_30"] == pytest.approx(0.15)
    assert constant["overlap_at_5"]["false_positive_rate"] == 0


def test_negative_zero_is_zero() -> None:
    """Both zeros are one score."""
    histogram = ScoreHistogram.of(np.array([0.0, -0.0], np.float32), np.array([True, False]))
    assert auroc(histogram).value == 0.5


def test_bins_keep_the_order_of_floats_and_their_edges_are_exact() -> None:
    """Every score lies at or below its bin's edge and above the one before, which is 0.05 % away at most."""
    rng = np.random.default_rng(17)
    values = (rng.standard_normal(2000) * 10.0 ** rng.integers(-20, 20, 2000)).astype(np.float32)
    values = np.concatenate([values, np.array([0, 1, -1, 3.4028235e38, -3.4028235e38], np.float32)])
    bins = FLOAT_BITS.of(values)
    order = np.argsort(values)
    assert (np.diff(bins[order]) >= 0).all()
    upper, lower = FLOAT_BITS.edge(bins).astype(np.float64), FLOAT_BITS.edge(bins - 1).astype(np.float64)
    assert (values <= upper).all()
    assert (values > lower).all()
    large = np.abs(values) > 1e-30
    assert (np.abs(upper - values)[large] <= 2.0**-11 * np.abs(values)[large]).all()


# --------------------------------------------------------------------------------------------- thresholds, thinning


def exactly(values: NDArray[np.float32]) -> ScoreHistogram:
    """A bin for each distinct score."""
    return ScoreHistogram.of(values, None, Distinct.among([values]))


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.01, 0.29, 0.3, 0.5, 0.999])
def test_the_threshold_from_good_pixels_keeps_its_rate_and_is_the_smallest(rate: float) -> None:
    """No more than the rate lies strictly above; any smaller score would break it; a histogram's is a bin higher."""
    for count in (1, 7, 100, 5000):
        values = np.random.default_rng(count).random(count).astype(np.float32)
        values = np.concatenate([values, values[: count // 3]])  # ties
        exact = quantile_from_good(exactly(values), rate)
        assert (values > np.float32(exact)).mean() <= rate
        smaller = values[values < np.float32(exact)]
        assert smaller.size == 0 or (values > smaller.max()).mean() > rate
        binned = quantile_from_good(ScoreHistogram.of(values), rate)
        assert exact <= binned <= exact * (1 + 2**-11)
        assert float(np.float32(binned)) == binned
        assert (values > np.float32(binned)).mean() <= rate


def test_a_rate_that_is_a_share_allows_just_that_many() -> None:
    """0.29 of a hundred pixels allows 29 above, although 0.29 * 100 is less than 29 in floating point."""
    values = np.arange(100, dtype=np.float32)
    assert quantile_from_good(exactly(values), 0.29) == 70
    assert quantile_from_good(exactly(values), 0.0) == 99


def test_a_thinned_curve_keeps_points_ends_and_area() -> None:
    """At most 2000 points, all of them the curve's own, the same ends, and the same area to 1e-4."""
    metrics = gather(a_set(18, images=6, shape=(150, 160)))
    full = roc(metrics.histogram)
    thinned = metrics.curve()
    assert full is not None
    assert thinned is not None
    assert len(thinned.thresholds) <= 2000 < len(full.thresholds)
    assert np.isin(thinned.thresholds, full.thresholds).all()
    assert (thinned.false_positive_rate[0], thinned.true_positive_rate[-1]) == (0, 1)
    assert abs(thinned.area - full.area) <= 1e-4
    low = full.false_positive_rate[full.false_positive_rate > 0][0]
    assert thinned.false_positive_rate[thinned.false_positive_rate > 0][0] == low, "the log axis starts where it did"


def test_thinning_a_staircase_takes_more_points_rather_than_its_area() -> None:
    """Where few points would move the area by more than allowed, more are kept."""
    steps = np.linspace(0, 1, 400)
    curve = Curve(np.repeat(steps, 2)[:-1], np.repeat(steps, 2)[1:], np.arange(799, 0, -1.0))
    thinned = thin(curve, 20, tolerance=1e-6)
    assert abs(thinned.area - curve.area) <= 1e-6
    assert thin(curve, 1000) is curve


# -------------------------------------------------------------------------------------------- degenerate and refused


def test_sets_without_a_class_name_the_reason() -> None:
    """Without defective or without good pixels every metric is None and says why; counts are still there."""
    scores = np.full((3, 4), 0.5, np.float32)
    cases = ((np.zeros((3, 4), np.bool_), "no defective pixels"), (np.ones((3, 4), np.bool_), "no good pixels"))
    names = {"auroc", "average_precision", "f1_max", "iou_max", "au_pro_30", "au_pro_05", "overlap_at_5"}
    for mask, reason in cases:
        metrics = gather([(scores, mask)])
        result = results(metrics)
        why = result["undefined"]
        assert why.pop("aupimo") in ("no good images", "no defective images")
        assert why == dict.fromkeys(names, reason)
        assert all(result[name] is None for name in (*names, "aupimo"))
        assert result["bounds"] == {}
        assert result["good_pixels"] + result["defective_pixels"] == 12
        assert metrics.curve() is None
        assert roc_exact(scores, mask) is None
    assert results(PixelMetrics())["undefined"]["auroc"] == "no pixels"
    assert image_metrics([0.1, 0.2], [True, True])["auroc"] == Measure(None, reason="no good images")
    assert image_metrics([0.1, 0.2], [False, False])["auroc"] == Measure(None, reason="no defective images")
    assert image_metrics([], [])["auroc"] == Measure(None, reason="no images")
    assert image_metrics([0.1, 0.2, 0.2], [False, False, True])["auroc"] == Measure(0.75)


def test_results_are_json() -> None:
    """The result survives JSON as it is."""
    result = results(gather(a_set(19)))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_an_image_wholly_outside_the_region_of_interest_counts_nothing() -> None:
    """It is counted as an image, and adds no pixel and no region."""
    metrics = PixelMetrics()
    metrics.add(*a_set(20)[1], np.zeros((60, 70), np.bool_))
    result = results(metrics)
    assert (result["images"], result["good_pixels"], result["regions"]) == (1, 0, 0)


ZEROS = np.zeros((2, 2), np.float32)
GOOD = np.zeros((2, 2), np.bool_)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: PixelMetrics().add(np.array([[np.nan, 1]], np.float32), np.zeros((1, 2), np.bool_)),
            "scores must be finite, got 1 NaN or infinite values of 2",
        ),
        (lambda: PixelMetrics().add(ZEROS[0], GOOD[0]), "residual must be (H, W), got (2)"),
        (
            lambda: PixelMetrics().add(ZEROS, GOOD.astype(np.uint8)),
            "mask must be bool, got uint8; pass mask > 0 if non-zero means True",
        ),
        (lambda: PixelMetrics().add(ZEROS, GOOD[:1]), "mask must be (H, W) = (2, 2), got (1, 2)"),
        (lambda: PixelMetrics().add(ZEROS, GOOD, GOOD[:, :1]), "inside must be (H, W) = (2, 2), got (2, 1)"),
        (
            lambda: ScoreHistogram.of(np.zeros(3)),
            "scores must be float32, got float64; pass scores.astype(np.float32)",
        ),
        (
            lambda: ScoreHistogram.of(ZEROS, GOOD[0]),
            "defective must be bool of the scores' shape (2, 2), got bool (2)",
        ),
        (lambda: roc_exact([0.1], [True, False]), "scores and defective must have one shape, got (1) and (2)"),
        (
            lambda: image_metrics([0.1, np.nan], [True, False]),
            "scores must be finite, got 1 NaN or infinite values of 2",
        ),
        (lambda: area_up_to(np.ones(1), np.ones(1), 0), "limit must lie in (0, 1], got 0"),
        (lambda: quantile_from_good(ScoreHistogram.empty(), 1), "rate must lie in [0, 1), got 1"),
        (
            lambda: quantile_from_good(ScoreHistogram.empty(), 0.1),
            "a threshold needs good pixels, got none; score at least one good image",
        ),
        (lambda: thin(Curve(np.zeros(9), np.zeros(9), np.zeros(9)), 3), "points must be at least 4, got 3"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call: Callable[[], object], text: str) -> None:
    """Every refused input is named with its expectation."""
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text


# ------------------------------------------------------------------------------------------------------------- AUPIMO


def slow_aupimo(pairs: list[Pair], low: float, high: float) -> list[float | None]:
    """From the paper: rates are means over good images; thresholds fall score by score; trapezoids have no part in it.

    At every rate of a fine logarithmic grid the smallest threshold that keeps it, and each image's share above it.
    """
    normal = [scores.ravel() for scores, mask in pairs if not mask.any()]
    thresholds = np.unique(np.concatenate([scores.ravel() for scores in normal]))
    rates = np.array([np.mean([(scores > threshold).mean() for scores in normal]) for threshold in thresholds])
    grid = np.exp(np.linspace(np.log(low), np.log(high), 4001))
    middle = np.sqrt(grid[1:] * grid[:-1])
    found: list[float | None] = []
    for scores, mask in pairs:
        if not mask.any():
            found.append(None)
            continue
        allowed = [thresholds[np.argmax(rates <= rate)] for rate in middle]
        found.append(float(np.mean([(scores[mask] > threshold).mean() for threshold in allowed])))
    return found


def with_more_good(seed: int) -> list[Pair]:
    """Half of the images good, of two sizes, so that weighing images differs from weighing pixels."""
    good = [(scores * 0.9, mask) for scores, mask in a_set(seed + 50, images=1, shape=(30, 35))]
    return [*a_set(seed, images=5), *a_set(seed + 99, images=1), *good]


@pytest.mark.parametrize("limits", [(1e-3, 1e-2), (1e-2, 0.3)])
@pytest.mark.parametrize("seed", range(2))
def test_aupimo_equals_a_slow_reference(limits: tuple[float, float], seed: int) -> None:
    """Exactly with a bin for each score, within its bound with bins of floats."""
    pairs = with_more_good(seed)
    slow = slow_aupimo(pairs, *limits)
    exact = sorted_out(pairs)
    binned = gather(pairs)
    values = [value for value in slow if value is not None]
    assert 0.05 < np.mean(values) < 0.99
    for metrics, within in ((exact, 2e-3), (binned, 4e-3)):  # the slow grid's own steps
        found = metrics.aupimo_per_image(limits)
        for measure, wanted in zip(found, slow, strict=True):
            assert (measure is None) == (wanted is None)
            if measure is not None and wanted is not None:
                assert -1e-3 <= wanted - sure(measure) + 1e-3 <= measure.bound + within
        assert sure(mean_aupimo(metrics, limits)) == pytest.approx(np.mean(values), abs=5e-3)


def test_aupimo_of_perfect_and_of_blind_maps() -> None:
    """1 where every defective pixel lies above every good one, 0 where none does."""
    good, flawed = np.zeros((20, 20), np.bool_), np.zeros((20, 20), np.bool_)
    flawed[5:9, 5:9] = True
    noise = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    perfect = gather([(noise, good), (np.where(flawed, 2 + noise, noise), flawed)])
    assert results(perfect)["aupimo"] == pytest.approx(1)
    blind = gather([(noise + 1, good), (noise, flawed)])
    assert results(blind)["aupimo"] == 0


def test_aupimo_looks_at_good_images_alone() -> None:
    """Good pixels of a defective image, however high, move no threshold."""
    good, flawed = np.zeros((20, 20), np.bool_), np.zeros((20, 20), np.bool_)
    flawed[5:9, 5:9] = True
    noise = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    metrics = gather([(noise, good), (noise + 2, flawed)])
    assert results(metrics)["aupimo"] == pytest.approx(1)


def test_aupimo_without_a_class() -> None:
    """The reason is named."""
    pairs = a_set(3, images=3)
    only_good, only_bad = gather(pairs[:1]), gather(pairs[1:])
    assert results(only_good)["undefined"]["aupimo"] == "no defective images"
    assert results(only_bad)["undefined"]["aupimo"] == "no good images"
    found = only_bad.aupimo_per_image()
    assert [measure.reason for measure in found if measure is not None] == ["no good images"] * 2
    with pytest.raises(InputError, match=r"limits must be a range of rates in \(0, 1\], got 0.1 to 0.1"):
        gather(pairs).aupimo_per_image((0.1, 0.1))


# ---------------------------------------------------------------------------------------------------------- exact mode


@pytest.mark.parametrize("seed", range(3))
def test_exact_mode_equals_scikit_learn_and_bins_stay_within_1e_4(seed: int) -> None:
    """A bin for each distinct score gives what a sort gives; bins of floats are within 1e-4 of it, and their bounds."""
    pairs = a_set(seed, images=8, shape=(150, 160))
    scores, mask = pooled(pairs)
    exact = results(sorted_out(pairs))
    assert exact["auroc"] == pytest.approx(roc_auc_score(mask, scores), abs=1e-12)
    assert exact["average_precision"] == pytest.approx(average_precision_score(mask, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(mask, scores)
    best = float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))
    assert exact["f1_max"] == pytest.approx(best, abs=1e-12)
    binned = results(gather(pairs))
    for name in ("auroc", "average_precision", "f1_max", "iou_max", "au_pro_30", "au_pro_05", "aupimo"):
        off = abs(binned[name] - exact[name])
        assert off <= binned["bounds"][name] + 1e-12
        # Maxima pick the luckiest threshold, which of few pixels is worth a little more than the best edge of a bin.
        assert off <= {"f1_max": 3e-4, "iou_max": 3e-4, "aupimo": 1e-2}.get(name, 1e-4), name
    assert exact["overlap_at_5"]["q50"] == pytest.approx(binned["overlap_at_5"]["q50"], abs=5e-3)
    assert exact["overlap_at_5"]["threshold"] == pytest.approx(binned["overlap_at_5"]["threshold"], rel=1e-3)


def test_exact_mode_with_a_region_of_interest() -> None:
    """What lies outside counts for nothing, as with bins of floats."""
    inside = np.zeros((60, 70), np.bool_)
    inside[10:50, 5:60] = True
    pairs = coarse(a_set(4))
    exact = results(sorted_out(pairs, inside))
    found = results(gather(pairs, inside=inside))
    for name in ("auroc", "average_precision", "f1_max", "iou_max", "au_pro_30", "aupimo", "good_pixels", "regions"):
        assert found[name] == pytest.approx(exact[name], abs=1e-12)


def test_bins_of_other_scores_are_refused() -> None:
    """A score that the bins were not made of has no place among them."""
    binning = Distinct.among([np.array([0.5, 0.25], np.float32)])
    assert binning.of(np.array([0.5, 0.25, 0.25], np.float32)).tolist() == [1, 0, 0]
    for score in (0.3, 0.7, 0.1):
        with pytest.raises(InputError, match="scores must be among those that the bins were made of"):
            binning.of(np.array([score], np.float32))
    with pytest.raises(InputError, match="scores must be finite"):
        Distinct.among([np.array([np.nan], np.float32)])


@pytest.mark.parametrize("seed", range(3))
def test_iou_max_equals_a_loop_over_thresholds(seed: int) -> None:
    """The best intersection over union of any threshold, on tied scores exactly."""
    pairs = coarse(a_set(seed), 40)
    scores, mask = pooled(pairs)
    found = [(scores > t) for t in np.append(np.unique(scores), -1)]
    best = max(float((above & mask).sum() / (above | mask).sum()) for above in found)
    assert results(gather(pairs))["iou_max"] == pytest.approx(best, abs=1e-12)


def test_image_metrics_equal_scikit_learn() -> None:
    """AUROC, average precision and F1 of whole images, ties among them."""
    rng = np.random.default_rng(0)
    flawed = rng.random(50) < 0.4
    scores = np.round(rng.random(50) + 0.3 * flawed, 1)
    found = image_metrics(scores, flawed)
    precision, recall, _ = precision_recall_curve(flawed, scores)
    assert sure(found["auroc"]) == pytest.approx(roc_auc_score(flawed, scores), abs=1e-12)
    assert sure(found["average_precision"]) == pytest.approx(average_precision_score(flawed, scores), abs=1e-12)
    assert sure(found["f1_max"]) == pytest.approx(np.max(2 * precision * recall / (precision + recall)), abs=1e-12)


# ------------------------------------------------------------------------------------------- bands, sums and groups


@given(data=strategies.data(), height=strategies.integers(1, 12), width=strategies.integers(1, 9))
def test_any_cut_into_bands_gives_the_same_counts(data: strategies.DataObject, height: int, width: int) -> None:
    """Pixels, regions and their scores are those of the whole image, wherever bands end, with and without a region."""
    rng = np.random.default_rng(data.draw(strategies.integers(0, 2**32 - 1)))
    residual = np.round(rng.random((height, width)) * 5).astype(np.float32)
    truth = rng.random((height, width)) < data.draw(strategies.sampled_from([0.0, 0.2, 0.6]))
    inside = rng.random((height, width)) < 0.7 if data.draw(strategies.booleans()) else None
    cuts = [*sorted(data.draw(strategies.sets(strategies.integers(1, height)))), height]
    whole, banded = ImageCounts(), ImageCounts()
    whole.add(residual, truth, inside)
    for top, bottom in pairwise([0, *cuts]):
        banded.add(residual[top:bottom], truth[top:bottom], None if inside is None else inside[top:bottom])
    for first, second in zip(whole.counted(), banded.counted(), strict=True):
        for name, value in vars(first).items():
            assert np.array_equal(value, getattr(second, name)), name
    flawed = truth if inside is None else truth & inside
    histogram, regions = whole.counted()
    assert regions.area.sum() == histogram.defective_pixels == flawed.sum()
    assert len(regions.area) == ndimage.label(flawed, np.ones((3, 3)))[1]


def test_bands_may_be_changed_after_they_were_counted() -> None:
    """Nothing of what is handed over is kept: buffers may be used again."""
    scores, mask = a_set(21)[1]
    counts, buffers = ImageCounts(), (scores.copy(), mask.copy())
    counts.add(*buffers)
    buffers[0][:], buffers[1][:] = 7, False
    metrics = PixelMetrics()
    metrics.add_image(counts.counted())
    assert results(metrics) == results(gather([(scores, mask)]))


def test_a_sum_holds_what_its_histograms_hold() -> None:
    """`+` of histograms gives the histogram of all scores at once."""
    pairs = a_set(22)
    merged = reduce(add, [ScoreHistogram.of(scores, mask) for scores, mask in pairs], ScoreHistogram.empty())
    whole = ScoreHistogram.of(*pooled(pairs))
    for name in ("bins", "good", "defective"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name)), name
    assert ((whole.good + whole.defective) > 0).all()
    assert (np.diff(whole.bins) > 0).all()


def test_rows_of_many_sets_are_what_each_set_has() -> None:
    """A formula on a stack of sets, any number of axes before the bins, gives each set's own value and bound."""
    rng = np.random.default_rng(0)
    stacked = Cumulative(*np.cumsum(rng.integers(0, 4, (5, 2, 3, 40)).astype(np.float64), axis=-1))
    for name, formula in PIXEL_METRICS.items():
        found = formula(stacked)
        for place in np.ndindex(2, 3):
            own = formula(Cumulative(*(array[place] for array in stacked)))
            assert (found.value[place], found.bound[place]) == pytest.approx(own, abs=1e-12), name


def test_weighted_quantiles_are_those_of_repeated_values() -> None:
    """Values that count several times, or not at all, have `numpy.quantile` of the list spelled out."""
    rng = np.random.default_rng(1)
    values, times = np.round(rng.random((20, 9)), 1), rng.integers(0, 4, (20, 9))
    times[:, 0] += 1
    found = weighted_quantiles(values, times, (0.0, 0.25, 0.5, 0.9, 1.0))
    for row, value, time in zip(found, values, times, strict=True):
        assert row == pytest.approx(np.quantile(np.repeat(value, time), (0.0, 0.25, 0.5, 0.9, 1.0)), abs=1e-12)


def test_groups_are_few_and_in_order() -> None:
    """At most one group more than asked for, ascending without a gap, and fine among the highest scores."""
    good, defective = np.random.default_rng(2).integers(1, 50, (2, 5000))
    groups = grouped(good, defective, 200)
    assert set(np.diff(groups)) == {0, 1}
    assert groups[0] == 0
    assert groups[-1] <= 200
    assert np.array_equal(groups[:5], range(5))
    assert np.array_equal(grouped(good, defective, 5000), range(5000))

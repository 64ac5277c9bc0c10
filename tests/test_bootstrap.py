"""Bootstrap intervals: explicit resampling with sorts, laws, coverage on simulated sets, undefined cases."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from flawmap.commands.console import show_evaluation
from flawmap.core.errors import InputError
from flawmap.evaluation import bootstrap as module
from flawmap.evaluation.bootstrap import (
    METRICS,
    Bootstrap,
    Difference,
    Interval,
    Metric,
    bootstrap,
    draws,
    paired_difference,
    resampled,
)
from flawmap.evaluation.evaluate import Evaluation, _figures
from flawmap.evaluation.metrics import ImageScores, PixelMetrics
from flawmap.reporting.cases import _metrics_table
from flawmap.reporting.pages import Cell, number

Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]


def a_set(seed: int, images: int = 8, shape: tuple[int, int] = (50, 60), lift: float = 1.5) -> list[Pair]:
    """Smooth residual maps in (0, 1), raised where rectangles are defective; every fourth image is good."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(images):
        mask = np.zeros(shape, np.bool_)
        for _ in range(rng.integers(1, 5) if index % 4 else 0):
            top, left = rng.integers(0, shape[0] - 12), rng.integers(0, shape[1] - 12)
            mask[top : top + rng.integers(2, 12), left : left + rng.integers(2, 12)] = True
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 2) * 6 + rng.standard_normal(shape) * 0.3
        hardness = rng.normal(lift, 0.5)
        pairs.append(((1 / (1 + np.exp(2 - noise - hardness * mask))).astype(np.float32), mask))
    return pairs


def tied(pairs: list[Pair], levels: int = 64) -> list[Pair]:
    """Scores rounded to a few levels, no two of them in one coarse bin: counting by bins is exact."""
    return [((np.round(scores * levels) / levels).astype(np.float32), mask) for scores, mask in pairs]


def gather(pairs: list[Pair]) -> PixelMetrics:
    metrics = PixelMetrics()
    for scores, mask in pairs:
        metrics.add(scores, mask)
    return metrics


def kept(pairs: list[Pair]) -> list[ImageScores]:
    return gather(pairs).per_image


def repeated(pairs: list[Pair], times: NDArray[np.int64]) -> list[Pair]:
    """A resample spelled out: every image as often as it was drawn."""
    return [pair for pair, number in zip(pairs, times, strict=True) for _ in range(number)]


def figures(metrics: PixelMetrics) -> dict[Metric, float]:
    """The figures of the histogram of 20 bits, under the names of the intervals."""
    result = metrics.result()
    result |= {f"overlap_at_5_{name}": result["overlap_at_5"][name] for name in ("q25", "q50", "q75")}
    return {name: result[name] for name in METRICS}


def slow_auroc(pairs: list[Pair]) -> float:
    scores = np.concatenate([values.ravel() for values, _ in pairs])
    return float(roc_auc_score(np.concatenate([mask.ravel() for _, mask in pairs]), scores))


def slow_figures(pairs: list[Pair]) -> dict[str, float]:
    """All metrics by sorts of the pixels, loops over thresholds and regions, and scikit-learn."""
    scores = np.concatenate([values.ravel() for values, _ in pairs])
    truth = np.concatenate([mask.ravel() for _, mask in pairs])
    regions = []
    for values, mask in pairs:
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [values[labels == number] for number in range(1, count + 1)]
    good = scores[~truth]
    thresholds = np.unique(scores)[::-1]
    rates = [0.0, *((good >= threshold).mean() for threshold in thresholds)]
    overlaps = [0.0, *(np.mean([(region >= threshold).mean() for region in regions]) for threshold in thresholds)]
    precision, recall, _ = precision_recall_curve(truth, scores)
    lowest = min(threshold for threshold in thresholds if (good > threshold).mean() <= 0.05)
    shares = [(region > lowest).mean() for region in regions]
    return {
        "auroc": roc_auc_score(truth, scores),
        "average_precision": average_precision_score(truth, scores),
        "f1_max": np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)),
        "iou_max": max(((scores >= t) & truth).sum() / ((scores >= t) | truth).sum() for t in thresholds),
        "aupimo": slow_aupimo(pairs),
        "au_pro_30": slow_area(rates, overlaps, 0.3),
        "au_pro_05": slow_area(rates, overlaps, 0.05),
        **{f"overlap_at_5_q{q}": np.quantile(shares, q / 100) for q in (25, 50, 75)},
    }


def slow_aupimo(pairs: list[Pair], low: float = 1e-5, high: float = 1e-4) -> float:
    """Span by span of the logarithm of the good images' mean rate; NaN without good images."""
    normal = [values for values, mask in pairs if not mask.any()]
    flawed = [values[mask] for values, mask in pairs if mask.any()]
    if not normal or not flawed:
        return float("nan")
    area, before = 0.0, low
    for threshold in np.unique(np.concatenate([values.ravel() for values in normal]))[::-1]:
        rate = float(np.mean([(values >= threshold).mean() for values in normal]))  # from here on it may fall
        after = min(max(rate, low), high)
        area += np.log(after / before) * np.mean([(values > threshold).mean() for values in flawed])
        before = after
    return float(area / np.log(high / low))


def slow_area(rates: list[float], overlaps: list[float], limit: float) -> float:
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(zip(rates, overlaps, strict=True)):
        if x0 < limit and x1 > x0:
            stop = min(x1, limit)
            area += (stop - x0) * (y0 + y0 + (y1 - y0) * (stop - x0) / (x1 - x0)) / 2
    return area / limit


# ------------------------------------------------------------------------------------------- against slow references


@pytest.mark.parametrize("seed", range(2))
def test_every_resample_equals_explicit_resampling(seed: int) -> None:
    """For the same draws every metric equals that of the repeated images, sorted by scikit-learn and by loops."""
    pairs = tied(a_set(seed, images=6, shape=(30, 30)), 40)
    weights = draws(len(pairs), 8, seed)
    found = resampled(kept(pairs), weights)
    for row, times in enumerate(weights):
        expected = slow_figures(repeated(pairs, times))
        for name in METRICS:
            assert found[name][row] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def test_every_resample_equals_the_histogram() -> None:
    """On finer ties the metrics are those of `PixelMetrics` to rounding."""
    pairs = tied(a_set(2), 128)
    weights = draws(len(pairs), 6, 1)
    found = resampled(kept(pairs), weights)
    for row, times in enumerate(weights):
        expected = figures(gather(repeated(pairs, times)))
        assert {name: found[name][row] for name in METRICS} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("power", "several"), [(1, False), (16, True)])
def test_coarse_bins_move_little(power: int, several: bool) -> None:
    """On smooth scores the metrics are as near to the fine histogram's as the module says, with bins merged or not."""
    pairs = [(scores**power, mask) for scores, mask in a_set(3, images=12, shape=(200, 200))]
    metrics = gather(pairs)
    columns = module._table(metrics.per_image).good.shape[1]
    occupied = len(np.unique(np.concatenate([image.bin for image in metrics.per_image])))
    assert columns <= module.COLUMNS + 1
    assert (occupied > module.COLUMNS > columns) if several else (occupied <= columns)
    ones = np.ones((1, len(pairs)), np.int64)
    found, expected = resampled(metrics.per_image, ones), figures(metrics)
    tolerances = {"auroc": 1e-4, "au_pro_30": 1e-4, "au_pro_05": 1e-4, "average_precision": 1e-3, "f1_max": 1e-3}
    for name in METRICS:
        assert abs(found[name][0] - expected[name]) < tolerances.get(name, 0.01), name


def test_intervals_are_percentiles_of_explicit_resampling() -> None:
    """The ends are the quantiles of the resampled metrics, all drawn with the seed, at any level."""
    pairs = tied(a_set(4, images=5))
    values = [slow_auroc(repeated(pairs, times)) for times in draws(5, 40, 7)]
    for level in (0.5, 0.9):
        found = bootstrap(kept(pairs), resamples=40, seed=7, level=level)
        expected = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        assert found.intervals["auroc"] == pytest.approx(expected, abs=1e-12)
        assert (found.resamples, found.dropped, found.level, found.undefined) == (40, 0, level, None)


def test_work_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One resample at a time gives what all at once give."""
    images = kept(a_set(5))
    whole = bootstrap(images, resamples=50)
    monkeypatch.setattr(module, "CELLS", 1)
    parts = bootstrap(images, resamples=50)
    for name in METRICS:
        assert parts.intervals[name] == pytest.approx(whole.intervals[name], abs=1e-12)


# ---------------------------------------------------------------------------------------------------------- laws


def test_draws_are_whole_sets() -> None:
    """Every resample has as many images as the set, each as likely as another, and goes by the seed alone."""
    weights = draws(10, 4000, 3)
    assert weights.shape == (4000, 10)
    assert (weights.sum(axis=1) == 10).all()
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.08, "five standard errors"
    assert np.abs(weights.var(axis=0) - 0.9).max() < 0.15, "binomial: 10 draws, a tenth each"
    assert np.array_equal(weights, draws(10, 4000, 3))
    assert not np.array_equal(weights, draws(10, 4000, 4))


@pytest.mark.parametrize("seed", range(3))
def test_intervals_contain_their_figure(seed: int) -> None:
    """On ordinary sets the figure of all images lies inside its interval, which is neither empty nor everything."""
    metrics = gather(a_set(seed + 10, images=16))
    found = bootstrap(metrics.per_image, resamples=300, seed=seed)
    for name, value in figures(metrics).items():
        low, high = found.intervals[name]
        assert 0 <= low < value < high <= 1, name
    assert found.intervals["auroc"].high - found.intervals["auroc"].low < 0.3


def test_a_wider_level_holds_a_narrower_one() -> None:
    """Intervals of one seed are nested by level."""
    images = kept(a_set(6))
    narrow, wide = (bootstrap(images, resamples=200, level=level).intervals for level in (0.5, 0.95))
    for name in METRICS:
        assert wide[name].low <= narrow[name].low < narrow[name].high <= wide[name].high, name
    assert wide["auroc"].low < narrow["auroc"].low < narrow["auroc"].high < wide["auroc"].high


def test_the_seed_decides() -> None:
    """The same seed gives the same interval, bit for bit; another seed another, close by."""
    images = kept(a_set(7, images=12))
    first = bootstrap(images, resamples=500, seed=1)
    assert bootstrap(images, resamples=500, seed=1) == first
    other = bootstrap(images, resamples=500, seed=2)
    assert other != first
    width = first.intervals["auroc"].high - first.intervals["auroc"].low
    assert other.intervals["auroc"] == pytest.approx(first.intervals["auroc"], abs=width / 4)


@pytest.mark.parametrize("images", [1, 5])
def test_identical_images_have_intervals_without_width(images: int) -> None:
    """One image, or copies of one: every resample has its figures."""
    pairs = tied(a_set(8)[1:2]) * images
    found = bootstrap(kept(pairs), resamples=50)
    expected = figures(gather(pairs[:1]))
    assert "aupimo" not in found.intervals, "there are no good images"
    assert expected.pop("aupimo") is None
    for name, value in expected.items():
        assert found.intervals[name] == pytest.approx((value, value), abs=1e-12), name
        assert found.intervals[name].high - found.intervals[name].low < 1e-12, name


def test_more_images_narrow_the_interval() -> None:
    """Sixteen times as many images of one kind: about a quarter of the width."""
    few, many = (
        [bootstrap(kept(a_set(seed, images=images, shape=(24, 24))), 200).intervals["auroc"] for seed in range(20, 23)]
        for images in (8, 128)  # of which six and 96 are defective
    )
    ratio = np.mean([high - low for low, high in few]) / np.mean([high - low for low, high in many])
    assert 2.5 < ratio < 6.5


def test_intervals_cover_what_they_estimate() -> None:
    """Of 60 sets of 30 images from one population, 90 % intervals hold the population's AUROC about as often."""
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 6), np.bool_)
    mask[:2] = True

    def population(images: int) -> list[Pair]:
        lifts, levels = rng.normal(1, 0.7, images), rng.normal(0, 0.5, images)
        pairs = [
            (np.exp(rng.standard_normal(mask.shape) / 2 + level + lift * mask).astype(np.float32), mask)
            for lift, level in zip(lifts, levels, strict=True)
        ]
        return tied(pairs, 8)

    many = population(10_000)
    scores, truth = np.array([values for values, _ in many]), np.array([mask for _, mask in many])
    auroc = roc_auc_score(truth.ravel(), scores.ravel())
    held = 0
    for seed in range(60):
        low, high = bootstrap(kept(population(30)), resamples=200, seed=seed, level=0.9).intervals["auroc"]
        held += low <= auroc <= high
    assert 0.78 <= held / 60 <= 0.98


def test_merging_keeps_the_images() -> None:
    """Accumulators that were merged have the intervals of one that saw all images in that order."""
    pairs = a_set(9)
    merged = gather(pairs[:3]) + gather(pairs[3:])
    assert bootstrap(merged.per_image, 50) == bootstrap(kept(pairs), 50)


def test_what_an_image_adds_is_all_of_it() -> None:
    """Good pixels, regions and defective pixels of what is kept are those inside the region of interest."""
    scores, mask = a_set(9)[1]
    inside = np.zeros(mask.shape, np.bool_)
    inside[10:, 5:50] = True
    metrics = PixelMetrics()
    metrics.add(scores, mask, inside)
    (image,) = metrics.per_image
    assert image.good_pixels == int((inside & ~mask).sum())
    assert image.defective_pixels == int((inside & mask).sum())
    assert (np.diff(image.bin) > 0).all()
    assert (image.count > 0).all()


# ------------------------------------------------------------------------------------------------------- two maps


def test_a_map_does_not_differ_from_itself() -> None:
    """The difference of a map and itself, or a rising transform that keeps its bins apart, is 0 throughout."""
    pairs = tied(a_set(30))
    images, fourfold = kept(pairs), kept([(scores * np.float32(4), mask) for scores, mask in pairs])
    for other in (images, fourfold):
        for metric in METRICS:
            found = paired_difference(images, other, metric, resamples=50)
            dropped = int((draws(len(pairs), 50, 0)[:, ::4].sum(axis=1) == 0).sum()) if metric == "aupimo" else 0
            assert found == Difference(0.0, Interval(0.0, 0.0), 50, dropped, 0.95)


def test_differences_equal_explicit_resampling() -> None:
    """The interval is that of the differences of explicit resamples, the same images drawn for both."""
    a, b = tied(a_set(31, images=5)), tied(a_set(31, images=5, lift=1.0))
    differences = [slow_auroc(repeated(a, times)) - slow_auroc(repeated(b, times)) for times in draws(5, 30, 4)]
    found = paired_difference(kept(a), kept(b), "auroc", resamples=30, seed=4, level=0.8)
    assert found.interval == pytest.approx(np.quantile(differences, [0.1, 0.9]), abs=1e-12)
    assert found.value == pytest.approx(slow_auroc(a) - slow_auroc(b), abs=1e-12)
    median = paired_difference(kept(a), kept(b), "overlap_at_5_q50", resamples=30, seed=4)
    assert median.value == pytest.approx(
        slow_figures(a)["overlap_at_5_q50"] - slow_figures(b)["overlap_at_5_q50"], abs=1e-9
    )


def test_pairs_tell_maps_apart_that_intervals_do_not() -> None:
    """A map that is a little better on every image: its own interval holds the other's figure, the difference no 0."""
    a, b = kept(a_set(32, images=24, lift=1.7)), kept(a_set(32, images=24, lift=1.5))
    better = paired_difference(a, b, "auroc", resamples=300)
    apart = bootstrap(a, 300).intervals["auroc"], bootstrap(b, 300).intervals["auroc"]
    assert apart[0].low < apart[1].high
    assert better.interval is not None
    assert better.interval.low > 0
    worse = paired_difference(b, a, "auroc", resamples=300)
    assert worse.interval == pytest.approx((-better.interval.high, -better.interval.low), abs=1e-12)


# ------------------------------------------------------------------------------------------------------- undefined


SCORES = np.linspace(0.1, 1, 12, dtype=np.float32).reshape(3, 4)
GOOD, BAD = np.zeros((3, 4), np.bool_), np.ones((3, 4), np.bool_)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([], "no pixels"),
        ([(SCORES, GOOD)] * 3, "no defective pixels"),
        ([(SCORES, BAD)] * 3, "no good pixels"),
        ([(SCORES[:0], GOOD[:0])] * 2, "no pixels"),
    ],
)
def test_sets_without_a_curve_have_no_intervals(pairs: list[Pair], reason: str) -> None:
    """Where the figure is undefined so is the interval, for the same reason; all resamples are dropped."""
    images = kept(pairs)
    found = bootstrap(images, 20)
    assert found == Bootstrap({}, 20, 20, 0.95, reason)
    assert gather(pairs).result()["undefined"]["auroc"] == reason
    for_json = found.to_dict()
    assert {name: for_json.pop(name) for name in METRICS} == dict.fromkeys(METRICS)
    assert for_json == {"level": 0.95, "resamples": 20, "dropped": 20}
    assert paired_difference(images, images, "auroc", resamples=20) == Difference(None, None, 20, 20, 0.95, reason)
    if pairs:
        assert all(np.isnan(values).all() for values in resampled(images, draws(len(pairs), 3, 0)).values())


def test_resamples_without_one_kind_count_nowhere() -> None:
    """Of a good image and three defective throughout, those that lack a kind are dropped, counted, and no others."""
    a_good_one = (SCORES, GOOD)
    pairs = [a_good_one, *(((SCORES + np.float32(step)), BAD) for step in (0.0, 0.3, 0.6))]
    images, weights = kept(pairs), draws(4, 400, 0)
    found = bootstrap(images, 400)
    lacking = (weights[:, 0] == 0) | (weights[:, 0] == 4)
    assert found.dropped == lacking.sum() > 100
    values = resampled(images, weights)
    for name in METRICS:
        assert np.array_equal(np.isnan(values[name]), lacking)
        assert found.intervals[name] == pytest.approx(np.quantile(values[name][~lacking], [0.025, 0.975]))
    assert paired_difference(images, images, "auroc", resamples=400).dropped == found.dropped


def test_when_every_resample_lacks_one_kind() -> None:
    """A single draw that has one kind alone leaves no interval, and the reason says so; the difference has a value."""
    images = kept([(SCORES, GOOD), (SCORES, BAD)])
    seed = next(seed for seed in range(100) if 2 in draws(2, 1, seed))
    reason = "no resample has both good and defective pixels; draw more"
    assert bootstrap(images, 1, seed) == Bootstrap({}, 1, 1, 0.95, reason)
    assert paired_difference(images, images, "f1_max", resamples=1, seed=seed) == Difference(
        0.0, None, 1, 1, 0.95, reason
    )


def test_intervals_are_json() -> None:
    """The record survives JSON as it is."""
    found = bootstrap(kept(a_set(33)), 20).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["level", "resamples", "dropped", *METRICS]


def test_every_figure_has_an_interval_of_its_name() -> None:
    """The accumulator's figures and the metrics here are the same; a new figure is given its interval."""
    result = gather(a_set(34)).result()
    quartiles = {f"overlap_at_5_{name}" for name in result["overlap_at_5"] if name.startswith("q")}
    assert set(METRICS) == set(result["bounds"]) | quartiles


# ------------------------------------------------------------------------------------------------ what people see


def an_evaluation(pairs: list[Pair]) -> Evaluation:
    """As `evaluate` puts it together, over all images and over those with a defect."""
    both = (gather(pairs), gather([(scores, mask) for scores, mask in pairs if mask.any()]))
    pixel, defective = (_figures(metrics) for metrics in both)
    return Evaluation(pixel, defective, None, "no images", None, (), (), (), None)


def test_sections_hold_their_intervals() -> None:
    """Both sections of pixels have the intervals of their own images, beside figures that are as they were."""
    pairs = a_set(36)
    evaluation = an_evaluation(pairs)
    assert evaluation.pixel["intervals"] == bootstrap(kept(pairs)).to_dict()
    assert evaluation.pixel_defective_images["intervals"] != evaluation.pixel["intervals"]
    rest = {name: value for name, value in evaluation.pixel.items() if name != "intervals"}
    assert rest == gather(pairs).result()


def test_page_and_terminal_show_the_intervals() -> None:
    """The headline figures stand with the ends of their intervals, to four digits."""
    evaluation = an_evaluation(a_set(37))
    low, high = evaluation.pixel["intervals"]["au_pro_30"]
    ends = f"{low:.4f} to {high:.4f}"
    table = _metrics_table(evaluation)
    assert table.columns[0] == "figure (95% interval over images)"
    row = next(row for row in table.rows if row[0] == "AU-PRO at 30 % false positives")
    assert isinstance(row[1], Cell)
    assert row[1].text == f"{evaluation.pixel['au_pro_30']:.4f} ({ends})"
    lines = shown(evaluation)
    place = next(number for number, line in enumerate(lines) if line.startswith("AU-PRO at 30 %"))
    assert lines[place].split()[-1] == f"{evaluation.pixel['au_pro_30']:.4f}"
    assert lines[place + 1].split() == [*["95%", "interval", "over", "images"], *ends.split()]


def test_page_and_terminal_without_intervals() -> None:
    """Where a figure is undefined the reason is shown, and no interval."""
    evaluation = an_evaluation([(SCORES, GOOD)])
    row = _metrics_table(evaluation).rows[0]
    assert row[1] == number(None, reason="no defective pixels")
    lines = shown(evaluation)
    assert not any("interval" in line for line in lines)
    assert any(line.startswith("pixel AUROC") and line.endswith("none: no defective pixels") for line in lines)


def shown(evaluation: Evaluation) -> list[str]:
    """The lines that the terminal has for it."""
    text = io.StringIO()
    show_evaluation(Console(file=text, width=100), evaluation.to_dict() | {"folder": "out"})
    return [line.rstrip() for line in text.getvalue().splitlines()]


# --------------------------------------------------------------------------------------------------------- errors


IMAGES = kept(a_set(35, images=3))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: bootstrap(IMAGES, 0), "resamples must be at least 1, got 0"),
        (lambda: bootstrap(IMAGES, level=95), "level must lie in (0, 1), got 95; 0.95 for 95 %"),
        (lambda: bootstrap(IMAGES, level=float("nan")), "level must lie in (0, 1), got nan; 0.95 for 95 %"),
        (
            lambda: paired_difference(IMAGES, IMAGES, "accuracy"),  # type: ignore[arg-type]
            "metric must be one of auroc, average_precision, f1_max, iou_max, au_pro_30, au_pro_05, aupimo, "
            "overlap_at_5_q25, overlap_at_5_q50, overlap_at_5_q75, got accuracy",
        ),
        (
            lambda: paired_difference(IMAGES, IMAGES[:2], "auroc"),
            "a and b must score the same images, got 3 and 2 of them",
        ),
        (
            lambda: paired_difference(kept([(SCORES, GOOD)]), kept([(SCORES, BAD)]), "auroc"),
            "a and b must score the same images in the same order with the same masks, but image 0 has 12 good and 0 "
            "defective pixels (regions of none) in a, 0 good and 12 defective pixels (regions of 12) in b",
        ),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call: Callable[[], object], text: str) -> None:
    """Every refused input is named with its expectation."""
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text


def test_the_same_counts_in_other_regions_are_other_masks() -> None:
    """Two masks with as many pixels, but other regions, are not the same images."""
    one, two = GOOD.copy(), GOOD.copy()
    one[0, :2] = True
    two[0, 0] = two[0, 3] = True
    with pytest.raises(InputError, match=r"\(regions of 2\) in a, .* \(regions of 1, 1\) in b"):
        paired_difference(kept([(SCORES, one)]), kept([(SCORES, two)]), "auroc")

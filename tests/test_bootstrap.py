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
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from flawmap.commands.tables import show_evaluation
from flawmap.core.errors import InputError
from flawmap.evaluation import bootstrap as module
from flawmap.evaluation import intervals
from flawmap.evaluation.bootstrap import METRICS, bootstrap, resampled
from flawmap.evaluation.image_counts import ImageScores
from flawmap.evaluation.intervals import (
    Bootstrap,
    binomial_interval,
    bootstrap_weights,
    image_intervals,
    rate_interval,
    row_blocks,
)
from flawmap.evaluation.metrics import PixelMetrics, image_metrics
from flawmap.evaluation.results import Evaluation, HeldOut, PixelSection
from flawmap.reporting.labels import PIXEL_METRICS

Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]
Weights = NDArray[np.int32]


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


def repeated(pairs: list[Pair], times: Weights) -> list[Pair]:
    """A resample spelled out: every image as often as it was drawn."""
    return [pair for pair, number in zip(pairs, times, strict=True) for _ in range(number)]


def draws(pairs: list[Pair], resamples: int, seed: int) -> Weights:
    """The draws of `bootstrap` for these images."""
    return bootstrap_weights(np.array([mask.any() for _, mask in pairs], np.bool_), resamples, seed)


def figures(metrics: PixelMetrics) -> dict[str, float]:
    """The figures of the histogram of 20 bits, under the names of the intervals."""
    result = metrics.result().to_dict()
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
    weights = draws(pairs, 8, seed)
    found = resampled(kept(pairs), weights)
    for row, times in enumerate(weights):
        expected = slow_figures(repeated(pairs, times))
        for name in METRICS:
            assert found[name][row] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def test_every_resample_equals_the_histogram() -> None:
    """On finer ties the metrics are those of `PixelMetrics` to rounding."""
    pairs = tied(a_set(2), 128)
    weights = draws(pairs, 6, 1)
    found = resampled(kept(pairs), weights)
    for row, times in enumerate(weights):
        expected = figures(gather(repeated(pairs, times)))
        assert {name: found[name][row] for name in METRICS} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("power", "several"), [(1, False), (16, True)])
def test_coarse_bins_move_little(power: int, several: bool) -> None:
    """On smooth scores the metrics are as near to the fine histogram's as the module says, with bins merged or not."""
    pairs = [(scores**power, mask) for scores, mask in a_set(3, images=12, shape=(200, 200))]
    metrics = gather(pairs)
    columns = module._Table.of(metrics.per_image).columns
    occupied = len(np.unique(np.concatenate([image.bin for image in metrics.per_image])))
    assert columns <= module.COLUMNS + 1
    assert (occupied > module.COLUMNS > columns) if several else (occupied <= columns)
    ones = np.ones((1, len(pairs)), np.int64)
    found, expected = resampled(metrics.per_image, ones), figures(metrics)
    tolerances = {"auroc": 1e-4, "au_pro_30": 1e-4, "au_pro_05": 1e-4, "average_precision": 1e-3, "f1_max": 1e-3}
    for name in METRICS:
        assert abs(found[name][0] - expected[name]) < tolerances.get(name, 0.01), name


def test_intervals_are_percentiles_of_explicit_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends are the quantiles of the resampled metrics, all drawn with the seed, at any level."""
    pairs = tied(a_set(4, images=5))
    values = [slow_auroc(repeated(pairs, times)) for times in draws(pairs, 40, 7)]
    for level in (0.5, 0.9):
        monkeypatch.setattr(intervals, "CONFIDENCE", level)
        found = bootstrap(kept(pairs), resamples=40, seed=7)
        expected = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        assert found.intervals["auroc"] == pytest.approx(expected, abs=1e-12)
        assert (found.resamples, found.dropped, found.undefined) == (40, 0, None)
        assert found.to_dict()["level"] == level


def test_work_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks of resamples and of images give what one block gives."""
    images = kept(a_set(5))
    whole = bootstrap(images, resamples=50)
    monkeypatch.setattr(module, "BLOCK", 3 * module._Table.of(images).columns)
    parts = bootstrap(images, resamples=50)
    for name in METRICS:
        assert parts.intervals[name] == pytest.approx(whole.intervals[name], abs=1e-12)


def test_blocks_cover_all_rows_once() -> None:
    """Slices one after the other, of as many rows as the cells hold, and of one at least."""
    assert row_blocks(7, 10, 30) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert row_blocks(2, 10, 1) == [slice(0, 1), slice(1, 2)]
    assert row_blocks(3, 0, 10) == [slice(0, 3)]
    assert row_blocks(0, 10, 30) == []


# ---------------------------------------------------------------------------------------------------------- laws


def test_each_kind_is_drawn_whole() -> None:
    """Every resample has as many images of each kind as the set, each as likely as another of its kind."""
    defective = np.arange(15) % 3 > 0
    weights = bootstrap_weights(defective, 4000, 3)
    assert weights.shape == (4000, 15)
    assert (weights[:, defective].sum(axis=1) == 10).all()
    assert (weights[:, ~defective].sum(axis=1) == 5).all()
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.08, "five standard errors"
    assert np.abs(weights[:, defective].var(axis=0) - 0.9).max() < 0.15, "binomial: 10 draws, a tenth each"
    assert np.array_equal(weights, bootstrap_weights(defective, 4000, 3))
    assert not np.array_equal(weights, bootstrap_weights(defective, 4000, 4))


def test_one_kind_alone_is_drawn_as_numpy_draws() -> None:
    """Sets of one kind have the plain multinomial draws of the seed."""
    images, resamples = 700, 1000  # several blocks of rows
    expected = np.random.default_rng(5).multinomial(images, np.full(images, 1 / images), size=resamples)
    for kind in (np.zeros(images, np.bool_), np.ones(images, np.bool_)):
        assert np.array_equal(bootstrap_weights(kind, resamples, 5), expected)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_contain_their_figure(seed: int) -> None:
    """On ordinary sets the figure of all images lies inside its interval, which is neither empty nor everything."""
    metrics = gather(a_set(seed + 10, images=16))
    found = bootstrap(metrics.per_image, resamples=300, seed=seed)
    for name, value in figures(metrics).items():
        low, high = found.intervals[name]
        assert 0 <= low < value < high <= 1, name
    assert found.intervals["auroc"].high - found.intervals["auroc"].low < 0.3


def test_a_wider_level_holds_a_narrower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of one seed are nested by level."""
    images = kept(a_set(6))
    wide = bootstrap(images, resamples=200).intervals
    monkeypatch.setattr(intervals, "CONFIDENCE", 0.5)
    narrow = bootstrap(images, resamples=200).intervals
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
    assert expected.pop("aupimo") is found.intervals["aupimo"] is None, "there are no good images"
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


def test_intervals_cover_what_they_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 sets of 30 images from one population, 90 % intervals hold the population's AUROC about as often."""
    monkeypatch.setattr(intervals, "CONFIDENCE", 0.9)
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
        low, high = bootstrap(kept(population(30)), resamples=200, seed=seed).intervals["auroc"]
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
    assert found == Bootstrap(dict.fromkeys(METRICS), 20, 20, reason)
    assert gather(pairs).result().measures["auroc"].reason == reason
    for_json = found.to_dict()
    assert {name: for_json.pop(name) for name in METRICS} == dict.fromkeys(METRICS)
    assert for_json == {"level": 0.95, "resamples": 20, "dropped": 20}
    assert all(np.isnan(values).all() for values in resampled(images, draws(pairs, 3, 0)).values())


def test_no_resample_lacks_a_kind() -> None:
    """Of a good image and three defective throughout every resample has both kinds of pixels: none is dropped."""
    images = kept([(SCORES, GOOD), *(((SCORES + np.float32(step)), BAD) for step in (0.0, 0.3, 0.6))])
    found = bootstrap(images, 400)
    assert found.dropped == 0
    assert None not in found.intervals.values()


def test_resamples_without_good_pixels_count_nowhere() -> None:
    """Where one defective image has all the good pixels, resamples without it are dropped and counted, no others."""
    pairs = [(SCORES, np.indices(SCORES.shape)[1] > 1), (SCORES, BAD), (SCORES + np.float32(0.3), BAD)]
    images, weights = kept(pairs), draws(pairs, 400, 0)
    lacking = weights[:, 0] == 0
    found, values = bootstrap(images, 400), resampled(images, weights)
    assert found.dropped == lacking.sum() > 100
    for name in METRICS:
        assert np.array_equal(np.isnan(values[name]), lacking | (name == "aupimo"))
        if name != "aupimo":
            assert found.intervals[name] == pytest.approx(np.quantile(values[name][~lacking], [0.025, 0.975]))


def test_when_every_resample_lacks_one_kind() -> None:
    """A single draw without good pixels leaves no interval, and the reason says so."""
    pairs = [(SCORES, np.indices(SCORES.shape)[1] > 1), (SCORES, BAD)]
    seed = next(seed for seed in range(100) if draws(pairs, 1, seed)[0, 0] == 0)
    reason = "no resample has both good and defective pixels; draw more"
    assert bootstrap(kept(pairs), 1, seed) == Bootstrap(dict.fromkeys(METRICS), 1, 1, reason)


def test_intervals_are_json() -> None:
    """The record survives JSON as it is."""
    found = bootstrap(kept(a_set(33)), 20).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["level", "resamples", "dropped", *METRICS]


def test_every_figure_has_an_interval_of_its_name() -> None:
    """The accumulator's figures and the metrics here are the same; a new figure is given its interval."""
    result = gather(a_set(34)).result().to_dict()
    quartiles = {f"overlap_at_5_{name}" for name in result["overlap_at_5"] if name.startswith("q")}
    assert set(METRICS) == set(result["bounds"]) | quartiles


# ------------------------------------------------------------------------------------------- images and their rates


def test_image_intervals_equal_explicit_resampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of whole images, ties among them, as those of every resample spelled out."""
    rng = np.random.default_rng(0)
    defective = rng.random(25) < 0.4
    scores = np.round(rng.random(25) + 0.4 * defective, 1)
    monkeypatch.setattr(intervals, "CONFIDENCE", 0.8)
    found = image_intervals(scores, defective, resamples=50, seed=2)
    values: dict[str, list[float]] = {}
    for times in bootstrap_weights(defective, 50, 2):
        drawn = image_metrics(np.repeat(scores, times), np.repeat(defective, times))
        for name, measure in drawn.items():
            values.setdefault(name, []).append(measure.value)
    assert set(found.intervals) == set(values)
    for name, drawn in values.items():
        assert found.intervals[name] == pytest.approx(np.quantile(drawn, [0.1, 0.9]), abs=1e-12), name
    assert image_intervals(scores[:3], [True] * 3).undefined == "no good images"


def test_the_interval_of_a_rate_equals_explicit_resampling() -> None:
    """Images are drawn whole: the pooled rate of the images of each resample."""
    counts, totals = [0, 3, 1, 40, 0], [100, 100, 50, 200, 10]
    rates = [
        times @ np.array(counts) / (times @ np.array(totals)) for times in bootstrap_weights(np.zeros(5, bool), 60, 1)
    ]
    found = rate_interval(counts, totals, resamples=60, seed=1)
    assert found == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=1e-15)
    assert rate_interval([0, 0], [5, 5]) == (0, 0)


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 5), (2, 5), (7, 40), (300, 300), (1, 20000)])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_binomial_intervals_equal_scipy(
    count: int, total: int, confidence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clopper and Pearson's, which cover at least as often as they say."""
    monkeypatch.setattr(intervals, "CONFIDENCE", confidence)
    expected = stats.binomtest(count, total).proportion_ci(confidence, "exact")
    assert binomial_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_held_out_rates_say_how_sure_they_are() -> None:
    """No pixel above on five images: the rate's interval has no width, but half of all images may have one."""
    found = HeldOut.of(0.5, [(0, 1000)] * 5)
    assert (found.false_positive_rate, found.false_positive_rate_interval, found.images_above) == (0, (0, 0), 0)
    assert found.images_above_interval == pytest.approx((0, 0.5218), abs=1e-4)
    uneven = HeldOut.of(0.5, [(0, 1000), (30, 1000), (0, 1000)])
    assert uneven.false_positive_rate == 0.01
    assert uneven.false_positive_rate_interval == (0, 0.03)
    assert uneven.images_above == 1


# ------------------------------------------------------------------------------------------------ what people see


def an_evaluation(pairs: list[Pair]) -> Evaluation:
    """As `evaluate` puts it together, over all images and over those with a defect."""
    both = (gather(pairs), gather([(scores, mask) for scores, mask in pairs if mask.any()]))
    pixel, defective = (PixelSection.of(metrics) for metrics in both)
    return Evaluation(None, pixel, defective, None, "no images", None, (), (), (), None)


def test_sections_hold_their_intervals() -> None:
    """Both sections of pixels have the intervals of their own images, beside figures that are as they were."""
    pairs = a_set(36)
    evaluation = an_evaluation(pairs)
    found = evaluation.to_dict()
    assert found["pixel_defective_images"]["intervals"] != found["pixel"]["intervals"]
    assert found["pixel"] == gather(pairs).result().to_dict() | {"intervals": bootstrap(kept(pairs)).to_dict()}


def test_the_terminal_shows_the_intervals() -> None:
    """The metrics stand above the ends of their intervals, to four digits."""
    evaluation = an_evaluation(a_set(37))
    low, high = evaluation.pixel.intervals.intervals["au_pro_30"]
    lines = shown(evaluation)
    place = next(number for number, line in enumerate(lines) if line.startswith(PIXEL_METRICS["au_pro_30"].label))
    assert lines[place].split()[-1] == f"{evaluation.pixel.values['au_pro_30']:.4f}"
    assert lines[place + 1].split() == ["95%", "interval", "over", "images", *f"{low:.4f} to {high:.4f}".split()]


def test_the_terminal_without_intervals() -> None:
    """Where a metric is undefined the reason is shown, and no interval."""
    lines = shown(an_evaluation([(SCORES, GOOD)]))
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
        (lambda: image_intervals([1.0], [True, False]), "scores and defective must have one shape, got (1) and (2)"),
        (lambda: rate_interval([], []), "a rate needs at least one image, got none"),
        (lambda: binomial_interval(3, 2), "count must lie in 0 to total, and total be at least 1, got 3 of 2"),
        (lambda: binomial_interval(0, 0), "count must lie in 0 to total, and total be at least 1, got 0 of 0"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call: Callable[[], object], text: str) -> None:
    """Every refused input is named with its expectation."""
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text

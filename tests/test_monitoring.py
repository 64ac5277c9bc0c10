"""Drift: a martingale that keeps its promise, a test, and the name of a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from flawmap.core.errors import ConfigError
from flawmap.evaluation.monitoring import DELTA, drift, looks_like, martingale, online_p_values
from flawmap.imaging.changes import CHANGES, TRAITS, traits
from flawmap.reporting.charts import check_figure, drift_figure


def test_p_values_of_an_unchanged_stream_are_uniform_and_independent() -> None:
    """Whatever the distribution, ties included."""
    random = np.random.default_rng(0)
    for scores in (random.standard_cauchy(3000), random.integers(0, 5, 3000).astype(float)):
        found = online_p_values(sorted(scores[:50]), scores[50:].tolist())
        assert kstest(found, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.06


def test_the_alarm_keeps_its_rate_and_comes_after_a_change() -> None:
    """Of 400 streams without a change at most DELTA raise it, up to chance; with higher or lower scores all do."""
    random = np.random.default_rng(1)

    def alarm(shift: float) -> bool:
        stream = random.standard_normal(250) + shift * (np.arange(250) >= 50)
        found = drift(sorted(random.standard_normal(40)), stream.tolist(), [], None)
        return found.alarm is not None and found.alarm > 50

    assert sum(alarm(0) for _ in range(400)) <= 400 * DELTA + 6
    assert all(alarm(shift) for shift in (2.0, -2.0) for _ in range(5))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_capital_is_never_negative_and_a_fair_bet(p_values: list[float]) -> None:
    """From one p-value to the next the mean over all that might come is the capital before."""
    capital = martingale(np.array(p_values))
    assert (capital > 0).all()
    after = [martingale(np.array([*p_values, p]))[-1] for p in (np.arange(20) + 0.5) / 20]
    assert np.mean(after) == pytest.approx(capital[-1])


def test_the_test_and_the_share() -> None:
    """Equal samples differ in nothing, higher ones by their share of pairs."""
    scores = np.linspace(0, 1, 30).tolist()
    assert drift(scores, scores, [], None).higher == 0.5
    assert drift(scores, scores, [], None).test > 0.9
    moved = drift(scores, [2.0] * 20, [], None)
    assert (moved.higher, moved.recent, moved.calibrated) == (1, 20, 30)
    assert moved.test < 1e-6
    for calibrated, recent, message in (
        ([], scores, "this model keeps no scores of good images; calibrate it first"),
        (scores, [], "no recent image could be scored"),
    ):
        with pytest.raises(ConfigError, match=message):
            drift(calibrated, recent, [], None)


def textured(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]
    wave = 0.45 + 0.15 * np.sin(x / 2 + random.uniform(0, 6)) * np.cos(y / 3 + random.uniform(0, 6))
    return np.asarray(wave + random.normal(0, 0.01, wave.shape), np.float32)[:, :, None]


def test_a_change_is_named_after_itself() -> None:
    """Images that were changed look like that change, unchanged ones like none."""
    images = [textured(seed) for seed in range(12)]
    usual = np.array([traits(image) for image in images])
    mean, spread = usual.mean(axis=0), np.maximum(usual.std(axis=0), 1e-3)

    def moved(name: str, place: int, chosen: list[Any]) -> Any:
        change = next(one for one in CHANGES if one.name == name)
        return (
            np.array([traits(change.pixels(image, change.steps[place])) for image in chosen]).mean(0) - mean
        ) / spread

    check = {"tolerance": [{"change": c.name, "signature": moved(c.name, 1, images).tolist()} for c in CHANGES]}
    others = [textured(seed) for seed in range(100, 106)]
    for name in ("brighter", "darker", "shaded", "softer", "noisier"):
        assert looks_like(moved(name, 2, others), check) == name
    assert looks_like(np.zeros(len(TRAITS)), check) is None


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_changes_keep_shape_and_range(change: Any) -> None:
    """Grey and colour stay (H, W, C) in [0, 1], a faint step changes less than a strong one, and masks move along."""
    for image in (textured(0), np.repeat(textured(0), 3, axis=2)):
        faint, strong = (change.pixels(image, step) for step in (change.steps[0], change.steps[-1]))
        for found in (faint, strong):
            assert (found.shape, found.dtype) == (image.shape, np.float32)
            assert found.min() >= 0
            assert found.max() <= 1
        assert 0 < np.abs(faint - image).mean() < np.abs(strong - image).mean()
    mask = np.zeros((96, 128), bool)
    mask[10:20, 100:120] = True
    moved = change.mask(mask, change.steps[-1])
    assert moved.any()
    assert change.moves != np.array_equal(moved, mask)


def test_figures_are_written(tmp_path: Path) -> None:
    """One for a drift and one for a self-check with empty and missing cells."""
    drift_figure([0.1, 0.2, 0.3], [0.2, 0.5], [1.0, 2.0], tmp_path / "d.png", threshold=None, alarm=100)
    rows = [
        {"kind": "spot", "contrast": 0.2, "rates": {"4": [9, 10]}, "smallest": 4},
        {"kind": "spot", "contrast": 0.1, "rates": {"64": [1, 10]}, "smallest": None},
        {"kind": "film", "contrast": 0.2, "rates": {}, "smallest": None},
        {"kind": "film", "contrast": 0.1, "rates": {"16": [10, 10]}, "smallest": 16},
    ]
    tolerance = [
        {"change": "softer", "rejected": {"a": [0, 9], "b": [9, 9]}, "found": {"a": [9, 9], "b": [0, 0]}, "last": "a"},
        {"change": "darker", "rejected": {"c": [9, 9]}, "found": {"c": [0, 9]}, "last": None},
    ]
    check_figure({"sizes": rows, "tolerance": tolerance}, tmp_path / "c.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("d.png", "c.png"))

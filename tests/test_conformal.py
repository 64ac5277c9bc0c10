"""Decisions with a known rate: the guarantee against the law of its counts, p-values and limits as two views of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, chisquare

import flawmap
from flawmap.core.runtime import Runtime
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import parse
from flawmap.scoring.conformal import images_needed, p_value, score_limit
from flawmap.scoring.detector import Detector

SCORES = st.lists(st.floats(0, 9, width=16), min_size=1, max_size=40).map(sorted)
ALPHAS = st.floats(0.01, 0.99)


@given(SCORES, st.floats(0, 10, width=16), ALPHAS)
def test_the_limit_is_where_the_p_value_passes_alpha(good: list[float], score: float, alpha: float) -> None:
    """A score lies above the limit if and only if its p-value is at most alpha; without a limit none does."""
    limit = score_limit(good, alpha)
    decided = limit is not None and score > limit
    assert decided == (p_value(score, good) <= alpha + 1e-9)


@given(SCORES, st.floats(0, 10, width=16))
def test_a_p_value_is_a_share(good: list[float], score: float) -> None:
    """Against counting, one by one."""
    assert p_value(score, good) == (sum(one >= score for one in good) + 1) / (len(good) + 1)


@given(ALPHAS)
def test_the_number_of_images_that_an_alpha_needs(alpha: float) -> None:
    """With so many there is a limit, with one fewer there is none."""
    needed = images_needed(alpha)
    assert score_limit([0.0] * max(needed, 1), alpha) is not None or needed == 0
    assert needed <= 1 or score_limit([0.0] * (needed - 1), alpha) is None


@pytest.mark.parametrize(("images", "alpha"), [(19, 0.05), (39, 0.1), (50, 0.1), (7, 0.3)])
def test_the_rate_of_false_positives_is_the_one_promised(images: int, alpha: float) -> None:
    """Of 20 new good images so many are rejected as the beta-binomial law says, and on average at most alpha of them.

    It is the law of how many of m new scores exceed the k-th largest of n, for any continuous distribution.
    """
    random, trials, new = np.random.default_rng(0), 4000, 20
    allowed = int(np.floor(alpha * (images + 1) + 1e-9))
    rejected = np.zeros(new + 1, int)
    for _ in range(trials):
        limit = score_limit(np.sort(random.lognormal(size=images)).tolist(), alpha)
        assert limit is not None
        rejected[(random.lognormal(size=new) > limit).sum()] += 1
    law = trials * betabinom.pmf(np.arange(new + 1), new, allowed, images + 1 - allowed)
    likely = law > 5
    found, expected = ([*counts[likely], counts[~likely].sum()] for counts in (rejected, law))
    assert chisquare(found, expected).pvalue > 1e-3
    assert allowed / (images + 1) <= alpha + 1e-9


@pytest.mark.parametrize(("alpha", "enough"), [(0.3, True), (0.01, False)])
def test_from_training_to_a_verdict(alpha: float, enough: bool, tmp_path: Path) -> None:
    """`train` takes the limit from the held-out images; an inspection has their p-value, and the verdict follows it."""
    (tmp_path / "set").mkdir()
    random = np.random.default_rng(0)
    for number in range(30):
        pixels = np.clip(random.normal(128, 8, (48, 40, 1)), 0, 255).astype(np.uint8)
        write_image(tmp_path / "set" / f"{number}.png", pixels)
    config = parse(
        {
            "model": {"patch": 32},
            "method": {"latent": 4},
            "split": {"validation": 0.4},
            "threshold": {"rule": "conformal", "alpha": alpha, "opening": 0},
            "training": {"steps": 5, "batch": 4, "precision": "float32", "device": "cpu", "plateau_steps": 0},
        }
    )
    artifact = flawmap.train(tmp_path / "set", tmp_path / "m.flawmap", config).artifact
    good = artifact.calibration["image_scores"]
    limit = score_limit(good, alpha)
    assert (limit is not None) == enough
    assert artifact.threshold == (limit if enough else good[-1])
    assert artifact.operating_point is not None
    warning = artifact.operating_point.found["warning"]
    assert (warning is None) == enough
    assert enough or warning.startswith(
        f"alpha 0.01 needs at least 99 held-out good images or areas, there are {len(good)}"
    )
    detector = Detector.load(tmp_path / "m.flawmap", Runtime("cpu", "float32"))
    for _ in range(5):
        found = detector.inspect(np.clip(random.normal(0.5, 0.03, (48, 40, 1)), 0, 1).astype(np.float32))
        assert found.p_value == p_value(found.score, good)
        if enough:
            assert (found.verdict == "flawed") == (found.p_value <= alpha)

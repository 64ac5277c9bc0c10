"""Coverage of held-out good patches by a generator: its law, a slow reference, and one training at several moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flawmap.core.errors import ConfigError
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import texture
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, State
from flawmap.methods.overrides import parse
from flawmap.methods.table import METHODS
from paper.adversarial import NEIGHBOURS, at_moments, coverage_of, covered, features_of, generated


def config_of(name: str = "anogan", **training: Any) -> Config:
    return parse(
        {
            "model": {"patch": 32, "channels": 1},
            "method": {"name": name, "latent": 6},
            "tiling": {"stride": 16},
            "training": {"steps": 2, "batch": 4, "precision": "float32"} | training,
        }
    )


def source_of(kind: str = "fibres") -> PatchSource:
    return PatchSource([TrainingImage(texture(kind, (96, 96), seed)) for seed in range(2)], 32)


def points(count: int, seed: int, dimensions: int = 3) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def test_a_perfect_generator_covers_all_but_a_share_of_2_to_minus_k() -> None:
    """The nearest k of both kinds together are all real ones by a chance of 2^-k."""
    held_out, real, made = points(4000, 0), points(2000, 1), points(2000, 2)
    for neighbours in (1, 2, NEIGHBOURS):
        assert covered(held_out, real, made, neighbours) == pytest.approx(1 - 2.0**-neighbours, abs=0.02)
    assert covered(held_out, real, real) == 1


def test_a_mode_that_is_dropped_is_not_covered() -> None:
    """Two modes far apart, one of them generated: half the patches are covered. Points close to the mean cover few."""
    far = np.array([100.0, 0, 0])
    held_out, real = (np.concatenate((points(500, seed), points(500, seed + 1) + far)) for seed in (0, 2))
    assert covered(held_out, real, points(1000, 4)) == pytest.approx(0.5, abs=0.02)
    assert covered(held_out, real, points(1000, 5) + 1000) == 0
    assert covered(points(500, 6), points(500, 7), 0.01 * points(500, 8)) < 0.2


def test_it_equals_a_slow_loop() -> None:
    """Point by point, with all distances sorted."""
    held_out, real, made = points(40, 0), points(30, 1), points(30, 2) + 0.5
    found = 0
    for point in held_out:
        radius = sorted(np.linalg.norm(point - other) for other in real)[2]
        found += min(np.linalg.norm(point - other) for other in made) <= radius
    assert 0 < found < 40
    assert covered(held_out, real, made, 3) == found / 40


def test_features_know_a_texture_and_not_its_place() -> None:
    """The same image cut elsewhere is nearer than another texture."""
    fibres, cloth = (source_of(kind).sample(60, np.random.default_rng(0)) for kind in ("fibres", "cloth"))
    described = features_of(fibres)
    known = described(fibres)
    assert known.shape == (60, 2 * 448)
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-6)
    others = described(source_of().sample(60, np.random.default_rng(1)))
    assert covered(others, known, described(cloth)) < 0.1
    assert covered(others, known, known) == 1


@pytest.mark.parametrize("name", ["anogan", "bigan"])
def test_a_trained_generator_is_measured(name: str) -> None:
    """Its patches follow from the seed and lie in [0, 1]; after two steps they cover next to nothing."""
    config = config_of(name)
    state = METHODS[name].fit(config, source_of(), FitContext())
    made = generated(config, state, 12, seed=3)
    assert made.shape == (12, 1, 32, 32)
    assert made.dtype == np.float32
    assert 0 <= made.min() <= made.max() <= 1
    assert np.array_equal(made, generated(config, state, 12, seed=3))
    assert not np.array_equal(made, generated(config, state, 12, seed=4))
    found = coverage_of(config, state, source_of(), source_of(), drawn=120)
    assert found.generated < 0.2
    assert found.real > 0.8


def test_one_training_is_measured_at_several_moments() -> None:
    """The end counts once, and each state is its own: those before it are not overwritten by later steps."""
    config = config_of(steps=80)
    found = at_moments(config, source_of(), 4, lambda state: state)
    assert list(found) == [20, 40, 60, 80]
    straight = METHODS["anogan"].fit(config, source_of(), FitContext())
    made = {step: generated(config, state, 3) for step, state in found.items()}
    np.testing.assert_array_equal(made[80], generated(config, straight, 3))
    assert all(not np.array_equal(made[step], made[80]) for step in (20, 40, 60))


def test_a_method_without_a_prior_has_no_coverage() -> None:
    """The exact text."""
    with pytest.raises(ConfigError) as caught:
        generated(config_of("l1-adversarial"), State({}), 1)
    assert str(caught.value) == (
        "the method l1-adversarial has no generator that draws from a prior; use anogan or bigan"
    )

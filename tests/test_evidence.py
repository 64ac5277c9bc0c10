"""Evidence: laws of tails and sums, scipy as an oracle, good images whose evidence is known, a model up to its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import genpareto
from sklearn.linear_model import LogisticRegression

import flawmap
from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.runtime import Runtime
from flawmap.evaluation.evidence import weights_of
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.roi import Roi
from flawmap.imaging.writing import write_image
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override, parse
from flawmap.scoring.detector import Detector
from flawmap.scoring.evidence import BODY, EvidenceProfile, Layer, Tail, damped, pareto
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

CPU = Runtime(device="cpu", precision="float32")
SETTINGS: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "evidence": {"enabled": True, "scales": [0.0, 2.0]},
    "tiling": {"stride": 12},
    "split": {"validation": 0.3},
    "training": {"steps": 60, "batch": 8, "precision": "float32", "device": "cpu", "plateau_steps": 0},
}


def plain(seed: int, size: tuple[int, int] = (96, 80)) -> NDArray[np.float32]:
    """A good image (H, W, 1): grey with a little noise."""
    noise = np.random.default_rng(seed).normal(0.5, 0.03, (*size, 1))
    return np.clip(noise, 0, 1).astype(np.float32)


def tail_of(values: NDArray[np.float64]) -> Tail:
    different, counts = np.unique(values, return_counts=True)
    return Tail.fitted(different, counts)


# ---------------------------------------------------------------------------------------------------------------- tails


@pytest.mark.parametrize("draw", ["normal", "exponential", "uniform", "lognormal"])
def test_evidence_is_the_rarity_of_new_values(draw: str) -> None:
    """Of fresh values of the same kind the fraction with evidence above e is 10^-e, within sampling error."""
    random = np.random.default_rng(0)
    sample = getattr(random, draw)
    tail = tail_of(sample(size=200_000))
    found = tail(torch.from_numpy(sample(size=200_000)).float()).numpy()
    for level in (0.3, 1.0, 2.0, 3.0):
        expected = 200_000 * 10**-level
        assert abs((found > level).sum() - expected) < 6 * np.sqrt(2 * expected)


def test_beyond_the_data_the_tail_goes_on() -> None:
    """Of the quantiles of a distribution whose tail is known, far beyond the largest: the true evidence."""
    ranks = (np.arange(100_000) + 0.5) / 100_000
    asked = torch.tensor([12.0, 18.0, 24.0])
    torch.testing.assert_close(tail_of(-np.log1p(-ranks))(asked), asked / np.log(10), rtol=0.02, atol=0)
    heavy = tail_of(genpareto.ppf(ranks, 0.2))
    torch.testing.assert_close(
        heavy(asked * 10), torch.tensor(-genpareto.logsf(asked * 10, 0.2) / np.log(10)).float(), rtol=0.05, atol=0
    )


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60, unique=True), st.integers(0, 2**32 - 1))
def test_larger_values_never_have_less_evidence(values: list[float], seed: int) -> None:
    """Evidence is at least 0, finite, and rises with the value, inside the data and beyond it."""
    random = np.random.default_rng(seed)
    tail = Tail.fitted(np.sort(np.array(values, np.float64)), random.integers(1, 1000, len(values)))
    asked = torch.tensor(sorted([*values, *random.uniform(-3e6, 3e6, 50)]))
    found = tail(asked)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert (found.diff() >= -1e-5 * found.abs()[1:]).all()


@pytest.mark.parametrize("shape", [0.0, 0.1, 0.3])
def test_the_fit_of_a_tail_finds_its_parameters(shape: float) -> None:
    """Values that scipy draws from a generalised Pareto distribution give its shape and scale."""
    values = np.sort(genpareto.rvs(shape, scale=2.0, size=200_000, random_state=3))
    found_shape, scale = pareto(values, np.ones(len(values), np.int64))
    assert found_shape == pytest.approx(shape, abs=0.02)
    assert scale == pytest.approx(2.0, rel=0.02)


def test_a_tail_with_an_end_is_fitted_by_one_without() -> None:
    """Uniform values have no larger ones; the fit claims less evidence for those, not infinite evidence."""
    values = np.linspace(0, 1, 1001)
    assert pareto(values, np.ones(1001, np.int64)) == (0.0, pytest.approx(0.5))


def test_counts_are_repeats() -> None:
    """A value with a count of three is that value three times."""
    random = np.random.default_rng(4)
    values, counts = np.sort(random.exponential(size=300)), random.integers(1, 6, 300)
    assert pareto(values, counts) == pytest.approx(pareto(np.repeat(values, counts), np.ones(counts.sum(), int)))


def test_damping_keeps_order_and_small_values() -> None:
    """Evidence of one layer counts in full up to BODY, and beyond it more slowly, but never less."""
    evidence = torch.linspace(0, 60, 601)
    found = damped(evidence)
    assert torch.equal(found[evidence <= BODY], evidence[evidence <= BODY])
    assert (found.diff() > 0).all()
    assert found[-1] < BODY + 5


# -------------------------------------------------------------------------------------------------------------- weights


NOTHING = np.zeros((0, 3))


def test_weights_are_those_of_a_logistic_regression() -> None:
    """Where no weight wants to be negative, scikit-learn's regression with the same penalty gives the same."""
    random = np.random.default_rng(5)
    good, flawed = random.exponential(1, (900, 3)), random.exponential((2, 3, 1.5), (300, 3))
    share = np.repeat([0.5 / 300, 0.5 / 900], [300, 900])
    oracle = LogisticRegression(C=1 / (2 * 1e-3), tol=1e-10, max_iter=1000)
    oracle.fit(np.concatenate([flawed, good]), np.repeat([1, 0], [300, 900]), sample_weight=share)
    assert weights_of(flawed, good, NOTHING) == pytest.approx(oracle.coef_[0], abs=1e-3)


def test_a_layer_that_misleads_counts_for_nothing() -> None:
    """What is higher on good pixels gets the weight 0; if all are, all count alike."""
    random = np.random.default_rng(6)
    good, flawed = random.exponential((1, 3), (500, 2)), random.exponential((3, 1), (500, 2))
    weights = weights_of(flawed, good, NOTHING[:, :2])
    assert weights[0] > 0
    assert weights[1] == 0
    assert weights_of(flawed[:, 1:], good[:, 1:], NOTHING[:, :1]).tolist() == [1]


def test_a_layer_that_blurs_a_flaw_is_worth_less() -> None:
    """Two layers tell flaws from good pixels elsewhere alike; the one that is as high around flaws loses weight."""
    random = np.random.default_rng(7)
    flawed, good = random.exponential(3, (400, 2)), random.exponential(1, (800, 2))
    around = np.stack([random.exponential(1, 400), random.exponential(3, 400)], axis=1)
    alike, sharp = weights_of(flawed, good, NOTHING[:, :2]), weights_of(flawed, good, around)
    assert alike[0] == pytest.approx(alike[1], rel=0.2)
    assert sharp[1] < 0.8 * sharp[0]


# ------------------------------------------------------------------------------------------------------ with a network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "set").mkdir()
    for seed in range(12):
        write_image(folder / "set" / f"{seed}.png", (plain(seed) * 255).astype(np.uint8))
    report = flawmap.train(folder / "set", folder / "m.flawmap", parse(SETTINGS))
    return report.artifact, folder / "m.flawmap"


def test_from_training_to_a_file(trained: tuple[Artifact, Path]) -> None:
    """`train` measures good images, the file holds the profile, and scores are the same from there."""
    artifact, path = trained
    found = load_artifact(path)
    assert found.evidence == artifact.evidence
    assert found.evidence is not None
    assert [(layer.part, layer.scale) for layer in found.evidence.layers] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    image = plain(3, (70, 64))
    np.testing.assert_array_equal(*(Detector.of(one, CPU).score(image) for one in (found, artifact)))


def test_evidence_counts_good_pixels(trained: tuple[Artifact, Path]) -> None:
    """Of new good images about one pixel in ten has evidence above 1; a flaw has more than any good pixel."""
    detector = Detector.of(trained[0], CPU)
    good = [detector.score(plain(100 + seed)) for seed in range(12)]
    share = np.mean([(residual > 1).mean() for residual in good])
    assert 0.02 < share < 0.3
    flawed = plain(200)
    flawed[40:52, 30:42] = 1
    assert detector.score(flawed)[40:52, 30:42].mean() > np.quantile(good, 0.99)


def test_any_cut_into_bands_gives_the_same_evidence(trained: tuple[Artifact, Path]) -> None:
    """Distances to the border count in the whole image, whatever band a pixel arrives in."""
    detector = Detector.of(trained[0], CPU)
    profile = detector.artifact.evidence
    assert profile is not None
    image = ImageRows.of(plain(7, (97, 80)))
    layers = torch.cat(list(detector.working_layers(image, Roi((0, 0, 80, 97)))), dim=1)
    whole = profile.evidence(layers)
    parts = [profile.evidence(layers[:, top : top + 23], top=top, height=97) for top in range(0, 97, 23)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("chunk", [1, 23 * 80, 10**9])
def test_evidence_does_not_depend_on_how_much_is_computed_at_once(
    chunk: int, cores: int, trained: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row, by pieces or in one, on one core or several: the same bits, and those of the sum's tail over the
    whole."""
    monkeypatch.setattr("flawmap.core.parallel.own_cores", lambda: cores)
    profile = trained[0].evidence
    assert profile is not None
    layers = torch.rand(len(profile.layers), 50, 80, generator=torch.Generator().manual_seed(1))
    whole = profile.total(profile.weighted(layers, top=40, height=97))
    monkeypatch.setattr("flawmap.scoring.evidence.CHUNK", chunk)
    assert torch.equal(profile.evidence(layers, top=40, height=97), whole)


@pytest.mark.parametrize("cores", [1, 3])
def test_layers_do_not_depend_on_the_cores_that_smooth_them(
    cores: int, trained: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of residuals and scales, each as its Gaussian gives it."""
    detector, image, roi = Detector.of(trained[0], CPU), plain(7, (97, 80)), Roi((0, 0, 80, 97))
    expected = torch.cat(list(detector.working_layers(ImageRows.of(image), roi)), dim=1)
    monkeypatch.setattr("flawmap.scoring.pipeline.SMALL", 0)
    monkeypatch.setattr("flawmap.core.parallel.own_cores", lambda: cores)
    found = torch.cat(list(detector.working_layers(ImageRows.of(image), roi)), dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_table_of_a_tail_is_linear_between_its_entries() -> None:
    """numpy's interpolation, in double precision, and level before the first entry."""
    random = np.random.default_rng(0)
    tail = tail_of(random.lognormal(size=5000))
    values = random.uniform(-1, tail.values[-1], 3000)
    found = tail(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, np.interp(values, tail.values, tail.evidence), rtol=1e-12)


def test_the_method_says_what_its_parts_are() -> None:
    """A named residual is the only part; without evidence there is one."""
    config = parse(SETTINGS)
    assert [part.name for part in config.parts] == ["ssim", "l2"]
    assert [part.name for part in override(config, {"residual": {"name": "l2"}}).parts] == ["l2"]
    off = override(config, {"evidence": {"enabled": False}, "residual": {"smoothing": 3.0}})
    assert ([part.name for part in off.parts], off.scales) == (["ssim"], (3.0,))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"residual": {"smoothing": 2.0}}, "evidence has scales and a border correction of its own, got"),
        ({"residual": {"border_correction": True}}, "leave both, or set evidence.enabled = false"),
        ({"evidence": {"scales": [2.0, 2.0]}}, "scales must be different numbers of pixels from 0 to 100"),
        ({"evidence": {"scales": [-1.0]}}, "scales must be different numbers of pixels from 0 to 100"),
        ({"evidence": {"parts": ["l2", "l2"]}}, "parts must name each residual once, got l2, l2"),
    ],
)
def test_settings_that_contradict(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        override(parse(SETTINGS), changes)


def test_a_file_without_the_evidence_that_it_asks_for(tmp_path: Path) -> None:
    """It is damaged: scored without it, its threshold would mean something else."""
    config = override(parse(SETTINGS), {"model": {"channels": 1}})
    path = tmp_path / "m.flawmap"
    save_artifact(Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)}), path)
    with pytest.raises(ArtifactError, match="evidence is enabled, but no good images were measured"):
        load_artifact(path)


def test_a_file_with_a_damaged_profile(trained: tuple[Artifact, Path], tmp_path: Path) -> None:
    """Numbers that no fit gives are refused as damage."""
    artifact = trained[0]
    assert artifact.evidence is not None
    total = artifact.evidence.total.model_copy(update={"scale": -1.0})
    path = tmp_path / "m.flawmap"
    save_artifact(replace(artifact, evidence=artifact.evidence.model_copy(update={"total": total})), path)
    with pytest.raises(ArtifactError, match="is damaged: its header does not hold a model's settings"):
        load_artifact(path)


def test_a_sum_counts_only_weighted_layers() -> None:
    """A layer of weight 0 changes nothing, whatever it holds."""
    tail = tail_of(np.random.default_rng(8).normal(size=1000))
    layers = [Layer(part=0, scale=0, mean=(0.0,), spread=(1.0,), tail=tail, weight=weight) for weight in (1.0, 0.0)]
    profile = EvidenceProfile(layers=tuple(layers), total=tail)
    residual = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    other = residual.clone()
    other[1] += 100
    assert torch.equal(profile.evidence(residual), profile.evidence(other))

"""Sparse codes and the density of their indicators: scikit-learn and SciPy as oracles, borders, and whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.decomposition import sparse_encode
from torch import Tensor

import flawmap
from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.runtime import Runtime
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.writing import write_image
from flawmap.methods.config import Config
from flawmap.methods.density import MARGIN, gaussian_density, kernel_density, rarity
from flawmap.methods.interface import FitContext, State
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset
from flawmap.methods.sparse_coding import ROUNDS, sparse_codes
from flawmap.methods.sparse_dictionary import centred, fit, indicators, scorer, spread, starts, windows
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact
from flawmap.scoring.operating_point import OperatingPoint

CPU = Runtime(device="cpu", precision="float32")
SMALL: dict[str, Any] = {
    "name": "sparse-dictionary",
    "window": 9,
    "step": 3,
    "atoms": 60,
    "penalty": 0.05,
    "samples": 1500,
}


def config_of(channels: int = 1, stride: int = 16, **method: Any) -> Config:
    return parse(
        {
            "model": {"patch": 32, "channels": channels},
            "method": SMALL | method,
            "tiling": {"stride": stride},
            "training": {"steps": 1},
        }
    )


def cloth(count: int, seed: int, channels: int = 1) -> list[Any]:
    """Good images (96, 96, C), from within larger ones, whose borders are softer than their insides.

    The channels of a colour image are shades of one.
    """
    shades = np.linspace(1, 0.6, channels, dtype=np.float32)
    return [image[32:-32, 32:-32] * shades for image in good_images("cloth", count, (160, 160), seed)]


def fitted(config: Config) -> State:
    images = [TrainingImage(ImageRows.of(image)) for image in cloth(4, 0, config.model.channels or 1)]
    return fit(config, PatchSource(images, 32), FitContext())


def detector_of(config: Config, state: State) -> Detector:
    points = {DEFAULT: OperatingPoint(threshold=1.0)}
    return Detector.of(Artifact(config, state.tensors, points, facts=state.facts), CPU)


def problem(count: int = 200) -> tuple[Tensor, Tensor]:
    """Signals (n, 40), mixtures of some of 60 correlated atoms of norm 1 with noise, and the atoms."""
    rng = torch.Generator().manual_seed(3)
    atoms = torch.randn(60, 40, generator=rng) + torch.randn(1, 40, generator=rng)
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    codes = torch.randn(count, 60, generator=rng) * (torch.rand(count, 60, generator=rng) < 0.1)
    return codes @ atoms + 0.05 * torch.randn(count, 40, generator=rng), atoms


# --- codes


@pytest.mark.parametrize("penalty", [0.05, 0.2, 1.0])
def test_codes_are_scikit_learns(penalty: float) -> None:
    """After many rounds they are the lasso's."""
    signals, atoms = problem()
    exact = sparse_encode(
        signals.double().numpy(), atoms.double().numpy(), algorithm="lasso_cd", alpha=penalty, max_iter=10_000
    )
    np.testing.assert_allclose(sparse_codes(signals, atoms, penalty, rounds=1000), exact, atol=2e-4)


def test_the_usual_rounds_are_enough() -> None:
    """On windows of cloth, error and l1 norm are then within 10 % of their spread."""
    atoms = fitted(config_of()).tensors["dictionary"]
    patches = torch.from_numpy(np.stack([image[:32, :32].transpose(2, 0, 1) for image in cloth(4, 5)]))
    signals, _ = centred(windows(patches, starts(32, 9, 3), 9).flatten(0, 2))
    found, exact = (
        indicators_of(sparse_codes(signals, atoms, 0.05, rounds), signals, atoms) for rounds in (ROUNDS, 2000)
    )
    torch.testing.assert_close(indicators(signals, atoms, 0.05), found)
    assert ((found - exact).square().mean(0).sqrt() < 0.1 * exact.std(0)).all()


def indicators_of(codes: Tensor, signals: Tensor, atoms: Tensor) -> Tensor:
    return torch.stack((torch.linalg.vector_norm(signals - codes @ atoms, dim=1), codes.abs().sum(1)), 1)


def test_a_code_is_its_signals_own() -> None:
    """Whatever else is coded with it; a flat signal and one below the penalty have the code 0."""
    signals, atoms = problem(1500)  # more than a lot
    together = sparse_codes(signals, atoms, 0.1)
    torch.testing.assert_close(sparse_codes(signals[1100:1103], atoms, 0.1), together[1100:1103], rtol=1e-4, atol=1e-5)
    faint = torch.stack((torch.zeros(40), 0.09 * atoms[0]))
    assert not sparse_codes(faint, atoms, 0.1).any()


# --- density


def pairs(count: int = 3000) -> Any:
    """Correlated pairs with a tail to one side, as indicators have."""
    rng = np.random.default_rng(5)
    first = rng.gamma(4, 0.1, count)
    return np.stack([first, 8 * first + rng.gamma(3, 0.5, count)], axis=1)


def test_the_kernel_density_is_scipys() -> None:
    """Among the samples and in the tail, up to one constant; beyond the grid it goes on falling."""
    samples = pairs()
    estimate, density = gaussian_kde(samples.T), kernel_density(samples)
    white = (samples - density.centre.numpy()) @ density.white.numpy()
    among = np.random.default_rng(6).uniform(white.min(axis=0), white.max(axis=0), (2000, 2))
    points = np.concatenate([samples, among @ np.linalg.inv(density.white.numpy()) + density.centre.numpy()])
    found = rarity(torch.from_numpy(points).float(), density).double().numpy()
    wanted = -estimate.logpdf(points.T)
    near = wanted < 400  # standard deviations of a kernel from any sample: less than 28
    offset = (found - wanted)[: len(samples)].mean()
    np.testing.assert_allclose(found[near], wanted[near] + offset, atol=0.1)
    assert near.mean() > 0.9
    outward = np.linspace(1, 5, 60)[:, None] * samples.max(axis=0)
    assert (np.diff(rarity(torch.from_numpy(outward).float(), density).numpy()) > 0).all()
    assert rarity(torch.from_numpy(samples).float(), density).min() >= 0


def test_beyond_the_grid_a_kernel_goes_on() -> None:
    """Straight away from the outermost sample of a coordinate, the fall is that of its kernel."""
    density = kernel_density(pairs())
    edge = density.low + (torch.tensor(density.heights.shape) - 1) * density.spacing
    for beyond in (0.0, 2.0, 20.0):
        white = torch.stack((edge, edge + torch.tensor([beyond, 0.0])))
        near, far = rarity(white @ torch.linalg.inv(density.white) + density.centre, density)
        assert float(far - near) == pytest.approx(((MARGIN + beyond) ** 2 - MARGIN**2) / 2, rel=1e-3, abs=0.05)


def test_the_gaussian_density_is_scipys() -> None:
    """Everywhere: half the squared Mahalanobis distance."""
    samples = pairs()
    points = np.random.default_rng(7).uniform(-3, 30, (500, 2))
    oracle = multivariate_normal(samples.mean(axis=0), np.cov(samples, rowvar=False))
    wanted = oracle.logpdf(samples.mean(axis=0)) - oracle.logpdf(points)
    found = rarity(torch.from_numpy(points).float(), gaussian_density(samples))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


# --- windows


@given(st.integers(3, 20), st.integers(1, 9), st.integers(0, 20), st.sampled_from([1, 3]))
def test_windows_and_their_means_are_those_of_slow_loops(side: int, step: int, more: int, channels: int) -> None:
    """Each window is cut where it starts; a pixel has the mean over the windows that cover it, and all are covered."""
    step, length = min(step, side), side + more
    corners = starts(length, side, step)
    patches = torch.rand(2, channels, length, length, generator=torch.Generator().manual_seed(length))
    found = windows(patches, corners, side)
    values = torch.rand(2, len(corners), len(corners), generator=torch.Generator().manual_seed(side))
    total, count = torch.zeros(2, length, length), torch.zeros(length, length)
    for row, y in enumerate(corners):
        for column, x in enumerate(corners):
            assert torch.equal(found[:, row, column], patches[:, :, y : y + side, x : x + side])
            total[:, y : y + side, x : x + side] += values[:, row, column, None, None]
            count[y : y + side, x : x + side] += 1
    assert count.min() >= 1
    torch.testing.assert_close(spread(values, corners, side, length), total / count)


def test_brightness_is_removed_from_each_channel() -> None:
    """Windows that differ by a constant for each channel have one signal, and means that differ."""
    found = torch.rand(5, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    signals, means = centred(found)
    brighter, their_means = centred(found + torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    torch.testing.assert_close(signals, brighter, rtol=0, atol=1e-6)
    torch.testing.assert_close(their_means - means, torch.full((5,), 0.2))
    assert signals.view(5, 3, 81).mean(2).abs().max() < 1e-6


# --- maps


def test_the_map_does_not_depend_on_the_tiling() -> None:
    """Other strides, and another cut of the image, give nearly the same map of an image with a flaw."""
    state, image = fitted(config_of(step=2)), cloth(1, 5)[0]
    image[40:52, 44:56] = image.mean()
    often, seldom = (detector_of(config_of(step=2, stride=stride), state) for stride in (12, 23))
    whole, inside = often.score(image), np.s_[16:-16, 16:-16]
    for other in (seldom.score(image), np.pad(often.score(image[5:, 7:]), ((5, 0), (7, 0)))):
        assert np.corrcoef(whole[inside].ravel(), other[inside].ravel())[0, 1] > 0.9
        assert other[inside].mean() == pytest.approx(whole[inside].mean(), rel=0.25)


def test_borders_are_as_good_as_the_inside() -> None:
    """Fewer windows cover a pixel there; their mean is the same."""
    detector = detector_of(config_of(), fitted(config_of()))
    maps = np.stack([detector.score(image) for image in cloth(6, 6)])
    for rim in (maps[:, :6], maps[:, -6:], maps[:, :, :6], maps[:, :, -6:]):
        assert rim.mean() == pytest.approx(maps[:, 16:-16, 16:-16].mean(), rel=0.35)


def test_dark_windows_count_as_good() -> None:
    """Where all windows that cover a pixel are darker, it has the residual 0, whatever they show."""
    image = cloth(1, 5)[0]
    image[:40, :40] *= 0.1 * np.random.default_rng(0).random((40, 40, 1), np.float32)
    state = fitted(config_of(darkest=0.15))
    found = detector_of(config_of(darkest=0.15), state).score(image)
    assert found[:28, :28].max() == 0
    assert found[60:, 60:].min() > 0


@pytest.mark.parametrize(("channels", "density"), [(1, "kernel"), (1, "gaussian"), (3, "kernel")])
def test_from_a_folder_to_a_verdict(channels: int, density: str, tmp_path: Path) -> None:
    """Trained twice it is the same; a scratch in grey or colour is worse than anything good, and evidence finds it."""
    (tmp_path / "good").mkdir()
    images = cloth(8, 0, channels)
    for number, image in enumerate(images):
        write_image(tmp_path / "good" / f"{number}.png", np.rint(image.squeeze() * 255).astype(np.uint8))
    changes = {
        "model": {"patch": 32},
        "method": SMALL | {"density": density},
        "tiling": {"stride": 20},
        "training": {"steps": 1},
        "evidence": {"enabled": True, "scales": [1.0]},
    }
    config = override(preset("fast", "sparse-dictionary"), changes)
    report = flawmap.train(tmp_path / "good", tmp_path / "m.flawmap", config)
    assert report.history == ()
    again = flawmap.train(tmp_path / "good", tmp_path / "again.flawmap", config)
    assert all(torch.equal(value, again.artifact.weights[name]) for name, value in report.artifact.weights.items())
    detector = Detector.load(tmp_path / "m.flawmap", CPU)
    image = images[0].copy()
    good = detector.inspect(image)
    for place in range(30, 60):
        image[place : place + 3, place] = 0.9
    flawed = detector.inspect(image)
    assert flawed.score > good.score
    assert flawed.residual[28:64, 28:64].max() == flawed.score


def test_refusals() -> None:
    """Settings that leave pixels unseen, atoms without windows, empty codes, another engine, and missing tensors."""
    with pytest.raises(ConfigError, match=r"step must not exceed the window, .* got step 10 with window 9"):
        config_of(step=10)
    with pytest.raises(ConfigError, match="atoms must not outnumber the samples, 1500, got 1501"):
        config_of(atoms=1501)
    with pytest.raises(ConfigError, match=r"60 atoms need as many windows with a pattern and a mean of at least 0\.99"):
        fitted(config_of(darkest=0.99))
    with pytest.raises(ConfigError, match=r"the codes of good windows are all alike or empty at method\.penalty = 50"):
        fitted(config_of(penalty=50))
    with pytest.raises(ConfigError, match="the method sparse-dictionary has no network that openvino could run"):
        scorer(config_of(), State({}), Runtime(engine="openvino"))
    with pytest.raises(ArtifactError, match="the model lacks a part of its dictionary or density: 'dictionary'"):
        scorer(config_of(), State({}), CPU)

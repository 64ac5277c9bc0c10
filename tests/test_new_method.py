"""A method is one row: one that a test adds goes through training, inspection, evaluation, info and the reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flawmap
from flawmap.commands.cli import main
from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import MethodSettings
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Method, Patches, PatchScorer, PatchScores, State
from flawmap.methods.overrides import override, parse
from flawmap.methods.table import METHODS
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, load_artifact
from flawmap.scoring.operating_point import OperatingPoint

PATCHES = 200


# --- without gradients: main components


class ComponentsSettings(MethodSettings):
    """The main components of patches; a patch's one residual is its squared distance from their span."""

    name: Literal["components"] = "components"
    components: int = 8


def fit_components(config: Config, patches: Patches, context: FitContext) -> State:
    drawn = patches.cut(patches.draw(PATCHES, np.random.default_rng(config.training.seed)))
    flat = torch.from_numpy(drawn).flatten(1)
    mean = flat.mean(0)
    _, _, basis = torch.linalg.svd(flat - mean, full_matrices=False)
    assert isinstance(config.method, ComponentsSettings)
    return State({"mean": mean, "basis": basis[: config.method.components].contiguous().clone()}, {"patches": PATCHES})


def score_components(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    mean, basis = state.tensors["mean"], state.tensors["basis"]
    assert state.facts == {"patches": PATCHES}

    def score(patches: Tensor) -> PatchScores:
        flat = patches.flatten(1) - mean
        return PatchScores((flat - flat @ basis.T @ basis).square().mean(1))

    return PatchScorer(score, torch.device("cpu"), "float32", batch=64)


# --- two optimisers, and gradients while scoring


class AdversarialSettings(MethodSettings):
    """A generator and a critic, each with an optimiser of its own; scoring descends to the latent vector of a patch."""

    name: Literal["adversarial"] = "adversarial"
    steps_per_patch: int = 3


def generator_of(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, config.model.patch**2), nn.Unflatten(1, (1, config.model.patch, -1)), nn.Sigmoid()
    )


def fit_adversarial(config: Config, patches: Patches, context: FitContext) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        generator, critic = generator_of(config), nn.Sequential(nn.Flatten(), nn.Linear(config.model.patch**2, 1))
        optimisers = [torch.optim.Adam(network.parameters()) for network in (generator, critic)]
        rng = np.random.default_rng(config.training.seed)
        for _ in range(config.training.steps or 1):
            real = torch.from_numpy(patches.cut(patches.draw(8, rng)))
            made = generator(torch.randn(8, 4))
            for optimiser, loss in (
                (optimisers[1], lambda made=made, real=real: critic(made.detach()).mean() - critic(real).mean()),
                (optimisers[0], lambda made=made: -critic(made).mean()),
            ):
                optimiser.zero_grad()
                loss().backward()
                optimiser.step()
    return State(generator.state_dict())


def score_adversarial(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    generator = generator_of(config).requires_grad_(False)
    generator.load_state_dict(state.tensors)
    assert isinstance(config.method, AdversarialSettings)
    steps = config.method.steps_per_patch

    def score(patches: Tensor) -> PatchScores:
        latent = torch.zeros(len(patches), 4, requires_grad=True)
        with torch.enable_grad():
            for _ in range(steps):
                loss = (generator(latent) - patches).square().sum()
                (gradient,) = torch.autograd.grad(loss, latent)
                latent = (latent - 0.01 * gradient).detach().requires_grad_()
        made = generator(latent).detach()
        return PatchScores((made - patches).square().mean(1), made)

    return PatchScorer(score, torch.device("cpu"), "float32", batch=16)


ROWS = {
    "components": Method(ComponentsSettings, fit_components, score_components),
    "adversarial": Method(AdversarialSettings, fit_adversarial, score_adversarial),
}


@pytest.fixture(params=ROWS)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a method whose row was just added."""
    monkeypatch.setitem(METHODS, request.param, ROWS[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "cloth"
    flawmap.synth(folder, "cloth", good=8, bad=3, size=(96, 80), seed=0)
    return folder


def settings_of(name: str) -> Config:
    return parse(
        {
            "method": {"name": name},
            "model": {"patch": 32},
            "tiling": {"stride": 16},
            "training": {"steps": 4, "seed": 1},
        }
    )


def test_from_training_to_the_reports(name: str, cloth: Path, tmp_path: Path) -> None:
    """train, inspect, evaluate with its page, and info; the score repeats bit for bit from the file."""
    model = tmp_path / "m.flawmap"
    report = flawmap.train(cloth, model, settings_of(name))
    assert report.artifact.threshold is not None
    detector = Detector.load(model)
    image = np.random.default_rng(0).random((50, 70, 1), np.float32)
    assert np.array_equal(detector.score(image), Detector.of(report.artifact).score(image))
    assert (detector.explain(image).reconstruction is None) == (name == "components")
    rows = flawmap.inspect(model, [cloth / "test"], tmp_path / "out")
    assert {row.verdict for row in rows} <= {"ok", "flawed"}
    evaluation = flawmap.evaluate_model(model, cloth, tmp_path / "evaluation")
    found = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert found["model"]["method"] == name
    assert 0 <= found["pixel"]["auroc"] <= 1
    assert evaluation.curve is not None
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert name in page
    assert ("reconstruction" in page) == (name != "components")


def test_the_command_line_knows_it(name: str, cloth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--method`, `--set` for its own settings, and `info`."""
    key = {"components": "components", "adversarial": "steps_per_patch"}[name]
    own = ["--method", name, "--set", f"method.{key}=2", "--set", "model.patch=32", "--set", "tiling.stride=16"]
    model = str(tmp_path / "m.flawmap")
    assert main(["train", str(cloth), "-o", model, *own, "--preset", "fast", "--steps", "2"]) == 0
    assert getattr(load_artifact(Path(model)).config.method, key) == 2
    capsys.readouterr()
    assert main(["info", model]) == 0
    assert name in capsys.readouterr().out


def test_its_settings_are_its_own(name: str) -> None:
    """Unknown ones are refused with the nearest name, and other methods do not have them."""
    key = {"components": "components", "adversarial": "steps_per_patch"}[name]
    with pytest.raises(ConfigError) as caught:
        parse({"method": {"name": name, key[:-1]: 3}})
    assert str(caught.value) == f"unknown setting method.{key[:-1]}; did you mean method.{key}?"
    owner = {"components": "gmm or components", "adversarial": "adversarial"}[name]
    with pytest.raises(ConfigError, match=f"unknown setting method.{key}; it belongs to the method {owner}"):
        parse({"method": {"name": "l2", key: 3}})
    with pytest.raises(ConfigError, match=f"the method {name} maps by itself, got residual l2"):
        override(settings_of(name), {"residual": {"name": "l2"}})


def test_any_cut_into_bands_gives_the_same_map(name: str, cloth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One residual for each patch is spread over its pixels, by bands as in one piece."""
    report: Callable[[], Any] = lambda: ROWS[name].fit(settings_of(name), Drawn(), FitContext())  # noqa: E731
    config, state = settings_of(name), report()
    detector = Detector.of(
        flawmap.Artifact(config, state.tensors, {DEFAULT: OperatingPoint(threshold=0.1)}, facts=state.facts)
    )
    image = np.random.default_rng(1).random((120, 70, 1), np.float32)
    whole = detector.score(image)
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 300)
    monkeypatch.setattr("flawmap.scoring.tiling.HELD", 5000)
    np.testing.assert_allclose(detector.score(image), whole, rtol=1e-5, atol=1e-6)


class Drawn:
    """Patches of noise."""

    def draw(self, count: int, rng: np.random.Generator) -> Any:
        return rng.integers(0, 2**32, size=count)

    def cut(self, drawn: Any) -> Any:
        return np.stack([np.random.default_rng(seed).random((1, 32, 32), np.float32) for seed in drawn])

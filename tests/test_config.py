"""Settings: the presets' numbers, TOML and back, overrides, and the exact words for every kind of nonsense."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flawmap.core.errors import ConfigError
from flawmap.core.settings import ModelSettings, TrainingSettings
from flawmap.methods.config import Config
from flawmap.methods.overrides import override, parse, read_config, to_toml
from flawmap.methods.presets import preset
from flawmap.methods.table import METHODS

RICH = {
    "model": {"patch": 64, "channels": 3},
    "method": {
        "latent": 500,
        "name": "ssim",
        "ssim": {"constants": [0.02, 1e-5], "size": 7, "window": "gaussian", "gamma": 0.5},
    },
    "residual": {"name": "l2"},
    "tiling": {"stride": 16, "average": "residuals", "weights": "hann", "pad": True},
    "images": {"mode": "grey", "scale": [320, 240], "white": 4095.0, "roi": {"masks": 'a "b"\\c\n\x7f ü/ä'}},
    "split": {"validation": 0.25, "last": 3},
    "training": {"steps": 12, "pool": 7, "augment": "turns", "device": "cuda:1", "weight_decay": 1e-5},
    "threshold": {"rule": "largest", "opening": 0},
}


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(data)
    return str(caught.value)


# --- presets


@pytest.mark.parametrize("loss", ["l2", "ssim"])
def test_the_paper_preset_has_the_paper_s_numbers(loss: Any) -> None:
    """128 pixel patches, d = 100, K = 11, 10,000 patches for 200 epochs, Adam at 2e-4 with decay 1e-5, stride 30."""
    config = preset("paper", loss)
    assert (config.model.patch, config.method.latent) == (128, 100)
    assert (config.method.name, config.residual.name, config.mapped.name) == (loss, None, loss)
    for part in (config.residual, *([config.method] if loss == "ssim" else [])):
        assert (part.ssim.window, part.ssim.size, part.ssim.constants) == ("uniform", 11, "paper")
        assert part.ssim.alpha == part.ssim.beta == part.ssim.gamma == 1
    training = config.training
    assert (training.epochs, training.pool, training.steps, training.minutes) == (200, 10_000, None, None)
    assert (training.learning_rate, training.weight_decay) == (2e-4, 1e-5)
    assert (training.schedule, training.warmup, training.augment) == ("constant", 0, "none")
    assert (config.tiling.stride, config.tiling.weights, config.tiling.average) == (30, "uniform", None)
    assert config.threshold.opening == 4
    assert config.images.roi.everywhere


@pytest.mark.parametrize("name", ["paper", "fast"])
@pytest.mark.parametrize("loss", ["l2", "ssim"])
def test_presets_are_valid_and_survive_json(name: Any, loss: Any) -> None:
    """A preset written as JSON and parsed is the preset."""
    config = preset(name, loss)
    assert parse(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert parse(config.model_dump()) == config
    assert parse({}) == Config()


def test_the_fast_preset_names_its_window_and_constants() -> None:
    """A Gaussian window trains and a uniform one scores, both with Wang's constants, for ten minutes."""
    config = preset("fast")
    assert (config.method.ssim.window, config.residual.ssim.window) == ("gaussian", "uniform")
    assert (config.method.ssim.constants, config.residual.ssim.constants) == ("wang", "wang")
    assert config.training.minutes == 10


def test_another_preset_is_refused() -> None:
    """The two names are said."""
    with pytest.raises(ConfigError) as caught:
        preset("quick")  # type: ignore[arg-type]
    assert str(caught.value) == "preset must be one of paper, fast, auto, got 'quick'"


# --- frozen


def test_settings_are_frozen() -> None:
    """Nothing changes once it is made, at any depth, and equal settings are equal."""
    config = Config()
    for settings, name in ((config, "model"), (config.model, "patch"), (config.method.ssim, "size")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, name, getattr(settings, name))
    assert config == Config()
    assert hash(config.training) == hash(Config().training)


# --- nonsense


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"training": {"steps": 1, "learnin_rate": 1e-3}},
            "unknown setting training.learnin_rate; did you mean training.learning_rate?",
        ),
        ({"trainig": {"steps": 1}}, "unknown setting trainig; did you mean training?"),
        ({"method": {"size": 7}}, "unknown setting method.size; did you mean method.ssim.size?"),
        ({"method": {"ssim": {"siz": 7}}}, "unknown setting method.ssim.siz; did you mean method.ssim.size?"),
        (
            {"residual": {"ssim": {"sise": 7}}},
            "unknown setting residual.ssim.sise; did you mean residual.ssim.size?",
        ),
        (
            {"images": {"roi": {"boxes": [1]}}},
            "unknown setting images.roi.boxes; did you mean images.roi.box?",
        ),
        ({"qqqqqq": 1}, "unknown setting qqqqqq"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(data: dict[str, Any], message: str) -> None:
    """A key beside it first, then one elsewhere, with its whole path; nothing if nothing is near."""
    assert refused(data) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"tiling": {"stride": 200}},
            "stride must not exceed the patch, or pixels between patches go unseen, got stride 200 with patch 128",
        ),
        ({"tiling": {"stride": 0}}, "tiling.stride: Input should be greater than 0, got 0"),
        (
            {"method": {"ssim": {"size": 10}}},
            "method.ssim: window size must be odd, so that it has a centre, got 10",
        ),
        (
            {"model": {"patch": 32}, "residual": {"ssim": {"size": 33}}},
            "window size 33 must not exceed the patch, 32",
        ),
        ({"residual": {"ssim": {"size": 1}}}, "residual.ssim.size: Input should be greater than or equal to 3, got 1"),
        (
            {"method": {"ssim": {"constants": [0.01, 0]}}},
            "method.ssim: constants must be positive (they keep flat patches finite), got (0.01, 0.0)",
        ),
        (
            {"method": {"ssim": {"alpha": 0, "beta": 0, "gamma": 0}}},
            "method.ssim: alpha, beta and gamma must not all be 0, or every two images are alike",
        ),
        ({"method": {"ssim": {"gamma": -1}}}, "method.ssim.gamma: Input should be greater than or equal to 0, got -1"),
        ({"method": {"latent": 0}}, "method.latent: Input should be greater than 0, got 0"),
        ({"model": {"patch": 100}}, "model: patch must be one of 32, 64, 128, 256 pixels, got 100"),
        ({"model": {"channels": 2}}, "model.channels: Input should be 1 or 3, got 2"),
        (
            {"method": {"name": "mse"}},
            f"method.name must be one of {', '.join(METHODS)}, got 'mse'",
        ),
        (
            {"training": {"steps": 5, "minutes": 1}},
            "training: exactly one of steps, epochs and minutes is needed, got steps and minutes",
        ),
        ({"training": {}}, "training: exactly one of steps, epochs and minutes is needed, got none"),
        (
            {"training": {"epochs": 5}},
            "training: epochs need a fixed pool of patches; set training.pool, or give steps or minutes",
        ),
        ({"training": {"steps": "100"}}, "training.steps: Input should be a valid integer, got '100'"),
        ({"training": {"steps": True}}, "training.steps: Input should be a valid integer, got True"),
        ({"training": {"steps": 0}}, "training.steps: Input should be greater than 0, got 0"),
        (
            {"training": {"steps": 1, "learning_rate": float("nan")}},
            "training.learning_rate: Input should be a finite number, got nan",
        ),
        ({"tiling": {"pad": "yes"}}, "tiling.pad: Input should be a valid boolean, got 'yes'"),
        (
            {"images": {"roi": {"box": [5, 0, 5, 9]}}},
            "images.roi: box must be left,top,right,bottom with left < right and top < bottom, got (5, 0, 5, 9)",
        ),
        (
            {"images": {"roi": {"box": [0, 0, 5, 9], "brightness": [0.1, 0.5]}}},
            "images.roi: a region of interest is given in one way, got box and brightness",
        ),
        (
            {"images": {"roi": {"brightness": [0.5, 0.5]}}},
            "images.roi: brightness must be lowest,highest with 0 <= lowest < highest <= 1, got (0.5, 0.5)",
        ),
        ({"images": {"scale": 0}}, "images: scale must lie between 0.01 and 16, got 0.0"),
        ({"images": {"scale": [0, 5]}}, "images: scale must be a factor or width,height in pixels, got (0, 5)"),
        (
            {"split": {"validation": 0.5, "test": 0.5}},
            "split: validation and test must leave images to train on, got 0.5 + 0.5 of 1",
        ),
        ({"model": 3}, "model: Input should be a valid dictionary or instance of ModelSettings, got 3"),
    ],
)
def test_nonsense_is_refused_when_made(data: dict[str, Any], message: str) -> None:
    """The message names the setting, what it should be, and what it was."""
    assert refused(data) == message


def test_several_faults_are_told_together_but_no_more_than_three() -> None:
    """Sentences are joined by semicolons."""
    text = refused(
        {"model": {"patch": 1}, "method": {"latent": 0}, "tiling": {"stride": 0}, "split": {"test": 2}, "x": 1}
    )
    assert text.count("; ") == 2
    assert text.startswith("model: patch must be one of 32, 64, 128, 256 pixels, got 1; method.latent: ")


def test_settings_built_in_python_refuse_too() -> None:
    """Without `parse` the same laws hold, as pydantic's own error."""
    with pytest.raises(ValidationError, match="patch must be one of"):
        ModelSettings(patch=100)
    with pytest.raises(ValidationError, match="exactly one of steps"):
        TrainingSettings()


# --- TOML


@pytest.mark.parametrize(
    "config",
    [preset("paper"), preset("fast"), preset("paper", "l2"), Config(), parse(RICH)],
    ids=["paper", "fast", "l2", "defaults", "rich"],
)
def test_toml_and_back_is_the_same(config: Config, tmp_path: Path) -> None:
    """read_config(to_toml(config)) over the defaults is the configuration, awkward characters included."""
    path = tmp_path / "flawmap.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert read_config(path, Config()) == config
    assert parse(tomllib.loads(to_toml(config))) == config


def test_toml_reads_as_a_person_would_write_it() -> None:
    """Sections in order, numbers plain, and what is not set is left out."""
    text = to_toml(preset("paper"))
    assert text.startswith('[model]\npatch = 128\n\n[method]\nname = "ssim"\nlatent = 100\n')
    assert text.index("[method]") < text.index("[method.ssim]\n") < text.index("[residual]")
    assert "\nlearning_rate = 0.0002\n" in text
    assert "\nminutes" not in text
    assert "\nopening = 4\n" in text


def test_a_configuration_file_is_laid_over_its_base(tmp_path: Path) -> None:
    """Only what the file says changes; a budget in it replaces the base's."""
    path = tmp_path / "flawmap.toml"
    path.write_text("[training]\nsteps = 77\n[method.ssim]\nsize = 7\n")
    config, base = read_config(path, preset("paper")), preset("paper")
    assert (config.training.steps, config.training.epochs, config.training.pool) == (77, None, 10_000)
    assert config.method.ssim == base.method.ssim.model_copy(update={"size": 7})
    assert config.residual == base.residual
    assert config.model == base.model


def test_a_bad_configuration_file_is_named(tmp_path: Path) -> None:
    """Missing, not TOML, not UTF-8, or with an unknown key: the path comes first."""
    path = tmp_path / "flawmap.toml"
    with pytest.raises(ConfigError) as caught:
        read_config(path, Config())
    assert str(caught.value) == f"no configuration file {path}; `flawmap train --show-config` prints one to start from"
    path.write_text("[training\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path, Config())
    assert str(caught.value).startswith(f"{path} is not TOML: ")
    path.write_bytes(b'x = "\xff"')
    with pytest.raises(ConfigError) as caught:
        read_config(path, Config())
    assert str(caught.value).startswith(f"{path} is not TOML: ")
    path.write_text("[tiling]\nstrid = 5\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path, Config())
    assert str(caught.value) == f"{path}: unknown setting tiling.strid; did you mean tiling.stride?"


# --- override


@pytest.mark.parametrize(
    ("change", "budget"),
    [
        ({"steps": 5}, (5, None, None)),
        ({"epochs": 5}, (None, 5, None)),
        ({"minutes": 5}, (None, None, 5)),
        ({"steps": 5, "minutes": None}, (5, None, None)),
        ({"batch": 8}, (None, 200, None)),
    ],
)
def test_one_budget_replaces_another(change: dict[str, Any], budget: tuple[Any, ...]) -> None:
    """Of steps, epochs and minutes the one that is given wins over the base's."""
    training = override(preset("paper"), {"training": change}).training
    assert (training.steps, training.epochs, training.minutes) == budget
    assert training.pool == 10_000


def test_two_budgets_in_one_change_are_refused() -> None:
    """They are named."""
    with pytest.raises(ConfigError) as caught:
        override(preset("paper"), {"training": {"steps": 5, "minutes": 1}})
    assert str(caught.value) == "training: exactly one of steps, epochs and minutes is needed, got steps and minutes"
    with pytest.raises(ConfigError, match="epochs need a fixed pool"):
        override(preset("fast"), {"training": {"epochs": 5}})


def test_an_override_changes_nothing_else() -> None:
    """The base stays as it is; nothing in, nothing changed; sections that are no tables are refused."""
    base = preset("fast")
    changed = override(base, {"images": {"roi": {"box": (0, 0, 64, 64)}}, "method": {"latent": 7}})
    assert base == preset("fast")
    assert changed.images.roi.box == (0, 0, 64, 64)
    assert changed.model_copy(update={"images": base.images, "method": base.method}) == base
    assert override(base, {}) == base
    with pytest.raises(ConfigError, match="training: Input should be a valid dictionary"):
        override(base, {"training": 5})

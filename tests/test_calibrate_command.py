"""`flawmap calibrate`: the threshold moves, the weights stay; what was trained on is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import flawmap
from flawmap.commands.calibrate import calibrate
from flawmap.commands.cli import main
from flawmap.core.errors import InputError
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import parse
from flawmap.scoring.conformal import score_limit
from flawmap.scoring.model_file import load_artifact


def write_set(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = np.clip(random.normal(128, 8, (40, 48, 1)), 0, 255).astype(np.uint8)
        write_image(folder / f"{number}.png", pixels)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, what it was trained on, and good images that it has not seen."""
    folder = tmp_path_factory.mktemp("calibrate")
    config = parse(
        {
            "model": {"patch": 32},
            "method": {"latent": 4},
            "training": {"steps": 5, "batch": 4, "precision": "float32", "device": "cpu", "plateau_steps": 0},
        }
    )
    seen = write_set(folder / "seen", 8, 0)
    flawmap.train(seen, folder / "m.flawmap", config)
    return folder / "m.flawmap", seen, write_set(folder / "new", 24, 1)


def test_the_threshold_is_that_of_the_new_images(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A new file with the same weights, whose limit follows from the new images' scores; the old file stays."""
    model, _, new = made
    before, bytes_before = load_artifact(model), model.read_bytes()
    assert main(["calibrate", str(model), str(new), "-o", str(tmp_path / "c.flawmap"), "--alpha", "0.1", "-q"]) == 0
    found = load_artifact(tmp_path / "c.flawmap")
    assert model.read_bytes() == bytes_before
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in before.weights.items())
    assert (found.config.threshold.rule, found.config.threshold.alpha) == ("conformal", 0.1)
    assert found.calibration["good_areas"] == 24
    assert found.threshold == score_limit(found.good_scores, 0.1)
    rejected = sum(
        flawmap.Detector.load(tmp_path / "c.flawmap").inspect(path).verdict == "flawed" for path in new.iterdir()
    )
    assert rejected == 1, "of these 24 one, and a new one besides, may score as high: 2 of 25"


def test_the_terminal_and_json(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule is shown with the threshold; too few images for an alpha are said."""
    model, _, new = made
    given = [str(model), str(new), "-o", str(tmp_path / "c.flawmap")]
    assert main(["calibrate", *given]) == 0
    assert "(at most 5% of good images lie above, by 24 held-out good images or areas)" in capsys.readouterr().out
    assert main(["calibrate", *given, "--alpha", "0.01", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(tmp_path / "c.flawmap")
    assert report["calibration"]["warning"].startswith("alpha 0.01 needs at least 99 held-out good images or areas")
    assert "scores" not in report["calibration"]


def test_what_was_trained_on_is_refused(made: tuple[Path, Path, Path]) -> None:
    """By content, wherever it lies now; the model stays as it is."""
    model, seen, _ = made
    before = model.read_bytes()
    with pytest.raises(InputError, match="of the images to be scored as unseen were trained on: "):
        calibrate(model, seen)
    assert model.read_bytes() == before

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
from flawmap.imaging.morphology import opened
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
    assert "(at most 0.05 of good images are rejected, by 24 held-out good images or areas)" in capsys.readouterr().out
    assert main(["calibrate", *given, "--alpha", "0.01", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(tmp_path / "c.flawmap")
    assert report["points"]["default"]["found"]["warning"].startswith(
        "alpha 0.01 needs at least 99 held-out good images or areas"
    )
    assert "scores" not in report["calibration"]


def test_what_was_trained_on_is_refused(made: tuple[Path, Path, Path]) -> None:
    """By content, wherever it lies now; the model stays as it is."""
    model, seen, _ = made
    before = model.read_bytes()
    with pytest.raises(InputError, match="of the images to be scored as unseen were trained on: "):
        calibrate(model, seen)
    assert model.read_bytes() == before


def test_points_by_hand_and_by_name(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point is set by hand, chosen by name and listed; the tensors' bytes stay, and inspections follow it."""
    model, _, new = made
    path, image = tmp_path / "p.flawmap", sorted(new.iterdir())[0]
    assert main(["calibrate", str(model), str(new), "-o", str(path), "-q"]) == 0
    assert main(["calibrate", str(path), "--set-threshold", "0.0001", "--name", "strict", "-q"]) == 0
    strict = load_artifact(path)
    assert (strict.active, set(strict.points), strict.threshold) == ("strict", {"default", "strict"}, 0.0001)
    assert all(torch.equal(strict.weights[name], tensor) for name, tensor in load_artifact(model).weights.items())
    assert flawmap.Detector.load(path).inspect(image).verdict == "flawed"
    usual = flawmap.Detector.of(strict.at_point("default")).inspect(image)
    assert usual.threshold == strict.points["default"].threshold > 0.0001
    capsys.readouterr()
    assert main(["calibrate", str(path), "--list"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines()[1:]][-1] == ["*", "strict"]
    assert main(["calibrate", str(path), "--name", "default", "-q"]) == 0
    assert load_artifact(path).active == "default"
    out = str(tmp_path / "out")
    assert main(["inspect", str(path), str(image), "-o", out, "--point", "strict", "--fail-on-flaw", "-q"]) == 3


def zone_file(folder: Path, box: tuple[int, int, int, int], size: tuple[int, int] = (48, 40)) -> Path:
    """A mask of so many pixels, white in a box."""
    mask = np.zeros((size[1], size[0], 1), np.uint8)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 255
    write_image(folder / "zone.png", mask)
    return folder / "zone.png"


def test_a_zone_is_where_a_point_decides(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing outside has a residual, before residuals are opened; the scores are those of the zone."""
    model, _, new = made
    path, images = tmp_path / "z.flawmap", sorted(new.iterdir())
    zone = zone_file(tmp_path, (10, 5, 30, 20))
    assert main(["calibrate", str(model), str(new), "-o", str(path), "-q"]) == 0
    everywhere = flawmap.Detector.load(path)
    assert main(["calibrate", str(path), str(new), "--zone", str(zone), "--name", "corner", "-q"]) == 0
    corner = flawmap.Detector.load(path)
    maps = [everywhere.explain(everywhere.read(image).pixels).residual for image in images]
    within = np.zeros((40, 48), np.bool_)
    within[5:20, 10:30] = True
    diameter = everywhere.config.threshold.opening
    inside = [float(opened(np.where(within, residual, np.float32(0)), diameter).max()) for residual in maps]
    assert corner.artifact.good_scores == tuple(sorted(inside))
    assert corner.artifact.at_point("default").good_scores == everywhere.artifact.good_scores
    assert corner.inspect(images[0]).score == inside[0]
    strict = corner.inspect(images[0], threshold=0.0).mask
    assert not strict[~within].any()
    assert strict[within].mean() > 0.9, "all but the corners, which are opened away"
    again = corner.artifact.points["corner"].zone
    assert again is not None
    assert again.summary() == {"width": 48, "height": 40, "pixels": 300}
    assert main(["calibrate", str(path), "--set-threshold", "1", "--name", "loose", "-q"]) == 0
    assert load_artifact(path).points["loose"].zone == again, "by hand, the point that decided keeps its zone"
    capsys.readouterr()
    assert main(["calibrate", str(path), "--list"]) == 0
    assert "300 pixels" in capsys.readouterr().out


def test_a_zone_has_its_images_size(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another size, an empty mask and a zone without a threshold are told; the model stays."""
    model, _, new = made
    before, wide = model.read_bytes(), zone_file(tmp_path, (0, 0, 9, 9), (50, 40))
    assert main(["calibrate", str(model), str(new), "--zone", str(wide)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sorted(new.iterdir())[0]} is 48 x 40 pixels, the zone of the ")
    assert main(["calibrate", str(model), "--zone", str(wide)]) == 2
    assert capsys.readouterr().err == (
        "error: a zone needs a threshold: name a folder of good images, or set one (--set-threshold)\n"
    )
    empty = zone_file(tmp_path, (0, 0, 0, 0))
    assert main(["calibrate", str(model), "--zone", str(empty), "--set-threshold", "1"]) == 2
    assert capsys.readouterr().err == (
        "error: the zone's mask is empty: no pixel of it is above 0; draw the zone white on black\n"
    )
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "nothing to set; name a folder of good images, a threshold (--set-threshold), an operating point that the "
            "model has (--name), or look at them (--list)",
        ),
        (["--name", "night"], "no operating point 'night' in this model; it has default"),
        (["GOOD", "--set-threshold", "1"], "a threshold is set by hand or by good images; leave one of both out"),
    ],
)
def test_nothing_is_guessed(
    made: tuple[Path, Path, Path], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks for nothing, for an unknown name or for two things at once is told so; the file stays."""
    model, _, new = made
    before = model.read_bytes()
    given = [str(new) if text == "GOOD" else text for text in arguments]
    assert main(["calibrate", str(model), *given]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert model.read_bytes() == before


def test_of_a_group_one_image_counts(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Images of one roll may be alike: 24 images of 6 rolls are 6 scores, so alpha 0.1 cannot be kept by them."""
    model, _, new = made
    rows = [f"{path},train,good,roll {number % 6}" for number, path in enumerate(sorted(new.iterdir()))]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["image,split,label,group", *rows]))
    report = calibrate(model, table, tmp_path / "c.flawmap", alpha=0.1)
    found = report["points"]["default"]["found"]
    assert (found["good_areas"], found["images"], len(report["calibration"]["image_scores"])) == (24, 6, 6)
    assert found["warning"].startswith("alpha 0.1 needs at least 9 held-out good images or areas, there are 6")

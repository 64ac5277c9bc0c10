"""The self-check: what it measures by hand, its search for sizes, tolerances, the warning, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawmap
from flawmap.commands.cli import main
from flawmap.core.runtime import Runtime
from flawmap.data.splits import Split
from flawmap.data.synthetic import good_images
from flawmap.evaluation import selfcheck
from flawmap.evaluation.pasting import good_part, score_part, turns
from flawmap.evaluation.selfcheck import SelfCheck, self_check
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact, save_artifact

SMALL: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"samples": 3000, "levels": [1, 2]},
    "tiling": {"stride": 24},
    "training": {"steps": 1},
    "evidence": {"enabled": True, "scales": [1.0]},
    "threshold": {"rule": "conformal", "alpha": 0.2},
    "split": {"validation": 0.4, "test": 0},
    "check": {"enabled": True},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A statistical model of cloth with a small self-check, beside its images."""
    folder = tmp_path_factory.mktemp("selfcheck")
    (folder / "good").mkdir()
    for number, image in enumerate(good_images("cloth", 14, (112, 96), 0)):
        write_image(folder / "good" / f"{number:02d}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KINDS", ("spot", "film")), ("CONTRASTS", (0.2, 0.05)), ("DEFECTS", 4)):
            patch.setattr(selfcheck, name, value)
        patch.setattr(selfcheck, "TOLERANCE_PARTS", 3)
        flawmap.train(folder / "good", folder / "m.flawmap", override(preset("fast", "gmm"), SMALL))
    return folder


def test_the_tables_lie_in_the_model(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind and contrast has a row, every change has one, and `info` and a picture show them."""
    check = load_artifact(trained / "m.flawmap").check
    assert check is not None
    assert [(row["kind"], row["contrast"]) for row in check["sizes"]] == [
        (kind, contrast) for kind in ("spot", "film") for contrast in (0.2, 0.05)
    ]
    for row in check["sizes"]:
        assert all(0 <= found <= of <= 4 for found, of in row["rates"].values())
        if row["smallest"] is not None:
            found, of = row["rates"][str(row["smallest"])]
            assert found >= 0.9 * of
    assert [row["change"] for row in check["tolerance"]][:3] == ["brighter", "darker", "shaded"]
    assert (trained / "m.check.png").stat().st_size > 10_000
    assert main(["info", str(trained / "m.flawmap")]) == 0
    said = capsys.readouterr().out
    assert "smallest size found at 90 %" in said
    assert "tolerated" in said
    assert main(["info", str(trained / "m.flawmap"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["check"] == check


def detector_of(trained: Path, threshold: float) -> tuple[Detector, Split]:
    artifact = load_artifact(trained / "m.flawmap")
    point = artifact.operating_point
    assert point is not None
    moved = replace(artifact, points={"default": point.at(threshold)})
    split = Split.from_dict(artifact.data["split"])
    held_out = tuple(replace(area, path=trained / "good" / area.path.name) for area in split.validation)
    return Detector.of(moved, Runtime("cpu", "float32")), Split((), held_out, ())


@pytest.mark.parametrize(("threshold", "smallest", "warned"), [(-1.0, 4, False), (1e6, None, True)])
def test_a_search_that_finds_everything_and_one_that_finds_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, threshold: float, smallest: int | None, warned: bool
) -> None:
    """It goes down to the least size where all are found, and up to the largest where none is, and says so."""
    for name, value in (("KINDS", ("spot",)), ("CONTRASTS", (0.2,)), ("DEFECTS", 2), ("CHANGES", ())):
        monkeypatch.setattr(selfcheck, name, value)
    detector, split = detector_of(trained, threshold)
    found: SelfCheck = self_check(detector, split.validation)
    (row,) = found.sizes
    assert row.smallest == smallest
    assert max(row.rates) == (16 if smallest else 64)
    assert min(row.rates) == (4 if smallest else 16)
    assert (found.warning is not None) == warned
    if found.warning:
        assert found.warning.startswith("this material hides much at this scale: at a contrast of 20% these are not")
        assert "try --set images.scale=0.5" in found.warning


def test_a_decision_that_rejects_everything_tolerates_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all good parts rejected the first step of each change ends it; with none of them nothing does."""
    for name, value in (("KINDS", ()), ("TOLERANCE_PARTS", 3)):
        monkeypatch.setattr(selfcheck, name, value)
    for threshold, tolerated in ((-1.0, False), (1e6, True)):
        detector, split = detector_of(trained, threshold)
        for row in self_check(detector, split.validation).tolerance:
            assert (row.last is not None) == tolerated
            assert len(row.rejected) == (4 if tolerated else 1)


@pytest.mark.parametrize("scale", [1.0, 0.4, (45, 38)])
def test_a_part_is_never_smaller_than_a_patch(trained: Path, scale: Any) -> None:
    """Whatever side is asked for, and at any scale: a smaller part could not be scored."""
    detector, split = detector_of(trained, 1.0)
    artifact = replace(detector.artifact, config=override(detector.config, {"images": {"scale": scale}}))
    small = Detector.of(artifact, Runtime("cpu", "float32"))
    for working in (False, True):
        for turn in turns(split.validation, 4):
            part = good_part(small, turn, 5, working=working)
            assert part is not None
            residual, _ = score_part(small, part, part.pixels)
            assert residual.shape == part.pixels.shape[:2]


def test_monitor_from_the_command_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Darker images raise an alarm and look darker; an unreadable one is listed; a bare model is refused."""
    (tmp_path / "dark").mkdir()
    for number, image in enumerate(good_images("cloth", 24, (112, 96), 9)):
        write_image(tmp_path / "dark" / f"{number:02d}.png", np.rint(0.5 * image[:, :, 0] * 255).astype(np.uint8))
    out, model = tmp_path / "out", str(tmp_path / "many.flawmap")
    artifact = load_artifact(trained / "m.flawmap")
    many = artifact.calibration | {"image_scores": np.linspace(0.1, 0.2, 60).tolist()}  # as after many good images
    save_artifact(replace(artifact, calibrations={"default": many}), Path(model))
    assert main(["monitor", model, str(tmp_path / "dark"), "-o", str(out), "--fail-on-drift"]) == 3
    assert re_search(capsys.readouterr().out, "looks like", "darker")
    report = json.loads((out / "monitor.json").read_text(encoding="utf-8"))
    assert (report["recent"], report["looks_like"], len(report["capital"])) == (24, "darker", 24)
    assert report["alarm"] is not None
    assert (out / "monitor.png").is_file()
    (tmp_path / "dark" / "99.png").write_text("no image")
    assert main(["monitor", model, str(tmp_path / "dark"), "-o", str(out), "--json"]) == 4
    assert len(json.loads(capsys.readouterr().out)["unreadable"]) == 1
    bare = replace(load_artifact(trained / "m.flawmap"), calibrations={})
    save_artifact(bare, tmp_path / "bare.flawmap")
    assert main(["monitor", str(tmp_path / "bare.flawmap"), str(trained / "good"), "-o", str(out)]) == 2
    assert "this model keeps no scores of good images; calibrate it first" in capsys.readouterr().err


def re_search(text: str, name: str, value: str) -> bool:
    """Whether a table has this value beside this name."""
    return any(line.split(name)[-1].strip() == value for line in text.splitlines() if name in line)

"""Candidates and trials: their order, what is left out, what a failure costs, and what a model keeps of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawmap
from flawmap.commands import trials
from flawmap.commands.cli import main
from flawmap.core.errors import TrainingError
from flawmap.core.events import Events
from flawmap.core.runtime import Runtime
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import ImageRegion, Split
from flawmap.data.synthetic import good_images
from flawmap.evaluation.calibration import calibrated
from flawmap.evaluation.choice import EQUAL, Trial, Worth, best_of, candidates_of
from flawmap.evaluation.evaluate import located
from flawmap.imaging.writing import write_image
from flawmap.methods import gradient
from flawmap.methods.config import Config
from flawmap.methods.interface import Method
from flawmap.methods.overrides import override, paced, parse, quicker_of, without_set
from flawmap.methods.presets import preset
from flawmap.methods.table import METHODS
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact

SMALL: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 6},
    "tiling": {"stride": 16},
    "training": {"steps": 4, "batch": 4, "device": "cpu", "precision": "float32", "corrupt": 0},
    "evidence": {"scales": [1.0]},
    "threshold": {"mask": "threshold"},
    "choice": {"share": 0.5},
    "check": {"enabled": False},
}


def config_of(*candidates: str, **changes: Any) -> Config:
    return override(override(override(preset("auto"), SMALL), {"choice": {"candidates": candidates}}), changes)


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("choice.PARTS", 4), ("evidence.PASTED_IMAGES", 2)):
        monkeypatch.setattr(f"flawmap.evaluation.{name}", value)
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    (tmp_path / "good").mkdir()
    for number, image in enumerate(good_images("cloth", 8, (80, 80), 0)):
        write_image(tmp_path / "good" / f"{number}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    return tmp_path / "good"


def trial(name: str, parts: list[float] | None, *, finished: bool = False) -> Trial:
    if parts is None:
        return Trial(name, None, 1.0, "no", finished)
    return Trial(name, Worth(0.5, 0.5, 0.5, dict(enumerate(parts))), 1.0, None, finished)


def test_a_later_candidate_wins_only_beyond_chance() -> None:
    """A gain at every defect wins; one at a single defect, or one below EQUAL, does not. Failures come last."""
    usual = [0.7, 0.8, 0.9, 0.6]
    better = [value + 2 * EQUAL for value in usual]
    hardly = [value + 0.5 * EQUAL for value in usual]
    lucky = [0.7, 0.8, 0.9, 0.95]
    assert best_of([trial("a", usual), trial("b", better)]) == ["b", "a"]
    assert best_of([trial("a", usual), trial("b", hardly)]) == ["a", "b"]
    assert best_of([trial("a", usual), trial("b", lucky)]) == ["a", "b"]
    assert best_of([trial("a", None), trial("b", usual), trial("c", None)]) == ["b", "a", "c"]
    assert best_of([trial("a", None), trial("b", None)]) == ["a", "b"]


def test_a_finished_candidate_needs_a_lead() -> None:
    """What no training improves is compared with what it will improve."""
    usual, ahead, far = ([value + gain for value in (0.5, 0.6, 0.7)] for gain in (0, 0.05, 0.2))
    assert best_of([trial("a", usual), trial("b", ahead, finished=True)])[0] == "a"
    assert best_of([trial("a", usual), trial("b", far, finished=True)])[0] == "b"


def test_a_trial_outlives_a_file() -> None:
    """Written and read again, a trial is the same."""
    for one in (trial("a", [0.25, 0.5]), trial("b", None, finished=True)):
        assert Trial.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_candidates_that_cannot_be_or_repeat_one_are_left_out() -> None:
    """A smaller scale needs two patches along each side; what a method lacks and what is the same is no candidate."""
    config = config_of("method.latent=6", "method.name=ssim", "images.scale=0.5", "method.name=gmm method.latent=3")
    assert list(candidates_of(config, (128, 200))) == ["method.latent=6", "images.scale=0.5"]
    assert list(candidates_of(config, (127, 200))) == ["method.latent=6"]
    assert candidates_of(config_of(), (64, 64)) == {"": config_of()}


def test_what_is_set_is_not_tried() -> None:
    """An option takes the candidates away that would change it; a list of candidates of one's own stays."""
    config = preset("auto")
    kept = without_set(config, [{"method": {"name": "l2"}}]).choice.candidates
    assert kept == ("method.latent=100", "images.scale=0.5")
    own = {"choice": {"candidates": ["method.name=l2"]}, "method": {"name": "ssim"}}
    assert without_set(override(config, own), [own]).choice.candidates == ("method.name=l2",)


def test_trials_are_kept_in_the_model(good: Path, tmp_path: Path) -> None:
    """Every candidate has its worth, the chosen one is trained, and nothing is left beside the model."""
    said: list[str] = []
    events = Events()
    events.message = said.append  # type: ignore[method-assign]
    config = config_of("method.name=ssim", "method.name=l2", "method.name=gmm method.samples=2000")
    report = flawmap.train(good, tmp_path / "m.flawmap", config, events=events)
    choice = load_artifact(tmp_path / "m.flawmap").provenance["choice"]
    assert [row["candidate"] for row in choice["trials"]] == list(config.choice.candidates)
    assert all(0 <= value <= 1 for row in choice["trials"] for value in row["worth"]["parts"].values())
    assert report.artifact.config.method.name == choice["chosen"].split()[0].removeprefix("method.name=")
    assert f"chosen by defects pasted into good images: {choice['chosen']}" in said
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) in (
        [".flawmap"],
        [".csv", ".flawmap", ".png"],
    )


def test_a_candidate_that_learns_nothing_costs_only_its_trial(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its problem is kept, and the next one is trained."""

    def stuck(*_: object) -> Any:
        raise TrainingError("nothing is learnt")

    monkeypatch.setitem(METHODS, "l2", Method(METHODS["l2"].settings, stuck, METHODS["l2"].scorer))
    report = flawmap.train(good, tmp_path / "m.flawmap", config_of("method.name=l2", "method.name=ssim"))
    first, second = report.artifact.provenance["choice"]["trials"]
    assert (first["worth"], first["problem"]) == (None, "nothing is learnt")
    assert second["problem"] is None
    assert report.artifact.config.method.name == "ssim"


def test_a_training_that_fails_after_its_trial_gives_way(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next candidate is trained instead: no training ends without a model while one of them can be trained."""
    fit = METHODS["ssim"].fit

    def late(config: Config, *rest: Any) -> Any:
        if config.training.steps == 4:
            raise TrainingError("the loss turned nan")
        return fit(config, *rest)

    monkeypatch.setitem(METHODS, "ssim", Method(METHODS["ssim"].settings, late, METHODS["ssim"].scorer))
    monkeypatch.setattr("flawmap.commands.trials.best_of", lambda trials: [one.candidate for one in trials])
    report = flawmap.train(good, tmp_path / "m.flawmap", config_of("method.name=ssim", "method.name=l2"))
    assert report.artifact.config.method.name == "l2"


def test_a_resumed_training_keeps_its_choice(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption the trials are not made again."""
    config = config_of("method.name=ssim", "method.name=l2", training={"checkpoint_minutes": 1e-9})
    place = tmp_path / "m.flawmap"
    real = gradient._row

    def interrupted(run: Any, *rest: Any) -> None:
        real(run, *rest)
        if run.steps == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(gradient, "_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        flawmap.train(good, place, config)
    record = json.loads((tmp_path / "m.choice.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(gradient, "_row", real)
    monkeypatch.setattr("flawmap.commands.trials.tried", None)
    report = flawmap.train(good, place, config, resume=True)
    assert report.artifact.provenance["choice"]["trials"] == record["trials"]
    assert not (tmp_path / "m.choice.json").exists()


def test_a_resumed_training_does_not_return_to_what_failed(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first candidate's long training fails, the second one's is interrupted: it goes on, from its checkpoint."""
    config = config_of("method.name=ssim", "method.name=l2", training={"checkpoint_minutes": 1e-9})
    place, tried = tmp_path / "m.flawmap", list[str]()
    fit = METHODS["ssim"].fit

    def late(config: Config, *rest: Any) -> Any:
        if config.training.steps == 4:
            tried.append("ssim")
            raise TrainingError("the loss turned nan")
        return fit(config, *rest)

    monkeypatch.setitem(METHODS, "ssim", Method(METHODS["ssim"].settings, late, METHODS["ssim"].scorer))
    monkeypatch.setattr("flawmap.commands.trials.best_of", lambda trials: [one.candidate for one in trials])
    real = gradient._row

    def interrupted(run: Any, *rest: Any) -> None:
        real(run, *rest)
        if run.steps == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gradient, "_row", interrupted)
        with pytest.raises(KeyboardInterrupt):
            flawmap.train(good, place, config)
    assert (tmp_path / "m.checkpoint").exists()
    report = flawmap.train(good, place, config, resume=True)
    assert tried == ["ssim"]
    assert report.artifact.config.method.name == "l2"
    assert report.artifact.provenance["choice"]["chosen"] == "method.name=l2"


def test_looks_compare_states_and_keep_the_last_of_equals(good: Path, tmp_path: Path) -> None:
    """States at even distances are judged, and which one was kept is told."""
    config = config_of(choice={"looks": 2, "candidates": []}, training={"steps": 40})
    report = flawmap.train(good, tmp_path / "m.flawmap", config)
    looks = report.artifact.provenance["choice"]["looks"]
    assert list(looks["worth"]) == ["20", "40"]
    assert looks["kept"] in (20, 40)


# ------------------------------------------------------------------------------------------------------------- strides


def worth_of(mean: float, au_pro: float, images: float) -> Worth:
    return Worth(mean, au_pro, images, {1: mean, 2: mean})


@pytest.mark.parametrize(
    ("worth", "kept"),
    [
        (worth_of(0.9, 0.8, 0.9), True),
        (worth_of(0.8975, 0.7925, 0.8925), True),
        (worth_of(0.896, 0.8, 0.9), False),
        (worth_of(0.9, 0.785, 0.9), False),
        (worth_of(0.9, 0.8, 0.885), False),
        (worth_of(0.95, 0.85, 0.95), True),
    ],
)
def test_a_worth_is_kept_where_every_measure_is(worth: Worth, kept: bool) -> None:
    """Up to 0.003 of the mean over defects, and 0.01 of AU-PRO and of the images' AUROC may be lost."""
    assert worth.keeps(worth_of(0.9, 0.8, 0.9)) == kept


def test_quicker_ways_are_wider_strides_that_can_be() -> None:
    """In their order, the settings last. Left out: no multiple of 16, beyond two thirds of a patch, no wider stride."""
    ways = ("tiling.stride=96", "tiling.stride=64 tiling.encoder=image", "tiling.stride=60 tiling.encoder=image")
    config = parse({"tiling": {"stride": 30}, "choice": {"quicker": (*ways, "tiling.stride=44", "tiling.stride=30")}})
    found = quicker_of(config)
    assert list(found) == [ways[1], "tiling.stride=44", ""]
    assert found[ways[1]].tiling == config.tiling.model_copy(update={"stride": 64, "encoder": "image"})
    assert found[""] is config


@pytest.mark.parametrize("lost", [0.0, 0.1])
def test_a_model_scores_quickly_where_that_costs_little(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: float
) -> None:
    """And keeps what each way was worth; evidence and threshold are those of the way that it keeps."""

    def judged(detector: Detector, training: Sequence[ImageRegion]) -> Worth:
        worth = 0.9 if detector.config.tiling.stride < 16 else 0.9 - lost
        return worth_of(worth, worth, worth)

    monkeypatch.setattr(trials, "judged", judged)
    way = "tiling.stride=16 tiling.encoder=image"
    config = config_of(
        tiling={"stride": 12},
        choice={"candidates": [], "quicker": [way, "tiling.stride=14"]},
        training={"steps": 10},
    )
    said: list[str] = []
    events = Events()
    events.message = said.append  # type: ignore[method-assign]
    report = flawmap.train(good, tmp_path / "m.flawmap", config, events=events)
    kept, stride = ("tiling.stride=14", 14) if lost else (way, 16)
    quicker = report.artifact.provenance["choice"]["quicker"]
    assert (quicker["kept"], report.artifact.config.tiling.stride) == (kept, stride)
    means = {"": 0.9, way: 0.9 - lost} | ({"tiling.stride=14": 0.9} if lost else {})
    assert {name: row["mean"] for name, row in quicker["worth"].items()} == means
    assert f"quicker scoring, by defects pasted into good images: {kept}" in said
    assert main(["info", str(tmp_path / "m.flawmap")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"quicker {kept}; pasted defects 0.9000 by the settings, " in shown
    assert f"{0.9 - lost:.4f} by {way}" in shown
    split, dataset = Split.from_dict(report.artifact.data["split"]), find_dataset(good)
    bare = Detector.of(replace(report.artifact, evidence=None, points={}), Runtime("cpu", "float32"))
    again = calibrated(bare, located(dataset, split.train), located(dataset, split.validation))
    assert again.artifact.points == report.artifact.points


def test_a_stride_of_ones_own_is_not_chosen() -> None:
    """Nor where the pace is named: `--fast` takes the quickest way, `--thorough` the settings as they are."""
    auto = preset("auto")
    change = {"tiling": {"stride": 48}}
    assert without_set(override(auto, change), [change]).choice.quicker == ()
    both = {"tiling": {"stride": 16}, "choice": {"quicker": ["tiling.stride=32"]}}
    assert without_set(override(auto, both), [both]).choice.quicker == ("tiling.stride=32",)
    for config, stride in ((auto, 84), (override(auto, {"model": {"patch": 64}}), 30)):
        quick, slow = paced(config, fast=True), paced(config, fast=False)
        assert (quick.tiling.stride, slow.tiling.stride) == (stride, 30)
        assert quick.choice.quicker == slow.choice.quicker == ()

"""`flawmap fleet`: many types, one folder, one table; failures are rows, and a second run does what is missing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from documented import fields_of
from flawmap.commands.cli import main
from flawmap.commands.outputs import SOME_FAILED
from flawmap.core.errors import ConfigError
from flawmap.core.events import Events

pytest.importorskip("ray.data", reason="needs the extra ray")

from flawmap.cluster.jobs import Resources, most_at_once, run_jobs
from flawmap.commands.fleet import fleet
from flawmap.commands.fleet_file import read_fleet
from flawmap.commands.fleet_steps import Work, note_failure, read_record
from flawmap.commands.train import train
from flawmap.core.runtime import Runtime
from flawmap.methods.overrides import override
from flawmap.reporting.fleets import fleet_page
from flawmap.reporting.pages import render
from flawmap.scoring.model_file import Artifact, load_artifact, model_sha256
from samples import write_cloth

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

TOML = """
[defaults]
preset = "fast"
model.patch = 32
method.latent = 8
tiling.stride = 16
training = { steps = 3, batch = 4, precision = "float32" }

[types.cloth]
data = "cloth"
good = "today"
inspect = ["cloth/test/good/*.png"]

[types.twill]
data = "twill"
test = "twill"
images.scale = 0.5
training.steps = 2

[types.gone]
data = "nowhere"
"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FLEET.toml and the images of two types; a third one's are missing."""
    folder = tmp_path_factory.mktemp("plant")
    for kind in ("cloth", "twill"):
        made = ["synth", str(folder / kind), "--kind", kind, "--good", "6", "--bad", "4", "--size", "96x80", "--quiet"]
        assert main(made) == 0
    write_cloth(folder / "today", 20, (96, 80), seed=7)
    (folder / "FLEET.toml").write_text(TOML, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(ray_started: None, plant: Path) -> Path:
    """The fleet's folder after `flawmap fleet train`."""
    arguments = ["fleet", "train", str(plant / "FLEET.toml"), "-o", str(plant / "fleet"), "--quiet"]
    assert main(arguments) == SOME_FAILED
    return plant / "fleet"


def by_itself(file: Path, name: str, model: Path) -> Artifact:
    """The model of a type that `train` makes without a fleet."""
    kind = read_fleet(file).types[name]
    return train(kind.data, model, override(kind.config, {"training": {"device": "cpu"}})).artifact


def same_weights(one: Artifact, other: Artifact) -> bool:
    return all(bool((other.weights[name] == tensor).all()) for name, tensor in one.weights.items())


def rows(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in table["types"]}


# -------------------------------------------------------------------------------------------------------------- steps


def test_training_leaves_models_and_a_table(trained: Path, plant: Path) -> None:
    """Two types have models by their own settings, the same as `train` makes; the third one's row says why not."""
    table = json.loads((trained / "fleet.json").read_text(encoding="utf-8"))
    assert set(table) == fields_of("flawmap.fleet/1")
    assert (table["step"], table["ran"], table["failed"]) == ("train", ["cloth", "gone", "twill"], ["gone"])
    found = rows(table)
    assert list(found) == ["cloth", "twill", "gone"]
    assert found["gone"]["train"]["error"] == f"no such folder: {plant / 'nowhere'}"
    assert found["gone"]["model"] is None
    assert set(found["twill"]["train"]) == fields_of("flawmap.job/1")
    assert found["twill"]["train"]["figures"]["steps"] == 2
    twill = load_artifact(trained / "twill.flawmap")
    assert twill.config.images.scale == 0.5
    alone = plant / "alone.flawmap"
    train(
        plant / "twill",
        alone,
        override(read_fleet(plant / "FLEET.toml").types["twill"].config, {"training": {"device": "cpu"}}),
    )
    other = load_artifact(alone)
    assert all((other.weights[name] == tensor).all() for name, tensor in twill.weights.items())
    assert not list(trained.glob("*.checkpoint"))


def test_what_was_trained_is_not_trained_again(trained: Path, plant: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same call says so; with other settings a type is trained anew, with other images too."""
    before = model_sha256(trained / "cloth.flawmap")
    call = ["fleet", "train", str(plant / "FLEET.toml"), "-o", str(trained), "--types", "cloth"]
    assert main(call) == 0
    said = capsys.readouterr()
    assert "cloth was trained before, with the same images and settings" in said.err.splitlines()
    assert said.out.splitlines()[-1] == f"train: 1 of 1 types done; look at {trained / 'fleet.html'}"
    assert model_sha256(trained / "cloth.flawmap") == before
    kind = read_fleet(plant / "FLEET.toml").types["cloth"]
    record = read_record(trained, "cloth", "train")
    assert record is not None
    assert Work("train", kind, trained, Resources())() == (record, True)
    changed = Work(
        "train", read_fleet(changed_fleet(plant, "steps = 3", "steps = 4")).types["cloth"], trained, Resources()
    )
    again, kept = changed()
    assert (kept, again["figures"]["steps"]) == (False, 4)
    assert again["asked"]["settings"] != record["asked"]["settings"]
    assert again["asked"]["images"] == record["asked"]["images"]
    assert Work("train", kind, trained, Resources())()[1] is False, "back to the settings of the file"


def changed_fleet(plant: Path, old: str, new: str) -> Path:
    """A copy of the fleet's file beside it with a change."""
    place = plant / "CHANGED.toml"
    text = (plant / "FLEET.toml").read_text(encoding="utf-8")
    assert old in text
    place.write_text(text.replace(old, new), encoding="utf-8")
    return place


def test_every_step(trained: Path, plant: Path) -> None:
    """Calibrated, evaluated and inspected: figures as of the single commands, kept until the model changes."""
    table = fleet("calibrate", plant / "FLEET.toml", trained, only=["cloth", "twill"])
    assert table["failed"] == ["twill"]
    found = rows(table)
    missing = "it needs good, a folder of good images that the model was not trained on"
    assert found["twill"]["calibrate"]["error"] == missing
    point = load_artifact(trained / "cloth.flawmap").operating_point
    assert point is not None
    assert found["cloth"]["calibrate"]["figures"] == {"threshold": point.threshold, "found": point.found}
    assert point.found["rule"] == "conformal"

    table = fleet("evaluate", plant / "FLEET.toml", trained, only=["cloth", "twill"])
    assert table["failed"] == []
    figures = rows(table)["cloth"]["evaluate"]["figures"]
    metrics = json.loads((trained / "cloth" / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert (figures["pixel_auroc"], figures["found"]) == (metrics["pixel"]["auroc"], metrics["decision"]["found"])
    assert rows(table)["twill"]["train"]["figures"]["steps"] == 2, "what earlier runs found stays"
    kinds = read_fleet(plant / "FLEET.toml").types
    assert Work("evaluate", kinds["cloth"], trained, Resources())()[1] is True

    record, kept = Work("inspect", kinds["cloth"], trained, Resources())()
    assert not kept
    assert record["figures"]["images"] == 1
    assert (trained / record["figures"]["report"]).is_file()

    assert Work("calibrate", kinds["cloth"], trained, Resources())()[1] is True
    assert load_artifact(trained / "cloth.flawmap").operating_point == point

    Work("train", read_fleet(changed_fleet(plant, "steps = 3", "steps = 1")).types["cloth"], trained, Resources())()
    assert Work("evaluate", kinds["cloth"], trained, Resources())()[1] is False, "another model"
    assert Work("train", kinds["cloth"], trained, Resources())()[1] is False
    table = fleet("inspect", plant / "FLEET.toml", trained, only=["cloth"])
    assert rows(table)["cloth"]["stale"] == ["calibrate", "evaluate"]
    assert "evaluate: of an earlier model" in (trained / "fleet.html").read_text(encoding="utf-8")


def test_an_interrupted_training_goes_on(ray_started: None, plant: Path, tmp_path: Path) -> None:
    """Ctrl-C leaves a checkpoint; the same call ends with the model that an undisturbed training makes."""
    file = changed_fleet(plant, "steps = 3,", "steps = 200, checkpoint_minutes = 1e-6,")
    checkpoint = tmp_path / "cloth.checkpoint"
    said: list[str] = []

    class Pressed(Events):
        def message(self, text: str) -> None:
            said.append(text)

        def progress(self, done: int, total: int, what: str) -> None:
            for _ in range(6000):
                if checkpoint.exists():
                    raise KeyboardInterrupt
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        fleet("train", file, tmp_path, only=["cloth"], events=Pressed())
    assert said == ["0 of 1 types have ended; the same command goes on with the others"]
    assert checkpoint.is_file()
    assert not (tmp_path / "cloth.flawmap").exists()
    table = fleet("train", file, tmp_path, only=["cloth"])
    assert (table["failed"], rows(table)["cloth"]["train"]["figures"]["steps"]) == ([], 200)
    whole = by_itself(file, "cloth", tmp_path / "whole.flawmap")
    assert same_weights(load_artifact(tmp_path / "cloth.flawmap"), whole)


def test_a_fleet_without_models(trained: Path, plant: Path, tmp_path: Path) -> None:
    """What comes after a training says what to do first; one process writes to a folder."""
    table = fleet("evaluate", plant / "FLEET.toml", tmp_path, only=["cloth"])
    error = f"there is no model {tmp_path / 'cloth.flawmap'}; run `flawmap fleet train` first"
    assert rows(table)["cloth"]["evaluate"]["error"] == error
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError) as refused:
        fleet("evaluate", plant / "FLEET.toml", tmp_path)
    assert str(refused.value) == f"another fleet is at work in {tmp_path}; name another folder with -o"
    with pytest.raises(ConfigError) as refused:
        fleet("evaluate", plant / "FLEET.toml", tmp_path, only=["clot"])
    assert str(refused.value) == "no type clot in the fleet; it has cloth, twill, gone"


def test_a_failure_keeps_what_was_found(tmp_path: Path) -> None:
    """The reason joins the record of an earlier success."""
    place = tmp_path / "cloth" / "train.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"figures": {"images": 7}, "asked": {"images": "x"}, "error": None}), encoding="utf-8")
    record = note_failure(tmp_path, "cloth", "train", "no room")
    assert (record["figures"], record["asked"], record["error"]) == ({"images": 7}, {"images": "x"}, "no room")
    assert read_record(tmp_path, "cloth", "train") == record
    assert set(note_failure(tmp_path, "twill", "train", "no room")) == fields_of("flawmap.job/1")


def test_the_page() -> None:
    """Errors are escaped, missing figures have their reasons, and what nobody did has no column."""
    figures = {"report": "cloth/evaluation/report.html", "undefined": {"image_auroc": "no good images"}}
    evaluated = {"error": None, "figures": {"found": None, "rejected": None, **figures}}
    failed = {"error": "<script>alert(1)</script>", "figures": None}
    row = {"name": "cloth", "model": None, "train": failed, "calibrate": None, "evaluate": evaluated, "inspect": None}
    table = {"schema": "s", "step": "train", "ran": ["cloth"], "failed": ["cloth"], "types": [{**row, "stale": []}]}
    text = render(fleet_page(table))
    assert "train: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert 'href="cloth/evaluation/report.html"' in text
    assert "– not done yet; no good images</p>" in text
    assert "inspection" not in text


def test_the_service_takes_the_folder(trained: Path, tmp_path: Path) -> None:
    """Each model by its type's name; a folder without models is an error."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from fastapi.testclient import TestClient

    from flawmap.service.api import application
    from flawmap.service.inspector import loaded_models
    from flawmap.service.state import Service
    from flawmap.service.store import Store

    models = loaded_models([trained], Runtime("cpu", "float32"))
    with TestClient(application(Service.of(models, Store(tmp_path / "s"))), base_url="http://localhost") as client:
        assert [card["name"] for card in client.get("/v1/models").json()] == ["cloth", "twill"]
    with pytest.raises(ConfigError) as error:
        loaded_models([tmp_path], Runtime())
    assert str(error.value) == (
        f"no .flawmap file in the folder {tmp_path}; name model files, or a folder that holds some"
    )


# --------------------------------------------------------------------------------------------------------------- jobs


def test_jobs_fail_by_themselves(ray_started: None) -> None:
    """Errors of flawmap's, of others' and lost processes are outcomes; a lost job is begun once more."""

    def refuse() -> int:
        raise ConfigError("no such setting")

    def fall() -> int:
        raise RuntimeError("the roof fell in")

    def vanish() -> int:
        os._exit(1)

    def threads() -> int:
        import torch

        return torch.get_num_threads()

    begun: list[str] = []
    work = {"refuse": refuse, "fall": fall, "vanish": vanish, "threads": threads}
    outcomes = {one.name: one for one in run_jobs(work, Resources(), on_begin=begun.append)}
    assert (outcomes["refuse"].error, outcomes["fall"].error) == ("no such setting", "RuntimeError: the roof fell in")
    assert (outcomes["threads"].result, outcomes["threads"].error) == (1, None)
    assert str(outcomes["vanish"].error).startswith("its process was lost twice: ")
    assert sorted(begun) == ["fall", "refuse", "threads", "vanish", "vanish"]


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many jobs as the scarcer of CPUs and GPUs allows on the largest machine; none is an error."""
    machines = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": has} for has in machines])
    rooms = {Resources(1): 8, Resources(3): 2, Resources(1, 0.25): 8, Resources(1, 0.5): 4, Resources(2, 2): 1}
    assert {each: most_at_once(each) for each in rooms} == rooms
    with pytest.raises(ConfigError) as error:
        most_at_once(Resources(9, 0.5))
    assert str(error.value) == (
        "a job asks for 9 CPUs and 0.5 GPUs, which no machine of the cluster has (at most 8 and 2); ask for less"
    )


# ---------------------------------------------------------------------------------------------------- the fleet's file


def test_a_fleet_file(tmp_path: Path) -> None:
    """Paths are relative to it; defaults, then a type's own settings; what is set is not tried."""
    text = """
        [defaults]
        images.mode = "grey"
        images.roi.masks = "regions"
        [resources]
        cpus = 2
        gpus = 0.5
        [types."織物"]
        data = "a"
        inspect = "line/*.png"
        method.name = "l2"
        [types.b]
        data = "/images/b"
        preset = "paper"
        images.mode = "colour"
    """
    (tmp_path / "f.toml").write_text(text, encoding="utf-8")
    found = read_fleet(tmp_path / "f.toml")
    assert found.resources == Resources(2, 0.5)
    first, second = found.types.values()
    assert (first.name, first.data, first.test, first.good) == ("織物", tmp_path / "a", tmp_path / "a", None)
    assert first.inspect == (str(tmp_path / "line/*.png"),)
    assert (first.config.images.mode, first.config.method.name) == ("grey", "l2")
    assert first.config.images.roi.masks == tmp_path / "regions"
    assert first.config.choice.candidates == ("method.latent=100", "images.scale=0.5"), "another method is not tried"
    assert (second.data, second.config.images.mode, second.config.training.epochs) == (Path("/images/b"), "colour", 200)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{file}: it has no types; give each one a table [types.NAME] with the key data"),
        ("types = 3", "{file}: types must be a table, got 3"),
        ("[type.a]\ndata = 'x'", "{file}: unknown key type; did you mean types?"),
        ("[defaults]\ndata = 'x'\n[types.a]\ndata = 'x'", "{file}: unknown key data; "),
        ("[resources]\ncpus = 0.5\n[types.a]", "{file}: resources.cpus must be a whole number of at least 1, got 0.5"),
        (
            "[resources]\ngpus = 1.5\n[types.a]",
            "{file}: resources.gpus must be a fraction of a GPU or a whole number, got 1.5",
        ),
        (
            "[types.\"../a\"]\ndata = 'x'",
            "{file}: a type's name has up to 50 letters, digits, _ and -, got '../a'; it names files",
        ),
        (
            "[types.a]\n[types.A]",
            "{file}: the types a and A differ in capitals alone, which not all file systems keep",
        ),
        (
            "[types.a]",
            '{file}, type a: it needs data, the folder of its good images or its data set, such as data = "cloth"',
        ),
        ("[types.a]\ndata = 3", "{file}, type a: data must be a path in quotes, got 3"),
        ("[types.a]\ndata = 'x'\ntset = 'x'", "{file}, type a: unknown key tset; did you mean test?"),
        ("[types.a]\ndata = 'x'\ninspect = [3]", "{file}, type a: inspect must be a path or a list of paths, got [3]"),
        (
            "[types.a]\ndata = 'x'\npreset = 'slow'",
            "{file}, type a: preset must be one of paper, fast, auto, got 'slow'",
        ),
        (
            "[types.a]\ndata = 'x'\ntraining.btach = 3",
            "{file}, type a: unknown setting training.btach; did you mean training.batch?",
        ),
        ("[types.a\n", "{file} is not TOML: "),
    ],
)
def test_mistakes_in_a_fleet_file(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file, the type, and what to do."""
    file = tmp_path / "f.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_fleet(file)
    expected = message.replace("{file}", str(file))
    assert str(error.value).startswith(expected) if expected.endswith(" ") else str(error.value) == expected


def test_no_fleet_file(tmp_path: Path) -> None:
    """The message says where one is shown."""
    with pytest.raises(ConfigError) as error:
        read_fleet(tmp_path / "f.toml")
    assert str(error.value) == f"no fleet file {tmp_path / 'f.toml'}; docs/scale.md shows one"

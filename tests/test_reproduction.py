"""`flawmap reproduce`: the plan, the records, what goes on and what is not done twice."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import flawmap
from flawmap.commands.cli import main
from flawmap.core.errors import ConfigError, InputError, TrainingError
from flawmap.core.events import Events
from flawmap.core.runtime import Runtime
from flawmap.core.settings import PATCH_SIDES, Preset
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.calibration import border_from_good
from flawmap.evaluation.evaluate import evaluate, located, unseen_samples
from flawmap.evaluation.histograms import ScoreHistogram
from flawmap.methods.overrides import override
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact
from flawmap.scoring.pipeline import smoothed
from flawmap.scoring.tiling import Grid
from paper import claims as paper_claims
from paper import figure2, figure3, runs, timing
from paper import reproduce as reproduction
from paper.page import Publication, markdown
from paper.plan import (
    ALL,
    EXPERIMENTS,
    LONG_STEPS,
    METHODS,
    OWN,
    STEPS_A_MINUTE,
    Budget,
    ExperimentRequest,
    RunSpec,
    config_of,
    pictured,
    scorings,
    series_of,
    trainings,
    usual_budget,
)
from paper.records import Record, read_record
from paper.reproduce import all_records, reproduce
from paper.sets import SETS, DataSet, chosen_sets

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"batch": 4, "precision": "float32"},
}
RECORD_KEYS = {
    *("schema", "name", "set", "title", "method", "seed", "changes", "command", "preset", "date", "machine"),
    *("versions", "training", "settings", "seconds_per_image", "features", "scorings"),
}
TRAINING_KEYS = {
    "steps",
    "patches",
    "seconds",
    "patches_per_second",
    "loss",
    "validation_loss",
    "constant_loss",
    "history",
}
SCORING_KEYS = {"changes", "threshold", "metrics", "metrics_with_good", "intervals", "roc", "overlap", "histogram"}
METRICS = {"auroc", "average_precision", "f1_max", "au_pro_30", "au_pro_05", "images", "image_auroc"}


# -------------------------------------------------------------------------------------------------------------- plan


def test_the_plan_has_no_repeats() -> None:
    """Names are unique, `all` is the union of the experiments, and no two of its trainings have the same settings."""
    everything = trainings(ALL)
    names = [training.name for training in everything]
    assert len(set(names)) == len(names) == 4 * 4 + 2 + (5 + 5 + 3 - 2) + 4 + 2
    parts = {training.name for experiment in OWN for training in trainings(experiment)}
    assert parts == set(names)
    settings = [config_of(training, "fast", Budget(steps=1)).model_dump_json() for training in everything]
    assert len(set(zip(settings, (t.dataset.key for t in everything), strict=True))) == len(everything)


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("figure1", 2),
        ("figure2", 0),
        ("figure3", 0),
        ("figure5", 4),
        ("figure6", 18),
        ("figure7", 6),
        ("table2", 11),
        ("ours", 6),
    ],
)
def test_what_an_experiment_needs(what: str, count: int) -> None:
    """Each experiment's number of trainings, and figures 6 and 7 share the ones on NanoTWICE."""
    assert len(trainings(what)) == count


def test_sets_methods_and_seeds_narrow_the_plan() -> None:
    """Only what was asked for is planned."""
    chosen = trainings(ALL, sets=chosen_sets(["grid", "nanotwice"]), methods=("ssim",), seeds=1)
    assert [training.name for training in chosen if series_of(training.name) == "figures"] == [
        "nanotwice-ssim-seed0",
        "grid-ssim-seed0",
    ]
    assert len(trainings("figure6", seeds=5)) == 18 + 2


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("training", trainings(ALL), ids=lambda training: training.name)
def test_every_training_has_settings(training: RunSpec, preset: Any) -> None:
    """The settings parse, hold what the plan says, and patches of every side overlap."""
    config = config_of(training, preset)
    assert (config.method.name, config.training.seed) == (training.method, training.seed)
    assert config.tiling.stride <= config.model.patch in PATCH_SIDES
    budget = {name: getattr(config.training, name) for name in ("minutes", "steps", "epochs")}
    assert {name: value for name, value in budget.items() if value is not None} == usual_budget(
        training, preset
    ).changes
    if not training.cell:
        assert config.method.latent == (500 if training.dataset.key == "nanotwice" else 100)
        assert (config.model.patch, config.tiling.stride) == (128, 30)
    else:
        assert config.method.ssim.size == config.residual.ssim.size


def test_the_sets_are_worked_as_they_should_be() -> None:
    """The grid at half its size, the fabrics inside their selvages, and good images kept for the test."""
    by_key = {dataset.key: config_of(RunSpec("x", dataset, "ssim", 0), "fast") for dataset in SETS}
    assert (by_key["grid"].images.scale, by_key["grid"].split.last) == (0.5, 60)
    assert [by_key[key].images.roi.box for key in ("fabric03", "fabric04")] == [
        (1280, 0, 4050, 256),
        (640, 0, 4050, 256),
    ]
    assert [dataset.key for dataset in SETS][-1] == "fabric04"


def test_table_2_varies_one_setting_at_a_time() -> None:
    """Five latent dimensions, five windows and three patch sides around one optimum, which is trained once."""
    cells = [
        (config.method.latent, config.method.ssim.size, config.model.patch)
        for config in (config_of(training, "fast") for training in trainings("table2"))
    ]
    assert len(set(cells)) == len(cells)
    assert {cell[0] for cell in cells} == {50, 100, 200, 500, 1000}
    assert {cell[1] for cell in cells} == {3, 7, 11, 15, 19}
    assert {cell[2] for cell in cells} == {32, 64, 128}
    assert all(sum(a != b for a, b in zip(cell, (500, 11, 128), strict=True)) <= 1 for cell in cells)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: trainings("figure4"), "there is no experiment 'figure4'; the experiments are figure1, figure2, "),
        (lambda: trainings(ALL, methods=("gan",)), "there is no method 'gan'; the methods are l2, vae, fm, ssim"),
        (lambda: trainings(ALL, seeds=0), "seeds counts how often SSIM is trained and must be at least 1, got 0"),
        (lambda: chosen_sets(["grit"]), "there is no set 'grit'; the sets are nanotwice, grid, fabric03, fabric04"),
        (
            lambda: Budget(minutes=1, steps=2),
            "a budget is given in one way, got minutes and steps; keep one of them",
        ),
        (
            lambda: ExperimentRequest(what="all", jobs=0),
            "jobs counts the trainings at once and must be at least 1, got 0",
        ),
    ],
)
def test_nonsense_is_refused(work: Callable[[], object], message: str) -> None:
    """What is not there is named, beside what is."""
    with pytest.raises(ConfigError) as caught:
        work()
    assert str(caught.value).startswith(message)


# ------------------------------------------------------------------------------------------------------------ records


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets: cloth, and a folder without a readable image."""
    folder = tmp_path_factory.mktemp("reproduction") / "data"
    flawmap.synth(folder / "cloth", "cloth", good=6, bad=3, size=(64, 48), seed=1)
    (folder / "broken" / "train" / "good").mkdir(parents=True)
    (folder / "broken" / "train" / "good" / "0.png").write_text("no image")
    return folder


SCORING = {"ssim": {"size": 9}, "smoothing": 3, "border_correction": True}  # as the real sets have it
CLOTH = DataSet("nanotwice", "cloth", "Cloth", {"split": {"last": 1}}, SCORING)
BROKEN = DataSet("grid", "broken", "Nothing", {})
ABSENT = DataSet("fabric03", "absent", "Not there", {})


def request(what: str = "figure1", **changes: Any) -> ExperimentRequest:
    plain = ExperimentRequest(
        what=what, budget=Budget(steps=3), table=(CLOTH,), settings=TINY, runtime=Runtime("cpu", "float32"), seeds=1
    )
    return replace(plain, **changes)


class Heard(Events):
    """Keeps messages and steps; interrupts a training at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.messages: list[str] = []
        self.steps: list[int] = []
        self._stop_at = stop_at

    def message(self, text: str) -> None:
        self.messages.append(text)

    def training(self, progress: Any, name: str = "training") -> None:
        self.steps.append(progress.row.step)
        if progress.row.step == self._stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings and page without pictures, which take their time."""
    monkeypatch.setattr(reproduction, "_drawings", lambda *_: {})


@pytest.fixture(scope="module")
def made(data: Path) -> tuple[Path, dict[str, Any]]:
    """Figure 1 of the cloth, made once, l2 and SSIM."""
    out = data.parent / "out"
    return out, reproduce(request(), data, out)


def test_a_record_has_the_schemas_keys(made: tuple[Path, dict[str, Any]]) -> None:
    """Exactly these keys, whoever reads them, and no list longer than promised."""
    out, result = made
    assert result["failed"] == []
    assert set(result["pictures"]) == {"figure1"}
    assert Path(result["page"]).is_file()
    assert sorted(path.name for path in (out / "records").iterdir()) == [
        "nanotwice-l2-seed0.json",
        "nanotwice-ssim-seed0.json",
    ]
    for record in all_records(out):
        assert set(record) == RECORD_KEYS
        assert set(record["training"]) == TRAINING_KEYS
        assert record["training"]["history"][-1][0] == record["training"]["steps"] == 3
        assert set(record["seconds_per_image"]) == {"median", "least", "images"}
        assert list(record["scorings"]) == ["faithful", "smoothed"]
        for scoring in record["scorings"].values():
            assert set(scoring) == SCORING_KEYS
            assert set(scoring["metrics"]) == set(scoring["metrics_with_good"]) == METRICS
            assert (scoring["metrics"]["images"], scoring["metrics_with_good"]["images"]) == (3, 3 + 2)
            assert len(scoring["roc"]["x"]) == len(scoring["roc"]["y"]) <= 200
            assert 0.05 in scoring["overlap"]["rates"]
            assert {len(values) for values in scoring["overlap"].values()} == {len(runs.RATES)}
            bins = scoring["histogram"]
            assert len(bins["edges"]) - 1 == len(bins["good"]) == len(bins["defective"]) <= 512
            assert sum(bins["good"]) + sum(bins["defective"]) == 3 * 64 * 48
            low, high = scoring["intervals"]["auroc"]
            assert low <= high
            assert str(out) not in json.dumps(record), "folders are nobody's business"


@pytest.mark.parametrize("method", ["l2", "ssim"])
def test_figures_are_those_of_evaluate(made: tuple[Path, dict[str, Any]], data: Path, method: str) -> None:
    """A record's figures are those that `flawmap evaluate` finds with the same model, for each way of scoring."""
    out, _ = made
    record = read_record(out / "records" / f"nanotwice-{method}-seed0.json")
    artifact = load_artifact(out / "models" / f"nanotwice-{method}-seed0.flawmap")
    dataset = find_dataset(data / "cloth")
    split = Split.from_dict(artifact.provenance["data"]["split"])
    samples = unseen_samples(dataset, split)
    (training,) = (row for row in request("figure6").trainings() if row.name == record["name"])
    for name, changes in scorings(training).items():
        config = override(artifact.config, changes)
        detector = Detector.of(replace(artifact, config=config), Runtime("cpu", "float32"))
        if config.residual.border_correction:
            border = border_from_good(detector, located(dataset, split.train))
            detector = replace(detector, artifact=detector.artifact.with_border(border))
        found, scoring = evaluate(detector, samples).to_dict(), record["scorings"][name]
        for key in METRICS - {"image_auroc"}:
            assert scoring["metrics"][key] == found["pixel_defective_images"][key]
            assert scoring["metrics_with_good"][key] == found["pixel"][key]
        assert scoring["metrics"]["image_auroc"] == found["image"]["auroc"]
        at_5 = found["pixel_defective_images"]["overlap_at_5"]
        place = scoring["overlap"]["rates"].index(0.05)
        assert scoring["overlap"]["q50"][place] == pytest.approx(at_5["q50"], rel=1e-5)
    assert record["scorings"]["faithful"]["threshold"] == artifact.threshold
    assert record["scorings"]["smoothed"]["threshold"] != artifact.threshold
    assert record["scorings"]["smoothed"]["metrics"] != record["scorings"]["faithful"]["metrics"]


@pytest.mark.usefixtures("undrawn")
def test_what_is_done_is_not_done_again(
    made: tuple[Path, dict[str, Any]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call trains and scores nothing, and leaves the records as they are."""
    out, first = made
    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained or scored again")

    monkeypatch.setattr(runs, "train", fail)
    monkeypatch.setattr(runs, "record_of", fail)
    again = reproduce(request(), data, out)
    assert again["failed"] == []
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before
    assert [row["state"] for row in again["plan"]] == ["done", "done"]
    assert again["trainings"] == first["trainings"]


@pytest.mark.usefixtures("undrawn")
def test_other_settings_do_not_take_over_a_record(made: tuple[Path, dict[str, Any]], data: Path) -> None:
    """A folder made with one budget is not taken for another; what computes it may differ."""
    out, _ = made
    result = reproduce(request(budget=Budget(steps=4)), data, out)
    assert [failure["name"] for failure in result["failed"]] == ["nanotwice-l2-seed0", "nanotwice-ssim-seed0"]
    assert result["failed"][0]["error"] == (
        f"{out / 'records' / 'nanotwice-l2-seed0.json'} was made with other settings (preset, budget or data set) than "
        "are asked for; name another folder with -o, or remove it to make it anew"
    )
    assert reproduce(request(runtime=Runtime("cpu", "bfloat16")), data, out)["failed"] == []


def test_a_model_without_its_record_is_scored(
    made: tuple[Path, dict[str, Any]], data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopped between training and record: the model is scored, not trained again, with the same figures."""
    out, _ = made
    (tmp_path / "models").mkdir()
    for path in (out / "models").iterdir():
        (tmp_path / "models" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    training = trainings("figure1", sets=(CLOTH,))[0]
    record = runs.perform(training, runs.RunContext(request(), data, tmp_path))
    kept = read_record(out / "records" / f"{training.name}.json")
    assert (record["scorings"], record["training"]) == (kept["scorings"], kept["training"])


def test_a_stopped_training_goes_on(data: Path, tmp_path: Path) -> None:
    """Interrupted after 40 steps, a training goes on there and not from the start."""
    often = {**TINY, "training": {**TINY["training"], "checkpoint_minutes": 1e-9}}
    context = runs.RunContext(request(settings=often, budget=Budget(steps=60)), data, tmp_path)
    training = RunSpec("nanotwice-l2-seed0", CLOTH, "l2", 0)
    first, second = Heard(stop_at=40), Heard()
    with pytest.raises(KeyboardInterrupt):
        runs.perform(training, context, events=first)
    assert not context.record(training).exists()
    runs.perform(training, context, events=second)
    assert first.steps == [20, 40]
    assert second.steps == [60]


@pytest.mark.usefixtures("undrawn")
def test_a_failing_training_loses_nothing_of_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreadable images, a loss that goes nowhere, a fault of ours: each is reported, and the rest is done."""
    plain = flawmap.train

    def train(path: Path, model: Path, *rest: Any, **named: Any) -> Any:
        if "l2" in model.name:
            raise TrainingError("the loss turned nan")
        if "vae" in model.name:
            raise RuntimeError("the roof fell in")
        return plain(path, model, *rest, **named)

    monkeypatch.setattr(runs, "train", train)
    asked = request("figure6", table=(CLOTH, BROKEN, ABSENT), methods=("l2", "vae", "ssim"))
    heard = Heard()
    result = reproduce(asked, data, tmp_path, events=heard)
    failures = {failure["name"]: failure["error"] for failure in result["failed"]}
    assert failures["nanotwice-l2-seed0"] == "the loss turned nan"
    assert failures["nanotwice-vae-seed0"] == "RuntimeError: the roof fell in"
    assert "0.png" in failures["grid-ssim-seed0"]
    assert set(failures) == {f"{name}-seed0" for name in ("nanotwice-l2", "nanotwice-vae", "grid-ssim")} | {
        "grid-l2-seed0",
        "grid-vae-seed0",
    }
    assert [record["name"] for record in all_records(tmp_path)] == ["nanotwice-ssim-seed0"]
    states = {row["name"]: row["state"] for row in result["plan"]}
    assert (states["nanotwice-ssim-seed0"], states["fabric03-ssim-seed0"]) == ("done", "no data")
    assert any(line.startswith("nanotwice-l2-seed0 failed: the loss turned nan") for line in heard.messages)


def test_no_data_at_all(tmp_path: Path) -> None:
    """Nothing is written where there is nothing to train on."""
    with pytest.raises(InputError) as caught:
        reproduce(request(), tmp_path / "data", tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path / 'data'} holds none of the data sets' folders, which are cloth; name their folder with --data"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("undrawn")
def test_models_are_kept_where_pictures_need_them(data: Path, tmp_path: Path) -> None:
    """Without --keep-models a further seed's weights go once its record is written; those of figure 1 stay."""
    asked = request("figure6", methods=("ssim",), seeds=2)
    reproduce(asked, data, tmp_path)
    assert [path.name for path in (tmp_path / "models").glob("*.flawmap")] == ["nanotwice-ssim-seed0.flawmap"]
    assert len(all_records(tmp_path)) == 2
    assert [pictured(training) for training in asked.trainings()] == [True, False]


def test_several_at_once(
    made: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool of workers gives the records that one process gives, and what goes to it can be sent to a process."""
    asked = request("figure7", jobs=2, methods=("l2", "ssim"), budget=Budget(steps=3))
    rows = asked.trainings()
    context = runs.RunContext(asked, data, tmp_path)
    assert pickle.loads(pickle.dumps((rows, context))) == (rows, context)
    asked_of: list[int] = []

    def pool(
        workers: int, context: object, initializer: object, arguments: tuple[int], *, max_tasks_per_child: int
    ) -> ThreadPoolExecutor:
        asked_of.append(workers)
        assert max_tasks_per_child == 1  # so that each record says what its own training had in memory
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(reproduction, "ProcessPoolExecutor", pool)
    results = list(reproduction.perform_all(rows, context, 2))
    assert asked_of == [2]
    assert {result.training.name: result.error for result in results} == dict.fromkeys(row.name for row in rows)
    alone = {record["name"]: record["scorings"] for record in all_records(made[0])}
    assert {record["name"]: record["scorings"] for record in all_records(tmp_path)} == alone


def test_large_maps_are_smoothed() -> None:
    """A map too large to be blurred by one matrix is smoothed like a Gaussian filter that mirrors at its border."""
    residual = np.random.default_rng(0).random((300, 700), dtype=np.float32)
    found = smoothed(torch.from_numpy(residual), 8.0).numpy()
    expected = gaussian_filter(residual.astype(np.float64), 8.0, mode="mirror", truncate=3.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ figures


def test_the_histogram_loses_no_pixel() -> None:
    """Counts add up, in bins of one width that reach from the least score to the largest."""
    scores = np.random.default_rng(0).gamma(2, 0.1, 5000).astype(np.float32)
    flawed = scores > 0.4
    found = runs.histogram_of(ScoreHistogram.of(scores, flawed))
    assert found is not None
    assert (sum(found["good"]), sum(found["defective"])) == (int((~flawed).sum()), int(flawed.sum()))
    assert np.ptp(np.diff(found["edges"])) < 1e-4
    assert found["edges"][0] == pytest.approx(scores.min(), rel=1e-3)
    assert found["edges"][-1] == pytest.approx(scores.max(), rel=1e-3)
    assert runs.histogram_of(ScoreHistogram.empty()) is None


@pytest.mark.parametrize(("rows", "every"), [(5, 2), (1000, 10), (1000, 500)])
def test_the_history_is_thinned(tmp_path: Path, rows: int, every: int) -> None:
    """At most 100 rows, the last one among them; with many validation losses those rows are the ones kept."""
    lines = ["step,loss,validation,rate,seconds"]
    lines += [f"{n},{1 / n},{0.5 if n % every == 0 else ''},0.1,1" for n in range(1, rows + 1)]
    (tmp_path / "m.history.csv").write_text("\n".join(lines) + "\n")
    found = runs.history_of(tmp_path / "m.flawmap")
    assert len(found) == min(100, rows)
    assert found[-1][:2] == [rows, 1 / rows]
    assert (all(row[2] == 0.5 for row in found)) == (every == 10)
    assert runs.history_of(tmp_path / "other.flawmap") == []


def test_timing() -> None:
    """Every duration is there and positive, and the whole image takes longer than the opening alone."""
    config = timing.settings("fast", latent=8, patch=32)
    found = timing.measure(config, size=(80, 64), repeats=2, runtime=Runtime("cpu", "float32"))
    assert set(found["ms_per_patch"]) == {"1", "32"}
    seconds = found["image"]["seconds"]
    assert set(seconds) == {"whole", "network", "ssim", "opening"}
    assert all(value > 0 for value in (*found["ms_per_patch"].values(), *seconds.values()))
    assert found["image"]["windows"] == len(Grid(32, config.tiling.stride).positions((64, 80)))


# ------------------------------------------------------------------------------------------------------------- claims


def run_of(dataset: str, method: str, auroc: float | None, *, name: str = "", overlap: float = 0.5) -> Record:
    """A record with what claims look at."""
    rates = {"rates": [0.01, 0.05], "q50": [0.1, overlap]}
    scoring = {"metrics": {"auroc": auroc}, "overlap": rates}
    settings = {"model": {"patch": 128}, "method": {"latent": 500}, "residual": {"ssim": {"size": 11}}}
    record = {"name": name or f"{dataset}-{method}-seed0", "set": dataset, "title": dataset, "method": method}
    return {**record, "seed": 0, "settings": settings, "scorings": {"faithful": scoring}}


def cell_of(name: str, auroc: float, *, latent: int = 500, window: int = 11, patch: int = 128) -> Record:
    record = dict(run_of("nanotwice", "ssim", auroc, name=f"table2-{name}"))
    settings = {"model": {"patch": patch}, "method": {"latent": latent}, "residual": {"ssim": {"size": window}}}
    return {**record, "settings": settings}


def four(dataset: str, **areas: float) -> list[Record]:
    return [run_of(dataset, method, area) for method, area in areas.items()]


def test_without_records_every_claim_is_open() -> None:
    """Nothing is said where nothing was run."""
    claims = paper_claims.claims([])
    assert len(claims) == len(paper_claims.CHECKS) == 8
    assert {(claim.holds, claim.evidence) for claim in claims} == {(None, "not run")}


@pytest.mark.parametrize(
    ("areas", "holds"),
    [
        ({"l2": 0.6, "vae": 0.6, "fm": 0.7, "ssim": 0.9}, True),
        ({"l2": 0.6, "vae": 0.6, "fm": 0.895, "ssim": 0.9}, False),
        ({"l2": 0.6, "ssim": 0.9}, None),
        ({"l2": 0.95, "ssim": 0.9}, False),
    ],
)
def test_ssim_leads(areas: dict[str, float], holds: bool | None) -> None:
    """True with all four and a clear lead; False as soon as one is not behind; open while one is missing."""
    assert paper_claims.ssim_leads(four("nanotwice", **areas)).holds is holds


def test_vae_and_feature_matching() -> None:
    """The VAE's and FM's claims follow their difference to l2, set by set."""
    good = four("nanotwice", l2=0.6, vae=0.605, fm=0.7) + four("grid", l2=0.8, vae=0.7, fm=0.8)
    assert paper_claims.vae_is_no_better(good).holds is True
    assert paper_claims.fm_helps_on_nanotwice_alone(good).holds is True
    bad = four("nanotwice", l2=0.6, vae=0.65, fm=0.6) + four("grid", l2=0.8, vae=0.7, fm=0.8)
    assert paper_claims.vae_is_no_better(bad).holds is False
    assert paper_claims.fm_helps_on_nanotwice_alone(bad).holds is False
    assert paper_claims.fm_helps_on_nanotwice_alone(good[:3]).holds is None, "one set alone does not say `only`"


def test_area_and_overlap() -> None:
    """The headline figures, as means over seeds; a cell of table 2 is none of them."""
    seeds = [run_of("nanotwice", "ssim", area, name=f"s{area}", overlap=0.95) for area in (0.960, 0.964)]
    claim = paper_claims.ssim_reaches_the_papers_area([*seeds, cell_of("optimum", 0.1)])
    assert claim.holds is True
    assert claim.evidence == "0.962 (mean of 2 seeds, 0.960 to 0.964)"
    assert paper_claims.ssim_reaches_the_papers_area(seeds[:1]).holds is False
    assert paper_claims.half_of_the_defects_are_covered(seeds).holds is True
    short = [run_of("nanotwice", "ssim", 0.9, overlap=0.91)]
    assert paper_claims.half_of_the_defects_are_covered(short).holds is False


def test_insensitivity() -> None:
    """A column's range decides, once all its cells are there; small d does not count."""
    optimum = cell_of("optimum", 0.95)
    windows = [cell_of(f"window{size}", 0.94, window=size) for size in (3, 7, 15, 19)]
    statement = paper_claims.insensitive(1, "K")
    assert statement([optimum, *windows]).holds is True
    assert statement([optimum, *windows[:3]]).holds is None
    assert statement([optimum, cell_of("window3", 0.9, window=3)]).holds is False
    latents = [cell_of(f"latent{d}", area, latent=d) for d, area in ((50, 0.7), (200, 0.94), (1000, 0.95))]
    assert paper_claims.insensitive(0, "d")([optimum, *latents]).holds is True


def test_only_what_is_verified_stands_beside_ours() -> None:
    """The comparison shows the paper's figures with their marks, and none that was recalled."""
    records = [*four("nanotwice", l2=0.6, ssim=0.9), *four("grid", ssim=0.9), *four("fabric03", ssim=0.9)]
    cells = [cell_of("optimum", 0.9), cell_of("latent50", 0.8, latent=50)]
    rows = paper_claims.comparison([*records, *cells])
    assert [(row["paper"], row["mark"]) for row in rows] == [
        (0.688, "text"),
        (0.966, "text"),
        (0.94, "2nd"),
        (None, None),
        (0.966, "text"),
        (None, None),
    ]
    assert {figure.mark for figure in paper_claims.PAPER} == {"text", "2nd", "mem"}
    assert {figure.method for figure in paper_claims.PAPER} <= {*METHODS, "Napoletano et al. 2018"}


# ------------------------------------------------------------------------------------------------------- command line


def test_list_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` prints the plan with its total, and writes nothing."""
    out = tmp_path / "out"
    code = main(["reproduce", "figure6", "--data", str(tmp_path), "-o", str(out), "--list", "--sets", "nanotwice"])
    said = capsys.readouterr()
    assert code == 0
    assert not out.exists()
    assert said.err.splitlines()[0].startswith("figure6: 6 trainings, 0 of them to do")
    names = [line.split()[2] for line in said.out.splitlines()[1:]]
    assert names[:4] == [f"nanotwice-{method}-seed0" for method in ("l2", "vae", "fm", "ssim")]


def test_figure_2_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`flawmap reproduce figure2 --json` gives one document, with the claims and the page."""
    code = main(["reproduce", "figure2", "--data", str(tmp_path), "-o", str(tmp_path / "out"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {claim["holds"] for claim in result["claims"]} == {True}
    assert Path(result["pictures"]["figure2"]).read_bytes().startswith(b"\x89PNG")
    assert Path(result["page"]).is_file()


def test_the_minutes_of_a_plan_are_added_up(data: Path, tmp_path: Path) -> None:
    """The total is that of what is still to do."""
    heard = Heard()
    asked = ExperimentRequest(what="figure6", table=(CLOTH, ABSENT), seeds=3)
    reproduce(asked, data, tmp_path, listing=True, events=heard)
    steps = 6 * LONG_STEPS["nanotwice"]
    hours = steps / STEPS_A_MINUTE / 60
    assert heard.messages == [
        f"figure6: 10 trainings, 6 of them to do; {steps:,} steps, about {hours:.1f} hours on one core of a CPU"
    ]
    reproduce(replace(asked, budget=Budget(steps=5)), data, tmp_path, listing=True, events=heard)
    assert heard.messages[1].startswith("figure6: 10 trainings, 6 of them to do; 30 steps, ")


def test_the_command_says_how_to_get_the_same() -> None:
    """A record's command names no folder of this machine."""
    asked = request("figure6", features=Path("/somewhere/alexnet.pth"), methods=("fm",), feature_network="alexnet")
    assert asked.command() == (
        "flawmap reproduce figure6 --data DATA -o OUT --preset fast --steps 3 --methods fm --seeds 1 "
        "--features alexnet.pth --feature-network alexnet"
    )


def test_the_command_knows_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line spells the experiments out, so that help needs nothing imported."""
    assert main(["reproduce", "figure4"]) == 2
    listed = capsys.readouterr().err
    assert all(f"'{name}'" in listed for name in (*EXPERIMENTS, ALL))


REPRODUCTION = Path(__file__).parents[1] / "docs" / "reproduction"
FOLDERS: dict[Preset, Path] = {"fast": REPRODUCTION, "paper": REPRODUCTION / "paper"}
KEPT = [
    (preset, path)
    for preset, folder in FOLDERS.items()
    for path in sorted((folder / "records").glob("*.json"))
    if path.stem not in ("figure3", "timing")
]


@pytest.mark.parametrize(("preset", "path"), KEPT, ids=[f"{preset}-{path.stem}" for preset, path in KEPT])
def test_kept_records_are_of_the_plan(preset: Preset, path: Path, tmp_path: Path) -> None:
    """What the documentation is made from is read, not trained anew: settings and budget are the plan's."""
    asked = ExperimentRequest(
        what=ALL, preset=preset, features=Path("squeezenet.safetensors"), feature_network="squeezenet"
    )
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    (training,) = (row for row in asked.trainings() if row.name == path.stem)
    record = runs.perform(training, runs.RunContext(asked, tmp_path / "no data", tmp_path))
    assert record == read_record(path)
    assert set(record) == RECORD_KEYS
    assert set(record["scorings"]) == set(scorings(training))
    assert {name: scored["changes"] for name, scored in record["scorings"].items()} == scorings(training)


def test_records_are_kept() -> None:
    """An empty folder would let the test above pass."""
    assert {path.stem for _, path in KEPT} >= {"nanotwice-l2-seed0", "ours-nanotwice-seed0"}
    assert {path.stem for preset, path in KEPT if preset == "paper"} == {"nanotwice-l2-seed0", "nanotwice-ssim-seed0"}


@pytest.mark.parametrize("preset", FOLDERS)
def test_the_kept_tables_follow_from_the_kept_records(preset: Preset) -> None:
    """The Markdown in docs is what the records beside it give, claim by claim and row by row."""
    folder = FOLDERS[preset]
    records = all_records(folder)
    claims = [*paper_claims.claims(records)]
    if preset == "fast":
        claims += figure2.check(figure2.measure())
        claims += figure3.check(read_record(folder / "records" / "figure3.json")["figures"])
    timed = json.loads(place.read_text("utf-8")) if (place := folder / "records" / "timing.json").exists() else None
    assert markdown(Publication(records, claims, timing=timed)) == (folder / "reproduction.md").read_text("utf-8")

"""`flawmap reproduce literature`: the systems that the paper is compared with, on the same images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import flawmap
import paper.stability
from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from paper import page
from paper.adversarial import coverage_of
from paper.claims import PAPER
from paper.literature import EVIDENCE, SYSTEMS
from paper.literature_claims import literature_claims
from paper.literature_table import literature_table
from paper.page import Publication
from paper.plan import ALL, Budget, ExperimentRequest, RunSpec, config_of, scorings, series_of, trainings
from paper.records import FAITHFUL, read_record
from paper.reproduce import all_records, reproduce
from paper.runs import RunContext, perform
from paper.sets import SETS, DataSet
from paper.stability import stability, stability_claims

CLOTH = DataSet("grid", "cloth", "Cloth", {"split": {"last": 2}, "method": {"latent": 8}})
SMALL: dict[str, Any] = {
    "model": {"patch": 32},
    "tiling": {"stride": 16},
    "evidence": {"scales": [1.0, 2.0]},
    "training": {"batch": 4, "precision": "float32"},
}
PLAN = trainings("literature")


def test_every_system_is_trained_on_every_set() -> None:
    """Once each, and several times where its trainings differ; the paper's own experiments leave them out."""
    assert {(run.dataset.key, run.system.title) for run in PLAN if run.system is not None} == {
        (dataset.key, system.title) for dataset in SETS for system in SYSTEMS.values()
    }
    assert len({run.name for run in PLAN}) == len(PLAN) == 4 * len(SYSTEMS)
    assert {series_of(run.name) for run in PLAN} == {"literature"}
    assert "literature" not in {series_of(run.name) for run in trainings(ALL)}
    assert [run.name for run in trainings("literature", sets=SETS[:1], methods=("gmm",))] == [
        "literature-nanotwice-gmm-seed0"
    ]


@pytest.mark.parametrize("training", PLAN, ids=lambda training: training.name)
def test_all_decide_alike(training: RunSpec) -> None:
    """Evidence, calibration and roles are those of the default, whatever the system; a set keeps its settings."""
    config, default = config_of(training, "fast"), flawmap.preset("auto")
    assert config.method.name == training.method
    assert config.split.validation is None
    if training.method == "anogan":  # which cannot search for so many patches
        return
    assert (config.threshold, config.evidence) == (default.threshold, default.evidence)
    assert config.images.roi.box == training.dataset.changes.get("images", {}).get("roi", {}).get("box")
    assert list(scorings(training))[:2] == [FAITHFUL, EVIDENCE]


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        trainings("literature", methods=("halcon",))
    assert str(caught.value).startswith("there is no method 'halcon'; the methods are ssim, l2, vae, fm, gmm")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two systems on cloth."""
    folder = tmp_path_factory.mktemp("literature")
    flawmap.synth(folder / "data" / "cloth", "cloth", good=8, bad=3, size=(96, 80), seed=1)
    asked = ExperimentRequest(
        what="literature",
        budget=Budget(steps=3),
        table=(CLOTH,),
        methods=("l2", "gmm"),
        settings=SMALL,
        runtime=Runtime("cpu", "float32"),
        seeds=1,
    )
    return folder / "out", reproduce(asked, folder / "data", folder / "out")


def test_a_record_holds_what_was_found_decided_and_spent(made: tuple[Path, dict[str, Any]]) -> None:
    """Beside the figures of every record: decisions at the own operating point, minutes, memory."""
    out, result = made
    assert result["failed"] == []
    assert [row["state"] for row in result["plan"]] == ["done", "done"]
    for key in ("l2", "gmm"):
        record = read_record(out / "records" / f"literature-grid-{key}-seed0.json")
        system = record["system"]
        assert system["title"] == SYSTEMS[key].title
        assert (system["found"][1], system["rejected"][1]) == (3, 4)
        assert 0 <= system["found"][0] <= 3
        assert system["core_seconds_to_model"] > 0
        assert system["core_seconds_per_image"] > 0
        assert system["peak_memory"] is None or system["peak_memory"] > 10**8
        assert list(record["scorings"]) == [FAITHFUL, EVIDENCE]
        assert record["scorings"][FAITHFUL]["metrics"] != record["scorings"][EVIDENCE]["metrics"]


def test_the_page_shows_them_alone(made: tuple[Path, dict[str, Any]]) -> None:
    """One row for each way of scoring; the paper's own figures, which were not run, take no room."""
    out, result = made
    text = Path(result["page"]).read_text(encoding="utf-8")
    assert "The systems of the literature" in text
    assert "Figure 6" not in text
    records = [read_record(path) for path in sorted((out / "records").glob("*.json"))]
    table = literature_table(records)
    assert [(row[1], row[3]) for row in table.rows] == [
        ("Gaussian mixtures", "as it is"),
        ("Gaussian mixtures", "evidence"),
        ("l2 autoencoder", "as it is"),
        ("l2 autoencoder", "evidence"),
    ]
    assert "## The systems of the literature" in page.markdown(Publication(records, paper=PAPER))


def test_weights_are_named(made: tuple[Path, dict[str, Any]]) -> None:
    """A system that borrows a network's features says which, at every figure."""
    out, _ = made
    record = read_record(out / "records" / "literature-grid-l2-seed0.json")
    borrowed = record | {"features": {"network": "squeezenet", "sha256": "0123456789"}}
    assert literature_table([borrowed]).rows[0][1] == "l2 autoencoder (squeezenet, weights 01234567)"


# ---------------------------------------------------------------------------------------------------- what it says


def record_of(key: str, set_name: str, auroc: float, seconds: float = 1.0) -> dict[str, Any]:
    return {
        "name": f"literature-{set_name}-{key}-seed0",
        "set": set_name,
        "features": {"network": "squeezenet", "sha256": "0123456789"} if key.startswith("cnn") else None,
        "scorings": {FAITHFUL: {"metrics": {"auroc": auroc}}},
        "system": {"title": key, "core_seconds_per_image": seconds},
    }


@pytest.mark.parametrize(
    ("areas", "verdicts"),
    [
        ({}, [None, None, None, None]),
        ({"cnn-dictionary": 0.97, "ssim": 0.961, "l1-adversarial": 0.9}, [True, True, None, True]),
        ({"cnn-dictionary": 0.968, "ssim": 0.95, "l1-adversarial": 0.945}, [False, False, None, False]),
    ],
)
def test_sentences_are_checked(areas: dict[str, float], verdicts: list[bool | None]) -> None:
    """A sentence holds, does not hold, or is not tested where one of its systems was not run."""
    records = [record_of(key, "nanotwice", area) for key, area in areas.items()]
    assert [claim.holds for claim in literature_claims(records)] == verdicts


def test_searching_is_compared_with_encoding() -> None:
    """By the seconds of one core, set by set; sets that only one of both ran on do not count."""
    records = [record_of("anogan", "grid", 0.6, 400.0), record_of("anogan", "nanotwice", 0.6, 400.0)]
    records += [record_of("bigan", "grid", 0.6, 39.0)]
    slow = literature_claims(records)[2]
    assert (slow.holds, slow.evidence) == (True, "grid: 400 s and 39.00 s of one core")
    assert literature_claims([*records[:2], record_of("bigan", "grid", 0.6, 40.0)])[2].holds is False


def test_seeds_and_moments_of_adversarial_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each seed and moment; what is done is read, not trained again; both sentences are checked."""
    monkeypatch.setattr(paper.stability, "SEEDS", 2)
    monkeypatch.setattr(paper.stability, "MOMENTS", 2)
    monkeypatch.setattr(paper.stability, "coverage_of", partial(coverage_of, drawn=200))
    flawmap.synth(tmp_path / "data" / "cloth", "cloth", good=5, bad=2, size=(64, 64), seed=1)
    cloth = replace(CLOTH, key="nanotwice", changes={"split": {"validation": 0.3, "last": 1}})
    asked = ExperimentRequest(
        what="literature",
        budget=Budget(steps=40),
        table=(cloth,),
        methods=("bigan",),
        settings=SMALL,
        runtime=Runtime("cpu", "float32"),
    )
    context = RunContext(asked, tmp_path / "data", tmp_path / "out")
    rows = stability(asked.trainings(), context)
    assert [(row["method"], row["seed"], row["step"]) for row in rows] == [
        ("bigan", seed, step) for seed in range(2) for step in (20, 40)
    ]
    assert all(0 <= row["coverage"] <= 1 and 0.9 < row["real"] <= 1 and 0 <= row["auroc"] <= 1 for row in rows)
    monkeypatch.setattr(paper.stability, "at_moments", None)
    assert stability(asked.trainings(), context) == rows
    modes, end = stability_claims(rows)
    assert modes.holds is not None
    assert modes.evidence.startswith("bigan: ")
    assert end.evidence.startswith("seed 0: ")


def test_the_end_of_a_training() -> None:
    """Only moments of the second half count, and every seed has to vary."""
    rows = [
        {"method": "bigan", "seed": seed, "step": step, "coverage": 0.5, "real": 0.95, "auroc": area}
        for seed, areas in ((0, (0.2, 0.50, 0.52)), (1, (0.2, 0.50, 0.501)))
        for step, area in zip((1, 2, 4), areas, strict=True)
    ]
    modes, end = stability_claims(rows)
    assert (modes.holds, modes.evidence) == (True, "bigan: 0.500, 0.500 by seed, real patches 0.950")
    assert (end.holds, end.evidence) == (False, "seed 0: 0.020; seed 1: 0.001")
    assert [claim.holds for claim in stability_claims([])] == [None, None]


# -------------------------------------------------------------------------------------------------- the kept records

FOLDER = Path(__file__).parents[1] / "docs" / "reproduction" / "literature"
KEPT = sorted((FOLDER / "records").glob("literature-*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_records_are_of_the_plan(path: Path, tmp_path: Path) -> None:
    """What the documentation is made from is read, not trained anew: settings and budget are the plan's."""
    asked = ExperimentRequest(
        what="literature", features=Path("squeezenet.safetensors"), feature_network="squeezenet", runtime=Runtime()
    )
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    (training,) = (row for row in asked.trainings() if row.name == path.stem)
    record = perform(training, RunContext(asked, tmp_path / "no data", tmp_path))
    assert {name: scored["changes"] for name, scored in record["scorings"].items()} == scorings(training)
    assert set(record["system"]) == {
        *("title", "found", "rejected", "core_seconds_per_image", "core_seconds_to_model", "peak_memory")
    }


def test_the_kept_tables_follow_from_the_kept_records() -> None:
    """The Markdown in docs is what the records beside it give; what was not run yet is named."""
    records, stable = all_records(FOLDER), FOLDER / "records" / "stability.json"
    claims = [*literature_claims(records), *stability_claims(read_record(stable)["rows"] if stable.exists() else [])]
    planned = [run.name for run in PLAN]
    assert page.markdown(Publication(records, claims, planned=planned)) == (FOLDER / "reproduction.md").read_text(
        "utf-8"
    )

"""`flawmap retrain`: accepted images join, roles stay, and a worse model replaces nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawmap.commands import retrain as module
from flawmap.commands.cli import main
from flawmap.commands.retrain import compared, retrain
from flawmap.core.errors import InputError, TrainingError
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.splits import Split
from flawmap.evaluation import agreement, selfcheck
from flawmap.evaluation.selfcheck import SelfCheck, SizeRow
from flawmap.imaging.changes import CHANGES
from flawmap.scoring.model_file import load_artifact
from samples import trained, write_cloth

pytest.importorskip("fastapi", reason="needs the extra serve")

from flawmap.commands.watch import WatchOptions, watch
from flawmap.service.store import Store

SMALL: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"samples": 2000, "levels": [1, 2]},
    "tiling": {"stride": 24},
    "training": {"steps": 1},
    "evidence": {"enabled": True, "scales": [1.0]},
    "threshold": {"rule": "conformal", "alpha": 0.2},
    "split": {"validation": 0.4, "test": 0},
    "check": {"enabled": True},
}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KINDS", ("spot",)), ("CONTRASTS", (0.2,)), ("DEFECTS", 4), ("TOLERANCE_PARTS", 2)):
            patch.setattr(selfcheck, name, value)
        patch.setattr(selfcheck, "CHANGES", CHANGES[:2])
        patch.setattr(agreement, "PARTS", 2)
        yield


@pytest.fixture
def made(small: None, line: Path, tmp_path: Path) -> Path:
    """A copy of `line` for a test."""
    return shutil.copytree(line, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def line(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `good`, the model `m.flawmap` of it, and a store with four other images, three of them accepted."""
    folder = tmp_path_factory.mktemp("line")
    for name, count, seed in (("good", 12, 0), ("line", 4, 1)):
        write_cloth(folder / name, count, (112, 96), seed)
    trained(folder / "good", folder / "m.flawmap", SMALL, "gmm")
    shutil.copy(folder / "good" / "00.png", folder / "line" / "known.png")
    options = WatchOptions(store=folder / "store", settle=0.05, once=True)
    watch(folder / "m.flawmap", folder / "line", options, runtime=Runtime("cpu"))
    with closing(Store(folder / "store")) as store:
        for row in store.newest():
            if row.name != "03.png":
                store.review(row.id, "accept", None)
    return folder


def test_accepted_images_join_and_roles_stay(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three new images; the old ones are where they were; the old model lies beside the new one."""
    before = (made / "m.flawmap").read_bytes()
    old = Split.from_dict(load_artifact(made / "m.flawmap").data["split"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compared", lambda *_: (1, 1))
        given = ["retrain", str(made / "m.flawmap"), str(made / "good"), "--store", str(made / "store")]
        assert main([*given, "-q"]) == 0
    new = load_artifact(made / "m.flawmap")
    split = Split.from_dict(new.data["split"])
    assert (made / "m.before.flawmap").read_bytes() == before
    for role in ("train", "validation"):
        assert {area.sha256 for area in getattr(old, role)} <= {area.sha256 for area in getattr(split, role)}
    assert len(split.train) + len(split.validation) == 12 + 3
    rejected = ImageIndex().sha256(made / "line" / "03.png")
    assert split.role_of(rejected) is None
    assert new.check is not None
    assert new.config == load_artifact(made / "m.before.flawmap").config
    assert sorted(path.name for path in made.iterdir() if path.is_file() and "m." in path.name) == [
        "m.before.flawmap",
        "m.check.png",
        "m.flawmap",
    ]


def test_a_worse_model_replaces_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stays byte for byte, the new one can be looked at."""
    before = (made / "m.flawmap").read_bytes()
    monkeypatch.setattr(module, "compared", lambda *_: (0, 2))
    with pytest.raises(TrainingError, match=r"in 2 rows of the self-check the new model finds larger defects alone"):
        retrain(made / "m.flawmap", made / "good", made / "store")
    assert (made / "m.flawmap").read_bytes() == before
    assert load_artifact(made / "m.new.flawmap").points
    assert not (made / "m.before.flawmap").exists()


def test_what_is_needed_is_told(made: Path, tmp_path: Path) -> None:
    """Another data set, and a store in which nothing new was accepted."""
    with pytest.raises(InputError, match="of the images that the model was trained on are not in the data set"):
        retrain(made / "m.flawmap", made / "line", made / "store")
    with closing(Store(made / "store")) as store:
        for row in store.newest():
            store.review(row.id, None, None)
    with pytest.raises(InputError, match="was accepted that the model does not know"):
        retrain(made / "m.flawmap", made / "good", made / "store")


def test_checks_are_compared_row_by_row() -> None:
    """None is larger than every size."""

    def check(*sizes: int | None) -> SelfCheck:
        rows = tuple(SizeRow("spot", 0.1, {}, size) for size in sizes)
        return SelfCheck(rows, (), (), None)

    assert compared(check(4, 8, None, 16, None), check(4, 16, 64, 8, None)) == (2, 1)
    assert compared(check(4), replace(check(None))) == (0, 1)

"""`flawmap report`: pages of an inspection, whole, in order and without anything from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from flawmap.commands.cli import main
from flawmap.commands.report import report
from flawmap.core.errors import InputError
from samples import trained, write_cloth


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and `found`: an inspection of seven images and a broken one."""
    folder = tmp_path_factory.mktemp("report")
    write_cloth(folder / "good", 12, (96, 80))
    settings: dict[str, Any] = {
        "model": {"patch": 32},
        "method": {"latent": 4},
        "training": {"steps": 5, "batch": 4, "device": "cpu", "plateau_steps": 0},
        "threshold": {"rule": "conformal", "alpha": 0.3},
        "split": {"validation": 0.4, "test": 0},
    }
    trained(folder / "good", folder / "m.flawmap", settings)
    (folder / "line").mkdir()
    for number in range(7):
        shutil.copy(folder / "good" / f"{number:02d}.png", folder / "line" / f"<b>{number}.png")
    (folder / "line" / "broken.png").write_bytes(b"no image")
    assert main(["inspect", str(folder / "m.flawmap"), str(folder / "line"), "-o", str(folder / "found"), "-q"]) == 4
    return folder


def test_one_page_holds_everything(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image with its figures and its overlay, the worst first; the guarantee; what could not be read."""
    assert main(["report", str(made / "found"), str(made / "m.flawmap")]) == 0
    assert "7 images, " in capsys.readouterr().out
    page = (made / "found" / "report.html").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in (made / "found" / "inspections.jsonl").read_text().splitlines()]
    scores = sorted((line["score"] for line in lines if "error" not in line), reverse=True)
    shown = [float(text) for text in re.findall(r"score ([\d.]+)", page)]
    assert shown == [float(f"{score:.4g}") for score in scores]
    assert page.count('<img src="data:image/') >= 7 + 1
    assert "at most 0.3 of good images are rejected" in page
    assert "broken.png" in page
    assert "<b>" not in page, "names are text"
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", page) == []
    assert len(page) < 10_000_000


def test_an_inspection_ends_with_its_report(made: Path, tmp_path: Path) -> None:
    """The same page, byte for byte, as `flawmap report` makes; not with --no-report."""
    page = made / "found" / "report.html"
    ended = page.read_bytes()
    report(made / "found", made / "m.flawmap")
    assert page.read_bytes() == ended
    given = ["inspect", str(made / "m.flawmap"), str(made / "good"), "-o", str(tmp_path / "f"), "--no-report", "-q"]
    assert main(given) == 0
    assert not (tmp_path / "f" / "report.html").exists()


def test_without_overlays_and_without_a_model(made: Path, tmp_path: Path) -> None:
    """The figures alone."""
    given = ["inspect", str(made / "m.flawmap"), str(made / "good"), "-o", str(tmp_path / "f"), "--no-overlays", "-q"]
    assert main(given) == 0
    report(tmp_path / "f")
    page = (tmp_path / "f" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1, "the histogram"
    assert "are rejected" not in page


def test_what_is_wrong_is_told(made: Path, tmp_path: Path) -> None:
    """A folder without an inspection, and another model."""
    with pytest.raises(InputError, match="no inspection in"):
        report(tmp_path)
    shutil.copy(made / "m.flawmap", tmp_path / "other.flawmap")
    assert main(["calibrate", str(tmp_path / "other.flawmap"), "--set-threshold", "2", "-q"]) == 0
    with pytest.raises(InputError, match="was inspected by another model than"):
        report(made / "found", tmp_path / "other.flawmap")

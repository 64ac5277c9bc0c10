"""Each benchmark that needs neither real images nor hours runs from end to end, on something small."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flawmap.data.synthetic import good_images

pytestmark = pytest.mark.slow


@contextmanager
def loaded(name: str) -> Iterator[ModuleType]:
    """A script of the folder of benchmarks as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, f"benchmark_{name}", module)  # dataclasses look their module up
        patch.syspath_prepend(path.parent)  # as for a script, whose neighbours it imports
        spec.loader.exec_module(module)
        yield module


SMALL: dict[str, list[str]] = {
    "disk": ["--repeats", "1", "--images", "4", "--size", "100x90", "--patch", "32"],
    "engines": ["--repeats", "1", "--patch", "32", "--latent", "4", "--size", "160x100"],
    "folder": ["--images", "3", "--side", "128"],
    "gpu": ["--device", "cpu", "--quick", "--compile", "no", "--minutes", "60"],
    "inspection": ["--repeats", "1", "--images", "2", "--size", "200x140"],
    "latency": ["--repeats", "1", "--seconds", "0", "--stages", "1", "--size", "200x140"],
    "losses": ["--repeats", "1"],
    "metrics": ["--repeats", "1", "--maps", "8", "--size", "120x90"],
    "step": ["--repeats", "1", "--losses", "2"],
    "step_tried": ["--repeats", "1", "--no-compile"],
}
ABSENT = ("CUDA graphs need CUDA", "not compiled", "the package fused_ssim", "left out: ")
CONSTANTS: dict[str, dict[str, Any]] = {
    "folder": {"GOOD_SIDE": 128},
    "latency": {"GOOD_SIDE": 128, "WAYS": {"once": {"encoder": "image", "stride": 64}}, "THREADS": (1,)},
    "losses": {"SHAPES": ((1, 1, 24, 24), (1, 3, 24, 24))},
    "step": {"SIZE": (150, 140)},
    "step_tried": {"SIZE": (150, 140)},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has its duration or a figure, but for those that need another machine, and a table is printed."""
    arguments = [*SMALL[name], "--json", str(tmp_path / "kept.json")]
    if name == "gpu":
        image = next(iter(good_images("fibres", 1, (60, 50), 0)))[:, :, 0]
        np.save(tmp_path / "good.npy", (255 * image).astype(np.uint8))
        arguments += ["--image", str(tmp_path / "good.npy")]
    if name == "disk":
        arguments += ["--folder", str(tmp_path)]
    with loaded(name) as module:
        for constant, value in CONSTANTS.get(name, {}).items():
            monkeypatch.setattr(module, constant, value)
        assert module.main(arguments) == 0
    rows = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["rows"]
    assert rows
    assert [
        row for row in rows if not row["milliseconds"] and not row["figures"] and not row["note"].startswith(ABSENT)
    ] == []
    assert "variant" in capsys.readouterr().out


def test_the_benchmark_of_folders_compares_two_ways_of_writing(tmp_path: Path) -> None:
    """In turns, for each number of threads."""
    kept = tmp_path / "kept.json"
    small = ["--images", "2", "--side", "128", "--turns", "1", "--no-evidence", "--json", str(kept)]
    with loaded("folder") as module:
        assert module.main(small) == 0
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    assert len(rows) % 2 == 0
    assert {row["variant"] for row in rows} == {"written by the same thread", "by a thread of its own"}


@pytest.mark.cluster
def test_the_benchmark_of_scale_runs(tmp_path: Path) -> None:
    """In a process of its own, for it starts Ray with as many cores as there are sleeping detectors."""
    pytest.importorskip("ray.data", reason="needs the extra ray")
    script = Path(__file__).parents[1] / "benchmarks" / "scale.py"
    small = ["--repeats", "1", "--images", "4", "--sleepers", "2", "--seconds", "0.05", "--each", "4"]
    kept = tmp_path / "kept.json"
    subprocess.run([sys.executable, str(script), *small, "--json", str(kept)], check=True, capture_output=True)
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    assert [row["variant"] for row in rows if row["case"] == "expected"] == ["10 nodes", "100 nodes", "1000 nodes"]
    assert all(row["milliseconds"] is not None or row["figures"] for row in rows)

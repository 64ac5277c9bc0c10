"""The benchmarks run from end to end, and what the one for GPUs tries computes what flawmap computes."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flawmap.core.settings import SSIMSettings
from flawmap.data.synthetic import good_images
from flawmap.nets.ssim import ssim, window_weights
from flawmap.scoring.tiling import Grid, merge, split

SIZES = ((50, 71), (48, 48), (32, 40))  # flush last patches, a stride that fits, hardly more than one patch


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


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with loaded("gpu") as module:
        yield module


@pytest.fixture(scope="module")
def engines() -> Iterator[ModuleType]:
    with loaded("engines") as module:
        yield module


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image batch in [0, 1] and something like it."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(shape, generator=generator)
    return p, (p + 0.2 * torch.rand(shape, generator=generator)).clamp(0, 1)


def test_convolution_ssim_is_ssim(gpu: ModuleType) -> None:
    """Grouped convolutions give the SSIM of valid windows."""
    settings = SSIMSettings(window="gaussian", constants="wang")
    p, q = pair(2, 3, 20, 31)
    expected = ssim(p, q, settings, border="valid")
    torch.testing.assert_close(gpu.convolution_ssim(p, q, settings), expected, rtol=0, atol=2e-5)


def test_kept_bands_are_ssim_and_its_gradient(gpu: ModuleType) -> None:
    """SSIM with kept bands, and its gradient, are those of flawmap.ssim, on long sides too."""
    settings = SSIMSettings(window="gaussian", constants="wang")
    p, q = pair(1, 2, 24, 300)
    bands = gpu.KeptBands((24, 300), window_weights(settings), torch.device("cpu"))
    torch.testing.assert_close(bands.ssim(p, q, settings), ssim(p, q, settings), rtol=0, atol=1e-6)
    kept = gpu.gradient_of(lambda p, q: bands.ssim(p, q, settings).mean(), p, q)()
    own = gpu.gradient_of(lambda p, q: ssim(p, q, settings).mean(), p, q)()
    torch.testing.assert_close(kept, own, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", SIZES)
def test_tables_split_and_merge_as_tiling_does(gpu: ModuleType, size: tuple[int, int]) -> None:
    """Cutting is the same to the bit, merging to rounding, for every way of it."""
    grid = Grid(32, 12)
    tables = gpu.Tables(grid, size, "hann", torch.device("cpu"))
    image = pair(2, *size, 1)[0].squeeze(-1)
    patches = split(image, grid)
    assert torch.equal(gpu.split_by_rows(image, grid), patches)
    assert torch.equal(tables.split(image), patches)
    changed = patches + 0.1 * torch.rand(patches.shape, generator=torch.Generator().manual_seed(1))
    expected = merge(changed, grid, size, "hann")
    for merged in (tables.merge(changed), tables.merge_by_addition(changed)):
        torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)


def test_patches_are_cut_where_they_lie(gpu: ModuleType) -> None:
    """A gather gives the slices of the images, mirrored as asked."""
    images = torch.rand(3, 2, 20, 30, generator=torch.Generator().manual_seed(0))
    places = gpu.random_places(images, 8, 40)
    patches = gpu.cut(images, places, 8)
    assert patches.shape == (40, 2, 8, 8)
    for patch, number, top, left, upside, across in zip(patches, *(field.tolist() for field in places), strict=True):
        flat = images[number, :, top : top + 8, left : left + 8]
        axes = [axis for axis, mirrored in ((1, upside), (2, across)) if mirrored]
        assert torch.equal(patch, flat.flip(axes))


def test_what_fails_is_a_row(gpu: ModuleType) -> None:
    """An error, and time that has run out, are noted in their rows; the switches are as they were."""
    images = np.zeros((1, 1, 40, 40), np.float32)
    bench = gpu.Bench(torch.device("cpu"), gpu.QUICK, images, False)
    before = gpu.switches()

    def fails() -> Any:
        raise RuntimeError("out of\nmemory")

    gpu.record(bench, "s", "c", "good", lambda: gpu.timed(bench, lambda: lambda: 1, gpu.DEFAULT))
    gpu.record(bench, "s", "c", "bad", lambda: gpu.timed(bench, fails, gpu.LOOSE))
    bench.ends = time.monotonic() + 10
    gpu.record(bench, "s", "c", "late", lambda: gpu.timed(bench, lambda: lambda: 1, gpu.DEFAULT), needs=60)
    gpu.compare(bench.rows)
    assert [row.note for row in bench.rows] == ["", "RuntimeError: out of memory", "skipped: no time left"]
    assert [row.times for row in bench.rows] == [1, None, None]
    assert gpu.switches() == before
    lines = gpu.table(bench.rows).splitlines()
    assert lines[0].split() == ["case", "variant", "ms", "times"]
    assert lines[2].split(maxsplit=4) == ["c", "bad", "-", "-", "RuntimeError: out of memory"]


def test_durations_by_events(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA a duration lies between two events, one more of which is recorded than there are repeats."""
    import measuring

    clock = iter(range(100))

    class Event:
        def record(self) -> None:
            self.at = next(clock) ** 2

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    monkeypatch.setattr(measuring, "event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *where: None)
    calls: list[int] = []
    found = measuring.durations(lambda: calls.append(1), torch.device("cuda"), warm=2, fewest=3, seconds=0)
    assert found == [1, 3, 5]
    assert len(calls) == 5


def test_it_runs(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU every section gives rows, and what is missing in them is what needs CUDA, a compiler or a package."""
    image = next(iter(good_images("fibres", 1, (60, 50), 0)))[:, :, 0]
    np.save(tmp_path / "good.npy", (255 * image).astype(np.uint8))
    arguments = ["--device", "cpu", "--quick", "--compile", "no", "--minutes", "30"]
    arguments += ["--image", str(tmp_path / "good.npy"), "--json", str(tmp_path / "gpu.json")]
    assert gpu.main(arguments) == 0
    kept = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {row["section"] for row in kept["rows"]} == set(gpu.SECTIONS)
    for row in kept["rows"]:
        known = ("CUDA graphs need CUDA", "not compiled", "the package fused_ssim")
        assert (row["milliseconds"] is None) == row["note"].startswith(known), row
    differences = [row["figures"]["difference"] for row in kept["rows"] if "difference" in row["figures"]]
    assert max(differences) < 0.1
    printed = capsys.readouterr().out
    assert all(f"\n{name} (" in printed for name in gpu.SECTIONS)


SMALL = {
    "losses": [],
    "step": ["--losses", "2"],
    "inspection": ["--images", "2", "--size", "200x140"],
    "metrics": ["--maps", "8", "--size", "120x90"],
}


@pytest.mark.parametrize("name", list(SMALL))
def test_a_benchmark_of_a_cpu_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row has its duration and is compared with the first of its case."""
    kept = tmp_path / "kept.json"
    with loaded(name) as module:
        if name == "losses":
            monkeypatch.setattr(module, "SHAPES", ((1, 1, 24, 24), (1, 3, 24, 24)))
        if name == "step":
            monkeypatch.setattr(module, "SIZE", (150, 140))
        assert module.main(["--repeats", "1", *SMALL[name], "--json", str(kept)]) == 0
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert all(row["milliseconds"] > 0 and row["times"] > 0 for row in found["rows"])
    assert found["machine"]["torch"] == torch.__version__
    assert "variant" in capsys.readouterr().out


def test_the_plain_script_finds_what_flawmap_finds(tmp_path: Path) -> None:
    """The benchmark compares two ways to one result: maps of the plain script and of flawmap agree inside."""
    with loaded("inspection") as inspection:
        images = list(good_images("fibres", 2, (200, 140), 0))
        detector = inspection.Detector.of(inspection.born(images), device="cpu", precision="float32")
        explained = detector.explain(images[0])
        window = inspection.window_of(detector)
        image, rebuilt = (
            torch.from_numpy(np.moveaxis(part, 2, 0).copy())[None] for part in (images[0], explained.reconstruction)
        )
        margin = detector.config.residual.ssim.size // 2
        plain = (1 - inspection.plain_ssim(image, rebuilt, window)[0, 0].numpy()) / 2
        np.testing.assert_allclose(plain, explained.residual[margin:-margin, margin:-margin], rtol=0, atol=1e-4)


def test_quality_is_looked_at_twice_as_late_each_time() -> None:
    """The last look is at the end, none before the first step."""
    with loaded("quality") as quality:
        assert quality.looks_of(3000, 4) == [375, 750, 1500, 3000]
        assert quality.looks_of(4, 6) == [1, 2, 4]


def test_the_kept_curve_of_quality_is_drawn(tmp_path: Path) -> None:
    """What the record says was reached follows from its rows, and these make a picture."""
    kept = Path(__file__).parents[1] / "docs" / "performance" / "quality.json"
    record = json.loads(kept.read_text(encoding="utf-8"))
    with loaded("quality") as quality:
        rows = [quality.Row(**row) for row in record["rows"]]
        assert list(quality.reached(rows)) == record["goals"]
        quality.draw(rows, tmp_path / "quality.png")
    with Image.open(tmp_path / "quality.png") as drawn:
        assert drawn.size == (1080, 630)


def test_engines_are_measured(
    engines: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every engine and precision has a row for each batch; one that is not installed says so."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    kept = tmp_path / "engines.json"
    assert engines.main(["--repeats", "1", "--patch", "32", "--latent", "4", "--json", str(kept)]) == 0
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == len(engines.BATCHES) * len(engines.VARIANTS)
    assert [row["case"] for row in rows if row["variant"] == "torch float32"] == ["batch 1", "batch 8", "batch 32"]
    for row in rows:
        assert (row["milliseconds"] is None) == row["note"].startswith("left out: "), row
        assert row["variant"] != "torch float32" or row["times"] == 1
        assert row["variant"] != "openvino float32" or "pip install 'flawmap[export]'" in row["note"]
    assert "; patch: 32; latent: 4\n" in capsys.readouterr().out


def test_patches_from_disk_beside_those_from_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row has its duration, or its memory; nothing is left of images and file."""
    arguments = ["--images", "4", "--size", "100x90", "--patch", "32", "--repeats", "1"]
    (tmp_path / "here").mkdir()
    with loaded("disk") as disk:
        assert disk.main([*arguments, "--folder", str(tmp_path / "here"), "--json", str(tmp_path / "disk.json")]) == 0
    rows = json.loads((tmp_path / "disk.json").read_text(encoding="utf-8"))["rows"]
    found = {(row["case"], row["variant"]): row for row in rows if row["variant"] != "disk, cold"}
    assert list(found) == [
        *((case, variant) for case in ("32 patches", "a step") for variant in ("memory", "disk, warm")),
        *(("resident memory", variant) for variant in ("neither", "memory", "disk")),
    ]
    for (case, _), row in found.items():
        if case == "resident memory":
            assert row["note"] or row["figures"]["MiB"] > 50
        else:
            assert row["times"] > 0
    assert list((tmp_path / "here").iterdir()) == []
    assert "% of a step" in capsys.readouterr().out

"""The examples run, small, and do what they say."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawmap
from flawmap.commands.export import export
from flawmap.data.defects import add_flaw
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.model_file import load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

STANDALONE: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "images": {"scale": 0.5, "roi": {"box": [10, 6, 172, 190]}},
    "tiling": {"stride": 20},
    "training": {"steps": 120, "batch": 8, "device": "cpu", "precision": "float32", "plateau_steps": 0},
    "evidence": {"enabled": True, "scales": [0.0, 2.0]},
    "threshold": {"rule": "conformal", "alpha": 0.2, "mask": "pasted"},
    "split": {"validation": 0.4, "test": 0},
}
EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train_and_inspect.py` leaves: a folder with `cloth` and `cloth.flawmap`."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
        arguments = [str(folder), "--steps", "2", "--good", "6", "--side", "144"]
        assert load("train_and_inspect").main(arguments) == 0
    return folder


def test_every_example_has_a_test() -> None:
    """An example that nobody runs is an example that does not work."""
    source = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'load("{path.stem}")' in source, path.name


def test_train_and_inspect(trained: Path) -> None:
    """It leaves a model with a threshold, trained for as many steps as asked."""
    detector = flawmap.Detector.load(trained / "cloth.flawmap")
    assert detector.artifact.threshold is not None
    assert detector.artifact.provenance["training"]["steps"] == 2


def test_paste_flaws(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a line of figures for each kind of flaw."""
    arguments = [str(trained / "cloth.flawmap"), str(trained / "cloth"), "--kinds", "cut,rough", "--images", "1"]
    assert load("paste_flaws").main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 good images or areas that")
    assert [line.split()[0] for line in lines[1:]] == ["kind", "cut", "rough"]
    for line in lines[2:]:
        assert 0 <= float(line.split()[1]) <= 1
        assert line.split()[3] in ("0/1", "1/1")


def test_demo_picture(trained: Path, tmp_path: Path) -> None:
    """Two rows of five pictures, from models and data as `flawmap demo` leaves them."""
    demo = tmp_path / "demo"
    demo.mkdir()
    (trained / "cloth").rename(demo / "data")
    try:
        for name in ("l2", "ssim"):
            (demo / f"{name}.flawmap").write_bytes((trained / "cloth.flawmap").read_bytes())
        arguments = [str(demo), str(tmp_path / "images" / "demo.png"), "--side", "100"]
        assert load("demo_picture").main(arguments) == 0
    finally:
        (demo / "data").rename(trained / "cloth")
    from PIL import Image

    with Image.open(tmp_path / "images" / "demo.png") as picture:
        assert picture.size == (5 * 100 + 4 * 8, 2 * 100 + 8)


@pytest.mark.parametrize("tiling", [{"stride": 20}, {"stride": 16, "encoder": "image"}], ids=["patches", "image"])
def test_standalone(tiling: dict[str, Any], tmp_path: Path) -> None:
    """Without flawmap and torch, the same mask, pixel by pixel, and the same map but for rounding."""
    config = override(preset("fast"), STANDALONE | {"tiling": tiling})
    (tmp_path / "good").mkdir()
    for number, image in enumerate(good_images("cloth", 15, (180, 200), 0)):
        write_image(tmp_path / "good" / f"{number:02d}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
        if number == 0:
            flawed, _ = add_flaw(image, "cut", number, size=60)
            write_image(tmp_path / "flawed.png", np.rint(flawed[:, :, 0] * 255).astype(np.uint8))
    flawmap.train(tmp_path / "good", tmp_path / "m.flawmap", config)
    export(tmp_path / "m.flawmap", [tmp_path / "flawed.png"], "onnx")
    found = flawmap.Detector.load(tmp_path / "m.onnx").inspect(tmp_path / "flawed.png")
    assert found.verdict == "flawed"
    values, mask = load("standalone").inspected(str(tmp_path / "m.onnx"), str(tmp_path / "flawed.png"))
    assert np.abs(values - found.residual).max() < 1e-3
    assert np.array_equal(mask, found.mask)
    source = (EXAMPLES / "standalone.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 170
    assert "import flawmap" not in source
    assert "import torch" not in source


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_page_picture(trained: Path, tmp_path: Path) -> None:
    """A PNG of the page with an image that was inspected."""
    pytest.importorskip("playwright", reason="needs playwright, of the extra dev")
    for kind in ("good", "cut"):
        (tmp_path / "data" / "test" / kind).mkdir(parents=True)
        source = next((trained / "cloth" / "test" / kind).iterdir())
        shutil.copy(source, tmp_path / "data" / "test" / kind / "000.png")
    artifact = load_artifact(trained / "cloth.flawmap")
    save_artifact(artifact.with_point(OperatingPoint(threshold=1e-6)), tmp_path / "ssim.flawmap")
    assert load("page_picture").main([str(tmp_path), str(tmp_path / "page.png")]) == 0
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1280, 800)

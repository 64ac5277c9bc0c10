"""The examples run, small, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import flawmap

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

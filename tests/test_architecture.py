"""Every module has a room, files are short, the public surface is what it says, and imports stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flawmap

SOURCE = Path(flawmap.__file__).parent

ROOMS = (
    "core",
    "imaging",
    "nets",
    "data",
    "methods",
    "scoring",
    "evaluation",
    "reporting",
    "service",
    "cluster",
    "commands",
)
LONGEST = 400  # lines of a file


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room: str) -> None:
    """Each room's own docstring: what it is, what comes in and goes out, and which rooms it calls."""
    source = ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))
    text = (ast.get_docstring(source) or "").splitlines()
    assert len(text) == 4
    assert "come" in text[2]
    assert "out." in text[2]
    assert text[3].startswith("It calls ")
    assert len(source.body) == 1


def test_every_module_is_in_a_room() -> None:
    """The package itself holds its public names and nothing else."""
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"__pycache__"} == set(ROOMS)


def test_no_file_is_long() -> None:
    """A file that grows beyond 400 lines has two subjects."""
    files = [*SOURCE.rglob("*.py"), *(SOURCE.parent / "paper").rglob("*.py")]
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_only_some_modules_need_opencv() -> None:
    """Scoring and training need torch and NumPy; OpenCV is for images, regions and pictures."""
    using = {path.parent.name for path in SOURCE.rglob("*.py") if "import cv2" in path.read_text(encoding="utf-8")}
    assert using <= {"imaging", "reporting"}


def test_public_surface() -> None:
    """`__all__` is the public surface: every name in it loads, and `dir` lists nothing else."""
    for name in flawmap.__all__:
        assert getattr(flawmap, name) is not None
    assert [name for name in dir(flawmap) if not name.startswith("_")] == sorted(flawmap.__all__)


def test_unknown_name() -> None:
    """A name that is not there is an AttributeError that lists those that are."""
    with pytest.raises(AttributeError, match="has no attribute 'Detecter'; its names are Artifact, "):
        _ = flawmap.Detecter


def loaded_after(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after some code."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


EXTRAS = {"tensorboard", "onnx", "onnxruntime", "openvino", "skimage", "sklearn"}
HEAVY = {"torch", "matplotlib", "cv2", "numpy", "scipy"} | EXTRAS


def test_import_is_cheap() -> None:
    """`import flawmap` loads neither torch nor matplotlib nor any extra."""
    assert not HEAVY & loaded_after("import flawmap")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "--minutes", "soon"],
        ["inspect"],
        ["train", "x", "--steps", "0"],
        ["train", "x", "--patch", "100"],
        ["train", "--show-config"],
        ["nonsense"],
    ],
)
def test_help_and_argument_errors_do_not_load_torch(arguments: list[str]) -> None:
    """Help and argument errors answer at once, without importing torch."""
    loaded = loaded_after(f"from flawmap.commands.cli import main\nmain({arguments!r})")
    assert not {"torch", "matplotlib", "cv2"} & loaded


WITH_TORCH = {
    "core": {"device", "distributed"},
    "nets": {
        *("adversarial", "autoencoder", "backbone", "convolution", "export", "filters", "initialisation", "layers"),
        *("onnx_model", "pretrained", "resnet", "ssim", "transposed", "variational"),
    },
    "evaluation": {"agreement", "choice", "evidence"},
    "commands": {
        *("demo", "export", "fleet", "fleet_file", "fleet_steps", "retrain", "train", "trials"),
    },
}
"""Modules that may import torch, in rooms whose others may not: a room that is not listed has none."""


def test_what_an_exported_model_needs_is_free_of_torch() -> None:
    """Whatever reads, scores, decides, draws, serves and writes is imported without torch."""
    modules = [
        f"flawmap.{room}.{path.stem}"
        for room in ROOMS
        for path in (SOURCE / room).glob("*.py")
        if room not in ("methods", "cluster") and path.stem not in {"__init__", *WITH_TORCH.get(room, ())}
    ]
    modules.append("flawmap.methods.reconstruction")
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    assert "torch" not in loaded_after(code)


def test_using_the_library_loads_no_extra() -> None:
    """A detector loads without matplotlib and without any extra."""
    assert not ({"matplotlib"} | EXTRAS) & loaded_after("import flawmap\nflawmap.Detector")


def test_silent_by_default() -> None:
    """As a library flawmap logs under its own name and prints nothing unless told to."""
    code = "import flawmap, logging; logging.getLogger('flawmap.methods.gradient').warning('quiet'); print('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("end\n", "")

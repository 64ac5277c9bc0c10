"""The house holds: imports go down the floors, the public surface is what it says, and imports stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flawmap

SOURCE = Path(flawmap.__file__).parent

# Modules of one floor do not import each other, but for the few that are written as a row: a < b < c on one floor.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "models.transposed", "workers"),
    ("files", "records", "config", "reproduction", "reproduction.claims"),
    ("checks", "blur", "models.autoencoder", "weights", "borders", "bands", "segments", "stores", "reproduction.plan"),
    (
        "decoders",
        "bigtiff",
        "hardware",
        "ssim",
        "tiling",
        "regions",
        "synthetic",
        "flaws",
        "plots",
        "sampling",
        "spoiling",
        "features",
    ),
    (
        "images",
        "losses",
        "residuals",
        "histograms",
        "lists",
        "models.variational",
        "reproduction.panels",
        "reproduction.drawings",
    ),
    ("layouts", "splits", "interest", "metrics", "models.initialisation", "reproduction.paper"),
    ("datasets", "models", "bootstrap"),
    ("methods", "sources"),
    ("artifact", "checkpoint", "novelty", "reports", "engines"),
    ("detector", "training", "reproduction.tables"),
    ("calibration", "huge", "reproduction.page"),
    ("evaluation", "reproduction.patch_pairs", "reproduction.checkerboards", "reproduction.timing"),
    ("pages", "reproduction.examples"),
    ("jobs",),
    ("demo", "reproduction.runs"),
    ("terminal", "reproduction.reproduce"),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"}


def imports_of(path: Path) -> set[str]:
    """The flawmap modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flawmap":
            inside = node.module.removeprefix("flawmap").removeprefix(".")
            names = {f"{inside}.{alias.name}".strip(".") for alias in node.names}
            found |= {name for name in names if name in MODULES} or {inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("flawmap.") for alias in node.names if alias.name.startswith("flawmap")}
    return found


def test_every_module_has_a_floor() -> None:
    """A new module is given its place before it is used."""
    assert set(MODULES) == set(FLOOR)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    """A module imports only from lower floors, and never the package itself."""
    for imported in imports_of(MODULES[name]):
        assert imported != "", f"{name} imports flawmap itself"
        assert FLOOR[imported] < FLOOR[name], f"{name} (floor {FLOOR[name]}) imports {imported} ({FLOOR[imported]})"


def test_only_some_modules_need_opencv() -> None:
    """Scoring and training need torch and NumPy; OpenCV is for images, regions and pictures."""
    using = {name for name, path in MODULES.items() if "import cv2" in path.read_text(encoding="utf-8")}
    assert using <= {"images", "decoders", "regions", "plots", "interest", "reports"}


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
        ["train", "x", "--latent", "0"],
        ["train", "x", "--patch", "100"],
        ["train", "--show-config"],
        ["nonsense"],
    ],
)
def test_help_and_argument_errors_do_not_load_torch(arguments: list[str]) -> None:
    """Help and argument errors answer at once, without importing torch."""
    loaded = loaded_after(f"from flawmap.cli import main\nmain({arguments!r})")
    assert not {"torch", "matplotlib", "cv2"} & loaded


def test_using_the_library_loads_no_extra() -> None:
    """A detector loads without matplotlib and without any extra."""
    assert not ({"matplotlib"} | EXTRAS) & loaded_after("import flawmap\nflawmap.Detector")


def test_silent_by_default() -> None:
    """As a library flawmap logs under its own name and prints nothing unless told to."""
    code = "import flawmap, logging; logging.getLogger('flawmap.training').warning('quiet'); print('end')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("end\n", "")

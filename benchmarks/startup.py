"""How long a program waits before flawmap answers: imports, help, an argument that is wrong, and the first verdict of
`flawmap inspect`, each a new process.

    python benchmarks/startup.py [--repeats 7] [--before SRC] [--json FILE]

"times" is how many times as fast as `import torch`, which nothing of the first table needs; in the tables of first
verdicts, as fast as the model file by PyTorch. A first verdict is the first line of `inspections.jsonl`; "end" is the
end of the command, after the pages, and "MiB" the most resident memory. SRC: the `src` of another version, which takes
turns.

Python's caches of compiled modules are on, in a folder of their own, and filled before anything is measured.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from measuring import Row, medians, parsed, parser, report

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "python itself": ["-c", ""],
    "import flawmap": ["-c", "import flawmap"],
    "flawmap --help": ["-m", "flawmap", "--help"],
    "flawmap train --help": ["-m", "flawmap", "train", "--help"],
    "flawmap train --steps x": ["-m", "flawmap", "train", "here", "--steps", "x"],
    "flawmap inspect --help": ["-m", "flawmap", "inspect", "--help"],
}
SIZES = {"256 x 256": (256, 256), "1024 x 696": (696, 1024)}
MODELS = {"PyTorch": "cloth.flawmap", "ONNX Runtime": "cloth.onnx", "OpenVINO": "cloth.xml"}
LOOK = 0.002  # seconds between two looks for the first line


class Waited(NamedTuple):
    verdict: float  # seconds until the first line
    end: float  # seconds until the command ended
    peak: float  # MiB, resident


def inspected(model: Path, image: Path, out: Path, environment: Mapping[str, str]) -> Waited:
    """One run of `flawmap inspect` in a process of its own."""
    command = [sys.executable, "-m", "flawmap", "inspect", str(model), str(image), "-o", str(out), "-q"]
    rows, started = out / "inspections.jsonl", time.perf_counter()
    child = subprocess.Popen(command, env=environment)
    while not (rows.exists() and b"\n" in rows.read_bytes()):
        if child.poll() is not None:
            raise subprocess.CalledProcessError(child.returncode, command)
        time.sleep(LOOK)
    verdict = time.perf_counter() - started
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return Waited(verdict, time.perf_counter() - started, used.ru_maxrss / 1024)


def first_verdicts(folder: Path, environments: Mapping[str, Mapping[str, str]], repeats: int) -> list[Row]:
    """The median of each model, image and version, which take turns."""
    works = {
        (size, f"{engine}{version}"): (folder / model, folder / f"{size}.png", environment)
        for size in SIZES
        for engine, model in MODELS.items()
        for version, environment in environments.items()
    }
    taken: dict[tuple[str, str], list[Waited]] = {key: [] for key in works}
    for repeat in range(1 + repeats):  # the first one does not count
        for key, (model, image, environment) in works.items():
            with tempfile.TemporaryDirectory() as out:
                waited = inspected(model, image, Path(out), environment)
            if repeat:
                taken[key].append(waited)
    return [_row(*key, found) for key, found in taken.items()]


def _row(size: str, variant: str, found: Sequence[Waited]) -> Row:
    verdict, end, peak = (statistics.median(values) for values in zip(*found, strict=True))
    slowest = max(waited.verdict for waited in found)
    figures = {"slowest ms": 1e3 * slowest, "end ms": 1e3 * end, "MiB": peak}
    return Row("startup", f"first verdict, {size}", variant, 1e3 * verdict, figures=figures)


def prepare(folder: Path) -> None:
    """A model of cloth with evidence, which a short training has made, its exports, and an image of each size."""
    import flawmap  # noqa: PLC0415 - not before imports are measured
    from flawmap.commands.export import export  # noqa: PLC0415
    from flawmap.data.synthetic import good_images  # noqa: PLC0415
    from flawmap.imaging.writing import write_image  # noqa: PLC0415
    from flawmap.methods.overrides import override  # noqa: PLC0415

    def drawn(path: Path, size: tuple[int, int], seed: int) -> None:
        (image,) = good_images("cloth", 1, size, seed)
        write_image(path, np.rint(image[:, :, 0] * 255).astype(np.uint8))

    for seed in range(12):
        drawn(folder / "good" / f"{seed}.png", (256, 256), seed)
    for name, size in SIZES.items():
        drawn(folder / f"{name}.png", size, 100)
    short = {
        "training": {"steps": 20, "batch": 8, "device": "cpu", "precision": "float32"},
        "evidence": {"enabled": True},
        "split": {"validation": 0.3},
    }
    flawmap.train(folder / "good", folder / "cloth.flawmap", override(flawmap.preset("fast"), short))
    for form in ("onnx", "openvino"):
        export(folder / "cloth.flawmap", [folder / "256 x 256.png"], form)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, repeats=7)
    options.add_argument("--before", type=Path, metavar="SRC", help="the `src` of another version")
    given = parsed(options, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        here |= {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        works = {
            name: partial(subprocess.run, [sys.executable, *command], capture_output=True, check=False, env=here)
            for name, command in COMMANDS.items()
        }
        rows = medians("startup", "a new process", works, given.repeats, warm=1)
        (folder / "good").mkdir()
        prepare(folder)
        environments = {"": here}
        if given.before is not None:
            environments |= {", before": here | {"PYTHONPATH": str(given.before.resolve())}}
        rows += first_verdicts(folder, environments, given.repeats)
    report(rows, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())

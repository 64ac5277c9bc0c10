"""How long a program waits before flawmap answers: imports, help, an argument that is wrong, and the first verdict of
`flawmap inspect`, each a new process.

    python benchmarks/startup.py [--repeats 7] [--models FOLDER] [--before SRC] [--json FILE]

"times" is how many times as fast as `import torch`, which nothing of the first table needs; in the tables of first
verdicts, as fast as the model file by PyTorch. A first verdict is the first line of `inspections.jsonl`; "CPU" is what
all threads used until then, "end" the end of the command, after the pages, and "MiB" the most resident memory. "encoder
once": `tiling.encoder=image` at a stride of 64. SRC: the `src` of another version, which takes turns. On Linux alone.

Python's caches of compiled modules are on, in a folder of their own, and filled before anything is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
MODELS = {
    "PyTorch": "cloth.flawmap",
    "ONNX Runtime": "cloth.onnx",
    "OpenVINO": "cloth.xml",
    "ONNX Runtime, encoder once": "once.onnx",
}

WATCHER = """
import json, os, resource, subprocess, sys, time
rows, *command = sys.argv[1:]
started = time.perf_counter()
child = subprocess.Popen(command)
while not (os.path.exists(rows) and os.path.getsize(rows)):
    if child.poll() is not None:
        sys.exit("no verdict")
    time.sleep(0.002)
verdict = time.perf_counter() - started
figures = open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()
used = (int(figures[11]) + int(figures[12])) / os.sysconf("SC_CLK_TCK")
code = child.wait()
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([verdict, used, time.perf_counter() - started, peak]))
sys.exit(code)
"""
"""Starts a command and looks for its first line. Small itself: a child's peak is at least that of who started it."""


class Waited(NamedTuple):
    verdict: float  # seconds until the first line
    used: float  # seconds of the processor until then, of all threads
    end: float  # seconds until the command ended
    peak: float  # MiB, resident


def inspected(model: Path, image: Path, environment: Mapping[str, str]) -> Waited:
    """One run of `flawmap inspect` in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        inspect = [sys.executable, "-m", "flawmap", "inspect", str(model), str(image), "-o", out, "-q"]
        command = [sys.executable, "-S", "-c", WATCHER, str(Path(out) / "inspections.jsonl"), *inspect]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Waited(*json.loads(done.stdout))


def first_verdicts(folder: Path, environments: Mapping[str, Mapping[str, str]], repeats: int) -> list[Row]:
    """The median of each model, image and version, which take turns."""
    works = {
        (size, f"{engine}{version}"): (folder / model, folder / f"{size}.png", environment)
        for size in SIZES
        for engine, model in MODELS.items()
        for version, environment in environments.items()
        if engine != "PyTorch" or not version  # whose start has not changed
    }
    taken: dict[tuple[str, str], list[Waited]] = {key: [] for key in works}
    for repeat in range(1 + repeats):  # the first one does not count
        for key, (model, image, environment) in works.items():
            waited = inspected(model, image, environment)
            if repeat:
                taken[key].append(waited)
    return [_row(*key, found) for key, found in taken.items()]


def _row(size: str, variant: str, found: Sequence[Waited]) -> Row:
    verdict, used, end, peak = (statistics.median(values) for values in zip(*found, strict=True))
    slowest = max(waited.verdict for waited in found)
    figures = {"slowest ms": 1e3 * slowest, "CPU ms": 1e3 * used, "end ms": 1e3 * end, "MiB": peak}
    return Row("startup", f"first verdict, {size}", variant, 1e3 * verdict, figures=figures)


def prepare(folder: Path) -> None:
    """A model of cloth with evidence, which a short training has made, its exports, and an image of each size."""
    import flawmap  # noqa: PLC0415 - not before imports are measured
    from flawmap.commands.export import export  # noqa: PLC0415
    from flawmap.data.synthetic import good_images  # noqa: PLC0415
    from flawmap.imaging.writing import write_image  # noqa: PLC0415
    from flawmap.methods.overrides import override  # noqa: PLC0415
    from flawmap.scoring.model_file import load_artifact, save_artifact  # noqa: PLC0415

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
    artifact = load_artifact(folder / "cloth.flawmap")
    once = override(artifact.config, {"tiling": {"encoder": "image", "stride": 64}})
    save_artifact(replace(artifact, config=once), folder / "once.flawmap")
    shown = [folder / "256 x 256.png"]
    export(folder / "cloth.flawmap", shown, "openvino")
    for name in ("cloth", "once"):
        export(folder / f"{name}.flawmap", shown, "onnx")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, repeats=7)
    options.add_argument("--models", type=Path, help="folder that keeps the models for the next run")
    options.add_argument("--before", type=Path, metavar="SRC", help="the `src` of another version")
    given = parsed(options, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = given.models or Path(name)
        here = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        here |= {"PYTHONPYCACHEPREFIX": str(Path(name) / "compiled")}
        works = {
            name: partial(subprocess.run, [sys.executable, *command], capture_output=True, check=False, env=here)
            for name, command in COMMANDS.items()
        }
        rows = medians("startup", "a new process", works, given.repeats, warm=1)
        if not (folder / "once.onnx").exists():
            (folder / "good").mkdir(parents=True)
            prepare(folder)
        environments = {"": here}
        if given.before is not None:
            environments |= {", before": here | {"PYTHONPATH": str(given.before.resolve())}}
        rows += first_verdicts(folder, environments, given.repeats)
    report(rows, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Many tiny images through `flawmap inspect --ray`: does the memory stay level, and does every image get its row?

    python benchmarks/archive_soak.py --images 200000
    python benchmarks/archive_soak.py --images 20000 --actors 2 --json soak.json

Images are hard links to a hundred files, 1,000 in a folder, and every 500th is torn. The exit code is 1 where a row is
lost or comes twice. Memory is resident and in MiB, of the process that was started, of the largest detector, of all
readers and other workers, and of Ray's own processes (without its object store, which stands beside).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

import flawmap
from flawmap.cluster.archive import score_archive
from flawmap.cluster.parts import read_scores
from flawmap.cluster.workers import Workers
from flawmap.core.events import Events
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from measuring import Row, parsed, parser, report

MIB, SIDE, FILES, FOLDER, TORN = 2**20, 64, 100, 1000, 500
TINY = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 32},
    "training": {"steps": 20, "batch": 8, "device": "cpu", "precision": "float32"},
}


class Samples(Events):
    """Looks at the memory of all processes now and then, as images are done."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._start, self._last = seconds, time.monotonic(), 0.0
        self.rows: list[dict[str, float]] = []

    def progress(self, done: int, total: int, what: str) -> None:
        now = time.monotonic() - self._start
        if now - self._last < self._seconds and done < total:
            return
        before = self.rows[-1] if self.rows else {"seconds": 0.0, "images": 0.0}
        speed = (done - before["images"]) / max(now - before["seconds"], 1e-9)
        row = {"seconds": now, "images": float(done), "images/s": speed} | memory()
        if not self.rows:
            print("".join(f"{name:>10}" for name in row))
        print("".join(f"{value:10,.0f}" for value in row.values()), flush=True)
        self._last = now
        self.rows.append(row)


def memory() -> dict[str, float]:
    """MiB of the processes of this run, by their role, and of shared memory in use."""
    me = psutil.Process()
    found = {"driver": me.memory_info().rss, "detector": 0, "others": 0, "ray": 0}
    for one in me.children(recursive=True):
        try:
            name, used = " ".join(one.cmdline()), one.memory_info()
        except psutil.Error:
            continue
        own = used.rss - used.shared
        if "MapWorker" in name:
            found["detector"] = max(found["detector"], own)
        else:
            found["others" if name.startswith("ray::") else "ray"] += own
    found["store"] = shutil.disk_usage("/dev/shm").used if Path("/dev/shm").exists() else 0
    return {name: size / MIB for name, size in found.items()}


def archive_at(folder: Path, count: int) -> None:
    """The images; paths differ, bytes repeat."""
    seeds = folder / "seeds"
    seeds.mkdir(parents=True)
    for number, image in enumerate(good_images("cloth", FILES, (SIDE, SIDE), 0)):
        write_image(seeds / f"{number}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    (seeds / "torn.png").write_bytes((seeds / "0.png").read_bytes()[:200])
    for number in range(count):
        below = folder / "images" / f"{number // FOLDER:04d}"
        below.mkdir(parents=True, exist_ok=True)
        source = "torn.png" if number % TORN == TORN - 1 else f"{number % FILES}.png"
        os.link(seeds / source, below / f"{number:07d}.png")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=200_000)
    options.add_argument("--actors", type=int, help="detectors; default: as many as there is room for")
    options.add_argument("--every", type=float, default=30.0, help="seconds between two looks at the memory")
    given = parsed(options, arguments)
    with tempfile.TemporaryDirectory(prefix="flawmap-soak-") as name:
        work = Path(name)
        archive_at(work, given.images)
        model = work / "tiny.flawmap"
        flawmap.train(work / "seeds", model, override(preset("fast", "ssim"), TINY), skip_unreadable=True)
        samples = Samples(given.every)
        summary = score_archive(
            model,
            [work / "images"],
            work / "out",
            workers=Workers(actors=given.actors),
            runtime=Runtime("cpu", "float32"),
            events=samples,
        )
        paths = read_scores(work / "out", ["path"])["path"].to_pylist()
    torn = given.images // TORN
    lost, twice = given.images - len(set(paths)), len(paths) - len(set(paths))
    wrong = summary.unreadable - torn
    print(f"{len(paths):,} rows, {lost} lost, {twice} twice, {summary.unreadable} of {torn} torn images with an error")
    print(f"{summary.scored / summary.seconds:.0f} images/s, detectors busy {summary.utilisation or 0:.0%}")
    figures = {**samples.rows[-1], "images/s": summary.scored / summary.seconds}
    report([Row("archive", f"{given.images} images", "soak", 1e3 * summary.seconds, figures=figures)], given)
    return 1 if lost or twice or wrong else 0


if __name__ == "__main__":
    sys.exit(main())

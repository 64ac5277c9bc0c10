"""Patches from a file beside those from memory: a batch, a training step, and the memory that both ways take.

    python benchmarks/disk.py [--images 100] [--size 1024x700] [--folder DIR] [--threads N] [--json FILE]

Fibres like NanoTWICE's are written as 8-bit grey PNG, and a source of patches is opened over them as `flawmap train`
does it: once with memory for all of them, once with none. A step is all of it: batch of 32, forward, loss, backward,
update, with the preset `fast`. Durations are medians of repeats that take turns, "times" is how many times as fast as
memory. Warm: the file is in the operating system's cache of pages; cold: it is thrown out before every batch, where the
system can be told to. --folder names the disk. The memory is the largest resident one, as the system saw it, of a
process that opens the source and draws from it, beside that of one that only imports what is needed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flawmap.core.device import peak_memory
from flawmap.core.settings import ImageSettings
from flawmap.data.loading import open_patches
from flawmap.data.patches import PatchSource
from flawmap.data.splits import ImageRegion
from flawmap.data.synthetic import texture
from flawmap.imaging.writing import write_image
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from measuring import Row, parsed, parser, report
from step import flawmap_step

BATCH, SEED, TEXTURES, DRAWN = 32, 0, 3, 20
BUDGETS = {"memory": 10**15, "disk": 0}  # bytes
MIB = 2**20

Work = Callable[[], float]
"""Seconds of what is to be timed, and nothing else."""


def write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """PNG files of a few textures, each moved down by another number of rows."""
    fibres = [np.rint(texture("fibres", size, seed)[:, :, 0] * 255).astype(np.uint8) for seed in range(TEXTURES)]
    for number in range(count):
        write_image(folder / f"{number:05d}.png", np.roll(fibres[number % TEXTURES], 7 * number, axis=0))


@contextmanager
def opened(folder: Path, where: str, patch: int) -> Iterator[tuple[PatchSource, Path]]:
    """A source over a folder's images, and the file that it reads from, unless it is memory."""
    areas, path = [ImageRegion(file, "") for file in sorted(folder.glob("*.png"))], folder / f"{where}.patches"
    settings = ImageSettings()
    with open_patches(areas, settings, patch, budget=BUDGETS[where], path=path) as (
        source,
        _,
    ):
        yield source, path


def batch_of(source: PatchSource, before: Callable[[], None] = lambda: None) -> Work:
    """Batches, each of other patches. before: done each time, and not timed."""
    rng = np.random.default_rng(SEED)

    def work() -> float:
        before()
        drawn = source.draw(BATCH, rng)
        started = time.perf_counter()
        source.cut(drawn)
        return time.perf_counter() - started

    return work


def step_of(source: PatchSource, patch: int) -> Work:
    """Steps of a training, as `fit` makes them."""
    config = override(preset("fast"), {"model": {"patch": patch, "channels": 1}, "training": {"batch": BATCH}})
    step = flawmap_step(build_network(config), source, config)

    def work() -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    return work


def thrown_out(path: Path) -> Callable[[], None] | None:
    """What throws a file out of the cache of pages; None where the system cannot be told to."""
    if not hasattr(os, "posix_fadvise"):
        return None

    def work() -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not on the disk yet stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return work


def timed(case: str, works: dict[str, Work], repeats: int) -> list[Row]:
    """A row for each work; repeats take turns, after two of each that do not count."""
    taken = [{name: 1e3 * work() for name, work in works.items()} for _ in range(repeats + 2)][2:]
    return [Row("disk", case, name, statistics.median(round_[name] for round_ in taken)) for name in works]


def durations(folder: Path, patch: int, repeats: int) -> list[Row]:
    with opened(folder, "memory", patch) as (memory, _), opened(folder, "disk", patch) as (disk, path):
        works = {"memory": batch_of(memory), "disk, warm": batch_of(disk)}
        batches = timed(f"{BATCH} patches", works, repeats)
        steps = timed("a step", {"memory": step_of(memory, patch), "disk, warm": step_of(disk, patch)}, repeats)
        cold = thrown_out(path)
        if cold is not None:  # apart from the others: the disk may still be busy when it is their turn
            batches += timed(f"{BATCH} patches", {"disk, cold": batch_of(disk, cold)}, repeats)
    for row in (*batches, *steps):
        assert row.milliseconds is not None
        assert steps[0].milliseconds is not None
        if row in batches:
            row.figures["% of a step"] = 100 * row.milliseconds / steps[0].milliseconds
        else:
            row.figures["patches/s"] = 1e3 * BATCH / row.milliseconds
    return [*batches, *steps]


def peaks(folder: Path, patch: int) -> list[Row]:
    """The largest resident memory of a process for each way, and of one that draws nothing."""
    rows = []
    for where in ("neither", *BUDGETS):
        command = [sys.executable, __file__, "--peak", where, "--patch", str(patch), "--folder", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except subprocess.CalledProcessError as error:
            rows.append(Row("disk", "resident memory", where, note=error.stderr.strip().rpartition("\n")[2]))
            continue
        rows.append(Row("disk", "resident memory", where, figures={"MiB": int(done.stdout) / MIB}))
    return rows


def print_peak(folder: Path, where: str, patch: int) -> None:
    """Bytes of resident memory at most, after opening a source and drawing from it."""
    if where in BUDGETS:
        with opened(folder, where, patch) as (source, _):
            for seed in range(DRAWN):
                source.sample(BATCH, np.random.default_rng(seed))
    print(peak_memory())


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=100)
    options.add_argument("--size", default="1024x700", help="of an image, WIDTHxHEIGHT, pixels")
    options.add_argument("--patch", type=int, default=128, help="side, pixels")
    options.add_argument("--folder", type=Path, help="on the disk to be measured [the system's for temporary files]")
    options.add_argument("--peak", choices=("neither", *BUDGETS), help=argparse.SUPPRESS)
    given = parsed(options, arguments)
    if given.peak is not None:
        print_peak(given.folder, given.peak, given.patch)
        return 0
    width, height = map(int, given.size.split("x"))
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_images(folder, given.images, (width, height))
        rows = [*durations(folder, given.patch, given.repeats), *peaks(folder, given.patch)]
    megabytes = round(4e-6 * given.images * width * height)
    report(rows, given, images=given.images, size=given.size, megabytes_as_float32=megabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

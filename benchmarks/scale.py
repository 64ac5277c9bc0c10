"""Archives on Ray: images a second beside `flawmap inspect`, sleeping detectors, and what 10 to 1,000 nodes may give.

    python benchmarks/scale.py [--repeats 3] [--images 128] [--sleepers 4,16,32,64] [--seconds 0.5] [--json FILE]

The same images go through `flawmap inspect` (masks; no overlays, no pages) and through `--ray`, in turns. Milliseconds
are those of one image from the first row on, when all detectors have started; "whole" is the run with its start, but
Ray itself has started before. Sleeping detectors take no core, so many of them fit on one machine: everything else
is the pipeline as it is. Their rate is compared with that of `scaling.expected`, which then tells of clusters.
"""

from __future__ import annotations

import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch

import flawmap
from flawmap.cluster.archive import ArchiveOutputs, score_archive
from flawmap.cluster.parts import part_files, read_scores
from flawmap.cluster.workers import Workers
from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.events import Events
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import save_artifact
from inspection import initialised
from measuring import Row, medians, parsed, parser, report
from scaling import Cluster, ImageCost, expected
from sleeping import light_reader, sleeper

SIZE, SEED, PLAIN = (192, 192), 0, Runtime("cpu", "float32")
DIFFERENT = 128  # images, at most; then they come again
START = 600  # seconds that detectors may take to start
GBIT = 1e9 / 8  # bytes
NODES = (10, 100, 1000)
NODE = {"detectors_per_node": 16, "node_network": 10 * GBIT, "storage": 100 * GBIT, "disk": 500e6}


class Clock(Events):
    """When each image was told, and the seconds of a core that this process had taken by then."""

    def __init__(self) -> None:
        self.start, self.times, self.used = time.perf_counter(), list[float](), list[float]()

    def progress(self, done: int, total: int, what: str) -> None:
        self.times.append(time.perf_counter() - self.start)
        self.used.append(time.process_time())

    def seconds(self, actors: int = 0) -> float:
        """Of an image, from the first row on. actors: that began together; a block of rows of each is done by then."""
        from flawmap.cluster.stream import FILES_AT_ONCE  # noqa: PLC0415 - of the extra

        count = len(self.times)
        done = actors * max(1, min(FILES_AT_ONCE, count // (4 * actors))) if actors else 1
        return (self.times[-1] - self.times[0]) / (count - done)

    def driver(self) -> float:
        """Of a core of this process, for an image."""
        return (self.used[-1] - self.used[0]) / len(self.used)


class Set(NamedTuple):
    """A model and the images that it scores."""

    model: Path
    images: Path


def written_set(folder: Path, count: int) -> Set:
    (folder / "images").mkdir()
    images = list(good_images("fibres", min(count, DIFFERENT), SIZE, SEED))
    for number in range(count):
        image = images[number % DIFFERENT]
        write_image(folder / "images" / f"{number:04d}.png", np.rint(image * 255).astype(np.uint8))
    save_artifact(initialised(images[:5]), folder / "model.flawmap")
    return Set(folder / "model.flawmap", folder / "images")


@contextmanager
def ray_of(cpus: int) -> Iterator[None]:
    import ray  # noqa: PLC0415 - of the extra

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def together() -> None:
    """All detectors have started before the first of them begins."""
    from ray.data import DataContext  # noqa: PLC0415 - of the extra

    DataContext.get_current().wait_for_min_actors_s = START


def plain(given: Set, out: Path, threads: int) -> Clock:
    torch.set_num_threads(threads)
    clock = Clock()
    outputs = InspectionOutputs(overlays=False)
    flawmap.inspect(given.model, [given.images], out, outputs=outputs, runtime=PLAIN, report=False, events=clock)
    return clock


def by_ray(given: Set, out: Path, actors: int) -> Clock:
    clock = Clock()
    together()
    masks = ArchiveOutputs(masks=True)
    workers = Workers(actors=actors)
    score_archive(given.model, [given.images], out, workers=workers, outputs=masks, runtime=PLAIN, events=clock)
    return clock


def against_plain(given: Set, work: Path, repeats: int) -> list[Row]:
    """One and two detectors beside as many threads, in turns."""
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for cores in (1, 2):
            clocks = {
                "flawmap inspect": (plain(given, emptied(work / "plain"), cores), 0),
                f"--ray, detectors: {cores}": (by_ray(given, emptied(work / "out"), cores), cores),
            }
            for variant, (clock, actors) in clocks.items():
                taken.setdefault((f"cores: {cores}", variant), []).append((clock.seconds(actors), clock.times[-1]))
    rows = []
    for (case, variant), found in taken.items():
        seconds, whole = (statistics.median(values) for values in zip(*found, strict=True))
        figures = {"images/s": 1 / seconds, "whole s": whole, "least ms": 1e3 * min(found)[0]}
        rows.append(Row("scale", case, variant, 1e3 * seconds, figures=figures))
    return rows


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def simulated(given: Set, out: Path, sleepers: int, seconds: float) -> Clock:
    """A run with sleeping detectors."""
    clock, stages = Clock(), "flawmap.cluster.stages"
    with (
        ray_of(sleepers),
        patch(f"{stages}.ScoreImages", sleeper(seconds)),
        patch(f"{stages}.read_files", light_reader()),
    ):
        together()
        score_archive(given.model, [given.images], out, workers=Workers(actors=sleepers), runtime=PLAIN, events=clock)
    return clock


def simulations(work: Path, counts: Sequence[int], seconds: float, images_each: int) -> tuple[list[Row], float]:
    """Rows of sleeping detectors beside what the model expects of them, and the driver's seconds for an image."""
    rows, driver = [], 0.0
    for count in counts:
        folder = work / f"sleepers-{count}"
        folder.mkdir()
        given = written_set(folder, count * images_each)
        clock = simulated(given, folder / "out", count, seconds)
        driver = clock.driver()
        cost = ImageCost(seconds, 0.0, driver, 1.0, 1.0)
        model = expected(cost, Cluster(1, count, 1e12, 1e12, 1e12))
        rate = 1 / clock.seconds(count)
        figures = {"images/s": rate, "expected": model.rate, "of it": rate / model.rate, "driver ms": 1e3 * driver}
        rows.append(Row("scale", f"sleeping {seconds:g} s", f"{count} detectors", 1e3 / rate, figures=figures))
        shutil.rmtree(folder)
    return rows, driver


def costs(given: Set, out: Path, driver: float, whole: float, actors: int) -> tuple[list[Row], ImageCost]:
    """What one image takes, part by part. out: of a run with masks; whole: seconds of an image in that run."""
    detector = Detector.load(given.model, PLAIN)
    path = next(iter(sorted(given.images.iterdir())))
    rows = medians("scale", "one image", {"decoding": lambda: detector.read(path)}, 7)
    scored = float(np.mean(read_scores(out)["seconds"].to_pylist()))
    overhead = max(0.0, actors * whole - scored)
    count = len(list(given.images.iterdir()))
    read, written = path.stat().st_size, sum(part.stat().st_size for part in part_files(out)) / count
    masks = sum(mask.stat().st_size for mask in (out / "masks").rglob("*.png")) / count
    rows[0].figures = {"bytes read": read, "bytes of its row": written, "bytes of its mask": masks}
    parts = {"detector, with decoding": scored, "overhead of a detector": overhead, "driver": driver}
    rows += [Row("scale", "one image", name, 1e3 * seconds) for name, seconds in parts.items()]
    return rows, ImageCost(scored, overhead, driver, read, written)


def clusters(cost: ImageCost) -> list[Row]:
    rows = []
    for nodes in NODES:
        found = expected(cost, Cluster(nodes, **NODE))  # type: ignore[arg-type]
        figures = {"images/s": found.rate, "read MB/s": found.read / 1e6, "written MB/s": found.written / 1e6}
        rows.append(Row("scale", "expected", f"{nodes} nodes", figures=figures, note=f"limit: {found.limit}"))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, repeats=3)
    options.add_argument("--images", type=int, default=128)
    options.add_argument("--sleepers", default="4,16,32,64", help="numbers of sleeping detectors")
    options.add_argument("--seconds", type=float, default=0.5, help="that each sleeps for an image")
    options.add_argument("--each", type=int, default=32, help="images for each sleeping detector")
    given = parsed(options, arguments)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        some = written_set(work, given.images)
        with ray_of(2):
            rows = against_plain(some, work, given.repeats)
        slept, driver = simulations(work, list(map(int, given.sleepers.split(","))), given.seconds, given.each)
        parts, cost = costs(some, work / "out", driver, (rows[-1].milliseconds or 0.0) / 1e3, 2)
    report([*rows, *slept, *parts, *clusters(cost)], given, cost=cost._asdict())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One image in a warm process: how long it takes to its verdict, and which stage takes what of it.

    python benchmarks/latency.py [--repeats 200] [--seconds 30] [--stages 15] [--size 1024x696] [--json FILE]

A model of table 1 with 500 latent dimensions is initialised on fibres like NanoTWICE's and scores by evidence, as the
preset `auto` has it: two residuals at four scales, all eight with the same weight. The image has pasted defects; its
threshold and its mask's level are the highest thousandth and hundredth of its own map. Each way of scoring (patch by
patch at strides 30 and 84, the encoder once at stride 64) is measured on one thread and on two: from a file (PNG), from
its bytes and from an array to the verdict with mask and regions, in turns, and the file with its mask and overlay
written, on the same thread. ms is p50; it and p99 are of so many repeats as fit into the seconds for each way and
number of threads ("of"); of fewer than 100, p99 is the slowest.

Stages are told apart by `stages.py`: core milliseconds on one thread, medians of repeats. "unwatched" is the same
work's without that, by the same clock, in turns; so it says what the watching costs and whether the stages add up.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from flawmap.commands.inspect import _inspect_item
from flawmap.commands.inspection_items import Item
from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.files import sha256_of
from flawmap.core.runtime import Runtime
from flawmap.data.defects import add_flaws
from flawmap.data.splits import ImageRegion
from flawmap.data.synthetic import good_images
from flawmap.evaluation.evidence import evidence_from_good
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from flawmap.scoring.operating_point import OperatingPoint
from inspection import LATENT, SEED, initialised
from measuring import Row, Work, parsed, parser, report
from stages import REST, staged

WAYS = {
    "patch by patch, stride 30": {"encoder": "patches", "stride": 30},
    "patch by patch, stride 84": {"encoder": "patches", "stride": 84},
    "encoder once, stride 64": {"encoder": "image", "stride": 64},
}
THREADS = (1, 2)
GOOD_SIDE = 256  # pixels, of the images that the evidence is measured on
REFERENCE = "file"
ABOVE = 1e-3, 1e-2  # share of the image's pixels above the threshold, and above the mask's level


def fitted(artifact: Artifact, tiling: Mapping[str, object], good: Sequence[ImageRegion]) -> Artifact:
    """The model scored in this way, by evidence that was measured on good images."""
    settings = {"evidence": {"enabled": True}, "tiling": {**tiling, "weights": "hann"}}
    changed = replace(artifact, config=override(artifact.config, settings))
    return changed.with_evidence(evidence_from_good(Detector.of(changed, Runtime("cpu")), good, good))


def written(folder: Path, images: Sequence[NDArray[np.float32]]) -> list[ImageRegion]:
    """Images as PNG files."""
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_image(path, np.rint(image * 255).astype(np.uint8))
    return [ImageRegion(path, sha256_of(path)) for path in paths]


def deciding(artifact: Artifact, path: Path) -> Detector:
    """With a threshold and a mask's level among the values of an image's map."""
    detector = Detector.of(artifact, Runtime("cpu"))
    opened = detector.inspect(path, threshold=np.inf).residual
    threshold, level = np.quantile(opened, [1 - share for share in ABOVE])
    point = OperatingPoint(threshold=float(threshold), mask=float(level))
    return Detector.of(artifact.with_point(point, calibration={}), Runtime("cpu"))


def works_of(detector: Detector, path: Path, work: Path) -> dict[str, Work]:
    content, pixels = path.read_bytes(), detector.read(path).pixels
    item, outputs = Item(path, None, Path("image")), InspectionOutputs()

    def files() -> None:
        _, writing = _inspect_item(detector, item, work / "out", outputs)
        writing()

    return {
        REFERENCE: lambda: detector.inspect(path),
        "bytes": lambda: detector.inspect(content),
        "array": lambda: detector.inspect(pixels),
        "file, written": files,
    }


@contextmanager
def on_threads(number: int) -> Iterator[None]:
    """Of torch and OpenCV."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(number)
    cv2.setNumThreads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def in_turns(works: Mapping[str, Work], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each work: at most so many repeats, until the seconds are over."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    end = time.perf_counter() + seconds
    while not taken[REFERENCE] or (len(taken[REFERENCE]) < repeats and time.perf_counter() < end):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            taken[name].append(1e3 * (time.perf_counter() - started))
    return taken


def latencies(way: str, works: Mapping[str, Work], threads: int, repeats: int, seconds: float) -> list[Row]:
    rows = []
    with on_threads(threads):
        for name, taken in in_turns(works, repeats, seconds).items():
            figures = {"p99": float(np.quantile(taken, 0.99, method="higher")), "of": len(taken)}
            case = f"{way}, {threads} thread{'s' * (threads > 1)}"
            rows.append(Row("latency", case, name, statistics.median(taken), figures=figures))
    return rows


def stages_of(way: str, work: Work, repeats: int) -> list[Row]:
    """Core milliseconds of each stage on one thread."""
    found: list[dict[str, float]] = []
    with on_threads(1):
        work()
        for _ in range(repeats):
            started = time.thread_time()
            work()
            unwatched = time.thread_time() - started
            with staged(time.thread_time) as stages, stages.stage(REST):
                work()
            found.append({**stages.seconds, "all stages": sum(stages.seconds.values()), "unwatched": unwatched})
    middle = {name: 1e3 * statistics.median(one.get(name, 0.0) for one in found) for name in found[-1]}
    return [
        Row("stages", way, name, figures={"ms": spent, "share": spent / middle["all stages"]})
        for name, spent in middle.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, repeats=200)
    options.add_argument("--seconds", type=float, default=30, help="for each way of scoring and number of threads")
    options.add_argument("--stages", type=int, default=15, help="repeats by which the stages are told apart")
    options.add_argument("--size", default="1024x696", help="of the image, WIDTHxHEIGHT, pixels")
    given = parsed(options, arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        width, height = map(int, given.size.split("x"))
        image = next(iter(good_images("fibres", 1, (width, height), SEED)))
        (shown,) = written(work, [add_flaws(image, SEED)[0]])
        (work / "good").mkdir()
        good = written(work / "good", list(good_images("fibres", 4, (GOOD_SIDE, GOOD_SIDE), SEED + 1)))
        artifact = initialised([image])
        for way, tiling in WAYS.items():
            detector = deciding(fitted(artifact, tiling, good), shown.path)
            works = works_of(detector, shown.path, work)
            for threads in THREADS:
                rows += latencies(way, works, threads, given.repeats, given.seconds)
            rows += stages_of(way, works["file, written"], given.stages)
    report(rows, given, precision=detector.precision_name, latent=LATENT, size=given.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A folder of many images through `flawmap inspect`: where its core seconds go, and whether its memory stays level.

    python benchmarks/folder.py --images 10000 [--side 512] [--no-evidence] [--plain] [--json FILE]
    python benchmarks/folder.py --images 60 --turns 5

The images are woven cloth, hard links to a hundred files. The model is that of `latency.py` with the encoder once an
image at stride 64, its threshold and its mask's level the highest thousandth and hundredth of the first image's map; it
scores by evidence, as the preset `auto` has it, unless told otherwise. Default outputs: masks, overlays and the report;
`--plain` leaves out overlays and report. Stages are told apart by `stages.py`: core seconds of all threads. Memory is
the process's own, MiB, resident, when a tenth, a half and all of the images are listed.

With `--turns`, two ways of writing take turns as often as that, without a report and without telling stages apart:
pictures by a thread of their own, and by the thread that inspected the image, as it was before; milliseconds of an
image, on all threads and on one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch

import flawmap
from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.events import Events
from flawmap.core.parallel import parallel_map
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.scoring.model_file import save_artifact
from inspection import SEED, initialised
from latency import GOOD_SIDE, WAYS, deciding, fitted, written
from measuring import Row, medians, parsed, parser, report
from stages import REST, staged

WAY, FILES, MIB = "encoder once, stride 64", 100, 2**20
LOOKS = 0.1, 0.5, 1.0  # of the images, when the memory is looked at


class Memory(Events):
    """The process's memory when a share of the images is listed, MiB."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def progress(self, done: int, total: int, what: str) -> None:
        for share in LOOKS:
            if done == max(1, round(share * total)):
                self.seen[f"MiB at {share:.0%}"] = psutil.Process().memory_info().rss / MIB


def folder_at(place: Path, count: int, side: int) -> Path:
    """So many images; their paths differ, their bytes repeat."""
    seeds, images = place / "seeds", place / "images"
    seeds.mkdir()
    images.mkdir()
    for number, image in enumerate(good_images("cloth", min(count, FILES), (side, side), SEED)):
        write_image(seeds / f"{number}.png", np.rint(image * 255).astype(np.uint8))
    for number in range(count):
        os.link(seeds / f"{number % FILES}.png", images / f"{number:06d}.png")
    return images


def model_at(place: Path, images: Path, *, evidence: bool) -> Path:
    """A model file, and what it is measured on beside it."""
    (place / "good").mkdir()
    good = written(place / "good", list(good_images("cloth", 4, (GOOD_SIDE, GOOD_SIDE), SEED + 1)))
    artifact = initialised(list(good_images("cloth", 2, (GOOD_SIDE, GOOD_SIDE), SEED + 2)))
    artifact = fitted(artifact, WAYS[WAY], good)
    if not evidence:
        config = override(artifact.config, {"evidence": {"enabled": False}})
        artifact = replace(artifact, config=config, evidence=None)
    path = place / "model.flawmap"
    save_artifact(deciding(artifact, min(images.iterdir())).artifact, path)
    return path


def whole(inspect: Callable[..., object], count: int) -> Row:
    """One run: seconds, images a second, shares of the core seconds, and memory."""
    memory, started, cores = Memory(), time.perf_counter(), time.process_time()
    with staged(time.thread_time) as stages:
        inspect(events=memory)
    seconds, spent = time.perf_counter() - started, time.process_time() - cores
    stages.seconds[REST] = spent - sum(stages.seconds.values())
    shares = {name: own / spent for name, own in sorted(stages.seconds.items(), key=lambda item: -item[1])}
    figures = {"images/s": count / seconds, "core ms an image": 1e3 * spent / count, **memory.seen, **shares}
    return Row("folder", f"{count} images", WAY, 1e3 * seconds / count, figures=figures)


def by_one_thread(
    first: Callable[[Any], Any], last: Callable[[Any], Any], items: Sequence[Any], **options: Any
) -> Iterator[Any]:
    """`pipelined_map` without its thread."""
    yield from parallel_map(lambda item: last(first(item)), items, **options)


def turns(inspect: Callable[..., object], count: int, repeats: int) -> list[Row]:
    """Both ways of writing, on all threads and on one, in turns; milliseconds of an image."""

    def before() -> None:
        with patch("flawmap.commands.inspect.pipelined_map", by_one_thread):
            inspect(report=False)

    rows = []
    for threads in dict.fromkeys((torch.get_num_threads(), 1)):
        usual = torch.get_num_threads()
        torch.set_num_threads(threads)
        rows += medians(
            "folder",
            f"{count} images, {threads} thread{'s' * (threads > 1)}",
            {"written by the same thread": before, "by a thread of its own": lambda: inspect(report=False)},
            repeats,
            warm=1,
        )
        torch.set_num_threads(usual)
    for row in rows:
        assert row.milliseconds is not None
        row.milliseconds /= count
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--side", type=int, default=512, help="of an image, pixels")
    options.add_argument("--no-evidence", action="store_true", help="the residual is mapped as it is")
    options.add_argument("--plain", action="store_true", help="no overlays and no report")
    options.add_argument("--turns", type=int, default=0, help="of both ways of writing, instead of one long run")
    given = parsed(options, arguments)
    with tempfile.TemporaryDirectory(prefix="flawmap-folder-") as name:
        place = Path(name)
        images = folder_at(place, given.images, given.side)
        inspect = partial(
            flawmap.inspect,
            model_at(place, images, evidence=not given.no_evidence),
            [images],
            place / "out",
            outputs=InspectionOutputs(overlays=not given.plain),
            runtime=Runtime("cpu"),
            report=not given.plain,
        )
        rows = turns(inspect, given.images, given.turns) if given.turns else [whole(inspect, given.images)]
    report(rows, given, side=given.side, evidence=not given.no_evidence, plain=given.plain)
    return 0


if __name__ == "__main__":
    sys.exit(main())

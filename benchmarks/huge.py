"""Two images that no memory should have to hold: how long `flawmap inspect` takes, and how much memory at most.

    python benchmarks/huge.py                          20,000 x 20,000 and 4,096 x 200,000: hours on a CPU
    python benchmarks/huge.py --square 4000 --strip 4096x20000
    python benchmarks/huge.py --stride 120 --residuals --folder DIR

Cloth, seeded and tiled, with a scratch at every eighth tile's height, is written as uncompressed grey 8-bit TIFF to a
temporary folder, a model is trained for a few steps, and each image is inspected by a process of its own. Its memory
is the largest resident one that the system saw.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from flawmap.config import override, preset
from flawmap.images import write_image
from flawmap.jobs import train
from flawmap.synthetic import texture
from measuring import watched

TILE = 512  # side of the piece of cloth that is repeated, pixels
GOOD = 6  # images to train on
GIB = 2**30


class Run(NamedTuple):
    """One inspection. peak: resident bytes. megapixels: of the image."""

    name: str
    megapixels: float
    seconds: float
    peak: int
    verdict: str
    regions: int


def rows_of(width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """The image in blocks of TILE rows; every eighth has a dark scratch."""
    cloth = np.rint(texture("cloth", (TILE, TILE), 0)[:, :, 0] * 255).astype(np.uint8)
    block = np.tile(cloth, (1, -(-width // TILE)))[:, :width]
    scratched = block.copy()
    scratched[TILE // 2 : TILE // 2 + 12, width // 3 : width // 3 + 200] = 20
    for number, top in enumerate(range(0, height, TILE)):
        yield (scratched if number % 8 == 3 else block)[: min(TILE, height - top)]


def write_huge(path: Path, width: int, height: int) -> None:
    """One strip after the other, uncompressed."""
    tifffile.imwrite(
        path,
        rows_of(width, height),
        shape=(height, width),
        dtype=np.uint8,
        rowsperstrip=TILE,
        photometric="minisblack",
        metadata=None,
        bigtiff=True,
    )


def quick_model(folder: Path, steps: int, stride: int) -> Path:
    good = folder / "good"
    good.mkdir()
    for seed in range(GOOD):
        picture = np.rint(texture("cloth", (TILE, TILE), seed) * 255).astype(np.uint8)
        write_image(good / f"{seed}.png", picture)
    settings = override(preset("fast"), {"training": {"steps": steps}, "tiling": {"stride": stride}})
    return train(good, folder / "huge.flawmap", settings).model


def inspect(model: Path, image: Path, out: Path, *, residuals: bool) -> Run:
    arguments = ["inspect", str(model), str(image), "-o", str(out), "--quiet", *(["--residuals"] if residuals else [])]
    seconds, peak = watched(*arguments)
    record = json.loads((out / "inspections.jsonl").read_text(encoding="utf-8").splitlines()[0])
    if "error" in record:
        sys.exit(record["error"])
    pixels = record["width"] * record["height"]
    name = f"{record['width']:,} x {record['height']:,}"
    return Run(name, pixels / 1e6, seconds, peak, record["verdict"], len(record["regions"]))


def table(runs: list[Run]) -> str:
    lines = ["| image | seconds | megapixels/s | peak memory, GiB | verdict | regions |", "|---|--:|--:|--:|---|--:|"]
    for run in runs:
        speed = run.megapixels / run.seconds
        lines.append(
            f"| {run.name} | {run.seconds:.0f} | {speed:.2f} | {run.peak / GIB:.2f} | {run.verdict} | {run.regions} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--square", type=int, default=20_000, help="side of the square image, pixels; 0: none")
    parser.add_argument("--strip", default="4096x200000", help="WIDTHxHEIGHT of the strip; 0: none")
    parser.add_argument("--steps", type=int, default=100, help="of the training")
    parser.add_argument("--stride", type=int, default=30, help="of the patches, pixels; time goes by its square")
    parser.add_argument("--residuals", action="store_true", help="write residual maps too")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    options = parser.parse_args()
    sizes = [(options.square, options.square)] if options.square else []
    if options.strip != "0":
        width, height = options.strip.lower().split("x")
        sizes.append((int(width), int(height)))
    runs = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        model = quick_model(folder, options.steps, options.stride)
        for width, height in sizes:
            image = folder / f"{width}x{height}.tif"
            write_huge(image, width, height)
            runs.append(inspect(model, image, folder / "found", residuals=options.residuals))
            print(table(runs[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
            image.unlink()
    print(f"{os.cpu_count()} processors, {os.environ.get('OMP_NUM_THREADS', 'all')} threads\n\n{table(runs)}")


if __name__ == "__main__":
    main()

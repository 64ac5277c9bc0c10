"""Two images that no memory should have to hold: how long `flawmap inspect` takes, and how much memory at most.

    python benchmarks/huge.py                          20,000 x 20,000 and 4,096 x 200,000: hours on a CPU
    python benchmarks/huge.py --square 4000 --strip 4096x20000
    python benchmarks/huge.py --stride 120 --residuals --folder DIR

Cloth, seeded and tiled, with a scratch at every eighth tile's height, is written as uncompressed grey 8-bit TIFF to a
temporary folder, a model is trained for a few steps, and each image is inspected by a process of its own. Its memory
is the largest resident one that the system saw.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from flawmap.commands.train import train
from flawmap.data.synthetic import texture
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from measuring import Row, parsed, parser, report, watched

TILE = 512  # side of the piece of cloth that is repeated, pixels
GOOD = 6  # images to train on
GIB = 2**30


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


def inspect(model: Path, image: Path, out: Path, *, residuals: bool) -> Row:
    arguments = ["inspect", str(model), str(image), "-o", str(out), "--quiet", *(["--residuals"] if residuals else [])]
    seconds, peak = watched(*arguments)
    record = json.loads((out / "inspections.jsonl").read_text(encoding="utf-8").splitlines()[0])
    if "error" in record:
        sys.exit(record["error"])
    figures = {
        "seconds": seconds,
        "megapixels/s": record["width"] * record["height"] / 1e6 / seconds,
        "peak GiB": peak / GIB,
        "regions": float(len(record["regions"])),
    }
    return Row("huge", f"{record['width']:,} x {record['height']:,}", record["verdict"], figures=figures)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--square", type=int, default=20_000, help="side of the square image, pixels; 0: none")
    options.add_argument("--strip", default="4096x200000", help="WIDTHxHEIGHT of the strip; 0: none")
    options.add_argument("--steps", type=int, default=100, help="of the training")
    options.add_argument("--stride", type=int, default=30, help="of the patches, pixels; time goes by its square")
    options.add_argument("--residuals", action="store_true", help="write residual maps too")
    options.add_argument("--folder", type=Path, help="where the temporary folder is made")
    given = parsed(options, arguments)
    sizes = [(given.square, given.square)] if given.square else []
    if given.strip != "0":
        width, height = given.strip.lower().split("x")
        sizes.append((int(width), int(height)))
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        model = quick_model(folder, given.steps, given.stride)
        for width, height in sizes:
            image = folder / f"{width}x{height}.tif"
            write_huge(image, width, height)
            rows.append(inspect(model, image, folder / "found", residuals=given.residuals))
            print(rows[-1].case, rows[-1].figures, file=sys.stderr, flush=True)  # the next one may be an hour away
            image.unlink()
    report(rows, given, threads=os.environ.get("OMP_NUM_THREADS", "all"), stride=given.stride)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The picture of the README from what `flawmap demo` left: a row for l2, a row for SSIM.

    flawmap demo
    python examples/demo_picture.py flawmap-demo docs/images/demo.png

Columns: image, reconstruction, residual (opened; the scale ends at 2.5 thresholds), mask, ground truth. The image is
the first one of its kind, not a chosen one; --kind names the kind. Shown is a window around the flaw.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import flawmap
from flawmap.core.records import Mask
from flawmap.imaging.reading import read_mask
from flawmap.imaging.writing import write_image
from flawmap.reporting.pictures import heatmap, picture

GAP = 8  # pixels between pictures
HEAT = 2.5  # thresholds: where the residual's colours end


def coloured(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) as (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2) if grey.ndim == 2 else grey


def joined(pictures: Sequence[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """(H, W, 3) pictures of one size in a row (axis 1) or a column (axis 0), white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for shown in pictures for part in (shown, gap)]
    return np.concatenate(parts[:-1], axis=axis)


def window(truth: Mask, side: int) -> tuple[slice, slice]:
    """The square of at most `side` pixels whose centre is the flaw's, moved into the image."""

    def along(axis: int) -> slice:
        length = truth.shape[axis]
        size, centre = min(side, length), int(np.flatnonzero(truth.any(axis=1 - axis)).mean())
        start = min(max(0, centre - size // 2), length - size)
        return slice(start, start + size)

    return along(0), along(1)


def row(detector: flawmap.Detector, path: Path, truth: Mask, side: int) -> NDArray[np.uint8]:
    """What one method makes of one image."""
    image = detector.read(path).pixels
    explained = detector.explain(image, path=path)
    inspection = detector.inspect(image, path=path)
    assert explained.reconstruction is not None  # both methods reconstruct
    shown = (
        picture(image),
        picture(explained.reconstruction),
        heatmap(inspection.residual, 0.0, HEAT * inspection.threshold),
        picture(inspection.mask),
        picture(truth),
    )
    seen = window(truth, side)
    return joined([coloured(values)[seen] for values in shown], axis=1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("demo", type=Path, help="folder that `flawmap demo` wrote")
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--kind", default="cut", help="kind of flaw [cut]")
    parser.add_argument("--side", type=int, default=160, help="of the window that is shown, pixels [160]")
    given = parser.parse_args(arguments)

    path = min((given.demo / "data" / "test" / given.kind).glob("*.png"))
    truth = read_mask(given.demo / "data" / "ground_truth" / given.kind / f"{path.stem}_mask.png")
    detectors = [flawmap.Detector.load(given.demo / f"{name}.flawmap") for name in ("l2", "ssim")]
    rows = [row(detector, path, truth, given.side) for detector in detectors]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(given.output, joined(rows, axis=0))
    print(f"{given.output}: {given.output.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Train on synthetic cloth and inspect pieces that it has not seen, from Python.

    python examples/train_and_inspect.py work

Makes `work/cloth` (images with masks) and `work/cloth.flawmap` (the model), and prints what it finds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import flawmap
from flawmap.methods.overrides import override


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--steps", type=int, default=300, help="parameter updates [300]")
    parser.add_argument("--good", type=int, default=20, help="good images to train on [20]")
    parser.add_argument("--side", type=int, default=256, help="of an image, pixels [256]")
    given = parser.parse_args(arguments)

    data = given.folder / "cloth"
    flawmap.synth(data, "cloth", good=given.good, bad=4, size=(given.side, given.side), seed=0)

    config = override(flawmap.preset("fast"), {"training": {"steps": given.steps}})
    report = flawmap.train(data, given.folder / "cloth.flawmap", config)
    print(f"loss {report.history[-1].loss:.4f}, threshold {report.artifact.threshold:.4f}")

    detector = flawmap.Detector.load(report.model)
    for path in sorted((data / "test").rglob("*.png")):
        inspection = detector.inspect(path)
        print(f"{path.relative_to(data)}: {inspection.verdict}, score {inspection.score:.4f}")
        for region in inspection.regions[:3]:  # by falling peak
            left, top, width, height = region.box
            print(f"    {region.area} pixels at ({left}, {top}), {width} x {height}, peak {region.peak:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

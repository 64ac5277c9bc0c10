"""What do ways to set a threshold promise, and what do they keep? Many random splits of one model's scores.

    python benchmarks/guarantee.py                          synthetic cloth: some minutes
    python benchmarks/guarantee.py --data DIR --json FILE   grid, too: the good images that a model has not seen

One model is trained for each material, and images that it has not seen are scored once. Then 2,000 times: so many good
images are drawn to decide by, the rest is new. Of each way: the mean share of new good images that are rejected, its
5 % and 95 % quantiles over the splits, how often the share is above 5 %, and the share of defective images found.

- conformal: the rule of that name, alpha 0.05.
- largest: the largest score of the good images drawn. The usual choice.
- best F1 on the test set: the threshold that serves the images it is measured on best, defects included. It is measured
  on these images, as papers do, and on other good ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.commands.train import train
from flawmap.core.device import describe_machine
from flawmap.data.defects import FLAWS, add_flaw
from flawmap.data.synthetic import good_images
from flawmap.imaging.reading import Pixels
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.conformal import score_limit
from flawmap.scoring.detector import Detector

Floats = NDArray[np.float64]

SPLITS, ALPHA = 2000, 0.05
COUNTS = (19, 40, 99)  # good images to decide by
SETTINGS: dict[str, Any] = {
    "evidence": {"enabled": True},
    "threshold": {"rule": "conformal"},
    "split": {"validation": 0.1, "test": 0},
}
SIDE = 192  # pixels of a synthetic image


def cloth(steps: int) -> tuple[Floats, Floats]:
    """Scores of 400 fresh good pieces of cloth and of 100 flawed ones, by a model that saw 30 others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "good").mkdir()
        for number, image in enumerate(good_images("cloth", 30, (SIDE, SIDE), 0)):
            write_image(folder / "good" / f"{number:03d}.png", levels(image))
        settings = override(preset("fast"), SETTINGS | {"training": {"steps": steps}, "model": {"patch": 64}})
        report = train(folder / "good", folder / "m.flawmap", settings)
    detector = Detector.of(report.artifact)
    fresh = [levels(image) for image in good_images("cloth", 500, (SIDE, SIDE), 1)]
    pixels = [np.asarray(image[:, :, None] / 255, np.float32) for image in fresh]
    good = pixels[:400]
    flawed = [add_flaw(image, FLAWS[number % len(FLAWS)], number)[0] for number, image in enumerate(pixels[400:])]
    return scores(detector, good), scores(detector, flawed)


def grid(data: Path, steps: int) -> tuple[Floats, Floats]:
    """Scores of the good images of grid that a model of 100 others has not seen, and of the defective ones."""
    every = sorted((data / "mvtec_grid_512" / "train" / "good").iterdir())
    order = np.random.default_rng(0).permutation(len(every))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "good").mkdir()
        for place in order[:100]:
            (folder / "good" / every[place].name).symlink_to(every[place])
        changes = {"training": {"steps": steps}, "images": {"scale": 0.5}}
        report = train(folder / "good", folder / "m.flawmap", override(preset("fast"), SETTINGS | changes))
    detector = Detector.of(report.artifact)
    good = (detector.read(every[place]).pixels for place in order[100:])
    defective = sorted((data / "mvtec_grid_512" / "test").glob("*/*"))
    flawed = (detector.read(path).pixels for path in defective if path.parent.name != "good")
    return scores(detector, good), scores(detector, flawed)


def levels(image: Pixels) -> NDArray[np.uint8]:
    return np.rint(image[:, :, 0] * 255).astype(np.uint8)


def scores(detector: Detector, images: Any) -> Floats:
    return np.array([detector.inspect(image, threshold=1e9).score for image in images])


def best_f1(good: Floats, flawed: Floats) -> float:
    """The threshold above which the F1 of these images is highest."""
    both = np.unique(np.concatenate([good, flawed]))
    hits = np.array([(flawed > value).sum() for value in both])
    alarms = np.array([(good > value).sum() for value in both])
    return float(both[np.argmax(2 * hits / (hits + alarms + len(flawed)))])


def ways(good: Floats, flawed: Floats, count: int) -> dict[str, Any]:
    """Each way's figures over the splits."""
    random = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(SPLITS):
        order = random.permutation(len(good))
        drawn, new = np.sort(good[order[:count]]), good[order[count:]]
        half = len(new) // 2
        limit = score_limit(drawn.tolist(), ALPHA)
        f1 = best_f1(new[:half], flawed)
        for name, threshold, others in (
            ("conformal, alpha 0.05", drawn[-1] if limit is None else limit, new),
            ("largest", drawn[-1], new),
            ("best F1 on the test set, measured there", f1, new[:half]),
            ("best F1 on the test set, measured on other good images", f1, new[half:]),
        ):
            found.setdefault(name, []).append((float((others > threshold).mean()), float((flawed > threshold).mean())))
    return {name: _summary(np.array(pairs)) for name, pairs in found.items()}


def _summary(pairs: Floats) -> dict[str, float]:
    rejected, hits = pairs.T
    low, high = np.quantile(rejected, (0.05, 0.95))
    return {
        "rejected": float(rejected.mean()),
        "low": float(low),
        "high": float(high),
        "above_alpha": float((rejected > ALPHA).mean()),
        "found": float(hits.mean()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="folder of the real data sets: also grid")
    parser.add_argument("--steps", type=int, default=600, help="of each training [600]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    materials = {"cloth": cloth(given.steps)}
    if given.data is not None:
        materials["grid"] = grid(given.data, given.steps)
    report: dict[str, Any] = {"machine": describe_machine(), "splits": SPLITS, "materials": {}}
    print(f"{'material':8} {'n':>3}  {'way':56} {'rejected':>9} {'5 % to 95 %':>17} {'above 5 %':>10} {'found':>6}")
    for name, (good, flawed) in materials.items():
        report["materials"][name] = {"good": len(good), "defective": len(flawed), "ways": {}}
        for count in COUNTS:
            found = ways(good, flawed, count)
            report["materials"][name]["ways"][count] = found
            for way, row in found.items():
                spread = f"{row['low']:.3f} to {row['high']:.3f}"
                print(
                    f"{name:8} {count:3}  {way:56} {row['rejected']:9.3f} {spread:>17} {row['above_alpha']:10.2f} "
                    f"{row['found']:6.2f}"
                )
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Which number of a map tells flawed images from good ones best? By defects that are pasted into held-out good images.

    python benchmarks/scores.py MODEL=DATA [MODEL=DATA ...] [--parts 168] [--json FILE]

Parts of good images that a model was not trained on are scored with a pasted defect and without one, all kinds in turn.
Of each statistic of the map: the AUROC of parts with against parts without, and the share of defects found where 5 % of
the good parts are rejected. The models are those of `flawmap train`. No defective image is read.

- largest, opened N: the largest value of the map after it is opened by a circle of N pixels (1: not opened).
- largest over openings: the same for 1, 2, 4, 8 and 16 pixels, each in spreads of the good parts; the largest of them.
- mass above N: of all regions above N, the largest sum of what exceeds N.
- mean of the highest N %: of the map's values.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from flawmap.core.device import describe_machine
from flawmap.core.records import FloatMap
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import located
from flawmap.evaluation.pasting import Part, Turn, good_part, turns, with_defect
from flawmap.evaluation.scans import each
from flawmap.imaging.morphology import opened
from flawmap.imaging.reading import Pixels
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import joined

Floats = NDArray[np.float64]

OPENINGS = (1, 2, 4, 8, 16)  # pixels
SIDE, FIRST_SEED = 384, 7000  # pixels of the working scale; other defects than weights, candidates and self-check meet
REJECTED = 0.05  # share of good parts


def mass(values: FloatMap, level: float) -> float:
    """The largest sum of what exceeds a level, over the regions above it."""
    _, labels = cv2.connectedComponents((values > level).astype(np.uint8), connectivity=8)
    sums = np.bincount(labels.ravel(), weights=np.maximum(values - level, 0).ravel())
    return float(sums[1:].max()) if len(sums) > 1 else 0.0


def highest(values: FloatMap, share: float) -> float:
    """The mean of the highest values."""
    count = max(1, round(values.size * share))
    return float(np.partition(values.ravel(), -count)[-count:].mean())


def largest(values: FloatMap, size: int) -> float:
    """The largest value after opening."""
    return float(opened(values, size).max())


STATISTICS: dict[str, Callable[[FloatMap], float]] = {
    **{f"largest, opened {size}": partial(largest, size=size) for size in OPENINGS},
    **{f"mass above {level}": partial(mass, level=level) for level in (1, 2, 3)},
    **{f"mean of the highest {share:.1%}": partial(highest, share=share) for share in (0.001, 0.01)},
}


def statistics(detector: Detector, part: Part, pixels: Pixels) -> list[float]:
    rows, roi = part.shown(pixels)
    values = joined(list(detector.scan(rows, roi=roi, opening=False))).residual
    return [statistic(values) for statistic in STATISTICS.values()]


def pair(detector: Detector, turn: Turn) -> tuple[list[float], list[float]] | None:
    """The statistics of a part without and with a defect."""
    pasted = with_defect(good_part(detector, turn, SIDE, working=True), turn.seed)
    if pasted is None:
        return None
    return statistics(detector, pasted.part, pasted.part.pixels), statistics(detector, pasted.part, pasted.flawed)


def measured(model: Path, data: Path, count: int) -> dict[str, dict[str, float]]:
    detector = Detector.load(model)
    split = Split.from_dict(detector.artifact.data["split"])
    unseen = located(find_dataset(data), [*split.validation, *split.test])
    pairs = each(partial(pair, detector), turns(unseen, count, FIRST_SEED))
    good, flawed = (np.array(values, np.float64) for values in zip(*pairs, strict=True))
    spreads = [
        (side[:, : len(OPENINGS)] - good[:, : len(OPENINGS)].mean(0)) / good[:, : len(OPENINGS)].std(0)
        for side in (good, flawed)
    ]
    rows = {name: (good[:, place], flawed[:, place]) for place, name in enumerate(STATISTICS)}
    rows["largest over openings"] = (spreads[0].max(axis=1), spreads[1].max(axis=1))
    return {name: summary(*values) for name, values in rows.items()}


def summary(good: Floats, flawed: Floats) -> dict[str, float]:
    truth = np.repeat([False, True], [len(good), len(flawed)])
    limit = float(np.quantile(good, 1 - REJECTED))
    return {
        "auroc": float(roc_auc_score(truth, np.concatenate([good, flawed]))),
        "found": float((flawed > limit).mean()),
        "parts": len(good),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="+", metavar="MODEL=DATA", help="a model, and its data set")
    parser.add_argument("--parts", type=int, default=168, help="of good images, for each model [168]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {"machine": describe_machine(), "models": {}}
    print(f"{'model':20} {'statistic':26} {'AUROC':>7} {'found at 5 %':>13}")
    for text in given.models:
        model, data = map(Path, text.split("=", 1))
        rows = report["models"][model.stem] = measured(model, data, given.parts)
        for name, row in rows.items():
            print(f"{model.stem:20} {name:26} {row['auroc']:7.3f} {row['found']:13.2f}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

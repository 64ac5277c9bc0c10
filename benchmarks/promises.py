"""Does the self-check predict what is found of real defects? Region by region of the ground truth.

    python benchmarks/promises.py MODEL=DATA [MODEL=DATA ...] [--json FILE]

A region of the ground truth has a size, the root of its area, and a contrast: the mean difference between image and
reconstruction inside, less that of the rest of the image (of a method without a reconstruction: between the region's
mean and that of the rest). The self-check says of each kind how small it may be at that contrast, and a region is
promised by so many kinds. It is found where the model's own mask touches it. The table counts regions found by how many
kinds promise them. The models are those of `flawmap train`, the data sets have masks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flawmap.core.device import describe_machine
from flawmap.core.records import FloatMap
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import Case, score_case, unseen_samples
from flawmap.evaluation.intervals import binomial_interval
from flawmap.evaluation.selfcheck import CONTRASTS
from flawmap.imaging.morphology import label
from flawmap.scoring.detector import Detector

LEAST = 4  # pixels of a region; smaller ones are crumbs of a mask
PROMISES = (("none", 0.0, 0.0), ("fewer than half", 0.0, 0.5), ("half or more", 0.5, 0.999), ("all", 0.999, 1.0))


class Region(NamedTuple):
    """One region of the ground truth. promised: the share of kinds that the self-check would find of this size and
    contrast."""

    image: str
    size: float
    contrast: float
    promised: float
    found: bool


def regions(detector: Detector, case: Case) -> Iterator[Region]:
    """Those of one defective image that has a mask."""
    if case.truth is None or not case.truth.any():
        return
    change = _change(case)
    usual = float(change[case.explained.inside & ~case.truth].mean())
    numbers, count = label(case.truth)
    for number in range(1, count + 1):
        here = numbers == number
        if here.sum() >= LEAST:
            size, contrast = math.sqrt(int(here.sum())), max(float(change[here].mean()) - usual, 0.0)
            found = bool((case.inspection.mask & here).any())
            yield Region(case.sample.path.name, size, contrast, promised(detector, size, contrast), found)


def _change(case: Case) -> FloatMap:
    image, picture = case.explained.image, case.explained.reconstruction
    if picture is not None:
        return np.asarray(np.abs(image - picture).mean(axis=2))
    grey = image.mean(axis=2)
    return np.asarray(np.abs(grey - grey[case.explained.inside].mean()))


def promised(detector: Detector, size: float, contrast: float) -> float:
    """The share of kinds of which the self-check finds this size at the next lower contrast that it tried."""
    tried = [level for level in CONTRASTS if level <= contrast]
    rows = [row for row in (detector.artifact.check or {})["sizes"] if tried and row["contrast"] == max(tried)]
    rows = [row for row in rows if row["rates"]]
    return sum(row["smallest"] is not None and row["smallest"] <= size for row in rows) / len(rows) if rows else 0.0


def measured(model: Path, data: Path) -> list[Region]:
    detector = Detector.load(model)
    dataset, split = find_dataset(data), Split.from_dict(detector.artifact.data["split"])
    samples = [sample for sample in unseen_samples(dataset, split) if sample.label == "defective"]
    return [region for sample in samples for region in regions(detector, score_case(detector, sample)[0])]


def summary(found: Sequence[Region]) -> dict[str, Any]:
    """Counts of regions by promise, and of all."""
    rows: dict[str, Any] = {}
    for name, low, high in PROMISES:
        chosen = [one for one in found if one.promised == 0 == high or low < one.promised <= high]
        if chosen:
            hits = sum(one.found for one in chosen)
            rows[name] = {"found": hits, "of": len(chosen), "interval": list(binomial_interval(hits, len(chosen))[:2])}
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="+", metavar="MODEL=DATA", help="a model with a self-check, and its data set")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {"machine": describe_machine(), "models": {}}
    print(f"{'model':20} {'kinds that promise it':22} {'regions found':>14}  {'95 % interval':>16}")
    for text in given.models:
        model, data = map(Path, text.split("=", 1))
        found = measured(model, data)
        report["models"][model.stem] = {"regions": [one._asdict() for one in found], "by_promise": summary(found)}
        for name, row in summary(found).items():
            low, high = row["interval"]
            print(f"{model.stem:20} {name:22} {row['found']:6} of {row['of']:4}  {low:7.3f} to {high:.3f}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What does a wider stride cost, and what does it save? One network, calibrated and scored by each way of tiling.

    python benchmarks/strides.py MODEL=DATA [MODEL=DATA ...] [--strides 30 32 48 64] [--json FILE]

The models are those of `flawmap train`, with good images held out. They map and decide as the preset `auto` does: for
each way of tiling, evidence and threshold are measured anew on the good images of the model's own split, and the data
set's unseen images are scored by them. Strides that are multiples of the encoder's spacing are taken twice: patch by
patch, and with the encoder once an image. Seconds are those of all cores together, of an image from its file to its
regions, metrics and counts included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flawmap.core.device import describe_machine
from flawmap.core.runtime import Runtime
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.calibration import calibrated
from flawmap.evaluation.evaluate import evaluate, held_out_areas, located, unseen_samples
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import PRESETS
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, load_artifact

RESAMPLES = 20  # intervals are not printed


def ways(config: Config, strides: Sequence[int]) -> Iterator[Config]:
    """The settings with each way of tiling."""
    apart = config.method.spacing(config.model.patch)
    own = {"residual": {"smoothing": 0.0, "border_correction": False}}
    config = override(config, {name: PRESETS["auto"][name] for name in ("evidence", "threshold")} | own)
    for stride in strides:
        yield override(config, {"tiling": {"stride": stride, "encoder": "patches"}})
        if apart is not None and stride % apart == 0:
            yield override(config, {"tiling": {"stride": stride, "encoder": "image"}})


def measured(artifact: Artifact, data: Path, config: Config, runtime: Runtime) -> dict[str, Any]:
    """One network by one way of tiling."""
    split, dataset = Split.from_dict(artifact.data["split"]), find_dataset(data)
    train, held_out = located(dataset, split.train), located(dataset, split.validation)
    bare = Detector.of(replace(artifact, config=config, evidence=None, border=None, points={}), runtime)
    detector = calibrated(bare, train, held_out)
    samples, areas = unseen_samples(dataset, split), held_out_areas(dataset, split)
    started = time.process_time()
    found = evaluate(detector, samples, areas, resamples=RESAMPLES)
    seconds = (time.process_time() - started) / (len(samples) + len(areas))
    decision = found.decision
    return {
        "stride": config.tiling.stride,
        "encoder": config.tiling.encoder,
        "pixel_auroc": found.pixel.values["auroc"],
        "au_pro_30": found.pixel.values["au_pro_30"],
        "image_auroc": found.image.values["auroc"] if found.image else None,
        "decision": None if decision is None else decision.to_dict(),
        "core_seconds_per_image": round(seconds, 3),
        "images": len(samples) + len(areas),
    }


def printed(name: str, row: dict[str, Any]) -> str:
    def rate(part: str) -> str:
        counted = (row["decision"] or {}).get(part)
        return "-" if not counted else f"{counted['count']}/{counted['of']}"

    values = " ".join("     -" if row[key] is None else f"{row[key]:6.4f}" for key in FIGURES)
    tiling = f"{row['stride']:>6} {row['encoder']:8}"
    return f"{name:12} {tiling} {values} {rate('found'):>7} {rate('rejected'):>8} {row['core_seconds_per_image']:8.2f}"


FIGURES = ("pixel_auroc", "au_pro_30", "image_auroc")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("models", nargs="+", metavar="MODEL=DATA", help="a model, and its data set")
    parser.add_argument("--strides", nargs="+", type=int, default=[30, 32, 48, 64], help="pixels [30 32 48 64]")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 [auto]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {"machine": describe_machine(), "models": {}}
    print(f"{'model':12} stride encoder   AUROC AU-PRO  image   found rejected   core s", flush=True)
    for text in given.models:
        model, data = map(Path, text.split("=", 1))
        artifact = load_artifact(model)
        rows = report["models"][model.stem] = []
        for config in ways(artifact.config, given.strides):
            rows.append(measured(artifact, data, config, Runtime(precision=given.precision)))
            print(printed(model.stem, rows[-1]), flush=True)
            if given.json is not None:
                given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

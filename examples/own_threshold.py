"""A threshold by images instead of by pixels: at most N held-out good images may raise an alarm.

    python examples/own_threshold.py cloth.flawmap cloth -o cloth-by-images.flawmap

A model's own threshold lets a share of good *pixels* pass. This script takes the residual maps of the good images
that the model was not trained on, chooses the threshold from their largest values, and writes a copy of the model
with it. The weights stay as they are. Images that chose the threshold cannot measure it: for that take fresh ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import flawmap
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import unseen_samples
from flawmap.scoring.model_file import load_artifact, save_artifact


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("data", type=Path, help="the data set it was trained on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="model file to write")
    parser.add_argument("--alarms", type=int, default=0, help="held-out good images that may raise an alarm [0]")
    given = parser.parse_args(arguments)

    artifact = load_artifact(given.model)
    detector = flawmap.Detector.of(artifact)
    split = Split.from_dict(artifact.provenance["data"]["split"])
    # Raises if an image that is to count as unseen was trained on.
    good = [sample for sample in unseen_samples(find_dataset(given.data), split) if sample.label == "good"]

    largest = []
    for sample in good:
        largest.append(detector.inspect(sample.path, threshold=0.0).score)  # of the opened residual map
        print(f"{sample.path}: largest residual {largest[-1]:.4f}")
    largest.sort(reverse=True)
    if given.alarms >= len(largest):
        raise SystemExit(f"{len(largest)} good images were held out; allow fewer alarms than that")

    threshold = largest[given.alarms]  # a flaw lies strictly above, so this image itself passes
    calibration: dict[str, str] = {}  # what flawmap's own rules note about a threshold does not hold for this one
    save_artifact(artifact.with_threshold(threshold, calibration), given.output)
    print(f"threshold {artifact.threshold} -> {threshold:.4f}, written to {given.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

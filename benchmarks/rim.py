"""Does a network gain from training on patches with their neighbours, where an image is encoded once?

    python benchmarks/rim.py DATA [--row nanotwice-ssim-seed0] [--rim 32] [--steps 1000] [--images 8] [--json FILE]

Patches by themselves are padded with zeros; an image that is encoded once gives every patch the features of its
surroundings. Here one network is trained as usual, and one on larger crops, of whose features those of the middle patch
are decoded. Both have the same initialisation, settings and number of steps, and each is scored patch by patch at
stride 30, and with the encoder once at strides 32 and 64. The figures are pixel AUROCs of some defective images, of the
residual as it is and after a Gaussian of 8 pixels, and the seconds of training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flawmap.core.device import describe_machine
from flawmap.core.runtime import Runtime
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, training_images
from flawmap.data.patches import PatchSource
from flawmap.data.splits import split_dataset
from flawmap.evaluation.evaluate import evaluate, unseen_samples
from flawmap.evaluation.scans import evenly
from flawmap.methods.autoencoder import build_network, objective_of
from flawmap.methods.config import Config
from flawmap.methods.gradient import Objective, train
from flawmap.methods.interface import FitContext
from flawmap.methods.losses import loss_of
from flawmap.methods.overrides import override
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.layer_table import spacing
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from paper import plan

TILINGS: tuple[dict[str, Any], ...] = (
    {"stride": 30, "encoder": "patches"},
    {"stride": 32, "encoder": "image"},
    {"stride": 64, "encoder": "image"},
)
SMOOTHINGS = (0, 8)


def with_rim(config: Config, rim: int) -> Objective:
    """The usual objective, for crops that are larger than a patch by a rim on each side."""
    usual, compare = objective_of(config), loss_of(config.method)
    constant = usual.constant
    assert constant is not None

    def middle(crops: Tensor) -> Tensor:
        return crops[..., rim:-rim, rim:-rim] if rim else crops

    def loss(network: nn.Module, crops: Tensor, shown: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(network, Autoencoder)
        apart = rim // spacing(network.shape)
        features = network.features(shown)
        inner = features[..., apart:-apart, apart:-apart] if apart else features
        return compare(middle(crops).contiguous(), network.decoded(inner))

    return Objective(
        loss,
        lambda crops: constant(middle(crops).contiguous()),
        lambda network, crops, seed: usual.initialise(network, middle(crops).contiguous(), seed),
        usual.advice,
    )


def trained(config: Config, source: PatchSource, rim: int) -> tuple[dict[str, Tensor], float]:
    """The weights, and the seconds that the training took."""
    started = time.perf_counter()
    result = train(build_network(config), with_rim(config, rim), source, config, FitContext())
    return result.network.state_dict(), time.perf_counter() - started


def scored(config: Config, tensors: dict[str, Tensor], folder: Path, images: int) -> Iterator[dict[str, Any]]:
    dataset = find_dataset(folder)
    split = split_dataset(dataset.samples, config.images, config.split, config.model.patch)
    samples = evenly([sample for sample in unseen_samples(dataset, split) if sample.label == "defective"], images)
    for tiling in TILINGS:
        row: dict[str, Any] = dict(tiling)
        for sigma in SMOOTHINGS:
            changes = {"tiling": tiling, "residual": {"smoothing": sigma}, "threshold": {"opening": 0}}
            detector = Detector.of(Artifact(override(config, changes), tensors), Runtime("cpu"))
            row[f"auroc_{sigma}"] = evaluate(detector, samples, resamples=20).pixel.values["auroc"]
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="the folder of the data sets")
    parser.add_argument("--row", default="nanotwice-ssim-seed0", help="of the plan [nanotwice-ssim-seed0]")
    parser.add_argument("--rim", type=int, default=32, help="pixels, a multiple of the encoder's spacing [32]")
    parser.add_argument("--steps", type=int, default=1000, help="of each training [1000]")
    parser.add_argument("--images", type=int, default=8, help="defective images that are scored [8]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    spec = next(row for row in plan.trainings("all") if row.name == given.row)
    config = override(plan.config_of(spec, "fast"), {"training": {"minutes": None, "steps": given.steps}})
    folder = given.data / spec.dataset.folder
    dataset = find_dataset(folder)
    split = split_dataset(dataset.samples, config.images, config.split, config.model.patch)
    good = list(training_images(split.train, config.images, LoadStatistics()))
    report: dict[str, Any] = {"machine": describe_machine(), "row": given.row, "steps": given.steps, "rows": []}
    print("  rim training s stride encoder  AUROC, smoothed by 8", flush=True)
    for rim in (0, given.rim):
        tensors, seconds = trained(config, PatchSource(good, config.model.patch + 2 * rim), rim)
        for row in scored(config, tensors, folder, given.images):
            report["rows"].append({"rim": rim, "seconds": round(seconds, 1), **row})
            found = f"{row['auroc_0']:.4f} {row['auroc_8']:.4f}"
            print(f"{rim:>5} {seconds:>10.0f} {row['stride']:>6} {row['encoder']:8} {found}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

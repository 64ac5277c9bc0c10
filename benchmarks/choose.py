"""How the settings of `fast` were chosen: on good images alone, with synthetic flaws pasted into those held out.

    python benchmarks/choose.py SET [--steps 1500] [--change TOML] [--json FILE] [--data DIR]

For a set it trains on all good images but the last tenth (NanoTWICE: but the last of the five), with the settings of
`fast` and whatever `--change` lays over them, pastes seeded flaws into the rest, and scores them by each residual of
a table from one and the same network. No defective image is read.

    python benchmarks/choose.py nanotwice --change "training.learning_rate = 1e-3"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from flawmap.artifact import Artifact
from flawmap.config import Config, override, preset
from flawmap.datasets import PatchSource, find_dataset, load_training
from flawmap.detector import Detector
from flawmap.flaws import add_flaws
from flawmap.images import Pixels
from flawmap.metrics import PixelMetrics
from flawmap.records import Mask
from flawmap.splits import Area
from flawmap.training import fit

DATA = Path(os.environ.get("FLAWMAP_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FLAWED = 16  # images with pasted flaws
SETS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "nanotwice": ("nanotwice", {"model": {"latent": 500}}, ("contamination", "clump", "cut", "rough")),
    "grid": ("mvtec_grid_512", {"images": {"scale": 0.5}}, ("contamination", "cut", "rough", "stroke", "clump")),
    "fabric03": (
        "aitex_fabric03",
        {"images": {"region": {"box": (1280, 0, 4050, 256)}}},
        ("contamination", "cut", "rough", "missing_thread", "clump"),
    ),
}


def residuals() -> dict[str, dict[str, Any]]:
    """Changes to the scoring, each compared on one network."""
    table: dict[str, dict[str, Any]] = {"l2": {"residual": {"name": "l2"}}}
    for window, size, constants in (
        ("uniform", 11, "wang"),
        ("uniform", 15, "wang"),
        ("uniform", 21, "wang"),
        ("uniform", 31, "wang"),
        ("gaussian", 11, "wang"),
        ("uniform", 11, "paper"),
    ):
        similarity = {"window": window, "size": size, "constants": constants}
        for weights in ("uniform", "hann"):
            changes = {"residual": {"name": "ssim", "ssim": similarity}, "tiling": {"weights": weights}}
            table[f"{window} {size}, {constants}, {weights} merging"] = changes
    return table


def pasted(good: list[Pixels], kinds: tuple[str, ...]) -> list[tuple[Pixels, Mask]]:
    """Held-out good images in turn, each with two to four flaws."""
    return [add_flaws(good[i % len(good)], i, kinds=kinds, count=(2, 4))[:2] for i in range(FLAWED)]


def measure(detector: Detector, images: list[tuple[Pixels, Mask]]) -> dict[str, float]:
    metrics = PixelMetrics()
    for image, mask in images:
        # The images are as worked already: no region, no scale.
        explained = detector.explain_inside(image, None, image.shape[:2])
        metrics.add(detector.opened(explained.residual), mask)
    result = metrics.result()
    return {name: round(float(result[name]), 4) for name in ("auroc", "average_precision", "au_pro_30")}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--change", default="", help="TOML laid over the settings, lines parted by ;")
    parser.add_argument("--json", type=Path, help="file to add the figures to, one JSON object a line")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    folder, own, kinds = SETS[arguments.set]
    config: Config = override(override(preset("fast"), own), {"training": {"steps": arguments.steps}})
    config = override(config, tomllib.loads(arguments.change.replace(";", "\n")))
    good = find_dataset(arguments.data / folder).select("train", "good")
    loaded = load_training([Area(sample.path, "") for sample in good], config.images, skip_unreadable=False)
    held = max(1, len(good) // 10)
    config = override(config, {"model": {"channels": loaded.images[0].shape[2]}})
    train = list(loaded.images[:-held])
    trained = fit(config, PatchSource(train, [None] * len(train), config.model.patch))
    print(f"{arguments.set}: {trained.steps} steps, {trained.seconds:.0f} s, loss {trained.history[-1].loss:.4f}")
    images = pasted(list(loaded.images[-held:]), kinds)
    plain = override(config, {"images": {"scale": 1.0, "region": {"box": None}}})
    artifact = Artifact(plain, trained.network.state_dict(), None, {}, {})
    rows = {}
    for name, changes in residuals().items():
        rows[name] = measure(Detector.of(replace(artifact, config=override(plain, changes))), images)
        figures = "  ".join(f"{figure} {value:.4f}" for figure, value in rows[name].items())
        print(f"  {name:36} {figures}", flush=True)
    if arguments.json is not None:
        kept = {"set": arguments.set, "steps": trained.steps, "change": arguments.change, "residuals": rows}
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

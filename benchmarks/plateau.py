"""Does SSIM training leave its plateau? Seeds, data sets and initialisations, with the step at which each run leaves.

    python benchmarks/plateau.py                        fresh initialisations, 5 seeds, synthetic fibres: a few minutes
    python benchmarks/plateau.py --seeds 20 --data DIR   the full run on NanoTWICE, fabric 03 and grid
    python benchmarks/plateau.py --initialisations ours,he,default --seeds 3

A run has left once the running mean of its loss (weight 0.1 on the newest) is below 0.9 of a flat reconstruction's.
Each run stops there, or after 400 steps. The table is the result; `--json FILE` keeps it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, training_images
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.splits import ImageRegion
from flawmap.data.synthetic import good_images
from flawmap.methods.autoencoder import Initialise, objective_of, train_network
from flawmap.methods.config import Config
from flawmap.methods.gradient import ROW_STEPS
from flawmap.methods.interface import FitContext, Progress
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.initialisation import initialise

STEPS, LEFT = 400, 0.9
REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "nanotwice": ("nanotwice", {"method": {"latent": 500}}),
    "fabric03": ("aitex_fabric03", {"images": {"roi": {"box": (1280, 0, 4050, 256)}}}),
    "grid": ("mvtec_grid_512", {"images": {"scale": 0.5}}),
}


def he(network: Autoencoder, patches: Tensor, seed: int) -> None:
    """He's rule for slope 0.2, transposed convolutions with fan = inputs * k^2 / stride^2."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            stride = layer.stride[0] if isinstance(layer, nn.ConvTranspose2d) else 1
            fan = layer.in_channels * layer.kernel_size[0] ** 2 / stride**2
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (1.04 * fan)))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def default(network: Autoencoder, patches: Tensor, seed: int) -> None:
    """PyTorch's own."""
    torch.manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.reset_parameters()


INITIALISATIONS: dict[str, Initialise] = {"ours": initialise, "he": he, "default": default}


class _LeftError(Exception):
    """Raised from within a training to stop it."""


def step_of_leaving(config: Config, source: PatchSource, start: Initialise) -> int | None:
    """The step at which a training has left the plateau; None if it has not within its steps."""
    patches = torch.from_numpy(source.sample(64, np.random.default_rng(0)))
    constant_loss = objective_of(config).constant
    assert constant_loss is not None  # autoencoders have one
    constant = float(constant_loss(patches))
    mean = constant

    def watch(progress: Progress) -> None:
        nonlocal mean
        mean = 0.9**ROW_STEPS * mean + (1 - 0.9**ROW_STEPS) * progress.row.loss
        if mean < LEFT * constant:
            raise _LeftError(progress.row.step)

    try:
        train_network(config, source, FitContext(on_progress=watch), initialise=start)
    except _LeftError as left:
        return int(left.args[0])
    return None


def sources(data: Path | None) -> dict[str, tuple[Config, PatchSource]]:
    """A patch source for each set, with the settings that belong to it."""
    base = preset("fast")
    if data is None:
        fibres = map(TrainingImage, good_images("fibres", 5, (512, 512), 0))
        return {"synthetic fibres": (base, PatchSource(fibres, base.model.patch))}
    found = {}
    for name, (folder, changes) in REAL.items():
        config = override(base, changes)
        good = [ImageRegion(sample.path, "") for sample in find_dataset(data / folder).select("train", "good")]
        found[name] = (config, PatchSource(training_images(good, config.images, LoadStatistics()), config.model.patch))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="folder of the real data sets [synthetic fibres]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--initialisations", default="ours", help=f"of {', '.join(INITIALISATIONS)}")
    parser.add_argument("--sets", default="", help="of the real sets, by name [all]")
    parser.add_argument("--json", type=Path, help="file to keep the table in")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (config, source) in sources(arguments.data).items():
        if arguments.sets and name not in arguments.sets.split(","):
            continue
        for start in arguments.initialisations.split(","):
            started, left = time.monotonic(), []
            for seed in range(arguments.seeds):
                changes = {"training": {"steps": STEPS, "seed": seed, "plateau_steps": 0}}
                left.append(step_of_leaving(override(config, changes), source, INITIALISATIONS[start]))
            gone = sorted(step for step in left if step is not None)
            row = {"set": name, "initialisation": start, "seeds": len(left), "left": len(gone), "steps": left}
            rows.append(row)
            spread = f"steps {gone[0]} to {gone[-1]}, median {gone[len(gone) // 2]}" if gone else "-"
            seconds = time.monotonic() - started
            print(
                f"{name:18} {start:8} {len(gone)} of {len(left)} left within {STEPS}; {spread}; {seconds:.0f} s",
                flush=True,
            )
    if arguments.json is not None:
        about = {"left_below": LEFT, "within": STEPS, "torch": torch.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

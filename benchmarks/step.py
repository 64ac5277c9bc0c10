"""A training step beside that of a plain PyTorch script: the same network, the same loss, the same patches.

    python benchmarks/step.py [--repeats 15] [--threads N] [--losses 200] [--json FILE]

The plain script is what one would write: patches cut by a DataLoader, the layers of table 1 in contiguous float32,
SSIM by grouped convolutions (pytorch-msssim, of the dev extra, with a Gaussian window of 11 pixels), Adam. flawmap's is
that of `flawmap.training` with the preset `fast`. A step is all of it: batch, forward, loss, backward, update. Medians
of steps that take turns; "times" is how many times as fast as the plain script. `--losses N` goes on for N steps from
the same weights on the same patches and prints both losses, which have to fall alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flawmap.config import Config, override, preset
from flawmap.hardware import autocast, choose_precision, describe_machine
from flawmap.methods import METHODS, build_network
from flawmap.models import initialise
from flawmap.sampling import PatchSource
from flawmap.synthetic import good_images
from measuring import Row, compare, table

IMAGES, SIZE, BATCH, RATE, SEED = 5, (1024, 696), 32, 1e-3, 0
CPU = torch.device("cpu")

Step = Callable[[], float]
"""One update of the parameters; the loss before it."""


class Crops(Dataset[Tensor]):
    """Random crops of images that lie in memory, one at a time, as most scripts have it."""

    def __init__(self, images: list[Any], side: int) -> None:
        self.images, self.side = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images], side

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[int(torch.randint(len(self.images), ()))]
        top = int(torch.randint(image.shape[1] - self.side + 1, ()))
        left = int(torch.randint(image.shape[2] - self.side + 1, ()))
        return image[:, top : top + self.side, left : left + self.side]


def born(config: Config, source: PatchSource) -> nn.Module:
    """The network of flawmap, initialised on patches."""
    network = build_network(config)
    initialise(network, torch.from_numpy(source.cut(source.draw(64, np.random.default_rng(SEED)))), SEED)
    return network


def plain_copy(network: nn.Module) -> nn.Module:
    """The same layers and weights as PyTorch has them."""
    layers: list[nn.Module] = []
    for layer in (*network.encoder, *network.decoder):  # type: ignore[misc]
        if isinstance(layer, nn.LeakyReLU):
            layers.append(nn.LeakyReLU(layer.negative_slope))
            continue
        kind = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
        geometry = (layer.kernel_size[0], layer.stride[0], int(layer.padding[0]))
        other = kind(layer.in_channels, layer.out_channels, *geometry)
        other.load_state_dict(layer.state_dict())
        layers.append(other)
    return nn.Sequential(*layers)


def plain_step(network: nn.Module, batches: Iterator[Tensor]) -> Step:
    from pytorch_msssim import ssim  # noqa: PLC0415 - of the dev extra

    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)

    def step() -> float:
        patches = next(batches)
        optimizer.zero_grad()
        loss = 1 - ssim(patches, network(patches), data_range=1)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def flawmap_step(network: nn.Module, batches: Iterator[Tensor], config: Config) -> Step:
    placed = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(placed.parameters(), lr=RATE, fused=True)
    compared, precision = METHODS["ssim"].loss(config.loss), choose_precision("auto", CPU)

    def step() -> float:
        patches = next(batches).to(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with autocast(CPU, precision):
            loss = compared(patches, placed(patches))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def fresh(source: PatchSource) -> Iterator[Tensor]:
    """Batches as flawmap's training draws them."""
    rng = np.random.default_rng(SEED)
    while True:
        yield torch.from_numpy(np.ascontiguousarray(source.cut(source.draw(BATCH, rng))))


def durations(steps: dict[str, Step], repeats: int) -> list[Row]:
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if repeat > 1:  # the first two warm up
                taken[name].append(1e3 * (time.perf_counter() - started))
    rows = [Row("step", "32 patches", name, statistics.median(found)) for name, found in taken.items()]
    for row in rows:
        assert row.milliseconds is not None
        row.figures["patches/s"] = 1e3 * BATCH / row.milliseconds
    compare(rows)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of torch; all cores unless told otherwise")
    parser.add_argument("--losses", type=int, default=0, help="steps to compare both losses over")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = override(preset("fast"), {"model": {"latent": 500, "channels": 1}})
    images = list(good_images("fibres", IMAGES, SIZE, SEED))
    source = PatchSource(images, [None] * IMAGES, config.model.patch)
    network = born(config, source)
    loader = cycle(DataLoader(Crops(images, config.model.patch), BATCH, shuffle=True))
    rows = durations(
        {
            "plain script": plain_step(plain_copy(network), loader),
            "flawmap": flawmap_step(born(config, source), fresh(source), config),
        },
        arguments.repeats,
    )
    machine = describe_machine()
    print(f"{machine}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(table(rows))
    curves: dict[str, list[float]] = {}
    if arguments.losses:
        kept = [batch for batch, _ in zip(fresh(source), range(arguments.losses), strict=False)]
        both = {
            "plain script": plain_step(plain_copy(network), iter(kept)),
            "flawmap": flawmap_step(born(config, source), iter(kept), config),
        }
        curves = {name: [step() for _ in kept] for name, step in both.items()}
        for place in range(0, arguments.losses, max(1, arguments.losses // 10)):
            print(f"step {place:4}  " + "  ".join(f"{name} {curve[place]:.4f}" for name, curve in curves.items()))
    if arguments.json is not None:
        kept_json = {"machine": machine, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(kept_json | {"losses": curves}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

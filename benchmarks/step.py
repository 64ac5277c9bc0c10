"""A training step beside that of a plain PyTorch script: the same network, the same loss, the same patches.

    python benchmarks/step.py [--repeats 15] [--threads N] [--losses 200] [--processor-time] [--json FILE]

The plain script is what one would write: patches cut by a DataLoader, the layers of table 1 in contiguous float32,
SSIM by grouped convolutions (pytorch-msssim, of the dev extra, with a Gaussian window of 11 pixels), Adam. flawmap's is
that of `flawmap.training` with the preset `fast`. A step is all of it: batch, forward, loss, backward, update. Medians
of steps that take turns; "times" is how many times as fast as the plain script. `--losses N` trains both for N steps
from the same weights on the same patches and prints the losses of other patches, by one SSIM, which have to fall alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flawmap.core.allocation import keep_freed_memory
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.methods.autoencoder import build_network, objective_of
from flawmap.methods.config import Config
from flawmap.methods.gradient import _Stepper
from flawmap.methods.interface import Patches
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.nets.initialisation import initialise
from measuring import medians, parsed, parser, report

IMAGES, SIZE, BATCH, RATE, SEED, LOOKS = 5, (1024, 696), 32, 1e-3, 0, 10
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


def initialised(config: Config, source: PatchSource) -> nn.Module:
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


def flawmap_step(
    network: nn.Module, source: Patches, config: Config, rate: Callable[[int], float] = lambda step: RATE
) -> Step:
    """rate: Adam's, at a step from 0."""
    placed = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(placed.parameters(), lr=RATE, fused=True)
    stepper, steps = _Stepper(config.training, objective_of(config), source), count()

    def once() -> float:
        step = next(steps)
        return float(stepper(placed, optimizer, step, rate(step)))

    return once


@dataclass
class Kept:
    """The same batches for both, one after the other, in place of random patches."""

    batches: list[Tensor]

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.arange(count)

    def cut(self, drawn: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.batches.pop(0).numpy()


def losses_of(network: nn.Module, other: nn.Module, source: PatchSource, config: Config, steps: int) -> dict[str, Any]:
    """Of both on the same held-out patches, by the plain script's SSIM, as they are trained on the same batches."""
    rng = np.random.default_rng(SEED)
    kept = [torch.from_numpy(source.sample(BATCH, rng)) for _ in range(steps)]
    patches = torch.from_numpy(source.sample(2 * BATCH, rng))
    plain = plain_copy(network)
    both = {
        "plain script": (plain, plain_step(plain, iter(kept))),
        "flawmap": (other, flawmap_step(other, Kept(list(kept)), config)),
    }
    curves: dict[str, Any] = {"step": [], **{name: [] for name in both}}
    for place in range(1, steps + 1):
        for _, step in both.values():
            step()
        if place % max(1, steps // LOOKS) == 0:
            curves["step"].append(place)
            for name, (trained, _) in both.items():
                curves[name].append(plain_loss(trained, patches))
    return curves


@torch.no_grad()
def plain_loss(network: nn.Module, patches: Tensor) -> float:
    from pytorch_msssim import ssim  # noqa: PLC0415 - of the dev extra

    return float(1 - ssim(patches, network(patches), data_range=1))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--losses", type=int, default=0, help="steps to compare both losses over")
    given = parsed(options, arguments)
    changes = {"model": {"channels": 1}, "method": {"latent": 500}, "training": {"batch": BATCH}}
    config = override(preset("fast"), changes)
    images = list(good_images("fibres", IMAGES, SIZE, SEED))
    source = PatchSource(map(TrainingImage, images), config.model.patch)
    loader = cycle(DataLoader(Crops(images, config.model.patch), BATCH, shuffle=True))
    keep_freed_memory()  # as a training does; the plain script gains by it, too
    works = {
        "plain script": plain_step(plain_copy(initialised(config, source)), loader),
        "flawmap": flawmap_step(initialised(config, source), source, config),
    }
    rows = medians("step", f"{BATCH} patches", works, given.repeats, processor=given.processor_time)
    for row in rows:
        assert row.milliseconds is not None
        row.figures["patches/s"] = 1e3 * BATCH / row.milliseconds
    curves = losses_of(initialised(config, source), initialised(config, source), source, config, given.losses)
    report(rows, given, {"losses": curves})
    names = list(curves)[1:]
    for place, *losses in zip(*curves.values(), strict=True):
        print(f"step {place:4}  " + "  ".join(f"{name} {loss:.4f}" for name, loss in zip(names, losses, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

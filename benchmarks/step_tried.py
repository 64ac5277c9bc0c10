"""Ways to take a training step that were tried beside flawmap's own, and are not in it.

    python benchmarks/step_tried.py [--repeats 15] [--threads N] [--no-compile] [--json FILE]

`torch.compile` needs a C++ compiler on the machine, which a line PC has not: it is measured and not used. Halves of a
batch on a thread each, with a copy of the network whose weights are the same memory, would need no product to be
divided among threads. All take the same network, patches and loss; medians of steps that take turns, "times" is beside
flawmap's step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from flawmap.core.allocation import keep_freed_memory
from flawmap.core.cores import use_cores
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.methods.autoencoder import objective_of
from flawmap.methods.config import Config
from flawmap.methods.gradient import _Stepper
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from measuring import medians, parsed, parser, report
from step import BATCH, IMAGES, RATE, SEED, SIZE, Step, flawmap_step, initialised

HALVES = 2


def compiled_step(network: nn.Module, source: PatchSource, config: Config) -> Step:
    """flawmap's, with the network and the loss compiled as one function."""
    objective = objective_of(config)
    loss: Callable[..., Tensor] = torch.compile(objective.loss)
    placed = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(placed.parameters(), lr=RATE, fused=True)
    stepper = _Stepper(config.training, replace(objective, loss=loss), source)
    return lambda: float(stepper(placed, optimizer, 0, RATE))


def halves_step(network: nn.Module, source: PatchSource, config: Config) -> Step:
    """Forward and backward of each half of a batch on a thread of its own, with one core."""
    first = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks = [first, *(deepcopy(first) for _ in range(HALVES - 1))]
    for other in networks[1:]:
        for mine, theirs in zip(first.parameters(), other.parameters(), strict=True):
            theirs.data = mine.data
    optimizer = torch.optim.Adam(first.parameters(), lr=RATE, fused=True)
    stepper = _Stepper(config.training, objective_of(config), source)
    threads = ThreadPoolExecutor(HALVES, initializer=use_cores, initargs=(1,))

    def half(place: int, patches: Tensor) -> float:
        networks[place].zero_grad(set_to_none=True)
        loss = stepper._loss(networks[place], patches, patches, 0) / HALVES
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def step() -> float:
        batch = stepper.on_device(stepper.batch(0))
        total = sum(threads.map(half, range(HALVES), torch.chunk(batch, HALVES)))
        for other in networks[1:]:
            for mine, theirs in zip(first.parameters(), other.parameters(), strict=True):
                if mine.grad is not None and theirs.grad is not None:
                    mine.grad += theirs.grad
        optimizer.step()
        return total

    return step


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="also torch.compile")
    given = parsed(options, arguments)
    changes = {"model": {"channels": 1}, "method": {"latent": 500}, "training": {"batch": BATCH}}
    config = override(preset("fast"), changes)
    source = PatchSource(map(TrainingImage, good_images("fibres", IMAGES, SIZE, SEED)), config.model.patch)
    keep_freed_memory()
    works = {
        "flawmap": flawmap_step(initialised(config, source), source, config),
        "a thread for each half": halves_step(initialised(config, source), source, config),
    }
    if given.compile:
        works["compiled"] = compiled_step(initialised(config, source), source, config)
    report(medians("step", f"{BATCH} patches", works, given.repeats), given)
    return 0


if __name__ == "__main__":
    sys.exit(main())

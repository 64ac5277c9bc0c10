"""The SSIM loss, forward and backward, beside two well-known packages: one row each, one table.

    python benchmarks/losses.py [--repeats 15] [--threads N] [--json FILE]

Needs the dev extra (pytorch-msssim), and torchmetrics if it is to be compared. Every variant computes 1 - SSIM of the
same float32 images with a Gaussian window of 11 pixels and its gradient. Medians of repeats that take turns, so
that a noisy machine is noisy for all; "times" is how many times as fast as the first row of the case.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flawmap.config import LossSettings, SSIMSettings
from flawmap.hardware import describe_machine
from flawmap.losses import ssim_loss
from measuring import Row, compare, table

SHAPES = ((32, 1, 128, 128), (1, 1, 1024, 1024), (8, 3, 256, 256))
SETTINGS = LossSettings(ssim=SSIMSettings(window="gaussian", size=11, constants="wang"))

Loss = Callable[[Tensor, Tensor], Tensor]


def variants() -> dict[str, Loss]:
    """What is compared; the first one is what the others are measured by."""
    found: dict[str, Loss] = {}
    for name, module, made in (
        ("pytorch-msssim", "pytorch_msssim", _of_pytorch_msssim),
        ("torchmetrics", "torchmetrics.functional.image", _of_torchmetrics),
    ):
        try:
            found[name] = made(importlib.import_module(module))
        except ModuleNotFoundError:
            print(f"{name} is not installed and not compared; pip install {name}", file=sys.stderr)
    found["flawmap"] = lambda p, q: ssim_loss(p, q, SETTINGS)
    return found


def _of_pytorch_msssim(package: Any) -> Loss:
    return lambda p, q: 1 - package.ssim(p, q, data_range=1)


def _of_torchmetrics(package: Any) -> Loss:
    return lambda p, q: 1 - package.structural_similarity_index_measure(q, p, data_range=1.0, gaussian_kernel=True)


def measure(shape: tuple[int, ...], losses: dict[str, Loss], repeats: int) -> list[Row]:
    """Milliseconds of a forward and a backward pass of each, taking turns."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(shape, generator=generator)
    q = (p + 0.1 * torch.rand(shape, generator=generator)).clamp(0, 1).requires_grad_()
    taken: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(repeats + 1):
        for name, loss in losses.items():
            started = time.perf_counter()
            torch.autograd.grad(loss(p, q), q)
            if repeat:  # the first one warms up
                taken[name].append(1e3 * (time.perf_counter() - started))
    case = "x".join(map(str, shape))
    return [Row("losses", case, name, statistics.median(found)) for name, found in taken.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of torch; all cores unless told otherwise")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    losses = variants()
    rows = [row for shape in SHAPES for row in measure(shape, losses, arguments.repeats)]
    compare(rows)
    machine = describe_machine()
    print(f"{machine}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(table(rows))
    if arguments.json is not None:
        kept = {"machine": machine, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

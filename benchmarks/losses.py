"""The SSIM loss, forward and backward, beside two well-known packages: one row each, one table.

    python benchmarks/losses.py [--repeats 15] [--threads N] [--processor-time] [--json FILE]

Needs the dev extra (pytorch-msssim), and torchmetrics if it is to be compared. Every variant computes 1 - SSIM of the
same float32 images with a Gaussian window of 11 pixels and its gradient. Medians of repeats that take turns, so
that a noisy machine is noisy for all; "times" is how many times as fast as the first row of the case.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flawmap.core.settings import SSIMSettings
from flawmap.methods.losses import ssim_loss
from measuring import Row, medians, parsed, parser, report

SHAPES = ((32, 1, 128, 128), (1, 1, 1024, 1024), (8, 3, 256, 256))
SETTINGS = SSIMSettings(window="gaussian", size=11, constants="wang")

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


def measure(shape: tuple[int, ...], losses: dict[str, Loss], repeats: int, *, processor: bool = False) -> list[Row]:
    """Milliseconds of a forward and a backward pass of each."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(shape, generator=generator)
    q = (p + 0.1 * torch.rand(shape, generator=generator)).clamp(0, 1).requires_grad_()

    def pass_of(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(p, q), q)

    works = {name: pass_of(loss) for name, loss in losses.items()}
    return medians("losses", "x".join(map(str, shape)), works, repeats, processor=processor)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(parser(__doc__), arguments)
    losses = variants()
    timed = [measure(shape, losses, given.repeats, processor=given.processor_time) for shape in SHAPES]
    report([row for rows in timed for row in rows], given)
    return 0


if __name__ == "__main__":
    sys.exit(main())

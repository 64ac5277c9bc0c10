"""What a patch costs in each engine and precision, on this machine's CPU.

    python benchmarks/engines.py [--repeats 15] [--threads N] [--json FILE]

The network of table 1 with 500 latent dimensions, initialised on random patches of 128 pixels: how long a pass takes
does not depend on its weights. Medians of passes, one engine after the other: if they took turns, the threads of one
would disturb the other's. A detector gives PyTorch batches of up to 32 and the other engines single patches. "times" is
how many times as fast as PyTorch in float32. Engines that are not installed are left out, and it says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from flawmap.core.device import autocast, has_bfloat16
from flawmap.core.errors import InputError
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.engines import Run, start_engine
from flawmap.nets.initialisation import initialise
from flawmap.nets.layers import all_layers
from measuring import Row, medians, parsed, parser, report

VARIANTS = (
    ("torch", torch.float32),
    ("torch", torch.bfloat16),
    ("onnxruntime", torch.float32),
    ("openvino", torch.float32),
    ("openvino", torch.bfloat16),
)
BATCHES = (1, 8, 32)
INIT_PATCHES, SEED = 32, 0
CPU = torch.device("cpu")


def initialised(config: Config, patches: Tensor) -> Autoencoder:
    network = build_network(config)
    initialise(network, patches, SEED)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def started(engine: str, network: Autoencoder, precision: torch.dtype) -> Run:
    """The network in an engine, as a detector runs it. InputError: the engine is not installed."""
    run = start_engine(engine, all_layers(network), precision)

    def reconstruct(patches: Tensor) -> Tensor:
        with autocast(CPU, precision):
            return run(patches.contiguous(memory_format=torch.channels_last)).float()

    return reconstruct


@torch.inference_mode()
def measure(config: Config, batches: Sequence[int], repeats: int) -> list[Row]:
    """A row for each batch size and variant; of one that cannot run here, a row that says why."""
    side, generator = config.model.patch, torch.Generator().manual_seed(SEED)
    patches = torch.rand(max(INIT_PATCHES, *batches), config.model.channels or 1, side, side, generator=generator)
    runs: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for engine, precision in VARIANTS:
        name = f"{engine} {str(precision).removeprefix('torch.')}"
        if precision == torch.bfloat16 and not has_bfloat16(CPU):
            missing[name] = "left out: this processor has no bfloat16"
            continue
        try:
            runs[name] = started(engine, initialised(config, patches[:INIT_PATCHES]), precision)
        except InputError as error:
            missing[name] = f"left out: {error}"
    rows: list[Row] = []
    for batch in batches:
        for name, run in runs.items():
            (row,) = medians("engines", f"batch {batch}", {name: partial(run, patches[:batch])}, repeats, warm=4)
            assert row.milliseconds is not None
            row.figures["ms a patch"] = row.milliseconds / batch
            rows.append(row)
        rows += [Row("engines", f"batch {batch}", name, note=note) for name, note in missing.items()]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--patch", type=int, default=128, help="side, pixels")
    options.add_argument("--latent", type=int, default=500, help="dimensions")
    given = parsed(options, arguments)
    changes = {"model": {"patch": given.patch, "channels": 1}, "method": {"latent": given.latent}}
    rows = measure(override(preset("fast"), changes), BATCHES, given.repeats)
    report(rows, given, patch=given.patch, latent=given.latent)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a patch costs in each engine and precision, on this machine's CPU.

    python benchmarks/engines.py [--repeats 15] [--threads N] [--json FILE]

The network of table 1 with 500 latent dimensions, born on random patches of 128 pixels: how long a pass takes does not
depend on its weights. Milliseconds are per patch: medians of passes that take turns. A detector gives PyTorch batches
of 32 and the other engines single patches. "times" is how many times as fast as PyTorch in float32. Engines that are
not installed are left out, and it says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from flawmap.config import Config, override, preset
from flawmap.engines import start_engine
from flawmap.errors import InputError
from flawmap.hardware import autocast, describe_machine, has_bfloat16
from flawmap.methods import Reconstruct, build_network
from flawmap.models import Autoencoder, initialise
from measuring import Row, compare, table

VARIANTS = (
    ("torch", torch.float32),
    ("torch", torch.bfloat16),
    ("onnxruntime", torch.float32),
    ("openvino", torch.float32),
    ("openvino", torch.bfloat16),
)
BATCHES = (1, 8, 32)
WARM, BIRTH, SEED = 2, 32, 0
CPU = torch.device("cpu")


def born(config: Config, patches: Tensor) -> Autoencoder:
    network = build_network(config)
    initialise(network, patches, SEED)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def started(engine: str, network: Autoencoder, precision: torch.dtype) -> Reconstruct:
    """The network in an engine, as a detector runs it. InputError: the engine is not installed."""
    run = start_engine(engine, network, precision)

    def reconstruct(patches: Tensor) -> Tensor:
        with autocast(CPU, precision):
            return run(patches.contiguous(memory_format=torch.channels_last)).float()

    return reconstruct


@torch.inference_mode()
def measure(config: Config, batches: Sequence[int], repeats: int) -> list[Row]:
    """A row for each batch size and variant; of one that cannot run here, a row that says why."""
    side, generator = config.model.patch, torch.Generator().manual_seed(SEED)
    patches = torch.rand(max(BIRTH, *batches), config.model.channels or 1, side, side, generator=generator)
    network = born(config, patches[:BIRTH])
    runs: dict[str, Reconstruct] = {}
    missing: dict[str, str] = {}
    for engine, precision in VARIANTS:
        name = f"{engine} {str(precision).removeprefix('torch.')}"
        if precision == torch.bfloat16 and not has_bfloat16(CPU):
            missing[name] = "left out: this processor has no bfloat16"
            continue
        try:
            runs[name] = started(engine, network, precision)
        except InputError as error:
            missing[name] = f"left out: {error}"
    rows: list[Row] = []
    for batch in batches:
        found = _medians(runs, patches[:batch], repeats)
        rows += [
            Row("engines", f"batch {batch}", name, found.get(name), note=missing.get(name, ""))
            for name in (*runs, *missing)
        ]
    compare(rows)
    return rows


def _medians(runs: dict[str, Reconstruct], patches: Tensor, repeats: int) -> dict[str, float]:
    """Milliseconds a patch of each, the repeats of all in turn."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(WARM + repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(patches)
            if repeat >= WARM:
                taken[name].append(1e3 * (time.perf_counter() - begun) / len(patches))
    return {name: statistics.median(durations) for name, durations in taken.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of every engine; all cores unless told otherwise")
    parser.add_argument("--patch", type=int, default=128, help="side, pixels")
    parser.add_argument("--latent", type=int, default=500, help="dimensions")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    changes = {"model": {"latent": given.latent, "patch": given.patch, "channels": 1}}
    rows = measure(override(preset("fast"), changes), BATCHES, given.repeats)
    machine = describe_machine()
    print(machine)
    print(f"milliseconds a patch of {given.patch} pixels, {given.latent} latent dimensions")
    print(table(rows))
    if given.json is not None:
        kept = {"machine": machine, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

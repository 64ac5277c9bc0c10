"""What a patch and an image cost in each engine and precision, on this machine's CPU.

    python benchmarks/engines.py [--repeats 15] [--threads N] [--size 1024x696] [--json FILE]

The network of table 1 with 500 latent dimensions, initialised on random patches of 128 pixels: how long a pass takes
does not depend on its weights. Patches: medians of passes, one engine after the other: if they took turns, the threads
of one would disturb the other's. Images: the residual map of noise, patch by patch at stride 30 and with the encoder
once at strides 32 and 64, in turns, on one core, as images side by side have one each, and on all. "times" is how many
times as fast as PyTorch in float32. int8: whole numbers of 8 bits. Variants that this machine lacks are left out, and
it says so. Quality: `benchmarks/engine_quality.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from flawmap.core.device import autocast
from flawmap.core.runtime import Runtime
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.engines import ENGINES, Run, runs_here, start_engine
from flawmap.nets.export import Samples, whole_parts
from flawmap.nets.initialisation import initialise
from flawmap.nets.layers import all_layers, ranges_of
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from flawmap.scoring.variants import Variant, Variants
from measuring import Row, medians, parsed, parser, report

VARIANTS = [Variant(name, precision) for name, engine in ENGINES.items() for precision in engine.precisions]
BATCHES = (1, 8, 32)
WAYS = {"patch by patch, stride 30": ("patches", 30), "encoder once, stride 32": ("image", 32)} | {
    "encoder once, stride 64": ("image", 64)
}
INIT_PATCHES, SEED = 32, 0
CPU = torch.device("cpu")


def initialised(config: Config, patches: Tensor) -> Autoencoder:
    network = build_network(config)
    initialise(network, patches, SEED)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def started(variant: Variant, network: Autoencoder, patches: Tensor) -> Run:
    """The network in an engine, as a detector runs it. patches: that the ranges of 8 bits are found on."""
    layers, precision = all_layers(network), getattr(torch, variant.precision)
    if variant.precision == "int8":
        layers = layers._replace(ranges=ranges_of(layers, [patches]))
    run = start_engine(variant.engine, layers, variant.precision)

    def reconstruct(batch: Tensor) -> Tensor:
        with autocast(CPU, precision):
            found: Tensor = run(batch.contiguous(memory_format=torch.channels_last))
        return found.float()

    return reconstruct


@torch.no_grad()
def of_patches(config: Config, patches: Tensor, repeats: int) -> list[Row]:
    """A row for each batch size and variant; of one that cannot run here, a row that says so."""
    runs = {
        variant: started(variant, initialised(config, patches), patches) for variant in VARIANTS if runs_here(*variant)
    }
    rows: list[Row] = []
    for batch in BATCHES:
        for variant in VARIANTS:
            case = f"batch {batch}"
            if variant not in runs:
                rows.append(Row("patches", case, str(variant), note="left out: this machine lacks it"))
                continue
            work = partial(runs[variant], patches[:batch])
            (row,) = medians("patches", case, {str(variant): work}, repeats, warm=4)
            assert row.milliseconds is not None
            row.figures["ms a patch"] = row.milliseconds / batch
            rows.append(row)
    return rows


def of_images(config: Config, patches: Tensor, size: tuple[int, int], repeats: int) -> list[Row]:
    """A row for each way to score an image, number of cores and variant."""
    width, height = size
    noise = torch.rand(height, width, config.model.channels or 1, generator=torch.Generator().manual_seed(SEED))
    cores, rows = torch.get_num_threads(), []
    for way, (encoder, stride) in WAYS.items():
        changed = override(config, {"tiling": {"encoder": encoder, "stride": min(stride, config.model.patch)}})
        detectors = {
            str(variant): detector_of(changed, patches, variant) for variant in VARIANTS if runs_here(*variant)
        }
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            works = {name: partial(detector.score, noise.numpy()) for name, detector in detectors.items()}
            named = "one core" if threads == 1 else f"{threads} cores"
            rows += medians("images", f"{way}, {named}", works, repeats, warm=1)
        torch.set_num_threads(cores)
    return rows


def detector_of(config: Config, patches: Tensor, variant: Variant) -> Detector:
    """A detector of the initialised network. patches: that it is initialised by, and the ranges of 8 bits."""
    network, once = initialised(config, patches), config.tiling.encoder == "image"
    side = torch.cat([torch.cat(list(row), dim=2) for row in patches.chunk(4)], dim=1)[None]  # an image of patches
    samples = Samples([network.features(patches).detach()] if once else [patches], [side] if once else [])
    ranges = tuple(part.ranges for part in whole_parts(network, samples, once=once) if part and part.ranges)
    record = Variants(threshold=1, area=1, reference="float32", good=0, flawed=0, compared=(), ranges=ranges)
    artifact = Artifact(config, network.state_dict(), variants=record)
    return Detector.of(artifact, Runtime("cpu", variant.precision, variant.engine))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--patch", type=int, default=128, help="side, pixels")
    options.add_argument("--latent", type=int, default=500, help="dimensions")
    options.add_argument("--size", default="1024x696", help="of an image, width x height")
    given = parsed(options, arguments)
    changes = {"model": {"patch": given.patch, "channels": 1}, "method": {"latent": given.latent}}
    config = override(preset("fast"), changes)
    count = max(INIT_PATCHES, *BATCHES)
    patches = torch.rand(count, 1, given.patch, given.patch, generator=torch.Generator().manual_seed(SEED))
    width, height = map(int, given.size.split("x"))
    rows = of_patches(config, patches, given.repeats)
    rows += of_images(config, patches, (width, height), max(1, given.repeats // 3))
    report(rows, given, patch=given.patch, latent=given.latent, size=given.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())

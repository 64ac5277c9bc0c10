"""How long the network, SSIM and the opening take, beside the paper's two times.

Weights do not change durations: the network has random weights, and the image is noise. Durations are medians of
several repeats, after some to warm up.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from flawmap.core.device import autocast, choose_device, choose_precision, describe_machine
from flawmap.core.runtime import Runtime
from flawmap.core.settings import Preset
from flawmap.imaging.morphology import opened
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.methods.residuals import Decoded, residual_of
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.tiling import Grid, patch_batches

SCHEMA = 1
LATENT, IMAGE = 500, (1024, 696)  # d, and (width, height) of NanoTWICE's defective images
BATCHES = (1, 32)
WARM_UP = 2  # repeats that do not count


def settings(name: Preset, latent: int = LATENT, patch: int = 128) -> Config:
    """SSIM by a preset, on grey patches."""
    config = preset(name, "ssim")
    stride = min(config.tiling.stride, patch)
    return override(
        config, {"model": {"patch": patch, "channels": 1}, "method": {"latent": latent}, "tiling": {"stride": stride}}
    )


def measure(
    config: Config, *, size: tuple[int, int] = IMAGE, repeats: int = 7, runtime: Runtime | None = None
) -> dict[str, Any]:
    """Durations of a forward pass and of one whole image, as JSON's types.

    Args:
        config: a grey model's. size: (width, height) of the image, pixels. repeats: the medians are taken of these.
    Returns:
        "ms_per_patch": by batch, in milliseconds a patch. "image": its "size", "windows", and "seconds" of the "whole"
        (from pixels to mask) and of its parts "network", "ssim" and "opening".
    """
    runtime = runtime or Runtime()
    device = choose_device(runtime.device)
    precision = choose_precision(runtime.precision, device)
    network = build_network(config).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    detector = Detector.of(Artifact(config, network.state_dict()).with_point(OperatingPoint(threshold=1.0)), runtime)
    noise = np.random.default_rng(0).random((3, size[1], size[0]), dtype=np.float32)
    image, rebuilt = (torch.from_numpy(noise[place])[None, None].to(device) for place in (0, 1))
    grid = Grid(config.model.patch, config.tiling.stride)
    patches = torch.cat(list(patch_batches([image[0]], grid, (size[1], size[0]), config.model.patch)))
    residual = residual_of(config.mapped)

    def forward(batch: torch.Tensor) -> object:
        with autocast(device, precision):
            return network(batch.contiguous(memory_format=torch.channels_last))

    batches = {count: patches[:1].repeat(count, 1, 1, 1) for count in BATCHES}
    works: dict[str, Callable[[], object]] = {
        "whole": lambda: detector.inspect(noise[0][:, :, None]),
        "network": lambda: [forward(part) for part in torch.split(patches, BATCHES[-1])],
        "ssim": lambda: residual(image, Decoded(rebuilt)),
        "opening": lambda: opened(noise[2], config.threshold.opening),
    }
    seconds = {count: _seconds(partial(forward, batch), device, repeats) for count, batch in batches.items()}
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "versions": {name: version(name) for name in ("flawmap", "torch", "numpy")}
        | {"python": platform.python_version()},
        "device": str(device),
        "precision": str(precision).removeprefix("torch."),
        "latent": config.method.model_dump()["latent"],
        "repeats": repeats,
        "ms_per_patch": {str(count): round(1e3 * duration / count, 4) for count, duration in seconds.items()},
        "image": {
            "size": list(size),
            "windows": len(patches),
            "seconds": {name: round(_seconds(work, device, repeats), 5) for name, work in works.items()},
        },
    }


def _seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median duration of some work, after a warm-up."""
    durations = []
    for _ in range(WARM_UP + repeats):
        started = time.perf_counter()
        with torch.inference_mode():
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - started)
    return statistics.median(durations[WARM_UP:])

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
from flawmap.scoring.tiling import Grid, split

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
    config: Config,
    *,
    size: tuple[int, int] = IMAGE,
    repeats: int = 7,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Durations of a forward pass and of one whole image, as JSON's types.

    Args:
        config: a grey model's. size: (width, height) of the image, pixels. repeats: the medians are taken of these.
    Returns:
        "ms_per_patch": by batch, in milliseconds a patch. "image": its "size", "windows", and "seconds" of the "whole"
        (from pixels to mask) and of its parts "network", "ssim" and "opening".
    """
    runtime = runtime or Runtime()
    where = choose_device(runtime.device)
    how = choose_precision(runtime.precision, where)
    network = build_network(config).to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    detector = Detector.of(Artifact(config, network.state_dict(), 1.0), runtime)
    rng = np.random.default_rng(0)
    pixels = rng.random((size[1], size[0], 1), dtype=np.float32)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(where)
    patches = split(image, Grid(config.model.patch, config.tiling.stride))
    residual = residual_of(config.mapped)
    rebuilt = torch.from_numpy(rng.random(tuple(image.shape), dtype=np.float32)).to(where)
    flat = rng.random((size[1], size[0]), dtype=np.float32)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with autocast(where, how):
            out: torch.Tensor = network(batch.contiguous(memory_format=torch.channels_last))
        return out

    def seconds(work: Callable[[], object]) -> float:
        durations = []
        for _ in range(WARM_UP + repeats):
            started = time.perf_counter()
            with torch.inference_mode():
                work()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            durations.append(time.perf_counter() - started)
        return statistics.median(durations[WARM_UP:])

    batches = {count: patches[:1].repeat(count, 1, 1, 1) for count in BATCHES}
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "versions": {name: version(name) for name in ("flawmap", "torch", "numpy")}
        | {"python": platform.python_version()},
        "device": str(where),
        "precision": str(how).removeprefix("torch."),
        "latent": config.method.model_dump()["latent"],
        "repeats": repeats,
        "ms_per_patch": {
            str(count): round(1e3 * seconds(lambda batch=batch: forward(batch)) / count, 4)  # type: ignore[misc]
            for count, batch in batches.items()
        },
        "image": {
            "size": list(size),
            "windows": len(patches),
            "seconds": {
                "whole": round(seconds(lambda: detector.inspect(pixels)), 5),
                "network": round(seconds(lambda: [forward(part) for part in torch.split(patches, BATCHES[-1])]), 5),
                "ssim": round(seconds(lambda: residual(image[None], Decoded(rebuilt[None]))), 5),
                "opening": round(seconds(lambda: opened(flat, config.threshold.opening)), 5),
            },
        },
    }

"""The presets: `paper` follows Bergmann et al. 2019 to the letter, `fast` is the same with our loss and schedule, and
`auto`, the default, chooses on good images: what is trained, what is mapped, and where it decides."""

from __future__ import annotations

from typing import Any

from flawmap.core.errors import ConfigError
from flawmap.core.settings import Preset
from flawmap.methods.config import USUAL, Config, method_type
from flawmap.methods.overrides import override, parse

_SSIM = {"window": "uniform", "size": 11, "constants": "paper"}
_FAST: dict[str, Any] = {
    "method": {"ssim": {"window": "gaussian", "size": 11, "constants": "wang"}},
    "residual": {"ssim": {"window": "uniform", "size": 15, "constants": "wang"}},
    "tiling": {"stride": 30, "weights": "hann"},
    "training": {"minutes": 10, "batch": 32, "learning_rate": 2e-3, "warmup": 50, "schedule": "cosine"},
}
PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {
        "method": {"ssim": _SSIM},  # where the method has it
        "residual": {"ssim": _SSIM},
        "tiling": {"stride": 30},
        "split": {"validation": 0.1},
        "training": {"epochs": 200, "pool": 10_000, "batch": 32, "learning_rate": 2e-4, "weight_decay": 1e-5},
    },
    "fast": _FAST | {"split": {"validation": 0.1}},
    "auto": _FAST
    | {
        "method": _FAST["method"] | {"latent": 500},
        "evidence": {"enabled": True},
        "threshold": {"rule": "conformal", "mask": "pasted"},
        "choice": {
            "candidates": (
                "method.name=ssim",
                "method.latent=100",
                "images.scale=0.5",
                "method.name=l2",
                "method.name=gmm tiling.stride=96",
            ),
            # Averages need patches whose places differ by no multiple of 16, the network's own grid.
            "quicker": ("tiling.stride=84", "tiling.stride=60", "tiling.stride=44"),
        },
        "check": {"enabled": True},
    },
}


def preset(name: Preset, method: str = USUAL) -> Config:
    """The settings of a preset for a method. Raises ConfigError for an unknown preset or method."""
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    chosen, settings = PRESETS[name], method_type(method)
    own = {key: value for key, value in chosen["method"].items() if key in settings.model_fields}
    return override(parse(chosen | {"method": {"name": method, **own}}), dict(settings.usual))

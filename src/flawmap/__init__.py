"""Train on good images, get a map of the flaws in any other.

>>> import flawmap
>>> detector = flawmap.Detector.load("cloth.flawmap")  # doctest: +SKIP
>>> detector.inspect("part.png").verdict  # doctest: +SKIP
'flawed'

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flawmap.commands.evaluate import evaluate_model
    from flawmap.commands.inspect import inspect
    from flawmap.commands.synth import synth
    from flawmap.commands.train import train
    from flawmap.core.errors import ArtifactError, ConfigError, FlawmapError, InputError, TrainingError
    from flawmap.core.records import Inspection, Region
    from flawmap.data.layouts import find_dataset
    from flawmap.data.summary import describe
    from flawmap.methods.config import Config
    from flawmap.methods.overrides import read_config
    from flawmap.methods.presets import preset
    from flawmap.scoring.detector import Detector
    from flawmap.scoring.model_file import Artifact

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "scoring.model_file",
    "ArtifactError": "core.errors",
    "Config": "methods.config",
    "ConfigError": "core.errors",
    "Detector": "scoring.detector",
    "FlawmapError": "core.errors",
    "InputError": "core.errors",
    "Inspection": "core.records",
    "Region": "core.records",
    "TrainingError": "core.errors",
    "describe": "data.summary",
    "evaluate_model": "commands.evaluate",
    "find_dataset": "data.layouts",
    "inspect": "commands.inspect",
    "preset": "methods.presets",
    "read_config": "methods.overrides",
    "synth": "commands.synth",
    "train": "commands.train",
}

__all__ = [
    "Artifact",
    "ArtifactError",
    "Config",
    "ConfigError",
    "Detector",
    "FlawmapError",
    "InputError",
    "Inspection",
    "Region",
    "TrainingError",
    "describe",
    "evaluate_model",
    "find_dataset",
    "inspect",
    "preset",
    "read_config",
    "synth",
    "train",
]

logging.getLogger("flawmap").addHandler(logging.NullHandler())  # silent unless the application says otherwise


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flawmap' has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"flawmap.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

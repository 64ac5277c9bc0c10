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
    from flawmap.artifact import Artifact
    from flawmap.config import Config, preset, read_config
    from flawmap.datasets import describe, find_dataset
    from flawmap.detector import Detector
    from flawmap.errors import ArtifactError, ConfigError, FlawmapError, InputError, TrainingError
    from flawmap.jobs import evaluate_model, inspect, synth, train
    from flawmap.records import Inspection, Region

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "artifact",
    "ArtifactError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "Detector": "detector",
    "FlawmapError": "errors",
    "InputError": "errors",
    "Inspection": "records",
    "Region": "records",
    "TrainingError": "errors",
    "describe": "datasets",
    "evaluate_model": "jobs",
    "find_dataset": "datasets",
    "inspect": "jobs",
    "preset": "config",
    "read_config": "config",
    "synth": "jobs",
    "train": "jobs",
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

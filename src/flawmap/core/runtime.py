"""Where and how a model runs: one object for what every command passes on. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from flawmap.core.errors import ConfigError


@dataclass(frozen=True)
class Runtime:
    """Where and how a model runs. Nothing of it is part of the model.

    device: auto, cpu, cuda, cuda:N or mps. precision: auto, float32 or bfloat16; of some engines float16 or int8, too.
    engine: auto, torch, onnxruntime or openvino; auto: torch, or what an exported model is for, or what
    `scoring.engine_choice` finds. All but torch run on the CPU.
    """

    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"


def known_precision(name: str) -> str:
    """The name itself. ConfigError: there is no such precision."""
    if name not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"precision must be auto, float32 or bfloat16, got {name!r}")
    return name

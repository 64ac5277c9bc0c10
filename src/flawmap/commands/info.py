"""`flawmap info`: what a model file says of itself, and how this machine runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flawmap.core.events import SILENT, Events
from flawmap.nets.engines import engine_for
from flawmap.scoring.detector import AUTO
from flawmap.scoring.engine_choice import candidates, chosen, known_times
from flawmap.scoring.model_file import Artifact, load_artifact, version_hash


def info(model: Path, *, measure: bool = False, events: Events = SILENT) -> dict[str, Any]:
    """The summary of a model file, checked against its digest, the hash that names this version of it, and `here`.

    Args:
        measure: whether the engines that may run the model are measured where they were not, in a few seconds.
    """
    artifact = load_artifact(model)
    here = _here(artifact, measure=measure, events=events)
    return {"file": str(model), "version": version_hash(model), "here": here, **artifact.summary()}


def _here(artifact: Artifact, *, measure: bool, events: Events) -> dict[str, Any]:
    """The engine and the precision that `auto` takes on this machine, the variants that it may take, and their times;
    null: not measured yet, or there is nothing to choose."""
    taken = chosen(artifact, AUTO, measure=measure, events=events)
    precision = taken.precision
    if precision == "auto":
        precision = "float32" if artifact.graph else _usual()  # an exported model runs as it was compared
    variants = candidates(artifact, AUTO)
    times = known_times(artifact, variants) if len(variants) > 1 else None
    return {
        "engine": engine_for(taken.engine, artifact.graph),
        "precision": precision,
        "variants": [str(variant) for variant in variants],
        **({"measured": None, "milliseconds": None} if times is None else times.to_dict()),
    }


def _usual() -> str:
    """The precision that torch takes here."""
    from flawmap.core.device import choose_device, choose_precision, name_of  # noqa: PLC0415 - exports need no torch

    return name_of(choose_precision("auto", choose_device("auto")))

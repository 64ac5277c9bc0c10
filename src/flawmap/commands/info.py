"""`flawmap info`: what a model file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flawmap.scoring.model_file import load_artifact, version_hash


def info(model: Path) -> dict[str, Any]:
    """The summary of a model file, checked against its digest, and the hash that names this version of it."""
    header = load_artifact(model).summary()
    return {"file": str(model), "version": version_hash(model), **header}

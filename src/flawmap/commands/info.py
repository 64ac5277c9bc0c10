"""`flawmap info`: what a model file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flawmap.scoring.model_file import read_header, version_hash

# --------------------------------------------------------------------------------------------------------------- info


def info(model: Path) -> dict[str, Any]:
    """The header of a model file, and the hash that names this version of it."""
    header = read_header(model)
    return {"file": str(model), "version": version_hash(model), **header}

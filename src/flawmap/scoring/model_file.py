"""One `.flawmap` file: safetensors weights with a JSON header. Never pickle.

The header holds the format's version, the whole configuration, the threshold and how it was found, and where the
model comes from (data, split, seed, steps, versions, duration). A threshold is changed by writing the header anew;
the weights stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from flawmap.core.errors import ArtifactError
from flawmap.core.files import atomic, sha256_of
from flawmap.core.overrides import parse
from flawmap.core.settings import Config
from flawmap.scoring.borders import Profile

FORMAT = 1
KEY = "flawmap"  # of the header in safetensors' own metadata

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From a version to the next one: a header of version n becomes one of n + 1. So older files stay readable."""


@dataclass(frozen=True)
class Artifact:
    """A trained model, at rest.

    threshold: residuals above it are flaws; None before calibration. calibration: how it was found, with its figures.
    provenance: data summary, split, seed, steps, versions, duration. weights: the network's state. border: what good
    images leave there, where the settings ask that it is levelled; None before it was measured.
    """

    config: Config
    weights: dict[str, Tensor]
    threshold: float | None
    calibration: dict[str, Any]
    provenance: dict[str, Any]
    border: Profile | None = None

    def header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "border": self.border,
            "threshold": self.threshold,
            "calibration": self.calibration,
            "provenance": self.provenance,
        }

    def with_border(self, border: Profile) -> Artifact:
        return replace(self, border=border)

    def with_threshold(self, threshold: float, calibration: dict[str, Any]) -> Artifact:
        return replace(self, threshold=threshold, calibration=calibration)


def save_artifact(artifact: Artifact, path: Path) -> None:
    """Write beside, then rename: readers see the old file or the new one."""
    header = json.dumps(artifact.header(), sort_keys=True, allow_nan=False)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in artifact.weights.items()}
    blob = safetensors.torch.save(weights, metadata={KEY: header})
    with atomic(path, durable=True) as part:
        part.write_bytes(blob)


def load_artifact(path: Path) -> Artifact:
    """The model of a `.flawmap` file. Raises ArtifactError if it is missing, damaged, foreign or newer."""
    header = read_header(path)
    try:
        weights = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; copy it again or train anew") from None
    try:
        config = parse(header["config"])
        threshold, calibration, provenance = (header[key] for key in ("threshold", "calibration", "provenance"))
        if not isinstance(threshold, float | int | None):
            raise TypeError(f"threshold must be a number, got {threshold!r}")
        border = _border(header.get("border"), config)
        return Artifact(config, weights, threshold, dict(calibration), dict(provenance), border)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: its header does not hold a model's settings ({error})") from None


def _border(values: list[float] | None, config: Config) -> Profile | None:
    """Of a header. Raises ValueError where the settings ask for one and there is none, TypeError over anything else."""
    if values is None:
        if config.residual.border_correction:
            raise ValueError("border_correction is set, but no border was measured")
        return None
    if not all(isinstance(value, float | int) and value >= 1 for value in values):
        raise TypeError(f"border must be numbers of at least 1, got {values!r}")
    return tuple(values)


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header alone, brought up to the current format; quick, whatever the weights' size."""
    if not path.is_file():
        raise ArtifactError(f"no model file {path}; `flawmap train DATA -o {path}` makes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a flawmap model, or is damaged: expected a .flawmap file, written by `flawmap train` "
            f"({error})"
        ) from None
    if text is None:
        raise ArtifactError(
            f"{path} is a safetensors file, but not a flawmap model: it has no flawmap header; expected a file written "
            "by `flawmap train`"
        )
    try:
        header = json.loads(text)
        version = int(header["format"])
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path} is damaged: its header is not readable") from None
    if version > FORMAT:
        raise ArtifactError(
            f"{path} has format {version}, this flawmap reads up to {FORMAT}; update flawmap to read it"
        )
    while version < FORMAT:
        if version not in UPGRADES:
            raise ArtifactError(f"{path} is damaged: its header names format {version}, which never was")
        header = UPGRADES[version](header)
        version += 1
    return dict(header)


def version_hash(path: Path) -> str:
    """Twelve hexadecimal digits that name this very file in reports."""
    return sha256_of(path)[:12]

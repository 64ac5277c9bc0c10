"""One `.flawmap` file: safetensors weights with a JSON header and a digest over both. Never pickle.

The header holds the format's version, the whole configuration, the operating points and how they were found, and where
the model comes from (data, split, seed, steps, versions, duration). An operating point is changed by writing the header
anew; the weights stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from flawmap.core.arrays import Array
from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.files import sha256_of
from flawmap.core.tensor_file import DIGEST, load_tensors, read_metadata, save_tensors
from flawmap.methods.config import Config
from flawmap.methods.interface import State
from flawmap.methods.overrides import flat, override, parse
from flawmap.nets.engines import Graph
from flawmap.scoring.borders import BorderProfile, border_corrected
from flawmap.scoring.evidence import EvidenceProfile
from flawmap.scoring.exported import SUFFIXES, check_exported, identity_of, read_exported, write_exported
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.variants import Variants

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 4
KEY = "flawmap"  # of the header in safetensors' own metadata

DEFAULT = "default"
"""The operating point that a calibration finds unless another one is named."""

SCORING = ("residual", "tiling", "evidence", "threshold")
"""Sections of the settings that say how a fitted model scores; the others belong to its fit."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda header: header | {"evidence": None},
    2: lambda header: header | _points(header.pop("threshold")),
    3: lambda header: header | _calibrations(header, header.pop("calibration")),
}
"""From a version to the next one: a header of version n becomes one of n + 1. So older files stay readable."""


@dataclass(frozen=True)
class Artifact:
    """A fitted model, at rest.

    weights, facts: the tensors and the JSON of the method's state. points: operating points by name, none before
    calibration. active: the one that decides. calibrations: the good images that each point was found by, with their
    values, by the point's name.
    provenance: data summary, split, seed, steps, versions, duration. border, evidence: the border correction, and what
    turns residuals into evidence; None if it is off or not measured yet. check: what `evaluation.selfcheck` found, as
    JSON's types; None: not done. graph: the network of an exported model, whose weights are empty; None: not exported.
    variants: which engines and precisions keep the verdicts; None: not compared.
    """

    config: Config
    weights: dict[str, Tensor]
    points: dict[str, OperatingPoint] = field(default_factory=dict)
    calibrations: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    border: BorderProfile | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    evidence: EvidenceProfile | None = None
    active: str = DEFAULT
    check: dict[str, Any] | None = None
    graph: Graph | None = None
    variants: Variants | None = None

    @property
    def operating_point(self) -> OperatingPoint | None:
        """The one that decides; None before calibration."""
        return self.points.get(self.active)

    @property
    def threshold(self) -> float | None:
        """That of the operating point that decides."""
        point = self.operating_point
        return None if point is None else point.threshold

    @property
    def calibration(self) -> dict[str, Any]:
        """That of the operating point that decides; empty: there is none, or no images were held out."""
        return self.calibrations.get(self.active, {})

    @property
    def state(self) -> State:
        ranges = () if self.variants is None else self.variants.ranges
        return State(self.weights, self.facts, graph=self.graph, ranges=ranges)

    def header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": _without_places(self.config).model_dump(mode="json"),
            "facts": self.facts,
            "border": self.border,
            "evidence": None if self.evidence is None else self.evidence.model_dump(mode="json"),
            "points": {name: point.model_dump(mode="json") for name, point in self.points.items()},
            "active": self.active,
            "calibrations": self.calibrations,
            "check": self.check,
            "variants": None if self.variants is None else self.variants.model_dump(mode="json"),
            "provenance": self.provenance,
        }

    def summary(self) -> dict[str, Any]:
        """The header with the threshold that decides, without long tables, for people and their programs."""
        shown = {key: value for key, value in self.header().items() if key != "calibrations"}
        return shown | {
            "threshold": self.threshold,
            "calibration": {key: value for key, value in self.calibration.items() if key != "scores"},
            "evidence": None if self.evidence is None else self.evidence.summary(),
            "variants": None if self.variants is None else self.variants.summary(),
            "points": {name: point.summary() for name, point in self.points.items()},
        }

    def report(self, path: Path) -> dict[str, Any]:
        """What a command says of the model that it wrote there: the summary without the list of training images."""
        data = {key: value for key, value in self.data.items() if key != "split"}
        return {"model": str(path), **self.summary(), "provenance": self.provenance | {"data": data}}

    @property
    def data(self) -> dict[str, Any]:
        """What is known of the training images; empty for a model that was made in Python."""
        return dict(self.provenance.get("data", {}))

    def with_roi_masks(self, folder: Path | None) -> Artifact:
        """The model with the folder of its region's masks on this machine; None: as it is.

        Raises:
            ConfigError: its region of interest is no folder of masks, or the folder is not named where it is one.
        """
        roi = self.config.images.roi
        if folder is None:
            if roi.masks is not None and not roi.masks.is_dir():
                raise ConfigError(
                    f"the region of interest of this model is a folder of masks, {roi.masks}, which is not here; name "
                    "it with --roi-masks"
                )
            return self
        if roi.masks is None:
            raise ConfigError("this model's region of interest is no folder of masks; leave --roi-masks out")
        return replace(self, config=override(self.config, {"images": {"roi": {"masks": folder}}}))

    @property
    def good_scores(self) -> tuple[float, ...]:
        """Scores of held-out good images, ascending; empty for a model that was not calibrated, or by hand."""
        return tuple(self.calibration.get("image_scores", ()))

    def mapped(self, layers: Array, *, top: int, height: int) -> Array:
        """What is mapped of the layers of a band of rows (L, h, w), at the working scale: (h, w).

        It is evidence, or else the first residual, with its border corrected if the model does.
        """
        if self.evidence is not None:
            return self.evidence.evidence(layers, top=top, height=height)
        return layers[0] if self.border is None else border_corrected(layers[0], self.border, top=top, height=height)

    def with_evidence(self, evidence: EvidenceProfile) -> Artifact:
        return replace(self, evidence=evidence)

    def with_border(self, border: BorderProfile) -> Artifact:
        return replace(self, border=border)

    def rescored(self, changes: dict[str, Any]) -> Artifact:
        """The model with other settings of scoring, without all that was measured by its own: operating points, border
        correction, evidence, self-check and variants. No changes: as it is.

        Where the settings ask for evidence or a border correction, these are yet to be measured, see `complete`.

        Raises:
            ConfigError: a change of the fit.
        """
        if not changes:
            return self
        others = [name for name in flat(changes) if name.split(".")[0] not in SCORING]
        if others:
            raise ConfigError(
                f"a fitted model takes other settings of {', '.join(SCORING)}, got {others[0]}; train anew with it"
            )
        config = override(self.config, changes)
        return Artifact(config, self.weights, provenance=self.provenance, facts=self.facts, graph=self.graph)

    def complete(self) -> Artifact:
        """The model as it is. ConfigError if it lacks evidence or a border correction that its settings ask for."""
        for name, lacking in {
            "evidence.enabled": self.config.evidence.enabled and self.evidence is None,
            "residual.border_correction": self.config.residual.border_correction and self.border is None,
        }.items():
            if lacking:
                raise ConfigError(
                    f"{name} is measured in training, by the settings of then; with other ones add --set {name}=false"
                )
        return self

    def with_point(
        self, point: OperatingPoint, name: str = DEFAULT, calibration: dict[str, Any] | None = None
    ) -> Artifact:
        """The model with one more operating point, which decides from now on.

        calibration: the good images that it was found by; None: those of the point that decided until now.
        """
        found = self.calibration if calibration is None else calibration
        calibrations = self.calibrations | {name: found}
        return replace(self, points=self.points | {name: point}, active=name, calibrations=calibrations)

    def at_point(self, name: str | None) -> Artifact:
        """The model as another of its operating points decides; None: as it is. ConfigError for an unknown name."""
        if name is None:
            return self
        if name not in self.points:
            known = f"it has {', '.join(self.points)}" if self.points else "it has none"
            raise ConfigError(f"no operating point {name!r} in this model; {known}")
        return replace(self, active=name)


def _without_places(config: Config) -> Config:
    """The settings without folders of the machine that trained: a folder of masks keeps its name alone."""
    changes: dict[str, Any] = {}
    if config.images.roi.masks is not None:
        changes["images"] = {"roi": {"masks": Path(config.images.roi.masks.name)}}
    if "features" in type(config.method).model_fields:
        changes["method"] = {"features": {"weights": None}}
    return override(config, changes)


def save_artifact(artifact: Artifact, path: Path) -> None:
    """Write beside, then rename: readers see the old file or the new one. An exported model is one again."""
    if artifact.graph is None:
        save_tensors(path, KEY, artifact.header(), artifact.weights)
    else:
        write_exported(path, artifact.header(), artifact.graph)


def load_artifact(path: Path) -> Artifact:
    """The model of a `.flawmap` file or an exported one. ArtifactError if it is missing, damaged, foreign or newer;
    InputError: a `.flawmap` file, and torch is not installed."""
    if path.suffix.lower() in SUFFIXES:
        text, graph = read_exported(path)
        header = _header(path, text)
        check_exported(path, text, graph)
        return _artifact(path, header, {}, graph)
    header = read_header(path)
    try:
        _, weights = load_tensors(path, KEY, "copy it again or train anew")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path} needs the package {error.name}, which is not installed; use an exported model, .onnx or .xml, or "
            f"pip install {error.name}"
        ) from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} is damaged: {error}; copy it again or train anew") from None
    return _artifact(path, header, weights)


def _artifact(path: Path, header: dict[str, Any], weights: dict[str, Tensor], graph: Graph | None = None) -> Artifact:
    """What a header says, with the network beside it."""
    try:
        config = parse(header["config"])
        points = {name: OperatingPoint.model_validate(point) for name, point in header["points"].items()}
        active = str(header["active"])
        border = _border(header["border"], config)
        calibrations, provenance, facts = (dict(header[key]) for key in ("calibrations", "provenance", "facts"))
        evidence = _evidence(header["evidence"], config)
        compared = header.get("variants")  # not in files of before
        variants = None if compared is None else Variants.model_validate(compared)
        return Artifact(
            config,
            weights,
            points,
            calibrations,
            provenance,
            border,
            facts,
            evidence,
            active,
            header["check"],
            graph,
            variants,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: its header does not hold a model's settings ({error})") from None


def _points(threshold: float | None) -> dict[str, Any]:
    """The operating points of a header that had a threshold."""
    points = {} if threshold is None else {DEFAULT: {"threshold": threshold}}
    return {"points": points, "active": DEFAULT, "check": None}


def _calibrations(header: dict[str, Any], calibration: dict[str, Any]) -> dict[str, Any]:
    """The calibrations of a header whose points shared one."""
    return {"calibrations": dict.fromkeys([*header["points"], header["active"]], calibration)}


def _border(values: list[float] | None, config: Config) -> BorderProfile | None:
    """The border correction of a header. ValueError where the settings ask for one and there is none, TypeError over
    anything else."""
    if values is None:
        if config.residual.border_correction:
            raise ValueError("border_correction is set, but no border was measured")
        return None
    if not all(isinstance(value, float | int) and value >= 1 for value in values):
        raise TypeError(f"border must be numbers of at least 1, got {values!r}")
    return tuple(values)


def _evidence(values: dict[str, Any] | None, config: Config) -> EvidenceProfile | None:
    """The profile of a header. ValueError where the settings ask for one and there is none, or it is not one."""
    if values is None:
        if config.evidence.enabled:
            raise ValueError("evidence is enabled, but no good images were measured")
        return None
    return EvidenceProfile.model_validate(values)


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header alone, brought up to the current format; quick, whatever the weights' size."""
    if path.suffix.lower() in SUFFIXES:
        return _header(path, read_exported(path)[0])
    if not path.is_file():
        raise ArtifactError(f"no model file {path}; `flawmap train DATA -o {path}` makes one")
    try:
        text = read_metadata(path, KEY)
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
    return _header(path, text)


def _header(path: Path, text: str) -> dict[str, Any]:
    """A header's text, brought up to the current format."""
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
    header.pop(DIGEST, None)
    return dict(header)


def version_hash(path: Path) -> str:
    """Twelve hexadecimal digits that name this very file in reports."""
    return model_sha256(path)[:12]


def model_sha256(path: Path) -> str:
    """The SHA-256 that names a model: of its file, or of the one of several that holds a digest over all."""
    return sha256_of(identity_of(path))

"""`flawmap retrain`: a model trained again with images that operators accepted; it replaces the old one if it is no
worse."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flawmap.commands.results import results
from flawmap.commands.train import train
from flawmap.core.errors import ConfigError, InputError, TrainingError
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Sample
from flawmap.data.splits import ImageRegion, Role, Split, roles_of
from flawmap.evaluation.agreement import with_variants
from flawmap.evaluation.selfcheck import SelfCheck, self_check
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.reporting.logs import write_csv
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact


@dataclass(frozen=True)
class RetrainReport:
    """model: the file that now holds the new model. before: where the old one lies. accepted: images that joined.
    smaller, larger: rows of the self-check in which the new model finds smaller defects, and larger ones alone. points:
    operating points of the old model that are to be calibrated anew."""

    model: str
    before: str | None
    accepted: int
    smaller: int
    larger: int
    points: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return vars(self) | {"points": list(self.points)}


def retrain(
    model: Path,
    data: Path,
    store: Path,
    output: Path | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = False,
    events: Events = SILENT,
) -> RetrainReport:
    """Train with the model's own settings on its images and on those that operators accepted in a store.

    An image of the model keeps its role, and a group its images; new images get theirs by their content. Both models
    then go through the same self-check, on held-out images that neither was trained on. If the new one finds only
    larger defects in more rows than smaller ones, the old one stays, and the new one lies beside it.

    Args:
        data: the data set that the model was trained on. output: None: the model's own name; the old one is then kept
            as `NAME.before.flawmap`. minutes, steps: of the training; None: as long as the model's own.
    Raises:
        ConfigError: the model's images were split by areas, or an export. InputError: nothing was accepted, or images
            of the model are not in the data set. TrainingError: the new model finds less.
    """
    artifact = load_artifact(model)
    config = _settings(artifact, minutes, steps)
    split = Split.from_dict(artifact.data["split"])
    index, target = ImageIndex(), output or model
    accepted = _accepted(store, split, index)
    if not accepted:
        raise InputError(
            f"no image in {store} was accepted that the model does not know; accept good ones on the service's page, "
            "or with PATCH /v1/results/ID"
        )
    manifest = target.with_suffix(".retrain.csv")
    _write_manifest(manifest, find_dataset(data).samples, split, accepted, seed=config.split.seed, index=index)
    new = target.with_suffix(".new.flawmap")
    report = train(manifest, new, config, resume=resume, events=events)
    held_out = _unseen_by_both(split, report.artifact, find_dataset(manifest).samples, index)
    runtime = Runtime(config.training.device, "auto")
    events.message("the same self-check of both models")
    before, after = (self_check(Detector.of(one, runtime), held_out, events) for one in (artifact, report.artifact))
    smaller, larger = compared(before, after)
    if larger > smaller:
        raise TrainingError(
            f"in {larger} rows of the self-check the new model finds larger defects alone, in {smaller} smaller ones: "
            f"{model} stays as it is, the new model lies in {new}"
        )
    variants = None
    if artifact.config.check.enabled:
        variants = with_variants(Detector.of(report.artifact, runtime), held_out, events).artifact.variants
    own = artifact.config.model_dump(include={"choice": True, "split": True, "check": True})
    config = override(report.artifact.config, own)
    save_artifact(replace(report.artifact, config=config, check=after.to_dict(), variants=variants), new)
    kept = None
    if output is None:
        kept = model.with_suffix(".before.flawmap")
        shutil.copyfile(model, kept)
    new.replace(target)
    manifest.unlink()
    points = tuple(name for name in artifact.points if name != DEFAULT)
    return RetrainReport(str(target), None if kept is None else str(kept), len(accepted), smaller, larger, points)


def compared(before: SelfCheck, after: SelfCheck) -> tuple[int, int]:
    """In how many rows the second finds smaller defects, and in how many only larger ones."""
    pairs = [
        (one.smallest or float("inf"), two.smallest or float("inf"))
        for one, two in zip(before.sizes, after.sizes, strict=True)
    ]
    return sum(two < one for one, two in pairs), sum(two > one for one, two in pairs)


def _settings(artifact: Artifact, minutes: float | None, steps: int | None) -> Config:
    """The model's own, without candidates: they were chosen among."""
    if artifact.graph is not None:
        raise ConfigError("an exported model cannot be trained; retrain its .flawmap file, and export it again")
    if artifact.config.images.roi.masks is not None:
        raise ConfigError("a model whose region of interest is a folder of masks is trained by `flawmap train`")
    changes: dict[str, Any] = {
        "choice": {"candidates": ()},
        "split": {"test": 0, "last": None},
        "check": {"enabled": False},  # done here, for both models
    }
    if minutes is not None or steps is not None:
        changes["training"] = {"minutes": minutes, "steps": steps, "epochs": None}
    return override(artifact.config, changes)


def _accepted(store: Path, split: Split, index: ImageIndex) -> list[Path]:
    """Images of the store that an operator accepted, that are kept, and that the model has not seen; each once."""
    found: dict[str, Path] = {}
    for row in results(store, review="accept"):
        path = (store / "files" / f"{row['id']}.image").resolve()
        if row["bytes"] and path.is_file() and split.role_of(row["image_sha256"]) is None:
            found.setdefault(index.sha256(path), path)
    return list(found.values())


def _write_manifest(
    path: Path, samples: Iterable[Sample], split: Split, accepted: list[Path], *, seed: int, index: ImageIndex
) -> None:
    """The good images with their roles: those of the model as they were, the others by their content."""
    good = [sample for sample in samples if sample.label == "good" and split.role_of(index.sha256(sample.path))]
    known = {index.sha256(sample.path) for sample in good}
    if any(area.box is not None for role in (split.train, split.validation, split.test) for area in role):
        raise ConfigError("this model's images were split by areas, since there were few; train anew with all images")
    missing = [area for area in (*split.train, *split.validation) if area.sha256 not in known]
    if missing:
        raise InputError(
            f"{len(missing)} of the images that the model was trained on are not in the data set, the first is "
            f"{missing[0].path}; name the data set that it was trained on"
        )
    total = len(split.train) + len(split.validation) + len(split.test)
    shares = len(split.validation) / total, len(split.test) / total
    rows: list[tuple[str, str, str, str]] = []
    for sample in good:
        role = split.role_of(index.sha256(sample.path))
        rows.append((str(sample.path.resolve()), str(role), "good", sample.group))
    new = _roles([index.sha256(image) for image in accepted], shares, seed)
    rows += [(str(image), new[index.sha256(image)], "good", "") for image in accepted]
    write_csv(path, ("image", "split", "label", "group"), rows)


def _roles(keys: list[str], shares: tuple[float, float], seed: int) -> dict[str, Role]:
    """By content; as few as there are, all train."""
    return roles_of(keys, *shares, seed) if len(keys) >= 3 else dict.fromkeys(keys, "train")


def _unseen_by_both(
    split: Split, artifact: Artifact, samples: Iterable[Sample], index: ImageIndex
) -> list[ImageRegion]:
    """Good images that were held out of both trainings."""
    new = Split.from_dict(artifact.data["split"])
    found = []
    for sample in samples:
        digest = index.sha256(sample.path)
        if "train" not in (split.role_of(digest), new.role_of(digest)) and split.role_of(digest):
            found.append(ImageRegion(sample.path, digest, group=sample.group))
    if not found:
        raise ConfigError(
            "no good image was held out of both trainings; train anew with images held out for validation"
        )
    return found

"""`flawmap calibrate`: where a model decides, with a known rate of false positives, by good images of today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flawmap.core.errors import ConfigError, InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import ImageRegion, Split, refuse_trained
from flawmap.evaluation.calibration import calibration_of, point_of
from flawmap.imaging.reading import read_mask
from flawmap.methods.overrides import override
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import UNDECIDED, OperatingPoint
from flawmap.scoring.zones import Zone


def calibrate(
    model: Path,
    good: Path | None = None,
    output: Path | None = None,
    *,
    alpha: float | None = None,
    threshold: float | None = None,
    name: str | None = None,
    runtime: Runtime | None = None,
    zone: Path | None = None,
    roi_masks: Path | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Set where a model decides: by good images that it was not trained on, by hand, or by a point that it has.

    Weights stay byte for byte.

    Args:
        good: a folder of good images, or a data set, of which the good images are taken; the threshold follows by the
            rule `conformal`. output: the model file to write; None: the model itself. alpha: the share of good images
            that may be rejected; None: the model's. threshold: set by hand, without images. name: of the operating
            point that is made; without images and threshold, of one that the model has, which decides from now on.
            zone: a mask file of the images' size; the point decides where it is above 0. None: as the model's does.
    Returns:
        The new model's summary, as JSON's types.
    Raises:
        InputError: an image was trained on or cannot be read, or there is none, or the zone cannot be read or has
            another size. ConfigError: an alpha outside (0, 1), nothing to set, an unknown name, or an empty zone.
    """
    artifact = load_artifact(model)
    own = artifact.operating_point or UNDECIDED
    before = own if zone is None else own.model_copy(update={"zone": Zone.of(read_mask(zone))})
    if good is not None:
        if threshold is not None:
            raise ConfigError("a threshold is set by hand or by good images; leave one of both out")
        artifact = _by_images(
            artifact,
            good,
            before,
            alpha=alpha,
            name=name or DEFAULT,
            runtime=runtime or Runtime(),
            roi_masks=roi_masks,
            events=events,
        )
    elif threshold is not None:
        point = before.at(threshold).model_copy(update={"found": {"rule": "by hand"}})
        artifact = artifact.with_point(point, name or DEFAULT)
    elif zone is not None:
        raise ConfigError("a zone needs a threshold: name a folder of good images, or set one (--set-threshold)")
    elif name is not None:
        artifact = artifact.at_point(name)
    else:
        raise ConfigError(
            "nothing to set; name a folder of good images, a threshold (--set-threshold), an operating point that the "
            "model has (--name), or look at them (--list)"
        )
    place = model if output is None else output
    save_artifact(artifact, place)
    return artifact.report(place)


def listed(model: Path) -> dict[str, Any]:
    """The operating points of a model, as JSON's types."""
    artifact = load_artifact(model)
    points = {name: point.summary() for name, point in artifact.points.items()}
    return {"model": str(model), "active": artifact.active, "points": points}


def _by_images(
    artifact: Artifact,
    good: Path,
    before: OperatingPoint,
    *,
    alpha: float | None,
    name: str,
    runtime: Runtime,
    roi_masks: Path | None,
    events: Events,
) -> Artifact:
    index = ImageIndex()
    samples = [sample for sample in find_dataset(good).samples if sample.label == "good"]
    if not samples:
        raise InputError(f"{good} holds no good images; a decision is calibrated on good images alone")
    if "split" in artifact.data:
        refuse_trained(Split.from_dict(artifact.data["split"]), [sample.path for sample in samples], index)
    rule = {"rule": "conformal"} | ({} if alpha is None else {"alpha": alpha})
    artifact = replace(artifact, config=override(artifact.config, {"threshold": rule}))
    artifact = artifact.with_point(before, name)  # its zone counts
    areas = [ImageRegion(sample.path, index.sha256(sample.path), group=sample.group) for sample in samples]
    detector = Detector.of(artifact.with_roi_masks(roi_masks), runtime)
    calibration = calibration_of(detector, areas, events)
    point = point_of(calibration, artifact.config.threshold, before.mask)
    artifact = artifact.with_point(point.model_copy(update={"zone": before.zone}), name, calibration.to_dict())
    if not artifact.config.check.enabled:
        return artifact
    from flawmap.evaluation.agreement import with_variants  # noqa: PLC0415 - a threshold by hand needs no torch

    found = with_variants(replace(detector, artifact=artifact.with_roi_masks(roi_masks)), areas, events)
    return replace(artifact, variants=found.artifact.variants)

"""`flawmap calibrate`: a decision with a known rate of false positives, from good images of today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import ImageRegion, Split, refuse_trained
from flawmap.evaluation.calibration import threshold_from_good
from flawmap.methods.overrides import override
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact, save_artifact


def calibrate(
    model: Path,
    good: Path,
    output: Path | None = None,
    *,
    alpha: float | None = None,
    runtime: Runtime | None = None,
    roi_masks: Path | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Set a model's threshold by good images that it was not trained on, by the rule `conformal`. Weights stay.

    Args:
        good: a folder of good images, or a data set, of which the good images are taken. output: the model file to
            write; None: the model itself. alpha: the share of good images that may be rejected; None: the model's.
    Returns:
        The new model's summary, as JSON's types.
    Raises:
        InputError: an image was trained on or cannot be read, or there is none. ConfigError: an alpha outside (0, 1).
    """
    artifact, index = load_artifact(model), ImageIndex()
    paths = [sample.path for sample in find_dataset(good).samples if sample.label == "good"]
    if not paths:
        raise InputError(f"{good} holds no good images; a decision is calibrated on good images alone")
    if "split" in artifact.data:
        refuse_trained(Split.from_dict(artifact.data["split"]), paths, index)
    rule = {"rule": "conformal"} | ({} if alpha is None else {"alpha": alpha})
    artifact = replace(artifact, config=override(artifact.config, {"threshold": rule}))
    here = artifact.with_roi_masks(roi_masks)
    areas = [ImageRegion(path, index.sha256(path)) for path in paths]
    threshold, calibration = threshold_from_good(Detector.of(here, runtime or Runtime()), areas, events)
    calibrated = artifact.with_threshold(threshold, calibration.to_dict())
    place = model if output is None else output
    save_artifact(calibrated, place)
    return calibrated.report(place)

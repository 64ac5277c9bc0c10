"""What is done to one product type of a fleet, on whichever machine, and the record that it leaves."""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flawmap.cluster.jobs import Resources
from flawmap.commands.calibrate import calibrate
from flawmap.commands.evaluate import evaluate_model
from flawmap.commands.fleet_file import ProductType
from flawmap.commands.inspect import inspect
from flawmap.commands.train import train
from flawmap.core.device import free_memory
from flawmap.core.documents import document
from flawmap.core.errors import ConfigError
from flawmap.core.files import writable_folder
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Sample
from flawmap.methods.overrides import flat, override
from flawmap.reporting.logs import write_json
from flawmap.scoring.model_file import load_artifact, model_sha256, version_hash

Step = Literal["train", "calibrate", "evaluate", "inspect"]
STEPS: tuple[Step, ...] = ("train", "calibrate", "evaluate", "inspect")


@dataclass(frozen=True)
class Work:
    """A step of a type. folder: of the fleet. at_once: such jobs that share a machine's memory."""

    step: Step
    kind: ProductType
    folder: Path
    resources: Resources
    at_once: int = 1

    @property
    def model(self) -> Path:
        return self.folder / f"{self.kind.name}.flawmap"

    @property
    def own(self) -> Path:
        """The folder of the type's records, evaluations and inspections."""
        return self.folder / self.kind.name

    @property
    def device(self) -> str:
        return "cuda" if self.resources.gpus else "cpu"

    def __call__(self) -> tuple[dict[str, Any], bool]:
        """The record, which lies in the type's folder by now, and whether it is an earlier one that still holds."""
        do, ask = _DO[self.step], _ASK[self.step]
        if self.step != "train" and not self.model.is_file():
            raise ConfigError(f"there is no model {self.model}; run `flawmap fleet train` first")
        asked, before = ask(self.kind), read_record(self.folder, self.kind.name, self.step)
        if before and not before["error"] and before["asked"] == asked and self._stands(before):
            return before, True
        start = time.monotonic()
        writable_folder(self.own)
        figures = do(self)
        record = document(
            "job",
            {
                "type": self.kind.name,
                "step": self.step,
                "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "seconds": round(time.monotonic() - start, 1),
                "asked": asked,
                "model_sha256": model_sha256(self.model),
                "figures": figures,
                "error": None,
            },
        )
        write_json(_place(self.folder, self.kind.name, self.step), record)
        return record, False

    def _stands(self, before: Mapping[str, Any]) -> bool:
        """Whether an earlier result of the same images and settings is one of today's model. A calibration changes the
        model, and does not make a training void."""
        if self.step == "train":
            return self.model.is_file()
        return bool(self.step != "inspect" and before["model_sha256"] == model_sha256(self.model))


def read_record(folder: Path, name: str, step: Step) -> dict[str, Any] | None:
    """The record of a type's step; None: there is none, or it is damaged."""
    try:
        record: dict[str, Any] = json.loads(_place(folder, name, step).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def note_failure(folder: Path, name: str, step: Step, error: str) -> dict[str, Any]:
    """Write why a step failed, beside what an earlier one found; returns the record."""
    empty = {"type": name, "step": step} | dict.fromkeys(("at", "seconds", "asked", "model_sha256", "figures"))
    record = document("job", empty) | (read_record(folder, name, step) or {}) | {"error": error}
    writable_folder(folder / name)
    write_json(_place(folder, name, step), record)
    return record


def _place(folder: Path, name: str, step: Step) -> Path:
    return folder / name / f"{step}.json"


# ---------------------------------------------------------------------------------------------------------- the steps


def _train(work: Work) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if work.kind.config.training.device == "auto":
        settings["device"] = work.device
    if work.kind.config.training.memory_gb is None:  # jobs that share a machine must not each count on all of it
        settings["memory_gb"] = free_memory() / 2e9 / work.at_once
    config = override(work.kind.config, {"training": settings})
    report = train(work.kind.data, work.model, config, resume=True)
    provenance = report.artifact.provenance
    training = provenance.get("training", {})
    return {
        "method": report.artifact.config.method.name,
        "images": provenance["data"]["images"],
        "steps": training.get("steps"),
        "minutes": None if "seconds" not in training else round(training["seconds"] / 60, 2),
        "threshold": report.artifact.threshold,
    }


def _calibrate(work: Work) -> dict[str, Any]:
    calibrate(work.model, work.kind.good, runtime=Runtime(work.device), roi_masks=_roi_masks(work))
    artifact = load_artifact(work.model)
    point = artifact.operating_point
    assert point is not None
    return {"threshold": point.threshold, "found": point.found}


def _evaluate(work: Work) -> dict[str, Any]:
    out = work.own / "evaluation"
    found = evaluate_model(
        work.model, work.kind.test, out, runtime=Runtime(work.device), roi_masks=_roi_masks(work)
    ).to_dict()
    shares = found["decision"] or {"found": None, "rejected": None}
    of_pixels = found["pixel"]["undefined"]
    why = {"pixel_auroc": of_pixels.get("auroc"), "au_pro_30": of_pixels.get("au_pro_30")}
    why["image_auroc"] = found["image_reason"]
    return {
        "images": len(found["per_image"]),
        "unreadable": len(found["unreadable"]),
        "pixel_auroc": found["pixel"]["auroc"],
        "au_pro_30": found["pixel"]["au_pro_30"],
        "image_auroc": found["image"] and found["image"]["auroc"],
        "undefined": {name: reason for name, reason in why.items() if reason},
        "found": shares["found"],
        "rejected": shares["rejected"],
        "report": (out / "report.html").relative_to(work.folder).as_posix(),
    }


def _inspect(work: Work) -> dict[str, Any]:
    out = work.own / f"inspection-{version_hash(work.model)}"
    rows = inspect(
        work.model,
        work.kind.inspect,
        out,
        runtime=Runtime(work.device),
        roi_masks=_roi_masks(work),
        resume=True,
    )
    return {
        "images": len(rows),
        "unreadable": sum(row.error is not None for row in rows),
        "flawed": sum(row.verdict == "flawed" for row in rows),
        "report": (out / "report.html").relative_to(work.folder).as_posix(),
    }


def _roi_masks(work: Work) -> Path | None:
    """The folder of the region's masks, whose place a model does not keep."""
    return work.kind.config.images.roi.masks


# ---------------------------------------------------------------------------------------------------- what is asked for


def _of_training(kind: ProductType) -> dict[str, Any]:
    values = flat(kind.config.model_dump())  # a folder of masks may be moved
    settings = json.dumps({key: one.name if isinstance(one, Path) else one for key, one in values.items()})
    good = [sample for sample in find_dataset(kind.data).samples if sample.label == "good"]
    return {"settings": hashlib.sha256(settings.encode()).hexdigest(), "images": _digest(good)}


def _of_calibration(kind: ProductType) -> dict[str, Any]:
    if kind.good is None:
        raise ConfigError("it needs good, a folder of good images that the model was not trained on")
    return {"images": _digest(find_dataset(kind.good).samples)}


def _of_evaluation(kind: ProductType) -> dict[str, Any]:
    return {"images": _digest(find_dataset(kind.test).samples)}


def _of_inspection(kind: ProductType) -> dict[str, Any]:
    if not kind.inspect:
        raise ConfigError("it needs inspect, files, folders or patterns of images")
    return {"images": list(kind.inspect)}


def _digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over the contents of images and masks with their roles, wherever they lie."""
    index = ImageIndex()
    parts = sorted(
        [sample.split, sample.kind, sample.group, repr(sample.drawing)]
        + [index.sha256(path) for path in (sample.path, *sample.masks)]
        for sample in samples
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


_DO: dict[Step, Callable[[Work], dict[str, Any]]] = {
    "train": _train,
    "calibrate": _calibrate,
    "evaluate": _evaluate,
    "inspect": _inspect,
}
_ASK: dict[Step, Callable[[ProductType], dict[str, Any]]] = {
    "train": _of_training,
    "calibrate": _of_calibration,
    "evaluate": _of_evaluation,
    "inspect": _of_inspection,
}

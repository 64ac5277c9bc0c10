"""`flawmap evaluate`: metrics, curve and page of a model on a labelled set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from flawmap.commands.outputs import Done, _silent, _usable
from flawmap.core.events import Events
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import SCHEMA, evaluate, held_out_areas, unseen_samples
from flawmap.evaluation.results import Evaluation
from flawmap.reporting.cases import evaluation_page
from flawmap.reporting.charts import roc_figure
from flawmap.reporting.logs import write_json
from flawmap.reporting.pages import write_page
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, load_artifact, version_hash

PAGE_BYTES = 50_000_000  # and before an evaluation: its page holds some forty pictures


# ----------------------------------------------------------------------------------------------------------- evaluate


def evaluate_model(
    model: Path,
    path: Path,
    out: Path,
    *,
    last: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "torch",
    done: Done = _silent,
) -> Evaluation:
    """Measure a model on a labelled set: `metrics.json`, `roc.png`, and `index.html` with its best and worst cases.

    Args:
        last: count the last N good training images by name as good test images; refused if the model saw one.
        engine: what runs the network: torch, onnxruntime or openvino.
    """
    artifact = load_artifact(model)
    detector = Detector.of(artifact, device=device, precision=precision, engine=engine)
    dataset = find_dataset(path)
    root = dataset.root.parent if dataset.root.is_file() else dataset.root  # paths in a manifest are relative to it
    _usable(out, PAGE_BYTES)
    split = Split.from_dict(artifact.provenance["data"]["split"])
    samples = unseen_samples(dataset, split, last)
    events = _Told(done)
    evaluation = evaluate(detector, samples, held_out_areas(dataset, split), root=root, events=events)
    about = {
        "schema": SCHEMA,
        "model": model_summary(model, artifact),
        "dataset": {
            "name": dataset.root.resolve().name,
            "layout": dataset.layout,
            "images": dict(Counter(row.label for row in evaluation.per_image)),
            "scale": artifact.config.images.scale,
            "region": artifact.config.images.roi.model_dump(mode="json", exclude_none=True),
            "measured_in": "the images' own pixels",
        },
        "precision": str(detector.precision).removeprefix("torch."),
        "engine": detector.engine,
    }
    write_json(out / "metrics.json", about | evaluation.to_dict())
    if evaluation.curve is not None:
        roc_figure({artifact.config.loss.name: evaluation.curve}, out / "roc.png")
    else:
        (out / "roc.png").unlink(missing_ok=True)  # an earlier evaluation's
    page = evaluation_page(detector, evaluation, samples, about=about, root=root, roc=out / "roc.png")
    write_page(page, out / "index.html")
    return evaluation


class _Told(Events):
    def __init__(self, done: Done) -> None:
        self.done = done

    def progress(self, done: int, total: int, what: str) -> None:
        self.done(done, total, what)


def model_summary(model: Path, artifact: Artifact) -> dict[str, Any]:
    """What a reader of figures needs to know of the model that made them."""
    settings = artifact.config
    return {
        "file": model.name,
        "version": version_hash(model),
        "method": settings.loss.name,
        "residual": settings.residual.model_dump(mode="json"),
        "latent": settings.model.latent,
        "patch": settings.model.patch,
        "stride": settings.tiling.stride,
        "opening": settings.threshold.opening,
        "threshold": artifact.threshold,
        "training": artifact.provenance["training"],
        "features": artifact.provenance.get("features"),
        "seed": settings.training.seed,
        "split_sha256": artifact.provenance["data"]["split_sha256"],
    }

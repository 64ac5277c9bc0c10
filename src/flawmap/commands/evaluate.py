"""`flawmap evaluate`: metrics, curve and page of a model on a labelled set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flawmap.cluster.workers import Workers, check_installed
from flawmap.commands.outputs import usable_folder
from flawmap.core.documents import document
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import evaluate, held_out_areas, unseen_samples
from flawmap.evaluation.results import Evaluation
from flawmap.evaluation.scans import Mapper
from flawmap.methods.overrides import flat
from flawmap.reporting.case_pictures import CasePictures
from flawmap.reporting.charts import roc_figure
from flawmap.reporting.evaluations import evaluated_images, evaluation_page, put_on
from flawmap.reporting.logs import write_json
from flawmap.reporting.reports import ROOM, open_shelf, write_report
from flawmap.scoring.detector import Detector
from flawmap.scoring.engine_choice import chosen
from flawmap.scoring.model_file import Artifact, load_artifact, model_sha256, version_hash


def evaluate_model(
    model: Path,
    path: Path,
    out: Path,
    *,
    last: int | None = None,
    point: str | None = None,
    runtime: Runtime | None = None,
    roi_masks: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    workers: Workers | None = None,
    events: Events = SILENT,
) -> Evaluation:
    """Measure a model on a labelled set: `metrics.json`, `roc.png`, and `report.html` with every image.

    Args:
        last: count the last N good training images by name as good test images; refused if the model saw one.
        point: the operating point that decides; None: the model's own.
        roi_masks: the folder of masks on this machine, for a model whose region of interest is a folder of masks.
        changes: other settings of scoring, such as the residual; the model's threshold then does not count.
        workers: detectors on Ray that score; all machines have the data set in the same place. None: this process.
    Raises:
        ConfigError: the changes are none of scoring, or ask for what training measures, the engine cannot run the
            model, or the cluster the detectors. InputError: Ray is not installed, or the set has no image for this.
    """
    if workers is not None:
        check_installed()
        path, roi_masks = path.absolute(), roi_masks and roi_masks.absolute()
    artifact = load_artifact(model).at_point(point).with_roi_masks(roi_masks).rescored(dict(changes or {})).complete()
    if workers is None:
        runtime = chosen(artifact, runtime or Runtime(), events=events)
    detector, where = _placed(artifact, runtime or Runtime(), workers)
    dataset = find_dataset(path)
    root = dataset.root.parent if dataset.root.is_file() else dataset.root  # paths in a manifest are relative to it
    known = artifact.data.get("split")  # a model made in Python knows of none
    split = Split((), (), ()) if known is None else Split.from_dict(known)
    index = ImageIndex()
    samples = unseen_samples(dataset, split, last, index)
    areas = held_out_areas(dataset, split, index)
    with open_shelf(usable_folder(out, ROOM * (1 + len(samples)))) as shelf:
        with _mapper(artifact, where, workers) as mapper:
            evaluation = evaluate(
                detector,
                samples,
                areas,
                root=root,
                events=events,
                view=partial(CasePictures, threshold=artifact.threshold),
                keep=put_on(shelf, root),
                mapper=mapper,
            )
        about = _about(model, detector, dataset, evaluation)
        write_json(out / "metrics.json", about | evaluation.to_dict())
        if evaluation.curve is not None:
            roc_figure({artifact.config.method.name: evaluation.curve}, out / "roc.png")
        else:
            (out / "roc.png").unlink(missing_ok=True)  # an earlier evaluation's
        settings = flat(artifact.config.model_dump(mode="json"))
        page = evaluation_page(evaluation, about, settings, roc=out / "roc.png", good_scores=artifact.good_scores)
        write_report(page, evaluated_images(evaluation, shelf), out, events=events)
    return evaluation


def _placed(artifact: Artifact, runtime: Runtime, workers: Workers | None) -> tuple[Detector, Runtime]:
    """The detector of this process, and where those of a cluster run, in the same precision."""
    if workers is None:
        detector = Detector.of(artifact, runtime)
        return detector, detector.runtime
    where = workers.placed(runtime)
    detector = Detector.of(artifact, replace(where, device="cpu"))
    return detector, replace(where, precision=detector.precision_name, engine=detector.runtime.engine)


@contextmanager
def _mapper(artifact: Artifact, runtime: Runtime, workers: Workers | None) -> Iterator[Mapper | None]:
    """Where images are scored; None: in this process."""
    if workers is None:
        yield None
    else:
        from flawmap.cluster.scans import resident_detectors  # noqa: PLC0415 - not without --ray

        with resident_detectors(artifact, runtime, workers) as mapper:
            yield mapper


def _about(model: Path, detector: Detector, dataset: Dataset, evaluation: Evaluation) -> dict[str, Any]:
    """What the figures belong to: model, data set, and how it was run."""
    images = detector.config.images
    about = {
        "model": model_summary(model, detector.artifact),
        "dataset": {
            "name": dataset.root.resolve().name,
            "layout": dataset.layout,
            "images": dict(Counter(row.label for row in evaluation.per_image)),
            "scale": images.scale,
            "region": images.roi.model_dump(mode="json", exclude_none=True, exclude={"masks"}),
            "measured_in": "the images' own pixels",
        },
        "precision": detector.precision_name,
        "engine": detector.runtime.engine,
    }
    return document("metrics", about)


def model_summary(model: Path, artifact: Artifact) -> dict[str, Any]:
    """What a reader of figures needs to know of the model that made them; None where the model does not know it."""
    settings, decides = artifact.config, artifact.operating_point
    return {
        "file": model.name,
        "version": version_hash(model),
        "sha256": model_sha256(model),
        "method": settings.method.name,
        "residual": settings.mapped.model_dump(mode="json"),
        "evidence": {"parts": [part.name for part in settings.parts], "scales": list(settings.scales)}
        if settings.evidence.enabled
        else None,
        "latent": getattr(settings.method, "latent", None),
        "patch": settings.model.patch,
        "stride": settings.tiling.stride,
        "opening": settings.threshold.opening,
        "threshold": artifact.threshold,
        "point": artifact.active,
        "operating_point": None if decides is None else decides.summary(),
        "training": artifact.provenance.get("training"),
        "features": artifact.provenance.get("features"),
        "seed": settings.training.seed,
        "split_sha256": artifact.data.get("split_sha256"),
    }

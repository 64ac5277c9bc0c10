"""One training and everything that is measured of it, as a record that outlives its weights.

A record is JSON in OUT/records/NAME.json: metrics, curves and counts, enough to draw every picture of the experiments
but those that show images.
"""

from __future__ import annotations

import csv
import datetime
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_high
from typing import Any

import numpy as np

from flawmap.commands.train import train
from flawmap.core.device import peak_memory
from flawmap.core.errors import ConfigError
from flawmap.core.events import SILENT, Events, Named
from flawmap.core.files import writable_folder
from flawmap.core.runtime import Runtime
from flawmap.core.settings import FeatureSettings
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Sample
from flawmap.data.splits import ImageRegion, Split
from flawmap.evaluation.bootstrap import bootstrap
from flawmap.evaluation.calibration import calibrated
from flawmap.evaluation.curves import roc, thin
from flawmap.evaluation.evaluate import Case, located, score_case, unseen_samples
from flawmap.evaluation.histograms import ScoreHistogram
from flawmap.evaluation.metrics import PixelMetrics, image_metrics, overlap_quantiles
from flawmap.evaluation.scans import evenly
from flawmap.methods.config import Config
from flawmap.methods.overrides import override, parse
from flawmap.methods.table import METHODS
from flawmap.reporting.logs import write_json
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, load_artifact
from paper.literature import EVIDENCE, System
from paper.plan import MATCHING, ExperimentRequest, RunSpec, config_of, scorings
from paper.records import FAITHFUL, SCHEMA, read_record

log = logging.getLogger(__name__)

HISTORY_ROWS, CURVE_POINTS, HISTOGRAM_BINS, TIMED_IMAGES = 100, 200, 512, 5
RATES = tuple(sorted({*(round(float(rate), 6) for rate in np.geomspace(0.001, 0.3, 39)), 0.05}))
"""False positive rates of the region overlap."""


@dataclass(frozen=True)
class RunContext:
    """A request with its folders. data: that of the data sets' folders. out: that of records and models."""

    request: ExperimentRequest
    data: Path
    out: Path

    def config(self, training: RunSpec) -> Config:
        asked = self.request
        own: dict[str, Any] = {"training": {"device": asked.runtime.device, "precision": asked.runtime.precision}}
        given = {"weights": asked.features, "network": asked.feature_network}
        features = {name: value for name, value in given.items() if value is not None}
        if features and "features" in METHODS[training.method].settings.model_fields:
            own["method"] = {"features": features}
        if features and training.method == "fm":
            own["method"]["feature_weight"] = MATCHING[asked.feature_network or FeatureSettings().network]
        return override(config_of(training, asked.preset, asked.budget, asked.settings), own)

    def folder(self, training: RunSpec) -> Path:
        """Where the training's images lie."""
        return self.data / training.dataset.folder

    def model(self, training: RunSpec) -> Path:
        return self.out / "models" / f"{training.name}.flawmap"

    def record(self, training: RunSpec) -> Path:
        return self.out / "records" / f"{training.name}.json"


def perform(training: RunSpec, context: RunContext, *, events: Events = SILENT) -> dict[str, Any]:
    """The record of a training. Where there is none, the network is trained (further), scored and recorded.

    Args:
        events: receives every row of the training's history under its name, and every image scored.
    Raises:
        ConfigError: the folder holds a record or a model of this name made with other settings.
        InputError, TrainingError: the data, or the course of the training.
    """
    config, place, model = context.config(training), context.record(training), context.model(training)
    if place.exists():
        record = read_record(place)
        _refuse_others(parse(record["settings"]), config, place)
        return record
    writable_folder(place.parent)
    cores = None
    if model.exists():
        _refuse_others(load_artifact(model).config, config, model)
    else:
        resume, started = model.with_suffix(".checkpoint").exists(), time.process_time()
        train(context.folder(training), model, config, resume=resume, events=Named(events, training.name))
        cores = None if resume else round(time.process_time() - started, 1)
    record = record_of(training, context, load_artifact(model), events)
    if training.system is not None:
        record["system"] |= {"core_seconds_to_model": cores, "peak_memory": peak_memory()}
    write_json(place, record)
    return record


def record_of(training: RunSpec, context: RunContext, artifact: Artifact, events: Events = SILENT) -> dict[str, Any]:
    """Everything that is measured of a trained model, on all unseen images of its set."""
    dataset = find_dataset(context.folder(training))
    provenance = artifact.provenance
    split = Split.from_dict(provenance["data"]["split"])
    ways = scorings(training)
    areas = {"training": located(dataset, split.train), "held_out": located(dataset, split.validation)}
    detectors = detectors_of(artifact, ways, **areas, runtime=context.request.runtime)
    samples = _chosen(unseen_samples(dataset, split), None if training.system is None else training.system.images)
    pools = score_all(detectors, samples, events)
    durations = durations_of(detectors.get(EVIDENCE, detectors[FAITHFUL]), samples)
    facts = (
        {}
        if training.system is None
        else {"system": _of_system(training.system, pools.get(EVIDENCE, pools[FAITHFUL]), durations)}
    )
    return facts | {
        "schema": SCHEMA,
        "name": training.name,
        "set": training.dataset.key,
        "title": training.dataset.title,
        "method": training.method,
        "seed": training.seed,
        "changes": dict(training.changes),
        "command": context.request.command(),
        "preset": context.request.preset,
        "date": datetime.date.today().isoformat(),
        "machine": provenance["machine"],
        "versions": provenance["versions"],
        "training": {**provenance.get("training", {}), "history": history_of(context.model(training))},
        "settings": without_paths(artifact.config).model_dump(mode="json"),
        "seconds_per_image": seconds_per_image(durations),
        "features": features_of(artifact),
        "scorings": {
            name: {"changes": ways[name], "threshold": detectors[name].artifact.threshold, **pool.result()}
            for name, pool in pools.items()
        },
    }


def _chosen(samples: Sequence[Sample], number: int | None) -> Sequence[Sample]:
    """So many defective and so many good images, evenly chosen; None: all."""
    if number is None:
        return samples
    return [one for label in ("good", "defective") for one in evenly([s for s in samples if s.label == label], number)]


def _of_system(system: System, decided: Pool, durations: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What a record adds for a system of the literature: what was decided, and core seconds of an image."""
    cores = [seconds for _, seconds in durations]
    seconds = round(median_high(cores), 3) if cores else None
    return {"title": system.title, **decided.decision(), "core_seconds_per_image": seconds}


# ------------------------------------------------------------------------------------------------------------- scoring


@dataclass
class Pool:
    """The counts of one way of scoring over the images so far.

    defective: pixels of the defective images, as the paper counts. everything: those and the good test images.
    scores: (score, defective) of each image. flagged: whether each was called flawed.
    """

    defective: PixelMetrics = field(default_factory=PixelMetrics)
    everything: PixelMetrics = field(default_factory=PixelMetrics)
    scores: list[tuple[float, bool]] = field(default_factory=list)
    flagged: list[bool] = field(default_factory=list)

    def add(self, case: Case) -> None:
        """Count an image; one whose flaws all lie outside the region of interest counts for nothing."""
        if case.label == "outside":
            return
        flawed = case.label == "defective"
        self.scores.append((case.inspection.score, flawed))
        self.flagged.append(case.inspection.verdict == "flawed")
        if case.truth is None:
            return
        found = (case.inspection.residual, case.truth, case.explained.inside)
        self.everything.add(*found)
        if flawed:
            self.defective.add(*found)

    def result(self) -> dict[str, Any]:
        """The values as JSON's types."""
        good = any(not flawed for _, flawed in self.scores)
        measure = image_metrics([score for score, _ in self.scores], [flawed for _, flawed in self.scores])["auroc"]
        curve = roc(self.defective.histogram)
        points = None if curve is None else thin(curve, CURVE_POINTS, tolerance=math.inf)
        return {
            "metrics": metrics_of(self.defective, measure.value),
            "metrics_with_good": metrics_of(self.everything, measure.value) if good else None,
            "intervals": intervals_of(self.defective),
            "roc": points and {"x": _numbers(points.false_positive_rate), "y": _numbers(points.true_positive_rate)},
            "overlap": overlap_of(self.defective),
            "histogram": histogram_of(self.defective.histogram),
        }

    def decision(self) -> dict[str, list[int]]:
        """How many defective images were called flawed, and how many good ones, each with their number."""
        flags = {
            defective: [flag for (_, label), flag in zip(self.scores, self.flagged, strict=True) if label == defective]
            for defective in (True, False)
        }
        return {name: [sum(flags[label]), len(flags[label])] for name, label in (("found", True), ("rejected", False))}


def detectors_of(
    artifact: Artifact,
    ways: Mapping[str, dict[str, Any]],
    *,
    training: Sequence[ImageRegion],
    held_out: Sequence[ImageRegion],
    runtime: Runtime,
) -> dict[str, Detector]:
    """A detector for each way of scoring, each with a border correction and a threshold of its own.

    training: good images or areas for the border. held_out: others for the threshold; none: there is none.
    """
    detectors = {}
    for name, changes in ways.items():
        if not changes:
            detectors[name] = Detector.of(artifact, runtime)
            continue
        detectors[name] = calibrated(Detector.of(artifact.rescored(changes), runtime), training, held_out)
    return detectors


def score_all(detectors: Mapping[str, Detector], samples: Sequence[Sample], events: Events = SILENT) -> dict[str, Pool]:
    """Score every image with every detector. Raises InputError over an unreadable one: a part would mislead."""
    pools = {name: Pool() for name in detectors}
    for number, sample in enumerate(samples, start=1):
        for name, detector in detectors.items():
            case, problem = score_case(detector, sample)
            if problem is not None:
                log.warning("%s: %s", sample.path, problem)
            pools[name].add(case)
        events.progress(number, len(samples), str(sample.path))
    return pools


# ------------------------------------------------------------------------------------------------------------- values


def metrics_of(pixels: PixelMetrics, image: float | None) -> dict[str, Any]:
    """The metrics that a record keeps. image: AUROC of whole images, None without good ones."""
    result = pixels.result().to_dict()
    names = ("auroc", "average_precision", "f1_max", "au_pro_30", "au_pro_05", "images")
    return {**{name: result[name] for name in names}, "image_auroc": image}


def intervals_of(pixels: PixelMetrics) -> dict[str, list[float]]:
    """Bootstrap intervals over images, [low, high] by metric; empty where the metrics are undefined."""
    intervals = bootstrap(pixels.per_image).intervals
    return {name: _numbers(interval) for name, interval in intervals.items() if interval is not None}


def overlap_of(pixels: PixelMetrics) -> dict[str, list[float]] | None:
    """Quantiles of the region overlap at RATES; None where they are undefined."""
    regions = pixels.regions
    rows = [overlap_quantiles(pixels.histogram, regions, rate) for rate in RATES]
    kept = [row for row in rows if row is not None]
    if len(kept) < len(RATES):
        return None
    return {
        "rates": list(RATES),
        **{name: _numbers(row[name] for row in kept) for name in ("q25", "q50", "q75")},
    }


def histogram_of(histogram: ScoreHistogram) -> dict[str, Any] | None:
    """Counts of good and of defective pixels in bins of one width from the least to the largest score."""
    if not len(histogram.bins):
        return None
    scores = histogram.binning.edge(histogram.bins).astype(np.float64)
    edges = np.linspace(scores[0], max(scores[-1], np.nextafter(scores[0], np.inf)), HISTOGRAM_BINS + 1)
    counts = {
        name: np.histogram(scores, edges, weights=values)[0].astype(int).tolist()
        for name, values in (("good", histogram.good), ("defective", histogram.defective))
    }
    return {"edges": _numbers(edges), **counts}


def history_of(model: Path) -> list[list[float | None]]:
    """[step, loss, validation] of at most HISTORY_ROWS rows; rows with a validation loss first, if there are many."""
    path = model.with_suffix(".history.csv")
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            [int(row["step"]), float(row["loss"]), float(row["validation"]) if row["validation"] else None]
            for row in csv.DictReader(file)
        ]
    validated = [row for row in rows if row[2] is not None]
    chosen = validated if len(rows) > HISTORY_ROWS and 2 * len(validated) >= HISTORY_ROWS else rows
    places = np.unique(np.linspace(0, len(chosen) - 1, HISTORY_ROWS).round().astype(int))
    return [chosen[place] for place in places]


def durations_of(detector: Detector, samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Seconds by the clock, and of the cores together, from file to mask of some defective images of the set.

    One image after another, with the model loaded. Nothing without a threshold.
    """
    if detector.artifact.threshold is None:
        return []
    paths = [sample.path for sample in samples if sample.label == "defective"][:TIMED_IMAGES]
    durations = []
    for path in (*paths[:1], *paths):  # the first one warms up
        started = time.perf_counter(), time.process_time()
        detector.inspect(path)
        durations.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    return durations[1:]


def seconds_per_image(durations: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """The median and the least of durations by the clock; None without any."""
    timed = [seconds for seconds, _ in durations]
    if not timed:
        return None
    return {"median": round(median_high(timed), 4), "least": round(min(timed), 4), "images": len(timed)}


def features_of(artifact: Artifact) -> dict[str, str] | None:
    """Which feature network a training was matched with; None for methods without one."""
    found = artifact.provenance.get("features")
    return None if found is None else {key: found[key] for key in ("network", "sha256")}


def without_paths(config: Config) -> Config:
    """The settings without the place of a feature network's file, whose digest says more."""
    has_features = "features" in type(config.method).model_fields
    return override(config, {"method": {"features": {"weights": None}}}) if has_features else config


def _refuse_others(found: Config, wanted: Config, place: Path) -> None:
    """The settings that decide a metric must be those asked for; device, precision and memory may differ."""
    where: dict[str, Any] = {"training": {"device": "auto", "precision": "auto", "memory_gb": None}}
    same = where | {"model": {"channels": found.model.channels}}  # the images decide the channels
    if without_paths(override(found, where)) != without_paths(override(wanted, same)):
        raise ConfigError(
            f"{place} was made with other settings (preset, budget or data set) than are asked for; name another "
            "folder with -o, or remove it to make it anew"
        )


def _numbers(values: Iterable[Any]) -> list[float]:
    """Rounded to six digits, more than any value of a record is exact to."""
    return [float(f"{float(value):.6g}") for value in values]

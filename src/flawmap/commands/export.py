"""`flawmap export`: a model for another engine, compared with the original on real images before it is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.events import SILENT, Events
from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.data.finding import find_images
from flawmap.evaluation.scans import evenly
from flawmap.methods.autoencoder import restored
from flawmap.methods.interface import PatchScores
from flawmap.methods.settings import AutoencoderSettings
from flawmap.nets.export import NO_SAMPLES, Format, Samples, exported_graph
from flawmap.scoring.detector import Detector
from flawmap.scoring.exported import SUFFIX
from flawmap.scoring.model_file import load_artifact, save_artifact, version_hash
from flawmap.scoring.operating_point import UNDECIDED

BOUND, BOUND_INT8 = 0.001, 0.25
"""How far a map may be from the original's at any pixel, as a share of the threshold: float32, and 8 bits."""

MOST = 20  # images that are compared, unless more are asked for
SAMPLES = 128  # patches that the ranges of 8 bits are found on


@dataclass(frozen=True)
class Comparison:
    """A model and its export on the same images.

    images: how many. largest: the largest difference of the maps at a pixel, as a share of the threshold (of the
    original's highest value for a model without one). changed: images whose verdict differs. seconds, seconds_exported:
    the median of an image, file to verdict.
    """

    images: int
    largest: float
    changed: tuple[str, ...]
    seconds: float
    seconds_exported: float


@dataclass(frozen=True)
class ExportReport(Comparison):
    """What was written, and what it was compared by. bound: what `largest` may be. size: bytes of all files."""

    model: str
    format: str
    int8: bool
    bound: float
    size: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return asdict(self)


def export(
    model: Path,
    images: Sequence[Path | str],
    to: Format,
    output: Path | None = None,
    *,
    int8: bool = False,
    most: int = MOST,
    roi_masks: Path | None = None,
    events: Events = SILENT,
) -> ExportReport:
    """Export the network of a model; everything around it is the same code for every engine.

    Both are run on images, in float32 on the CPU. If a map differs by more than the bound or a verdict changes, nothing
    is written.

    Args:
        images: files, folders and globs; at most `most` of them, evenly chosen, are compared. to: "onnx", a file with
            the header in it, or "openvino", NAME.xml with NAME.bin and NAME.json beside it. output: None: the model's
            own name with the other suffix. int8: whole numbers of 8 bits, for OpenVINO; their ranges are found on
            patches of the images.
    Raises:
        ConfigError: the method has no network, or the engine cannot run it. InputError: no image, one cannot be read,
            or a package of the extra `export` is missing. ArtifactError: the export is not the same.
    """
    target = output or model.with_suffix(SUFFIX[to])
    artifact = load_artifact(model).with_roi_masks(roi_masks)
    if artifact.graph is not None:
        raise ConfigError(f"{model} is exported already; export from its .flawmap file")
    if not isinstance(artifact.config.method, AutoencoderSettings):
        raise ConfigError(f"the method {artifact.config.method.name} has no network to export; use its .flawmap file")
    chosen = evenly([image.path for image in find_images(images)], most)
    runtime = Runtime("cpu", "float32")
    original = Detector.of(artifact, runtime)
    samples = _samples(original, chosen) if int8 else NO_SAMPLES
    once = original.scorer.encoder is not None
    graph = exported_graph(restored(artifact.config, artifact.weights), to, samples, once=once)
    origin = {"format": to, "int8": int8, "of": version_hash(model)}
    exported = replace(artifact, weights={}, graph=graph, provenance=artifact.provenance | {"exported": origin})
    report = ExportReport(
        **vars(_compared(original, Detector.of(exported, runtime), chosen, events)),
        model=str(target),
        format=to,
        int8=int8,
        bound=BOUND_INT8 if int8 else BOUND,
        size=sum(len(part.model) + len(part.weights) for part in (graph, graph.encoder) if part is not None),
    )
    _refuse(report)
    save_artifact(exported, target)
    return report


def _samples(detector: Detector, images: Sequence[Path]) -> Samples:
    """Patches of the images, or their features, one a batch, and the images if they are encoded once: as the network
    gets them."""
    seen: list[Tensor] = []
    whole: list[Tensor] = []
    scorer = detector.scorer

    def record(*given: Tensor) -> PatchScores:
        seen.extend(part[None].clone() for part in given[-1])
        return scorer.score(*given)

    def encode(image: Tensor) -> Tensor:
        assert scorer.encoder is not None
        whole.append(image)
        features: Tensor = scorer.encoder.encode(image)
        return features

    encoder = None if scorer.encoder is None else replace(scorer.encoder, encode=encode)
    watched = replace(detector, scorer=replace(scorer, score=record, encoder=encoder))
    for image in images:
        watched.score(watched.read(image).pixels, path=image)
    return Samples(evenly(seen, SAMPLES), whole)


def _compared(original: Detector, exported: Detector, images: Sequence[Path], events: Events) -> Comparison:
    largest, changed, seconds = 0.0, [], ([], [])  # type: tuple[Any, Any, Any]
    for number, image in enumerate(images, start=1):
        pair = [_timed(detector, image) for detector in (original, exported)]
        (before, _), (after, _) = pair
        unit = original.artifact.threshold or float(before.residual.max()) or 1.0
        largest = max(largest, float(np.abs(before.residual - after.residual).max()) / unit)
        if original.artifact.threshold is not None and before.verdict != after.verdict:
            changed.append(str(image))
        for times, (_, took) in zip(seconds, pair, strict=True):
            times.append(took)
        events.progress(number, len(images), str(image))
    middle = [statistics.median(times) for times in seconds]
    return Comparison(len(images), largest, tuple(changed), *middle)


def _timed(detector: Detector, image: Path) -> tuple[MappedInspection, float]:
    started = time.perf_counter()
    threshold = UNDECIDED.threshold if detector.artifact.threshold is None else None
    return detector.inspect(image, threshold=threshold), time.perf_counter() - started


def _refuse(report: ExportReport) -> None:
    """Raises ArtifactError where the export is not the same."""
    said = []
    if report.largest > report.bound:
        said.append(f"its maps differ by {report.largest:.2g} of the threshold, at most {report.bound:g} is allowed")
    if report.changed:
        said.append(f"{len(report.changed)} verdicts change, first of all that of {report.changed[0]}")
    if said:
        remedy = "export without --int8" if report.int8 else "use the .flawmap file"
        raise ArtifactError(f"the export is not the same: {'; '.join(said)}. Nothing was written; {remedy}")

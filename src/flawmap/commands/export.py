"""`flawmap export`: a model for another engine, compared with the original on real images before it is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.events import SILENT, Events
from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.data.finding import find_images
from flawmap.data.index import ImageIndex
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.agreement import Shown, agreement, looked_at, samples_of, shown_parts
from flawmap.evaluation.pasting import CROP
from flawmap.methods.autoencoder import restored
from flawmap.methods.settings import AutoencoderSettings
from flawmap.nets.export import NO_SAMPLES, Format, exported_graph
from flawmap.scoring.detector import Detector
from flawmap.scoring.exported import SUFFIX
from flawmap.scoring.model_file import load_artifact, save_artifact, version_hash

BOUND = 0.001
"""How far a map in float32 may be from the original's at any pixel, as a share of the threshold: it is the same
arithmetic, so more is a mistake. In 8 bits verdicts decide alone."""

MOST = 20  # images that are compared, unless more are asked for


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what it was compared by.

    images, pasted: how many as they are, and with a defect pasted in. largest: the largest difference of the maps at a
    pixel, as a share of the threshold (of the original's highest value for a model without one). bound: what it may be;
    None: any. changed: images whose verdict differs. seconds, seconds_exported: the median of an image. size: bytes of
    all files.
    """

    model: str
    format: str
    int8: bool
    images: int
    pasted: int
    largest: float
    bound: float | None
    changed: tuple[str, ...]
    seconds: float
    seconds_exported: float
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

    Both are run on the CPU, the original in float32, on parts of images of at most 1024 pixels a side, as they are and
    with defects pasted in. If a verdict changes, or a map in float32 differs by more than the bound, nothing is
    written.

    Args:
        images: files, folders and globs; at most `most` of them, evenly chosen, are compared. to: "onnx", a file with
            the header in it, or "openvino", NAME.xml with NAME.bin and NAME.json beside it. output: None: the model's
            own name with the other suffix. int8: whole numbers of 8 bits; their ranges are found on patches of the
            images.
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
    index = ImageIndex()
    chosen = [ImageRegion(image.path, index.sha256(image.path)) for image in find_images(images)]
    runtime = Runtime("cpu", "float32")
    original = Detector.of(artifact, runtime)
    shown = shown_parts(original, chosen, min(most, len(chosen)), CROP)
    samples = samples_of(original, shown) if int8 else NO_SAMPLES
    once = original.scorer.encoder is not None
    graph = exported_graph(restored(artifact.config, artifact.weights), to, samples, once=once)
    origin = {"format": to, "int8": int8, "of": version_hash(model)}
    exported = replace(
        artifact, weights={}, graph=graph, variants=None, provenance=artifact.provenance | {"exported": origin}
    )
    (before, seconds), (after, seconds_exported) = _looked_at([original, Detector.of(exported, runtime)], shown, events)
    found = agreement(before, after)
    report = ExportReport(
        model=str(target),
        format=to,
        int8=int8,
        images=sum(not one.flawed for one in shown),
        pasted=sum(one.flawed for one in shown),
        largest=found.largest,
        bound=None if int8 else BOUND,
        changed=found.changed,
        seconds=seconds,
        seconds_exported=seconds_exported,
        size=sum(len(part.model) + len(part.weights) for part in (graph, graph.encoder) if part is not None),
    )
    _refuse(report)
    save_artifact(exported, target)
    return report


def _looked_at(
    detectors: Sequence[Detector], shown: Sequence[Shown], events: Events
) -> list[tuple[list[MappedInspection], float]]:
    """The inspections of each detector, and the median of its seconds; they take turns."""
    found: list[tuple[list[MappedInspection], list[float]]] = [([], []) for _ in detectors]
    for number, one in enumerate(shown, start=1):
        for detector, (inspections, seconds) in zip(detectors, found, strict=True):
            started = time.perf_counter()
            inspections.append(looked_at(detector, one))
            seconds.append(time.perf_counter() - started)
        events.progress(number, len(shown), str(one.path))
    return [(inspections, statistics.median(seconds)) for inspections, seconds in found]


def _refuse(report: ExportReport) -> None:
    """Raises ArtifactError where the export is not the same."""
    said = []
    if report.bound is not None and report.largest > report.bound:
        said.append(f"its maps differ by {report.largest:.2g} of the threshold, at most {report.bound:g} is allowed")
    if report.changed:
        said.append(f"{len(report.changed)} verdicts change, first of all that of {report.changed[0]}")
    if said:
        remedy = "export without --int8" if report.int8 else "use the .flawmap file"
        raise ArtifactError(f"the export is not the same: {'; '.join(said)}. Nothing was written; {remedy}")

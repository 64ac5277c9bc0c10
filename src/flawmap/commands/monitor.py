"""`flawmap monitor`: whether images of today still are what a model was calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from flawmap.commands.outputs import usable_folder
from flawmap.core.documents import document
from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.data.finding import find_images
from flawmap.evaluation.monitoring import DELTA, drift
from flawmap.evaluation.pasting import middle_of
from flawmap.evaluation.scans import in_parallel
from flawmap.imaging.changes import traits
from flawmap.imaging.reading import opened_image
from flawmap.reporting.charts import drift_figure
from flawmap.reporting.logs import write_json
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact

PAGE_BYTES = 1_000_000  # free space asked for


class _Recent(NamedTuple):
    path: Path


def monitor(
    model: Path,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    runtime: Runtime | None = None,
    roi_masks: Path | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Compare the scores of recent images, in the order of their names, with those of the calibration.

    Written are `monitor.json` and `monitor.png`. An unreadable image is listed, and the run goes on.

    Raises:
        ConfigError: the model keeps no scores of good images, or no image could be scored. InputError: no images.
    """
    artifact = load_artifact(model).with_roi_masks(roi_masks)
    detector = Detector.of(artifact, runtime or Runtime())
    recent = [_Recent(image.path) for image in find_images(inputs)]
    folder = usable_folder(out, PAGE_BYTES)
    names: list[str] = []
    scores: list[float] = []
    seen: list[tuple[float, ...]] = []
    unreadable: list[dict[str, str]] = []

    def look(item: _Recent) -> tuple[float, tuple[float, ...]]:
        with opened_image(item.path, detector.config.images) as image:
            part = middle_of(detector, image)
            score = max(float(band.residual.max()) for band in detector.scan(image))
        return score, traits(part)

    with closing(in_parallel(look, recent)) as results:
        for number, (item, result) in enumerate(results, start=1):
            if isinstance(result, InputError):
                unreadable.append({"path": str(item.path), "problem": str(result)})
            else:
                names.append(str(item.path))
                scores.append(result[0])
                seen.append(result[1])
            events.progress(number, len(recent), str(item.path))
    found = drift(artifact.good_scores, scores, seen, artifact.check)
    drift_figure(
        artifact.good_scores,
        scores,
        found.capital,
        folder / "monitor.png",
        threshold=artifact.threshold,
        alarm=1 / DELTA,
    )
    images = [{"path": name, "score": score} for name, score in zip(names, scores, strict=True)]
    report = {"model": str(model), "folder": str(out), **found.to_dict(), "images": images, "unreadable": unreadable}
    write_json(folder / "monitor.json", document("monitor", report))
    return report

"""`flawmap report`, and the end of `flawmap inspect`: what an inspection found, as pages to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawmap.commands.evaluate import model_summary
from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.methods.overrides import flat
from flawmap.reporting.logs import INSPECTIONS, RUN, read_lines
from flawmap.reporting.models import model_facts
from flawmap.reporting.pages import Page
from flawmap.reporting.pictures import fitted, shrunk
from flawmap.reporting.reports import (
    IMAGE_BYTES,
    Captioned,
    Images,
    Shown,
    histogram,
    settings_section,
    write_report,
)
from flawmap.reporting.tables import Cell, count, number
from flawmap.scoring.model_file import Artifact, load_artifact, model_sha256

COLUMNS = ("image", "verdict", "score", "p-value", "regions", "flawed pixels", "largest region")
Line = Mapping[str, Any]


def report(folder: Path, model: Path | None = None, *, events: Events = SILENT) -> dict[str, Any]:
    """Pages for a folder of `flawmap inspect`: `report.html`, and `report-2.html` and so on for more than 40 images.

    Each page is one file that opens without internet. The first one has the figures of all images, sortable; pictures
    follow, the worst image first.

    Args:
        model: for the histogram of good scores, the guarantee and the settings; None: without.
    Returns:
        The pages and the counts, as JSON's types.
    Raises:
        InputError: nothing was inspected into the folder. ConfigError, ArtifactError: the model is another one or
            cannot be read.
    """
    path = folder / INSPECTIONS
    if not path.is_file():
        raise InputError(f"no inspection in {folder}; `flawmap inspect MODEL IMAGES -o {folder}` makes one")
    lines = [_without_places(line) for line in read_lines(path)]
    good = sorted((line for line in lines if "error" not in line), key=lambda line: -line["score"])
    failed = tuple((_name(line), line["error"]) for line in lines if "error" in line)
    shown = tuple(Shown(_name(line), _cells(line), _note(line), _pictures(folder, line)) for line in good)
    page = _page(folder, good, len(failed), model)
    pages = write_report(page, Images(COLUMNS, shown, "by falling score", failed), folder, events=events)
    return {
        "pages": [str(path) for path in pages],
        "images": len(good),
        "flawed": _flawed(good),
        "unreadable": len(failed),
    }


def _page(folder: Path, good: Sequence[Line], failed: int, model: Path | None) -> Page:
    """The top of the report and, at its end, where the figures come from."""
    run = _run(folder)
    artifact = None if model is None else _same_model(folder, run, model)
    counts = {"images": len(good), "flawed": _flawed(good), "ok": len(good) - _flawed(good), "unreadable": failed}
    facts: list[tuple[str, str | Cell]] = [(name, count(value)) for name, value in counts.items()]
    settings: dict[str, Any] = {}
    if model is not None and artifact is not None:
        facts += model_facts(model_summary(model, artifact))
        settings = flat(artifact.config.model_dump(mode="json"))
    if good:
        facts.append(("threshold of these verdicts", number(good[0]["threshold"], 4)))
    origin = {"model": model, "SHA-256 of the model": run.get("model_sha256"), "operating point": run.get("point")}
    origin |= {"engine": run.get("engine"), "precision": run.get("precision")}
    scores = {kind: [line["score"] for line in good if line["verdict"] == kind] for kind in ("ok", "flawed")}
    calibrated = () if artifact is None else artifact.good_scores
    return Page(
        title="Inspection",
        lead="Every image with its score, the worst one first; found flaws are outlined in green.",
        facts=tuple(facts),
        figures=(histogram(scores, calibrated, good[0]["threshold"]),) if good else (),
        sections=(settings_section(origin, settings),),
        footer="Scores are not rescaled; an image is flawed if its score lies above the threshold.",
    )


def _run(folder: Path) -> dict[str, Any]:
    """What decided the results of the folder; empty where it is unknown."""
    try:
        found: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _same_model(folder: Path, run: Mapping[str, Any], model: Path) -> Artifact:
    """The model at the point that decided. InputError: another one inspected these images."""
    if run.get("model_sha256") != model_sha256(model):
        raise InputError(f"{folder} was inspected by another model than {model}; name the one that inspected it")
    artifact, point = load_artifact(model), run.get("point")
    return artifact.at_point(point) if point in artifact.points else artifact  # one without points took --threshold


def _without_places(line: Line) -> Line:
    """A line whose regions are their areas alone: of many images no more is held."""
    return {key: [region["area"] for region in value] if key == "regions" else value for key, value in line.items()}


def _flawed(good: Sequence[Line]) -> int:
    return sum(line["verdict"] == "flawed" for line in good)


def _name(line: Line) -> str:
    return line["path"] if line.get("page") is None else f"{line['path']}, page {line['page']}"


def _cells(line: Line) -> tuple[str | Cell, ...]:
    return (
        line["verdict"],
        number(line["score"], 4),
        number(line["p_value"], 4, reason="the model keeps no scores of good images"),
        count(len(line["regions"])),
        count(line["flawed_pixels"]),
        count(max(line["regions"], default=0)),
    )


def _note(line: Line) -> str:
    regions = len(line["regions"])
    p_value = "" if line["p_value"] is None else f", p = {line['p_value']:.3g}"
    return f"{line['verdict']}, score {line['score']:.4g}{p_value}, {regions} region{'' if regions == 1 else 's'}"


def _pictures(folder: Path, line: Line) -> Any:
    """What reads the overlay of an image, whose name the line keeps; None: it was not written."""
    name = line.get("pictures")
    path = None if name is None else folder / f"{name}_overlay.png"
    return partial(_overlay, path) if path is not None and path.is_file() else None


def _overlay(path: Path) -> tuple[Captioned, ...]:
    with Image.open(path) as image:
        levels = np.asarray(image.convert("RGB"), np.uint8)
    return (("found flaws", fitted(shrunk(levels), IMAGE_BYTES)),)

"""`flawmap report`: what an inspection found, as pages to look at, the worst image first."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flawmap.commands.tables import rule_text
from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.reporting.charts import scores_figure
from flawmap.reporting.logs import INSPECTIONS, RUN, read_lines
from flawmap.reporting.pages import Figure, Page, PictureRows, Section, write_page
from flawmap.reporting.pictures import Levels, shrunk
from flawmap.reporting.tables import Cell, Table, count, number
from flawmap.scoring.model_file import Artifact, load_artifact, version_hash

PER_PAGE = 40  # images with pictures
Line = Mapping[str, Any]


def report(folder: Path, model: Path | None = None, *, events: Events = SILENT) -> dict[str, Any]:
    """Pages for a folder of `flawmap inspect`: `report.html`, and `report-2.html` and so on for more than 40 images.

    Each page is one file that opens without internet. The first one has the figures of all images, sortable; pictures
    follow, the worst image first.

    Args:
        model: for the histogram of good scores and the guarantee; None: without.
    Returns:
        The pages and the counts, as JSON's types.
    Raises:
        InputError: nothing was inspected into the folder. ConfigError, ArtifactError: the model is another one or
            cannot be read.
    """
    path = folder / INSPECTIONS
    if not path.is_file():
        raise InputError(f"no inspection in {folder}; `flawmap inspect MODEL IMAGES -o {folder}` makes one")
    lines = read_lines(path)
    good = sorted((line for line in lines if "error" not in line), key=lambda line: -line["score"])
    failed = [line for line in lines if "error" in line]
    artifact = None if model is None else _same_model(folder, model)
    names = [_page_name(place) for place in range(max(1, -(-len(good) // PER_PAGE)))]
    for place, name in enumerate(names):
        shown = good[PER_PAGE * place : PER_PAGE * (place + 1)]
        page = _page(folder, good, failed, shown, place=place, names=names, artifact=artifact, model=model)
        write_page(page, folder / name)
        events.progress(place + 1, len(names), name)
    flawed = sum(line["verdict"] == "flawed" for line in good)
    return {
        "pages": [str(folder / name) for name in names],
        "images": len(good),
        "flawed": flawed,
        "unreadable": len(failed),
    }


def _page_name(place: int) -> str:
    return "report.html" if place == 0 else f"report-{place + 1}.html"


def _same_model(folder: Path, model: Path) -> Artifact:
    """The model at the point that decided. InputError: another one inspected these images."""
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        run = {}
    if run.get("model_sha256", "")[:12] != version_hash(model):
        raise InputError(f"{folder} was inspected by another model than {model}; name the one that inspected it")
    return load_artifact(model).at_point(run.get("point"))


def _page(
    folder: Path,
    good: Sequence[Line],
    failed: Sequence[Line],
    shown: Sequence[Line],
    *,
    place: int,
    names: Sequence[str],
    artifact: Artifact | None,
    model: Path | None,
) -> Page:
    tables = (_all_images(good), *_unreadable(failed)) if place == 0 else ()
    return Page(
        title="Inspection",
        lead="Every image with its score, the worst one first; found flaws are outlined in green.",
        facts=tuple(_facts(good, failed, artifact, model)) if place == 0 else (),
        tables=tables,
        figures=tuple(_histogram(good, artifact)) if place == 0 else (),
        sections=(Section(_heading(place, len(shown)), tuple(_pictures(folder, shown))),) if shown else (),
        links=tuple((f"page {number}", name) for number, name in enumerate(names, start=1)) if len(names) > 1 else (),
        footer="Scores are not rescaled; an image is flawed if its score lies above the threshold.",
    )


def _facts(
    good: Sequence[Line], failed: Sequence[Line], artifact: Artifact | None, model: Path | None
) -> list[tuple[str, str | Cell]]:
    """What stands at the top of the first page."""
    flawed = sum(line["verdict"] == "flawed" for line in good)
    facts: list[tuple[str, str | Cell]] = [
        ("images", count(len(good))),
        ("flawed", count(flawed)),
        ("ok", count(len(good) - flawed)),
        ("unreadable", count(len(failed))),
    ]
    if good:
        facts.append(("threshold", number(good[0]["threshold"], 4)))
    if artifact is not None and artifact.operating_point is not None:
        facts.append(("operating point", f"{artifact.active} {rule_text(artifact.operating_point.found)}"))
        facts.append(("model", f"{model}, version {version_hash(model)}" if model else ""))
        facts.append(("method", f"{artifact.config.method.name}, patches of {artifact.config.model.patch} pixels"))
    return facts


def _heading(place: int, shown: int) -> str:
    first = PER_PAGE * place + 1
    return f"Images {first} to {first + shown - 1}, by falling score"


def _all_images(good: Sequence[Line]) -> Table:
    columns = ("image", "verdict", "score", "p-value", "regions", "flawed pixels", "largest region")
    rows = tuple(
        (
            _name(line),
            line["verdict"],
            number(line["score"], 4),
            number(line["p_value"], 4, reason="the model keeps no scores of good images"),
            count(len(line["regions"])),
            count(line["flawed_pixels"]),
            count(max((region["area"] for region in line["regions"]), default=0)),
        )
        for line in good
    )
    return Table("All images", columns, rows, "A click on a heading sorts.")


def _unreadable(failed: Sequence[Line]) -> Iterator[Table]:
    if failed:
        yield Table("Could not be read", ("image", "why"), tuple((_name(line), line["error"]) for line in failed))


def _name(line: Line) -> str:
    return line["path"] if line.get("page") is None else f"{line['path']}, page {line['page']}"


def _histogram(good: Sequence[Line], artifact: Artifact | None) -> Iterator[Figure]:
    if not good:
        return
    scores = {kind: [line["score"] for line in good if line["verdict"] == kind] for kind in ("ok", "flawed")}
    calibrated = () if artifact is None else artifact.good_scores
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "scores.png"
        scores_figure(scores["ok"], scores["flawed"], calibrated, good[0]["threshold"], path)
        yield Figure(
            "Scores of these images, and of the good ones that the decision was calibrated on", path.read_bytes()
        )


def _pictures(folder: Path, shown: Sequence[Line]) -> Iterator[PictureRows]:
    for line in shown:
        place = _overlay(folder, line)
        if place is None:
            continue
        regions = len(line["regions"])
        p_value = "" if line["p_value"] is None else f", p = {line['p_value']:.3g}"
        note = f"{line['verdict']}, score {line['score']:.4g}{p_value}, {regions} region{'' if regions == 1 else 's'}"
        yield PictureRows(_name(line), note, (("found flaws", shrunk(_levels(place))),))


def _levels(path: Path) -> Levels:
    return np.asarray(Image.open(path).convert("RGB"), np.uint8)


def _overlay(folder: Path, line: Line) -> Path | None:
    """The overlay of an image, whose name the line keeps; None: it was not written."""
    name = line.get("pictures")
    path = None if name is None else folder / f"{name}_overlay.png"
    return path if path is not None and path.is_file() else None

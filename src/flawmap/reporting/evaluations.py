"""What the report of `evaluate` shows: figures, curve, histogram, and every image, the worst one first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flawmap.evaluation.evaluate import Keep, relative_name
from flawmap.evaluation.results import Evaluation, ImageRow
from flawmap.reporting.case_pictures import SCALE
from flawmap.reporting.labels import DECIMALS, HELD_OUT, IMAGE_METRICS, PIXEL_METRICS, decision_rows
from flawmap.reporting.models import model_facts
from flawmap.reporting.pages import Figure, Page
from flawmap.reporting.reports import Images, Shelf, Shown, histogram, settings_section
from flawmap.reporting.tables import Cell, Table, count, number, percent

COLUMNS = ("image", "kind", "label", "verdict", "score", "of the flaw found", "pixels too many")
UNDECIDED = "no mask, or no threshold"


def put_on(shelf: Shelf, root: Path) -> Keep:
    """What puts the pictures of each image on a shelf, under its name in the records."""
    return lambda sample, pictures: shelf.put(relative_name(sample.path, root), pictures)


def evaluation_page(
    evaluation: Evaluation,
    about: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    roc: Path,
    good_scores: Sequence[float] = (),
) -> Page:
    """The top of the report: metrics, ROC curve, histogram of good and bad images, the model; at its end the settings.

    about: of metrics.json. settings: of the model, by name. roc: the picture of the curve; no file where it is
    undefined. good_scores: of the calibration.
    """
    model, data = about["model"], about["dataset"]
    origin = {
        "model": model["file"],
        "SHA-256 of the model": model["sha256"],
        "SHA-256 of the split": model["split_sha256"],
        "data set": data["name"],
        "engine": about["engine"],
        "precision": about["precision"],
        "schema": about["schema"],
    }
    return Page(
        title=f"{model['file']} on {data['name']}",
        lead=f"{len(evaluation.per_image)} images, scored by the method {model['method']} in their own pixels.",
        facts=(*model_facts(model), *_data_facts(data)),
        tables=(*_decision_table(evaluation), _metrics_table(evaluation)),
        figures=tuple(_figures(evaluation, model["threshold"], roc, good_scores)),
        sections=(settings_section(origin, settings),),
        heat=SCALE,
        footer=f"model version {model['version']}, split {(model['split_sha256'] or 'unknown')[:12]}",
    )


def evaluated_images(evaluation: Evaluation, shelf: Shelf) -> Images:
    """Every image that was scored. First the wrong decisions: flaws that were missed, then false alarms; then flaws of
    which little was found, and good images by falling score."""
    rows = sorted(evaluation.per_image, key=_badness)
    shown = tuple(Shown(row.path, _cells(row), _note(row), partial(shelf.get, row.path)) for row in rows)
    return Images(COLUMNS, shown, "the worst first", evaluation.unreadable)


# ------------------------------------------------------------------------------------------------------------- images


def _badness(row: ImageRow) -> tuple[bool, bool, float, float]:
    """A key that sorts the worst image first."""
    good = row.label != "defective"
    right = row.verdict is not None and (row.verdict == "ok") == good
    overlap = _overlap(row)
    return right, good, 0.0 if overlap is None else overlap, -row.score if good else row.score


def _overlap(row: ImageRow) -> float | None:
    """The share of the flaw that was found; None: there is none, or nothing was decided."""
    found: float | None = row.to_dict().get("overlap")
    return found


def _cells(row: ImageRow) -> tuple[str | Cell, ...]:
    values = row.to_dict()
    return (
        row.kind,
        row.label,
        row.verdict or "",
        number(row.score, DECIMALS),
        "" if row.label != "defective" else percent(_overlap(row), reason=UNDECIDED),
        count(values.get("false_pixels"), reason=UNDECIDED),
    )


def _note(row: ImageRow) -> str:
    values = row.to_dict()
    notes = [row.kind, f"score {row.score:.4f}" + (f" ({row.verdict})" if row.verdict else "")]
    if values.get("overlap") is not None:
        notes += [f"{values['overlap']:.0%} of the flaw found", f"{values['false_pixels']:,} pixels too many"]
    return ", ".join(notes)


# ------------------------------------------------------------------------------------------------------------- values


def _data_facts(data: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return (
        ("images", ", ".join(f"{amount} {label}" for label, amount in data["images"].items())),
        ("working scale", str(data["scale"])),
        ("region of interest", _region(data["region"])),
    )


def _region(region: Mapping[str, Any]) -> str:
    parts = (f"{name} {', '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in region.items())
    return "; ".join(parts) or "everywhere"


def _figures(
    evaluation: Evaluation, threshold: float | None, roc: Path, good_scores: Sequence[float]
) -> Iterator[Figure]:
    if roc.is_file():
        yield Figure("ROC curve of all pixels, on a linear and a logarithmic axis", roc.read_bytes())
    scores = {kind: [row.score for row in evaluation.per_image if row.label == kind] for kind in ("good", "defective")}
    if any(scores.values()):
        yield histogram(scores, good_scores, threshold)


def _decision_table(evaluation: Evaluation) -> tuple[Table, ...]:
    rows = decision_rows(None if evaluation.decision is None else evaluation.decision.to_dict())
    best = evaluation.pixel.values["f1_max"]
    if rows and best is not None:
        rows.append((PIXEL_METRICS["f1_max"].label, f"{best:.{DECIMALS}f}"))
    title = "Decisions at the model's own operating point (95% Clopper-Pearson interval)"
    return (Table(title, ("", "value"), tuple(rows)),) if rows else ()


def _metrics_table(evaluation: Evaluation) -> Table:
    everything, defective = evaluation.pixel.to_dict(), evaluation.pixel_defective_images.to_dict()
    level = everything["intervals"]["level"]
    columns = (f"metric ({level:.0%} interval over images)", "all images that count", "defective images alone")
    rows: list[tuple[str | Cell, ...]] = [
        (metric.label, _with_interval(everything, name), _with_interval(defective, name))
        for name, metric in PIXEL_METRICS.items()
    ]
    image, reason = evaluation.image.values if evaluation.image else {}, evaluation.image_reason or ""
    rows += [(metric.label, number(image.get(name), reason=reason), "") for name, metric in IMAGE_METRICS.items()]
    if evaluation.held_out:
        rows.append((HELD_OUT, percent(evaluation.held_out.false_positive_rate, DECIMALS), ""))
        rows.append(("held-out good pixels", count(evaluation.held_out.good_pixels), ""))
    return Table("Metrics", columns, tuple(rows))


def _with_interval(section: Mapping[str, Any], name: str) -> Cell:
    """A metric of a section of metrics.json with its interval, or why there is none."""
    cell = number(section[name], DECIMALS, reason=str(section["undefined"].get(name, "")))
    ends = section["intervals"][name]
    if ends is None:
        return cell
    low, high = (number(end, DECIMALS).text for end in ends)
    return Cell(f"{cell.text} ({low} to {high})", cell.title)

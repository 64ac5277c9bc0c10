"""The page of a fleet: a row for each product type. How it looks is `pages`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flawmap.reporting.labels import IMAGE_METRICS, PIXEL_METRICS, share_text
from flawmap.reporting.pages import Page
from flawmap.reporting.tables import Cell, Table, count, number

COLUMNS = (
    *("type", "method", "images", "minutes of training", "threshold"),
    *(PIXEL_METRICS["auroc"].short, PIXEL_METRICS["au_pro_30"].short, IMAGE_METRICS["auroc"].short),
    *("defective images found", "good images rejected", "evaluation", "inspected: flawed", "problem"),
)
NOT_YET = "not done yet"


def fleet_page(table: Mapping[str, Any]) -> Page:
    """table: of fleet.json."""
    types = table["types"]
    models = sum(row["model"] is not None for row in types)
    problems = sum(bool(problem_of(row)) for row in types)
    return Page(
        title="flawmap fleet",
        lead=f"{len(types)} product types, {models} with a model, {problems} with a problem.",
        facts=(("last step", f"{table['step']}: {len(table['ran'])} types, {len(table['failed'])} failed"),),
        tables=(Table("Types", COLUMNS, tuple(_row(row) for row in types)),),
        footer=f"{table['schema']}; the figures of each type lie beside this page, in its folder",
    )


def problem_of(row: Mapping[str, Any]) -> str:
    """What failed or is out of date for a type, in words; empty: nothing."""
    failed = [
        f"{step}: {row[step]['error']}" for step in ("train", "calibrate", "evaluate", "inspect") if error_of(row, step)
    ]
    return "; ".join([*failed, *(f"{step}: of an earlier model" for step in row["stale"])])


def error_of(row: Mapping[str, Any], step: str) -> str | None:
    """Why a type's step failed; None: it did not, or was not begun."""
    record = row[step]
    return record["error"] if record else None


def figures_of(row: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The figures of a type's step; empty: there are none."""
    record = row[step]
    return dict(record["figures"] or {}) if record else {}


def _row(row: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    made, measured, seen = (figures_of(row, step) for step in ("train", "evaluate", "inspect"))
    threshold = figures_of(row, "calibrate").get("threshold", made.get("threshold"))
    inspected = f"{seen['images']}: {seen['flawed']}" if seen else ""
    return (
        row["name"],
        made.get("method", ""),
        count(made.get("images"), reason=NOT_YET),
        number(made.get("minutes"), 1, reason=NOT_YET),
        number(threshold, 4, reason=NOT_YET),
        *(number(measured.get(name), reason=NOT_YET) for name in ("pixel_auroc", "au_pro_30", "image_auroc")),
        *(share_text(measured or None, name) for name in ("found", "rejected")),
        _link("report", measured),
        _link(inspected, seen),
        problem_of(row),
    )


def _link(text: str, figures: Mapping[str, Any]) -> Cell:
    return Cell(text, numeric=False, link=figures["report"]) if figures else Cell("", numeric=False)

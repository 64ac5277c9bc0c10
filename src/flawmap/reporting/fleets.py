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
    *("defective images found", "good images rejected", "evaluation", "inspection", "problem"),
)
METRICS = ("pixel_auroc", "au_pro_30", "image_auroc")
STEPS = ("train", "calibrate", "evaluate", "inspect")
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
        tables=(_without_gaps(Table("Types", COLUMNS, tuple(_row(row) for row in types))),),
        footer=f"{table['schema']}; the figures of each type lie beside this page, in its folder",
    )


def problem_of(row: Mapping[str, Any]) -> str:
    """What failed or is out of date for a type, in words; empty: nothing."""
    failed = [f"{step}: {row[step]['error']}" for step in STEPS if row[step] and row[step]["error"]]
    return "; ".join([*failed, *(f"{step}: of an earlier model" for step in row["stale"])])


def figures_of(row: Mapping[str, Any], step: str) -> dict[str, Any]:
    """The figures of a type's step; empty: there are none."""
    record = row[step]
    return dict(record["figures"] or {}) if record else {}


def _row(row: Mapping[str, Any]) -> tuple[str | Cell, ...]:
    made, measured, seen = (figures_of(row, step) for step in ("train", "evaluate", "inspect"))
    decides = {} if "calibrate" in row["stale"] else figures_of(row, "calibrate")
    return (
        row["name"],
        made.get("method", ""),
        count(made.get("images"), reason=NOT_YET),
        number(made.get("minutes"), 1, reason="" if made else NOT_YET),
        number((decides or made).get("threshold"), 4, reason="" if made else NOT_YET),
        *(number(measured.get(name), reason=_reason(measured, name)) for name in METRICS),
        *(share_text(measured or None, name) for name in ("found", "rejected")),
        _link("report", measured) if measured else "",
        _link(f"{seen['flawed']} of {seen['images']} flawed", seen) if seen else "",
        problem_of(row),
    )


def _reason(measured: Mapping[str, Any], name: str) -> str:
    """Why a metric is missing."""
    return str(measured["undefined"].get(name, "")) if measured else NOT_YET


def _link(text: str, figures: Mapping[str, Any]) -> Cell:
    return Cell(text, numeric=False, link=figures["report"])


def _without_gaps(table: Table) -> Table:
    """The table without columns in which no row holds anything."""
    kept = [place for place in range(len(table.columns)) if any(row[place].text for row in table.cells)]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return Table(table.title, tuple(table.columns[place] for place in kept), rows)

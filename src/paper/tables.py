"""Records as tables: ours beside the paper's, every number of the paper with its origin. How they look is `page`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from flawmap.methods.overrides import flat
from flawmap.reporting.labels import DECIMALS, IMAGE_METRICS, PIXEL_METRICS
from flawmap.reporting.tables import MISSING, Cell, Table, count, number, percent
from paper.claims import MARKS, OVERLAP_RATE, Claim, Printed, printed_areas, printed_cells
from paper.plan import METHODS, TABLE_2, series_of
from paper.records import (
    FAITHFUL,
    NOT_RUN,
    Record,
    column_runs,
    curves_of,
    is_cell,
    main_runs,
    mean_and_range,
    set_titles,
    values_of,
)

VERDICTS = {True: "\N{CHECK MARK} holds", False: "\N{BALLOT X} does not hold", None: f"{MISSING} not tested"}
RUN_METRICS = ("auroc", "average_precision", "f1_max", "au_pro_30", "au_pro_05")
AUROC = PIXEL_METRICS["auroc"].short
QUANTILES = ("25 % quantile", "median", "75 % quantile")
PAPER_COLUMNS = ("the paper", "from")

Row = tuple[str | Cell, ...]


def claims_table(claims: Iterable[Claim]) -> Table:
    """Each claim, whether it holds, and why."""
    rows = tuple((claim.text, VERDICTS[claim.holds], claim.evidence or MISSING) for claim in claims)
    return Table("What the paper says, and what we see", ("the paper says", "on our runs it", "evidence"), rows)


def areas_table(records: Sequence[Record], paper: Sequence[Printed]) -> Table:
    """Figure 6 in numbers: the areas of each set and method, ours beside the paper's."""
    others = _other_scorings(records)
    rows: list[Row] = []
    for set_name, title in set_titles(records).items():
        for method, name in METHODS.items():
            runs = main_runs(records, set_name, method)
            more = [mean_and_range(values_of(runs, scoring)) if runs else "" for scoring in others]
            seeds = ", ".join(str(run["seed"]) for run in runs)
            theirs = _beside(printed_areas(paper, set_name, method), _with_detail)
            rows.append((title, name, seeds, mean_and_range(values_of(runs)), _interval(runs), *more, *theirs))
        for method in _other_systems(paper, "figure6", set_name):
            theirs = _beside(printed_areas(paper, set_name, method), _with_detail)
            rows.append((title, method, "", MISSING, "", *[""] * len(others), *theirs))
    columns = ("set", "method", "seeds", AUROC, "interval over images, first seed")
    note = (
        "Measured over the pixels of the defective images. Several seeds give their mean, and in brackets the smallest "
        "and the largest value."
    )
    return Table(
        "Areas under the ROC curves, ours beside the paper's",
        (*columns, *(f"{AUROC}, {scoring}" for scoring in others), *PAPER_COLUMNS),
        tuple(rows),
        note + _scoring_changes(records),
    )


def overlap_table(records: Sequence[Record], paper: Sequence[Printed]) -> Table:
    """Figure 7 in numbers: the fraction of the ground-truth regions that is found at 5 % false positives."""
    rows: list[Row] = []
    for set_name, title in set_titles(records).items():
        for method, name in [*METHODS.items(), *((name, name) for name in _other_systems(paper, "figure7", set_name))]:
            found = [overlap for run in main_runs(records, set_name, method) if (overlap := quantiles_of(run))]
            ours: Row = (Cell(NOT_RUN, numeric=False) if method in METHODS else MISSING, "", "")
            if found:
                ours = tuple(percent(float(quantile)) for quantile in np.mean(found, axis=0))
            printed = [one for one in paper if (one.what, one.set, one.method) == ("figure7", set_name, method)]
            rows.append((title, name, *ours, *_beside(printed, _with_quantity)))
    note = (
        "Quantiles over all ground-truth regions of the fraction of each that is found, at a false positive rate of "
        "5 %. Several seeds give their mean."
    )
    columns = ("set", "method", *QUANTILES, *PAPER_COLUMNS)
    return Table("Fraction of the flaws found at 5 % false positives", columns, tuple(rows), note)


def sensitivity_table(records: Sequence[Record], paper: Sequence[Printed]) -> Table:
    """Table 2, a row for each cell that was run or that the paper has."""
    others = _other_scorings(records)
    rows: list[Row] = []
    for place, axis in enumerate(TABLE_2):
        runs, theirs = column_runs(records, place), printed_cells(paper, place)
        for value in sorted(runs.keys() | theirs.keys()):
            found = runs.get(value, [])
            patches = count(found[0]["training"]["patches"] if found else None)
            ours = [mean_and_range(values_of(found, scoring)) if found else "" for scoring in others]
            printed = _beside([theirs[value]] if value in theirs else [], _value)
            cell = f"{axis.symbol} = {value}"
            rows.append((axis.name, cell, patches, mean_and_range(values_of(found)), *ours, *printed))
    columns = ("varied", "cell", "patches", AUROC, *(f"{AUROC}, {name}" for name in others), *PAPER_COLUMNS)
    note = (
        "SSIM on NanoTWICE. A row varies one setting; the others are d = 500, K = 11 and patches of 128 pixels. "
        "Patches: how many our training saw; the paper trains for 200 epochs of 10,000."
    )
    return Table("Table 2, ours beside the paper's", columns, tuple(rows), note)


def ours_table(records: Sequence[Record]) -> Table:
    """SSIM as the paper has it beside our additions: what is added in training, and what in scoring."""
    rows: list[Row] = []
    for set_name, title in set_titles(records).items():
        runs = [run for run in records if (run["set"], run["method"]) == (set_name, "ssim") and not is_cell(run)]
        for run in sorted(runs, key=lambda run: (series_of(run["name"]), run["seed"])):
            for scoring, scored in run["scorings"].items():
                metrics, bounds = scored["metrics"], (scored.get("intervals") or {}).get("auroc")
                overlap = quantiles_of(run, scoring)
                rows.append(
                    (
                        title,
                        _changes(run["changes"]) or MISSING,
                        _changes(scored["changes"]) or MISSING,
                        Cell(str(run["seed"])),
                        finite(metrics["auroc"]),
                        "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}",
                        finite(metrics["average_precision"], 3),
                        finite(metrics["au_pro_30"], 3),
                        *(("", "", "") if overlap is None else (number(fraction, 3) for fraction in overlap)),
                    )
                )
    columns = (
        *("set", "added in training", "added in scoring", "seed", AUROC, "interval over images"),
        *(PIXEL_METRICS[name].short for name in ("average_precision", "au_pro_30")),
        *QUANTILES,
    )
    note = "Quantiles over all ground-truth regions of the fraction of each that is found at 5 % false positives."
    return Table("SSIM with and without our additions", columns, tuple(rows), note)


def timing_table(records: Sequence[Record], timing: Mapping[str, Any] | None, paper: Sequence[Printed]) -> Table:
    """One patch and one whole image beside the paper's times, and the whole images of the runs."""
    printed = {
        unit: _beside(
            [one for one in paper if one.what == "timing" and one.quantity.startswith(f"{unit} ")],
            partial(_with_detail, unit=f" {unit}"),
        )
        for unit in ("ms", "s")
    }
    notes = ["Medians, with the model loaded. The paper states neither its batch nor what a whole image includes."]
    if timing is None:
        rows: list[Row] = [
            ("forward pass of one patch", NOT_RUN, *printed["ms"]),
            ("one whole image", NOT_RUN, *printed["s"]),
        ]
    else:
        rows = list(_timed(timing, printed))
        notes.append(f"Patch and whole image were timed on: {_machine(timing)}, {timing['precision']}.")
    for record in records:
        seconds = record.get("seconds_per_image") or {}
        if seconds.get("median") is not None and not is_cell(record):
            rows.append((f"an image from file to mask, {record['name']}", f"{seconds['median']:.3g} s", "", ""))
    return Table("Times, ours beside the paper's", ("what", "ours", *PAPER_COLUMNS), tuple(rows), " ".join(notes))


def runs_table(records: Sequence[Record], planned: Sequence[str] = ()) -> Table:
    """What was trained, and how; and what was planned and is not there."""
    rows: list[Row] = []
    for record in records:
        training = record["training"]
        rows.append(
            (
                str(record["name"]),
                METHODS.get(record["method"], str(record["method"])),
                Cell(str(record["seed"])),
                str(record["preset"]),
                _changes(record["changes"]) or MISSING,
                count(training.get("patches")),
                number(training["seconds"] / 60 if "seconds" in training else None, 1),
                finite(training.get("loss")),
                finite(training.get("validation_loss")),
                str(record["date"]),
            )
        )
    done = {record["name"] for record in records}
    rows += [(name, NOT_RUN, *[""] * 8) for name in dict.fromkeys(planned) if name not in done]
    columns = ("run", "method", "seed", "preset", "changed", "patches", "minutes", "loss", "on validation", "date")
    machines = dict.fromkeys(_machine(record) for record in records)
    note = f"Trained on: {'; '.join(machines)}." if records else "Nothing has been run."
    return Table("What was run", columns, tuple(rows), note)


def metrics_table(records: Sequence[Record]) -> Table:
    """Every metric of every run, by way of scoring."""
    rows: list[Row] = []
    for record in records:
        for scoring, scored in record["scorings"].items():
            metrics, whole = scored["metrics"], scored.get("metrics_with_good") or {}
            values = [*(metrics.get(name) for name in RUN_METRICS), whole.get("auroc")]
            image = metrics.get("image_auroc", whole.get("image_auroc"))
            cells = [finite(value) for value in (*values, image)]
            rows.append((str(record["name"]), scoring, *cells, count(metrics.get("images"))))
    columns = (
        *("run", "scored", *(PIXEL_METRICS[name].short for name in RUN_METRICS)),
        *(f"{AUROC} with good images", IMAGE_METRICS["auroc"].short, "images"),
    )
    note = "Measured over the defective images, except for two columns, which also need good test images."
    return Table("Every metric of every run", columns, tuple(rows), note)


def paper_table(paper: Iterable[Printed]) -> Table:
    """All that we know of the paper's numbers, and where from."""
    rows = tuple(
        (one.what, one.set or MISSING, one.method or MISSING, one.quantity, _value(one), MARKS[one.mark])
        for one in paper
    )
    note = "A recalled, unverified number is no fact: it is listed so that a reader with the paper can check it."
    columns = ("stands in", "set", "method", "quantity", "value", "from")
    return Table("The paper's numbers, and where we have them from", columns, rows, note)


# -------------------------------------------------------------------------------------------------------------- cells


def _beside(printed: Sequence[Printed], text: Callable[[Printed], str]) -> tuple[str, str]:
    """Two cells: numbers of the paper as `text` shows them, and where we have them from."""
    return "; ".join(map(text, printed)), "; ".join(dict.fromkeys(MARKS[one.mark] for one in printed))


def _value(printed: Printed) -> str:
    return f"{printed.value:g}"


def _with_quantity(printed: Printed) -> str:
    return f"{printed.quantity} {printed.value:g}"


def _with_detail(printed: Printed, unit: str = "") -> str:
    """The value, and in brackets what follows the first comma of the quantity."""
    value, detail = f"{printed.value:g}{unit}", printed.quantity.partition(", ")[2]
    return f"{detail} {value}" if detail == "up to" else f"{value} ({detail})" if detail else value


def _timed(timing: Mapping[str, Any], printed: Mapping[str, tuple[str, str]]) -> Iterator[Row]:
    """The rows of `timing.measure`; the paper's times stand beside the first patch and the whole image."""
    for place, (batch, duration) in enumerate(timing["ms_per_patch"].items()):
        theirs = ("", "") if place else printed["ms"]
        yield (f"forward pass of one patch, in batches of {batch}", f"{duration:.3g} ms", *theirs)
    image = timing["image"]
    width, height = image["size"]
    for part, seconds in image["seconds"].items():
        whole = part == "whole"
        what = f"one whole image, {width} x {height}, {image['windows']} patches" if whole else f"of that: {part}"
        yield (what, f"{seconds:.3g} s", *(printed["s"] if whole else ("", "")))


def _interval(runs: Sequence[Record]) -> str:
    """The interval of the first seed's area, where there is one."""
    intervals = [run["scorings"].get(FAITHFUL, {}).get("intervals") or {} for run in runs[:1]]
    bounds = intervals[0].get("auroc") if intervals else None
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def quantiles_of(run: Record, scoring: str = FAITHFUL) -> tuple[float, float, float] | None:
    """The three quantiles at the curve's rate that comes nearest to 5 %."""
    for curve in curves_of([run], "overlap", scoring):
        place = int(np.argmin(np.abs(np.asarray(curve["rates"]) - OVERLAP_RATE)))
        return curve["q25"][place], curve["q50"][place], curve["q75"][place]
    return None


def _other_systems(paper: Iterable[Printed], what: str, set_name: str) -> list[str]:
    """Systems beside the paper's own that a figure of the paper shows on a set."""
    found = (one.method for one in paper if (one.what, one.set) == (what, set_name) and one.method not in METHODS)
    return list(dict.fromkeys(found))


def _other_scorings(records: Iterable[Record]) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record["scorings"])
    return [name for name in names if name != FAITHFUL]


def _scoring_changes(records: Iterable[Record]) -> str:
    """How the ways of scoring differ, on which sets."""
    sets: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        for name, scored in record["scorings"].items():
            if not is_cell(record) and (changes := _changes(scored["changes"])):
                sets.setdefault((name, changes), {})[str(record["title"])] = None
    parts = [f"{name} on {', '.join(titles)}: {changes}" for (name, changes), titles in sets.items()]
    return f" Other ways of scoring: {'; '.join(parts)}." if parts else ""


def _changes(changes: Mapping[str, Any]) -> str:
    """Settings as the command line takes them: model.latent = 500."""
    return ", ".join(f"{name} = {MISSING if value is None else value}" for name, value in flat(changes).items())


def finite(value: float | None, digits: int = DECIMALS) -> Cell:
    """A value of a record; one that is not finite counts as missing."""
    return number(value if value is not None and math.isfinite(value) else None, digits)


def _machine(record: Record) -> str:
    machine = record["machine"]
    named = (machine.get("cuda") or machine.get("processor"), f"{machine.get('threads')} threads")
    return ", ".join(str(part) for part in (*named, f"PyTorch {record['versions']['torch']}") if part)

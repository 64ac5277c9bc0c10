"""Records as tables: ours beside the paper's, every figure of the paper with its origin. How they look is `page`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flawmap.reporting.tables import MISSING, Table, count, number, percent
from flawmap.reporting.tables import Cell as Value
from paper.claims import Claim
from paper.figures import (
    FAITHFUL,
    MARKS,
    METHODS,
    NOT_RUN,
    SENSITIVITIES,
    Printed,
    Record,
    is_table_2,
    main_runs,
    mark_of,
    mean_and_range,
    of_table_2,
    printed_cells,
    sensitivity_runs,
    sets_of,
    values_of,
)
from paper.plan import series_of
from paper.statements import OVERLAP_RATE

VERDICTS = {True: "\N{CHECK MARK} holds", False: "\N{BALLOT X} does not hold", None: f"{MISSING} not tested"}

Cells = tuple[str | Value, ...]


def by_experiment(
    records: Sequence[Record], timing: Mapping[str, Any] | None, paper: Sequence[Printed]
) -> dict[str, Table]:
    """The table of every experiment that has one, by the experiment's name."""
    return {
        "figure6": areas_table(records, paper),
        "figure7": overlap_table(records, paper),
        "table2": sensitivity_table(records, paper),
        "ours": ours_table(records),
        "timing": timing_table(records, timing, paper),
    }


def run_tables(records: Sequence[Record], paper: Sequence[Printed], planned: Sequence[str]) -> list[Table]:
    """Every run, every figure of it, and all that we know of the paper's."""
    return [runs_table(records, planned), figures_table(records), paper_table(paper)]


def claims_table(claims: Iterable[Claim]) -> Table:
    """Each claim, whether it holds, and why."""
    rows = tuple((claim.text, VERDICTS[claim.holds], claim.evidence or MISSING) for claim in claims)
    return Table("What the paper says, and what we see", ("the paper says", "on our runs it", "evidence"), rows)


def areas_table(records: Sequence[Record], paper: Iterable[Printed]) -> Table:
    """Figure 6 in numbers: the areas of each set and method, ours beside the paper's."""
    printed = [f for f in paper if f.quantity.split(",")[0].strip() == "auroc" and not is_table_2(f)]
    others = _other_scorings(records)
    rows: list[Cells] = []
    for set_name, title in sets_of(records).items():
        for method, name in METHODS.items():
            runs = main_runs(records, set_name, method)
            told = _told([f for f in printed if (f.set, f.method) == (set_name, method)])
            more = [mean_and_range(values_of(runs, scoring)) if runs else "" for scoring in others]
            seeds, area = _seeds(runs), mean_and_range(values_of(runs, FAITHFUL))
            rows.append((title, name, seeds, area, _interval(runs), *more, *told))
        for figure in printed:
            if figure.set == set_name and figure.method not in METHODS:
                rows.append((title, figure.method, "", MISSING, "", *("" for _ in others), *_told([figure])))
    columns = (
        "set",
        "method",
        "seeds",
        "pixel AUROC",
        "interval over images, first seed",
        *(f"pixel AUROC, {scoring}" for scoring in others),
        "the paper",
        "from",
    )
    note = (
        "Over the pixels of the defective images. Of several seeds the mean, and in brackets the least and the largest."
    )
    return Table("Areas under the ROC curves, ours beside the paper's", columns, tuple(rows), note + _ways(records))


def overlap_table(records: Sequence[Record], paper: Iterable[Printed]) -> Table:
    """Figure 7 in numbers: the share of the ground-truth regions that is found at 5 % false positives."""
    printed = [f for f in paper if f.what.lower().replace(" ", "") == "figure7"]
    rows: list[Cells] = []
    for set_name, title in sets_of(records).items():
        for method, name in METHODS.items():
            runs = main_runs(records, set_name, method)
            shares = [_overlap(run) for run in runs]
            known = [share for share in shares if share is not None]
            if known:
                ours: Cells = tuple(percent(float(np.mean([share[place] for share in known]))) for place in range(3))
            else:
                ours = (Value(NOT_RUN, numeric=False), "", "")
            theirs = [f for f in printed if (f.set, f.method) == (set_name, method)]
            rows.append((title, name, *ours, *_told(theirs, whole=True)))
        for figure in printed:
            if figure.set == set_name and figure.method not in METHODS:
                rows.append((title, figure.method, MISSING, "", "", *_told([figure], whole=True)))
    columns = ("set", "method", "25 % quantile", "median", "75 % quantile", "the paper", "from")
    note = (
        "Quantiles over all ground-truth regions of the share of each that is found, at a false positive rate of 5 %. "
        "Of several seeds the mean."
    )
    return Table("Share of the flaws found at 5 % false positives", columns, tuple(rows), note)


def sensitivity_table(records: Sequence[Record], paper: Iterable[Printed]) -> Table:
    """Table 2, a row for each cell that was run or that the paper has."""
    printed = [figure for figure in paper if is_table_2(figure)]
    others = _other_scorings(records)
    rows: list[Cells] = []
    for axis, sensitivity in enumerate(SENSITIVITIES):
        runs, theirs = sensitivity_runs(records, axis), printed_cells(printed, axis)
        for value in sorted(runs.keys() | theirs.keys()):
            found = runs.get(value, [])
            told = _told([theirs[value]] if value in theirs else [], bare=True)
            ours = [mean_and_range(values_of(found, scoring)) if found else "" for scoring in others]
            cell = f"{sensitivity.symbol} = {value}"
            area = mean_and_range(values_of(found, FAITHFUL))
            patches = count(found[0]["training"]["patches"] if found else None)
            rows.append((sensitivity.name, cell, patches, area, *ours, *told))
    columns = ("varied", "cell", "patches", "pixel AUROC", *(f"pixel AUROC, {name}" for name in others))
    note = (
        "SSIM on NanoTWICE; all that a row does not name is d = 500, K = 11 and patches of 128 pixels. Patches: how "
        "many our training saw; the paper trains for 200 epochs of 10,000."
    )
    return Table("Table 2, ours beside the paper's", (*columns, "the paper", "from"), tuple(rows), note)


def ours_table(records: Sequence[Record]) -> Table:
    """SSIM as the paper has it beside our additions: what is added in training, and what in scoring."""
    rows: list[Cells] = []
    for set_name, title in sets_of(records).items():
        runs = [r for r in records if r["set"] == set_name and r["method"] == "ssim" and not of_table_2(r)]
        for run in sorted(runs, key=lambda run: (series_of(run["name"]), run["seed"])):
            for scoring, scored in run["scorings"].items():
                metrics, bounds = scored["metrics"], (scored.get("intervals") or {}).get("auroc")
                shares = _overlap(run, scoring)
                rows.append(
                    (
                        title,
                        _changes(run["changes"]) or MISSING,
                        _changes(scored["changes"]) or MISSING,
                        Value(str(run["seed"])),
                        number(_known(metrics["auroc"]), 4),
                        "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}",
                        number(_known(metrics["average_precision"]), 3),
                        number(_known(metrics["au_pro_30"]), 3),
                        *(("", "", "") if shares is None else (number(share, 3) for share in shares)),
                    )
                )
    columns = (
        *("set", "added in training", "added in scoring", "seed", "pixel AUROC", "interval over images"),
        *("average precision", "AU-PRO 30 %", "25 % quantile", "median", "75 % quantile"),
    )
    note = "Quantiles: over all ground-truth regions, of the share of each that is found at 5 % false positives."
    return Table("SSIM with and without our additions", columns, tuple(rows), note)


def timing_table(records: Sequence[Record], timing: Mapping[str, Any] | None, paper: Iterable[Printed]) -> Table:
    """One patch and one whole image beside the paper's times, and the whole images of the runs."""
    printed = [figure for figure in paper if figure.what.lower() == "timing"]
    patch = _told([figure for figure in printed if figure.quantity.startswith("ms ")], unit=" ms")
    image = _told([figure for figure in printed if figure.quantity.startswith("s ")], unit=" s")
    rows: list[Cells] = []
    if timing is None:
        rows = [("forward pass of one patch", NOT_RUN, *patch), ("one whole image", NOT_RUN, *image)]
    else:
        for batch, duration in timing["ms_per_patch"].items():
            told = ("", "") if rows else patch
            rows.append((f"forward pass of one patch, in batches of {batch}", f"{duration:.3g} ms", *told))
        width, height = timing["image"]["size"]
        for part, seconds in timing["image"]["seconds"].items():
            whole = f"one whole image, {width} x {height}, {timing['image']['windows']} patches"
            told = image if part == "whole" else ("", "")
            rows.append((whole if part == "whole" else f"of that: {part}", f"{seconds:.3g} s", *told))
    for record in records:
        seconds = record.get("seconds_per_image") or {}
        if seconds.get("median") is not None and not of_table_2(record):
            rows.append((f"an image from file to mask, {record['name']}", f"{seconds['median']:.3g} s", "", ""))
    notes = ["Medians, with the model loaded. The paper states neither its batch nor what a whole image includes."]
    if timing is not None:
        notes.append(f"Patch and whole image were timed on: {_machine(timing)}, {timing['precision']}.")
    return Table("Times, ours beside the paper's", ("what", "ours", "the paper", "from"), tuple(rows), " ".join(notes))


def runs_table(records: Sequence[Record], planned: Sequence[str] = ()) -> Table:
    """What was trained, and how; and what was planned and is not there."""
    rows: list[Cells] = []
    for record in records:
        training = record["training"]
        rows.append(
            (
                str(record["name"]),
                METHODS.get(record["method"], str(record["method"])),
                Value(str(record["seed"])),
                str(record["preset"]),
                _changes(record["changes"]) or MISSING,
                count(training["patches"]),
                number(training["seconds"] / 60, 1),
                number(_known(training["loss"]), 4),
                number(_known(training["validation_loss"]), 4),
                str(record["date"]),
            )
        )
    done = {record["name"] for record in records}
    missing = [name for name in dict.fromkeys(planned) if name not in done]
    rows += [(name, NOT_RUN, *[""] * 8) for name in missing]
    columns = ("run", "method", "seed", "preset", "changed", "patches", "minutes", "loss", "on validation", "date")
    machines = dict.fromkeys(_machine(record) for record in records)
    said = f"Trained on: {'; '.join(machines)}." if records else "Nothing has been run."
    return Table("What was run", columns, tuple(rows), said)


def figures_table(records: Sequence[Record]) -> Table:
    """Every figure of every run, by way of scoring."""
    names = ("auroc", "average_precision", "f1_max", "au_pro_30", "au_pro_05")
    rows: list[Cells] = []
    for record in records:
        for scoring, scored in record["scorings"].items():
            metrics, whole = scored["metrics"], scored.get("metrics_with_good") or {}
            values = [number(_known(metrics.get(name)), 4) for name in names]
            with_good = number(_known(whole.get("auroc")), 4)
            image = number(_known(metrics.get("image_auroc", whole.get("image_auroc"))), 4)
            rows.append((str(record["name"]), scoring, *values, with_good, image, count(metrics.get("images"))))
    columns = (
        "run",
        "scored",
        "pixel AUROC",
        "average precision",
        "best F1",
        "AU-PRO 30 %",
        "AU-PRO 5 %",
        "pixel AUROC with good images",
        "image AUROC",
        "images",
    )
    note = "Over the defective images, but for the two columns that say otherwise; these need good test images."
    return Table("Every figure of every run", columns, tuple(rows), note)


def paper_table(paper: Iterable[Printed]) -> Table:
    """All that we know of the paper's figures, and where from."""
    rows = tuple(
        (
            figure.what,
            figure.set or MISSING,
            figure.method or MISSING,
            figure.quantity,
            _plain(figure.value),
            _from(figure),
        )
        for figure in paper
    )
    note = "What is recalled and unverified is no fact: it stands here to be checked by whoever has the paper."
    columns = ("stands in", "set", "method", "quantity", "value", "from")
    return Table("The paper's figures, and where we have them from", columns, rows, note)


# -------------------------------------------------------------------------------------------------------------- cells


def _told(figures: Sequence[Printed], *, whole: bool = False, bare: bool = False, unit: str = "") -> tuple[str, str]:
    """Two cells: the paper's figures and where we have them from.

    whole: with the whole name of the quantity before the value. bare: with the value alone. Otherwise with what
    follows the first comma of the quantity.
    """
    if not figures:
        return "", ""
    values, origins = [], []
    for figure in figures:
        detail = "" if bare else figure.quantity if whole else figure.quantity.partition(",")[2].strip()
        value = f"{_plain(figure.value)}{unit}"
        after = f" ({detail})" if detail and not whole and detail != "up to" else ""
        values.append(f"{value}{after}" if after else f"{detail} {value}".strip())
        origins.append(_from(figure))
    return "; ".join(values), "; ".join(dict.fromkeys(origins))


def _from(figure: Printed) -> str:
    mark = mark_of(figure)
    return MARKS.get(mark, mark)


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _seeds(runs: Sequence[Record]) -> str:
    return ", ".join(str(run["seed"]) for run in runs)


def _interval(runs: Sequence[Record]) -> str:
    """Of the first seed's area, where there is one."""
    intervals = [run["scorings"].get(FAITHFUL, {}).get("intervals") or {} for run in runs[:1]]
    bounds = intervals[0].get("auroc") if intervals else None
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _overlap(run: Record, scoring: str = FAITHFUL) -> tuple[float, float, float] | None:
    """The three quantiles at the curve's rate that comes nearest to 5 %."""
    curve = run["scorings"].get(scoring, {}).get("overlap")
    if curve is None:
        return None
    place = int(np.argmin(np.abs(np.asarray(curve["rates"]) - OVERLAP_RATE)))
    return curve["q25"][place], curve["q50"][place], curve["q75"][place]


def _other_scorings(records: Iterable[Record]) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record["scorings"])
    return [name for name in names if name != FAITHFUL]


def _ways(records: Iterable[Record]) -> str:
    """How the ways of scoring differ, on which sets."""
    sets: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        for name, scored in record["scorings"].items():
            if not of_table_2(record) and (changes := _changes(scored["changes"])):
                sets.setdefault((name, changes), {})[str(record["title"])] = None
    said = [f"{name} on {', '.join(titles)}: {changes}" for (name, changes), titles in sets.items()]
    return f" Scored otherwise: {'; '.join(said)}." if said else ""


def _changes(changes: Mapping[str, Any]) -> str:
    """Settings as the command line takes them: model.latent = 500."""
    return ", ".join(f"{name} = {value}" for name, value in _leaves(changes))


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of a nested mapping, the names level by level joined with a dot."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{rest}", text) for rest, text in _leaves(value))
        else:
            yield str(name), MISSING if value is None else str(value)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _machine(record: Record) -> str:
    machine, versions = record["machine"], record["versions"]
    if isinstance(machine, str):
        return machine
    named = [machine.get("cuda") or machine.get("processor"), f"{machine.get('threads')} threads"]
    torch = versions.get("torch") if isinstance(versions, Mapping) else None
    return ", ".join(str(part) for part in (*named, f"PyTorch {torch}" if torch else None) if part)

"""One page, and the same in Markdown and JSON: what was run, what came out, and what the paper has of it.

Every figure of the paper stands with its origin, every experiment that was not run is said to be not run, and a claim
that does not hold is shown like one that does. How a page looks is `reports`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.files import atomic, writable_folder
from flawmap.lists import utf8, write_json
from flawmap.reports import MISSING, Figure, Page, Table, count, number, percent, render
from flawmap.reports import Cell as Value
from flawmap.reproduction.claims import Claim
from flawmap.reproduction.drawings import (
    EXAMPLES,
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
from flawmap.reproduction.plan import series_of

SCHEMA = 1  # of reproduction.json
PAGE, MARKDOWN, JSON = "index.html", "reproduction.md", "reproduction.json"
OVERLAP_RATE = 0.05  # the false positive rate at which the paper gives its overlap
VERDICTS = {True: "\N{CHECK MARK} holds", False: "\N{BALLOT X} does not hold", None: f"{MISSING} not tested"}

Cells = tuple[str | Value, ...]


EXPERIMENTS = {
    "figure1": ("Figure 1", "a defective image of NanoTWICE and what l2 and SSIM make of it"),
    "figure2": ("Figure 2", "patches that are alike to l2, and which part of SSIM tells them apart"),
    "figure3": ("Figure 3", "an l2 autoencoder trained on checkerboards, shown strokes and dots"),
    "figure5": ("Figure 5", "as figure 1, on other textures"),
    "figure6": ("Figure 6", "ROC curves of the four methods"),
    "figure7": ("Figure 7", "how much of the flaws is found"),
    "table2": ("Table 2", "what latent dimension, window and patch change"),
    "ours": ("Ours", "the paper's method with what we add to it"),
    "timing": ("Timing", "how long it takes"),
}
CAPTIONS = {
    "figure1": EXAMPLES,
    "figure2": "every pair differs by 0.5 at every pixel, so that l2 is 0.25 for all; p, q, l2 residual, luminance, "
    "contrast, structure, and SSIM, their product.",
    "figure5": EXAMPLES,
    "figure6": "true against false positive rate over all pixels of the defective images, with the areas under the "
    "curves; the dotted diagonal is chance. Of several seeds each is a thin line.",
    "figure7": "quantiles over all ground-truth regions of the share of each that is found: by the 75 % quantile and "
    "more a quarter of them, by the 50 % quantile half, by the 25 % quantile three quarters.",
    "table2": "dots are seeds, the line is their mean. Of the paper's figures the verified ones alone are drawn.",
}
DRAWN = tuple(key for key in EXPERIMENTS if key not in ("ours", "timing"))


def write(  # noqa: PLR0917 (what a page is made of, in its order)
    out: Path,
    records: Sequence[Record],
    claims: Sequence[Claim],
    pictures: Mapping[str, Path],
    timing: Mapping[str, Any] | None,
    paper: Sequence[Printed],
    *,
    planned: Sequence[str] = (),
) -> Path:
    """Write OUT/index.html, OUT/reproduction.md and OUT/reproduction.json, each whole or not at all.

    Args:
        out: the folder, made where it is missing.
        records: of the runs that are done. claims: in the order to be shown.
        pictures: PNG files by experiment (see EXPERIMENTS); where one has several, by experiment, hyphen and set:
            "figure5-fabric03". Files that are missing count as not drawn.
        timing: "ms_per_patch" by batch, and "image", as `timing.measure` gives them; None: not measured.
        paper: the paper's figures.
        planned: names of all runs of the plan; those without a record are listed as not run.
    Returns:
        The page's path.
    Raises:
        InputError: something cannot be written, or a picture is no PNG.
    """
    writable_folder(out)
    content = utf8(_html(records, claims, pictures, timing, paper, planned=planned))
    with atomic(out / PAGE) as part:
        part.write_bytes(content)
    text = utf8(markdown(records, claims, timing, paper, planned=planned))
    with atomic(out / MARKDOWN) as part:
        part.write_bytes(text)
    write_json(out / JSON, summary(records, claims, timing, paper))
    return out / PAGE


def markdown(
    records: Sequence[Record],
    claims: Sequence[Claim],
    timing: Mapping[str, Any] | None,
    paper: Sequence[Printed],
    *,
    planned: Sequence[str] = (),
) -> str:
    """The tables of the page as Markdown, headings of the second level; arguments as for `write`."""
    tables = [claims_table(claims), *_by_experiment(records, timing, paper).values(), *_lists(records, paper, planned)]
    return "\n".join(_markdown_table(table) for table in tables)


def summary(
    records: Iterable[Record], claims: Iterable[Claim], timing: Mapping[str, Any] | None, paper: Iterable[Printed]
) -> dict[str, Any]:
    """What programs read, as JSON's types: the records without curves and histograms, claims, timing, the paper."""
    fields = ("what", "set", "method", "quantity", "value", "mark")
    return {
        "schema": SCHEMA,
        "records": [_short(record) for record in records],
        "claims": [
            {**claim._asdict(), "holds": None if claim.holds is None else bool(claim.holds)} for claim in claims
        ],
        "timing": timing,
        "paper": [{name: getattr(figure, name) for name in fields} for figure in paper],
    }


# ------------------------------------------------------------------------------------------------------------- tables


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


def _by_experiment(
    records: Sequence[Record], timing: Mapping[str, Any] | None, paper: Sequence[Printed]
) -> dict[str, Table]:
    return {
        "figure6": areas_table(records, paper),
        "figure7": overlap_table(records, paper),
        "table2": sensitivity_table(records, paper),
        "ours": ours_table(records),
        "timing": timing_table(records, timing, paper),
    }


def _lists(records: Sequence[Record], paper: Sequence[Printed], planned: Sequence[str]) -> list[Table]:
    return [runs_table(records, planned), figures_table(records), paper_table(paper)]


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


def _changes(changes: Any) -> str:
    """Settings as the command line takes them: model.latent = 500."""
    if isinstance(changes, Mapping):
        return ", ".join(f"{name.replace(' / ', '.')} = {value}" for name, value in _leaves(changes, raw=True))
    if isinstance(changes, str) or changes is None:
        return changes or ""
    return ", ".join(map(str, changes))


def _leaves(values: Mapping[str, Any], *, raw: bool = False) -> Iterator[tuple[str, str]]:
    """Names and values of a nested mapping, level by level joined with a stroke."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} / {rest}", text) for rest, text in _leaves(value, raw=raw))
        elif isinstance(value, float) and not raw:
            yield str(name), f"{value:.4g}"
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


def _short(record: Record) -> dict[str, Any]:
    """A record without what only drawings need."""
    large = ("roc", "overlap", "histogram")
    scorings = {
        name: {key: value for key, value in scored.items() if key not in large}
        for name, scored in record["scorings"].items()
    }
    training = {key: value for key, value in record["training"].items() if key != "history"}
    return {**record, "training": training, "scorings": scorings}


# ----------------------------------------------------------------------------------------------------------- Markdown


def _markdown_table(table: Table) -> str:
    """A table with its heading and note; numbers flush right."""
    numeric = [
        any(isinstance(row[place], Value) for row in table.rows)
        and all(not row[place] or isinstance(row[place], Value) for row in table.rows)
        for place in range(len(table.columns))
    ]
    lines = [
        f"## {table.title}",
        "",
        _markdown_row(table.columns),
        f"|{'|'.join('--:' if flush else '---' for flush in numeric)}|",
        *(_markdown_row(row) for row in table.rows or [(MISSING, *[""] * (len(table.columns) - 1))]),
        "",
    ]
    return "\n".join([*lines, table.note, ""] if table.note else lines)


def _markdown_row(row: Iterable[str | Value]) -> str:
    texts = (cell if isinstance(cell, str) else cell.text for cell in row)
    clean = (" ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split()) for text in texts)
    return f"| {' | '.join(clean)} |"


# --------------------------------------------------------------------------------------------------------------- HTML


def _html(
    records: Sequence[Record],
    claims: Sequence[Claim],
    pictures: Mapping[str, Path],
    timing: Mapping[str, Any] | None,
    paper: Sequence[Printed],
    *,
    planned: Sequence[str],
) -> str:
    """The page: facts, claims, an experiment after the other with its picture and table, then the lists."""
    frame = Page(
        title="The paper's experiments, run again",
        lead="Bergmann et al. 2019, Improving Unsupervised Defect Segmentation by Applying Structural Similarity to "
        "Autoencoders: its figures and tables, from our own trainings on good images alone, beside what it reports.",
        facts=_facts(records, claims, planned),
        tables=(claims_table(claims),) if claims else (),
        footer="Made by flawmap reproduce. The same tables: reproduction.md; for programs: reproduction.json.",
    )
    tables = _by_experiment(records, timing, paper)
    chapters = []
    for key, (name, what) in EXPERIMENTS.items():
        own = (tables[key],) if key in tables else ()
        chapters.append(_chapter(key, f"{name}: {what}", _pictures(key, pictures, sets_of(records)), own))
    chapters.append(_chapter("runs", "The runs and all figures", [], tuple(_lists(records, paper, planned))))
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, (name, _) in EXPERIMENTS.items())
    navigation = f'<nav aria-label="Experiments"><ul>{links}<li><a href="#runs">Runs</a></li></ul></nav>'
    before, after = _parted(render(frame))
    head, start, body = before.partition("<main>\n")
    return "\n".join([f"{head}{start}{navigation}", body.strip("\n"), *chapters, after])


def _pictures(experiment: str, pictures: Mapping[str, Path], sets: Mapping[str, str]) -> list[Figure]:
    """The pictures of one experiment with their captions."""
    name, what = EXPERIMENTS[experiment]
    figures = []
    for key, path in pictures.items():
        own, _, rest = key.partition("-")
        if own == experiment and path.is_file():
            which = f", {sets.get(rest, rest)}" if rest else ""
            said = CAPTIONS.get(experiment, f"{what}.")
            figures.append(Figure(f"{name}{which}: {said}", path.read_bytes()))
    return figures


def _chapter(key: str, title: str, figures: Sequence[Figure], tables: Sequence[Table]) -> str:
    """A heading, pictures, tables; what was not drawn is said to be missing."""
    parts = [_inside(Page("", "", figures=(figure,))) for figure in figures]
    if not parts and key in DRAWN:
        parts.append(f'<p class="note">{NOT_RUN}: no picture</p>')
    parts += [_inside(Page("", "", tables=(table,))) for table in tables]
    inner = "\n".join(f'<div class="case">{part}</div>' for part in parts)
    inner = inner.replace("<h2>", "<h3>").replace("</h2>", "</h3>")  # below the chapter's own
    return f'<section id="{key}">\n<div class="heading"><h2>{escape(title)}</h2></div>\n{inner}\n</section>'


def _inside(page: Page) -> str:
    """What `render` makes of a page, between its header and its end."""
    return _parted(render(page))[0].partition("<main>\n")[2].strip("\n")


def _parted(html: str) -> tuple[str, str]:
    before, end, after = html.rpartition("</main>")
    return before, end + after


def _facts(
    records: Sequence[Record], claims: Sequence[Claim], planned: Sequence[str]
) -> tuple[tuple[str, str | Value], ...]:
    sets = sets_of(records)
    run_sets = [sets[name] for name in sets if any(record["set"] == name for record in records)]
    methods = [name for key, name in METHODS.items() if any(record["method"] == key for record in records)]
    verdicts = [claim.holds for claim in claims]
    missing = len(set(planned) - {record["name"] for record in records})
    minutes = sum(record["training"]["seconds"] for record in records) / 60
    dates = sorted({str(record["date"])[:10] for record in records})
    return (
        ("trainings", f"{len(records)}" + (f", {missing} of the plan {NOT_RUN}" if missing else "")),
        ("sets", ", ".join(run_sets) or NOT_RUN),
        ("methods", ", ".join(methods) or NOT_RUN),
        ("claims", f"{verdicts.count(True)} hold, {verdicts.count(False)} do not, {verdicts.count(None)} not tested"),
        ("hours of training", f"{minutes / 60:.1f}"),
        ("dates", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else MISSING),
    )

"""One page, and the same in Markdown and JSON: what was run, what came out, and what the paper has of it.

Every figure of the paper stands with its origin, every experiment that was not run is said to be not run, and a claim
that does not hold is shown like one that does. How a page looks is `reports`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from flawmap.core.files import atomic, writable_folder
from flawmap.reporting.logs import utf8, write_json
from flawmap.reporting.pages import Figure, Page, render
from flawmap.reporting.tables import MISSING, Table
from flawmap.reporting.tables import Cell as Value
from paper.claims import Claim
from paper.figures import EXAMPLES, METHODS, NOT_RUN, Printed, Record, sets_of
from paper.tables import by_experiment, claims_table, run_tables

SCHEMA = 1  # of reproduction.json
PAGE, MARKDOWN, JSON = "index.html", "reproduction.md", "reproduction.json"

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
    tables = [
        claims_table(claims),
        *by_experiment(records, timing, paper).values(),
        *run_tables(records, paper, planned),
    ]
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
    tables = by_experiment(records, timing, paper)
    chapters = []
    for key, (name, what) in EXPERIMENTS.items():
        own = (tables[key],) if key in tables else ()
        chapters.append(_chapter(key, f"{name}: {what}", _pictures(key, pictures, sets_of(records)), own))
    chapters.append(_chapter("runs", "The runs and all figures", [], tuple(run_tables(records, paper, planned))))
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

"""One page, and the same in Markdown and JSON: what was run, what was measured, and the paper's numbers beside it.

Every number of the paper stands with its origin, every experiment that was not run is said to be not run, and a claim
that does not hold is shown like one that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flawmap.core.files import atomic, writable_folder
from flawmap.reporting.logs import utf8, write_json
from flawmap.reporting.pages import Figure, Page, Section, write_page
from flawmap.reporting.tables import MISSING, Table
from flawmap.reporting.tables import markdown as tables_as_markdown
from paper import tables
from paper.claims import PAPER, Claim, Printed
from paper.literature import LITERATURE
from paper.literature_table import literature_table
from paper.plan import METHODS
from paper.records import NOT_RUN, Record, divided, set_titles

SCHEMA = 1  # of reproduction.json
PAGE, MARKDOWN, JSON = "index.html", "reproduction.md", "reproduction.json"

TITLES = {
    "figure1": ("Figure 1", "a defective image of NanoTWICE and what l2 and SSIM make of it"),
    "figure2": ("Figure 2", "patches that are alike to l2, and which part of SSIM tells them apart"),
    "figure3": ("Figure 3", "an l2 autoencoder trained on checkerboards, shown strokes and dots"),
    "figure5": ("Figure 5", "as figure 1, on other textures"),
    "figure6": ("Figure 6", "ROC curves of the four methods"),
    "figure7": ("Figure 7", "how much of the flaws is found"),
    "table2": ("Table 2", "what latent dimension, window and patch change"),
    "ours": ("Ours", "the paper's method with what we add to it"),
    "timing": ("Timing", "how long it takes"),
    LITERATURE: ("Literature", "the systems that the paper is compared with, on the same images"),
}
EXAMPLES = (
    "ground truth is outlined in red, found regions in green. The first segmentation is at the model's own threshold, "
    "which needs only good images; the second is at the threshold with 5 % of the good pixels of the defective images "
    "above it, which needs labels. The opened residual is black at 0 and brightest from the model's own threshold on. "
    "The image was chosen by the size of its flaws, not by how well these are found."
)
CAPTIONS = {
    "figure1": EXAMPLES,
    "figure2": "every pair differs by 0.5 at every pixel, so that l2 is 0.25 for all; p, q, l2 residual, luminance, "
    "contrast, structure, and SSIM, their product.",
    "figure5": EXAMPLES,
    "figure6": "true against false positive rate over all pixels of the defective images, with the areas under the "
    "curves; the dotted diagonal is chance. Several seeds are thin lines.",
    "figure7": "quantiles over all ground-truth regions of the fraction of each that is found: a quarter of the "
    "regions reaches the 75 % quantile, half of them the 50 % quantile, three quarters the 25 % quantile.",
    "table2": "dots are seeds, the line is their mean. Only verified numbers of the paper are drawn.",
}
DRAWN = tuple(key for key in TITLES if key not in ("ours", "timing", LITERATURE))


@dataclass(frozen=True)
class Publication:
    """What a page is made of.

    records: of the runs that are done. claims: in the order to be shown.
    pictures: PNG files by experiment (see TITLES); where one has several, by experiment, hyphen and set:
        "figure5-fabric03". Files that are missing count as not drawn.
    timing: "ms_per_patch" by batch, and "image", as `timing.measure` gives them; None: not measured.
    paper: the paper's numbers. planned: names of all runs of the plan; those without a record are shown as not run.
    """

    records: Sequence[Record] = ()
    claims: Sequence[Claim] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)
    timing: Mapping[str, Any] | None = None
    paper: Sequence[Printed] = PAPER
    planned: Sequence[str] = ()

    def by_experiment(self) -> dict[str, Table]:
        """The table of every experiment that has one; the paper's own are left out where only literature was run."""
        own, literature = divided(self.records)
        found: dict[str, Table] = {}
        if own or not literature:
            found = {
                "figure6": tables.areas_table(own, self.paper),
                "figure7": tables.overlap_table(own, self.paper),
                "table2": tables.sensitivity_table(own, self.paper),
                "ours": tables.ours_table(own),
                "timing": tables.timing_table(own, self.timing, self.paper),
            }
        return found | ({LITERATURE: literature_table(literature)} if literature else {})

    def lists(self) -> tuple[Table, ...]:
        """Every run, every metric of it, and every number of the paper."""
        runs = tables.runs_table(self.records, self.planned)
        return runs, tables.metrics_table(self.records), tables.paper_table(self.paper)


def write(out: Path, publication: Publication) -> Path:
    """Write OUT/index.html, OUT/reproduction.md and OUT/reproduction.json, each whole or not at all.

    Returns:
        The page's path.
    Raises:
        InputError: something cannot be written, or a picture is no PNG.
    """
    writable_folder(out)
    write_page(page_of(publication), out / PAGE)
    text = utf8(markdown(publication))
    with atomic(out / MARKDOWN) as part:
        part.write_bytes(text)
    write_json(out / JSON, summary(publication))
    return out / PAGE


def markdown(publication: Publication) -> str:
    """The tables of the page as Markdown, headings of the second level."""
    claims = tables.claims_table(publication.claims)
    return tables_as_markdown([claims, *publication.by_experiment().values(), *publication.lists()])


def summary(publication: Publication) -> dict[str, Any]:
    """What programs read, as JSON's types: the records without curves and histograms, claims, timing, the paper."""
    return {
        "schema": SCHEMA,
        "records": [_short(record) for record in publication.records],
        "claims": [
            claim._asdict() | {"holds": None if claim.holds is None else bool(claim.holds)}
            for claim in publication.claims
        ],
        "timing": publication.timing,
        "paper": [printed._asdict() for printed in publication.paper],
    }


def page_of(publication: Publication) -> Page:
    """Facts and claims, then each experiment with its picture and table, then the lists."""
    by_experiment, claims = publication.by_experiment(), publication.claims
    papers, literature = divided(publication.records)
    chapters = []
    for key, (name, what) in TITLES.items():
        figures = _figures(key, publication)
        if not figures and key not in by_experiment and literature and not papers:
            continue
        note = f"{NOT_RUN}: no picture" if key in DRAWN and not figures else ""
        own = (by_experiment[key],) if key in by_experiment else ()
        chapters.append(Section(f"{name}: {what}", figures=figures, tables=own, note=note, key=key, link=name))
    lists = Section("The runs and all metrics", tables=publication.lists(), key="runs", link="Runs")
    return Page(
        title="The paper's experiments, run again",
        lead="Bergmann et al. 2019, Improving Unsupervised Defect Segmentation by Applying Structural Similarity to "
        "Autoencoders: its figures and tables, from our own trainings on good images only, beside the paper's results.",
        facts=_facts(publication),
        tables=(tables.claims_table(claims),) if claims else (),
        sections=(*chapters, lists),
        footer="Made by flawmap reproduce. The same tables: reproduction.md; for programs: reproduction.json.",
    )


def _figures(experiment: str, publication: Publication) -> tuple[Figure, ...]:
    """The pictures of one experiment with their captions."""
    name, what = TITLES[experiment]
    sets, caption = set_titles(publication.records), CAPTIONS.get(experiment, f"{what}.")
    figures = []
    for key, path in publication.pictures.items():
        own, _, rest = key.partition("-")
        if own == experiment and path.is_file():
            which = f", {sets.get(rest, rest)}" if rest else ""
            figures.append(Figure(f"{name}{which}: {caption}", path.read_bytes()))
    return tuple(figures)


def _facts(publication: Publication) -> tuple[tuple[str, str], ...]:
    records, verdicts = publication.records, [claim.holds for claim in publication.claims]
    sets, methods = ({record[key] for record in records} for key in ("set", "method"))
    missing = len(set(publication.planned) - {record["name"] for record in records})
    hours = sum(record["training"].get("seconds", 0) for record in records) / 3600
    dates = sorted({str(record["date"])[:10] for record in records})
    return (
        ("trainings", f"{len(records)}" + (f", {missing} of the plan {NOT_RUN}" if missing else "")),
        ("sets", ", ".join(name for key, name in set_titles(records).items() if key in sets) or NOT_RUN),
        ("methods", ", ".join(name for key, name in METHODS.items() if key in methods) or NOT_RUN),
        ("claims", f"{verdicts.count(True)} hold, {verdicts.count(False)} do not, {verdicts.count(None)} not tested"),
        ("hours of training", f"{hours:.1f}"),
        ("dates", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else MISSING),
    )


def _short(record: Record) -> dict[str, Any]:
    """A record without what only drawings need."""
    large = ("roc", "overlap", "histogram")
    scorings = {
        name: {key: value for key, value in scored.items() if key not in large}
        for name, scored in record["scorings"].items()
    }
    training = {key: value for key, value in record["training"].items() if key != "history"}
    return {**record, "training": training, "scorings": scorings}

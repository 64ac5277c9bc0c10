"""The systems of the literature as a table: what each finds, decides and costs on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flawmap.reporting.labels import IMAGE_METRICS, PIXEL_METRICS
from flawmap.reporting.tables import MISSING, Cell, Table, number
from paper.literature import EVIDENCE
from paper.records import FAITHFUL, Record, set_titles
from paper.tables import QUANTILES, finite, quantiles_of

AUROC, PRO = (PIXEL_METRICS[name].short for name in ("auroc", "au_pro_30"))
NOTE = (
    "Measured on the pixels of the defective images. As it is: the system's own residual. Evidence: the same residuals "
    "as evidence, which also decides; found and rejected are images at the operating point that good images gave, for "
    "a rate of 5 %. Quantiles: of the fraction of each ground-truth region that is found at 5 % false positives. "
    "Minutes and seconds of one core: from images to a model that decides, and from an image file to its mask. "
    "MB: the most memory of the process that trained and scored."
)


def literature_table(records: Sequence[Record]) -> Table:
    """A row for each system and further way of scoring it, by set."""
    titles = set_titles(records)
    rows = [
        row
        for name, title in titles.items()
        for record in records
        if record["set"] == name
        for row in _rows(title, record)
    ]
    columns = (
        *("set", "system", "seed", "scored", AUROC, PRO, *QUANTILES, IMAGE_METRICS["auroc"].short),
        *("found", "rejected", "minutes", "s an image", "MB"),
    )
    return Table("The systems of the literature", columns, tuple(rows), NOTE)


def _rows(title: str, record: Record) -> list[tuple[str | Cell, ...]]:
    rows = []
    for scoring, scored in record["scorings"].items():
        metrics, system = scored["metrics"], record["system"]
        quantiles = quantiles_of(record, scoring) or (None, None, None)
        whole = (scored["metrics_with_good"] or metrics)["image_auroc"]
        decides = scoring == (EVIDENCE if EVIDENCE in record["scorings"] else FAITHFUL)
        seconds, minutes = system["core_seconds_per_image"], system["core_seconds_to_model"]
        rows.append(
            (
                title,
                named(record),
                Cell(str(record["seed"])),
                "as it is" if scoring == FAITHFUL else scoring,
                finite(metrics["auroc"]),
                finite(metrics["au_pro_30"], 3),
                *(number(value, 2) for value in quantiles),
                finite(whole, 3),
                *(_share(system[name]) if decides else "" for name in ("found", "rejected")),
                _duration(None if minutes is None else minutes / 60, 1) if decides else "",
                _duration(seconds, 2) if decides else "",
                _megabytes(system["peak_memory"]) if decides else "",
            )
        )
    return rows


def named(record: Record) -> str:
    """The system, with the network whose features it uses: weights that stand in for others are named."""
    network: Mapping[str, Any] | None = record["features"]
    title = str(record["system"]["title"])
    return title if network is None else f"{title} ({network['network']}, weights {network['sha256'][:8]})"


def _share(counted: Sequence[int]) -> str:
    some, every = counted
    return f"{some} of {every}" if every else MISSING


def _duration(value: float | None, digits: int) -> Cell:
    return Cell(MISSING) if value is None else Cell(f"{value:.{digits}f}")


def _megabytes(size: int | None) -> Cell:
    return Cell(MISSING) if size is None else Cell(f"{size / 1e6:,.0f}")

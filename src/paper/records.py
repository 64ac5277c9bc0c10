"""Records of trainings: how they are read, which of them belong together, and their values. No torch.

A record is the JSON of one training (schema 1): set, method, seed, settings and, for each way of scoring, metrics, ROC
curve and region overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from flawmap.core.errors import InputError
from paper.literature import LITERATURE
from paper.plan import OPTIMUM, series_of
from paper.sets import SETS

Record = Mapping[str, Any]
"""One training and its values, as JSON's types."""

SCHEMA = 1
FAITHFUL = "faithful"  # the way of scoring that follows the paper
NOT_RUN = "not run"


def read_record(path: Path) -> dict[str, Any]:
    """A record of this schema. Raises InputError over anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no record of flawmap reproduce ({error}); remove it to make it anew") from None
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema}, this flawmap reads {SCHEMA}; remove it to make it anew")
    return dict(record)


# -------------------------------------------------------------------------------------------------- which runs belong


def divided(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """The records of the paper's own methods, and those of the systems that it is compared with."""
    found: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        found[series_of(record["name"]) == LITERATURE].append(record)
    return found


def is_cell(record: Record) -> bool:
    """Whether a run is a cell of table 2, which is trained for a shorter time than the runs of the figures."""
    return series_of(record["name"]) == "table2"


def cell_of(record: Record) -> tuple[int, int, int]:
    """What table 2 varies: latent dimension, side of the SSIM window that training uses, and side of the patches."""
    settings = record["settings"]
    return settings["method"]["latent"], settings["residual"]["ssim"]["size"], settings["model"]["patch"]


def main_runs(records: Iterable[Record], set_name: str, method: str) -> list[Record]:
    """The runs of figures 6 and 7 of a set and a method, by seed: neither cells of table 2 nor our own recipe."""
    found = [run for run in records if (run["set"], run["method"]) == (set_name, method)]
    return _by_seed(run for run in found if series_of(run["name"]) == "figures")


def column_runs(records: Iterable[Record], axis: int) -> dict[int, list[Record]]:
    """The runs of one column of table 2 by value, rising: all other settings are those of the paper's optimum.

    Args:
        records: of any runs. axis: the place in `plan.TABLE_2`.
    """
    runs: dict[int, list[Record]] = {}
    for record in _by_seed(record for record in records if is_cell(record)):
        cell = cell_of(record)
        if all(cell[place] == OPTIMUM[place] for place in range(len(OPTIMUM)) if place != axis):
            runs.setdefault(cell[axis], []).append(record)
    return dict(sorted(runs.items()))


def set_titles(records: Iterable[Record]) -> dict[str, str]:
    """The sets and their titles: those of the plan, and whatever else was run."""
    planned = {dataset.key: dataset.short for dataset in SETS}
    return planned | {name: str(name) for record in records if (name := record["set"]) not in planned}


def _by_seed(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record["seed"], record["name"]))


# ------------------------------------------------------------------------------------------------------- their values


def values_of(runs: Iterable[Record], scoring: str = FAITHFUL) -> list[float]:
    """The area under the ROC curve of each run that was scored so and where it is defined."""
    found = (run["scorings"].get(scoring, {}).get("metrics", {}).get("auroc") for run in runs)
    return [float(value) for value in found if value is not None]


def curves_of(runs: Iterable[Record], name: str, scoring: str = FAITHFUL) -> list[Mapping[str, Any]]:
    """The curves "roc" or "overlap" of the runs that have them."""
    found = (run["scorings"].get(scoring, {}).get(name) for run in runs)
    return [curve for curve in found if curve is not None]


def mean_and_range(values: Sequence[float]) -> str:
    """A value over seeds: the mean and, of several, the smallest and the largest.

    >>> mean_and_range([0.9321, 0.9361]), mean_and_range([0.688]), mean_and_range([])
    ('0.934 (0.932 to 0.936)', '0.688', 'not run')
    """
    if not values:
        return NOT_RUN
    middle = f"{mean(values):.3f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3f} to {max(values):.3f})"

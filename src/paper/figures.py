"""The paper's figures 6 and 7 and its table 2, drawn from the records of our runs.

A record is the JSON of one training (schema 1): set, method, seed, settings and, for each way of scoring, metrics, ROC
curve and region overlap. What was not run is said to be not run: a panel or a line of the legend stays, empty.

Reference: Bergmann et al. 2019, arXiv:1807.02011, figures 6 and 7, table 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from flawmap.reporting.charts import COLOURS, FAINT, INK, blank_figure, dress, save_figure
from paper.plan import series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
"""One training and its figures, as JSON's types."""

FAITHFUL = "faithful"  # the way of scoring that follows the paper
METHODS = {"l2": "l2", "vae": "VAE", "fm": "FM", "ssim": "SSIM"}  # in the paper's order
SETS = {
    "nanotwice": "NanoTWICE",
    "grid": "MVTec AD grid",
    "fabric03": "AITEX fabric 03",
    "fabric04": "AITEX fabric 04",
}
NOT_RUN = "not run"

# Colour and line style both tell the methods apart: in grey print and for colour-blind readers one of them is left.
LINES: dict[str, dict[str, Any]] = {
    "l2": {"color": COLOURS[1], "linestyle": (0, (5, 2))},
    "vae": {"color": COLOURS[3], "linestyle": (0, (1, 1.4))},
    "fm": {"color": COLOURS[2], "linestyle": (0, (6, 2, 1, 2))},
    "ssim": {"color": COLOURS[0], "linestyle": "-"},
}
QUIET = "#8a8a8a"

QUANTILES = {"q75": "75 %", "q50": "50 %", "q25": "25 %"}  # of the share that is found, over all regions


class Printed(Protocol):
    """A figure of the paper. value: a number or words. mark: where we have it from, see MARKS."""

    @property
    def what(self) -> str: ...
    @property
    def set(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def quantity(self) -> str: ...
    @property
    def value(self) -> float | str: ...
    @property
    def mark(self) -> str: ...


MARKS = {
    "text": "the paper's text",
    "2nd": "second-hand",
    "mem": "recalled, unverified",
    "ours": "our reading",
}
TRUSTED = ("text", "2nd")  # what may stand in a drawing, where no mark stands beside it


EXAMPLES = (
    "ground truth is outlined in red, what was found in green. The first segmentation is at the model's own threshold, "
    "which good images alone gave; the second at the threshold with 5 % of the good pixels of the defective images "
    "above it, which takes labels. The opened residual is black at 0 and brightest from the model's own threshold on. "
    "The images were chosen by the size of their flaws, not by how well these are found."
)
"""How the pictures of figures 1 and 5 are to be read."""


# -------------------------------------------------------------------------------------------------- which runs belong


class Sensitivity(NamedTuple):
    """A column of table 2. symbol: as the paper writes it. name: in words. reference: the value elsewhere, d = 500."""

    symbol: str
    name: str
    reference: int


SENSITIVITIES = (
    Sensitivity("d", "latent dimension d", 500),
    Sensitivity("K", "side K of the SSIM window", 11),
    Sensitivity("patch", "side of the patches", 128),
)
TABLE_2 = ("nanotwice", "ssim")


class Cell(NamedTuple):
    """The settings that table 2 varies."""

    latent: int
    window: int
    patch: int


def cell_of(record: Record) -> Cell:
    """Latent dimension, side of the window that training uses, and side of the patches of a run."""
    settings = record["settings"]
    return Cell(settings["method"]["latent"], settings["residual"]["ssim"]["size"], settings["model"]["patch"])


def mark_of(figure: Printed) -> str:
    """The mark without brackets: text, 2nd, mem or ours."""
    return figure.mark.strip("[] ")


def main_runs(records: Iterable[Record], set_name: str, method: str) -> list[Record]:
    """The runs of figures 6 and 7 of a set and a method, by seed."""
    found = [r for r in records if (r["set"], r["method"]) == (set_name, method) and series_of(r["name"]) == "figures"]
    return sorted(found, key=lambda record: (record["seed"], record["name"]))


def sensitivity_runs(records: Iterable[Record], axis: int) -> dict[int, list[Record]]:
    """The runs of one column of table 2 by value, rising: SSIM on NanoTWICE, all else as in the paper's optimum.

    Args:
        records: of any runs. axis: which of SENSITIVITIES.
    """
    wanted = tuple(sensitivity.reference for sensitivity in SENSITIVITIES)
    runs: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["seed"], record["name"])):
        cell = cell_of(record)
        others_agree = all(cell[place] == wanted[place] for place in range(len(wanted)) if place != axis)
        if of_table_2(record) and (record["set"], record["method"]) == TABLE_2 and others_agree:
            runs.setdefault(cell[axis], []).append(record)
    return dict(sorted(runs.items()))


def printed_cells(paper: Iterable[Printed], axis: int) -> dict[int, Printed]:
    """The paper's figures of one column of table 2 by value: those whose `what` or `quantity` names it, as "d = 50"."""
    symbol = re.compile(rf"(?:^|\W){SENSITIVITIES[axis].symbol}\s*=?\s*(\d+)")
    cells: dict[int, Printed] = {}
    for figure in paper:
        for value in symbol.findall(f"{figure.what} {figure.quantity}"):
            cells[int(value)] = figure
    return cells


def is_table_2(figure: Printed) -> bool:
    """Whether a figure of the paper is a cell of table 2."""
    return re.search(r"table\s*2", figure.what, re.IGNORECASE) is not None


def values_of(runs: Iterable[Record], scoring: str, metric: str = "auroc") -> list[float]:
    """A metric of each run that was scored so and where it is defined."""
    found = (run["scorings"].get(scoring, {}).get("metrics", {}).get(metric) for run in runs)
    return [float(value) for value in found if value is not None]


def mean_and_range(values: Sequence[float], digits: int = 3) -> str:
    """A figure over seeds: the mean and, of several, the smallest and the largest.

    >>> mean_and_range([0.9321, 0.9361]), mean_and_range([0.688]), mean_and_range([])
    ('0.934 (0.932 to 0.936)', '0.688', 'not run')
    """
    if not values:
        return NOT_RUN
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def sets_of(records: Iterable[Record]) -> dict[str, str]:
    """The sets and their titles: the four of the plan, and whatever else was run."""
    others = {record["set"]: str(record["set"]) for record in records if record["set"] not in SETS}
    return SETS | others


def of_table_2(record: Record) -> bool:
    """Whether a run is a cell of table 2."""
    return series_of(record["name"]) == "table2"


# ----------------------------------------------------------------------------------------------------------- drawings


def roc(records: Sequence[Record], path: Path, scoring: str = FAITHFUL) -> None:
    """Figure 6: ROC curves of the four methods, a panel for each set, with the areas under them.

    Every seed is a thin line; the legend has the mean of the areas and, of several seeds, the least and the largest.

    Args:
        records: of any runs, see `main_runs`. path: the PNG file to write; its folder exists.
        scoring: the way of scoring, a key of the records' scorings.
    Raises:
        InputError: the file cannot be written.
    """
    sets = sets_of(records)
    columns = 3 if len(sets) % 3 == 0 else 2
    rows = -(-len(sets) // columns)
    figure = blank_figure(3.9 * columns, 3.85 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (set_name, title) in zip(panels, sets.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
        for method, name in METHODS.items():
            runs = main_runs(records, set_name, method)
            for run in runs:
                curve = run["scorings"].get(scoring, {}).get("roc")
                if curve is not None:
                    axes.plot(curve["x"], curve["y"], linewidth=_width(runs), **LINES[method])
            area = mean_and_range(values_of(runs, scoring))
            axes.plot([], [], label=f"{name}   {area}", linewidth=1.8, **_line(method, area != NOT_RUN))
        axes.set(xlim=(0, 1), ylim=(0, 1.005))
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_box_aspect(1)
        _legend(axes)
        dress(axes)
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(sets))
        if place + columns >= len(sets):  # names of the axes on the lowest and the leftmost panels alone
            axes.set_xlabel("false positive rate")
            axes.xaxis.set_tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("true positive rate")
    save_figure(figure, path)


def overlap(records: Sequence[Record], path: Path, scoring: str = FAITHFUL) -> None:
    """Figure 7: how much of the ground-truth regions is found at a false positive rate, a column of panels a set.

    The rows are the 75, 50 and 25 % quantiles over all regions of the share that is found; every seed is a line.

    Args:
        records, path, scoring: as for `roc`.
    Raises:
        InputError: the file cannot be written.
    """
    sets = sets_of(records)
    figure = blank_figure(0.8 + 2.75 * len(sets), 7.1)
    panels = figure.subplots(len(QUANTILES), len(sets), squeeze=False, sharex=True, sharey=True)
    for column, (set_name, title) in zip(panels.T, sets.items(), strict=True):
        curves = {
            method: [
                run["scorings"][scoring]["overlap"]
                for run in main_runs(records, set_name, method)
                if run["scorings"].get(scoring, {}).get("overlap") is not None
            ]
            for method in METHODS
        }
        for axes, quantile in zip(column, QUANTILES, strict=True):
            for method, found in curves.items():
                for curve in found:
                    axes.plot(curve["rates"], curve[quantile], linewidth=_width(found), **LINES[method])
            axes.set(ylim=(0, 1.02))
            axes.margins(x=0)
            dress(axes)
        missing = [METHODS[method] for method, found in curves.items() if not found]
        said = NOT_RUN if len(missing) == len(METHODS) else f"{', '.join(missing)}: {NOT_RUN}"
        if missing:
            column[0].text(0.96, 0.05, said, ha="right", transform=column[0].transAxes, color=QUIET, fontsize=9)
        column[0].set_title(title, loc="left", fontsize=12, color=INK)
        column[-1].set_xlabel("false positive rate")
    for axes, quantile in zip(panels[:, 0], QUANTILES.values(), strict=True):
        axes.set_ylabel(f"{quantile} quantile\nof the share found", color=INK)
    for method, name in METHODS.items():
        panels[0, 0].plot([], [], label=name, linewidth=1.8, **LINES[method])
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=len(METHODS), frameon=False, handlelength=3.2)
    save_figure(figure, path)


def table2(records: Sequence[Record], path: Path, paper: Iterable[Printed] = (), scoring: str = FAITHFUL) -> None:
    """Table 2 as three panels: the area under the ROC curve against latent dimension, window and patch, NanoTWICE.

    Dots are seeds, the line is their mean. The paper's figures are hollow diamonds, those alone that its text or a
    second source has: nothing that is only recalled is drawn.

    Args:
        records, path, scoring: as for `roc`. paper: the paper's figures.
    Raises:
        InputError: the file cannot be written.
    """
    trusted = [figure for figure in paper if is_table_2(figure) and mark_of(figure) in TRUSTED]
    figure = blank_figure(10.2, 3.7)
    panels = figure.subplots(1, len(SENSITIVITIES), sharey=True)
    lowest = 1.0
    for place, (axes, sensitivity) in enumerate(zip(panels, SENSITIVITIES, strict=True)):
        runs = sensitivity_runs(records, place)
        ours = {value: found for value in runs if (found := values_of(runs[value], scoring))}
        printed = {value: f.value for value, f in printed_cells(trusted, place).items() if isinstance(f.value, float)}
        values = sorted(ours.keys() | printed.keys())
        lowest = min([lowest, *(min(found) for found in ours.values()), *printed.values()])
        # By rank, not by size: the values rise by unequal factors.
        for value, found in ours.items():
            axes.plot([values.index(value)] * len(found), found, "o", color=COLOURS[0], markersize=4, alpha=0.55)
        means = [(values.index(value), float(np.mean(found))) for value, found in ours.items()]
        axes.plot(*zip(*means, strict=True), color=COLOURS[0], linewidth=1.8) if means else None
        for rank, mean in means:
            axes.annotate(f"{mean:.3f}", (rank, mean), (0, -13), textcoords="offset points", ha="center", fontsize=9)
        at = [values.index(value) for value in printed]
        hollow = {"markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 9, "linestyle": "none"}
        axes.plot(at, list(printed.values()), marker="D", color=COLOURS[1], **hollow)
        if not ours:
            axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", color=QUIET)
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlim(-0.5, max(len(values), 1) - 0.5)
        axes.set_xlabel(sensitivity.name)
        dress(axes)
    panels[0].set(ylabel="area under the ROC curve", ylim=(max(0.0, np.floor(20 * lowest - 0.5) / 20), 1.0))
    panels[0].plot([], [], "-o", color=COLOURS[0], label="ours: mean of the seeds, and each", markersize=4)
    if trusted:
        panels[0].plot([], [], "D", color=COLOURS[1], markerfacecolor="none", markeredgewidth=1.6, label="the paper")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2, frameon=False)
    save_figure(figure, path)


def _width(runs: Sequence[Any]) -> float:
    """One run is drawn bold, several are thin."""
    return 1.8 if len(runs) == 1 else 0.9


def _line(method: str, run: bool) -> dict[str, Any]:
    return LINES[method] if run else LINES[method] | {"color": FAINT}


def _legend(axes: Axes) -> None:
    """Small, below the diagonal, where no curve is that is better than chance."""
    legend = axes.legend(loc="lower right", framealpha=0.9, handlelength=2.6, fontsize=8, borderpad=0.3)
    legend.get_frame().set_linewidth(0)
    for text in legend.get_texts():
        text.set_color(QUIET if text.get_text().endswith(NOT_RUN) else INK)

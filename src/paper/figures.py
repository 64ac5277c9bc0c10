"""The paper's drawings: figures 6 and 7 and table 2 from records, and rows of small grey pictures.

What was not run is said to be not run: a panel or a line of the legend stays, empty.

Reference: Bergmann et al. 2019, arXiv:1807.02011, figures 6 and 7, table 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.reporting.charts import COLOURS, FAINT, INK, blank_figure, dress, save_figure
from paper.claims import PAPER, VERIFIED, Printed, printed_cells
from paper.plan import METHODS, TABLE_2
from paper.records import (
    NOT_RUN,
    Record,
    column_runs,
    curves_of,
    main_runs,
    mean_and_range,
    set_titles,
    values_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour and line style each tell the methods apart, so grey print and colour-blind readers lose nothing.
LINES: dict[str, dict[str, Any]] = {
    "l2": {"color": COLOURS[1], "linestyle": (0, (5, 2))},
    "vae": {"color": COLOURS[3], "linestyle": (0, (1, 1.4))},
    "fm": {"color": COLOURS[2], "linestyle": (0, (6, 2, 1, 2))},
    "ssim": {"color": COLOURS[0], "linestyle": "-"},
}
QUIET = "#8a8a8a"
SIDE = 1.45  # inches, of one picture
QUANTILES = {"q75": "75 %", "q50": "50 %", "q25": "25 %"}  # of the fraction that is found, over all regions


# ------------------------------------------------------------------------------------------------------- from records


def roc(records: Sequence[Record], path: Path) -> None:
    """Figure 6: ROC curves of the four methods, a panel for each set, with the areas under them.

    Several seeds are thin lines; the legend has the mean of their areas, and the smallest and the largest.

    Args:
        records: of any runs, see `main_runs`. path: the PNG file to write; its folder exists.
    Raises:
        InputError: the file cannot be written.
    """
    sets = set_titles(records)
    columns = 3 if len(sets) % 3 == 0 else 2
    rows = -(-len(sets) // columns)
    figure = blank_figure(3.9 * columns, 3.85 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (set_name, title) in zip(panels, sets.items(), strict=False):
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
        for method, name in METHODS.items():
            runs = main_runs(records, set_name, method)
            for curve in curves_of(runs, "roc"):
                axes.plot(curve["x"], curve["y"], linewidth=_width(runs), **LINES[method])
            area = mean_and_range(values_of(runs))
            axes.plot([], [], label=f"{name}   {area}", linewidth=1.8, **_line(method, area != NOT_RUN))
        axes.set(xlim=(0, 1), ylim=(0, 1.005))
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_box_aspect(1)
        _legend(axes)
        dress(axes)
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(sets))
        if place + columns >= len(sets):  # only the lowest and the leftmost panels name their axes
            axes.set_xlabel("false positive rate")
            axes.xaxis.set_tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("true positive rate")
    save_figure(figure, path)


def overlap(records: Sequence[Record], path: Path) -> None:
    """Figure 7: how much of the ground-truth regions is found at a false positive rate, a column of panels a set.

    The rows are the 75, 50 and 25 % quantiles over all regions of the fraction that is found; every seed is a line.

    Args:
        records, path: as for `roc`.
    Raises:
        InputError: the file cannot be written.
    """
    sets = set_titles(records)
    figure = blank_figure(0.8 + 2.75 * len(sets), 7.1)
    panels = figure.subplots(len(QUANTILES), len(sets), squeeze=False, sharex=True, sharey=True)
    for column, (set_name, title) in zip(panels.T, sets.items(), strict=True):
        curves = {method: curves_of(main_runs(records, set_name, method), "overlap") for method in METHODS}
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


def table2(records: Sequence[Record], path: Path, paper: Iterable[Printed] = PAPER) -> None:
    """Table 2 as three panels: the area under the ROC curve against latent dimension, window and patch, NanoTWICE.

    Dots are seeds, the line is their mean. The paper's numbers are hollow diamonds; one that is only recalled is not
    drawn.

    Args:
        records, path: as for `roc`. paper: the paper's numbers.
    Raises:
        InputError: the file cannot be written.
    """
    verified = [printed for printed in paper if printed.mark in VERIFIED]
    figure = blank_figure(10.2, 3.7)
    panels = figure.subplots(1, len(TABLE_2), sharey=True)
    lowest = 1.0
    for place, (axes, column) in enumerate(zip(panels, TABLE_2, strict=True)):
        found = {value: values_of(runs) for value, runs in column_runs(records, place).items()}
        ours = {value: areas for value, areas in found.items() if areas}
        theirs = {value: printed.value for value, printed in printed_cells(verified, place).items()}
        lowest = min([lowest, *(min(areas) for areas in ours.values()), *theirs.values()])
        _column(axes, ours, theirs)
        axes.set_xlabel(column.name)
        dress(axes)
    panels[0].set(ylabel="area under the ROC curve", ylim=(max(0.0, np.floor(20 * lowest - 0.5) / 20), 1.0))
    panels[0].plot([], [], "-o", color=COLOURS[0], label="ours: mean of the seeds, and each", markersize=4)
    if any(printed_cells(verified, place) for place in range(len(TABLE_2))):
        panels[0].plot([], [], "D", color=COLOURS[1], markerfacecolor="none", markeredgewidth=1.6, label="the paper")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2, frameon=False)
    save_figure(figure, path)


def _column(axes: Axes, ours: dict[int, list[float]], theirs: dict[int, float]) -> None:
    """One panel of table 2. Values stand by rank, not by size, because they rise by unequal factors."""
    values = sorted(ours.keys() | theirs.keys())
    for value, areas in ours.items():
        axes.plot([values.index(value)] * len(areas), areas, "o", color=COLOURS[0], markersize=4, alpha=0.55)
    means = [(values.index(value), float(np.mean(areas))) for value, areas in ours.items()]
    if means:
        axes.plot(*zip(*means, strict=True), color=COLOURS[0], linewidth=1.8)
    for rank, mean in means:
        axes.annotate(f"{mean:.3f}", (rank, mean), (0, -13), textcoords="offset points", ha="center", fontsize=9)
    hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 9, "linestyle": "none"}
    ranks = [values.index(value) for value in theirs]
    axes.plot(ranks, list(theirs.values()), marker="D", color=COLOURS[1], **hollow)
    if not ours:
        axes.text(0.5, 0.5, NOT_RUN, transform=axes.transAxes, ha="center", color=QUIET)
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_xlim(-0.5, max(len(values), 1) - 0.5)


def _width(runs: Sequence[Any]) -> float:
    """The width of a line: one run is bold, several are thin."""
    return 1.8 if len(runs) == 1 else 0.9


def _line(method: str, run: bool) -> dict[str, Any]:
    return LINES[method] if run else LINES[method] | {"color": FAINT}


def _legend(axes: Axes) -> None:
    """A small legend below the diagonal, where there is no curve that is better than chance."""
    legend = axes.legend(loc="lower right", framealpha=0.9, handlelength=2.6, fontsize=8, borderpad=0.3)
    legend.get_frame().set_linewidth(0)
    for text in legend.get_texts():
        text.set_color(QUIET if text.get_text().endswith(NOT_RUN) else INK)


# ------------------------------------------------------------------------------------------------------ from pictures


class Panel(NamedTuple):
    """One picture: (H, W). black, white: the values drawn so, in either order. note: the text below."""

    picture: NDArray[np.float32]
    black: float = 0.0
    white: float = 1.0
    note: str = ""


def draw_panels(
    rows: Sequence[Sequence[Panel]], path: Path, *, columns: Sequence[str], labels: Sequence[str], legend: str = ""
) -> None:
    """Draw rows of panels into a PNG file, beside its place and renamed.

    Args:
        rows: each with one panel per column.
        path: the file to write; its folder exists.
        columns: the titles above. labels: what stands to the left of each row. legend: the line below everything.
    Raises:
        InputError: no rows, or not one panel per column, one label per row; the file cannot be written.
    """
    if not rows or len(labels) != len(rows) or any(len(row) != len(columns) for row in rows):
        counts = ", ".join(str(len(row)) for row in rows) or "none"
        raise InputError(
            f"panels must be {len(labels)} rows of {len(columns)}, one label a row and one title a column, got {counts}"
        )
    noted = any(panel.note for row in rows for panel in row)
    height = len(rows) * (SIDE + (0.2 if noted else 0.04)) + 0.26 + (0.2 if legend else 0)
    figure = tight_figure(len(columns) * (SIDE + 0.06) + 0.4, height, h_pad=0.02)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, places, label in zip(rows, grid, labels, strict=True):
        places[0].set_ylabel(label, color=INK, fontsize=9)
        for panel, axes in zip(row, places, strict=True):
            low, high = sorted((panel.black, panel.white))
            greys = "gray" if panel.black == low else "gray_r"
            axes.imshow(panel.picture, cmap=greys, vmin=low, vmax=high, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="#888888", linewidth=0.6)
            axes.set_xlabel(panel.note, color=INK, fontsize=8, labelpad=3)
    for title, axes in zip(columns, grid[0], strict=True):
        axes.set_title(title, color=INK, fontsize=9, pad=4)
    if legend:
        figure.supxlabel(legend, color=INK, fontsize=8)
    save_figure(figure, path)


def tight_figure(width: float, height: float, *, h_pad: float = 0.03) -> Figure:
    """An empty figure of a size in inches, with next to no room between the pictures in it."""
    figure = blank_figure(width, height)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.03, h_pad=h_pad, wspace=0, hspace=0)  # type: ignore[call-arg]
    return figure

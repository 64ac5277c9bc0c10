"""Rows of small grey pictures with a title above each column, as the paper sets its illustrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.reporting.charts import INK, blank_figure, save_figure

SIDE = 1.45  # inches, of one picture


class Panel(NamedTuple):
    """One picture: (H, W). black, white: the values drawn so, either one the larger. note: the text below."""

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
        columns: the titles above. labels: what stands to the left of each row. legend: a line below everything.
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
    figure = blank_figure(len(columns) * (SIDE + 0.06) + 0.4, height)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.03, h_pad=0.02, wspace=0, hspace=0)  # type: ignore[call-arg]
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

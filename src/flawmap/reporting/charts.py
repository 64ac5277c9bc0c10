"""Charts as PNG files: ROC curves, the losses of a training, and the look that all charts share.

Matplotlib is loaded only when a chart is drawn, and pyplot never: no window, no global state, safe in threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.core.files import atomic
from flawmap.core.records import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# The colours of Okabe and Ito, which colour-blind readers can tell apart; then the line styles change.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
STYLES = ("-", "--", ":", "-.")
INK, FAINT = "#333333", "#d9d9d9"


def roc_figure(curves: Mapping[str, Curve], path: Path) -> None:
    """ROC curves with their areas: whole, and on a logarithmic axis at the low rates of production.

    Args:
        curves: by name, in the order of the legend.
        path: the PNG file to write; its folder exists.
    Raises:
        InputError: no curves.
    """
    if not curves:
        raise InputError("curves must name at least one curve, got none")
    title, longest = "area under the curve", max(map(len, curves))
    roomy = len(curves) <= 5 and longest <= 24  # the corner below the curves holds their legend
    figure = blank_figure(9.6, 5.2 if roomy else 5.6 + 0.22 * len(curves) / (1 if longest > 48 else 2))
    whole, low = figure.subplots(1, 2, sharey=True)
    start = _lowest_rate(curves)
    for index, (name, curve) in enumerate(curves.items()):
        x, y = curve.false_positive_rate, curve.true_positive_rate
        line: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linewidth": 1.8}
        line["linestyle"] = STYLES[index // len(COLOURS) % len(STYLES)]
        label = name.replace("$", r"\$")  # matplotlib sets text between two dollar signs as a formula
        whole.plot(x, y, label=f"{curve.area:.3f}   {label}", **line)
        seen = x >= start
        low.plot(np.append(start, x[seen]), np.append(np.interp(start, x, y), y[seen]), **line)
    chance = np.geomspace(start, 1, 200)
    whole.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (2, 3)), label="0.500   chance")
    low.plot(chance, chance, color="#999999", linewidth=1, linestyle=(0, (2, 3)))
    whole.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false positive rate", ylabel="true positive rate")
    low.set(xlim=(start, 1), xscale="log", xlabel="false positive rate, logarithmic")
    whole.set_title("All thresholds", loc="left")
    low.set_title("Low false positive rates", loc="left")
    if roomy:
        legend = whole.legend(loc="lower right", title=title, alignment="left", framealpha=0.9)
    else:
        legend = figure.legend(loc="outside lower left", title=title, alignment="left", ncols=1 if longest > 48 else 2)
    legend.get_frame().set_linewidth(0)
    legend.get_title().set_color(INK)
    for axes in (whole, low):
        axes.set_box_aspect(1)
        dress(axes)
    save_figure(figure, path)


def loss_figure(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The losses of a training against its steps, logarithmic where they span a factor of three or more.

    Args:
        history: rows with `step`, and `loss` or `validation`; a row counts for a line only if it has a number there.
        path: the PNG file to write; its folder exists.
    Raises:
        InputError: no row has a number of either.
    """
    lines: dict[str, NDArray[np.float64]] = {}
    for name in ("loss", "validation"):
        points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
        points = [point for point in points if np.isfinite(point[1])]
        if points:
            lines[name] = np.asarray(points, dtype=np.float64)
    if not lines:
        raise InputError(f"history must hold numbers of loss or validation, got none in {len(history)} rows")
    figure = blank_figure(7.2, 4.2)
    axes = figure.subplots()
    for index, (name, line) in enumerate(lines.items()):
        marker = "o" if len(line) <= 30 else None  # few points are marked
        colour = COLOURS[index % len(COLOURS)]
        label = f"{name}   {line[-1, 1]:.4g} at the end"
        axes.plot(line[:, 0], line[:, 1], color=colour, label=label, linewidth=1.6, marker=marker, markersize=4)
    values = np.concatenate([line[:, 1] for line in lines.values()])
    if values.min() > 0 and values.max() >= 3 * values.min():
        axes.set_yscale("log")
        _plain_numbers(axes)
    axes.set(xlabel="step", ylabel="loss")
    axes.margins(x=0.01)
    axes.legend(frameon=False)
    dress(axes)
    save_figure(figure, path)


def _lowest_rate(curves: Mapping[str, Curve]) -> float:
    """The power of ten at which the logarithmic axis starts: 1e-5 to 0.1, and no curve has a lower point."""
    rates = [curve.false_positive_rate for curve in curves.values()]
    positive = [float(rate[rate > 0][0]) for rate in rates]
    return float(10 ** np.clip(np.floor(np.log10(min(positive))), -5, -1))


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, without a window or a backend."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (loading it takes half a second; most commands draw nothing)

    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def dress(axes: Axes) -> None:
    """The common look: a faint grid, two grey spines, dark text."""
    axes.grid(visible=True, which="major", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(which="both", color="#888888", labelcolor=INK)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)


def _plain_numbers(axes: Axes) -> None:
    """Label a logarithmic y axis with 0.2, 0.3, 0.5: it may span less than one power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 (as above)

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, path: Path) -> None:
    """Write the PNG file, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (as above)

    FigureCanvasAgg(figure)  # it attaches itself to the figure
    with atomic(path) as beside, beside.open("wb") as file:
        figure.savefig(file, format="png")

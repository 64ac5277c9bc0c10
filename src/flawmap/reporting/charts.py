"""Charts as PNG files: ROC curves, the losses of a training, and the look that all charts share.

Matplotlib is loaded only when a chart is drawn, and pyplot never: no window, no global state, safe in threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
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


def check_figure(check: Mapping[str, Any], path: Path) -> None:
    """A self-check to look at: the smallest size found by kind and contrast, and how much of each change is tolerated.

    Args:
        check: as a model file holds it, see `evaluation.selfcheck`. path: the PNG file to write; its folder exists.
    """
    kinds = list(dict.fromkeys(row["kind"] for row in check["sizes"]))
    contrasts = list(dict.fromkeys(row["contrast"] for row in check["sizes"]))
    rows = {(row["kind"], row["contrast"]): row for row in check["sizes"]}
    figure = blank_figure(10.4, 0.42 * max(len(kinds), len(check["tolerance"])) + 1.6)
    left, right = figure.subplots(1, 2, width_ratios=(len(contrasts), 4))
    known = [row["smallest"] for row in check["sizes"] if row["smallest"]]
    low, high = np.log(min(known, default=1)), np.log(max(known, default=2) * 2)
    for y, kind in enumerate(kinds):
        for x, contrast in enumerate(contrasts):
            row = rows[kind, contrast]
            size, tried = row["smallest"], row["rates"]
            missed = f"> {max(map(int, tried))} px" if tried else "-"
            share = 1.0 if not size else float((np.log(size) - low) / max(high - low, 1e-9))
            colour = "#f2f2f2" if not tried else _mixed(COLOURS[2], COLOURS[1], share)
            left.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=colour, linewidth=0)
            left.text(x, y, f"{size} px" if size else missed, ha="center", va="center", color=INK, fontsize=9)
    left.set_xticks(range(len(contrasts)), [f"{contrast:.0%}" for contrast in contrasts])
    left.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    left.set(xlabel="contrast of the defect", xlim=(-0.5, len(contrasts) - 0.5), ylim=(len(kinds) - 0.5, -0.5))
    left.set_title("Smallest size found at 90 %", loc="left")
    for y, row in enumerate(check["tolerance"]):
        for x, (step, rejected) in enumerate(row["rejected"].items()):
            found, steps = row["found"][step], list(row["rejected"])
            fine = row["last"] is not None and x <= steps.index(row["last"])
            colour = _mixed(COLOURS[2], COLOURS[1], 0.0 if fine else 1.0)
            right.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=colour, linewidth=0)
            hits = f", {found[0]}/{found[1]} found" if found[1] else ""
            text = f"{step}\n{rejected[0]}/{rejected[1]} rejected{hits}"
            right.text(x, y, text, ha="center", va="center", color=INK, fontsize=5.5, wrap=True)
    right.set_xticks([])
    right.set_yticks(range(len(check["tolerance"])), [row["change"] for row in check["tolerance"]])
    right.set(xlim=(-0.5, 3.5), ylim=(len(check["tolerance"]) - 0.5, -0.5))
    right.set_title("Changes that the decision tolerates", loc="left")
    for axes in (left, right):
        dress(axes)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    save_figure(figure, path)


def _mixed(first: str, second: str, share: float) -> tuple[float, ...]:
    """A pale colour between two."""
    from matplotlib.colors import to_rgb  # noqa: PLC0415 (as below)

    one, other = np.array(to_rgb(first)), np.array(to_rgb(second))
    return tuple((0.45 + 0.55 * (one + share * (other - one))).clip(0, 1).tolist())


def drift_figure(
    calibrated: Sequence[float],
    recent: Sequence[float],
    capital: Sequence[float],
    path: Path,
    *,
    threshold: float | None,
    alarm: float,
) -> None:
    """Scores of recent images in the order of time beside those of the calibration, and below the martingale.

    Args:
        calibrated: scores of held-out good images. recent: of recent ones. capital: the martingale after each of them.
        path: the PNG file to write; its folder exists.
        threshold: above it an image is flawed; None: not decided. alarm: the martingale's level of alarm.
    """
    figure = blank_figure(8.4, 5.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    time = np.arange(1, len(recent) + 1)
    low, middle, high = np.quantile(calibrated, (0.05, 0.5, 0.95))
    above.axhspan(low, high, color=COLOURS[5], alpha=0.25, linewidth=0, label="calibrated images, middle 90 %")
    above.axhline(middle, color=COLOURS[0], linewidth=1.2, label="their median")
    if threshold is not None:
        above.axhline(threshold, color=COLOURS[1], linewidth=1.2, linestyle="--", label="threshold")
    above.plot(time, recent, color=INK, marker="o", markersize=3, linewidth=0.6, label="recent images")
    above.set(ylabel="score")
    above.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 1.0), fontsize=8)
    below.plot(time, np.maximum(capital, 1e-6), color=COLOURS[2], linewidth=1.6)
    below.axhline(alarm, color=COLOURS[1], linewidth=1.2, linestyle="--")
    below.set(yscale="log", xlabel="image, in the order of time", ylabel="evidence of a change")
    for axes in (above, below):
        dress(axes)
    save_figure(figure, path)


def scores_figure(
    groups: Mapping[str, Sequence[float]], calibrated: Sequence[float], threshold: float | None, path: Path
) -> None:
    """Histogram of the scores of two groups of images, of the calibration's good ones, and the threshold.

    Args:
        groups: scores of good (or ok) images and of bad ones, by their names in the legend; not all empty.
        calibrated: of held-out good images; empty: none are known. threshold: None: there is none.
        path: the PNG file to write; its folder exists.
    """
    figure = blank_figure(8.4, 3.2)
    axes = figure.subplots()
    shown, limits = [list(scores) for scores in groups.values()], [] if threshold is None else [threshold]
    every = [*chain(*shown), *calibrated, *limits]
    bins = np.linspace(min(every), max(every) * 1.001 + 1e-12, 41).tolist()
    axes.hist(shown, bins=bins, stacked=True, color=(COLOURS[2], COLOURS[1]), label=tuple(groups))
    if calibrated:
        weights = np.full(len(calibrated), sum(map(len, shown)) / len(calibrated))
        label = f"good images of the calibration ({len(calibrated)}), to scale"
        axes.hist(list(calibrated), bins=bins, weights=weights, histtype="step", color=INK, linewidth=1.2, label=label)
    for limit in limits:
        axes.axvline(limit, color=COLOURS[1], linewidth=1.4, linestyle="--", label="threshold")
    axes.set(xlabel="score", ylabel="images")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(-0.01, 1.0), fontsize=8)
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

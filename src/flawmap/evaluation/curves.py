"""ROC curves: of a histogram, of a sort, and thinned for drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import Curve, Mask
from flawmap.evaluation.histograms import Distinct, ScoreHistogram


def roc(histogram: ScoreHistogram) -> Curve | None:
    """The ROC curve of a histogram: every point exact, one for each occupied bin. None where it is undefined."""
    if histogram.undefined is not None:
        return None
    # The smallest threshold that has a bin's pixels above it is the upper edge of the next occupied bin.
    thresholds = histogram.binning.edge(np.append(histogram.bins[::-1], histogram.bins[0] - 1))
    return Curve(_fractions(histogram.good), _fractions(histogram.defective), thresholds.astype(np.float64))


def roc_exact(scores: ArrayLike, defective: ArrayLike) -> Curve | None:
    """The ROC curve by a sort of all scores, for sets that fit in memory.

    Args:
        scores: (N,) or any shape, finite, larger is worse. defective: bool of the same shape.
    Returns:
        A Curve with a point for every distinct score; None where there are no good or no defective ones.
    Raises:
        InputError: two shapes, NaN or infinite scores.
    """
    return roc(exact_histogram(*labelled(scores, defective)))


def thin(curve: Curve, points: int = 2000, tolerance: float = 1e-4) -> Curve:
    """A curve with fewer of its own points, spread evenly along it and along the logarithm of its x axis.

    At most `points` are kept; more only where the area under the curve would else change by more than `tolerance`.

    Raises:
        InputError: fewer than 4 points.
    """
    if points < 4:
        raise InputError(f"points must be at least 4, got {points}")
    x, y = curve.false_positive_rate, curve.true_positive_rate
    area = curve.area
    while points < len(x):
        along = np.linspace(0, 2, points // 2)
        rising = np.geomspace(x[x > 0][0], 1, points // 2 - 2)
        wanted = np.concatenate([np.searchsorted(x + y, along), np.searchsorted(x, rising), [len(x) - 1]])
        kept = np.unique(np.minimum(wanted, len(x) - 1))
        thinner = Curve(x[kept], y[kept], curve.thresholds[kept])
        if abs(thinner.area - area) <= tolerance:
            return thinner
        points *= 2
    return curve


def exact_histogram(scores: NDArray[np.float64], defective: Mask) -> ScoreHistogram:
    """A histogram with a bin for each distinct score. scores: (N,), finite. defective: (N,) bool."""
    return ScoreHistogram.of(scores, defective, Distinct.among([scores]))


def labelled(scores: ArrayLike, defective: ArrayLike) -> tuple[NDArray[np.float64], Mask]:
    """Scores and labels as flat arrays of one length. Raises InputError: two shapes, NaN or infinite scores."""
    values: NDArray[Any] = np.asarray(scores, dtype=np.float64)
    flawed = np.asarray(defective, dtype=np.bool_)
    if values.shape != flawed.shape:
        raise InputError(
            f"scores and defective must have one shape, got {shape_text(values.shape)} and {shape_text(flawed.shape)}"
        )
    finite(values, "scores")
    return values.ravel(), flawed.ravel()


def _fractions(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """0, then the cumulative fractions of falling scores up to exactly 1; counts of ascending ones."""
    sums = np.cumsum(counts[::-1])
    return np.concatenate([[0.0], sums / sums[-1]])

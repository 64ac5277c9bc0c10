"""What a network leaves at an image's border, where it has less to go by, and maps without it.

A pixel in the middle of an image is reconstructed by many patches, one at its border by a few, all of them by their own
edge. So residuals rise towards the border of every image, good ones too, and hide what lies there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import Array, as_numpy, beside, constant_like
from flawmap.core.records import Mask

BorderProfile = tuple[float, ...]
"""Border correction: entry d is the mean residual of good images at d pixels from the nearest border, divided by that
of the interior. Never below 1. The last entry applies to all larger distances. Pixels at the working scale."""


def border_profile(residuals: Iterable[tuple[Array, Mask | None]], reach: int) -> BorderProfile:
    """The profile of residual maps of good images.

    Args:
        residuals: (H, W) each, at least 0, of any size, and where it counts, (H, W) bool (None = everywhere).
        reach: how many distances are told apart, the middle among them; at least 1.
    Returns:
        At most `reach` numbers, fewer where no map is that large; one, a 1, where nothing counts or nothing is left.
        A border that is better than the middle has 1: dividing by less would raise what is faint there.
    """
    sums, counts = np.zeros(reach), np.zeros(reach)
    for residual, inside in residuals:
        where = np.ones(residual.shape, np.bool_) if inside is None else inside
        places = distances(residual.shape[0], residual.shape[1], reach)[where]
        sums += np.bincount(places, as_numpy(residual).astype(np.float64)[where], minlength=reach)
        counts += np.bincount(places, minlength=reach)
    known = np.flatnonzero(counts)
    if not len(known) or sums[known[-1]] <= 0:
        return (1.0,)
    means = np.interp(np.arange(known[-1] + 1), known, sums[known] / counts[known])
    return tuple(float(ratio) for ratio in np.maximum(means / means[-1], 1))


def border_corrected(residual: Array, profile: Sequence[float], *, top: int = 0, height: int | None = None) -> Array:
    """A residual map (H, W) divided by a profile: a border counts like the middle, which stays as it is.

    top, height: of a map that is a band of rows, the row where it begins and the height of the whole.
    """
    rows, width = residual.shape
    places = distances(height or rows, width, len(profile), top=top, rows=rows)
    return residual / constant_like(profile, residual)[beside(places, residual)]


def distances(height: int, width: int, reach: int, *, top: int = 0, rows: int | None = None) -> NDArray[np.int64]:
    """(H, W) int64: pixels between a pixel and the nearest border, 0 at it, at most reach - 1.

    top, rows: for a band of `rows` rows that begins there; None: all that follow.
    """
    down, across = np.arange(top, height if rows is None else top + rows), np.arange(width)
    nearest = np.minimum(down, height - 1 - down)[:, None]
    columns = np.minimum(across, width - 1 - across)
    return np.minimum(np.minimum(nearest, columns), reach - 1)

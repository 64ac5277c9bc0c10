"""Evidence: how rare a residual is among good images, at such a place. It replaces residuals in maps and thresholds.

Evidence is -log10 of an upper-tail probability: 4 means that one good pixel in 10,000 looks as bad or worse. A method
leaves several residuals, the parts of the evidence, each smoothed at several scales. Each of them becomes a z-score by
the mean and the spread of good images at that distance from the border, and then evidence by the tail of good images'
z-scores. Their weighted sum, and its own tail, is the evidence of the pixel.

References:
    Pickands 1975, doi:10.1214/aos/1176343003, for tails beyond the data (the generalised Pareto distribution);
    Hosking and Wallis 1987, doi:10.1080/00401706.1987.10488243, for its fit by probability-weighted moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flawmap.core.arrays import (
    Array,
    as_numpy,
    beside,
    constant_like,
    converted,
    device_of,
    interpolated,
    namespace_of,
    on_cpu,
)
from flawmap.core.parallel import side_by_side
from flawmap.core.settings import Settings
from flawmap.scoring.borders import distances
from flawmap.scoring.lookup import Lookup, entries

Floats = NDArray[np.float64]

BODY = 6.0  # evidence of one part up to which it counts in full; beyond it counts by its logarithm
TAIL_SHARE = 1e-2  # of the good values: those that the tail beyond the data is fitted to
TAIL_VALUES = 30  # good values beyond the end of a tail's table, where what is counted gives way to what is fitted
HEAVIEST = 0.5  # shape of a tail at most: beyond it a fit has no finite variance
ENTRIES = 200  # of a tail's table
CHUNK = 1 << 17  # pixels at once on a CPU: few enough for its caches, enough that threads seldom wait for Python's lock


class Tail(Settings):
    """The upper tail of good values: a table of their distribution, and its continuation beyond the last entry.

    values: ascending. evidence: of each, -log10 of the fraction of good values that are at least as large. shape and
    scale: of the generalised Pareto distribution that begins at the last entry. A shape of 0 or more has no upper end,
    so evidence rises strictly, and is never infinite.
    """

    values: tuple[float, ...] = Field(min_length=2, strict=False)
    evidence: tuple[float, ...] = Field(min_length=2, strict=False)
    shape: float = Field(ge=0, le=HEAVIEST)
    scale: float = Field(gt=0)

    @classmethod
    def fitted(cls, values: Floats, counts: NDArray[np.int64]) -> Tail:
        """The tail of good values. values: (V,) ascending, at least 2 of them; counts: (V,) how often each occurred."""
        above = counts[::-1].cumsum()[::-1]  # values at least as large
        exact = -np.log10(above / above[0])
        end = max(np.log10(above[0] / TAIL_VALUES), -np.log10(TAIL_SHARE))
        body = np.searchsorted(exact, np.linspace(0, end, ENTRIES))
        kept = np.unique(np.minimum(body, len(values) - 1))
        if len(kept) < 2:
            kept = np.array([0, len(values) - 1])
        start = min(int(np.searchsorted(exact, -np.log10(TAIL_SHARE))), len(values) - 1)
        shape, scale = pareto(values[start:] - values[start], counts[start:])
        # Beyond a higher value the same distribution has this scale.
        scale += shape * float(values[kept[-1]] - values[start])
        least = 1e-6 * max(abs(values[-1]), abs(values[0]), 1e-12)
        return cls(
            values=tuple(values[kept].tolist()),
            evidence=tuple(exact[kept].tolist()),
            shape=shape,
            scale=max(scale, least),
        )

    def __call__(self, values: Array) -> Array:
        """The evidence of values of any shape: 0 for the least of good ones, larger is rarer."""
        xp = namespace_of(values)
        inner = _Inside.of(self.values, self.evidence, values.dtype, device_of(values))(values)
        excess = xp.clip(values - self.values[-1], 0, None) / self.scale
        beyond = excess if self.shape < 1e-6 else xp.log1p(self.shape * excess) / self.shape
        return inner + beyond / float(np.log(10))


class _Inside(NamedTuple):
    """A tail's table: linear between two entries, level beyond the ends. By the place among the entries, (K + 1,): the
    entry below, how far the next one lies, and the evidence of both."""

    lookup: Lookup
    low: Array
    width: Array
    start: Array
    end: Array

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, values: tuple[float, ...], evidence: tuple[float, ...], dtype: Any, device: Any) -> _Inside:
        def kept(array: NDArray[Any]) -> Array:
            return converted(array, dtype, device)

        table, exponents = (as_numpy(kept(np.asarray(given, np.float64))) for given in (values, evidence))
        lookup, place = Lookup.of(table), np.arange(len(table) + 1).clip(1, len(table) - 1)
        low, high = table[place - 1], table[place]
        width = (high - low).clip(np.finfo(table.dtype).smallest_normal)
        lookup = Lookup(kept(lookup.ended), beside(lookup.first, kept(table)), lookup.most)
        return cls(lookup, *map(kept, (low, width, exponents[place - 1], exponents[place])))

    def __call__(self, values: Array) -> Array:
        place = self.lookup.ranks(values)
        xp = namespace_of(values)
        share = xp.clip((values - entries(self.low, place)) / entries(self.width, place), 0, 1)
        return interpolated(entries(self.start, place), entries(self.end, place), share)


def pareto(excesses: Floats, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution by probability-weighted moments; the shape is in [0, 0.5].

    P(X > x) = (1 + shape x / scale)^(-1 / shape), exp(-x / scale) for the shape 0. A bounded tail (a negative shape) is
    fitted by an exponential one: it claims less evidence than the data would.

    excesses: (V,) ascending, at least 0. counts: (V,) how often each occurred.
    """
    total = float(counts.sum())
    above = (counts[::-1].cumsum()[::-1] - (counts + 1) / 2) / max(total - 1, 1)  # mean rank from the top
    mean = float((counts * excesses).sum() / total)
    weighted = float((counts * above * excesses).sum() / total)
    if mean <= 0 or mean <= 2 * weighted:
        return 0.0, max(mean, 0.0)
    shape = float(np.clip(2 - mean / (mean - 2 * weighted), 0, HEAVIEST))
    return shape, mean * (1 - shape)


class Layer(Settings):
    """One residual at one scale: what good images leave, and what it is worth.

    part: number of the method's residual. scale: sigma of the Gaussian over its map, pixels at the working scale.
    mean, spread: (D,) of good images by pixels to the nearest border, the last for all larger distances. weight: at
    least 0.
    """

    part: int = Field(ge=0)
    scale: float = Field(ge=0)
    mean: tuple[float, ...] = Field(min_length=1, strict=False)
    spread: tuple[float, ...] = Field(min_length=1, strict=False)
    tail: Tail
    weight: float = Field(ge=0)

    def evidence(self, residual: Array, places: Array) -> Array:
        """What the layer adds to the sum for the weight 1. places: each pixel's distance to the border."""
        return damped(self.tail(z_scores(residual, self.mean, self.spread, places)))


class EvidenceProfile(Settings):
    """What good images leave in every layer; it makes evidence of residuals. `total` is the tail of the sum."""

    layers: tuple[Layer, ...] = Field(min_length=1, strict=False)
    total: Tail

    def evidence(self, residuals: Array, *, top: int = 0, height: int | None = None) -> Array:
        """Layers (L, h, W), see `pipeline.score_rows`, to evidence (h, W), at least 0.

        top, height: of a band of rows, the row where it begins and the height of the whole.
        """
        rows, width = residuals.shape[-2:]
        at_once = max(1, CHUNK // width) if on_cpu(residuals) else rows

        def found(first: int) -> Array:
            band = residuals[:, first : first + at_once]
            return self.total(self.weighted(band, top=top + first, height=height or rows))

        return namespace_of(residuals).concat(side_by_side(found, range(0, rows, at_once)))

    def summary(self) -> list[dict[str, float]]:
        """What each layer is worth, without tables."""
        return [{"part": layer.part, "scale": layer.scale, "weight": layer.weight} for layer in self.layers]

    def weighted(self, residuals: Array, *, top: int = 0, height: int | None = None) -> Array:
        """The sum over layers before its own tail."""
        rows, width = residuals.shape[-2:]
        whole = height or rows
        reach = max(len(layer.mean) for layer in self.layers)
        places = beside(distances(whole, width, reach, top=top, rows=rows).astype(np.int32), residuals)
        total = namespace_of(residuals).zeros_like(residuals[0])
        for layer, residual in zip(self.layers, residuals, strict=True):
            if layer.weight > 0:
                total += layer.weight * layer.evidence(residual, places)
        return total


def z_scores(residual: Array, mean: Sequence[float], spread: Sequence[float], places: Array) -> Array:
    """(h, W): how many spreads of good images a residual lies above their mean, at that distance from the border."""
    middle, width = (constant_like(given, residual) for given in (mean, spread))
    near = namespace_of(residual).clip(places, None, len(mean) - 1)
    return (residual - entries(middle, near)) / entries(width, near)


def damped(evidence: Array) -> Array:
    """Evidence of one layer as it counts in the sum: beyond BODY, where few good values were seen, by its logarithm."""
    xp = namespace_of(evidence)
    return xp.where(evidence > BODY, BODY + xp.log1p(xp.clip(evidence - BODY, 0, None)), evidence)

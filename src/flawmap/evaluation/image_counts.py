"""The pixels of one image, counted by bins of their scores: whole, or band by band as they are scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.evaluation.histograms import FLOAT_BITS, Binning, Counts, ScoreHistogram
from flawmap.imaging.morphology import check_mask, label


@dataclass(frozen=True, eq=False)
class RegionScores:
    """The scores of ground-truth regions: `count` pixels of region `region` lie in bin `bin`.

    region, bin, count: (N,), N at most the number of defective pixels. area: (R,), pixels of each region.
    """

    region: NDArray[np.int64]
    bin: NDArray[np.int64]
    count: Counts
    area: Counts

    @classmethod
    def of(cls, owner: NDArray[np.integer[Any]], bins: NDArray[np.int64], regions: int, bin_count: int) -> RegionScores:
        """From the region and the bin of every defective pixel, (N,) each; regions count from 0."""
        pairs, count = np.unique(owner.astype(np.int64) * bin_count + bins, return_counts=True)
        region, bin = np.divmod(pairs, bin_count)
        return cls(region, bin, count.astype(np.int64), np.bincount(owner, minlength=regions))

    @classmethod
    def join(cls, parts: Iterable[RegionScores]) -> RegionScores:
        """All regions of several images in one."""
        nothing = np.zeros(0, np.int64)
        parts = [cls(nothing, nothing, nothing, nothing), *parts]
        first = np.cumsum([0] + [len(part.area) for part in parts[:-1]])
        return cls(
            np.concatenate([part.region + start for part, start in zip(parts, first, strict=True)]),
            np.concatenate([part.bin for part in parts]),
            np.concatenate([part.count for part in parts]),
            np.concatenate([part.area for part in parts]),
        )

    @property
    def fraction(self) -> NDArray[np.float64]:
        """(N,): the fraction of its region that each entry holds."""
        return self.count / self.area[self.region]

    def fractions_above(self, bins: NDArray[np.int64]) -> NDArray[np.float64]:
        """(T, R): the fraction of each region in bins above each of T ascending ones."""
        slots = len(bins) + 1
        # An entry lies above as many of the bins as are smaller than its own.
        slot = np.searchsorted(bins, self.bin, side="left")
        cells = np.bincount(self.region * slots + slot, weights=self.count, minlength=len(self.area) * slots)
        above = np.cumsum(cells.reshape(-1, slots)[:, ::-1], axis=1)[:, -2::-1]
        return np.asarray(above / self.area[:, None]).T


class CountedImage(NamedTuple):
    """The pixels of one image inside the region of interest, and its ground-truth regions there."""

    histogram: ScoreHistogram
    regions: RegionScores


@dataclass(frozen=True, eq=False)
class ImageScores:
    """What one image adds to the metrics of a set, small enough to be kept for every image.

    bin, count: (B,) int32, the occupied coarse bins of its good pixels, ascending, and how many lie in each; a coarse
    bin is a histogram's bin without its last `dropped_bits`. regions: its ground-truth regions, which hold every
    defective pixel.
    """

    bin: NDArray[np.int32]
    count: NDArray[np.int32]
    regions: RegionScores
    dropped_bits: int

    @classmethod
    def of(cls, image: CountedImage) -> ImageScores:
        histogram, regions = image
        good = np.flatnonzero(histogram.good)
        dropped = histogram.binning.dropped_bits
        coarse, first = np.unique(histogram.bins[good] >> dropped, return_index=True)
        counts = np.add.reduceat(histogram.good[good], first) if len(good) else np.zeros(0)
        return cls(coarse.astype(np.int32), counts.astype(np.int32), regions, dropped)

    @property
    def good_pixels(self) -> int:
        return int(self.count.sum())

    @property
    def defective_pixels(self) -> int:
        return int(self.regions.area.sum())


class ImageCounts:
    """Counts one image whose residual map comes whole or by bands of rows, from the top.

    Any cut into bands gives the same counts. Memory: the occupied bins, 8 bytes for a defective pixel, and a byte for
    each pixel of the rows that hold defective ones; five bytes for these while regions are labelled.
    """

    def __init__(self, binning: Binning = FLOAT_BITS) -> None:
        self._histogram = ScoreHistogram.empty(binning)
        self._rows = 0
        self._flawed: list[tuple[int, Mask]] = []  # the first row of each part, and its defective pixels
        self._bins: list[NDArray[np.int64]] = []  # of the defective pixels, row by row

    def add(self, residual: FloatMap, truth: Mask, inside: Mask | None = None) -> None:
        """Count the next rows.

        Args:
            residual: (h, W) float32, finite; opened, if the opened mask is what is judged.
            truth: (h, W) bool, the ground truth, True = defective; all False for a good image.
            inside: (h, W) bool, the region of interest. Pixels outside count for nothing; ground-truth regions are cut
                by it before they are labelled.
        Raises:
            InputError: a shape, a type, NaN or infinite residuals.
        """
        if residual.ndim != 2:
            raise InputError(f"residual must be (H, W), got {shape_text(residual.shape)}")
        check_mask(truth, residual.shape, "mask")
        binning = self._histogram.binning
        if inside is None:
            flawed, counted = truth, ScoreHistogram.of(residual, truth, binning)
        else:
            check_mask(inside, residual.shape, "inside")
            flawed, counted = truth & inside, ScoreHistogram.of(residual[inside], truth[inside], binning)
        self._histogram = self._histogram + counted if self._rows else counted
        rows = np.flatnonzero(flawed.any(axis=1))
        if len(rows):
            self._flawed.append((self._rows + rows[0], flawed[rows[0] : rows[-1] + 1].copy()))
            self._bins.append(binning.of(residual[flawed]))
        self._rows += len(residual)

    def counted(self) -> CountedImage:
        """The counts after the last rows; regions are the 8-connected components of the ground truth."""
        return CountedImage(self._histogram, self._regions())

    def _regions(self) -> RegionScores:
        if not self._flawed:
            return RegionScores.join([])
        top, bottom = self._flawed[0][0], self._flawed[-1][0] + len(self._flawed[-1][1])
        flawed = np.zeros((bottom - top, self._flawed[0][1].shape[1]), np.bool_)
        for first, part in self._flawed:
            flawed[first - top : first - top + len(part)] = part
        labels, regions = label(flawed)
        return RegionScores.of(labels[flawed] - 1, np.concatenate(self._bins), regions, self._histogram.binning.count)

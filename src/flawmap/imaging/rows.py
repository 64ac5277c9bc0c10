"""Arrays that come by bands of rows, from the top down: reading ahead, looking with context, shrinking to a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import namespace_of

if TYPE_CHECKING:
    from torch import Tensor

A = TypeVar("A", NDArray[Any], "Tensor")

BAND_PIXELS = 2_000_000  # of one band, about: SSIM needs some hundred bytes for each


def band_rows(width: int) -> int:
    """Rows of a band that holds about BAND_PIXELS pixels, at least one."""
    return max(1, BAND_PIXELS // width)


class Window(NamedTuple):
    """Rows of one band, with context. first, last: with the context, last outside. inner: the band within these."""

    first: int
    last: int
    inner: slice


def windows(height: int, rows: int, margin: int) -> Iterator[Window]:
    """Bands of `rows` rows, more where the margin is larger, with `margin` rows of context where there are so many.

    >>> [(window.first, window.last) for window in windows(height=10, rows=4, margin=1)]
    [(0, 5), (3, 9), (7, 10)]
    """
    rows = max(rows, margin)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first = max(0, top - margin)
        yield Window(first, min(height, bottom + margin), slice(top - first, bottom - first))


class RowBuffer(Generic[A]):
    """An array whose rows come in blocks, one below the other, and are let go once nobody will look at them again.

    blocks: arrays or tensors, alike but for their number of rows, which may be 0. axis: that of the rows.
    """

    def __init__(self, blocks: Iterable[A], axis: int = 0) -> None:
        self._blocks: Iterator[A] = iter(blocks)
        self._axis = axis
        self._held: A | None = None
        self._first, self._last = 0, 0  # rows held

    def take(self, first: int, last: int) -> A:
        """Rows `first` to `last`, the latter not among them; `first` must not fall from one call to the next."""
        if self._held is None or self._last < last:
            blocks = [] if self._held is None else [self._cut(self._held, first - self._first, None)]
            while self._last < last or not blocks:
                block = next(self._blocks, None)
                assert block is not None, f"row {last - 1} was asked for, rows end at {self._last}"
                self._last += block.shape[self._axis]
                blocks.append(block)
            self._held = self._joined(blocks)
            self._first = self._last - self._held.shape[self._axis]
        return self._cut(self._held, first - self._first, last - self._first)

    def _cut(self, array: A, start: int, stop: int | None) -> A:
        part: A = array[(slice(None),) * self._axis + (slice(start, stop),)]
        return part

    def _joined(self, blocks: list[A]) -> A:
        if len(blocks) == 1:
            return blocks[0]
        joined: A = namespace_of(blocks[0]).concat(blocks, axis=self._axis)
        return joined


def map_bands(blocks: Iterable[A], height: int, rows: int, margin: int, function: Callable[[A], A]) -> Iterator[A]:
    """A function of an array (H, ...) whose row y depends on rows y - margin to y + margin alone, band by band.

    The function sees the array's own first and last rows, so that what it does at the border stays the same.
    """
    rolling = RowBuffer(blocks)
    for window in windows(height, rows, margin):
        yield function(rolling.take(window.first, window.last))[window.inner]


class BlockReduce:
    """What is left of bands (h, W, ...) when `factor` x `factor` pixels are gathered in one, fewer at the far ends."""

    def __init__(self, shape: tuple[int, ...], factor: int, gather: np.ufunc, dtype: type[np.generic]) -> None:
        """shape: (H, W, ...) of all bands together. gather: np.add or np.logical_or."""
        self.values = np.zeros((-(-shape[0] // factor), -(-shape[1] // factor), *shape[2:]), dtype)
        self._factor, self._gather, self._top = factor, gather, 0

    def add(self, band: NDArray[Any]) -> None:
        """The band below the one before."""
        rows = np.arange(self._top, self._top + len(band)) // self._factor
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        columns = np.arange(0, band.shape[1], self._factor)
        part = self._gather.reduceat(self._gather.reduceat(band, starts, axis=0), columns, axis=1)
        place = slice(rows[0], rows[-1] + 1)
        self.values[place] = self._gather(self.values[place], part)
        self._top += len(band)


def block_counts(shape: tuple[int, int], factor: int) -> NDArray[np.int64]:
    """(h, w): how many pixels of an (H, W) array lie in each pixel of its shrunk picture."""
    down, across = (np.diff(np.append(np.arange(0, side, factor), side)) for side in shape)
    return np.outer(down, across)

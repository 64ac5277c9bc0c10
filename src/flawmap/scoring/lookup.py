"""Where the values of a map lie in a table, and what the table holds there: millions of values, tables of hundreds.

A search by halves guesses wrong at every second comparison. So the table's range is cut into equal cells: a value's
cell leaves a few entries to compare it with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flawmap.core.arrays import Array, beside, is_numpy, namespace_of

CELLS = 1 << 12  # many more than a table has entries, and few enough for a processor's first cache
MOST = 8  # entries in one cell; where they lie closer, a search by halves is quicker


class Lookup(NamedTuple):
    """A table (K,), ascending, and what finds a value's place in it.

    ended: the table and an infinity. first: of each cell the entries in the cells before it, int32. most: entries in
    one cell.
    """

    ended: Array
    first: Array
    most: int

    @classmethod
    def of(cls, table: Array) -> Lookup:
        held = np.bincount(np.asarray(_cells(table, table).tolist()), minlength=CELLS)
        xp = namespace_of(table)
        ended = xp.concat((table, xp.full_like(table[:1], xp.inf)))
        return cls(ended, beside((held.cumsum() - held).astype(np.int32), table), int(held.max()))

    @property
    def table(self) -> Array:
        return self.ended[:-1]

    def ranks(self, values: Array) -> Array:
        """How many entries are less than each value, int32, of the values' shape and the table's type.

        A search by halves gives the same, but for NaN, which has any place of the table.
        """
        if self.most > MOST:
            xp = namespace_of(values)
            return xp.astype(xp.searchsorted(self.table, values), xp.int32)
        place = entries(self.first, _cells(values, self.table))
        for _ in range(self.most):
            place += entries(self.ended, place) < values
        return place


def entries(table: Array, places: Array) -> Array:
    """table[places], of the places' shape: on a CPU several times as quick, most of all for places of 32 bits."""
    if is_numpy(table):
        return np.take(table, places)
    return table.index_select(0, places.flatten()).view(places.shape)


def _cells(values: Array, table: Array) -> Array:
    """Each value's cell, int32. It never falls as the value rises, so entries of earlier cells are less."""
    xp, last = namespace_of(values), CELLS - 1
    low, high = table[0], table[-1]
    scale = last / xp.clip(high - low, xp.finfo(table.dtype).smallest_normal, None)
    scaled = xp.clip((values - low) * scale, 0, last)
    if is_numpy(scaled):  # where NaN becomes an integer with a warning
        scaled = np.nan_to_num(scaled, copy=False)
    return xp.clip(xp.astype(scaled, xp.int32), 0, last)  # NaN becomes any integer

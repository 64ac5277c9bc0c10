"""Where the values of a map lie in a table, and what the table holds there: millions of values, tables of hundreds.

A search by halves guesses wrong at every second comparison. So the table's range is cut into equal cells: a value's
cell leaves a few entries to compare it with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CELLS = 1 << 12  # many more than a table has entries, and few enough for a processor's first cache
MOST = 8  # entries in one cell; where they lie closer, a search by halves is quicker


class Lookup(NamedTuple):
    """A table (K,), ascending, and what finds a value's place in it.

    ended: the table and an infinity. first: of each cell the entries in the cells before it, int32. most: entries in
    one cell.
    """

    ended: Tensor
    first: Tensor
    most: int

    @classmethod
    def of(cls, table: Tensor) -> Lookup:
        held = torch.bincount(_cells(table, table), minlength=CELLS)
        ended = torch.cat((table, table.new_full((1,), torch.inf)))
        return cls(ended, (held.cumsum(0) - held).to(torch.int32), int(held.max()))

    @property
    def table(self) -> Tensor:
        return self.ended[:-1]

    def ranks(self, values: Tensor) -> Tensor:
        """How many entries are less than each value, int32, of the values' shape and the table's type.

        `torch.searchsorted` gives the same, but for NaN, which has any place of the table.
        """
        if self.most > MOST:
            return torch.searchsorted(self.table, values, out_int32=True)
        place = entries(self.first, _cells(values, self.table))
        for _ in range(self.most):
            place += entries(self.ended, place) < values
        return place


def entries(table: Tensor, places: Tensor) -> Tensor:
    """table[places], of the places' shape: on a CPU several times as quick, most of all for places of 32 bits."""
    return table.index_select(0, places.flatten()).view(places.shape)


def _cells(values: Tensor, table: Tensor) -> Tensor:
    """Each value's cell, int32. It never falls as the value rises, so entries of earlier cells are less."""
    low, high = table[0], table[-1]
    scale = (CELLS - 1) / (high - low).clamp(min=torch.finfo(table.dtype).tiny)
    last = CELLS - 1
    return (values - low).mul_(scale).clamp_(0, last).to(torch.int32).clamp_(0, last)  # NaN becomes any integer

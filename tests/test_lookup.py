"""Places of values in a table: torch's search by halves as the oracle, for tables of any spacing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flawmap.scoring.evidence import Tail
from flawmap.scoring.lookup import CELLS, MOST, Lookup, entries

FLOATS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(FLOATS, min_size=2, max_size=60), st.lists(FLOATS, max_size=40))
def test_places_are_those_of_a_search_by_halves(table: list[float], values: list[float]) -> None:
    """For entries that lie close, or are equal, and for values between, at and beyond them."""
    knots = torch.tensor(sorted(table))
    asked = torch.tensor([*values, *table, -torch.inf, torch.inf, 3e38, -3e38])
    asked = torch.cat((asked, asked.nextafter(torch.tensor(torch.inf)), asked.nextafter(torch.tensor(-torch.inf))))
    assert torch.equal(Lookup.of(knots).ranks(asked), torch.searchsorted(knots, asked, out_int32=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("near", [MOST, MOST + 1, 198])
def test_a_crowded_cell_is_searched_as_well(near: int, dtype: torch.dtype) -> None:
    """Entries that share a cell are told apart, as many as there may be."""
    table = torch.cat((torch.linspace(0, 0.9 / CELLS, near), torch.linspace(0.5, 1, 200 - near))).to(dtype)
    lookup = Lookup.of(table)
    assert lookup.most == near
    values = torch.cat((torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=dtype), table))
    values[:2000] /= CELLS
    assert torch.equal(lookup.ranks(values.view(2, -1)).long(), torch.searchsorted(table, values).view(2, -1))


def test_what_is_no_number_stays_none() -> None:
    """NaN has a place within the table, whichever, and NaN as its evidence."""
    table = torch.linspace(0, 1, 50)
    assert 0 <= int(Lookup.of(table).ranks(torch.tensor([torch.nan]))) <= len(table)
    assert Tail(values=(0, 1), evidence=(0, 2), shape=0, scale=1)(torch.tensor([torch.nan])).isnan().all()


def test_entries_are_those_of_an_index() -> None:
    """table[places] for places of any shape."""
    table, places = torch.rand(7), torch.tensor([[0, 6, 3], [3, 3, 1]], dtype=torch.int32)
    assert torch.equal(entries(table, places), table[places.long()])

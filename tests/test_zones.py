"""Zones: a mask in a model's header."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flawmap.core.errors import InputError
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.roi import Roi
from flawmap.scoring.zones import Zone


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)), st.integers(0, 10**6))
def test_a_mask_comes_back_from_json(mask: np.ndarray, place: int) -> None:
    """Every mask with a pixel inside, of any size, and through a header's JSON."""
    mask.flat[place % mask.size] = True
    zone = Zone.model_validate(Zone.of(mask).model_dump(mode="json"))
    assert np.array_equal(zone.mask, mask)


def test_a_region_is_narrowed_but_mapped_alike() -> None:
    """The box, by which an image is cut into patches, stays; what counts is what lies in both."""
    mask = np.zeros((30, 40), np.bool_)
    mask[:, :15] = True
    image = ImageRows((30, 40, 1), lambda: iter(()))
    found = Zone.of(mask).within(Roi((10, 5, 35, 25)), image)
    assert found.box == (10, 5, 35, 25)
    assert found.mask is not None
    assert found.mask[5:25, 10:15].all()
    assert found.mask.sum() == 20 * 5
    with pytest.raises(InputError, match="nothing of the region of interest of the image lies in the zone"):
        Zone.of(mask).within(Roi((20, 5, 35, 25)), image)


@pytest.mark.parametrize(
    ("bits", "message"),
    [("%", "bits do not hold a mask: "), ("AAAA", "bits do not hold a mask: "), ("eJwDAAAAAAE=", "bits hold 0 bytes")],
)
def test_damaged_bits_are_refused(bits: str, message: str) -> None:
    """Whatever a header holds, no other mask comes of it."""
    with pytest.raises(ValueError, match=message):
        Zone(width=9, height=9, bits=bits)

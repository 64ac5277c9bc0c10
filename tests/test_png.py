"""PNG files from arrays: what other readers make of them, and the file that is left when the disk is full."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.errors import OutputError
from flawmap.data.synthetic import texture
from flawmap.imaging.png import png
from flawmap.imaging.writing import write_image

SIDES = st.integers(1, 20)


@given(
    st.one_of(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, st.just(3))).flatmap(
        lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 255))
    )
)
def test_other_readers_give_the_array_back(levels: NDArray[np.uint8]) -> None:
    """Pillow, which checks the sums of all chunks, libpng by imagecodecs, and OpenCV: every value, grey or colour."""
    content = png(levels)
    with Image.open(io.BytesIO(content)) as image:
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == ("L" if levels.ndim == 2 else "RGB")
        assert np.array_equal(np.asarray(image), levels)
    assert np.array_equal(imagecodecs.png_decode(content), levels)
    seen = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(seen if levels.ndim == 2 else seen[:, :, ::-1], levels)


def test_arrays_of_any_layout_are_written() -> None:
    """Turned, mirrored and cut ones, as they are seen."""
    levels = np.arange(3 * 40, dtype=np.uint8).reshape(5, 8, 3)
    for given_ in (levels.transpose(1, 0, 2), levels[::-1, ::-1], levels[1:4, 2:5], levels[:, :, 0]):
        assert np.array_equal(imagecodecs.png_decode(png(given_)), given_)


def test_a_photograph_is_no_larger_than_by_pillow(tmp_path: Path) -> None:
    """By a tenth at most, for the same pixels."""
    levels = np.rint(255 * texture("fibres", (300, 200), 0)[:, :, 0]).astype(np.uint8)
    for name, quick in (("quick.png", True), ("plain.png", False)):
        write_image(tmp_path / name, levels, quick=quick)
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(np.asarray(image), levels)
    sizes = [(tmp_path / name).stat().st_size for name in ("quick.png", "plain.png")]
    assert sizes[0] < 1.1 * sizes[1]


def test_truth_values_are_black_and_white(tmp_path: Path) -> None:
    """As they are without haste."""
    mask = np.eye(9, dtype=np.bool_)
    write_image(tmp_path / "mask.png", mask, quick=True)
    with Image.open(tmp_path / "mask.png") as image:
        assert np.array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_a_refused_file_leaves_nothing(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(OutputError, match=r"missing/a\.png cannot be written: No such file or directory"):
        write_image(tmp_path / "missing" / "a.png", np.zeros((4, 4), np.uint8), quick=True)
    assert list(tmp_path.iterdir()) == []

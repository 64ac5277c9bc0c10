"""Files of several pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import page_count, read_header
from flawmap.imaging.reading import opened_image, read_image

AUTO = ImageSettings()
RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (37, 29), dtype=np.uint8)
PAGES = RNG.integers(0, 256, (4, 9, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    "how",
    [
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "compression": "zlib"},
        {"photometric": "minisblack", "bigtiff": True, "byteorder": ">"},
        {"imagej": True},
        {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "truncate": True},
    ],
)
def test_pages(tmp_path: Path, how: dict[str, Any]) -> None:
    """Every page is read by its number, counted from 1, whole and by rows, also where pages share one directory."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PAGES, **how)
    assert page_count(path) == 4
    for page, expected in enumerate(PAGES, start=1):
        header = read_header(path, page=page)
        assert (header.width, header.height) == (8, 9)
        pixels = read_image(path, AUTO, page=page).pixels
        np.testing.assert_array_equal(pixels[:, :, 0], expected.astype(np.float32) / 255)
        with opened_image(path, AUTO, page=page) as image:
            np.testing.assert_array_equal(image.pixels(), pixels)
    with pytest.raises(InputError, match=r"a\.tif has 4 pages, there is no page 5$"):
        read_image(path, AUTO, page=5)


def test_smaller_copies_are_no_pages(tmp_path: Path) -> None:
    """A preview beside the picture does not count; files of other formats have one page."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY[::4, ::4], subfiletype=1, metadata=None)
        file.write(GREY, metadata=None)
    assert page_count(tmp_path / "a.tif") == 1
    assert read_image(tmp_path / "a.tif", AUTO).pixels.shape == (37, 29, 1)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert page_count(tmp_path / "a.png") == 1
    assert read_image(tmp_path / "a.png", AUTO, page=1).pixels.shape == (37, 29, 1)
    with pytest.raises(InputError, match=r"a\.png has 1 page, there is no page 2$"):
        read_image(tmp_path / "a.png", AUTO, page=2)

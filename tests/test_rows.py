"""Rows: buffers, windows, block reductions, resizing, regions across seams, and TIFF files that are read by rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import decode, opened_rows
from flawmap.imaging.morphology import RegionGathering
from flawmap.imaging.reading import opened_image, read_image
from flawmap.imaging.resize import resized, resized_bands
from flawmap.imaging.rows import BlockReduce, RowBuffer, block_counts, map_bands, windows
from flawmap.scoring.borders import border_corrected
from flawmap.scoring.tiling import Grid, Merger, Weights, patch_batches

CUTS = st.lists(st.integers(0, 80), max_size=8)
"""Rows at which an array is cut into bands; equal ones give bands of no rows."""


def blocks_of(array: Any, axis: int, cuts: list[int]) -> list[Any]:
    """An array in bands that end at these rows."""
    height = array.shape[axis]
    ends = [0, *sorted(min(cut, height) for cut in cuts), height]
    before = (slice(None),) * axis
    return [array[(*before, slice(start, stop))] for start, stop in pairwise(ends)]


@given(
    cuts=CUTS,
    grid=st.integers(1, 16).map(lambda stride: Grid(16, stride)),
    size=st.tuples(st.integers(16, 75), st.integers(16, 50)),
    count=st.integers(1, 40),
    held=st.sampled_from([1, 6000, 2**22]),
)
def test_merging_by_rows_is_merging(cuts: list[int], grid: Grid, size: tuple[int, int], count: int, held: int) -> None:
    """Bit for bit, for any number of patches at once; and patches taken by rows lie where the grid says."""
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    batches = list(patch_batches(blocks_of(image, 1, cuts), grid, size, count))
    patches = torch.stack([image[:, y : y + 16, x : x + 16] for y, x in grid.positions(size)])
    assert torch.equal(torch.cat(batches), patches)
    assert max(map(len, batches)) <= count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawmap.scoring.tiling.HELD", held)
        for weights in get_args(Weights):
            merger = Merger(grid, size, weights)
            rows = [merger.add(batch) for batch in batches]
            assert torch.equal(torch.cat(rows, dim=1), Merger(grid, size, weights).add(patches))


def test_rows_leave_before_the_last_patch_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where little is held, every row of patches lets the rows above the next one go."""
    monkeypatch.setattr("flawmap.scoring.tiling.HELD", 1)
    grid, size = Grid(16, 12), (76, 40)
    merger = Merger(grid, size)
    patches = next(patch_batches([torch.rand(1, *size)], grid, size, 100))
    assert [merger.add(row).shape[1] for row in patches.split(3)] == [12, 12, 12, 12, 12, 16]


@given(cuts=CUTS, height=st.integers(1, 60), data=st.data())
def test_a_row_buffer(cuts: list[int], height: int, data: st.DataObject) -> None:
    """Rows are taken in any steps that do not go back."""
    array = np.arange(2 * height).reshape(height, 2)
    buffer, first = RowBuffer(blocks_of(array, 0, cuts)), 0
    for _ in range(6):
        first = data.draw(st.integers(first, height))
        last = data.draw(st.integers(first, height))
        assert np.array_equal(buffer.take(first, last), array[first:last])


def test_a_row_buffer_holds_no_more_than_is_needed() -> None:
    """Rows before the first one asked for are let go, and none is read ahead."""
    asked: list[int] = []

    def rows() -> Iterator[NDArray[Any]]:
        for number in range(100):
            asked.append(number)
            yield np.full((1, 3), number)

    buffer = RowBuffer(rows())
    for first in range(90):
        taken = buffer.take(first, first + 10)
        assert len(asked) == first + 10
        assert taken.base is None or len(taken.base) <= 11, "ten rows, and one that left since"


@given(cuts=CUTS, height=st.integers(1, 60), rows=st.integers(1, 70), margin=st.integers(0, 9))
def test_windows_see_the_array_s_own_border(cuts: list[int], height: int, rows: int, margin: int) -> None:
    """A window sum by bands is that of the whole, cut off at the array's first and last row."""

    def sums(part: NDArray[Any]) -> NDArray[Any]:
        return np.stack([part[max(0, y - margin) : y + margin + 1].sum(axis=0) for y in range(len(part))])

    array = np.random.default_rng(0).integers(0, 99, (height, 3))
    found = np.concatenate(list(map_bands(blocks_of(array, 0, cuts), height, rows, margin, sums)))
    assert np.array_equal(found, sums(array))
    assert sum(window.inner.stop - window.inner.start for window in windows(height, rows, margin)) == height


@given(cuts=CUTS, size=st.tuples(st.integers(1, 30), st.integers(1, 30)), factor=st.integers(1, 9))
def test_blocks_are_reduced_by_bands(cuts: list[int], size: tuple[int, int], factor: int) -> None:
    """Means and truth values of squares, those at the far ends smaller, as from the whole."""
    array, mask = np.random.default_rng(0).random((*size, 3)), np.random.default_rng(1).random(size) > 0.9
    total = BlockReduce(array.shape, factor, np.add, np.float64)
    some = BlockReduce(mask.shape, factor, np.logical_or, np.bool_)
    for reduced, whole in ((total, array), (some, mask)):
        for band in filter(len, blocks_of(whole, 0, cuts)):
            reduced.add(band)
    means = total.values / block_counts(size, factor)[:, :, None]
    assert means.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
    for y, x in np.ndindex(*some.values.shape):
        square = (slice(factor * y, factor * (y + 1)), slice(factor * x, factor * (x + 1)))
        np.testing.assert_allclose(means[y, x], array[square].mean(axis=(0, 1)))
        assert some.values[y, x] == mask[square].any()


@given(cuts=CUTS, channels=st.sampled_from([1, 3]), target=st.tuples(st.integers(1, 150), st.integers(1, 100)))
@example([7], 1, (30, 20)).via("half")
@example([7], 1, (60, 90)).via("as high, wider")
@example([7], 3, (59, 41)).via("a row less")
def test_resizing_by_bands(cuts: list[int], channels: int, target: tuple[int, int]) -> None:
    """By area where a side shrinks, bilinear where it grows, as in one piece."""
    image = np.random.default_rng(0).random((60, 41, channels), np.float32)
    found = np.concatenate(list(resized_bands(blocks_of(image, 0, cuts), (60, 41), target)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, resized(image, target), rtol=0, atol=2e-6)


def test_border_correction_by_bands() -> None:
    """A band is corrected by its rows' distance from the borders of the whole."""
    residual = torch.rand(20, 15)
    whole = border_corrected(residual, (3.0, 2.0, 1.0))
    bands = [border_corrected(residual[top : top + 6], (3.0, 2.0, 1.0), top=top, height=20) for top in range(0, 20, 6)]
    assert torch.equal(torch.cat(bands), whole)


@given(
    mask=st.tuples(st.integers(1, 24), st.integers(1, 16)).flatmap(lambda shape: hnp.arrays(np.bool_, shape)),
    cuts=CUTS,
)
def test_regions_across_seams(mask: NDArray[np.bool_], cuts: list[int]) -> None:
    """Components are those of the whole mask, whatever seams cut them: area, box, centroid, peak, order; the mean."""
    same_regions(mask, np.random.default_rng(7).random(mask.shape, np.float32), cuts)


def same_regions(mask: NDArray[np.bool_], residual: NDArray[np.float32], cuts: list[int]) -> None:
    gathering, at_once = RegionGathering(), RegionGathering()
    for band, values in zip(blocks_of(mask, 0, cuts), blocks_of(residual, 0, cuts), strict=True):
        gathering.add(band, values)
    at_once.add(mask, residual)
    found, whole = gathering.regions(), at_once.regions()
    assert [replace(region, mean=0.0) for region in found] == [replace(region, mean=0.0) for region in whole]
    np.testing.assert_allclose([region.mean for region in found], [region.mean for region in whole], rtol=1e-12)


def test_regions_that_meet_late() -> None:
    """A U, a spiral and a diagonal through single pixels are one region each, by bands of any height."""
    shapes = np.zeros((24, 30), np.bool_)
    shapes[2:20, 2] = shapes[2:20, 6] = shapes[19, 2:7] = True
    shapes[1:22, 10] = shapes[1, 10:22] = shapes[1:20, 21] = shapes[19, 13:22] = shapes[5:20, 13] = True
    shapes[np.arange(3, 23), 29 - np.arange(20) // 4] = True
    shapes[np.arange(20), 23 + np.arange(20) % 2] |= np.arange(20) < 12
    residual = np.random.default_rng(0).random(shapes.shape, np.float32)
    for rows in (1, 2, 3, 5, 8, 24):
        same_regions(shapes, residual, [*range(0, len(shapes), rows)])


# --- files by rows

PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "contiguous": ("uint8", {}),
    "big endian": ("uint16", {"byteorder": ">"}),
    "strips": ("uint8", {"rowsperstrip": 9}),
    "deflated strips": ("uint8", {"rowsperstrip": 9, "compression": "zlib"}),
    "one deflated strip": ("uint8", {"rowsperstrip": 70, "compression": "zlib"}),
    "LZW with a predictor": ("uint16", {"rowsperstrip": 5, "compression": "lzw", "predictor": 2}),
    "tiles": ("uint8", {"tile": (16, 32)}),
    "deflated tiles": ("uint16", {"tile": (32, 16), "compression": "zlib"}),
    "PackBits": ("uint8", {"compression": "packbits", "rowsperstrip": 11}),
    "white is zero": ("uint8", {"photometric": "miniswhite"}),
    "deflated, white is zero": ("uint16", {"photometric": "miniswhite", "compression": "zlib", "rowsperstrip": 8}),
    "float": ("float32", {"compression": "zlib", "predictor": 3, "rowsperstrip": 8}),
    "colour": ("rgb", {"photometric": "rgb"}),
    "planes": ("planes", {"photometric": "rgb", "planarconfig": "separate"}),
    "deflated planes": (
        "planes",
        {"photometric": "rgb", "planarconfig": "separate", "compression": "zlib", "rowsperstrip": 9},
    ),
    "planes in tiles": ("planes", {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)}),
    "colour with alpha": ("rgba", {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (16, 16)}),
    "one bit": ("bool", {"rowsperstrip": 13}),
    "JPEG inside": ("rgb", {"photometric": "ycbcr", "compression": "jpeg", "rowsperstrip": 16}),
    "JPEG tiles": ("uint8", {"compression": "jpeg", "tile": (16, 16)}),
}


def page_of(kind: str) -> NDArray[Any]:
    random = np.random.default_rng(3)
    if kind in ("uint8", "uint16"):
        return random.integers(0, 200 if kind == "uint8" else 3000, (70, 50)).astype(kind)
    if kind == "float32":
        return random.random((70, 50), np.float32)
    if kind == "bool":
        return random.random((70, 50)) > 0.5
    shape = {"rgb": (70, 50, 3), "rgba": (70, 50, 4), "planes": (3, 70, 50)}[kind]
    return random.integers(0, 255, shape).astype(np.uint8)


@pytest.mark.parametrize("rows", [1, 7, 16, 70])
@pytest.mark.parametrize("name", PAGES)
def test_rows_of_a_tiff(name: str, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored values, pixels and notes are those of the file read whole, value for value."""
    kind, options = PAGES[name]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, page_of(kind), **options)
    whole = decode(path, 10_000)
    with opened_rows(path, 10_000) as file:
        parts = [file.read(top, min(top + rows, 70)) for top in range(0, 70, rows)]
    assert np.array_equal(np.concatenate([part.values for part in parts]), whole.values)
    assert {(part.notes, part.full, part.inverted, part.header) for part in parts} == {
        (whole.notes, whole.full, whole.inverted, whole.header)
    }
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 50 * rows)
    for mode in ("auto", "grey", "colour"):
        settings = ImageSettings(mode=mode)  # type: ignore[arg-type]
        with opened_image(path, settings) as image:
            pixels = np.concatenate(list(image.bands()))
        loaded = read_image(path, settings)
        assert image.shape == loaded.pixels.shape
        np.testing.assert_allclose(pixels, loaded.pixels, rtol=0, atol=1e-7)
        assert image.notes == loaded.notes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 9}])
def test_rows_of_a_turned_tiff(orientation: int, options: dict[str, Any], tmp_path: Path) -> None:
    """EXIF orientations are applied to rows too; quarter turns read the file whole."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, page_of("uint8"), extratags=[(274, 3, 1, orientation, False)], **options)
    whole = decode(path, 10_000)
    height = whole.header.height
    with opened_rows(path, 10_000) as file:
        parts = [file.read(top, min(top + 6, height)).values for top in range(0, height, 6)]
    assert np.array_equal(np.concatenate(parts), whole.values)

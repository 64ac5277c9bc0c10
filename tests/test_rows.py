"""Rows: buffers, windows, block reductions, resizing, regions across seams, and TIFF files that are read by rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import decode, opened_rows
from flawmap.imaging.morphology import RegionGathering, find_regions
from flawmap.imaging.reading import opened_image, read_image
from flawmap.imaging.resize import resized_bands, to_working_size
from flawmap.imaging.rows import BlockReduce, RowBuffer, block_counts, map_bands, windows
from flawmap.scoring.borders import border_corrected
from flawmap.scoring.tiling import Grid, Merger, merge, patch_batches, split


def blocks_of(array: Any, axis: int, seed: int) -> list[Any]:
    """An array in bands of random heights, some of them 0."""
    heights, random = array.shape[axis], np.random.default_rng(seed)
    cuts = [0, *sorted(random.integers(0, heights + 1, 6).tolist()), heights]
    before = (slice(None),) * axis
    return [array[(*before, slice(start, stop))] for start, stop in pairwise(cuts)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("held", [1, 6000, 2**22])
def test_merging_by_rows_is_merging(seed: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, for any number of patches at once; and patches taken by rows are those of `split`."""
    monkeypatch.setattr("flawmap.scoring.tiling.HELD", held)
    image = torch.rand(2, 75, 50, generator=torch.Generator().manual_seed(seed))
    grid, count = Grid(16, (5, 7, 16, 12)[seed]), (1, 3, 32, 1000)[seed]
    batches = list(patch_batches(blocks_of(image, 1, seed), grid, (75, 50), count))
    patches = split(image, grid)
    assert torch.equal(torch.cat(batches), patches)
    assert max(map(len, batches)) <= count
    for weights in ("uniform", "hann"):
        merger = Merger(grid, (75, 50), weights)  # type: ignore[arg-type]
        rows = [merger.add(batch) for batch in batches]
        assert torch.equal(torch.cat(rows, dim=1), merge(patches, grid, (75, 50), weights))  # type: ignore[arg-type]
        assert held > 1 or count > 3 or sum(part.shape[1] > 0 for part in rows) > 1


def test_a_row_buffer() -> None:
    """Rows are taken in any steps that do not go back, and are held no longer than needed."""
    array = np.arange(60).reshape(30, 2)
    buffer = RowBuffer(blocks_of(array, 0, 1))
    for first, last in ((0, 4), (0, 9), (3, 9), (8, 20), (20, 20), (19, 30)):
        assert np.array_equal(buffer.take(first, last), array[first:last])


@pytest.mark.parametrize(("rows", "margin"), [(1, 3), (4, 1), (7, 0), (50, 2)])
def test_windows_see_the_array_s_own_border(rows: int, margin: int) -> None:
    """A window sum by bands is that of the whole, cut off at the array's first and last row."""

    def sums(part: NDArray[Any]) -> NDArray[Any]:
        return np.stack([part[max(0, y - margin) : y + margin + 1].sum(axis=0) for y in range(len(part))])

    array = np.random.default_rng(0).integers(0, 99, (30, 3))
    found = np.concatenate(list(map_bands(blocks_of(array, 0, 2), 30, rows, margin, sums)))
    assert np.array_equal(found, sums(array))
    assert sum(window.inner.stop - window.inner.start for window in windows(30, rows, margin)) == 30


def test_blocks_are_reduced_by_bands() -> None:
    """Means and truth values of squares, those at the far ends smaller, as from the whole."""
    array, mask = np.random.default_rng(0).random((23, 17, 3)), np.random.default_rng(1).random((23, 17)) > 0.9
    total, some = BlockReduce(array.shape, 5, np.add, np.float64), BlockReduce(mask.shape, 5, np.logical_or, np.bool_)
    for start, stop in ((0, 3), (3, 4), (4, 15), (15, 23)):
        total.add(array[start:stop])
        some.add(mask[start:stop])
    means = total.values / block_counts((23, 17), 5)[:, :, None]
    assert means.shape == (5, 4, 3)
    for y in range(5):
        for x in range(4):
            square = (slice(5 * y, 5 * y + 5), slice(5 * x, 5 * x + 5))
            np.testing.assert_allclose(means[y, x], array[square].mean(axis=(0, 1)))
            assert some.values[y, x] == mask[square].any()


SIZES = [(60, 41), (30, 20), (20, 41), (59, 40), (61, 90), (150, 41), (7, 100), (200, 5), (1, 1)]


@pytest.mark.parametrize("target", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_by_bands(target: tuple[int, int], channels: int) -> None:
    """By area where a side shrinks, bilinear where it grows, as in one piece."""
    image = np.random.default_rng(0).random((60, 41, channels), np.float32)
    found = np.concatenate(list(resized_bands(blocks_of(image, 0, 3), (60, 41), target)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, to_working_size(image, (target[1], target[0])), rtol=0, atol=2e-6)


def test_border_correction_by_bands() -> None:
    """A band is corrected by its rows' distance from the borders of the whole."""
    residual = torch.rand(20, 15)
    whole = border_corrected(residual, (3.0, 2.0, 1.0))
    bands = [border_corrected(residual[top : top + 6], (3.0, 2.0, 1.0), top=top, height=20) for top in range(0, 20, 6)]
    assert torch.equal(torch.cat(bands), whole)


@pytest.mark.parametrize("density", [0.05, 0.35, 0.5, 0.9])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_regions_across_seams(density: float, rows: int) -> None:
    """Components are those of the whole mask, whatever seams cut them: area, box, centroid, peak, order; the mean."""
    random = np.random.default_rng(7)
    mask, residual = random.random((41, 30)) < density, random.random((41, 30), np.float32)
    same_regions(mask, residual, rows)


def same_regions(mask: NDArray[np.bool_], residual: NDArray[np.float32], rows: int) -> None:
    gathering = RegionGathering()
    for top in range(0, len(mask), rows):
        gathering.add(mask[top : top + rows], residual[top : top + rows])
    found, whole = gathering.regions(), find_regions(mask, residual)
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
        same_regions(shapes, residual, rows)


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

"""Images of any size by bands of rows: the same as in one piece, in memory that does not grow with the height."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import flawmap
from flawmap.commands.inspect_bands import by_bands, inspect_bands, judge_bands
from flawmap.core.errors import InputError, OutputError
from flawmap.core.records import Findings, Inspection
from flawmap.core.settings import ImageSettings
from flawmap.data.synthetic import texture
from flawmap.imaging.bigtiff import TILE, tiled_tiff
from flawmap.imaging.codecs import decode, opened_rows, read_header
from flawmap.imaging.morphology import RegionGathering, find_regions
from flawmap.imaging.reading import opened_image, read_image, read_mask
from flawmap.imaging.resize import resized_bands, to_working_size
from flawmap.imaging.rows import BlockReduce, RowBuffer, block_counts, map_bands, windows
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override, parse
from flawmap.scoring.borders import border_corrected
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, save_artifact
from flawmap.scoring.tiling import Grid, Merger, merge, patch_batches, split

PATCH = 32
ROUNDING = 5e-5  # of SSIM in float32, whose variances cancel by the mean of what is seen at once
Pixels = NDArray[np.float32]


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows in a band, and no image too small for bands."""
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 700)
    monkeypatch.setattr("flawmap.commands.inspect_bands.WHOLE_PIXELS", 0)
    monkeypatch.setattr("flawmap.scoring.tiling.HELD", 20_000)


def stored(width: int = 96, height: int = 130, seed: int = 0, channels: int = 1) -> NDArray[np.uint8]:
    """Fibres with a few spots and a long scratch, 8 bit."""
    image = texture("fibres", (width, height), seed) * np.array([1.0, 0.7, 0.4], np.float32)[:channels]
    random = np.random.default_rng(seed)
    for _ in range(3):
        y, x = random.integers(0, height - 6), random.integers(0, width - 6)
        image[y : y + 6, x : x + 6] = random.random((6, 6, 1)).round()
    image[height // 8 : height * 7 // 8, width // 2 : width // 2 + 5] = random.random((1, 5, 1)).round()
    picture: NDArray[np.uint8] = np.rint(image * 255).astype(np.uint8)
    return picture[:, :, 0] if channels == 1 else picture


def detector_of(*, channels: int = 1, border: tuple[float, ...] | None = None, **changes: Any) -> Detector:
    """A detector whose network blurs; a variational one, untrained but fixed."""
    settings = {
        "model": {"patch": PATCH, "channels": channels}, "method": {"latent": 4},
        "residual": {"ssim": {"size": 7, "constants": "wang"}},
        "tiling": {"stride": 12},
        "training": {"steps": 1, "precision": "float32"},
    }
    config = override(parse(settings), changes)
    torch.manual_seed(0)
    network = build_network(config)
    detector = Detector.of(Artifact(config, network.state_dict(), 0.1, {}, {}), precision="float32", device="cpu")
    if border is not None:
        detector = replace(detector, artifact=replace(detector.artifact, border=border))
    if config.method.name == "vae":
        return detector
    return replace(detector, network=nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False))


def in_one_piece(detector: Detector, path: Path, threshold: float | None = None) -> Inspection:
    """The inspection with the largest of bands, which holds all of a small image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawmap.imaging.rows.BAND_PIXELS", 10**9)
        return detector.inspect(path, threshold=threshold)


def between(values: NDArray[np.float32]) -> float:
    """A threshold that no value is near: the middle of the widest gap in the upper half of them."""
    upper = np.unique(values[values > np.median(values)])
    upper = upper[: max(2, int(len(upper) * 0.98))]
    place = int(np.diff(upper).argmax())
    return float(upper[place : place + 2].astype(np.float64).mean())


class Pieces:
    """The findings by bands, with their maps put together."""

    def __init__(self, detector: Detector, path: Path, threshold: float) -> None:
        masks: list[NDArray[np.bool_]] = []
        residuals: list[NDArray[np.float32]] = []

        def found(mask: NDArray[np.bool_], residual: NDArray[np.float32]) -> None:
            masks.append(mask)
            residuals.append(residual)

        with opened_image(path, detector.config.images) as image:
            self.findings = judge_bands(detector, image, path, threshold=threshold, found=found)
        self.bands = len(masks)
        self.mask, self.residual = np.concatenate(masks), np.concatenate(residuals)


def alike(found: Findings, whole: Inspection) -> None:
    """Numbers agree, those of the residual to float32 rounding."""
    assert (found.verdict, found.threshold, found.notes) == (whole.verdict, whole.threshold, whole.notes)
    assert (found.height, found.width) == whole.mask.shape
    assert found.flawed_pixels == whole.mask.sum()
    assert found.score == pytest.approx(whole.score, abs=ROUNDING)
    assert len(found.regions) == len(whole.regions)
    for ours, theirs in zip(
        *(sorted(one.regions, key=lambda region: region.box) for one in (found, whole)), strict=True
    ):
        assert (ours.area, ours.box) == (theirs.area, theirs.box)
        assert ours.centroid == pytest.approx(theirs.centroid, abs=1e-9)
        assert (ours.peak, ours.mean) == pytest.approx((theirs.peak, theirs.mean), abs=ROUNDING)


CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "half the size": {"images": {"scale": 0.5}},
    "no whole factor": {"images": {"scale": 0.73}},
    "larger": {"images": {"scale": 1.7}},
    "wider and lower": {"images": {"scale": (120, 60)}},
    "smoothed": {"residual": {"smoothing": 2.5}},
    "smoothed far": {"residual": {"smoothing": 12.0}},
    "not opened": {"threshold": {"opening": 0}},
    "opened by an odd circle": {"threshold": {"opening": 5}},
    "opened by a large circle": {"threshold": {"opening": 12}},
    "levelled": {"border": (4.0, 3.0, 2.5, 1.5, 1.0)},
    "a box": {"images": {"roi": {"box": (10, 21, 90, 99)}}},
    "a box at a size": {"images": {"roi": {"box": (10, 21, 90, 99)}, "scale": (72, 100)}},
    "a box at the bottom, levelled": {"images": {"roi": {"box": (0, 80, 96, 130)}}, "border": (2.0, 1.0)},
    "weighted": {"tiling": {"weights": "hann", "stride": 13}},
    "without overlap": {"tiling": {"stride": 32}},
    "residuals averaged": {"tiling": {"average": "residuals"}},
    "squared differences": {"residual": {"name": "l2"}},
    "both": {"residual": {"l2_weight": 3.0}},
    "contrast": {"residual": {"name": "contrast"}},
    "variational": {"method": {"name": "vae"}, "residual": {"name": "probability", "samples": 2}},
    "all at once": {
        "images": {"scale": 0.6, "roi": {"box": (3, 5, 96, 128)}},
        "residual": {"smoothing": 1.5},
        "border": (2.0, 1.5, 1.0),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_bands_find_what_one_piece_finds(name: str, tmp_path: Path) -> None:
    """Residual map, mask, regions, score and verdict, whatever the settings; the scratch runs through many bands."""
    detector = detector_of(**CASES[name])
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored())
    threshold = between(in_one_piece(detector, path).residual)
    whole, pieces = in_one_piece(detector, path, threshold=threshold), Pieces(detector, path, threshold)
    assert pieces.bands > 5
    rounding = 5e-4 if name == "contrast" else ROUNDING  # roots of variances near 0
    np.testing.assert_allclose(pieces.residual, whole.residual, rtol=0, atol=rounding)
    assert np.array_equal(pieces.mask, whole.mask)
    assert whole.mask.any()
    alike(pieces.findings, whole)


def test_colour(tmp_path: Path) -> None:
    """Three channels, and a model that takes grey images in three."""
    for channels, mode in ((3, "auto"), (1, "colour"), (3, "grey")):
        detector = detector_of(channels=1 if mode == "grey" else 3, images={"mode": mode})
        path = tmp_path / "image.tif"
        tifffile.imwrite(path, stored(channels=channels))
        threshold = between(in_one_piece(detector, path).residual)
        whole, pieces = in_one_piece(detector, path, threshold=threshold), Pieces(detector, path, threshold)
        np.testing.assert_allclose(pieces.residual, whole.residual, rtol=0, atol=ROUNDING)
        alike(pieces.findings, whole)


@pytest.mark.parametrize(("width", "height"), [(20, 150), (150, 20), (25, 24), (32, 32)])
def test_images_smaller_than_a_patch_are_padded(width: int, height: int, tmp_path: Path) -> None:
    """In one direction or both, as in one piece."""
    detector = detector_of(tiling={"pad": True}, border=(2.0, 1.0))
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored(150, 150)[:height, :width])
    threshold = between(in_one_piece(detector, path).residual)
    whole, pieces = in_one_piece(detector, path, threshold=threshold), Pieces(detector, path, threshold)
    np.testing.assert_allclose(pieces.residual, whole.residual, rtol=0, atol=ROUNDING)
    alike(pieces.findings, whole)


def test_every_patch_is_reconstructed_once(tmp_path: Path) -> None:
    """As many batches as in one piece, however many bands."""
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            seen.append(len(patches))
            return patches

    detector = replace(detector_of(residual={"smoothing": 2.0}), network=Counting())
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored())
    whole = in_one_piece(detector, path)
    once = list(seen)
    seen.clear()
    assert Pieces(detector, path, 0.1).residual.shape == whole.residual.shape
    assert seen == once


def test_a_large_image_is_compared_by_bands_too(tmp_path: Path) -> None:
    """One that is held whole has its residuals computed band by band, which takes less memory, with the same result."""
    for name in ("as it is", "smoothed", "residuals averaged", "both"):
        detector = detector_of(**CASES[name])
        path = tmp_path / "image.tif"
        tifffile.imwrite(path, stored())
        whole = in_one_piece(detector, path, 0.1)
        np.testing.assert_allclose(detector.inspect(path).residual, whole.residual, rtol=0, atol=ROUNDING)


# --- the parts


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


def test_rolling_rows() -> None:
    """Rows are taken in any steps that do not go back, and are held no longer than needed."""
    array = np.arange(60).reshape(30, 2)
    rolling = RowBuffer(blocks_of(array, 0, 1))
    for first, last in ((0, 4), (0, 9), (3, 9), (8, 20), (20, 20), (19, 30)):
        assert np.array_equal(rolling.take(first, last), array[first:last])


@pytest.mark.parametrize(("rows", "margin"), [(1, 3), (4, 1), (7, 0), (50, 2)])
def test_windows_see_the_array_s_own_border(rows: int, margin: int) -> None:
    """A window sum by bands is that of the whole, cut off at the array's first and last row."""

    def sums(part: NDArray[Any]) -> NDArray[Any]:
        return np.stack([part[max(0, y - margin) : y + margin + 1].sum(axis=0) for y in range(len(part))])

    array = np.random.default_rng(0).integers(0, 99, (30, 3))
    found = np.concatenate(list(map_bands(blocks_of(array, 0, 2), 30, rows, margin, sums)))
    assert np.array_equal(found, sums(array))
    assert sum(window.inner.stop - window.inner.start for window in windows(30, rows, margin)) == 30


def test_shrunk_bands() -> None:
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


def test_levelling_by_bands() -> None:
    """A band is levelled by its rows' distance from the borders of the whole."""
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


def test_a_value_above_4095_in_one_band_ends_the_remark_on_12_bits(tmp_path: Path) -> None:
    """The note speaks of the image, not of its last band."""
    values = page_of("uint16")
    for place in (None, 0, 35, 69):
        if place is not None:
            values = page_of("uint16")
            values[place, 3] = 5000
        tifffile.imwrite(tmp_path / "image.tif", values)
        with opened_image(tmp_path / "image.tif", ImageSettings()) as image:
            assert sum(len(band) for band in image.bands()) == 70
        assert image.notes == read_image(tmp_path / "image.tif", ImageSettings()).notes


def test_a_png_is_read_by_rows_of_the_whole(tmp_path: Path) -> None:
    """PNG, JPEG and BMP are decoded at once and handed out in rows."""
    for suffix in ("png", "jpg", "bmp"):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(stored()).save(path)
        with opened_image(path, ImageSettings()) as image:
            assert np.array_equal(np.concatenate(list(image.bands())), read_image(path, ImageSettings()).pixels)


# --- honest files and bombs


def refused(path: Path, limit: int) -> str:
    with pytest.raises(InputError) as caught, opened_rows(path, limit):
        pass
    return str(caught.value)


def test_what_a_file_stores_tells_a_bomb_from_a_large_file(tmp_path: Path) -> None:
    """Above the limit a TIFF is read if it stores a fiftieth of what it decodes to: uncompressed, or texture."""
    texture_, flat = stored(), np.zeros((130, 96), np.uint8)
    deflated = {"compression": "zlib", "rowsperstrip": 10}
    for name, values, options in (
        ("plain", flat, {}),
        ("texture", texture_, deflated),
        ("one bit", flat > 0, {"rowsperstrip": 10}),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, **options)
        with opened_rows(tmp_path / f"{name}.tif", 1000) as rows:
            assert rows.read(0, 130).values.shape == (130, 96, 1)
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((1300, 96), np.uint8), compression="zlib", rowsperstrip=100)
    with tifffile.TiffFile(path) as tiff:
        bytes_stored = sum(tiff.pages[0].databytecounts)
    assert refused(path, 10_000) == (
        f"{path} has 96 x 1300 = 124,800 pixels, the limit is 10,000, and {bytes_stored:,} bytes that decode to "
        "124,800, more than 50 times as many, as in a decompression bomb; if you trust the file, raise the limit with "
        "--pixel-limit (images.pixel_limit)"
    )
    with opened_rows(path, 124_800):
        pass


def test_strips_that_share_their_bytes_do_not_count_twice(tmp_path: Path) -> None:
    """A file cannot store more than its own size, whatever its table of strips says."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((1300, 96), np.uint8), rowsperstrip=10)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["StripOffsets"]
        first, start = tag.value[0], tag.valueoffset
    short = bytearray(content[: first + 960])
    assert start + 4 * 130 <= first, "the table lies before the picture"
    for place in range(130):
        short[start + 4 * place : start + 4 * place + 4] = first.to_bytes(4, "little")
    path.write_bytes(short)
    assert ", more than 50 times as many" in refused(path, 10_000)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "strip.tif", "turned.tif"])
def test_what_is_decoded_at_once_keeps_to_the_limit(name: str, tmp_path: Path) -> None:
    """A PNG or JPEG, a TIFF of one compressed strip, and one that EXIF turns: however much they store."""
    path = tmp_path / name
    if name.endswith("tif"):
        turned = [(274, 3, 1, 6, False)] if name == "turned.tif" else []
        options = {} if turned else {"compression": "zlib", "rowsperstrip": 130}
        tifffile.imwrite(path, stored(), extratags=turned, **options)
    else:
        Image.fromarray(stored()).save(path)
    size = "130 x 96" if name == "turned.tif" else "96 x 130"
    assert refused(path, 12_479) == (
        f"{path} has {size} = 12,480 pixels, the limit is 12,479; if you trust the file, raise the limit with "
        "--pixel-limit (images.pixel_limit)"
    )


def test_which_images_go_by_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those above the size; with masks or a brightness only those above the pixel limit, and all above that."""
    tifffile.imwrite(tmp_path / "image.tif", stored())  # 12,480 pixels
    header = read_header(tmp_path / "image.tif")
    masks = {"roi": {"masks": str(tmp_path)}}
    for size, limit, images, expected in (
        (12_480, 99_999, {}, False),
        (12_479, 99_999, {}, True),
        (99_999, 12_479, {}, True),
        (99_999, 12_480, {}, False),
        (12_479, 99_999, {"roi": {"box": (0, 0, 9, 9)}}, True),
        (12_479, 99_999, masks, False),
        (12_479, 12_479, masks, True),
    ):
        monkeypatch.setattr("flawmap.commands.inspect_bands.WHOLE_PIXELS", size)
        settings = parse({"images": {"pixel_limit": limit, **images}}).images
        assert by_bands(header, settings) is expected


@pytest.mark.parametrize(
    ("region", "kind"),
    [({"masks": "masks"}, "a folder of masks"), ({"brightness": (0.1, 0.9)}, "a brightness range")],
)
def test_a_huge_image_takes_a_box_or_none(region: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """Masks and brightness would need it whole: the message says what to do."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored())
    with pytest.raises(InputError) as caught:
        Pieces(detector_of(images={"roi": region, "pixel_limit": 5000}), path, 0.1)
    assert str(caught.value) == (
        f"{path} has 96 x 130 = 12,480 pixels and is inspected by bands of rows, where a region of interest is a box "
        f"or everywhere, got {kind}; train with --roi-box or without a region, or cut the image into files of at most "
        "5,000 pixels"
    )


def test_messages_are_those_of_one_piece(tmp_path: Path) -> None:
    """A box outside, another mode, an image below a patch: said alike."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, stored()[:90, :31])
    for changes in ({"images": {"roi": {"box": (0, 0, 40, 90)}}}, {"channels": 3}, {}):
        detector = detector_of(**changes)
        with pytest.raises(InputError) as whole:
            detector.inspect(path)
        with pytest.raises(InputError) as caught:
            Pieces(detector, path, 0.1)
        assert str(caught.value) == str(whole.value)


# --- the files written


def band_of(values: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    return (values[top : top + rows] for top in range(0, len(values), rows))


@pytest.mark.parametrize(("shape", "rows"), [((600, 300), 7), ((256, 512), 256), ((3, 5), 1), ((TILE + 1, TILE), 1000)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_tiled_tiff_holds_its_rows(
    shape: tuple[int, int], rows: int, dtype: type[np.generic], tmp_path: Path
) -> None:
    """Value for value, as a tiled BigTIFF that takes its name at the end."""
    values = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    path = tmp_path / "map.tif"
    with tiled_tiff(path, shape, dtype) as add:
        for band in band_of(values, rows):
            add(band)
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["map.tif"]
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert tiff.is_bigtiff
        assert page.is_tiled
        assert np.array_equal(page.asarray(), values)


@pytest.mark.parametrize("given", [0, 1, 2, 3])
def test_an_exception_leaves_nothing_of_a_tiled_tiff(given: int, tmp_path: Path) -> None:
    """Whenever it comes; an older file stays as it was."""
    path = tmp_path / "map.tif"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), tiled_tiff(path, (900, 20), np.uint8) as add:  # noqa: PT012
        for _ in range(given):
            add(np.zeros((300, 20), np.uint8))
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["map.tif"]
    assert path.read_bytes() == b"older"


def test_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends a tiled TIFF while rows are given, and does not wait for ever."""

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OutputError) as caught, tiled_tiff(tmp_path / "map.tif", (90, 20), np.uint8) as add:  # noqa: PT012
        for _ in range(90):
            add(np.zeros((1, 20), np.uint8))
    assert str(caught.value) == f"{tmp_path / 'map.tif'} cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []


# --- the command


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file, of a network that nobody trained."""
    config = parse({"model": {"patch": PATCH, "channels": 1}, "method": {"latent": 4}, "tiling": {"stride": 16}})
    torch.manual_seed(0)
    path = tmp_path / "m.flawmap"
    save_artifact(Artifact(config, build_network(config).state_dict(), 0.1, {}, {}), path)
    return path


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "inspections.jsonl").read_text(encoding="utf-8").splitlines()]


def test_inspecting_a_huge_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask and residual map as tiled BigTIFF, the overlay scaled down, the lists as ever; a small file beside it."""
    monkeypatch.setattr("flawmap.commands.inspect_bands.OVERLAY_SIDE", 50)
    monkeypatch.setattr("flawmap.commands.inspect_bands.WHOLE_PIXELS", 5000)
    folder, out = tmp_path / "images", tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    tifffile.imwrite(folder / "below" / "huge.tif", stored())
    Image.fromarray(stored(60, 60)).save(folder / "small.png")
    detector = Detector.load(model, device="cpu", precision="float32")
    threshold = between(in_one_piece(detector, folder / "below" / "huge.tif").residual)
    rows = flawmap.inspect(model, [folder], out, threshold=threshold, residuals=True, precision="float32")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "inspections.jsonl",
        "regions.csv",
        "small_mask.png",
        "small_overlay.png",
        "small_residual.tif",
    } | {f"below/huge_{name}" for name in ("mask.tif", "overlay.png", "residual.tif")}
    whole = in_one_piece(detector, folder / "below" / "huge.tif", threshold=threshold)
    for name in ("mask", "residual"):
        with tifffile.TiffFile(out / "below" / f"huge_{name}.tif") as tiff:
            assert tiff.is_bigtiff
            assert tiff.pages[0].is_tiled
    assert np.array_equal(read_mask(out / "below" / "huge_mask.tif", (130, 96)), whole.mask)
    residual = tifffile.imread(out / "below" / "huge_residual.tif")
    assert residual.dtype == np.float32
    np.testing.assert_allclose(residual, whole.residual, rtol=0, atol=ROUNDING)
    record = next(line for line in lines(out) if line["path"].endswith("huge.tif"))
    expected = whole.to_dict()
    assert record.keys() == expected.keys()
    exact = ("path", "width", "height", "threshold", "verdict", "flawed_pixels", "notes")
    assert {key: record[key] for key in exact} == {key: expected[key] for key in exact}
    row = next(row for row in rows if row.path.endswith("huge.tif"))
    assert (row.verdict, row.regions, row.flawed_pixels) == ("flawed", len(whole.regions), int(whole.mask.sum()))
    with Image.open(out / "below" / "huge_overlay.png") as picture:
        assert picture.size == (32, 44)  # a third


def test_an_overlay_shows_every_flaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a flaw is in the scaled-down picture, it is outlined there; without overlays there is none."""
    monkeypatch.setattr("flawmap.commands.inspect_bands.OVERLAY_SIDE", 20)
    detector, path = detector_of(threshold={"opening": 0}), tmp_path / "image.tif"
    values = np.full((130, 96), 128, np.uint8)
    values[60:62, 50:52] = 255
    tifffile.imwrite(path, values)
    threshold = float(in_one_piece(detector, path).residual.max()) * 0.999
    found = inspect_bands(detector, path, tmp_path / "a", threshold=threshold)
    assert 0 < found.flawed_pixels < 49
    with Image.open(tmp_path / "a_overlay.png") as picture:
        colours = np.asarray(picture)
    assert colours.shape == (19, 14, 3)
    assert (colours == (0, 230, 90)).all(axis=2).any()
    inspect_bands(detector, path, tmp_path / "b", threshold=threshold, overlays=False)
    assert not (tmp_path / "b_overlay.png").exists()


def test_a_file_that_is_damaged_in_the_middle_is_listed(model: Path, tmp_path: Path) -> None:
    """The run goes on, and nothing of the damaged one is left."""
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "c"):
        tifffile.imwrite(folder / f"{name}.tif", stored(), compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(folder / "b.tif") as tiff:
        start, count = tiff.pages[0].dataoffsets[7], tiff.pages[0].databytecounts[7]
    content = bytearray((folder / "b.tif").read_bytes())
    content[start : start + count] = b"\xff" * count
    (folder / "b.tif").write_bytes(content)
    values = np.zeros((130, 96), np.float32)
    values[64, 5] = np.nan
    tifffile.imwrite(folder / "d.tif", values)
    rows = flawmap.inspect(model, [folder], out, residuals=True)
    assert [row.verdict == "unreadable" for row in rows] == [False, True, False, True]
    assert rows[1].error is not None
    assert rows[1].error.startswith(f"{folder / 'b.tif'} cannot be read as TIFF, it may be truncated or damaged: ")
    assert rows[3].error == f"{folder / 'd.tif'}, rows 63 to 69, must be finite, got 1 NaN or infinite values of 672"
    assert lines(out)[1] == {"path": str(folder / "b.tif"), "error": rows[1].error}
    expected = {f"{name}_{kind}" for name in ("a", "c") for kind in ("mask.tif", "overlay.png", "residual.tif")}
    assert {path.name for path in out.iterdir()} == expected | {"inspections.jsonl", "regions.csv"}


def test_a_disk_that_fills_up_ends_the_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault of the image: nothing is listed as unreadable, and no part of a file is left."""
    write = tifffile.TiffWriter.write

    def full(self: Any, pieces: Iterator[Any], *args: Any, **options: Any) -> None:
        next(pieces)
        raise OSError(28, "No space left on device")

    path, out = tmp_path / "image.tif", tmp_path / "out"
    tifffile.imwrite(path, stored())
    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OutputError) as caught:
        flawmap.inspect(model, [path], out)
    monkeypatch.setattr(tifffile.TiffWriter, "write", write)
    assert str(caught.value) == f"{out / 'image_mask.tif'} cannot be written: No space left on device"
    assert list(out.iterdir()) == []


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from torch import nn
from dataclasses import replace
from flawmap.commands import inspect_bands
from flawmap.core.overrides import parse
from flawmap.imaging import rows
from flawmap.methods.table import build_network
from flawmap.scoring import tiling
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact

rows.BAND_PIXELS, tiling.HELD = 512 * 64, 2**16
torch.set_num_threads(1)
config = parse({"model": {"patch": 32, "latent": 4, "channels": 1}, "tiling": {"stride": 32},
                "residual": {"smoothing": 2.0}})
detector = Detector.of(Artifact(config, build_network(config).state_dict(), 0.2, {}, {}), device="cpu")
detector = replace(detector, network=nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False))
for path in sys.argv[1:]:
    inspect_bands.inspect_bands(detector, Path(path), Path(path).with_name("found"), residuals=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    """Four times as many rows, 6 million pixels more: less than half of one float32 map of these, 25 MB."""
    paths = [tmp_path / "low.tif", tmp_path / "high.tif"]
    for path, height in zip(paths, (4096, 16384), strict=True):
        values = np.random.default_rng(0).integers(90, 110, (height, 512), np.uint8)
        tifffile.imwrite(path, values, compression="zlib", rowsperstrip=64)
    code = [sys.executable, "-c", MEMORY, *map(str, (paths[0], *paths))]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    _, low, high = (int(line) * unit for line in done.stdout.split())
    assert high - low < 10 * 2**20

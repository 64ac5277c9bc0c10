"""Stored values to images in [0, 1], modes, sizes, masks, and writing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.imaging.reading import (
    ImageRows,
    luma,
    opened_image,
    read_image,
    read_mask,
    to_channels,
    to_unit,
)
from flawmap.imaging.resize import resized, scale_of_part, to_size, working_size
from flawmap.imaging.writing import write_image

AUTO = ImageSettings()
RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (37, 29), dtype=np.uint8)
RGB = RNG.integers(0, 256, (37, 29, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (37, 29), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (37, 29, 3), dtype=np.uint16)
BITS = GREY > 128
ALPHA = GREY[:, :, None]
FLOAT = (GREY / 255).astype(np.float32)

Write = Callable[[Path], Any]


def by_pillow(array: np.ndarray, **how: Any) -> Write:
    return lambda path: Image.fromarray(array).save(path, **how)


def by_tifffile(array: np.ndarray, **how: Any) -> Write:
    return lambda path: tifffile.imwrite(path, array, **how)


def bytes_of(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def palette(array: np.ndarray, colours: np.ndarray, **how: Any) -> Write:
    def write(path: Path) -> None:
        image = Image.fromarray(array)
        image.putpalette(colours.astype(np.uint8).tobytes())
        image.save(path, **how)

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16])
def test_to_unit_ends(dtype: type) -> None:
    """0 and the type's largest value become exactly 0 and 1."""
    pixels = to_unit(np.array([0, np.iinfo(dtype).max], dtype), None).pixels
    assert pixels.dtype == np.float32
    assert pixels.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_to_unit_white(dtype: type) -> None:
    """With a white value, integers and floats are divided by it; those above it become 1 and are counted."""
    scaled = to_unit(np.array([0, 2048, 4096, 5000], dtype), 4096)
    assert scaled.pixels.tolist() == [0, 0.5, 1, 1]
    assert scaled.note.endswith("divided by 4096")
    assert (scaled.white, scaled.clipped) == (4096, 1)
    with pytest.raises(InputError, match=r"^a\.png must hold values from 0 to 4, got 2 of 2 outside .*; shift the"):
        to_unit(np.array([-1, 5], np.float64), 4, name="a.png")


def test_values_above_white_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and by bands, the same number of values is clipped, and said."""
    tifffile.imwrite(tmp_path / "a.tif", DEEP)
    settings = ImageSettings(white=4095)
    image = read_image(tmp_path / "a.tif", settings)
    note = f"{(DEEP > 4095).sum():,} values above white = 4095, clipped"
    assert image.notes == ("16-bit divided by 4095", note)
    monkeypatch.setattr("flawmap.imaging.reading.WHOLE_PIXELS", 1)
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 29 * 5)
    with opened_image(tmp_path / "a.tif", settings) as rows:
        assert len(list(rows.bands())) == 8
        assert rows.notes == image.notes
        np.testing.assert_array_equal(rows.pixels(), image.pixels)
        assert rows.notes == image.notes


def test_an_image_in_memory_and_its_cuts() -> None:
    """An array is one band; a cut has its pixels, keeps path, notes and the size of the whole, and can be cut again."""
    pixels = RNG.random((12, 9, 3), np.float32)
    image = ImageRows((12, 9, 3), lambda: iter([pixels]), path=Path("a.png"), notes=("a note",))
    part = image.cut((2, 3, 8, 11)).cut((1, 0, 6, 5))
    assert (part.shape, part.whole, part.path, part.notes) == ((5, 5, 3), (12, 9), Path("a.png"), ("a note",))
    np.testing.assert_array_equal(part.pixels(), pixels[3:8, 3:8])
    assert len(list(image.bands())) == 1


@pytest.mark.parametrize("alpha", [False, True])
def test_grey_stored_as_colour_is_grey(tmp_path: Path, alpha: bool) -> None:
    """Three equal channels, with an alpha channel or not, become one that is bit-equal to the same image as grey."""
    for name, picture in (
        ("grey.png", GREY),
        ("colour.png", np.dstack([GREY] * 3 + [np.full_like(GREY, 255)] * alpha)),
    ):
        Image.fromarray(picture).save(tmp_path / name)
    grey, colour = (read_image(tmp_path / name, AUTO) for name in ("grey.png", "colour.png"))
    assert (grey.pixels.shape[2], colour.pixels.shape[2]) == (1, 3)
    np.testing.assert_array_equal(to_channels(colour.pixels, 1), grey.pixels)
    np.testing.assert_array_equal(to_channels(grey.pixels, 3), colour.pixels)
    np.testing.assert_array_equal(luma(colour.pixels), grey.pixels[:, :, 0])
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png", ImageSettings(mode="grey")).pixels, grey.pixels)


def test_colours_are_not_grey() -> None:
    """One pixel of colour makes a colour image, which a model of grey images refuses."""
    pixels = np.full((4, 5, 3), 0.5, np.float32)
    pixels[2, 3, 1] = np.nextafter(np.float32(0.5), np.float32(1))
    assert to_channels(pixels, 3) is pixels
    message = (
        "^this model was trained on grey images, got a colour one; convert the image, or train with --mode grey so "
        "that every image is converted$"
    )
    with pytest.raises(InputError, match=message):
        to_channels(pixels, 1)


def test_modes(tmp_path: Path) -> None:
    """Grey is Rec. 601 luma of colour, colour is grey three times, and what fits already is left alone."""
    write_image(tmp_path / "rgb.png", RGB)
    write_image(tmp_path / "grey.png", GREY)
    grey = read_image(tmp_path / "rgb.png", ImageSettings(mode="grey"))
    np.testing.assert_allclose(grey.pixels[:, :, 0], RGB / 255 @ [0.299, 0.587, 0.114], atol=1e-6)
    assert grey.notes == ("colour converted to grey",)
    colour = read_image(tmp_path / "grey.png", ImageSettings(mode="colour"))
    np.testing.assert_array_equal(colour.pixels, np.repeat(GREY[:, :, None], 3, axis=2).astype(np.float32) / 255)
    assert colour.notes == ("grey repeated to three channels",)
    assert read_image(tmp_path / "grey.png", ImageSettings(mode="grey")).notes == ()
    assert read_image(tmp_path / "rgb.png", ImageSettings(mode="colour")).notes == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_worked_sizes_range_and_mean(channels: int) -> None:
    """Any scale gives its size, keeps channels, stays in the image's range, and keeps constants."""
    image = RNG.random((40, 60, channels), dtype=np.float32)
    for scale, shape in ((1.0, (40, 60)), (0.5, (20, 30)), (2.0, (80, 120)), ((7, 90), (90, 7)), (0.01, (1, 1))):
        assert working_size(40, 60, scale) == shape
        small = resized(image, shape)
        assert small.shape == (*shape, channels)
        assert small.dtype == np.float32
        assert image.min() <= small.min() <= small.max() <= image.max()
        flat = resized(np.full_like(image, 0.3), shape)
        np.testing.assert_allclose(flat, 0.3, atol=1e-6)
    assert resized(image, (40, 60)) is image


def test_worked_averages_areas() -> None:
    """Shrinking takes means of whole blocks, also where the other side grows."""
    image = RNG.random((40, 60, 1), dtype=np.float32)
    blocks = image.reshape(10, 4, 20, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resized(image, (10, 20))[:, :, 0], blocks, atol=1e-6)
    rows = image.reshape(10, 4, 60).mean(axis=1)
    grown = cv2.resize(rows, (90, 10), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized(image, (10, 90))[:, :, 0], grown, atol=1e-6)


def test_part_scale() -> None:
    """A half of an image worked at a fixed size has half of that size; a factor is a factor."""
    assert scale_of_part((100, 50), (200, 400), (100, 400)) == (100, 25)
    assert scale_of_part(0.5, (200, 400), (100, 400)) == 0.5


def test_to_size_brings_a_map_back() -> None:
    """A map comes back float32 in the image's size; a linear ramp stays linear inside."""
    ramp = np.tile(np.arange(10, dtype=np.float32), (6, 1))
    back = to_size(ramp, (12, 20))
    assert back.shape == (12, 20)
    assert back.dtype == np.float32
    np.testing.assert_allclose(np.diff(back[5, 1:-1]), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("ones.png", BITS.astype(np.uint8)),
        ("full.png", BITS.astype(np.uint8) * 255),
        ("bits.png", BITS),
        ("deep.png", BITS.astype(np.uint16) * 4095),
        ("classes.png", np.where(BITS, np.arange(29, dtype=np.uint8) + 1, 0).astype(np.uint8)),
        ("red.png", BITS[:, :, None] * np.uint8([200, 0, 0])),
        ("clear.png", BITS[:, :, None] * np.uint8([200, 0, 0, 0]) + np.uint8([0, 0, 0, 255])),
        ("lossless.webp", np.dstack([BITS.astype(np.uint8)] * 3)),
        ("ones.pgm", BITS.astype(np.uint8)),
    ],
)
def test_masks_read_alike(tmp_path: Path, name: str, stored: np.ndarray) -> None:
    """0/1, 0/255, 1-bit, 16-bit, coloured masks and those of several classes mean the same: above 0 is True."""
    how = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(stored).save(tmp_path / name, format="PPM" if name.endswith("pgm") else None, **how)
    mask = read_mask(tmp_path / name, BITS.shape)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, BITS)


def test_a_palette_mask_counts_by_its_colours(tmp_path: Path) -> None:
    """A pixel whose palette colour is black is no flaw, whatever its number."""
    image = Image.fromarray(np.uint8([[0, 1, 2]]))
    image.putpalette([9, 9, 9, 0, 0, 0, 0, 0, 1])
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[True, False, True]]


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.jp2", "a.tif"])
def test_lossy_masks_are_cut_in_the_middle_of_the_range(tmp_path: Path, name: str) -> None:
    """A lossy black is not quite 0: noise near it is no flaw, and a mask of noise alone is empty."""
    noise = np.kron(RNG.integers(0, 4, (8, 8), dtype=np.uint8), np.ones((4, 4), np.uint8))
    drawn = noise.copy()
    drawn[8:24, 8:24] = 250
    for picture in (noise, drawn):
        if name == "a.tif":
            tifffile.imwrite(tmp_path / name, picture, compression="jpeg")
        else:
            Image.fromarray(np.dstack([picture] * 3)).save(
                tmp_path / name, **({} if name == "a.jp2" else {"quality": 95})
            )
        np.testing.assert_array_equal(read_mask(tmp_path / name), picture > 127)


def test_float_masks(tmp_path: Path) -> None:
    """Above 0 is True; NaN is refused."""
    tifffile.imwrite(tmp_path / "a.tif", np.float32([[0, 0.1, -1]]))
    assert read_mask(tmp_path / "a.tif").tolist() == [[False, True, False]]
    tifffile.imwrite(tmp_path / "a.tif", np.float32([[0, np.nan]]))
    with pytest.raises(InputError, match="must be finite, got 1 NaN"):
        read_mask(tmp_path / "a.tif")


def test_mask_by_tifffile_is_not_inverted(tmp_path: Path) -> None:
    """Truth values written by tifffile, which calls zero white, come back as they were."""
    tifffile.imwrite(tmp_path / "a.tif", BITS)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), BITS)


def test_empty_mask(tmp_path: Path) -> None:
    """Zeros alone are no flaw."""
    write_image(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    assert not read_mask(tmp_path / "a.png").any()


def test_mask_of_another_size(tmp_path: Path) -> None:
    """The error names both sizes, width first."""
    write_image(tmp_path / "a.png", BITS)
    with pytest.raises(InputError, match=r"a\.png is 29 x 37, its image 30 x 37; a mask has its image's size$"):
        read_mask(tmp_path / "a.png", (37, 30))


def test_write_and_read_again(tmp_path: Path) -> None:
    """What is written comes back value for value: 8-bit grey and colour, masks, float maps."""
    for name, array in (("g.png", GREY), ("c.png", RGB), ("one.png", GREY[:, :, None])):
        write_image(tmp_path / name, array)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), array.squeeze())
    write_image(tmp_path / "m.png", BITS)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", BITS.shape), BITS)
    residual = RNG.normal(size=(50, 40)).astype(np.float32)
    write_image(tmp_path / "r.tif", residual)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "r.tif"), residual)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "r.tif"), cv2.IMREAD_UNCHANGED), residual)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "g.png", "m.png", "one.png", "r.tif"]


def test_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in the middle of writing the old file is whole and no part is left."""
    write_image(tmp_path / "a.png", GREY)

    def half(_: Image.Image, path: Path, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(InputError, match=r"a\.png cannot be written: No space left on device"):
        write_image(tmp_path / "a.png", 255 - GREY)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", AUTO).pixels[:, :, 0], GREY.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a.jpg", GREY, r"uint8 is written as \.png, got \.jpg"),
        ("a.png", FLOAT, r"float32 is written as \.tif or \.tiff, got \.png"),
        ("a", GREY, r"uint8 is written as \.png, got no suffix"),
        ("a.tif", np.float32([[np.nan]]), "must be finite, got 1 NaN or infinite values of 1"),
        ("a.png", DEEP, r"uint8 \(H, W\) or \(H, W, 3\), bool .* can be written, got uint16 \(37, 29\)"),
    ],
)
def test_write_refuses(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    """Types without a format, other suffixes and NaN are refused before anything is written."""
    with pytest.raises(InputError, match=message):
        write_image(tmp_path / name, array)
    assert list(tmp_path.iterdir()) == []


def test_real_images(real_data: Path) -> None:
    """Real microscope images and masks read as Pillow reads them."""
    path = real_data / "nanotwice" / "Anomalous" / "images" / "ITIA1101.tif"
    image = read_image(path, AUTO)
    assert image.pixels.shape == (696, 1024, 1)
    assert image.notes == ()
    np.testing.assert_array_equal(image.pixels[:, :, 0], np.asarray(Image.open(path), dtype=np.float32) / 255)
    truth = real_data / "nanotwice" / "Anomalous" / "gt" / "ITIA1101_gt.png"
    np.testing.assert_array_equal(read_mask(truth, (696, 1024)), np.asarray(Image.open(truth)))

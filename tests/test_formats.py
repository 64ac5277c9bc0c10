"""Every file format that is read, to [0, 1]."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import opened_image, read_image

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


def by_jpeg2000(array: np.ndarray, **how: Any) -> Write:
    def write(path: Path) -> None:
        form = path.suffix[1:]
        path.write_bytes(imagecodecs.jpeg2k_encode(array, level=0, reversible=True, codecformat=form, **how))

    return write


def palette(array: np.ndarray, colours: np.ndarray, **how: Any) -> Write:
    def write(path: Path) -> None:
        image = Image.fromarray(array)
        image.putpalette(colours.astype(np.uint8).tobytes())
        image.save(path, **how)

    return write


COLOURS = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
GREYS = np.arange(256)[::-1, None].repeat(3, axis=1)
UNASSOCIATED = {"extrasamples": ["unassalpha"], "planarconfig": "contig"}

# name, writer, expected values in [0, 1], stored type, notes
FORMATS: list[tuple[str, Write, np.ndarray, str, tuple[str, ...]]] = [
    ("grey.png", by_pillow(GREY), GREY / 255, "uint8", ()),
    ("rgb.png", by_pillow(RGB), RGB / 255, "uint8", ()),
    ("grey_alpha.png", by_pillow(np.dstack([GREY, GREY])), GREY / 255, "uint8", ("alpha dropped",)),
    ("rgba.png", by_pillow(np.dstack([RGB, ALPHA])), RGB / 255, "uint8", ("alpha dropped",)),
    ("bits.png", by_pillow(BITS), BITS, "bool", ("1-bit, 0 or 1",)),
    ("palette.png", palette(GREY, COLOURS), COLOURS[GREY] / 255, "uint8", ("palette expanded",)),
    ("greys.png", palette(GREY, GREYS), 1 - GREY / 255, "uint8", ("palette expanded",)),
    (
        "clear.png",
        palette(GREY, COLOURS, transparency=bytes(range(256))),
        COLOURS[GREY] / 255,
        "uint8",
        ("palette expanded", "alpha dropped"),
    ),
    ("deep.png", by_pillow(DEEP), DEEP / 65535, "uint16", ("16-bit divided by 65535",)),
    (
        "deep_alpha.png",
        bytes_of(imagecodecs.png_encode(np.dstack([DEEP, DEEP]))),
        DEEP / 65535,
        "uint16",
        ("alpha dropped", "16-bit divided by 65535"),
    ),
    (
        "deep_rgb.png",
        lambda p: cv2.imwrite(str(p), DEEP_RGB[:, :, ::-1]),
        DEEP_RGB / 65535,
        "uint16",
        ("16-bit divided by 65535",),
    ),
    ("grey.bmp", by_pillow(GREY), GREY / 255, "uint8", ()),
    ("rgb.bmp", by_pillow(RGB), RGB / 255, "uint8", ()),
    ("bits.bmp", by_pillow(BITS), BITS, "bool", ("1-bit, 0 or 1",)),
    ("palette.bmp", palette(GREY, COLOURS), COLOURS[GREY] / 255, "uint8", ("palette expanded",)),
    ("grey.tif", by_tifffile(GREY), GREY / 255, "uint8", ()),
    ("lzw.tif", by_tifffile(DEEP, compression="lzw"), DEEP / 65535, "uint16", ("16-bit divided by 65535",)),
    ("deflate.tif", by_tifffile(RGB, compression="zlib", predictor=True, photometric="rgb"), RGB / 255, "uint8", ()),
    (
        "packbits.tif",
        by_tifffile(RGB, compression="packbits", photometric="rgb", rowsperstrip=5),
        RGB / 255,
        "uint8",
        (),
    ),
    (
        "tiled.tif",
        by_tifffile(DEEP_RGB, tile=(16, 16), compression="lzw", photometric="rgb"),
        DEEP_RGB / 65535,
        "uint16",
        ("16-bit divided by 65535",),
    ),
    (
        "planar.tif",
        by_tifffile(np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate"),
        RGB / 255,
        "uint8",
        (),
    ),
    (
        "inverted.tif",
        by_tifffile(GREY, photometric="miniswhite"),
        1 - GREY / 255,
        "uint8",
        ("white is zero, inverted",),
    ),
    (
        "palette.tif",
        by_tifffile(GREY, photometric="palette", colormap=COLOURS.T.astype(np.uint16) * 257),
        COLOURS[GREY] / 255,
        "uint8",
        ("palette expanded",),
    ),
    ("pillow_palette.tif", palette(GREY, COLOURS), COLOURS[GREY] / 255, "uint8", ("palette expanded",)),
    ("fax.tif", by_pillow(BITS, compression="group4"), BITS, "bool", ("1-bit, 0 or 1",)),
    (
        "bits.tif",
        by_tifffile(BITS, photometric="miniswhite"),
        ~BITS,
        "bool",
        ("white is zero, inverted", "1-bit, 0 or 1"),
    ),
    ("float.tif", by_tifffile(FLOAT, compression="zlib"), FLOAT, "float32", ("float32 taken as it is",)),
    ("double.tif", by_tifffile(GREY / 255), FLOAT, "float64", ("float64 taken as it is",)),
    (
        "half.tif",
        by_tifffile(FLOAT.astype(np.float16)),
        FLOAT.astype(np.float16),
        "float16",
        ("float16 taken as it is",),
    ),
    ("big_endian.tif", by_tifffile(DEEP, byteorder=">"), DEEP / 65535, "uint16", ("16-bit divided by 65535",)),
    ("big.tif", by_tifffile(GREY, bigtiff=True), GREY / 255, "uint8", ()),
    (
        "wide.tif",
        by_tifffile(GREY.astype(np.uint32) * 16843009),
        GREY / 255,
        "uint32",
        ("32-bit divided by 4294967295",),
    ),
    (
        "signed.tif",
        by_tifffile(GREY.astype(np.int16) * 128),
        GREY * 128.0 / 32767,
        "int16",
        ("16-bit divided by 32767",),
    ),
    (
        "rgba.tif",
        by_tifffile(np.dstack([RGB, ALPHA]), photometric="rgb", **UNASSOCIATED),
        RGB / 255,
        "uint8",
        ("alpha dropped",),
    ),
    (
        "grey_alpha.tif",
        by_tifffile(np.dstack([GREY, GREY]), photometric="minisblack", **UNASSOCIATED),
        GREY / 255,
        "uint8",
        ("alpha dropped",),
    ),
    (
        "turned.tif",
        by_tifffile(GREY, extratags=[(274, 3, 1, 6, True)]),
        np.rot90(GREY, -1) / 255,
        "uint8",
        ("EXIF rotation applied",),
    ),
    ("lossless.webp", by_pillow(RGB, lossless=True), RGB / 255, "uint8", ()),
    (
        "alpha.webp",
        by_pillow(np.dstack([RGB, ALPHA]), lossless=True, exact=True),
        RGB / 255,
        "uint8",
        ("alpha dropped",),
    ),
    ("grey.jp2", by_jpeg2000(GREY), GREY / 255, "uint8", ()),
    ("rgb.jp2", by_jpeg2000(RGB), RGB / 255, "uint8", ()),
    ("alpha.jp2", by_pillow(np.dstack([RGB, ALPHA])), RGB / 255, "uint8", ("alpha dropped",)),
    ("deep.j2k", by_jpeg2000(DEEP), DEEP / 65535, "uint16", ("16-bit divided by 65535",)),
    ("twelve.j2k", by_jpeg2000(DEEP >> 4, bitspersample=12), (DEEP >> 4) / 4095, "uint16", ("12-bit divided by 4095",)),
    ("grey.pgm", by_pillow(GREY), GREY / 255, "uint8", ()),
    ("rgb.ppm", by_pillow(RGB), RGB / 255, "uint8", ()),
    (
        "deep.ppm",
        bytes_of(b"P6\n# a camera\n29 37\n65535\n" + DEEP_RGB.astype(">u2").tobytes()),
        DEEP_RGB / 65535,
        "uint16",
        ("16-bit divided by 65535",),
    ),
    (
        "twelve.pgm",
        bytes_of(b"P5 29 37 4095\n" + (DEEP >> 4).astype(">u2").tobytes()),
        (DEEP >> 4) / 4095,
        "uint16",
        ("12-bit divided by 4095",),
    ),
    ("odd.pgm", bytes_of(b"P5 2 1 100\n\x00\x64"), np.float32([[0, 1]]), "uint8", ("7-bit divided by 100",)),
    ("text.pgm", bytes_of(b"P2 2 2 9\n0 9 3\n 6"), np.float32([[0, 9], [3, 6]]) / 9, "uint8", ("4-bit divided by 9",)),
    ("text.ppm", bytes_of(b"P3 1 2 255 0 9 3 6 5 4"), np.float32([[[0, 9, 3]], [[6, 5, 4]]]) / 255, "uint8", ()),
    (
        "camera.tif",
        by_tifffile(DEEP >> 4, extratags=[(281, 3, 1, 4095, True)]),
        (DEEP >> 4) / 4095,
        "uint16",
        ("12-bit divided by 4095",),
    ),
    ("statistics.tif", by_tifffile(GREY, extratags=[(281, 3, 1, int(GREY.max()), True)]), GREY / 255, "uint8", ()),
    ("one_pixel.tif", by_tifffile(GREY[:1, :1]), GREY[:1, :1] / 255, "uint8", ()),
    ("misnamed.png", by_pillow(GREY, format="BMP"), GREY / 255, "uint8", ()),
]


@pytest.mark.parametrize(("name", "write", "expected", "stored", "notes"), FORMATS, ids=[case[0] for case in FORMATS])
def test_formats(  # noqa: PLR0917
    tmp_path: Path, name: str, write: Write, expected: np.ndarray, stored: str, notes: tuple[str, ...]
) -> None:
    """Values come out as written, to float32 rounding, with the notes; the header agrees with the pixels."""
    path = tmp_path / name
    write(path)
    image, header = read_image(path, AUTO), read_header(path)
    expected = expected[:, :, None] if expected.ndim == 2 else expected
    assert image.pixels.dtype == np.float32
    assert image.pixels.flags.c_contiguous
    np.testing.assert_allclose(image.pixels, expected, rtol=0, atol=6e-8)
    assert image.notes == notes
    assert header.stored == stored
    assert (header.height, header.width, header.channels) == image.pixels.shape


@pytest.mark.parametrize("case", FORMATS, ids=lambda case: case[0])
def test_a_file_s_bytes_are_that_file(tmp_path: Path, case: tuple[str, Write, Any, Any, Any]) -> None:
    """Every value and note; cut in the middle, they are refused as the file is, by the name that is given."""
    path = tmp_path / case[0]
    case[1](path)
    content, as_file = path.read_bytes(), read_image(path, AUTO)
    with opened_image(content, AUTO) as image:
        assert np.array_equal(image.pixels(), as_file.pixels)
        assert (image.notes, image.path) == (as_file.notes, None)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as torn:
        read_image(path, AUTO)
    for given, name in ((path, path), (Path("camera/7"), "camera/7"), (None, "the image")):
        with pytest.raises(InputError) as caught, opened_image(path.read_bytes(), AUTO, path=given) as image:
            image.pixels()
        assert str(caught.value) == str(torn.value).replace(str(path), str(name))


@pytest.mark.parametrize("array", [GREY, RGB])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_formats(tmp_path: Path, name: str, array: np.ndarray) -> None:
    """JPEG and WebP are read as Pillow decodes them; grey JPEG is grey, WebP has three channels always."""
    path = tmp_path / name
    Image.fromarray(array).save(path, quality=95)
    assert read_header(path).lossy
    expected = np.asarray(Image.open(path), dtype=np.float32) / 255
    np.testing.assert_array_equal(read_image(path, AUTO).pixels.squeeze(), expected)


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tif"])
def test_cmyk_is_converted_and_said(tmp_path: Path, name: str) -> None:
    """Inks become light, (1 - c)(1 - k), and a note says that no profile was used."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0], inks[:, 8:, 3] = 255, 51  # cyan above; a fifth of black at the right
    Image.merge("CMYK", [Image.fromarray(inks[:, :, ink]) for ink in range(4)]).save(tmp_path / name)
    image = read_image(tmp_path / name, AUTO)
    assert image.notes == ("CMYK converted to RGB without a colour profile",)
    np.testing.assert_allclose(image.pixels[3, 3], (0, 1, 1), atol=0.03)
    np.testing.assert_allclose(image.pixels[12, 12], (0.8, 0.8, 0.8), atol=0.03)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """All eight orientations are undone as Pillow undoes them in a PNG, and the header has the upright size."""
    picture = np.kron(RNG.integers(0, 256, (3, 5), dtype=np.uint8), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    how = {"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": exif, "lossless": True}
    Image.fromarray(picture).save(path, **how)
    image = read_image(path, AUTO)
    twin = tmp_path / "twin.png"
    Image.fromarray(picture).save(twin, exif=exif)
    with Image.open(twin) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened), dtype=np.float32) / 255
    if suffix == "jpg":
        assert np.abs(image.pixels[:, :, 0] - expected).mean() < 0.02
    else:
        np.testing.assert_array_equal(image.pixels[:, :, 0], expected)
    assert ("EXIF rotation applied" in image.notes) == (orientation > 1)
    header = read_header(path)
    assert (header.height, header.width) == expected.shape


def test_damaged_exif_is_said(tmp_path: Path) -> None:
    """An EXIF block that cannot be parsed is left out with a note."""
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09broken")
    assert read_image(tmp_path / "a.jpg", AUTO).notes == ("damaged EXIF ignored",)


def test_twelve_bit_tiff(tmp_path: Path) -> None:
    """Samples of fewer bits than their type are divided by what their bits can hold."""
    values = RNG.integers(0, 4096, (8, 10), dtype=np.uint16)
    bits = ((values[:, :, None] >> np.arange(12)[::-1]) & 1).astype(np.uint8)
    packed = np.packbits(bits.reshape(8, -1), axis=1).tobytes()
    _bare_tiff(tmp_path / "a.tif", (10, 8), 12, packed)
    image = read_image(tmp_path / "a.tif", AUTO)
    np.testing.assert_allclose(image.pixels[:, :, 0], values / 4095, atol=6e-8)
    assert image.notes == ("12-bit divided by 4095",)


def test_one_bit_palette_tiff(tmp_path: Path) -> None:
    """Two colours are chosen between by single bits."""
    bits = RNG.integers(0, 2, (6, 16), dtype=np.uint8)
    colours = np.uint16([[255, 10, 20], [30, 200, 40]]) * 257
    _bare_tiff(tmp_path / "a.tif", (16, 6), 1, np.packbits(bits, axis=1).tobytes(), colours=colours)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif", AUTO).pixels, colours[bits] / 65535, atol=6e-8)


def _bare_tiff(
    path: Path, size: tuple[int, int], bits: int, data: bytes, *, offset: int = 0, colours: np.ndarray | None = None
) -> None:
    """A little-endian TIFF of one uncompressed strip. offset: where it says that the strip lies; 0: the truth."""
    width, height = size
    table = b"" if colours is None else colours.T.astype("<u2").tobytes()
    count = 9 + bool(table)
    start = 8 + 2 + 12 * count + 4
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 4, 1, bits),
        (259, 4, 1, 1),
        (262, 4, 1, 3 if table else 1),
    ]
    entries += [(273, 4, 1, offset or start + len(table)), (277, 4, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data))]
    if table:
        entries.append((320, 3, len(table) // 2, start))
    directory = struct.pack("<H", count) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + b"\0\0\0\0" + table + data)


@pytest.mark.parametrize("case", [c for c in FORMATS if c[0] != "bits.tif"][::2], ids=lambda case: case[0])
def test_truncated_files_never_pass_for_whole(tmp_path: Path, case: tuple[str, Write, Any, Any, Any]) -> None:
    """A file cut anywhere is refused, or, where only its trailer is gone, read without a changed pixel."""
    name, write = case[:2]
    write(tmp_path / name)
    whole, data = read_image(tmp_path / name, AUTO).pixels, (tmp_path / name).read_bytes()
    reasons = []
    for length in {*range(0, len(data), max(1, len(data) // 12)), *range(len(data) - 6, len(data))}:
        (tmp_path / name).write_bytes(data[:length])
        if name.startswith("text.") and length == len(data) - 1:
            continue  # the last digit's loss is a shorter number
        try:
            np.testing.assert_array_equal(read_image(tmp_path / name, AUTO).pixels, whole)
        except InputError as error:
            reasons.append(str(error))
    assert len(reasons) >= 12
    assert all(str(tmp_path / name) in reason for reason in reasons)


def test_sparse_and_truncated_tiff_are_refused(tmp_path: Path) -> None:
    """Strips that are not in the file are no black pixels."""
    _bare_tiff(tmp_path / "beyond.tif", (8, 8), 8, bytes(64), offset=5000)
    _bare_tiff(tmp_path / "whole.tif", (8, 8), 8, bytes(64))
    assert read_image(tmp_path / "whole.tif", AUTO).pixels.max() == 0
    (tmp_path / "short.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:-1])
    for name in ("short.tif", "beyond.tif"):
        with pytest.raises(
            InputError, match=f"{name} is truncated or sparse: parts of its picture are not in the file"
        ):
            read_image(tmp_path / name, AUTO)

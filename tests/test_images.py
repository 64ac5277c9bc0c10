"""Every supported file format to [0, 1] and back, and what is refused."""

import re
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from flawmap.data.finding import find_images
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import read_image, read_mask, to_unit
from flawmap.imaging.resize import scale_of_part, to_size, to_working_size
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
    assert image.stored == header.stored == stored
    assert (header.height, header.width, header.channels) == image.pixels.shape


@pytest.mark.parametrize(("name", "array"), [("grey.jpg", GREY), ("rgb.jpg", RGB)])
def test_jpeg(tmp_path: Path, name: str, array: np.ndarray) -> None:
    """JPEG is read as Pillow decodes it, grey as grey."""
    Image.fromarray(array).save(tmp_path / name, quality=95)
    pixels = read_image(tmp_path / name, AUTO).pixels
    np.testing.assert_array_equal(pixels.squeeze(), np.asarray(Image.open(tmp_path / name), dtype=np.float32) / 255)


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
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """All eight orientations are undone as Pillow undoes them in a PNG, and the header has the upright size."""
    picture = np.kron(RNG.integers(0, 256, (3, 5), dtype=np.uint8), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture).save(path, **({"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": exif}))
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


REFUSED: list[tuple[str, Write, str]] = [
    (
        "text.png",
        bytes_of(b"hello, world"),
        "is no known image, whatever its name says; convert it to PNG, TIFF, JPEG or BMP",
    ),
    ("web.png", by_pillow(RGB, format="WEBP"), "is a WebP file, whatever its name says; convert it"),
    ("empty.png", bytes_of(b""), r"is empty \(0 bytes\)"),
    (
        "pages.tif",
        by_tifffile(np.zeros((4, 9, 8), np.uint8), photometric="minisblack"),
        "has 4 pages, an image has one; save each",
    ),
    ("stack.tif", by_tifffile(np.zeros((5, 9, 8), np.uint8), imagej=True), "has 5 pages, an image has one"),
    (
        "nan.tif",
        by_tifffile(np.where(BITS, np.nan, FLOAT)),
        rf"must be finite, got {BITS.sum()} NaN or infinite values of 1073",
    ),
    (
        "bright.tif",
        by_tifffile(np.float32([[0, 300], [4000, 1]])),
        r"must hold values from 0 to 1, got 2 of 4 outside \(from 0 to 4000\); say with --white \(images.white\) which",
    ),
    (
        "negative.tif",
        by_tifffile(np.int16([[-3, 5]])),
        r"must hold values from 0 to 32767, got 1 of 2 outside \(from -3 to 5\); shift the values so that none",
    ),
    (
        "two.tif",
        by_tifffile(np.dstack([GREY, GREY]), photometric="minisblack", planarconfig="contig"),
        r"has 2 values per pixel \(grey\)",
    ),
    ("lab.tif", by_tifffile(RGB, photometric="cielab"), "has the colour model CIELAB; save it as grey or RGB"),
    ("complex.tif", by_tifffile(np.zeros((9, 8), np.complex64)), "holds values of an unsupported type"),
    (
        "moving.png",
        lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        "is an animation of 2 frames; save the one you need",
    ),
]


@pytest.mark.parametrize(("name", "write", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_refused(tmp_path: Path, name: str, write: Write, message: str) -> None:
    """What cannot be read right is an InputError that starts with the path and says what to do."""
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path / name))} {message}"):
        read_image(tmp_path / name, AUTO)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """Neither is an image."""
    with pytest.raises(InputError, match=r"^no such file: .*x\.png$"):
        read_image(tmp_path / "x.png", AUTO)
    with pytest.raises(InputError, match=r"is a folder, an image file is needed$"):
        read_header(tmp_path)


@pytest.mark.parametrize("case", [c for c in FORMATS if c[0] != "bits.tif"][::2], ids=lambda case: case[0])
def test_truncated_files_never_pass_for_whole(tmp_path: Path, case: tuple[str, Write, Any, Any, Any]) -> None:
    """A file cut anywhere is refused, or, where only its trailer is gone, read without a changed pixel."""
    name, write = case[:2]
    write(tmp_path / name)
    whole, data = read_image(tmp_path / name, AUTO).pixels, (tmp_path / name).read_bytes()
    reasons = []
    for length in {*range(0, len(data), max(1, len(data) // 12)), *range(len(data) - 6, len(data))}:
        (tmp_path / name).write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read_image(tmp_path / name, AUTO).pixels, whole)
        except InputError as error:
            reasons.append(str(error))
    assert len(reasons) >= 12
    assert all(str(tmp_path / name) in reason for reason in reasons)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_pixel_limit_comes_before_decoding(tmp_path: Path, name: str) -> None:
    """The header decides: the error names pixels, limit and option even where the rest of the file is missing."""
    Image.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    if name != "a.tif":  # a TIFF's directory may stand at its end
        (tmp_path / name).write_bytes(data[: max(700, len(data) * 2 // 3)])
    message = (
        "400 x 300 = 120,000 pixels, the limit is 119,999; if you trust the file, raise the limit with --pixel-limit"
    )
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / name, ImageSettings(pixel_limit=119_999))


def test_no_limit_but_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit neither raises nor warns, and is left as it was."""
    Image.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", AUTO).pixels.shape == (300, 400, 1)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_reading_in_threads(tmp_path: Path) -> None:
    """Many files at once read as one after the other."""
    for number in range(12):
        Image.fromarray(GREY + np.uint8(number)).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: read_image(path, AUTO).pixels, paths))
    for path, pixels in zip(paths, together, strict=True):
        np.testing.assert_array_equal(pixels, read_image(path, AUTO).pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int16])
def test_to_unit_ends(dtype: type) -> None:
    """0 and the type's largest value become exactly 0 and 1."""
    pixels, _ = to_unit(np.array([0, np.iinfo(dtype).max], dtype), None)
    assert pixels.dtype == np.float32
    assert pixels.tolist() == [0, 1]


def test_to_unit_white() -> None:
    """With a white value, integers and floats are divided by it; beyond it they are refused."""
    for values in (np.array([0, 2048, 4096], np.uint16), np.array([0, 2048, 4096], np.float64)):
        pixels, note = to_unit(values, 4096)
        assert pixels.tolist() == [0, 0.5, 1]
        assert note.endswith("divided by 4096")
    with pytest.raises(
        InputError, match=r"^a\.png must hold values from 0 to 4000, got 1 of 2 outside \(from 1 to 4096\); say"
    ):
        to_unit(np.array([1, 4096], np.uint16), 4000, name="a.png")


def test_to_unit_suspects_twelve_bits() -> None:
    """16-bit files that use 12 bits only are pointed out: they would come out nearly black."""
    assert to_unit(np.array([4095], np.uint16), None)[1].endswith(
        "no value above 4095: if it is 12-bit, set white to 4095"
    )
    assert to_unit(np.array([4096], np.uint16), None)[1] == "16-bit divided by 65535"


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
        small = to_working_size(image, scale)
        assert small.shape == (*shape, channels)
        assert small.dtype == np.float32
        assert image.min() <= small.min() <= small.max() <= image.max()
        flat = to_working_size(np.full_like(image, 0.3), scale)
        np.testing.assert_allclose(flat, 0.3, atol=1e-6)
    assert to_working_size(image, 1.0) is image


def test_worked_averages_areas() -> None:
    """Shrinking takes means of whole blocks, also where the other side grows."""
    image = RNG.random((40, 60, 1), dtype=np.float32)
    blocks = image.reshape(10, 4, 20, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(to_working_size(image, (20, 10))[:, :, 0], blocks, atol=1e-6)
    rows = image.reshape(10, 4, 60).mean(axis=1)
    grown = cv2.resize(rows, (90, 10), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(to_working_size(image, (90, 10))[:, :, 0], grown, atol=1e-6)


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
        ("edges.png", np.where(BITS, 200, 90).astype(np.uint8)),
        ("red.png", BITS[:, :, None] * np.uint8([200, 0, 0])),
    ],
)
def test_masks_read_alike(tmp_path: Path, name: str, stored: np.ndarray) -> None:
    """0/1, 0/255, 1-bit, 16-bit, coloured masks and such with grey edges mean the same."""
    Image.fromarray(stored).save(tmp_path / name)
    mask = read_mask(tmp_path / name, BITS.shape)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, BITS)


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/10.png", "b/2.PNG", "a.tif", "b/c/x.jpeg", ".hidden/y.png", "b/.z.png", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def found(*paths: Path | str) -> list[str]:
    return [image.relative.as_posix() for image in find_images(paths)]


def test_find_images(tree: Path) -> None:
    """Folders are searched through in natural order, hidden and other files passed over; patterns and files work."""
    assert found(tree) == ["a.tif", "b/2.PNG", "b/10.png", "b/c/x.jpeg"]
    assert found(str(tree / "b" / "*.png")) == ["10.png"]
    assert found(str(tree / "**" / "*.*g")) == ["b/10.png", "b/c/x.jpeg"]
    assert found(str(tree / "b" / "*")) == ["2.PNG", "10.png", "c/x.jpeg"]
    assert found(tree / "a.tif") == ["a.tif"]
    assert found(tree, tree / "b") == found(tree)


def test_find_images_keeps_names_apart(tree: Path) -> None:
    """Images of one name in two folders are told apart by their folders; each file is found once."""
    (tree / "d").mkdir()
    (tree / "d" / "10.png").touch()
    assert found(tree / "b", tree / "d", tree / "b") == ["b/2.PNG", "b/10.png", "b/c/x.jpeg", "d/10.png"]


def test_find_images_follows_links_once(tree: Path) -> None:
    """A link to a folder above does not send the search round in circles."""
    (tree / "b" / "loop").symlink_to(tree, target_is_directory=True)
    assert found(tree) == ["a.tif", "b/2.PNG", "b/10.png", "b/c/x.jpeg"]


def test_find_images_takes_a_folder_named_like_a_pattern(tmp_path: Path) -> None:
    """A folder that is there is a folder, brackets or not."""
    (tmp_path / "set[1]").mkdir()
    (tmp_path / "set[1]" / "a.png").touch()
    assert found(tmp_path / "set[1]") == ["a.png"]


def test_find_images_errors(tree: Path) -> None:
    """Each way of finding nothing is said."""
    (tree / "empty").mkdir()
    (tree / "text").mkdir()
    for number in range(5):
        (tree / "text" / f"{number}.txt").touch()
    cases = {
        "none": "^no such file or folder: .*none$",
        "*.gif": r"^nothing matches the pattern .*\*\.gif$",
        "b/*.txt": r"^no image among what matches the pattern .*; images end in \.png",
        "empty": "^the folder .*empty is empty$",
        "text": r"^no image in the folder .*text, only 0\.txt, 1\.txt, 2\.txt, \.\.\.; images end in \.png, \.tif",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            find_images([str(tree / name)])
    with pytest.raises(InputError, match=r"^no image, folder or pattern was given$"):
        find_images([])


def test_real_images(real_data: Path) -> None:
    """Real microscope images and masks read as Pillow reads them."""
    path = real_data / "nanotwice" / "Anomalous" / "images" / "ITIA1101.tif"
    image = read_image(path, AUTO)
    assert image.pixels.shape == (696, 1024, 1)
    assert image.notes == ()
    np.testing.assert_array_equal(image.pixels[:, :, 0], np.asarray(Image.open(path), dtype=np.float32) / 255)
    truth = real_data / "nanotwice" / "Anomalous" / "gt" / "ITIA1101_gt.png"
    np.testing.assert_array_equal(read_mask(truth, (696, 1024)), np.asarray(Image.open(truth)))

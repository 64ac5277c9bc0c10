"""Image files that are refused, and why; the size is known before any pixel is decoded."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import page_count, read_header
from flawmap.imaging.formats import READ
from flawmap.imaging.reading import opened_image, read_image, read_mask

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


COLOURS = RNG.integers(0, 256, (256, 3), dtype=np.uint8)


def bytes_of(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def palette(array: np.ndarray, colours: np.ndarray, **how: Any) -> Write:
    def write(path: Path) -> None:
        image = Image.fromarray(array)
        image.putpalette(colours.astype(np.uint8).tobytes())
        image.save(path, **how)

    return write


def many_scans(picture: np.ndarray) -> bytes:
    """A JPEG whose only scan is there 101 times."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG")
    content = file.getvalue()
    start = content.index(b"\xff\xda")
    return content[:start] + 101 * content[start:-2] + content[-2:]


REFUSED: list[tuple[str, Write, str]] = [
    (
        "text.png",
        bytes_of(b"hello, world"),
        f"is no known image, whatever its name says; convert it to {READ}$",
    ),
    (
        "a.png",
        by_pillow(RGB, format="GIF"),
        f"is GIF, a format that flawmap does not read; convert it to {READ}$",
    ),
    ("a.avif", by_pillow(RGB, format="AVIF"), "is AVIF, a format that flawmap does not read; convert it"),
    ("bits.pbm", by_pillow(BITS, format="PPM"), "is PBM, a format that flawmap does not read; convert it"),
    ("empty.png", bytes_of(b""), r"is empty \(0 bytes\)"),
    (
        "pages.tif",
        by_tifffile(np.zeros((4, 9, 8), np.uint8), photometric="minisblack"),
        "has 4 pages, an image has one; `flawmap inspect` takes --page N or --pages, "
        "elsewhere save each page as a file$",
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
        r"must hold values from 0 to 1, got 2 of 4 outside \(from 0 to 4000\); say which stored value is white",
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
    (
        "moving.webp",
        lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        "is an animation; save the frame that you need as a file of its own$",
    ),
    ("two.pgm", bytes_of(2 * (b"P5 3 2 255\n" + bytes(6))), "holds several images; save the one you need as a file"),
    ("short.ppm", bytes_of(b"P6 3 2 255\n" + bytes(17)), "cannot be read as PPM, .*: it holds fewer values than its"),
    (
        "bright.pgm",
        bytes_of(b"P2 2 1 100\n7 101"),
        "cannot be read as PGM, .*: its values go from 7 to 101",
    ),
    (
        "bad.pgm",
        bytes_of(b"P5 2 255\n"),
        "cannot be read as PGM, .*: its header has no width, height",
    ),
    (
        "many.jp2",
        lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(np.zeros((9, 8, 5), np.uint8))),
        "has 5 components, not all alike; grey and RGB of full resolution are supported: save it as one of these$",
    ),
    (
        "inside.tif",
        by_tifffile(RGB, compression="jpeg2000", photometric="rgb"),
        "is compressed with JPEG2000, which is not supported in a TIFF; save it with LZW or Deflate$",
    ),
    ("many.jpg", lambda path: path.write_bytes(many_scans(GREY)), "has 101 scans, at most 100 are read; save it as a"),
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


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    """To open a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", Path("/dev/null")):
        for read in (read_header, page_count, lambda path: read_image(path, AUTO), read_mask):
            with pytest.raises(InputError, match=r"is not a regular file; pipes, sockets and devices are not read$"):
                read(path)


LIMITED = ["a.png", "p.png", "a.jpg", "a.bmp", "p.bmp", "a.tif", "a.webp", "a.jp2", "a.j2k", "a.pgm", "a.ppm"]


@pytest.mark.parametrize("name", LIMITED)
def test_the_size_is_checked_before_pixels(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header decides, even where the rest of the file is missing; no decoder is called, and none for a header."""
    picture = Image.fromarray(np.zeros((300, 400, 3) if name == "a.ppm" else (300, 400), np.uint8))
    if name[0] == "p":
        picture.putpalette(COLOURS.tobytes())
    path = tmp_path / name
    picture.save(path, format="PPM" if name.endswith("m") else None)
    if name == "a.webp":  # an incomplete file has no chunk of its size
        path.write_bytes(path.read_bytes()[:40])
    elif name != "a.tif":  # a TIFF's directory may stand at its end
        path.write_bytes(path.read_bytes()[: max(1100, path.stat().st_size // 2)])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    for decoder in ("png_decode", "webp_decode", "jpeg2k_decode", "jpeg8_decode", "zlib_decode"):
        monkeypatch.setattr(f"imagecodecs.{decoder}", refuse)
    message = (
        "400 x 300 = 120,000 pixels, the limit is 119,999; "
        "if you trust the file, raise the limit with --set images.pixel_limit=N$"
    )
    assert read_header(path).pixels == 120_000
    small = ImageSettings(pixel_limit=119_999)
    with pytest.raises(InputError, match=message):
        read_image(path, small)
    if name != "a.tif":  # which is read by rows, whatever its size
        with pytest.raises(InputError, match=message), opened_image(path, small):
            pass


def claiming(kind: str) -> bytes:
    """A small palette file whose header claims more pixels than any machine has memory for."""
    picture, file = Image.fromarray(GREY), io.BytesIO()
    picture.putpalette(COLOURS.tobytes())
    picture.save(file, format=kind)
    data = bytearray(file.getvalue())
    if kind == "BMP":
        data[18:26] = struct.pack("<II", 7_274_624, 13_107_296)
    else:
        data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def without_palette() -> bytes:
    """A PNG of palette pixels whose palette is missing."""
    picture, file = Image.fromarray(GREY), io.BytesIO()
    picture.putpalette(COLOURS.tobytes())
    picture.save(file, format="PNG")
    data = file.getvalue()
    start = data.index(b"PLTE") - 4
    return data[:start] + data[start + 12 + 768 :]


def changed(name: str, place: int, content: bytes, **how: Any) -> bytes:
    """A TIFF with the value of a tag, from some byte of its entry on, replaced."""
    file = io.BytesIO()
    tifffile.imwrite(file, GREY, **how)
    whole = file.getvalue()
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        entry = tiff.pages[0].aspage().tags[name].offset
    data = bytearray(whole)
    data[entry + place : entry + place + len(content)] = content
    return bytes(data)


def many_tags() -> bytes:
    """A BigTIFF whose directory claims 2 ** 56 tags."""
    file = io.BytesIO()
    tifffile.imwrite(file, GREY, bigtiff=True)
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack("<Q", 2**56)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (without_palette(), "cannot be read as PNG, it may be truncated or damaged: its palette is missing$"),
        (many_tags(), "cannot be read as TIFF, .*: suspicious number of tags 72057594037927936$"),
        (
            changed("PhotometricInterpretation", 4, struct.pack("<I", 2)),
            "cannot be read as TIFF, .*one number is needed$",
        ),
        (changed("ImageLength", 8, struct.pack("<I", 0)), "cannot be read as TIFF, .*: its header says that it has no"),
        (changed("ImageLength", 8, struct.pack("<I", 9999)), "is truncated or sparse: parts of its picture are not in"),
        (changed("StripByteCounts", 2, struct.pack("<H", 2), rowsperstrip=1), "cannot be read as TIFF, it may be"),
    ],
)
def test_damaged_headers(tmp_path: Path, data: bytes, message: str) -> None:
    """Headers that make no sense are refused with what is wrong."""
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "a", AUTO)


@pytest.mark.parametrize("kind", ["BMP", "PNG"])
def test_palettes_do_not_decode_pixels(tmp_path: Path, kind: str) -> None:
    """Whether colours are grey is asked of the palette alone, which stands in the header."""
    (tmp_path / "a").write_bytes(claiming(kind))
    with pytest.raises(InputError, match="the limit is 400,000,000"):
        read_image(tmp_path / "a", AUTO)


def test_a_tile_larger_than_the_limit(tmp_path: Path) -> None:
    """Of a small picture in a large tile all of the tile is decoded, so all of it counts."""
    tifffile.imwrite(tmp_path / "a.tif", GREY, tile=(256, 512), compression="zlib")
    with pytest.raises(InputError, match=r"= 1,073 pixels, of which 131,072 must be decoded at once, the limit is"):
        read_image(tmp_path / "a.tif", ImageSettings(pixel_limit=131_071))
    assert read_image(tmp_path / "a.tif", ImageSettings(pixel_limit=131_072)).pixels.shape == (37, 29, 1)


def test_a_jpeg_in_a_tile_is_not_larger_than_it(tmp_path: Path) -> None:
    """A JPEG's own header decides what it decodes to: one that claims more than its tile is refused before that."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), tile=(64, 64), compression="jpeg")
    data = (tmp_path / "a.tif").read_bytes()
    place = data.index(b"\xff\xc0") + 5
    (tmp_path / "a.tif").write_bytes(data[:place] + struct.pack(">HH", 65500, 65500) + data[place + 4 :])
    with pytest.raises(InputError, match=r"the JPEG in strip or tile 0 should be 64 x 64, is 65500 x 65500$"):
        read_image(tmp_path / "a.tif", AUTO)


def test_strips_share_no_bytes(tmp_path: Path) -> None:
    """A thousand strips that are one would take a thousand times the work of the file."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2000, 500), np.uint8), rowsperstrip=1, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        page = file.pages[0].aspage()
        size = file.filehandle.size
        page.tags["StripByteCounts"].overwrite([size - 50] * 2000)
        page.tags["StripOffsets"].overwrite([8] * 2000)
    with pytest.raises(InputError, match=r"a\.tif is damaged: parts of its picture share their bytes$"):
        read_image(tmp_path / "a.tif", AUTO)


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    """A directory that names an earlier one as the next is the last."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((150, 9, 8), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        last = file.pages[149].aspage()
        entry = last.offset + 2 + 12 * len(last.tags)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[entry : entry + 4] = data[4:8]
    (tmp_path / "a.tif").write_bytes(data)
    assert page_count(tmp_path / "a.tif") == 150


def test_no_limit_but_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit neither raises nor warns, and is left as it was."""
    Image.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", AUTO).pixels.shape == (300, 400, 1)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_threads_leave_the_warnings_as_they_were(tmp_path: Path) -> None:
    """Python's filters are global: many threads that keep Pillow from warning of damaged EXIF restore them."""
    paths = [tmp_path / f"{number}.jpg" for number in range(40)]
    for path in paths:
        Image.fromarray(GREY).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09broken")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        notes = set(pool.map(lambda path: read_image(path, AUTO).notes, paths))
    assert notes == {("damaged EXIF ignored",)}
    assert warnings.filters == before


def test_reading_in_threads(tmp_path: Path) -> None:
    """Many files at once read as one after the other."""
    for number in range(12):
        Image.fromarray(GREY + np.uint8(number)).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda path: read_image(path, AUTO).pixels, paths))
    for path, pixels in zip(paths, together, strict=True):
        np.testing.assert_array_equal(pixels, read_image(path, AUTO).pixels)

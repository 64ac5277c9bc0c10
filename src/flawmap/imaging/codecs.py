"""What image files hold: headers and stored values, upright, not scaled to [0, 1] yet.

PNG, JPEG and BMP are decoded by Pillow, which raises on a truncated file; 16-bit PNG by imagecodecs, because
Pillow reduces 16-bit colour to 8; TIFF by tifffile. A file is what its first bytes say, whatever its name says.
Nothing global is touched: Pillow's readers are opened directly, so that its own pixel limit and warning never act
and callers' limit, checked before anything is decoded, is the only one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin

from flawmap.core.errors import FlawmapError, InputError
from flawmap.imaging.tiff_segments import SegmentReader, stored_bytes

Stored = NDArray[Any]
"""(H, W, C) of any integer, boolean or floating type, as the file holds it."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_FOREIGN = ((b"RIFF", "WebP"), (b"GIF8", "GIF"), (b"\0\0\0\x0cjP", "JPEG 2000"), (b"%PDF", "PDF"))
_EXIF_ORIENTATION = 0x0112
_REDUCED, _TRANSPARENCY = 1, 4  # TIFF's NewSubfileType
_ALPHA = (1, 2)  # TIFF's ExtraSamples: premultiplied, not premultiplied
_PNG_GREY = (0, 4)  # PNG's colour types: grey, grey with alpha
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "CMYK")

HONEST = 50  # a file that stores at least a fiftieth of the bytes that it decodes to is no bomb


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded.

    width, height: pixels, upright. channels: 1 or 3, without alpha. stored: the type of a value ("bool", "uint8",
    "uint16", "float32", ...). format: "PNG", "JPEG", "BMP" or "TIFF".
    """

    width: int
    height: int
    channels: int
    stored: str
    format: str

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Decoded:
    """Stored values. full: the largest storable value where the type is wider than the samples (12 bits in uint16)."""

    values: Stored
    header: Header
    notes: tuple[str, ...]
    full: int | None = None
    inverted: bool = False  # the largest value is black


class _Source(Protocol):
    @property
    def header(self) -> Header: ...
    @property
    def at_once(self) -> int:
        """Pixels that have to be decoded together."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the picture: stored in the file, and decoded."""

    def decode(self) -> Decoded: ...
    def rows(self, top: int, bottom: int) -> Decoded: ...


def read_header(path: Path) -> Header:
    """The header of an image file; no pixel is decoded.

    Raises:
        InputError: missing, foreign, damaged, or of a kind that is not supported.
    """
    with ExitStack() as stack, _translated(path) as reading:
        return _opened(path, reading, stack).header


def decode(path: Path, pixel_limit: int) -> Decoded:
    """The stored values of an image file of at most `pixel_limit` pixels; larger ones are refused by their header.

    Raises:
        InputError: missing, foreign, damaged, too large, or of a kind that is not supported.
    """
    with ExitStack() as stack, _translated(path) as reading:
        source = _opened(path, reading, stack)
        if source.header.pixels > pixel_limit:
            raise _too_large(path, source.header, pixel_limit)
        return source.decode()


class StoredRows:
    """The stored values of an image file, some rows at a time."""

    def __init__(self, path: Path, source: _Source) -> None:
        self.header = source.header
        self._path, self._source = path, source

    def read(self, top: int, bottom: int) -> Decoded:
        """Rows `top` to `bottom`, the latter not among them; fastest from the top down.

        Raises:
            InputError: these rows are damaged.
        """
        with _translated(self._path) as reading:
            reading.format = self.header.format
            return self._source.rows(top, bottom)


@contextmanager
def opened_rows(path: Path, pixel_limit: int) -> Iterator[StoredRows]:
    """An image file to be read by rows, of any size if it is a TIFF, as long as it is no decompression bomb.

    A file of more than `pixel_limit` pixels must store at least a fiftieth of the bytes that it decodes to, as every
    uncompressed one does. What has to be decoded at once must keep to the limit whatever is stored: a whole PNG, JPEG
    or BMP, a TIFF that EXIF turns by a quarter, a row of a TIFF's strips or tiles.

    Raises:
        InputError: missing, foreign, damaged, too large, or of a kind that is not supported.
    """
    with ExitStack() as stack:
        with _translated(path) as reading:
            source = _opened(path, reading, stack)
            _refuse_bomb(path, source, pixel_limit)
        yield StoredRows(path, source)


def _refuse_bomb(path: Path, source: _Source, pixel_limit: int) -> None:
    header = source.header
    if source.at_once > pixel_limit:
        raise _too_large(path, header, pixel_limit)
    stored, decoded = source.sizes
    if header.pixels > pixel_limit and stored * HONEST < decoded:
        raise InputError(
            f"{path} has {header.width} x {header.height} = {header.pixels:,} pixels, the limit is {pixel_limit:,}, "
            f"and {stored:,} bytes that decode to {decoded:,}, more than {HONEST} times as many, as in a decompression "
            "bomb; if you trust the file, raise the limit with --set images.pixel_limit=N"
        )


def _too_large(path: Path, header: Header, pixel_limit: int) -> InputError:
    return InputError(
        f"{path} has {header.width} x {header.height} = {header.pixels:,} pixels, the limit is "
        f"{pixel_limit:,}; if you trust the file, raise the limit with --set images.pixel_limit=N"
    )


@dataclass
class _Reading:
    """What is read, for messages."""

    format: str = "an image"


@contextmanager
def _translated(path: Path) -> Iterator[_Reading]:
    """Whatever a decoder raises over a file's bytes leaves as an InputError with the path."""
    reading = _Reading()
    try:
        yield reading
    except FlawmapError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, an image file is needed") from None
    except MemoryError:
        raise InputError(f"{path} needs more memory than this machine has free") from None
    except Exception as error:  # decoders raise nearly every type over damaged bytes
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise InputError(
            f"{path} cannot be read as {reading.format}, it may be truncated or damaged: {reason}"
        ) from error


def _opened(path: Path, reading: _Reading, stack: ExitStack) -> _Source:
    """The file's reader, open as long as the stack is."""
    file = stack.enter_context(path.open("rb"))
    reading.format = _format_of(path, file.read(16))
    file.seek(0)
    if reading.format == "TIFF":
        return _TiffSource(path, stack.enter_context(tifffile.TiffFile(file, name=path.name)))
    return _PillowSource(path, stack.enter_context(_pillow_image(reading.format, file)), reading.format)


def _format_of(path: Path, start: bytes) -> str:
    for signature, name in _SIGNATURES:
        if start.startswith(signature):
            return name
    if not start:
        raise InputError(f"{path} is empty (0 bytes)")
    found = next((f"a {name} file" for signature, name in _FOREIGN if start.startswith(signature)), "no known image")
    raise InputError(f"{path} is {found}, whatever its name says; convert it to PNG, TIFF, JPEG or BMP")


def _pillow_image(format_name: str, file: IO[bytes]) -> ImageFile.ImageFile:
    if format_name == "PNG":
        return PngImagePlugin.PngImageFile(file)
    if format_name == "JPEG":
        return _Jpeg(file)
    return BmpImagePlugin.BmpImageFile(file)


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """Pillow's reader, without its look for a resolution in EXIF: it warns over damaged blocks."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _PillowSource:
    """PNG, JPEG, BMP."""

    def __init__(self, path: Path, image: ImageFile.ImageFile, format_name: str) -> None:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise InputError(f"{path} is an animation of {frames} frames; save the one you need as a file of its own")
        if image.mode not in (*_GREY_MODES, *_COLOUR_MODES, "P", "I", "I;16"):
            raise InputError(f"{path} has Pillow's mode {image.mode}, which is not supported; save it as grey or RGB")
        self._image = image
        self._orientation, self._exif_note = _orientation(image.info.get("exif"))
        depth, colour_type = _png_samples(image) if format_name == "PNG" else (8, None)
        self._deep = depth == 16
        grey = image.mode in _GREY_MODES or (image.mode == "P" and _grey_palette(image))
        if self._deep:  # Pillow's mode is RGBA for grey with alpha then
            grey = colour_type in _PNG_GREY
        width, height = image.size if self._orientation < 5 else image.size[::-1]
        stored = "uint16" if self._deep else "bool" if image.mode == "1" else "uint8"
        self.header = Header(width, height, 1 if grey else 3, stored, format_name)
        self._whole: Decoded | None = None

    @property
    def at_once(self) -> int:
        return self.header.pixels

    @property
    def sizes(self) -> tuple[int, int]:
        return 0, self.header.pixels  # never asked for: all is decoded at once

    def rows(self, top: int, bottom: int) -> Decoded:
        if self._whole is None:
            self._whole = self.decode()
        return _rows_of(self._whole, top, bottom)

    def decode(self) -> Decoded:
        notes = [self._exif_note] if self._exif_note else []
        values = self._deep_values() if self._deep else self._values(notes)
        if values.shape[2] in (2, 4):
            values = values[:, :, :-1]
            notes.append("alpha dropped")
        values = values[:, :, : self.header.channels]
        if self._orientation > 1:
            values = _upright(values, self._orientation)
            notes.append("EXIF rotation applied")
        return Decoded(values, self.header, tuple(notes))

    def _values(self, notes: list[str]) -> Stored:
        image: Any = self._image
        if image.mode == "P":
            clear = "transparency" in image.info
            image = image.convert("RGBA" if clear else "RGB")
            notes.append("palette expanded")
        elif image.mode == "CMYK":
            image = image.convert("RGB")
            notes.append("CMYK converted to RGB without a colour profile")
        return _three_axes(np.asarray(image))

    def _deep_values(self) -> Stored:
        file = self._image.fp
        assert file is not None
        file.seek(0)
        return _three_axes(imagecodecs.png_decode(file.read()))


class _TiffSource:
    """TIFF and BigTIFF of one page."""

    def __init__(self, path: Path, tiff: tifffile.TiffFile) -> None:
        self._path = path
        self._page: Any = _single_page(path, tiff)
        self._file_size = tiff.filehandle.size
        page = self._page
        if page.dtype is None or page.dtype.kind not in "buif" or isinstance(page.bitspersample, tuple):
            raise InputError(f"{path} holds values of an unsupported type ({page.bitspersample} bits per sample)")
        tag = page.tags.get(_EXIF_ORIENTATION)
        self._orientation = int(tag.value) if tag is not None and tag.value in range(1, 9) else 1
        sides = (page.imagewidth, page.imagelength)
        width, height = sides if self._orientation < 5 else sides[::-1]
        stored = "bool" if page.bitspersample == 1 else str(np.dtype(page.dtype.type))
        self.header = Header(width, height, self._channels(), stored, "TIFF")
        self._turned = self._orientation >= 5  # rows are columns of the file
        self._reader = SegmentReader(page)
        self._begun = False  # reading by rows
        self._whole: Decoded | None = None

    def _channels(self) -> int:
        """Channels once alpha is dropped and a palette or CMYK converted; refuses other numbers of them."""
        page, kind = self._page, self._kind()
        base = {"grey": 1, "inverted": 1, "palette": 1, "rgb": 3, "cmyk": 4}[kind]
        extra = tuple(page.extrasamples)
        spare = page.samplesperpixel - base
        if spare not in (0, 1) or (spare == 1 and base == 1 and extra[:1] not in [(code,) for code in _ALPHA]):
            raise InputError(
                f"{self._path} has {page.samplesperpixel} values per pixel ({kind}); "
                "grey, grey with alpha, RGB and RGBA are supported: save the channels you need"
            )
        if kind == "palette":
            return 1 if _is_grey(np.asarray(page.colormap).T) else 3
        return 1 if base == 1 else 3

    def _kind(self) -> str:
        page = self._page
        # JPEG inside a TIFF: the decoder already turns YCbCr into RGB.
        if page.photometric == 6 and page.compression in (6, 7):
            return "rgb"
        known = {0: "inverted", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk"}
        if int(page.photometric) not in known:
            name = getattr(page.photometric, "name", page.photometric)
            raise InputError(f"{self._path} has the colour model {name}; save it as grey or RGB")
        return known[int(page.photometric)]

    @property
    def at_once(self) -> int:
        return self.header.pixels if self._turned else self._reader.at_once

    @property
    def sizes(self) -> tuple[int, int]:
        page = self._page
        decoded = self.header.pixels * page.samplesperpixel * page.dtype.itemsize
        return stored_bytes(page, self._file_size), decoded

    def decode(self) -> Decoded:
        self._refuse_holes()
        return self._decoded(self._page.asarray(squeeze=False))

    def rows(self, top: int, bottom: int) -> Decoded:
        if self._turned:
            self._whole = self._whole or self.decode()
            return _rows_of(self._whole, top, bottom)
        if not self._begun:
            self._refuse_holes()
            self._begun = True
        if self._orientation in (3, 4):  # the file's first row is the last
            top, bottom = self.header.height - bottom, self.header.height - top
        return self._decoded(self._reader.read(top, bottom))

    def _decoded(self, raw: Stored) -> Decoded:
        """Rows as the file holds them, (planes, depth, height, width, samples), upright and without alpha."""
        page, kind, notes = self._page, self._kind(), []
        values = np.moveaxis(raw[:, 0], 0, 2).reshape(*raw.shape[2:4], -1) if raw.shape[0] > 1 else raw[0, 0]
        full = None
        if page.dtype.kind in "ui" and page.bitspersample < page.dtype.itemsize * 8:
            full = 2 ** int(page.bitspersample) - 1
        if page.bitspersample == 1 and kind != "palette":
            values, full = values.astype(np.bool_), None
        if kind == "palette":
            values, full = _through_palette(values, np.asarray(page.colormap))[:, :, : self.header.channels], None
            notes.append("palette expanded")
        elif kind == "cmyk":
            values = _without_ink(self._path, values)
            notes.append("CMYK converted to RGB without a colour profile")
        elif values.shape[2] in (2, 4):
            values = values[:, :, :-1]
            notes.append("alpha dropped" if page.extrasamples[0] in _ALPHA else "fourth channel dropped")
        if kind == "inverted":
            notes.append("white is zero, inverted")
        if self._orientation > 1:
            values = _upright(values, self._orientation)
            notes.append("EXIF rotation applied")
        return Decoded(values, self.header, tuple(notes), full, inverted=kind == "inverted")

    def _refuse_holes(self) -> None:
        """Parts of the picture that the file lacks: tifffile would fill them with zeros."""
        page = self._page
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or 0 in page.dataoffsets or 0 in page.databytecounts or max(ends) > self._file_size:
            raise InputError(f"{self._path} is truncated or sparse: parts of its picture are not in the file")


def _rows_of(whole: Decoded, top: int, bottom: int) -> Decoded:
    return replace(whole, values=whole.values[top:bottom])


def _single_page(path: Path, tiff: tifffile.TiffFile) -> Any:
    """The one page of a TIFF; smaller copies and transparency masks beside it don't count."""
    every: list[Any] = [page.aspage() for page in tiff.pages if page is not None]
    pages = [page for page in every if not page.subfiletype & (_REDUCED | _TRANSPARENCY)]
    if not pages:
        raise InputError(f"{path} has no page with a picture")
    page = pages[0]
    # ImageJ and tifffile store stacks behind the header of one page: the series knows of them.
    stacked = max(series.size for series in tiff.series) // max(page.size, 1)
    count = max(len(pages), stacked, page.imagedepth)
    if count > 1:
        raise InputError(f"{path} has {count} pages, an image has one; save each page as a file of its own")
    return page


def _through_palette(index: Stored, colours: Stored) -> Stored:
    """(H, W, 3) uint8. TIFF's 16-bit colours are cut to 8; some writers store 8 at once: both as libtiff has it."""
    table = (colours if colours.max() < 256 else colours >> 8).astype(np.uint8).T  # (entries, 3)
    if int(index.max()) >= len(table):
        raise InputError(f"the palette has {len(table)} colours, a pixel asks for number {int(index.max())}")
    return table[index[:, :, 0].astype(np.intp)]  # 1-bit numbers come as truth values, which would select


def _without_ink(path: Path, inks: Stored) -> Stored:
    if inks.dtype.kind != "u" or inks.shape[2] != 4:
        raise InputError(f"{path} is CMYK with {inks.shape[2]} values of {inks.dtype}; save it as RGB")
    full = float(np.iinfo(inks.dtype).max)
    light = full - inks.astype(np.float64)
    return np.rint(light[:, :, :3] * light[:, :, 3:] / full).astype(inks.dtype)


def _png_samples(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Bits per sample and colour type of a PNG, from its first chunk, IHDR, which always has the same place."""
    file = image.fp
    assert file is not None
    place = file.tell()
    file.seek(24)
    depth, colour_type = file.read(2)
    file.seek(place)
    return depth, colour_type


def _grey_palette(image: ImageFile.ImageFile) -> bool:
    palette = image.getpalette("RGB")
    return palette is not None and _is_grey(np.asarray(palette).reshape(-1, 3))


def _is_grey(table: Stored) -> bool:
    return bool((table == table[:, :1]).all())


def _three_axes(values: Stored) -> Stored:
    return values[:, :, None] if values.ndim == 2 else values


def _orientation(exif: bytes | None) -> tuple[int, str]:
    """The EXIF orientation, 1 to 8 (1: upright), and a note if the block is there but damaged."""
    if not exif:
        return 1, ""
    block = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II": "<", b"MM": ">"}[block[:2]]
        (start,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION and kind == 3 and 1 <= value <= 8:
                return value, ""
    except (KeyError, struct.error):
        return 1, "damaged EXIF ignored"
    return 1, ""


def _upright(values: Stored, orientation: int) -> Stored:
    """(H, W, C) as it is meant to be seen. Orientations as in TIFF 6.0: where the first row and column belong."""
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation](values)
    return np.ascontiguousarray(turned)


IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


def is_image(path: Path) -> bool:
    """Whether the name says so; reading looks at the content."""
    return path.suffix.lower() in IMAGE_SUFFIXES

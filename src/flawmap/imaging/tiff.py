"""TIFF and BigTIFF: one page, by rows. Of strips and tiles only those are decoded that are needed.

The memory that a page takes is bounded by its header: no strip or tile may decode to more than it should hold. The time
is bounded by the file's size: strips and tiles share no bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.imaging.decoded import (
    Decoded,
    Header,
    Source,
    Stored,
    damaged,
    decoding,
    is_grey,
    upright,
    upright_size,
    whole_source,
)
from flawmap.imaging.jpeg import frame_of
from flawmap.imaging.tiff_pages import opened_pages

_JPEG = (6, 7)
_COMPRESSIONS = (1, 2, 3, 4, 5, *_JPEG, 8, 32773, 32946, 34925, 50000)
"""None, CCITT, LZW, JPEG, Deflate, PackBits, LZMA, ZSTD: what a segment decodes to is known before it is decoded."""
_ALPHA: tuple[tuple[int, ...], ...] = ((1,), (2,))  # ExtraSamples: premultiplied, not premultiplied
_ORIENTATION, _MAX_SAMPLE = 274, 281  # tags
_CAMERA_WHITES = (1023, 4095, 16383)
"""Largest values of cameras of 10, 12 and 14 bits. Other values of the tag MaxSampleValue are mere statistics."""


def open_tiff(path: Path, file: IO[bytes], page: int | None) -> Source:
    """A page of a TIFF, counted from 1; None: the only one.

    Raises:
        InputError: damaged, several pages, no such page, or of a kind that is not supported.
    """
    tiff, pages = opened_pages(path, file)
    if page is None and len(pages) > 1:
        raise InputError(
            f"{path} has {len(pages)} pages, an image has one; `flawmap inspect` takes --page N or --pages, elsewhere "
            "save each page as a file"
        )
    if page is not None and not 1 <= page <= len(pages):
        raise InputError(f"{path} has {len(pages)} page{'s' * (len(pages) > 1)}, there is no page {page}")
    place = pages[(page or 1) - 1]
    with decoding(path, "TIFF"):
        chosen: Any = tiff.pages[place.directory].aspage()
        facts = _Facts(path, chosen, place.image)
    size = upright_size(facts.width, facts.height, facts.orientation)
    stored = "bool" if facts.bits == 1 else str(facts.dtype)
    header = Header(*size, _channels(path, facts), stored, "TIFF", lossy=facts.compression in _JPEG)
    segments = _Segments(path, facts)

    def read(top: int, bottom: int) -> Decoded:
        if facts.orientation in (3, 4):  # the file's first row is the last
            top, bottom = facts.height - bottom, facts.height - top
        return _decoded(path, facts, header, segments.read(top, bottom))

    if facts.orientation < 5:
        return Source(header, read, segments.at_once)
    # Rows are columns of the file.
    return whole_source(header, lambda: read(0, facts.height), segments.at_once)


# --------------------------------------------------------------------------------------------------------------- header


class _Facts:
    """What is asked of tifffile's page, which reads tags when they are asked for."""

    def __init__(self, path: Path, page: Any, image: int) -> None:
        """InputError: a page of a kind that is not supported. Any other error: damaged."""
        self.page = page
        self.planes, depth, self.height, self.width, self.samples = (int(side) for side in page.shaped)
        if depth != 1:
            raise InputError(f"{path} is a volume of {depth} layers, an image has one; save each as a file")
        if page.dtype is None or np.dtype(page.dtype).kind not in "buif" or isinstance(page.bitspersample, tuple):
            raise InputError(f"{path} holds values of an unsupported type ({page.bitspersample} bits per sample)")
        self.dtype, self.bits = np.dtype(page.dtype), int(page.bitspersample)
        self.compression = int(_one(page.compression))
        self.kind = _kind(path, _one(page.photometric), page.compression)
        self.extra = tuple(int(code) for code in page.extrasamples)
        orientation, white = page.tags.valueof(_ORIENTATION), page.tags.valueof(_MAX_SAMPLE)
        self.orientation = int(orientation) if orientation in range(1, 9) else 1
        self.white = white if isinstance(white, int) else None
        self.palette: Stored | None = np.asarray(page.colormap).T if page.colormap is not None else None
        # Height and width of a strip or tile.
        strip = min(int(page.rowsperstrip), self.height), self.width
        self.segment = (int(page.tilelength), int(page.tilewidth)) if page.is_tiled else strip
        self.offsets = tuple(int(offset) for offset in page.dataoffsets)
        self.counts = tuple(int(count) for count in page.databytecounts)
        # Where the rows begin if they lie in the file one after the other, not compressed. Behind a directory's first
        # image the others follow, if they are not compressed.
        self.plain = self.offsets[0] + image * int(page.nbytes) if page.is_contiguous else None
        if image and self.plain is None:
            raise ValueError("pages behind the first one are compressed")


def _one(value: Any) -> Any:
    """The number that a tag holds; damaged ones may hold several."""
    if not isinstance(value, int):
        raise ValueError(f"a tag holds {value}, one number is needed")
    return value


def _kind(path: Path, photometric: Any, compression: Any) -> str:
    if int(compression) not in _COMPRESSIONS:
        raise InputError(
            f"{path} is compressed with {getattr(compression, 'name', compression)}, which is not supported in a TIFF; "
            "save it with LZW or Deflate"
        )
    known = {0: "inverted", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk"}
    if compression in _JPEG:
        known[6] = "rgb"  # the decoder already turns YCbCr into RGB
    if photometric not in known:
        raise InputError(
            f"{path} has the colour model {getattr(photometric, 'name', photometric)}; save it as grey or RGB"
        )
    return known[photometric]


def _channels(path: Path, facts: _Facts) -> int:
    """Channels once alpha is dropped and a palette or CMYK converted; refuses other numbers of them."""
    base = {"grey": 1, "inverted": 1, "palette": 1, "rgb": 3, "cmyk": 4}[facts.kind]
    count = facts.planes * facts.samples
    spare = count - base
    if spare not in (0, 1) or (spare == 1 and base == 1 and tuple(facts.extra[:1]) not in _ALPHA):
        raise InputError(
            f"{path} has {count} values per pixel ({facts.kind}); "
            "grey, grey with alpha, RGB and RGBA are supported: save the channels you need"
        )
    if facts.kind == "palette":
        if facts.palette is None or facts.palette.ndim != 2 or not facts.palette.size:
            raise damaged(path, "TIFF", "its palette is missing")
        return 1 if is_grey(facts.palette) else 3
    return 1 if base == 1 else 3


# --------------------------------------------------------------------------------------------------------------- pixels


def _decoded(path: Path, facts: _Facts, header: Header, values: Stored) -> Decoded:
    """Rows (h, W, planes * samples) of a page, upright, without alpha, through the palette."""
    kind, notes, full = facts.kind, list[str](), None
    if facts.bits == 1 and kind != "palette":
        values = values.astype(np.bool_)
    elif facts.dtype.kind in "ui" and facts.bits < facts.dtype.itemsize * 8:
        full = 2**facts.bits - 1
    elif facts.dtype == np.uint16 and facts.white in _CAMERA_WHITES:
        full = facts.white
    if kind == "palette":
        assert facts.palette is not None
        values, full = _through_palette(path, values, facts.palette)[:, :, : header.channels], None
        notes.append("palette expanded")
    elif kind == "cmyk":
        values = _without_ink(path, values)
        notes.append("CMYK converted to RGB without a colour profile")
    elif values.shape[2] in (2, 4):
        values = values[:, :, :-1]
        notes.append("alpha dropped" if facts.extra[:1] in _ALPHA else "fourth channel dropped")
    if kind == "inverted":
        notes.append("white is zero, inverted")
    values = upright(values, facts.orientation, notes)
    return Decoded(values, header, tuple(notes), full, inverted=kind == "inverted")


def _through_palette(path: Path, index: Stored, colours: Stored) -> Stored:
    """(H, W, 3) uint8. 16-bit colours are cut to 8; some writers store 8 at once: both as libtiff has it."""
    table = (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)
    if int(index.max()) >= len(table):
        raise damaged(path, "TIFF", f"the palette has {len(table)} colours, a pixel asks for number {int(index.max())}")
    return table[index[:, :, 0].astype(np.intp)]  # 1-bit numbers come as truth values, which would select


def _without_ink(path: Path, inks: Stored) -> Stored:
    if inks.dtype.kind != "u" or inks.shape[2] != 4:
        raise InputError(f"{path} is CMYK with {inks.shape[2]} values of {inks.dtype}; save it as RGB")
    full = float(np.iinfo(inks.dtype).max)
    light = full - inks.astype(np.float64)
    return np.rint(light[:, :, :3] * light[:, :, 3:] / full).astype(inks.dtype)


class _Segment(NamedTuple):
    """values: (h, w, S). top, left: where they belong."""

    values: NDArray[Any]
    top: int
    left: int


class _Segments:
    """The rows of a page as stored, from the top down.

    Uncompressed rows are read from where they lie. Otherwise strips and tiles are decoded, and kept as long as rows of
    theirs are still to come: each is decoded once if bands follow one another.
    """

    def __init__(self, path: Path, facts: _Facts) -> None:
        self._path, self._facts, self._file = path, facts, facts.page.parent.filehandle
        self._tall, self._wide = max(1, facts.segment[0]), max(1, facts.segment[1])
        self._across, self._down = -(-facts.width // self._wide), -(-facts.height // self._tall)
        self._kept: dict[int, _Segment] = {}
        self._checked = False
        # Pixels that have to be decoded together: those of a row, or of a row of strips or tiles.
        self.at_once = facts.width if facts.plain is not None else self._across * self._wide * self._tall

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        """(bottom - top, W, planes * samples)."""
        self._refuse_holes()
        facts = self._facts
        if facts.plain is not None:
            planes = [self._plain_rows(facts.plain, plane, top, bottom) for plane in range(facts.planes)]
            return planes[0] if facts.planes == 1 else np.concatenate(planes, axis=2)
        rows = np.empty((bottom - top, facts.width, facts.planes, facts.samples), facts.dtype)
        for plane in range(facts.planes):
            self._decode_into(rows[:, :, plane], plane, top, bottom)
        self._kept = {index: kept for index, kept in self._kept.items() if kept.top + len(kept.values) > bottom}
        return rows.reshape(bottom - top, facts.width, -1)

    def _refuse_holes(self) -> None:
        """Parts of the picture that the file lacks, and parts that share their bytes, which could be billions."""
        if self._checked:
            return
        facts = self._facts
        if facts.plain is not None:
            size = facts.planes * facts.height * facts.width * facts.samples * facts.dtype.itemsize
            offsets, counts = [facts.plain], [size]
        else:
            needed = facts.planes * self._down * self._across
            offsets, counts = list(facts.offsets[:needed]), list(facts.counts[:needed])
            if len(offsets) < needed or len(counts) < needed:
                offsets = []
        ends = [start + count for start, count in zip(offsets, counts, strict=False)]
        if not ends or min(offsets) <= 0 or min(counts) <= 0 or max(ends) > self._file.size:
            raise InputError(f"{self._path} is truncated or sparse: parts of its picture are not in the file")
        if sum(counts) > self._file.size:
            raise InputError(f"{self._path} is damaged: parts of its picture share their bytes")
        self._checked = True

    def _plain_rows(self, start: int, plane: int, top: int, bottom: int) -> NDArray[Any]:
        facts = self._facts
        stored = facts.dtype.newbyteorder(facts.page.parent.byteorder)
        row = facts.width * facts.samples * stored.itemsize
        self._file.seek(start + (plane * facts.height + top) * row)
        content = self._file.read((bottom - top) * row)
        rows = np.frombuffer(content, stored).reshape(bottom - top, facts.width, facts.samples)
        return rows.astype(facts.dtype, copy=False)

    def _decode_into(self, rows: NDArray[Any], plane: int, top: int, bottom: int) -> None:
        for down in range(top // self._tall, -(-bottom // self._tall)):
            for across in range(self._across):
                index = (plane * self._down + down) * self._across + across
                segment = self._segment(index)
                first, last = max(top, segment.top), min(bottom, segment.top + len(segment.values))
                part = segment.values[first - segment.top : last - segment.top]
                place = rows[first - top : last - top, segment.left : segment.left + part.shape[1]]
                if last < min(bottom, (down + 1) * self._tall) or part.shape[1:] != place.shape[1:]:
                    raise damaged(self._path, "TIFF", f"strip or tile {index} holds fewer pixels than it should")
                place[:] = part

    def _segment(self, index: int) -> _Segment:
        if index not in self._kept:
            facts = self._facts
            self._file.seek(facts.offsets[index])
            content = self._file.read(facts.counts[index])
            tables: dict[str, Any] = {}
            with decoding(self._path, "TIFF"):
                if facts.compression in _JPEG:
                    tables = {"jpegtables": facts.page.jpegtables, "jpegheader": facts.page.jpegheader}
                    self._refuse_large_jpeg(index, content, tables["jpegheader"] or b"")
                values, (_, _, top, left, _), _ = facts.page.decode(content, index, **tables)
                if values is None:
                    raise ValueError(f"strip or tile {index} is empty")
            self._kept[index] = _Segment(values[0, : facts.height - top, : facts.width - left], top, left)
        return self._kept[index]

    def _refuse_large_jpeg(self, index: int, content: bytes, header: bytes) -> None:
        """A JPEG decodes to the size that it claims itself."""
        frame = frame_of(content) or frame_of(header)
        if frame is None or frame.width > self._wide + 64 or frame.height > self._tall + 64:
            claimed = f"{frame.width} x {frame.height}" if frame else "none"
            raise ValueError(f"the JPEG in strip or tile {index} should be {self._wide} x {self._tall}, is {claimed}")

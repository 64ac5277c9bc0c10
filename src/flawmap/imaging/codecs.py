"""What image files hold: headers and stored values, upright, not scaled to [0, 1] yet.

A file is what its first bytes say, whatever its name says. Its size is known and compared with the limit before any of
its pixels is decoded. Only regular files are opened: reading a pipe would wait for ever.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from flawmap.core.errors import InputError
from flawmap.imaging.decoded import Decoded, Header, Source, damaged
from flawmap.imaging.formats import format_of
from flawmap.imaging.jpeg2000 import open_jpeg2000
from flawmap.imaging.pnm import open_pnm
from flawmap.imaging.raster import open_raster
from flawmap.imaging.tiff import open_tiff
from flawmap.imaging.tiff_pages import opened_pages
from flawmap.imaging.webp import open_webp


def read_header(path: Path, *, page: int | None = None) -> Header:
    """The header of an image file; no pixel is decoded.

    Args:
        page: of a TIFF of several pages, counted from 1; None: it has one.
    Raises:
        InputError: missing, foreign, damaged, of several pages, or of a kind that is not supported.
    """
    with _opened(path, page) as source:
        return source.header


def page_count(path: Path) -> int:
    """How many pages a file has; 1 for all formats but TIFF. Raises InputError for what is no image."""
    with _file(path) as file, _system_errors(path):
        if _format(path, file) == "TIFF":
            return len(opened_pages(path, file)[1])
    read_header(path)
    return 1


def decode(path: Path, pixel_limit: int, *, page: int | None = None) -> Decoded:
    """The stored values of an image file of at most `pixel_limit` pixels; larger ones are refused by their header.

    Args:
        page: of a TIFF of several pages, counted from 1; None: it has one.
    Raises:
        InputError: missing, foreign, damaged, of several pages, too large, or of a kind that is not supported.
    """
    with _opened(path, page) as source:
        _refuse_large(path, source, max(source.header.pixels, source.at_once), pixel_limit)
        return source.read(0, source.header.height)


@contextmanager
def opened_rows(
    path: Path, pixel_limit: int, *, page: int | None = None, content: bytes | None = None
) -> Iterator[Source]:
    """An image file to be read by rows, of any size if it is a TIFF.

    What has to be decoded at once must keep to the limit: all of a file that is no TIFF, a TIFF that EXIF turns by a
    quarter, a row of a TIFF's strips or tiles. Rows are read fastest from the top down.

    Args:
        content: the file's bytes, where they are in memory; then the path names them alone.
    Raises:
        InputError: missing, foreign, damaged, of several pages, too large, or of a kind that is not supported.
    """
    with _opened(path, page, content) as source:
        _refuse_large(path, source, source.at_once, pixel_limit)
        yield source


def _refuse_large(path: Path, source: Source, at_once: int, pixel_limit: int) -> None:
    if at_once <= pixel_limit:
        return
    header = source.header
    parts = f", of which {at_once:,} must be decoded at once," if at_once != header.pixels else ","
    raise InputError(
        f"{path} has {header.width} x {header.height} = {header.pixels:,} pixels{parts} the limit is {pixel_limit:,}; "
        "if you trust the file, raise the limit with --set images.pixel_limit=N"
    )


@contextmanager
def _opened(path: Path, page: int | None, content: bytes | None = None) -> Iterator[Source]:
    """The file's reader, open as long as the block; what it reads has the shape that its header says."""
    with _file(path) if content is None else io.BytesIO(content) as file:
        with _system_errors(path):
            source = _source(path, file, page)
        header = source.header
        if header.width < 1 or header.height < 1:
            raise damaged(path, header.format, "its header says that it has no pixels")

        def read(top: int, bottom: int) -> Decoded:
            with _system_errors(path):
                decoded = source.read(top, bottom)
            expected = bottom - top, header.width, header.channels
            if decoded.values.shape != expected:
                reason = f"its header says {expected}, it decodes to {decoded.values.shape}"
                raise damaged(path, header.format, reason)
            return decoded

        yield replace(source, read=read)


def _source(path: Path, file: IO[bytes], page: int | None) -> Source:
    name = _format(path, file)
    if name == "TIFF":
        return open_tiff(path, file, page)
    if page not in (None, 1):
        raise InputError(f"{path} has 1 page, there is no page {page}")
    readers = {"WebP": open_webp, "JPEG 2000": open_jpeg2000, "PGM": open_pnm, "PPM": open_pnm}
    return readers.get(name, open_raster)(path, file, name)


def _format(path: Path, file: IO[bytes]) -> str:
    name = format_of(path, file.read(16))
    file.seek(0)
    return name


class _BoundedReader(io.BufferedReader):
    """A file that makes no room for more bytes than it has: damaged headers ask libraries to read gigabytes."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file)
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = max(0, min(size, self._size - self.tell()))
        return super().read(size)


def _file(path: Path) -> IO[bytes]:
    with _system_errors(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder, an image file is needed")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is not a regular file; pipes, sockets and devices are not read")
        return _BoundedReader(io.FileIO(path))


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """What the system refuses in the block leaves as an InputError."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise InputError(f"{path} needs more memory than this machine has free") from None

"""The pages of a TIFF: which of its directories hold one, and which share a directory."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from flawmap.core.errors import InputError
from flawmap.imaging.decoded import decoding

if TYPE_CHECKING:
    import tifffile

_SUBFILE_TYPE = 254  # the tag NewSubfileType
_REDUCED, _TRANSPARENCY = 1, 4  # its bits
_PAGES = 10_000  # more are refused
_TAGS = 4096  # of a page; more are refused, by tifffile too


class Place(NamedTuple):
    """Where a page is. image: its number behind the directory's first, where one directory describes several."""

    directory: int
    image: int


def opened_pages(path: Path, file: IO[bytes]) -> tuple[tifffile.TiffFile, list[Place]]:
    """The file and its pages; smaller copies and transparency masks beside a page don't count."""
    import tifffile  # noqa: PLC0415 - who reads other formats needs none

    with decoding(path, "TIFF"):
        tiff = tifffile.TiffFile(file, name=path.name)
        directories = _directories(tiff)
        first: Any = tiff.pages[directories[0]].aspage() if directories else None
        stacked = _stacked(tiff, first) if len(directories) == 1 else 1
    if not directories:
        raise InputError(f"{path} has no page with a picture")
    if max(len(directories), stacked) > _PAGES:
        raise InputError(f"{path} has more than {_PAGES:,} pages; save those you need as files of their own")
    return tiff, [Place(number, image) for number in directories for image in range(stacked)]


def _directories(tiff: tifffile.TiffFile) -> list[int]:
    """Numbers of the directories that hold a page; one too many of them ends the list."""
    file, form = tiff.filehandle, tiff.tiff
    file.seek(form.offsetsize)  # 4 or 8: the first directory's place follows the version
    (place,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    found: list[int] = []
    seen: set[int] = set()
    while place and place not in seen and len(found) <= _PAGES:
        file.seek(place)
        (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
        if tags > _TAGS:
            raise ValueError(f"a page has {tags} tags, at most {_TAGS} are read")
        entries = file.read(tags * form.tagsize)
        if not _subfile_type(entries, form) & (_REDUCED | _TRANSPARENCY):
            found.append(len(seen))
        seen.add(place)
        (place,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return found


def _subfile_type(entries: bytes, form: Any) -> int:
    for start in range(0, len(entries), form.tagsize):
        (tag,) = struct.unpack_from(form.byteorder + "H", entries, start)
        if tag == _SUBFILE_TYPE:
            (value,) = struct.unpack_from(form.byteorder + "I", entries, start + form.tagsize - form.offsetsize)
            return int(value)
    return 0


def _stacked(tiff: tifffile.TiffFile, page: Any) -> int:
    """Images that ImageJ and tifffile store one behind the other, with the directory of the first."""
    if tiff.is_imagej:
        return int((tiff.imagej_metadata or {}).get("images", 1))
    if page.is_shaped:
        said = json.loads(page.description)
        if said.get("truncated"):
            return int(math.prod(said["shape"]) // max(1, page.size))
    return 1

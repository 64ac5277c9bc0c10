"""WebP: the header from its chunks, the pixels by imagecodecs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

import imagecodecs

from flawmap.core.errors import InputError
from flawmap.imaging.decoded import Header, Source, damaged, library_source, upright_size
from flawmap.imaging.exif import orientation_of

_ANIMATION = 2  # a flag of the extended header
_CHUNKS = 1000  # more are refused; a still image has about six


def open_webp(path: Path, file: IO[bytes], name: str) -> Source:
    """A still WebP image, of three channels always. InputError: damaged, or an animation."""
    chunks = _chunks(path, file)
    extended = chunks.get(b"VP8X", b"")
    if extended and extended[0] & _ANIMATION:
        raise InputError(f"{path} is an animation; save the frame that you need as a file of its own")
    size = _size(chunks)
    if size is None or (extended and _canvas(extended) != size):
        raise damaged(path, name, "it holds no picture of the size that its header says")
    notes: list[str] = []
    orientation = orientation_of(chunks.get(b"EXIF"), notes)
    header = Header(*upright_size(*size, orientation), 3, "uint8", name, lossy=b"VP8L" not in chunks)
    return library_source(path, file, header, imagecodecs.webp_decode, notes=notes, orientation=orientation)


def _chunks(path: Path, file: IO[bytes]) -> dict[bytes, bytes]:
    """The first chunk of each kind; of the picture only the beginning."""
    found: dict[bytes, bytes] = {}
    place = 12
    for _ in range(_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return found
        kind, length = struct.unpack("<4sI", head)
        found.setdefault(kind, file.read(min(length, 2**20 if kind == b"EXIF" else 16)))
        place += 8 + length + length % 2
    raise damaged(path, "WebP", f"it has more than {_CHUNKS} chunks")


def _canvas(extended: bytes) -> tuple[int, int]:
    return int.from_bytes(extended[4:7], "little") + 1, int.from_bytes(extended[7:10], "little") + 1


def _size(chunks: dict[bytes, bytes]) -> tuple[int, int] | None:
    """(width, height) of the picture."""
    lossless, lossy = chunks.get(b"VP8L", b""), chunks.get(b"VP8 ", b"")
    if len(lossless) >= 5:
        bits = int.from_bytes(lossless[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(lossy) >= 10:
        width, height = struct.unpack_from("<HH", lossy, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None

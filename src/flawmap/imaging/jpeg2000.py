"""JPEG 2000 (.jp2, .j2k): the header from its codestream, the pixels by imagecodecs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

import imagecodecs

from flawmap.core.errors import InputError
from flawmap.imaging.decoded import Header, Source, damaged, library_source

_BOXES = 1000  # more are refused; a file has about five


def open_jpeg2000(path: Path, file: IO[bytes], name: str) -> Source:
    """Grey or RGB of 1 to 16 bits, alpha is dropped. InputError: damaged, or of a kind that is not supported.

    Files count as lossy: nothing in them says whether values were thrown away.
    """
    width, height, components = _size(path, file)
    if len(components) > 4 or len(set(components)) != 1 or components[0][1:] != (1, 1):
        raise InputError(
            f"{path} has {len(components)} components, not all alike; grey and RGB of full resolution are supported: "
            "save it as one of these"
        )
    bits, signed = (components[0][0] & 0x7F) + 1, components[0][0] >> 7
    if bits > 16 or signed:
        raise InputError(
            f"{path} holds {'signed ' * signed}values of {bits} bits; 1 to 16 bits without sign are supported"
        )
    channels = 1 if len(components) < 3 else 3
    header = Header(width, height, channels, "uint8" if bits <= 8 else "uint16", name, lossy=True)
    full = None if bits in (8, 16) else 2**bits - 1
    return library_source(path, file, header, imagecodecs.jpeg2k_decode, full=full)


def _size(path: Path, file: IO[bytes]) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Width, height, and for each component depth, horizontal and vertical step: the codestream's first segment."""
    _go_to_codestream(path, file)
    start = file.read(42)
    if len(start) < 42 or start[:4] != b"\xff\x4f\xff\x51":
        raise damaged(path, "JPEG 2000", "it has no codestream")
    right, bottom, left, top, count = struct.unpack_from(">IIII16xH", start, 8)
    table = file.read(3 * count)
    if right <= left or bottom <= top or count == 0 or len(table) < 3 * count:
        raise damaged(path, "JPEG 2000", "its header makes no sense")
    return right - left, bottom - top, list(struct.iter_unpack("BBB", table))


def _go_to_codestream(path: Path, file: IO[bytes]) -> None:
    """Seek to the start of the codestream, which is a box of the file or all of it."""
    if file.read(4) == b"\xff\x4f\xff\x51":
        file.seek(0)
        return
    place = 0
    for _ in range(_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            break
        length, kind = struct.unpack_from(">I4s", head)
        long = length == 1 and len(head) == 16  # the length stands in the next 8 bytes
        if kind == b"jp2c":
            file.seek(place + (16 if long else 8))
            return
        length = int.from_bytes(head[8:], "big") if long else length
        if not 8 <= length < 2**62:
            break
        place += length
    raise damaged(path, "JPEG 2000", "it has no codestream")

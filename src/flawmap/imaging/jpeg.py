"""Damage inside JPEG files that decoders pass over, and the size that a JPEG stream claims.

libjpeg only warns when compressed data are damaged in the middle, and Pillow, OpenCV and imagecodecs hide its warnings.
The transcoder of JPEG XL reads the same data strictly: it refuses invalid codes and data that end early. It keeps bytes
that lie between the parts of the file and belong to none, in a box of its own that names them; there we find them.
"""

from __future__ import annotations

import struct

import imagecodecs

CHECKED_PIXELS = 2**25
"""Larger images are not checked: the transcoder takes some 27 bytes of memory for each pixel."""
SCANS = 100
"""More passes over the picture than this are refused: real progressive files have about ten."""

_BETWEEN, _END = 0xFF, 0xD9  # marks of stray bytes and of the end of the file in JPEG XL's list of markers
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of a frame


def warnings_of(content: bytes) -> list[str]:
    """What is wrong with the compressed data of a JPEG file of 1 or 3 channels, as a note; none: nothing is seen.

    A change that makes another valid picture of the same length cannot be seen.
    """
    try:
        transcoded = imagecodecs.jpegxl_encode_jpeg(content, usecontainer=True)
    except Exception:  # the library has no finer error
        return ["decoded with warnings: its compressed data are damaged, a part of the picture may be wrong"]
    if _BETWEEN in _markers(transcoded):
        return ["decoded with warnings: its compressed data hold stray bytes, a part of the picture may be wrong"]
    return []


def _markers(transcoded: bytes | bytearray) -> list[int]:
    """The markers of the original file, as a JPEG XL file lists them: numbers of 6 bits after one bit, from 0xC0."""
    place = transcoded.find(b"jbrd") + 4
    bits = int.from_bytes(transcoded[place : place + 4096], "little") >> 1
    markers: list[int] = []
    while bits and (not markers or markers[-1] != _END):
        markers.append(0xC0 + (bits & 63))
        bits >>= 6
    return markers


def size_of(stream: bytes) -> tuple[int, int] | None:
    """(width, height) that a JPEG stream claims, without decoding it; None: it claims none."""
    place = 2
    while place + 9 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", stream, place + 5)
            return width, height
        place += 1 if marker == 0xFF else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None


def scans(content: bytes) -> int:
    return content.count(b"\xff\xda")

"""Damage inside JPEG files that decoders pass over, and the size that a JPEG stream claims.

libjpeg only warns when compressed data are damaged in the middle, and Pillow, OpenCV and imagecodecs hide its warnings.
The transcoder of JPEG XL reads the same data strictly: it refuses invalid codes and data that end early. It keeps bytes
that lie between the parts of the file and belong to none, in a box of its own that names them; there we find them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import imagecodecs

CHECKED_PIXELS = 2**25
"""Larger images are not checked: the transcoder takes some 27 bytes of memory for each pixel."""
SCANS = 100
"""More passes over the picture than this are refused: real progressive files have about ten."""

_BETWEEN, _END = 0xFF, 0xD9  # marks of stray bytes and of the end of the file in JPEG XL's list of markers
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of a frame


def warnings_of(content: bytes) -> list[str]:
    """What is wrong with the compressed data of a JPEG file, as a note; none: nothing is seen.

    Not checked: four channels, arithmetic coding, colours at a quarter of the resolution, and more than CHECKED_PIXELS.
    A change that makes another valid picture of the same length cannot be seen.
    """
    frame = frame_of(content)
    if frame is None or frame.width * frame.height > CHECKED_PIXELS or not _is_usual(frame):
        return []
    try:
        transcoded = imagecodecs.jpegxl_encode_jpeg(content, usecontainer=True)
    except Exception:  # the library has no finer error
        return ["decoded with warnings: its compressed data are damaged, a part of the picture may be wrong"]
    if _BETWEEN in _markers(transcoded):
        return ["decoded with warnings: its compressed data hold stray bytes, a part of the picture may be wrong"]
    return []


def _is_usual(frame: Frame) -> bool:
    """Whether the transcoder takes it."""
    first, *others = frame.factors or [(0, 0)]
    return frame.kind in _HUFFMAN and frame.bits == 8 and max(first) <= 2 and others in ([], [(1, 1), (1, 1)])


def _markers(transcoded: bytes | bytearray) -> list[int]:
    """The markers of the original file, as a JPEG XL file lists them: numbers of 6 bits after one bit, from 0xC0."""
    place = transcoded.find(b"jbrd") + 4
    bits = int.from_bytes(transcoded[place : place + 4096], "little") >> 1
    markers: list[int] = []
    while bits and (not markers or markers[-1] != _END):
        markers.append(0xC0 + (bits & 63))
        bits >>= 6
    return markers


class Frame(NamedTuple):
    """What a JPEG stream says of its picture. kind: the marker. factors: horizontal and vertical, of each channel."""

    kind: int
    bits: int
    width: int
    height: int
    factors: tuple[tuple[int, int], ...]


def frame_of(stream: bytes) -> Frame | None:
    """The frame of a JPEG stream, without decoding it; None: it has none."""
    place = 2
    while place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker in _FRAMES:
            bits, height, width, count = struct.unpack_from(">BHHB", stream, place + 4)
            packed = stream[place + 11 : place + 10 + 3 * count : 3]
            return Frame(marker, bits, width, height, tuple((both >> 4, both & 15) for both in packed))
        place += 1 if marker == 0xFF else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None


def scans(content: bytes) -> int:
    return content.count(b"\xff\xda")

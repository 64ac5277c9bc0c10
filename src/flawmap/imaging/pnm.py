"""PGM and PPM, with values as text (P2, P3) or bytes (P5, P6), of any depth to 16 bits.

Read here, because Pillow and OpenCV scale values to 8 or 16 bits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

import numpy as np

from flawmap.core.errors import InputError
from flawmap.imaging.decoded import Decoded, Header, Source, Stored, damaged, decoding, whole_source

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])"  # white space and comments
_HEADER = re.compile(rb"P([2356])" + 3 * (_GAP + rb"+(\d{1,9})") + rb"\s")
_HEADER_BYTES = 2**16


def open_pnm(path: Path, file: IO[bytes], name: str) -> Source:
    """A PGM or PPM file of one image. Its largest value is what it says. InputError: damaged, or several images."""
    found = _HEADER.match(file.read(_HEADER_BYTES))
    if found is None:
        raise damaged(path, name, "its header has no width, height and largest value")
    kind, width, height, white = (int(number) for number in found.groups())
    if not 1 <= white <= 65535:
        raise damaged(path, name, f"its largest value is {white}, from 1 to 65535 is allowed")
    stored = "uint8" if white < 256 else "uint16"
    header = Header(width, height, 3 if kind in (3, 6) else 1, stored, name)

    def decode() -> Decoded:
        file.seek(found.end())
        read = _text_values if kind in (2, 3) else _binary_values
        values = read(path, file, header).reshape(height, width, header.channels)
        if int(values.min()) < 0 or int(values.max()) > white:
            raise damaged(path, name, f"its values go from {values.min()} to {values.max()}, {white} is its largest")
        return Decoded(values.astype(stored), header, (), None if white in (255, 65535) else white)

    return whole_source(header, decode)


def _binary_values(path: Path, file: IO[bytes], header: Header) -> Stored:
    dtype = np.dtype("u1" if header.stored == "uint8" else ">u2")
    content = file.read()
    needed = header.pixels * header.channels * dtype.itemsize
    _refuse_rest(path, header, content[:needed], needed, content[needed : needed + 3])
    return np.frombuffer(content, dtype, needed // dtype.itemsize)


def _text_values(path: Path, file: IO[bytes], header: Header) -> Stored:
    words = file.read().split()
    needed = header.pixels * header.channels
    _refuse_rest(path, header, words[:needed], needed, b"".join(words[needed : needed + 1]))
    with decoding(path, header.format):
        return np.fromiter(map(int, words), np.int64, needed)


def _refuse_rest(path: Path, header: Header, held: bytes | list[bytes], needed: int, rest: bytes) -> None:
    if len(held) < needed:
        raise damaged(path, header.format, "it holds fewer values than its header says")
    if rest[:1] == b"P" and rest[1:2].isdigit():
        raise InputError(f"{path} holds several images; save the one you need as a file of its own")

"""What the reader of every format gives: a header before anything is decoded, and stored values after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError

Stored = NDArray[Any]
"""(H, W, C) of any integer, boolean or floating type, as the file holds it."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded.

    width, height: pixels, upright. channels: 1 or 3, without alpha. stored: the type of a value ("bool", "uint8",
    "uint16", "float32", ...). format: "PNG", "JPEG", ... lossy: values may differ a little from those that were saved.
    """

    width: int
    height: int
    channels: int
    stored: str
    format: str
    lossy: bool = False

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Decoded:
    """Stored values.

    notes: sentences for the user. full: the value that is white, where it is not the largest of the type (12 bits in
    uint16). inverted: the largest value is black.
    """

    values: Stored
    header: Header
    notes: tuple[str, ...]
    full: int | None = None
    inverted: bool = False


@dataclass(frozen=True)
class Source:
    """An open image file.

    read: the stored values of some rows, from the first to the last, the latter not among them. at_once: pixels that
    have to be decoded together.
    """

    header: Header
    read: Callable[[int, int], Decoded]
    at_once: int


def whole_source(header: Header, decode: Callable[[], Decoded], at_once: int = 0) -> Source:
    """An open file that is decoded in one piece. at_once: pixels, if more than the picture has."""
    kept = cache(decode)

    def read(top: int, bottom: int) -> Decoded:
        if (top, bottom) == (0, header.height):
            return decode()
        return replace(kept(), values=kept().values[top:bottom])

    return Source(header, read, max(header.pixels, at_once))


def library_source(
    path: Path,
    file: IO[bytes],
    header: Header,
    decoder: Callable[[bytes], Stored],
    *,
    notes: Sequence[str] = (),
    orientation: int = 1,
    full: int | None = None,
) -> Source:
    """A file whose bytes a library's function turns into (H, W) or (H, W, C), not upright, maybe with alpha."""

    def decode() -> Decoded:
        said = [*notes]
        file.seek(0)
        with decoding(path, header.format):
            values = three_axes(decoder(file.read()))
        return Decoded(upright(without_alpha(values, said), orientation, said), header, tuple(said), full)

    return whole_source(header, decode)


def damaged(path: Path, format_name: str, reason: object) -> InputError:
    text = str(reason).strip().rstrip(".") or type(reason).__name__
    return InputError(f"{path} cannot be read as {format_name}, it may be truncated or damaged: {text}")


@contextmanager
def decoding(path: Path, format_name: str) -> Iterator[None]:
    """A block that takes a file's bytes apart: whatever is raised there leaves as an InputError.

    Libraries raise nearly every type over damaged bytes. What we compute from their results stands outside such blocks,
    so that our own mistakes stay seen.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise damaged(path, format_name, error) from error


def three_axes(values: Stored) -> Stored:
    return values[:, :, None] if values.ndim == 2 else values


def without_alpha(values: Stored, notes: list[str]) -> Stored:
    """(H, W, 1 or 3) of (H, W, 1 to 4)."""
    if values.shape[2] in (2, 4):
        notes.append("alpha dropped")
        return values[:, :, :-1]
    return values


def is_grey(values: Stored) -> bool:
    """Whether all channels, the last axis, are equal everywhere."""
    return bool((values == values[..., :1]).all())


def upright(values: Stored, orientation: int, notes: list[str]) -> Stored:
    """(H, W, C) as it is meant to be seen. Orientations as in TIFF 6.0: where the first row and column belong."""
    if orientation == 1:
        return values
    notes.append("EXIF rotation applied")
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


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) once `upright`."""
    return (width, height) if orientation < 5 else (height, width)

"""Where the images are kept that patches are cut from: in memory, or in a file of tiles.

The file is for more images than memory holds. It is written once, read at random and removed; it belongs to one run,
and nothing else reads it. Images lie in it one after the other, each in tiles of TILE x TILE pixels with all their
channels, one row of tiles after the other. So a patch is a few short runs of bytes. They are read by position and only
the operating system keeps them, in its cache of pages: the memory of the process does not grow with the images.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.core.files import unwritable
from flawmap.imaging.rows import RowBuffer

TILE = 64  # side, pixels: a grey tile of 8 bit has 4096 bytes, a page of most systems

Values = NDArray[np.float32]
"""(C, H, W) float32."""


class Corner(NamedTuple):
    """Of a patch: the image's number and its top left pixel."""

    image: int
    top: int
    left: int


class MemoryStore:
    """Images as they are, as (C, H, W): the rows of a patch are whole runs of memory.

    Images are numbered from 0 as they are added. All have one number of channels.
    """

    def __init__(self) -> None:
        self._images: list[Values] = []

    def add(self, shape: tuple[int, int, int], blocks: Iterable[Values]) -> None:
        """Take in one more image of (C, H, W), which arrives as blocks of rows, (C, h, W)."""
        image, top = np.empty(shape, np.float32), 0
        for block in blocks:
            image[:, top : top + block.shape[1]] = block
            top += block.shape[1]
        assert top == shape[1], f"{top} rows of {shape[1]}"
        self._images.append(image)

    def read(self, corners: Sequence[Corner], into: NDArray[np.float32]) -> None:
        """Fill `into`, (N, C, P, P), with the patches at N corners, which lie wholly inside their images."""
        side = into.shape[-1]
        for patch, (image, top, left) in zip(into, corners, strict=True):
            patch[...] = self._images[image][:, top : top + side, left : left + side]


class StorageDtype(NamedTuple):
    """How values are stored: multiplied by `white` and rounded; None: as they are."""

    dtype: type[np.generic]
    white: int | None

    def bytes_of(self, channels: int, height: int, width: int) -> int:
        """Bytes of an image in a file of tiles."""
        return channels * height * _padded(width) * np.dtype(self.dtype).itemsize


FLOAT32 = StorageDtype(np.float32, None)
STORAGE_DTYPES = (StorageDtype(np.uint8, 255), StorageDtype(np.uint16, 65535))
"""Tried before FLOAT32, the smallest first."""


def lossless_dtype(values: Values) -> StorageDtype:
    """The smallest type from which these values come back bit for bit."""
    return next((form for form in STORAGE_DTYPES if _exact(values, form)), FLOAT32)


class _Row(NamedTuple):
    """A row of tiles. start: its first byte. tall: rows of pixels."""

    start: int
    tall: int
    form: StorageDtype


class _Strip(NamedTuple):
    """Neighbouring tiles of one row, which lie next to each other. start, size: bytes. upper, tall: rows of pixels."""

    start: int
    size: int
    upper: int
    tall: int
    form: StorageDtype


class TileStore:
    """Images as in a `MemoryStore`, but in a file, which must not be there yet and vanishes with `close`.

    Raises:
        OutputError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images: list[list[_Row]] = []
        self._end, self._lock = 0, Lock()
        try:
            self._file: BinaryIO = path.open("x+b")
        except OSError as error:
            raise unwritable(path, error) from error

    def close(self) -> None:
        """Remove the file; what was written last need not have reached the disk."""
        for step in (self._file.close, self.path.unlink):
            with suppress(OSError):
                step()

    def add(self, shape: tuple[int, int, int], blocks: Iterable[Values]) -> None:
        """Write one more image, each row of tiles in the smallest type that gives the very same float32 values back.

        Raises:
            OutputError: there is no room for it.
        """
        buffer, rows = RowBuffer(blocks, axis=1), []
        for top in range(0, shape[1], TILE):
            values = buffer.take(top, min(top + TILE, shape[1]))
            form = lossless_dtype(values)
            rows.append(_Row(self._end, values.shape[1], form))
            self._write(_tiles(_stored(values, form)).tobytes())
        self._images.append(rows)

    def _write(self, data: bytes) -> None:
        try:
            self._file.seek(self._end)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._end += len(data)

    def read(self, corners: Sequence[Corner], into: NDArray[np.float32]) -> None:
        """As in a `MemoryStore`.

        Raises:
            InputError: the file cannot be read, or was cut short.
        """
        try:
            self._announce(corners, *into.shape[1:3])
            for patch, corner in zip(into, corners, strict=True):
                self._read_one(corner, patch)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def _announce(self, corners: Sequence[Corner], channels: int, side: int) -> None:
        """Let the system fetch all of a batch at once, where it can: a disk is slow for one read after the other."""
        if hasattr(os, "posix_fadvise"):
            for corner in corners:
                for strip in self._strips(corner, channels, side):
                    os.posix_fadvise(self._file.fileno(), strip.start, strip.size, os.POSIX_FADV_WILLNEED)

    def _strips(self, corner: Corner, channels: int, side: int) -> Iterator[_Strip]:
        """The tiles that a patch touches, row by row."""
        first, last = corner.left // TILE, -(-(corner.left + side) // TILE)  # columns of tiles, the latter exclusive
        for number in range(corner.top // TILE, -(-(corner.top + side) // TILE)):
            start, tall, form = self._images[corner.image][number]
            before = form.bytes_of(channels, tall, first * TILE)
            size = form.bytes_of(channels, tall, (last - first) * TILE)
            yield _Strip(start + before, size, number * TILE, tall, form)

    def _read_one(self, corner: Corner, patch: Values) -> None:
        channels, side, left = len(patch), patch.shape[-1], corner.left % TILE
        for start, size, upper, tall, form in self._strips(corner, channels, side):
            found = np.frombuffer(self._bytes(start, size), form.dtype).reshape(-1, channels, tall, TILE)
            strip = found.transpose(1, 2, 0, 3).reshape(channels, tall, -1)
            first, last = max(corner.top, upper), min(corner.top + side, upper + tall)
            rows = patch[:, first - corner.top : last - corner.top]
            rows[...] = strip[:, first - upper : last - upper, left : left + side]
            if form.white is not None:
                np.divide(rows, np.float32(form.white), out=rows)

    def _bytes(self, start: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            found = os.pread(self._file.fileno(), size, start)
        else:
            with self._lock:  # a file has one position for all who read it
                self._file.seek(start)
                found = self._file.read(size)
        if len(found) < size:
            raise InputError(f"{self.path} was cut short while patches were read from it; begin the training anew")
        return found


Store = MemoryStore | TileStore


def _padded(width: int) -> int:
    """A width as whole tiles have it."""
    return -(-width // TILE) * TILE


def _tiles(strip: NDArray[Any]) -> NDArray[Any]:
    """Rows of an image, (C, h, W), as tiles from left to right, (n, C, h, TILE); the last one filled up with 0."""
    channels, height, width = strip.shape
    filled = np.pad(strip, ((0, 0), (0, 0), (0, _padded(width) - width)))
    return filled.reshape(channels, height, -1, TILE).transpose(2, 0, 1, 3)


def _stored(values: Values, form: StorageDtype) -> NDArray[Any]:
    if form.white is None:
        return values
    stored: NDArray[Any] = np.rint(np.clip(values, 0, 1) * np.float32(form.white)).astype(form.dtype)
    return stored


def _exact(values: Values, form: StorageDtype) -> bool:
    """Whether values come back. Bits are compared: -0.0 equals 0.0 and is another number."""
    assert form.white is not None
    back = _stored(values, form).astype(np.float32) / np.float32(form.white)
    return np.array_equal(back.view(np.uint32), np.ascontiguousarray(values).view(np.uint32))

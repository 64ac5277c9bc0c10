"""Tiled BigTIFF files that are written while their rows come, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Full, Queue
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from flawmap.core.files import atomic, unwritable
from flawmap.imaging.rows import RowBuffer

TILE = 256  # side, pixels
_WAITING = 2  # blocks between the one who computes and the one who writes
_PATIENCE = 0.2  # seconds between looks at whether the writer still lives


class _Abandoned(Exception):
    """The rest of the picture will not come."""


@contextmanager
def tiled_tiff(path: Path, shape: tuple[int, int], dtype: type[np.generic]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """A function that takes the next rows (h, W) of a grey picture (H, W), written with Deflate to a BigTIFF.

    The file takes its name when the block ends well, all rows given; an exception leaves nothing of it. tifffile pulls
    tiles out of an iterator, rows are pushed, so a thread stands between them.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic(path) as part, ThreadPoolExecutor(1) as pool:
        queue: Queue[NDArray[Any] | _Abandoned | None] = Queue(_WAITING)
        writing = pool.submit(_write, part, tiles(_arriving(queue), shape), shape, dtype)

        def add(rows: NDArray[Any]) -> None:
            if not _handed(queue, writing, rows):
                try:
                    writing.result()
                except OSError as error:
                    raise unwritable(path, error) from error

        try:
            yield add
        except BaseException:
            _handed(queue, writing, _Abandoned())
            writing.exception()
            raise
        _handed(queue, writing, None)
        writing.result()


def tiles(blocks: Iterable[NDArray[Any]], shape: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """The tiles (TILE, TILE) of a picture (H, W) that comes as blocks of rows, row by row, filled up with zeros."""
    picture = RowBuffer(blocks)
    for top in range(0, shape[0], TILE):
        rows = picture.take(top, min(top + TILE, shape[0]))
        for left in range(0, shape[1], TILE):
            part = rows[:, left : left + TILE]
            yield np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1])))


def _handed(
    queue: Queue[NDArray[Any] | _Abandoned | None], writing: Future[None], item: NDArray[Any] | _Abandoned | None
) -> bool:
    """Whether the writer took the item or will; not if it ended."""
    while not writing.done():
        try:
            queue.put(item, timeout=_PATIENCE)
        except Full:
            continue
        return True
    return False


def _arriving(queue: Queue[NDArray[Any] | _Abandoned | None]) -> Iterator[NDArray[Any]]:
    while (item := queue.get()) is not None:
        if isinstance(item, _Abandoned):
            raise item
        yield item


def _write(part: Path, pieces: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: type[np.generic]) -> None:
    with tifffile.TiffWriter(part, bigtiff=True) as writer:
        writer.write(
            pieces,
            shape=shape,
            dtype=dtype,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="minisblack",
            metadata=None,
            maxworkers=1,  # more would gather hundreds of megabytes of tiles
        )

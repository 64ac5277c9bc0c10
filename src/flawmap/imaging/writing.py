"""Writing images, masks and maps: PNG and TIFF, whole or not at all; tiled BigTIFF while its rows arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.files import atomic, unwritable
from flawmap.imaging.png import png
from flawmap.imaging.rows import RowBuffer

COMPRESSION = 1  # of 9, what is written: PNG and Deflate get four times slower by 6, and photographs hardly smaller
_DEFLATED: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack", "metadata": None}


def write_image(path: Path, values: NDArray[Any], *, quick: bool = False) -> None:
    """Write an array, whole or not at all: an error leaves neither a part nor a damaged older file.

    Args:
        path: .png for uint8 (H, W), (H, W, 1) or (H, W, 3) and for bool (H, W), written as 0 and 255;
            .tif or .tiff for float (H, W), written as float32 with Deflate, value for value.
        quick: a PNG of the same values in a third of the time. Images that are trained on do without it: splits go by
            the bytes of files, which stay the same from version to version.
    Raises:
        InputError: another type, shape or suffix, values that are not finite, or the file cannot be written.
    """
    suffix, kind = path.suffix.lower(), values.dtype.kind
    if kind == "f":
        finite(values, str(path))
    plain = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    picture = values.dtype == np.uint8 and (plain.ndim == 2 or (plain.ndim == 3 and plain.shape[2] == 3))
    if picture or (kind == "b" and plain.ndim == 2):
        _needs(path, suffix, (".png",), values)
        stored = plain.astype(np.uint8) * np.uint8(255) if kind == "b" else np.ascontiguousarray(plain)
        with atomic(path) as part:
            if quick:
                part.write_bytes(png(stored))
            else:
                Image.fromarray(stored).save(part, format="PNG", compress_level=COMPRESSION)
    elif kind == "f" and plain.ndim == 2:
        _needs(path, suffix, (".tif", ".tiff"), values)
        import tifffile  # noqa: PLC0415 - masks of most images are PNG

        with atomic(path) as part:
            tifffile.imwrite(part, plain.astype(np.float32), compressionargs={"level": COMPRESSION}, **_DEFLATED)
    else:
        raise InputError(
            f"{path}: uint8 (H, W) or (H, W, 3), bool (H, W) or float (H, W) can be written, "
            f"got {values.dtype} {shape_text(values.shape)}"
        )


def _needs(path: Path, suffix: str, suffixes: tuple[str, ...], values: NDArray[Any]) -> None:
    if suffix not in suffixes:
        raise InputError(f"{path}: {values.dtype} is written as {' or '.join(suffixes)}, got {suffix or 'no suffix'}")


TILE = 256  # side, pixels
_WAITING = 2  # blocks between the one who computes and the one who writes
_PATIENCE = 0.2  # seconds between looks at whether the writer still lives


@contextmanager
def tiled_tiff(path: Path, shape: tuple[int, int], dtype: type[np.generic]) -> Iterator[Callable[[NDArray[Any]], None]]:
    """A function that takes the next rows (h, W) of a grey picture (H, W), written with Deflate to a BigTIFF.

    The file takes its name when the block ends well, all rows given; an exception leaves nothing of it. tifffile pulls
    tiles out of an iterator, rows are pushed, so a thread stands between them.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic(path) as part, ThreadPoolExecutor(1) as pool:
        queue: Queue[NDArray[Any] | None] = Queue(_WAITING)
        writing = pool.submit(_write, part, tiles(_arriving(queue), shape), shape, dtype)

        def handed(rows: NDArray[Any] | None) -> bool:
            """Whether the writer takes the rows; not if it ended."""
            while not writing.done():
                with suppress(Full):
                    queue.put(rows, timeout=_PATIENCE)
                    return True
            return False

        def add(rows: NDArray[Any]) -> None:
            if not handed(rows):
                try:
                    writing.result()
                except OSError as error:
                    raise unwritable(path, error) from error

        try:
            yield add
        finally:
            handed(None)  # the end; the writer fails if rows are missing
        writing.result()


def tiles(blocks: Iterable[NDArray[Any]], shape: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """The tiles (TILE, TILE) of a picture (H, W) that comes as blocks of rows, row by row, filled up with zeros."""
    picture = RowBuffer(blocks)
    for top in range(0, shape[0], TILE):
        rows = picture.take(top, min(top + TILE, shape[0]))
        for left in range(0, shape[1], TILE):
            part = rows[:, left : left + TILE]
            yield np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1])))


def _arriving(queue: Queue[NDArray[Any] | None]) -> Iterator[NDArray[Any]]:
    while (rows := queue.get()) is not None:
        yield rows


def _write(part: Path, pieces: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: type[np.generic]) -> None:
    import tifffile  # noqa: PLC0415 - as above

    with tifffile.TiffWriter(part, bigtiff=True) as writer:
        # More workers would gather hundreds of megabytes of tiles.
        writer.write(pieces, shape=shape, dtype=dtype, tile=(TILE, TILE), maxworkers=1, **_DEFLATED)

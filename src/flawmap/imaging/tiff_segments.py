"""Rows of a TIFF's picture without the rest of it: of its strips and tiles only those are decoded that are needed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_JPEG = (6, 7, 34892, 33007)  # compressions whose segments share tables


class _Segment(NamedTuple):
    """values: (h, w, S). plane, top, left: where they belong."""

    values: NDArray[Any]
    plane: int
    top: int
    left: int


class SegmentReader:
    """The rows of a page of tifffile, as `page.asarray(squeeze=False)` has them, from the top down.

    Uncompressed rows are read from where they lie. Otherwise strips and tiles are decoded, and kept as long as rows of
    theirs are still to come: each is decoded once if bands follow one another.
    """

    def __init__(self, page: Any) -> None:
        self._page, self._file = page, page.parent.filehandle
        self._shape = tuple(page.shaped)  # planes, depth, height, width, samples
        self._plain = bool(page.is_contiguous)
        tiled = bool(page.is_tiled)
        height, width = self._shape[2:4]
        self._tall = int(page.tilelength if tiled else min(page.rowsperstrip, height))
        self._across = -(-width // int(page.tilewidth)) if tiled else 1
        self._down = -(-height // self._tall)
        self._kept: dict[int, _Segment] = {}

    @property
    def at_once(self) -> int:
        """Pixels that have to be decoded together: those of a row, or of a row of strips or tiles."""
        return int(self._shape[3]) * (1 if self._plain else min(self._tall, int(self._shape[2])))

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        """(planes, 1, bottom - top, W, samples). Whatever a decoder raises over damaged bytes is raised."""
        planes, _, _, width, samples = self._shape
        rows = np.empty((planes, 1, bottom - top, width, samples), self._page.dtype)
        for plane in range(planes):
            if self._plain:
                rows[plane, 0] = self._plain_rows(plane, top, bottom)
            else:
                self._decode_into(rows, plane, top, bottom)
        self._kept = {index: kept for index, kept in self._kept.items() if kept.top + len(kept.values) > bottom}
        return rows

    def _plain_rows(self, plane: int, top: int, bottom: int) -> NDArray[Any]:
        _, _, height, width, samples = self._shape
        stored = np.dtype(self._page.dtype).newbyteorder(self._page.parent.byteorder)
        row = width * samples * stored.itemsize
        self._file.seek(self._page.dataoffsets[0] + (plane * height + top) * row)
        content = self._file.read((bottom - top) * row)
        return np.frombuffer(content, stored).reshape(bottom - top, width, samples)

    def _decode_into(self, rows: NDArray[Any], plane: int, top: int, bottom: int) -> None:
        for down in range(top // self._tall, -(-bottom // self._tall)):
            for across in range(self._across):
                index = (plane * self._down + down) * self._across + across
                segment = self._segment(index)
                first, last = max(top, segment.top), min(bottom, segment.top + len(segment.values))
                part = segment.values[first - segment.top : last - segment.top]
                place = rows[segment.plane, 0, first - top : last - top, segment.left : segment.left + part.shape[1]]
                if last < min(bottom, (down + 1) * self._tall) or part.shape[1:] != place.shape[1:]:
                    raise ValueError(f"strip or tile {index} holds fewer pixels than the picture needs")
                place[:] = part

    def _segment(self, index: int) -> _Segment:
        if index not in self._kept:
            page = self._page
            self._file.seek(page.dataoffsets[index])
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            shared = tables if page.compression in _JPEG else {}
            content = self._file.read(page.databytecounts[index])
            values, (plane, _, top, left, _), _ = page.decode(content, index, **shared)
            if values is None:
                raise ValueError(f"strip or tile {index} is empty")
            height, width = self._shape[2:4]
            self._kept[index] = _Segment(values[0, : height - top, : width - left], plane, top, left)
        return self._kept[index]


def stored_bytes(page: Any, file_size: int) -> int:
    """The bytes that a file holds of a page's picture; strips that share their bytes don't count for more than it."""
    return min(sum(int(count) for count in page.databytecounts), file_size)

"""Images that are smaller than a patch, or whose sides are no multiple: the pixels that they lack, by reflection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap


def padding_of(height: int, width: int, patch: int, *, pad: bool) -> tuple[int, int, int, int]:
    """Pixels that an image lacks of a patch at its left, right, top and bottom; zeros unless it is to be padded.

    Raises:
        InputError: it is to be padded, and too small to be reflected to a patch.
    """
    missing = [max(0, patch - side) for side in (height, width)]
    if not pad:
        return 0, 0, 0, 0
    if any(lack > 2 * (side - 1) for lack, side in zip(missing, (height, width), strict=True)):
        least = -(-(patch + 2) // 3)  # each end mirrors at most one pixel less than the side
        raise InputError(
            f"image must be at least {least}x{least} pixels to be padded by reflection to a patch of "
            f"{patch}, got {width}x{height}; use a smaller patch or a larger scale"
        )
    top, left = missing[0] // 2, missing[1] // 2
    return left, missing[1] - left, top, missing[0] - top


def rim_of(side: int, multiple: int) -> int:
    """Pixels that a side lacks of a multiple.

    >>> rim_of(1000, 16), rim_of(1024, 16)
    (8, 0)
    """
    return -side % multiple


def reflected(rows: FloatMap, padding: tuple[int, int, int, int]) -> FloatMap:
    """An array (H, W, C) with pixels more at its left, right, top and bottom, which reflect its own."""
    left, right, top, bottom = padding
    return np.pad(rows, ((top, bottom), (left, right), (0, 0)), mode="reflect") if any(padding) else rows


def with_rim(blocks: Iterable[FloatMap], down: int, across: int) -> Iterator[FloatMap]:
    """Blocks of rows (h, W, C) with as many pixels more below and to the right, which reflect the image's own.

    The image is larger than that in both directions.
    """
    held: FloatMap | None = None  # the last rows
    for rows in blocks:
        wide = np.concatenate((rows, rows[:, -1 - across : -1][:, ::-1]), axis=1) if across else rows
        held = wide if held is None else np.concatenate((held, wide))
        held = held[-1 - down :]
        yield wide
    if down and held is not None:
        yield held[:-1][::-1]

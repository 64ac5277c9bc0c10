"""Cutting an image into overlapping patches and averaging patches back into an image, both as rows come.

A `Merger` of the patches of `patch_batches` gives the image back, for every size of at least one patch, to float32
rounding: the last row and column of patches lie flush with the border, so no pixel goes without a value whatever the
stride.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import Array, add_product, constant_like, namespace_of, zeros_of
from flawmap.core.checks import shape_text
from flawmap.core.errors import ConfigError, InputError
from flawmap.imaging.rows import RowBuffer

Weights = Literal["uniform", "hann"]

HELD = 2**22  # values of patches that wait to be merged together, if a row of patches is less: 16 MiB


@dataclass(frozen=True)
class Grid:
    """Square patches of `patch` pixels, `stride` pixels apart in both directions."""

    patch: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.patch:
            raise ConfigError(
                f"stride must lie between 1 and the patch, {self.patch}, or pixels go unseen; got {self.stride}"
            )

    def offsets(self, side: int) -> list[int]:
        """First pixels of the patches along one side, the last one flush with its end.

        >>> Grid(patch=128, stride=30).offsets(200)
        [0, 30, 60, 72]
        """
        last = side - self.patch
        return [*range(0, last, self.stride), last]

    def among(self, spacing: int) -> Grid:
        """The same grid, counted in features that lie `spacing` pixels apart. Both numbers are multiples of it.

        >>> Grid(patch=128, stride=48).among(16)
        Grid(patch=8, stride=3)
        """
        return Grid(self.patch // spacing, self.stride // spacing)

    def positions(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(top, left) of every patch in an image of size (height, width), row by row. InputError if it is too small."""
        down, across = self.sides(size)
        return [(top, left) for top in down for left in across]

    def sides(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """The offsets along both sides of an image of size (height, width). InputError if it is too small."""
        height, width = size
        if min(height, width) < self.patch:
            raise InputError(
                f"image must be at least one patch large, {self.patch}x{self.patch} pixels, got {width}x{height}; "
                "use larger images, a smaller patch, a larger scale, or pad (--set tiling.pad=true)"
            )
        return self.offsets(height), self.offsets(width)


def patch_batches(blocks: Iterable[Array], grid: Grid, size: tuple[int, int], count: int) -> Iterator[Array]:
    """The patches of an image that comes as blocks of rows (C, h, W), row by row, at most `count` at once.

    Returns: batches (n, C, P, P).
    """
    down, across = grid.sides(size)
    image = RowBuffer(blocks, axis=1)
    side, number = grid.patch, len(down) * len(across)
    for start in range(0, number, count):
        places = [divmod(place, len(across)) for place in range(start, min(start + count, number))]
        first = down[places[0][0]]
        rows = image.take(first, down[places[-1][0]] + side)
        corners = [(down[row] - first, across[column]) for row, column in places]
        yield namespace_of(rows).stack([rows[:, y : y + side, x : x + side] for y, x in corners])


class Merger:
    """Averages patches that come in batches into an image: rows leave as soon as no later patch covers them.

    Every pixel is the weighted mean of the patches that cover it.

    Patches wait until their row is complete, and rows until HELD values have come together or the last patch is in.

    size: (height, width) of the image. weights: `uniform`, or `hann`, which trusts a patch's centre more than its edge.
    """

    def __init__(self, grid: Grid, size: tuple[int, int], weights: Weights = "uniform") -> None:
        self._grid, self._size, self._weights = grid, size, weights
        self._down, self._across = grid.sides(size)
        self._waiting: list[Array] = []
        self._total: Array | None = None  # weighted sums of the rows from `_top` on
        self._top = self._merged = 0  # rows of pixels that left, rows of patches in the sums

    def add(self, patches: Array) -> Array:
        """The rows (C, h, W) that are final once these patches are in, below those that left before; h may be 0.

        patches: (N, C, P, P), in the order of `patch_batches`.
        """
        side, columns = self._grid.patch, len(self._across)
        if patches.ndim != 4 or patches.shape[-2:] != (side, side):
            raise InputError(
                f"patches must be (N, C, {side}, {side}), got {shape_text(tuple(patches.shape))}; "
                "merge them with the grid that split them"
            )
        self._waiting.append(patches)
        number = sum(map(len, self._waiting))
        rows = number // columns
        last = self._merged + rows == len(self._down)
        if rows == 0 or (number * math.prod(patches.shape[1:]) < HELD and not last):
            return zeros_of(patches, patches.shape[1], 0, self._size[1])
        xp = namespace_of(patches)
        waiting = xp.concat(self._waiting) if len(self._waiting) > 1 else patches
        self._waiting = [xp.asarray(waiting[rows * columns :], copy=True)] if number > rows * columns else []
        return self._rows(waiting[: rows * columns].reshape(rows, columns, *patches.shape[1:]))

    def _rows(self, tiles: Array) -> Array:
        """The rows that are final once these rows of patches (R, N, C, P, P) are in."""
        side, width = self._grid.patch, self._size[1]
        profile = constant_like(_profile(side, self._weights), tiles)
        window = profile[:, None] * profile
        tops = self._down[self._merged : self._merged + len(tiles)]
        # Columns of patches into strips, then the strips: an addition for each row and column, not for each patch.
        strips = zeros_of(tiles, len(tops), tiles.shape[2], side, width)
        for column, x in enumerate(self._across):
            add_product(strips[..., x : x + side], tiles[:, column], window)
        held = self._total if self._total is not None else zeros_of(tiles, tiles.shape[2], 0, width)
        new = tops[-1] + side - self._top - held.shape[1]
        total = namespace_of(tiles).concat((held, zeros_of(tiles, tiles.shape[2], new, width)), axis=1)
        for strip, y in zip(strips, tops, strict=True):
            total[:, y - self._top : y - self._top + side] += strip
        self._merged += len(tiles)
        bottom = self._down[self._merged] if self._merged < len(self._down) else self._size[0]
        final, self._total = total[:, : bottom - self._top], total[:, bottom - self._top :]
        down = _cover(self._down, self._top, bottom, profile)
        self._top = bottom
        return final / (down[:, None] * _cover(self._across, 0, width, profile))


def _profile(patch: int, weights: Weights) -> NDArray[np.float32]:
    """Weights along one side, positive everywhere, so that pixels seen by a single patch keep a value."""
    if weights == "uniform":
        return np.ones(patch, np.float32)
    centres = (np.arange(patch, dtype=np.float64) + 0.5) / patch
    found: NDArray[np.float32] = np.square(np.sin(np.pi * centres)).astype(np.float32)
    return found


def _cover(offsets: list[int], start: int, stop: int, profile: Array) -> Array:
    """Sum of the weights that fall on pixels `start` to `stop` of one side: patches lie on a grid, so it separates."""
    patch = len(profile)
    begun = bisect_right(offsets, start - patch)
    cover = zeros_of(profile, stop - start + 2 * patch)
    for offset in offsets[begun : bisect_left(offsets, stop)]:
        place = offset - start + patch
        cover[place : place + patch] += profile
    return cover[patch : patch + stop - start]

"""Cutting an image into overlapping patches and averaging patches back into an image, both as rows come.

A `Merger` of the patches of `patch_batches` gives the image back, for every size of at least one patch, to float32
rounding: the last row and column of patches lie flush with the border, so no pixel goes without a value whatever the
stride.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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


def patch_batches(blocks: Iterable[Tensor], grid: Grid, size: tuple[int, int], count: int) -> Iterator[Tensor]:
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
        yield torch.stack([rows[:, y : y + side, x : x + side] for y, x in corners])


class Merger:
    """Averages patches that come in batches into an image: rows leave as soon as no later patch covers them.

    Every pixel is the weighted mean of the patches that cover it.

    Patches wait until their row is complete, and rows until HELD values have come together or the last patch is in.

    size: (height, width) of the image. weights: `uniform`, or `hann`, which trusts a patch's centre more than its edge.
    """

    def __init__(self, grid: Grid, size: tuple[int, int], weights: Weights = "uniform") -> None:
        self._grid, self._size, self._weights = grid, size, weights
        self._down, self._across = grid.sides(size)
        self._waiting: list[Tensor] = []
        self._total: Tensor | None = None  # weighted sums of the rows from `_top` on
        self._top = self._merged = 0  # rows of pixels that left, rows of patches in the sums

    def add(self, patches: Tensor) -> Tensor:
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
        if rows == 0 or (number * patches[0].numel() < HELD and not last):
            return patches.new_zeros(patches.shape[1], 0, self._size[1])
        waiting = torch.cat(self._waiting) if len(self._waiting) > 1 else patches
        self._waiting = [waiting[rows * columns :].clone()] if number > rows * columns else []
        return self._rows(waiting[: rows * columns].reshape(rows, columns, *patches.shape[1:]))

    def _rows(self, tiles: Tensor) -> Tensor:
        """The rows that are final once these rows of patches (R, N, C, P, P) are in."""
        side, width = self._grid.patch, self._size[1]
        profile = _profile(side, self._weights).to(tiles.device, tiles.dtype)
        window = torch.outer(profile, profile)
        tops = self._down[self._merged : self._merged + len(tiles)]
        # Columns of patches into strips, then the strips: an addition for each row and column, not for each patch.
        strips = tiles.new_zeros(len(tops), tiles.shape[2], side, width)
        for column, x in enumerate(self._across):
            strips[..., x : x + side].addcmul_(tiles[:, column], window)
        held = self._total if self._total is not None else tiles.new_zeros(tiles.shape[2], 0, width)
        new = tops[-1] + side - self._top - held.shape[1]
        total = torch.cat((held, tiles.new_zeros(tiles.shape[2], new, width)), dim=1)
        for strip, y in zip(strips, tops, strict=True):
            total[:, y - self._top : y - self._top + side] += strip
        self._merged += len(tiles)
        bottom = self._down[self._merged] if self._merged < len(self._down) else self._size[0]
        final, self._total = total[:, : bottom - self._top], total[:, bottom - self._top :]
        down = _cover(self._down, self._top, bottom, profile)
        self._top = bottom
        return final / torch.outer(down, _cover(self._across, 0, width, profile))


def _profile(patch: int, weights: Weights) -> Tensor:
    """Weights along one side, positive everywhere, so that pixels seen by a single patch keep a value."""
    if weights == "uniform":
        return torch.ones(patch)
    centres = (torch.arange(patch, dtype=torch.float64) + 0.5) / patch
    return torch.sin(torch.pi * centres).square().to(torch.float32)


def _cover(offsets: list[int], start: int, stop: int, profile: Tensor) -> Tensor:
    """Sum of the weights that fall on pixels `start` to `stop` of one side: patches lie on a grid, so it separates."""
    patch = len(profile)
    begun = bisect_right(offsets, start - patch)
    cover = profile.new_zeros(stop - start + 2 * patch)
    for offset in offsets[begun : bisect_left(offsets, stop)]:
        place = offset - start + patch
        cover[place : place + patch] += profile
    return cover[patch : patch + stop - start]

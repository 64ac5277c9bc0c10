"""Cutting an image into overlapping patches and averaging patches back into an image: a stateless pair.

`merge(split(image, grid), grid, size) == image` for every size of at least one patch, to float32 rounding: the last
row and column of patches lie flush with the border, so no pixel goes without a value whatever the stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flawmap.checks import shape_text
from flawmap.errors import ConfigError, InputError

Weights = Literal["uniform", "hann"]


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

    def positions(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(top, left) of every patch in an image of size (height, width), row by row. InputError if it is too small."""
        height, width = size
        if min(height, width) < self.patch:
            raise InputError(
                f"image must be at least one patch large, {self.patch}x{self.patch} pixels, got {width}x{height}; "
                "use larger images, a smaller patch, a larger scale, or pad (--pad)"
            )
        return [(top, left) for top in self.offsets(height) for left in self.offsets(width)]


def split(image: Tensor, grid: Grid) -> Tensor:
    """The patches (N, C, P, P) of an image (C, H, W), row by row."""
    if image.ndim != 3:
        hint = "; for one image of a batch pass image[0]" if image.ndim == 4 else ""
        raise InputError(f"image must be (C, H, W), got {shape_text(tuple(image.shape))}{hint}")
    height, width = image.shape[-2:]
    side = grid.patch
    return torch.stack([image[:, y : y + side, x : x + side] for y, x in grid.positions((height, width))])


def merge(patches: Tensor, grid: Grid, size: tuple[int, int], weights: Weights = "uniform") -> Tensor:
    """The image (C, H, W) whose every pixel is the weighted mean of the patches that cover it.

    Args:
        patches: (N, C, P, P), in the order of `split`.
        size: (height, width) of the image.
        weights: `uniform`, or `hann`, which trusts a patch's centre more than its edge.
    """
    positions = grid.positions(size)
    if patches.ndim != 4 or patches.shape[-2:] != (grid.patch, grid.patch):
        raise InputError(
            f"patches must be (N, C, {grid.patch}, {grid.patch}), got {shape_text(tuple(patches.shape))}; "
            "merge them with the grid that split them"
        )
    if len(patches) != len(positions):
        raise InputError(f"{size[1]}x{size[0]} pixels are covered by {len(positions)} patches, got {len(patches)}")
    profile = _profile(grid.patch, weights).to(patches.device, patches.dtype)
    window = torch.outer(profile, profile)
    tops, lefts = grid.offsets(size[0]), grid.offsets(size[1])
    tiles = patches.reshape(len(tops), len(lefts), *patches.shape[1:])
    # Columns of patches into strips, then the strips: an addition for each row and column, not for each patch.
    strips = patches.new_zeros(len(tops), patches.shape[1], grid.patch, size[1])
    for column, x in enumerate(lefts):
        strips[..., x : x + grid.patch].addcmul_(tiles[:, column], window)
    total = patches.new_zeros(patches.shape[1], *size)
    for strip, y in zip(strips, tops, strict=True):
        total[:, y : y + grid.patch] += strip
    return total / torch.outer(_cover(grid, size[0], profile), _cover(grid, size[1], profile))


def _profile(patch: int, weights: Weights) -> Tensor:
    """Weights along one side, positive everywhere, so that pixels seen by a single patch keep a value."""
    if weights == "uniform":
        return torch.ones(patch)
    centres = (torch.arange(patch, dtype=torch.float64) + 0.5) / patch
    return torch.sin(torch.pi * centres).square().to(torch.float32)


def _cover(grid: Grid, side: int, profile: Tensor) -> Tensor:
    """Sum of the weights that fall on each pixel of one side: patches lie on a grid, so it separates."""
    cover = profile.new_zeros(side)
    for offset in grid.offsets(side):
        cover[offset : offset + grid.patch] += profile
    return cover

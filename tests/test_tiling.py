"""Patches and back: the inverse law over many sizes, a slow average, exact error texts."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from flawmap.core.errors import ConfigError, InputError
from flawmap.scoring.tiling import Grid, Merger, Weights, patch_batches


@st.composite
def tilings(draw: st.DrawFn) -> tuple[Grid, int, int]:
    """A grid and the height and width of an image of at least one patch."""
    patch = draw(st.integers(1, 20))
    grid = Grid(patch, draw(st.integers(1, patch)))
    return grid, *draw(st.tuples(*[st.integers(patch, patch + 50)] * 2))


def image_of(channels: int, height: int, width: int) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def split(image: Tensor, grid: Grid) -> Tensor:
    """All patches at once."""
    size = image.shape[1], image.shape[2]
    return torch.cat(list(patch_batches([image], grid, size, 10_000)))


def merge(patches: Tensor, grid: Grid, size: tuple[int, int], weights: Weights = "uniform") -> Tensor:
    """The image of all patches at once."""
    return Merger(grid, size, weights).add(patches)


@given(tiling=tilings(), channels=st.integers(1, 3), weights=st.sampled_from(["uniform", "hann"]))
@example((Grid(8, 8), 8, 8), 1, "hann").via("one patch")
@example((Grid(8, 8), 16, 24), 2, "hann").via("no overlap")
@example((Grid(1, 1), 3, 5), 1, "uniform").via("single pixels")
def test_merge_undoes_split(tiling: tuple[Grid, int, int], channels: int, weights: Weights) -> None:
    """merge(split(image)) is the image, to float32 rounding, for every size of at least one patch."""
    grid, height, width = tiling
    image = image_of(channels, height, width)
    merged = merge(split(image, grid), grid, (height, width), weights)
    torch.testing.assert_close(merged, image, rtol=0, atol=5e-6)


def test_the_law_holds_for_the_paper_s_grid() -> None:
    """Patches of 128 every 30 pixels, which do not divide a 1024x700 image, cover and rebuild it."""
    grid, image = Grid(128, 30), image_of(1, 700, 1024)
    patches = split(image, grid)
    assert len(patches) == 21 * 31
    for weights in ("uniform", "hann"):
        torch.testing.assert_close(merge(patches, grid, (700, 1024), weights), image, rtol=0, atol=1e-6)


@given(tiling=tilings())
def test_every_pixel_is_covered_and_the_last_patch_is_flush(tiling: tuple[Grid, int, int]) -> None:
    """No pixel goes unseen, no patch leaves the image, and the last one ends where the image ends."""
    grid, side, _ = tiling
    offsets = grid.offsets(side)
    seen = np.zeros(side, int)
    for offset in offsets:
        seen[offset : offset + grid.patch] += 1
    assert offsets[0] == 0
    assert offsets[-1] == side - grid.patch
    assert offsets == sorted(set(offsets)), "each once, in order"
    assert seen.min() >= 1
    assert max(np.diff(offsets), default=0) <= grid.stride


def test_patches_come_row_by_row_as_they_lie_in_the_image() -> None:
    """The n-th patch is the image from its (top, left) on."""
    grid, image = Grid(6, 4), image_of(2, 15, 13)
    positions = grid.positions((15, 13))
    assert positions[:5] == [(0, 0), (0, 4), (0, 7), (4, 0), (4, 4)]
    for patch, (top, left) in zip(split(image, grid), positions, strict=True):
        assert torch.equal(patch, image[:, top : top + 6, left : left + 6])


@pytest.mark.parametrize("weights", ["uniform", "hann"])
def test_overlaps_are_averaged_as_by_a_slow_loop(weights: Literal["uniform", "hann"]) -> None:
    """Every merged pixel is the weighted mean of the patches that cover it, by the window's own formula."""
    grid, size = Grid(7, 3), (17, 20)
    positions = grid.positions(size)
    patches = torch.rand(len(positions), 2, 7, 7, generator=torch.Generator().manual_seed(0))
    total, cover = np.zeros((2, *size)), np.zeros(size)
    for patch, (top, left) in zip(patches.double().numpy(), positions, strict=True):
        for y in range(7):
            for x in range(7):
                weight = 1.0
                if weights == "hann":
                    weight = np.sin(np.pi * (y + 0.5) / 7) ** 2 * np.sin(np.pi * (x + 0.5) / 7) ** 2
                total[:, top + y, left + x] += weight * patch[:, y, x]
                cover[top + y, left + x] += weight
    np.testing.assert_allclose(merge(patches, grid, size, weights).numpy(), total / cover, rtol=0, atol=1e-6)


def test_hann_trusts_the_centre_more_than_the_edge() -> None:
    """Where two patches overlap, the merged value is nearer to the one whose centre is nearer."""
    grid = Grid(8, 4)
    patches = torch.stack((torch.zeros(1, 8, 8), torch.ones(1, 8, 8)))
    row = merge(patches, grid, (8, 12), "hann")[0, 4]
    assert row[4] < 0.1
    assert row[7] > 0.9
    assert (row.diff() >= 0).all()
    assert merge(patches, grid, (8, 12), "uniform")[0, 4].tolist() == [0] * 4 + [0.5] * 4 + [1] * 4


def test_merging_keeps_the_type() -> None:
    """float64 patches give a float64 image."""
    grid = Grid(4, 3)
    assert merge(split(image_of(1, 9, 9).double(), grid), grid, (9, 9), "hann").dtype == torch.float64


@pytest.mark.parametrize("stride", [0, -3, 9])
def test_a_stride_that_leaves_gaps_is_refused(stride: int) -> None:
    """A stride lies between 1 and the patch."""
    with pytest.raises(ConfigError) as caught:
        Grid(8, stride)
    assert str(caught.value) == f"stride must lie between 1 and the patch, 8, or pixels go unseen; got {stride}"


@pytest.mark.parametrize(("height", "width"), [(64, 200), (200, 127), (1, 1)])
def test_an_image_smaller_than_a_patch_is_refused(height: int, width: int) -> None:
    """The message names both sizes and what to do."""
    message = (
        f"image must be at least one patch large, 128x128 pixels, got {width}x{height}; "
        "use larger images, a smaller patch, a larger scale, or pad (--set tiling.pad=true)"
    )
    for call in (
        lambda: split(image_of(1, height, width), Grid(128, 30)),
        lambda: merge(torch.zeros(1, 1, 128, 128), Grid(128, 30), (height, width)),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (
            torch.zeros(8, 1, 1, 1),
            "patches must be (N, C, 8, 8), got (8, 1, 1, 1); merge them with the grid that split them",
        ),
        (
            torch.zeros(8, 8, 8),
            "patches must be (N, C, 8, 8), got (8, 8, 8); merge them with the grid that split them",
        ),
    ],
)
def test_patches_that_do_not_fit_the_grid_are_refused(patches: Tensor, message: str) -> None:
    """A wrong side of patches names what came and what fits."""
    with pytest.raises(InputError) as caught:
        merge(patches, Grid(8, 4), (12, 20))
    assert str(caught.value) == message

"""Experiments of `gpu.py`: SSIM, cutting and merging as they could be done on a device, beside what flawmap does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from flawmap.core.settings import SSIMSettings
from flawmap.nets.similarity import constants
from flawmap.nets.ssim import window_weights
from flawmap.nets.window_means import _rows
from flawmap.scoring.tiling import Grid, Weights, _profile

Loss = Callable[[Tensor, Tensor], Tensor]


def convolution_ssim(p: Tensor, q: Tensor, settings: SSIMSettings) -> Tensor:
    """SSIM (N, C, H - K + 1, W - K + 1) by grouped convolutions of five maps along each axis, as pytorch-msssim has it.

    p, q: (N, C, H, W) in [0, 1]. Squared means are taken off as they are, without centring.
    """
    channels, (c1, c2) = p.shape[1], constants(settings)
    window = window_weights(settings).to(p.dtype).to(p.device).expand(channels, 1, settings.size)

    def mean(maps: Tensor) -> Tensor:
        rows = functional.conv2d(maps, window[:, :, None], groups=channels)
        return functional.conv2d(rows, window[..., None], groups=channels)

    mu_p, mu_q = mean(p), mean(q)
    sigma_pp, sigma_qq = mean(p * p) - mu_p * mu_p, mean(q * q) - mu_q * mu_q
    sigma_pq = mean(p * q) - mu_p * mu_q
    structure = (2 * sigma_pq + c2) / (sigma_pp + sigma_qq + c2)
    return (2 * mu_p * mu_q + c1) / (mu_p * mu_p + mu_q * mu_q + c1) * structure


class KeptBands:
    """flawmap's SSIM and blur for images of one size, both band matrices made once and kept on the device.

    Of p, the image that is compared with, no gradient is taken: three maps are differentiated instead of four.
    """

    def __init__(self, size: tuple[int, int], weights: Tensor, where: torch.device) -> None:
        """size: (height, width). weights: (K,) of the window along one axis."""
        bands = (torch.from_numpy(_rows(0, side, weights.numpy(), side, "reflect")) for side in size)
        self.down, self.across = (band.float().to(where) for band in bands)

    def blur(self, maps: Tensor) -> Tensor:
        """(..., H, W) to the same, with reflected borders."""
        rows = maps @ self.across.mT
        return (rows.mT @ self.down.mT).mT

    def ssim(self, p: Tensor, q: Tensor, settings: SSIMSettings) -> Tensor:
        """(N, C, H, W) float32, as flawmap.ssim.ssim with all exponents 1."""
        c1, c2 = constants(settings)
        with torch.autocast(p.device.type, enabled=False):
            p, q = p.float(), q.float()
            offset_p, offset_q = (image.detach().mean(dim=(-2, -1), keepdim=True) for image in (p, q))
            p, q = p - offset_p, q - offset_q
            mean_p = self.blur(p)
            mean_q, squares, product = self.blur(torch.stack((q, p * p + q * q, p * q))).unbind(0)
            variances = (squares - (mean_p * mean_p + mean_q * mean_q)).clamp_min(0)
            sigma_pq = product - mean_p * mean_q
            mu_p, mu_q = mean_p + offset_p, mean_q + offset_q
            above = (2 * mu_p * mu_q + c1) * (2 * sigma_pq + c2)
            return above / ((mu_p * mu_p + mu_q * mu_q + c1) * (variances + c2))


def gradient_of(loss: Loss, p: Tensor, q: Tensor) -> Callable[[], Tensor]:
    """Forward and backward: the loss's gradient with respect to q."""
    q = q.detach().requires_grad_()
    return lambda: torch.autograd.grad(loss(p, q), q)[0]


class Places(NamedTuple):
    """Where patches lie, (N,) each: the image's number, the first row and column, and whether each axis is mirrored."""

    image: Tensor
    top: Tensor
    left: Tensor
    upside: Tensor
    across: Tensor


def random_places(images: Tensor, side: int, count: int) -> Places:
    """Evenly over all places of images (N, C, H, W), drawn where they lie."""
    number, _, height, width = images.shape
    ends = (number, height - side + 1, width - side + 1, 2, 2)
    return Places(*(torch.randint(end, (count,), device=images.device) for end in ends))


def cut(images: Tensor, places: Places, side: int) -> Tensor:
    """The patches (N, C, P, P), in channels-last memory, by one gather: mirroring only turns the indices round."""
    steps = torch.arange(side, device=images.device)
    rows, columns = (
        first[:, None] + torch.where(mirrored[:, None] > 0, side - 1 - steps, steps)
        for first, mirrored in ((places.top, places.upside), (places.left, places.across))
    )
    return images.permute(0, 2, 3, 1)[places.image[:, None, None], rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def split_by_rows(image: Tensor, grid: Grid) -> Tensor:
    """As tiling.patch_batches, by one slice for each row and each column of patches."""
    height, width = image.shape[-2:]
    rows = torch.stack([image[:, y : y + grid.patch] for y in grid.offsets(height)])
    return torch.stack([rows[..., x : x + grid.patch] for x in grid.offsets(width)], dim=1).flatten(0, 1)


class Tables:
    """Cutting and merging by tables of indices that are made once for a size and lie on the device."""

    def __init__(self, grid: Grid, size: tuple[int, int], weights: Weights, where: torch.device) -> None:
        """size: (height, width)."""
        self.grid, self.size = grid, size
        offsets = [grid.offsets(side) for side in size]
        self.tops, self.lefts = (torch.tensor(first, device=where) for first in offsets)
        profile = torch.from_numpy(_profile(grid.patch, weights))
        self.window = torch.outer(profile, profile).to(where)
        self.down, self.across = (
            covering(first, grid.patch, side).to(where) for first, side in zip(offsets, size, strict=True)
        )
        tiles = self.window.expand(len(offsets[0]) * len(offsets[1]), 1, -1, -1)
        self.cover = torch.ones(1, device=where)
        self.cover = self.merge(tiles / self.window)

    def split(self, image: Tensor) -> Tensor:
        """As tiling.patch_batches, by one gather."""
        windows = image.unfold(-2, self.grid.patch, 1).unfold(-2, self.grid.patch, 1).permute(1, 2, 0, 3, 4)
        return windows[self.tops[:, None], self.lefts].flatten(0, 1)

    def merge(self, patches: Tensor) -> Tensor:
        """As tiling.Merger. Each pixel gathers what covers it, along one axis and then the other, in one order."""
        tiles = self._tiles(patches)
        strips = _gathered(tiles.permute(0, 2, 3, 1, 4).flatten(-2), self.across)  # (rows, C, P, W)
        total = _gathered(strips.permute(1, 3, 0, 2).flatten(-2), self.down)  # (C, W, H)
        return total.mT / self.cover

    def _tiles(self, patches: Tensor) -> Tensor:
        """(rows, columns, C, P, P), weighted."""
        return (patches * self.window).reshape(len(self.tops), len(self.lefts), *patches.shape[1:])

    def merge_by_addition(self, patches: Tensor) -> Tensor:
        """As tiling.Merger, by index_add: on a GPU in whatever order, so that last bits differ from run to run."""
        (height, width), side = self.size, self.grid.patch
        steps = torch.arange(side, device=patches.device)
        tiles = self._tiles(patches)
        rows, columns = (self.tops[:, None] + steps).flatten(), (self.lefts[:, None] + steps).flatten()
        strips = patches.new_zeros(len(self.tops), patches.shape[1], side, width)
        strips.index_add_(-1, columns, tiles.permute(0, 2, 3, 1, 4).flatten(-2))
        total = patches.new_zeros(patches.shape[1], height, width)
        return total.index_add_(1, rows, strips.transpose(0, 1).flatten(1, 2)) / self.cover


def covering(offsets: Sequence[int], patch: int, side: int) -> Tensor:
    """(M, side): for each pixel of a side, the places that cover it in patches laid end to end.

    Pixels that fewer than M patches cover name a place behind the last one, where zeros lie.
    """
    lists = [
        [number * patch + pixel - first for number, first in enumerate(offsets) if first <= pixel < first + patch]
        for pixel in range(side)
    ]
    most, beyond = max(map(len, lists)), len(offsets) * patch
    return torch.tensor([places + [beyond] * (most - len(places)) for places in lists]).T.contiguous()


def _gathered(laid: Tensor, table: Tensor) -> Tensor:
    """(..., places) to (..., side): the sum of what the table names for each pixel."""
    padded = functional.pad(laid, (0, 1))
    total = padded[..., table[0]]
    for places in table[1:]:
        total = total + padded[..., places]
    return total

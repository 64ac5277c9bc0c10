"""Good patches painted over at random, for a network that is to give back the clean ones.

A network that only ever sees good patches may learn to copy whatever it is shown, flaws included. One that must undo
stains of random outline, texture and brightness learns what belongs there instead (denoising autoencoders: Vincent et
al. 2008, doi:10.1145/1390156.1390294). No real flaw is imitated: a stain is a piece of another good patch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flawmap.core.checks import image_batch
from flawmap.core.errors import InputError
from flawmap.nets.filters import blur

GRAINS = (4, 8, 14)  # knots along a side of the noise whose level sets are the outlines: coarse to fine
AREA = (0.02, 0.27)  # of the patch
OPACITY = (0.4, 1.0)
CONTRAST = (0.0, 1.6)  # of the stain's texture, against what it was taken from
SHIFT = (-0.25, 0.25)  # of its mean intensity
SOFT = 9  # pixels: the window that smooths some of the textures
EDGE = 8.0  # how steeply outlines rise, per unit of the noise
SAMPLED = 4  # pixels between those that the level of an outline is taken from


def corrupted(patches: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Some of the patches with a stain painted over, the others as they are.

    Args:
        patches: (N, C, P, P) float32 in [0, 1], N at least 2 for a stain to come from another patch.
        share: of the patches that get a stain, on average, from 0 to 1.
        generator: of the CPU; the same state gives the same stains.
    Returns:
        (N, C, P, P) float32 in [0, 1], a new tensor.
    """
    image_batch(patches, "patches")
    count = len(patches)
    chosen = _uniform(count, (0, 1), generator) < share
    cover = chosen * _uniform(count, OPACITY, generator) * _outlines(count, patches.shape[-1], generator)
    return (patches + cover * (_stains(patches, generator) - patches)).clamp(0, 1)


def _outlines(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(N, 1, P, P) from 0 to 1: the highest part of smooth noise, of a random area."""
    grain = torch.randint(len(GRAINS), (count,), generator=generator)
    noise = torch.empty(count, 1, side, side)
    for place, knots in enumerate(GRAINS):
        coarse = torch.rand(count, 1, knots, knots, generator=generator)
        rise = functional.interpolate(torch.eye(knots)[None, None], size=(side, knots), mode="bicubic")[0, 0]
        noise[grain == place] = rise @ coarse[grain == place] @ rise.T  # bicubic, as two small matrix products
    heights = noise[..., ::SAMPLED, ::SAMPLED].flatten(1).sort(dim=1, descending=True).values
    area = _uniform(count, AREA, generator).flatten()
    level = heights.gather(1, (area * heights.shape[1]).long()[:, None])
    return ((noise - level[..., None, None]) * EDGE).clamp(0, 1)


def _stains(patches: Tensor, generator: torch.Generator) -> Tensor:
    """(N, C, P, P): another patch upside down, more or less smoothed, with another contrast and brightness."""
    count = len(patches)
    other = patches.roll(1, 0).flip(2)
    smooth = blur(other.movedim(2, 0), torch.full((SOFT,), 1 / SOFT), "reflect").movedim(0, 2)
    sharp = _uniform(count, (0, 1), generator) < 0.2
    weight = torch.where(sharp, 0.0, _uniform(count, (0, 1), generator))
    texture = other + weight * (smooth - other)
    mean = texture.mean(dim=(2, 3), keepdim=True)
    return (texture - mean) * _uniform(count, CONTRAST, generator) + mean + _uniform(count, SHIFT, generator)


def _uniform(count: int, ends: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(N, 1, 1, 1) evenly between two ends."""
    return ends[0] + (ends[1] - ends[0]) * torch.rand(count, 1, 1, 1, generator=generator)


def augment(
    patches: NDArray[np.float32], how: Literal["none", "flips", "turns"], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Each (C, P, P) patch mirrored at random, both ways ("flips"), and by "turns" also turned by quarters.

    All 4 (8) positions are equally likely. The argument is not changed; "none" returns it.
    """
    if how == "none":
        return patches
    if how not in ("flips", "turns"):
        raise InputError(f"augment must be none, flips or turns, got {how!r}")
    turned = np.empty_like(patches)
    choices = rng.integers(0, 2, size=(len(patches), 3))
    for target, patch, (upside, across, diagonal) in zip(turned, patches, choices, strict=True):
        view = patch[:, ::-1] if upside else patch
        view = view[:, :, ::-1] if across else view
        # Both mirrors and the transposition make up the square's eight symmetries, quarter turns among them.
        target[...] = view.transpose(0, 2, 1) if diagonal and how == "turns" else view
    return turned

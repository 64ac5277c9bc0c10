"""Random patches of training images. NumPy only; tensors are made by whoever trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flawmap.checks import finite
from flawmap.errors import InputError
from flawmap.records import Mask

Patches = NDArray[np.float32]
"""(N, C, P, P) float32 in [0, 1]."""


class PatchSource:
    """Patches drawn evenly over all places of all images where a whole patch lies inside.

    An image with twice the places is drawn from twice as often.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float32]],
        valid: Sequence[Mask | None],
        patch: int,
        names: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            images: (H, W, C) float32 in [0, 1] at the size they are worked at, one C for all. valid: for each, None
                or (H, W) bool, True = inside. patch: P, pixels. names: for each, what messages call it.
        Raises:
            InputError: no images, NaN in one, or one without a place for a patch.
        """
        if not images:
            raise InputError("no images to take patches from")
        if len(valid) != len(images):
            raise InputError(f"{len(images)} images need as many masks (or None), got {len(valid)}")
        for image, mask in zip(images, valid, strict=True):
            if mask is not None and mask.shape != image.shape[:2]:
                raise InputError(f"a mask has its image's shape, {image.shape[:2]}, got {mask.shape}")
        if len({image.shape[2] for image in images}) > 1:
            raise InputError("images must have one number of channels, got grey and colour; convert them to one mode")
        labels = names or [f"image {number}" for number in range(len(images))]
        self.patch = patch
        self._images = [
            np.ascontiguousarray(np.moveaxis(image, 2, 0), dtype=np.float32) for image in images
        ]  # (C, H, W): a patch's rows are whole runs of memory
        for image, label in zip(self._images, labels, strict=True):
            finite(image, label)
        self._places = [
            None if mask is None else _places(mask, patch, label) for mask, label in zip(valid, labels, strict=True)
        ]
        counts = [
            _count(image, places, patch, label)
            for image, places, label in zip(self._images, self._places, labels, strict=True)
        ]
        self._ends = np.cumsum(counts)

    @property
    def channels(self) -> int:
        return int(self._images[0].shape[0])

    @property
    def places(self) -> int:
        """How many different patches there are."""
        return int(self._ends[-1])

    def sample(self, count: int, rng: np.random.Generator) -> Patches:
        """(count, C, P, P) float32, drawn with replacement."""
        return self.cut(self.draw(count, rng))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(count,) numbers of patches, from 0 to `places` - 1, all equally likely."""
        return rng.integers(0, self.places, size=count)

    def cut(self, numbers: NDArray[np.int64]) -> Patches:
        """(count, C, P, P) float32: the patches with these numbers."""
        side = self.patch
        patches = np.empty((len(numbers), self.channels, side, side), dtype=np.float32)
        chosen = np.searchsorted(self._ends, numbers, side="right")
        starts = numbers - np.concatenate([[0], self._ends])[chosen]
        for patch, image_number, place in zip(patches, chosen, starts, strict=True):
            image, places = self._images[image_number], self._places[image_number]
            corner = int(place if places is None else places[place])
            top, left = divmod(corner, image.shape[2] - side + 1)
            patch[...] = image[:, top : top + side, left : left + side]
        return patches


def augment(patches: Patches, how: Literal["none", "flips", "turns"], rng: np.random.Generator) -> Patches:
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


def _places(mask: Mask, patch: int, label: str) -> NDArray[np.integer]:
    """Numbers (row * columns + column) of the top left pixels whose whole patch is inside, by a summed-area table."""
    height, width = mask.shape
    if height < patch or width < patch:
        _refuse(label, height, width, patch)
    table = np.zeros((height + 1, width + 1), dtype=np.int64)
    table[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    inside = table[patch:, patch:] - table[:-patch, patch:] - table[patch:, :-patch] + table[:-patch, :-patch]
    places = np.flatnonzero(inside == patch * patch)
    if places.size == 0:
        raise InputError(
            f"no patch of {patch} x {patch} pixels fits into the region of interest of {label} "
            f"({width} x {height}, {int(mask.sum()):,} pixels inside); take a smaller patch or a wider region"
        )
    return places.astype(np.int32) if inside.size <= np.iinfo(np.int32).max else places


def _count(image: NDArray[np.float32], places: NDArray[np.integer] | None, patch: int, label: str) -> int:
    _, height, width = image.shape
    if height < patch or width < patch:
        _refuse(label, height, width, patch)
    return (height - patch + 1) * (width - patch + 1) if places is None else len(places)


def _refuse(label: str, height: int, width: int, patch: int) -> None:
    raise InputError(
        f"{label} is {width} x {height} as worked, a patch is {patch} x {patch}; "
        "take a smaller patch, a larger scale, or leave the image out"
    )

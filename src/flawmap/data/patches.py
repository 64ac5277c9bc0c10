"""Random patches of training images, wherever these are kept. NumPy only; training makes tensors of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import finite
from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.data.tile_store import Corner, MemoryStore, Store
from flawmap.imaging.padding import padding_of
from flawmap.imaging.reading import ImageRows, Pixels

Patches = NDArray[np.float32]
"""(N, C, P, P) float32 in [0, 1]."""


@dataclass(frozen=True)
class TrainingImage:
    """An image, or an area of one, to take patches from.

    image: (H, W, C) float32 in [0, 1] at the working scale, or the same by bands of rows. inside: None (all of it) or
    (H, W) bool, True = inside. name: used in messages; empty: its number is used.
    """

    image: Pixels | ImageRows
    inside: Mask | None = None
    name: str = ""

    @property
    def rows(self) -> ImageRows:
        return self.image if isinstance(self.image, ImageRows) else ImageRows.of(self.image)

    @property
    def pixels(self) -> Pixels:
        """(H, W, C): the whole image."""
        return self.rows.pixels()


def padded(image: TrainingImage, patch: int) -> TrainingImage:
    """The image, extended by reflection to the side of a patch where it is smaller: just as it is when it is scored.

    Raises:
        InputError: it is too small for that.
    """
    rows = image.rows
    height, width, channels = rows.shape
    left, right, top, bottom = padding_of(height, width, patch, pad=True)
    if not (left or right or top or bottom):
        return image
    sides = ((top, bottom), (left, right))

    def bands() -> Iterator[Pixels]:
        # An image lower than a patch has few rows, which reflect each other.
        for band in [rows.pixels()] if top or bottom else rows.bands():
            yield np.pad(band, (*sides, (0, 0)), mode="reflect")

    shape = (top + height + bottom, left + width + right, channels)
    inside = None if image.inside is None else np.pad(image.inside, sides, mode="reflect")
    return TrainingImage(ImageRows(shape, bands, path=rows.path, whole=rows.whole), inside, image.name)


class PatchSource:
    """Patches drawn evenly over all places of all images where a whole patch lies inside.

    An image with twice the places is drawn from twice as often. Images lie in a store; masks are not kept, but the runs
    of places that they leave.
    """

    def __init__(self, images: Iterable[TrainingImage], patch: int, store: Store | None = None) -> None:
        """
        Args:
            images: all of one number of channels, taken one by one; only the store keeps them.
            patch: P, pixels. store: where they are put, empty so far; None: memory.
        Raises:
            InputError: no images, NaN in one, or one without a place for a patch.
        """
        self.patch = patch
        self.channels = 0  # until there is an image
        self._store: Store = MemoryStore() if store is None else store
        self._fields: list[_Field] = []
        counts = [self._add(image) for image in images]
        if not counts:
            raise InputError("no images to take patches from")
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])  # each image's first; last, their sum

    def _add(self, image: TrainingImage) -> int:
        """Take in an image. Returns how many patches it has."""
        rows, inside, name = image.rows, image.inside, image.name or f"image {len(self._fields)}"
        height, width, channels = rows.shape
        if inside is not None and inside.shape != (height, width):
            raise InputError(f"a mask has its image's shape, {(height, width)}, got {inside.shape}")
        if channels != (self.channels or channels):
            raise InputError("images must have one number of channels, got grey and colour; convert them to one mode")
        if height < self.patch or width < self.patch:
            raise InputError(
                f"{name} is {width} x {height} at the working scale, a patch is {self.patch} x {self.patch}; take a "
                "smaller patch, a larger scale, reflect borders (--set tiling.pad=true), or leave the image out"
            )
        columns = width - self.patch + 1
        runs = None if inside is None else _Runs.of(_places(inside, self.patch, name))
        bands = rows.bands()
        self._store.add((channels, height, width), (_checked(band, name) for band in bands))
        next(bands, None)  # the end: a file is closed then, and its notes are complete
        self.channels = channels
        self._fields.append(_Field(columns, runs))
        return (height - self.patch + 1) * columns if runs is None else runs.places

    @property
    def places(self) -> int:
        """How many different patches there are."""
        return int(self._starts[-1])

    def sample(self, count: int, rng: np.random.Generator) -> Patches:
        """(count, C, P, P) float32, drawn with replacement."""
        return self.cut(self.draw(count, rng))

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(count,) numbers of patches, from 0 to `places` - 1, all equally likely."""
        return rng.integers(0, self.places, size=count)

    def cut(self, numbers: NDArray[np.int64]) -> Patches:
        """(count, C, P, P) float32: the patches with these numbers."""
        patches = np.empty((len(numbers), self.channels, self.patch, self.patch), dtype=np.float32)
        chosen = np.searchsorted(self._starts, numbers, side="right") - 1
        places = numbers - self._starts[chosen]
        corners = [self._corner(image, place) for image, place in zip(chosen.tolist(), places.tolist(), strict=True)]
        self._store.read(corners, patches)
        return patches

    def _corner(self, image: int, place: int) -> Corner:
        columns, runs = self._fields[image]
        return Corner(image, *divmod(place if runs is None else runs.number(place), columns))


def _checked(band: Pixels, name: str) -> NDArray[np.float32]:
    """(C, h, W): a band of rows, without NaN."""
    finite(band, name)
    return np.moveaxis(band, 2, 0)


class _Runs(NamedTuple):
    """Ascending numbers as runs of neighbours. starts: the first of each run. ends: how many there are up to its end.

    Between two runs of a row at least P places are missing, since a hole in the mask costs all patches that reach it.
    So a row has at most (W + 1) / (P + 1) runs, and those of an image take 8 / P bytes a pixel at the very most.
    """

    starts: NDArray[np.integer]
    ends: NDArray[np.integer]

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> _Runs:
        ends = np.append(np.flatnonzero(np.diff(numbers) != 1) + 1, len(numbers))
        starts = numbers[np.append(0, ends[:-1])]
        narrow = np.int32 if numbers[-1] <= np.iinfo(np.int32).max else np.int64
        return cls(starts.astype(narrow), ends.astype(narrow))

    @property
    def places(self) -> int:
        return int(self.ends[-1])

    def number(self, place: int) -> int:
        """The value at index `place` of the ascending sequence that these runs encode."""
        run = int(np.searchsorted(self.ends, place, side="right"))
        return int(self.starts[run]) + place - (int(self.ends[run - 1]) if run else 0)


class _Field(NamedTuple):
    """The places of an image. columns: how many there are in a row. runs: the places that count; None: all."""

    columns: int
    runs: _Runs | None


def _places(mask: Mask, patch: int, label: str) -> NDArray[np.int64]:
    """Numbers (row * columns + column) of the top left pixels whose whole patch is inside, by a summed-area table."""
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1), dtype=np.int64)
    table[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    inside = table[patch:, patch:] - table[:-patch, patch:] - table[patch:, :-patch] + table[:-patch, :-patch]
    places = np.flatnonzero(inside == patch * patch)
    if places.size == 0:
        raise InputError(
            f"no patch of {patch} x {patch} pixels fits into the region of interest of {label} "
            f"({width} x {height}, {int(mask.sum()):,} pixels inside); take a smaller patch or a wider region"
        )
    return places

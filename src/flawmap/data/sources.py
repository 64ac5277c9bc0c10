"""Patches of a training's images: from memory where these fit, else from a file beside the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from flawmap.core.errors import InputError
from flawmap.core.files import enough_space, size_text, unwritable
from flawmap.core.settings import ImageSettings
from flawmap.data.loading import LoadStatistics, pieces, refuse_mixed
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.splits import ImageRegion
from flawmap.data.tile_store import FLOAT32, STORAGE_DTYPES, MemoryStore, StorageDtype, TileStore
from flawmap.imaging.codecs import Header, read_header
from flawmap.imaging.resize import scale_of_part, working_size
from flawmap.imaging.roi import box_within

log = logging.getLogger(__name__)

SAY_SECONDS = 30  # between two sentences on how many images have been read

WHITES = {"bool": 255, "uint8": 255, "uint16": 65535}
"""What stored values are divided by, unless told otherwise."""


@dataclass(frozen=True)
class StorageEstimate:
    """What images take as they are worked, by their headers. channels: 1 or 3. memory, disk: bytes.

    A region of interest by masks or brightness may cut away more. The disk is reckoned with 1 or 2 bytes a value where
    files hold integers that nothing is done to but dividing them, else with 4.
    """

    channels: int
    memory: int
    disk: int


def storage_estimate(areas: Sequence[ImageRegion], settings: ImageSettings) -> StorageEstimate:
    """What these areas need, before any of them is read.

    Raises:
        InputError: one cannot be read, the box of the region of interest does not lie in it, or grey and colour are
            mixed.
    """
    sizes = [_Worked.of(area, settings) for area in areas]
    refuse_mixed(size.channels for size in sizes)
    return StorageEstimate(sizes[0].channels, sum(size.memory for size in sizes), sum(size.disk for size in sizes))


@contextmanager
def open_patches(
    areas: Sequence[ImageRegion],
    settings: ImageSettings,
    patch: int,
    *,
    budget: int,
    path: Path,
    say: Callable[[str], None] = log.info,
) -> Iterator[tuple[PatchSource, LoadStatistics]]:
    """A source of patches of these areas, and what is to be said of their images, while the context lasts.

    The patches are the same, bit for bit, wherever they come from.

    Args:
        patch: P, pixels. budget: bytes of memory that the images may take. path: a file to put them in if they take
            more; it goes when the context ends. say: told in a sentence if that is so, and how far it has come.
    Raises:
        InputError: images that cannot be trained on, or too little room on the disk.
        OutputError: the file cannot be written.
    """
    try:
        path.unlink(missing_ok=True)  # what a training that was killed has left
    except OSError as error:
        raise unwritable(path, error) from error
    needs = storage_estimate(areas, settings)
    on_disk = needs.memory > budget
    if on_disk:
        _room(path, needs)
        say(
            f"{len(areas)} images or areas take {size_text(needs.memory)} of memory, {size_text(budget)} may be used "
            f"(training.memory_gb): patches are read from {path}, which takes {size_text(needs.disk)}"
        )
    with TileStore(path) if on_disk else nullcontext(MemoryStore()) as store:
        tally = LoadStatistics()
        read = _told(pieces(areas, settings, tally), lambda done: say(f"{done} of {len(areas)} images or areas read"))
        yield PatchSource(read, patch, store), tally


def _told(coming: Iterable[TrainingImage], say: Callable[[int], None]) -> Iterator[TrainingImage]:
    """Images as they come. say: told now and then how many there were."""
    told = time.monotonic()
    for done, piece in enumerate(coming, start=1):
        yield piece
        if time.monotonic() - told > SAY_SECONDS:
            say(done)
            told = time.monotonic()


def _room(path: Path, needs: StorageEstimate) -> None:
    try:
        enough_space(path.absolute().parent, needs.disk)
    except InputError as error:
        enough = needs.memory / 1e9 + 0.1
        raise InputError(f"{error}, or hold the images in memory (--set training.memory_gb={enough:.1f})") from None


@dataclass(frozen=True)
class _Worked:
    """An area as it will be worked. height, width: pixels. form: what its values are likely to be stored in."""

    channels: int
    height: int
    width: int
    form: StorageDtype

    @classmethod
    def of(cls, area: ImageRegion, settings: ImageSettings) -> _Worked:
        header = read_header(area.path)
        channels = {"grey": 1, "colour": 3, "auto": header.channels}[settings.mode]
        whole = (header.height, header.width)
        left, top, right, bottom = area.box or (0, 0, header.width, header.height)
        if settings.roi.box is not None:
            inside = box_within(area.path, whole, settings.roi.box)
            left, top = max(left, inside[0]), max(top, inside[1])
            right, bottom = min(right, inside[2]), min(bottom, inside[3])
        cut = (max(0, bottom - top), max(0, right - left))
        sized = working_size(*cut, scale_of_part(settings.scale, whole, cut))
        as_stored = sized == cut and channels >= header.channels
        return cls(channels, *sized, _likely_form(header, settings) if as_stored else FLOAT32)

    @property
    def memory(self) -> int:
        return 4 * self.channels * self.height * self.width

    @property
    def disk(self) -> int:
        return self.form.bytes_of(self.channels, self.height, self.width)


def _likely_form(header: Header, settings: ImageSettings) -> StorageDtype:
    white = settings.white or WHITES.get(header.stored)
    stored = "uint8" if header.stored == "bool" else header.stored
    return next((form for form in STORAGE_DTYPES if form.white == white and form.dtype.__name__ == stored), FLOAT32)

"""Image files to training images: cut, scaled, by bands of rows; and to a source of their patches."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.files import enough_space, size_text, unwritable
from flawmap.core.settings import ImageSettings
from flawmap.data.index import ImageIndex
from flawmap.data.patches import PatchSource, TrainingImage, padded
from flawmap.data.splits import ImageRegion
from flawmap.data.tile_store import FLOAT32, STORAGE_DTYPES, MemoryStore, StorageDtype, TileStore
from flawmap.imaging.codecs import Header
from flawmap.imaging.reading import ImageRows, Pixels, opened_image, to_channels
from flawmap.imaging.resize import resized_bands, scale_of_part, to_size, working_size
from flawmap.imaging.roi import Box, Roi, box_within, find_roi

log = logging.getLogger(__name__)

SAY_SECONDS = 30  # between two sentences on how many images have been read


@dataclass(frozen=True)
class LoadStatistics:
    """Statistics of images that are read one by one; complete once the last was read.

    notes: how many images a sentence is true of. stored: images by their type of values. sizes: images by their size at
    the working scale, "WxH".
    """

    notes: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)


def pieces(
    areas: Iterable[ImageRegion],
    settings: ImageSettings,
    tally: LoadStatistics,
    *,
    channels: int | None = None,
    index: ImageIndex | None = None,
) -> Iterator[TrainingImage]:
    """The areas at the working scale, one by one. The pixels of one are read when they are asked for.

    Args:
        tally: grows when the next area is asked for. channels: 1 or 3, to which images are brought; None: as they are.
    Raises:
        InputError: an unreadable file, or what `load_area` raises.
    """
    index = index or ImageIndex()
    for area in areas:
        notes: list[str] = []
        piece = load_area(area, settings, channels=channels, notes=notes)
        yield piece
        tally.notes.update(dict.fromkeys(notes, 1))
        tally.stored[index.header(area.path).stored] += 1
        tally.sizes[f"{piece.rows.shape[1]}x{piece.rows.shape[0]}"] += 1


def load_area(
    area: ImageRegion, settings: ImageSettings, *, channels: int | None = None, notes: list[str] | None = None
) -> TrainingImage:
    """An area at the working scale: cut out, cut down to the region of interest's bounding box, then scaled.

    Its pixels are read, by bands of rows, whenever they are asked for; `notes` grows then.

    Raises:
        InputError: unreadable, a box or region that does not fit, or nothing of the area inside the region.
    """
    with _advised(), opened_image(area.path, settings) as image:
        shape = image.shape
    with opened_image(area.path, settings) as image:
        roi, box = _roi_of(area, image, settings)
    target = working_size(*_size(box), scale_of_part(settings.scale, shape[:2], _size(box)))
    wanted = channels or shape[2]

    def bands() -> Iterator[Pixels]:
        with _advised(), opened_image(area.path, settings) as image:
            converted = (to_channels(band, wanted) for band in image.cut(box).bands())
            yield from resized_bands(converted, _size(box), target)
            if notes is not None:
                notes.extend(image.notes)

    rows = ImageRows((*target, wanted), bands, path=area.path, whole=shape[:2])
    return TrainingImage(rows, _scaled(roi, target), str(area.path))


@contextmanager
def _advised() -> Iterator[None]:
    """An image that cannot be read need not stop a training."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; remove it, or leave such files out with --skip-unreadable") from error


def _roi_of(area: ImageRegion, image: ImageRows, settings: ImageSettings) -> tuple[Roi, Box]:
    """The region of interest within an area, and the box around it in the image's own pixels."""
    height, width = image.shape[:2]
    left, top, right, bottom = area.box or (0, 0, width, height)
    if right > width or bottom > height:
        raise InputError(f"the area {area.box} does not lie in {area.path}, {width} x {height}; has the file changed?")
    roi = find_roi(image, settings.roi).cut((left, top, right, bottom))
    if roi is None:
        raise InputError(f"nothing of {area.path}, area {area.box}, lies in the region of interest")
    return roi, (left + roi.box[0], top + roi.box[1], left + roi.box[2], top + roi.box[3])


def _scaled(roi: Roi, target: tuple[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]] | None:
    """The region within its box at the working scale; None: all of it. No pixel inside has a share outside."""
    if roi.mask is None:
        return None
    left, top, right, bottom = roi.box
    inside = roi.mask[top:bottom, left:right]
    if inside.all():
        return None
    return inside if inside.shape == target else to_size(inside.astype(np.float32), target) > 1 - 1e-4


def _size(box: Box) -> tuple[int, int]:
    return box[3] - box[1], box[2] - box[0]


# ------------------------------------------------------------------------------------------------------------ estimates


@dataclass(frozen=True)
class StorageEstimate:
    """What images take at the working scale, by their headers. channels: 1 or 3. memory, disk: bytes.

    A region of interest by masks or brightness may cut away more. On disk, values take 1 or 2 bytes where files hold
    integers that are only divided by their type's largest value, else 4.
    """

    channels: int
    memory: int
    disk: int


def storage_estimate(
    areas: Sequence[ImageRegion],
    settings: ImageSettings,
    *,
    channels: int | None = None,
    least: int = 0,
    index: ImageIndex | None = None,
) -> StorageEstimate:
    """What these areas need, before any of them is read.

    Args:
        channels: 1 or 3, to which all are brought; None: what their headers say. least: the side, in pixels, to which
            smaller images are padded.
    Raises:
        InputError: one cannot be read, the box of the region of interest does not lie in it, or grey and colour are
            mixed.
    """
    index = index or ImageIndex()
    headers = [index.header(area.path) for area in areas]
    kinds = Counter(_channels(header, settings) for header in headers)
    if channels is None and len(kinds) > 1:
        raise InputError(
            f"the images are mixed: {kinds[1]} grey and {kinds[3]} in colour; make them alike with "
            "--mode grey or --mode colour"
        )
    found = channels or next(iter(kinds), 1)
    memory = disk = 0
    for area, header in zip(areas, headers, strict=True):
        size, target = working_area(area, header, settings)
        height, width = (max(side, least) for side in target)
        as_stored = size == target and found >= header.channels
        form = _likely_form(header, settings) if as_stored else FLOAT32
        memory += 4 * found * height * width
        disk += form.bytes_of(found, height, width)
    return StorageEstimate(found, memory, disk)


def working_area(area: ImageRegion, header: Header, settings: ImageSettings) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of an area within the box of the region of interest, in its own pixels and at the working scale.

    A region by masks or brightness may cut away more; that takes more than a header to know.
    """
    whole = (header.height, header.width)
    left, top, right, bottom = area.box or (0, 0, header.width, header.height)
    if settings.roi.box is not None:
        inside = box_within(area.path, whole, settings.roi.box)
        left, top = max(left, inside[0]), max(top, inside[1])
        right, bottom = min(right, inside[2]), min(bottom, inside[3])
    size = (max(0, bottom - top), max(0, right - left))
    return size, working_size(*size, scale_of_part(settings.scale, whole, size))


def _channels(header: Header, settings: ImageSettings) -> int:
    return {"grey": 1, "colour": 3, "auto": header.channels}[settings.mode]


def _likely_form(header: Header, settings: ImageSettings) -> StorageDtype:
    stored = "uint8" if header.stored == "bool" else header.stored
    forms = (form for form in STORAGE_DTYPES if form.dtype.__name__ == stored)
    return next((form for form in forms if settings.white in (None, form.white)), FLOAT32)


# --------------------------------------------------------------------------------------------------- source of patches


@contextmanager
def open_patches(
    areas: Sequence[ImageRegion],
    settings: ImageSettings,
    patch: int,
    *,
    budget: int,
    path: Path,
    channels: int | None = None,
    pad: bool = False,
    index: ImageIndex | None = None,
    say: Callable[[str], None] = log.info,
) -> Iterator[tuple[PatchSource, LoadStatistics]]:
    """Context manager: yields a patch source for these image regions, and statistics of the images read.

    The patches are the same, bit for bit, in memory and on disk.

    Args:
        patch: P, pixels.
        budget: bytes of memory that the images may take.
        path: a file to put them in if they take more; it is removed when the context ends.
        channels: 1 or 3, to which images are brought; None: as they are.
        pad: extend images that are smaller than a patch by reflection.
        say: told in a sentence if images go to disk, and how many were read.
    Raises:
        InputError: images that cannot be trained on, or too little room on the disk.
        OutputError: the file cannot be written.
    """
    try:
        path.unlink(missing_ok=True)  # left by a training that was killed
    except OSError as error:
        raise unwritable(path, error) from error
    index = index or ImageIndex()
    needs = storage_estimate(areas, settings, channels=channels, least=patch if pad else 0, index=index)
    on_disk = needs.memory > budget
    if on_disk:
        _room(path, needs)
        say(
            f"{len(areas)} images or areas take {size_text(needs.memory)} of memory, {size_text(budget)} may be used "
            f"(training.memory_gb): patches are read from {path}, which takes {size_text(needs.disk)} and is written "
            "now"
        )
    with TileStore(path) if on_disk else nullcontext(MemoryStore()) as store:
        tally = LoadStatistics()
        read = pieces(areas, settings, tally, channels=needs.channels, index=index)
        sized = (padded(piece, patch) for piece in read) if pad else read
        yield (
            PatchSource(_told(sized, lambda done: say(f"{done} of {len(areas)} images or areas read")), patch, store),
            tally,
        )


def _told(images: Iterable[TrainingImage], say: Callable[[int], None]) -> Iterator[TrainingImage]:
    """The same images. say: told now and then how many there were."""
    told = time.monotonic()
    for done, piece in enumerate(images, start=1):
        yield piece
        if time.monotonic() - told > SAY_SECONDS:
            say(done)
            told = time.monotonic()


def _room(path: Path, needs: StorageEstimate) -> None:
    try:
        enough_space(path.absolute().parent, needs.disk)
    except InputError as error:
        gigabytes = f"{needs.memory / 1e9 + 0.1:.1f}"
        raise InputError(f"{error}, or hold the images in memory (--set training.memory_gb={gigabytes})") from None

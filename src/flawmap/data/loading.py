"""Image files to training images: cut, scaled, by bands of rows; and to a source of their patches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import enough_space, size_text, unwritable
from flawmap.core.records import Mask
from flawmap.core.settings import ImageSettings
from flawmap.data.index import ImageIndex
from flawmap.data.patches import PatchSource, TrainingImage, padded
from flawmap.data.splits import ImageRegion
from flawmap.data.tile_store import FLOAT32, STORAGE_DTYPES, MemoryStore, StorageDtype, TileStore
from flawmap.imaging.decoded import Header
from flawmap.imaging.reading import ImageRows, Pixels, opened_image, to_channels
from flawmap.imaging.resize import resized_bands, scale_of_part, to_size, working_size
from flawmap.imaging.roi import Box, Roi, box_within, find_roi


@dataclass(frozen=True)
class LoadStatistics:
    """Statistics of images that are read one by one; complete once the last was read.

    notes: how many images a sentence is true of. stored: images by their type of values. sizes: images by their size at
    the working scale, "WxH".
    """

    notes: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)


def training_images(
    regions: Iterable[ImageRegion],
    settings: ImageSettings,
    statistics: LoadStatistics,
    *,
    channels: int | None = None,
    index: ImageIndex | None = None,
) -> Iterator[TrainingImage]:
    """The regions at the working scale, one by one. The pixels of one are read when they are asked for.

    Args:
        statistics: grows when the next region is asked for. channels: 1 or 3, to which images are brought; None: as
            they are.
    Raises:
        InputError: an unreadable file, or what `load_region` raises.
    """
    index = index or ImageIndex()
    for region in regions:
        notes: list[str] = []
        image = load_region(region, settings, channels=channels, notes=notes)
        yield image
        statistics.notes.update(dict.fromkeys(notes, 1))
        statistics.stored[index.header(region.path).stored] += 1
        statistics.sizes[f"{image.rows.shape[1]}x{image.rows.shape[0]}"] += 1


def load_region(
    region: ImageRegion, settings: ImageSettings, *, channels: int | None = None, notes: list[str] | None = None
) -> TrainingImage:
    """A region of an image at the working scale: cut out, cut down to the box of the region of interest, then scaled.

    Its pixels are read, by bands of rows, whenever they are asked for; `notes` grows then.

    Raises:
        InputError: unreadable, a box or region that does not fit, or nothing of it inside the region of interest.
    """
    with advised(), opened_image(region.path, settings) as image:
        shape = image.shape
    with opened_image(region.path, settings) as image:
        roi, box = _roi_of(region, image, settings)
    target = working_size(*_size(box), scale_of_part(settings.scale, shape[:2], _size(box)))
    wanted = channels or shape[2]

    def bands() -> Iterator[Pixels]:
        with advised(), opened_image(region.path, settings) as image:
            converted = (to_channels(band, wanted) for band in image.cut(box).bands())
            yield from resized_bands(converted, _size(box), target)
            if notes is not None:
                notes.extend(image.notes)

    rows = ImageRows((*target, wanted), bands, path=region.path, whole=shape[:2])
    return TrainingImage(rows, _scaled(roi, target), str(region.path))


@contextmanager
def advised() -> Iterator[None]:
    """Add to an InputError that an image that cannot be read need not stop a training."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; remove it, or leave such files out with --skip-unreadable") from error


def _roi_of(region: ImageRegion, image: ImageRows, settings: ImageSettings) -> tuple[Roi, Box]:
    """The region of interest within a region of an image, and the box around it in the image's own pixels."""
    height, width = image.shape[:2]
    left, top, right, bottom = region.box or (0, 0, width, height)
    if right > width or bottom > height:
        raise InputError(
            f"the area {region.box} does not lie in {region.path}, {width} x {height}; has the file changed?"
        )
    roi = find_roi(image, settings.roi).cut((left, top, right, bottom))
    if roi is None:
        raise InputError(f"nothing of {region.path}, area {region.box}, lies in the region of interest")
    return roi, (left + roi.box[0], top + roi.box[1], left + roi.box[2], top + roi.box[3])


def _scaled(roi: Roi, target: tuple[int, int]) -> Mask | None:
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
    regions: Sequence[ImageRegion],
    settings: ImageSettings,
    *,
    channels: int | None = None,
    least: int = 0,
    index: ImageIndex | None = None,
) -> StorageEstimate:
    """What these regions need, before any of them is read.

    Args:
        channels: 1 or 3, to which all are brought; None: what their headers say. least: the side, in pixels, to which
            smaller images are padded.
    Raises:
        InputError: one cannot be read, the box of the region of interest does not lie in it, or grey and colour are
            mixed.
    """
    index = index or ImageIndex()
    headers = [index.header(region.path) for region in regions]
    kinds = Counter(_channels(header, settings) for header in headers)
    if channels is None and len(kinds) > 1:
        raise InputError(
            f"the images are mixed: {kinds[1]} grey and {kinds[3]} in colour; make them alike with "
            "--mode grey or --mode colour"
        )
    found = channels or next(iter(kinds), 1)
    memory = disk = 0
    for region, header in zip(regions, headers, strict=True):
        size, target = working_region_size(region, header, settings)
        height, width = (max(side, least) for side in target)
        as_stored = size == target and found >= header.channels
        form = _likely_form(header, settings) if as_stored else FLOAT32
        memory += 4 * found * height * width
        disk += form.bytes_of(found, height, width)
    return StorageEstimate(found, memory, disk)


def working_region_size(
    region: ImageRegion, header: Header, settings: ImageSettings
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) within the box of the region of interest, in the image's own pixels and at the working scale.

    A region of interest by masks or brightness may cut away more; that takes more than a header to know.
    """
    whole = (header.height, header.width)
    left, top, right, bottom = region.box or (0, 0, header.width, header.height)
    if settings.roi.box is not None:
        inside = box_within(region.path, whole, settings.roi.box)
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
    regions: Sequence[ImageRegion],
    settings: ImageSettings,
    patch: int,
    *,
    budget: int,
    path: Path,
    channels: int | None = None,
    pad: bool = False,
    index: ImageIndex | None = None,
    events: Events = SILENT,
) -> Iterator[tuple[PatchSource, LoadStatistics]]:
    """Context manager: yields a patch source for these image regions, and statistics of the images read.

    The patches are the same, bit for bit, in memory and on disk.

    Args:
        patch: P, pixels.
        budget: bytes of memory that the images may take.
        path: a file to put them in if they take more; it is removed when the context ends.
        channels: 1 or 3, to which images are brought; None: as they are.
        pad: extend images that are smaller than a patch by reflection.
        events: told in a sentence if images go to disk, and of each image that was read.
    Raises:
        InputError: images that cannot be trained on, or too little room on the disk.
        OutputError: the file cannot be written.
    """
    try:
        path.unlink(missing_ok=True)  # left by a training that was killed
    except OSError as error:
        raise unwritable(path, error) from error
    index = index or ImageIndex()
    needs = storage_estimate(regions, settings, channels=channels, least=patch if pad else 0, index=index)
    on_disk = needs.memory > budget
    if on_disk:
        _room(path, needs)
        events.message(
            f"{len(regions)} images or areas take {size_text(needs.memory)} of memory, {size_text(budget)} may be used "
            f"(training.memory_gb): patches are read from {path}, which takes {size_text(needs.disk)} and is written "
            "now"
        )
    with closing(TileStore(path)) if on_disk else nullcontext(MemoryStore()) as store:
        statistics = LoadStatistics()
        images = training_images(regions, settings, statistics, channels=needs.channels, index=index)
        sized = (padded(image, patch) for image in images) if pad else images
        yield PatchSource(_reported(sized, len(regions), events), patch, store), statistics


def _reported(images: Iterable[TrainingImage], total: int, events: Events) -> Iterator[TrainingImage]:
    """The same images; progress is told after each."""
    for done, image in enumerate(images, start=1):
        yield image
        events.progress(done, total, image.name)


def _room(path: Path, needs: StorageEstimate) -> None:
    try:
        enough_space(path.absolute().parent, needs.disk)
    except InputError as error:
        gigabytes = f"{needs.memory / 1e9 + 0.1:.1f}"
        raise InputError(f"{error}, or hold the images in memory (--set training.memory_gb={gigabytes})") from None

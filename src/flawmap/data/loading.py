"""Data sets as a whole: what they hold, what is trained on, and writing a synthetic one.

Finding files is `layouts`, parting them `splits`, patches `sampling`, regions `interest`; their public names are
here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.core.settings import ImageSettings
from flawmap.data.patches import TrainingImage
from flawmap.data.splits import ImageRegion
from flawmap.imaging.reading import LoadedImage, Pixels, read_image
from flawmap.imaging.resize import scale_of_part, to_size, to_working_size
from flawmap.imaging.roi import bounding_box, roi_mask


def load_area(area: ImageRegion, settings: ImageSettings) -> tuple[Pixels, Mask | None]:
    """An area as it is worked: cut out, cut down to the region of interest's bounding box, then scaled.

    Returns:
        (H, W, C) float32 in [0, 1], and (H, W) bool, True = inside, or None where all of it is.
    Raises:
        InputError: unreadable, a box or region that does not fit, or nothing of the area inside the region.
    """
    return _prepared(area, read_image(area.path, settings), settings)


@dataclass(frozen=True)
class LoadStatistics:
    """What is said of images that come one by one, and of how many; complete once the last has come.

    notes: in what was done to them. stored: in their type of values. sizes: in the size they are worked at, "WxH".
    """

    notes: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)


def pieces(areas: Iterable[ImageRegion], settings: ImageSettings, tally: LoadStatistics) -> Iterator[TrainingImage]:
    """The areas as they are worked, read one by one.

    Args:
        tally: is added to as they come.
    Raises:
        InputError: an unreadable file, or what `load_area` raises.
    """
    for area in areas:
        try:
            image = read_image(area.path, settings)
        except InputError as error:
            raise InputError(f"{error}; remove it, or leave such files out with --skip-unreadable") from error
        pixels, inside = _prepared(area, image, settings)
        tally.notes.update(image.notes)
        tally.stored[image.stored] += 1
        tally.sizes[f"{pixels.shape[1]}x{pixels.shape[0]}"] += 1
        yield TrainingImage(pixels, inside, str(area.path))


def refuse_mixed(channels: Iterable[int]) -> None:
    """Raise InputError unless all images have one number of channels."""
    counts = Counter(channels)
    if len(counts) > 1:
        raise InputError(
            f"the images are mixed: {counts[1]} grey and {counts[3]} in colour; make them alike with "
            "--mode grey or --mode colour"
        )


def _prepared(area: ImageRegion, image: LoadedImage, settings: ImageSettings) -> tuple[Pixels, Mask | None]:
    pixels, inside = image.pixels, roi_mask(area.path, image.pixels, settings.roi)
    height, width = pixels.shape[:2]
    if area.box is not None:
        left, top, right, bottom = area.box
        if right > width or bottom > height:
            raise InputError(
                f"the area {area.box} does not lie in {area.path}, {width} x {height}; has the file changed?"
            )
        pixels = pixels[top:bottom, left:right]
        inside = inside[top:bottom, left:right] if inside is not None else None
    if inside is not None:
        if not inside.any():
            raise InputError(f"nothing of {area.path}, area {area.box}, lies in the region of interest")
        left, top, right, bottom = bounding_box(inside)
        pixels, inside = pixels[top:bottom, left:right], inside[top:bottom, left:right]
        inside = None if inside.all() else inside
    sized = to_working_size(pixels, scale_of_part(settings.scale, (height, width), pixels.shape[:2]))
    # Memory as (C, H, W), which patches are cut from: no second copy is made there.
    sized = np.ascontiguousarray(sized.transpose(2, 0, 1)).transpose(1, 2, 0)
    if inside is not None and sized.shape[:2] != inside.shape:
        # Inside is what has no share of anything outside.
        inside = to_size(inside.astype(np.float32), sized.shape[:2]) > 1 - 1e-4
    return sized, inside

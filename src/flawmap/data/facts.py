"""What the pixels of training images say together: channels, bit depth, and images that are unlike the others."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Literal

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.files import first_few
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import opened_rows
from flawmap.imaging.decoded import is_grey
from flawmap.imaging.reading import WHOLE_PIXELS, to_unit
from flawmap.imaging.rows import band_rows, windows

BITS = (8, 10, 12, 14)
"""Depths that are looked for in values of 16 bits."""
FLAT = 0.002
"""An image whose standard deviation is below this fraction of the usual largest value is flat."""
FAR = 6.0
"""An image is far from the others if it is so many robust standard deviations (1.4826 MAD) from their median."""
LEAST = {"brightness": 0.02, "contrast": 0.02, "size": 0.1}
"""Robust standard deviations count as at least this: fractions of the usual largest value, or of the side."""
FEWEST = 5
"""Fewer images than this say nothing about what is usual."""

_LARGE_PIXELS = 2**22  # images above are read one at a time
_large = Lock()


@dataclass(frozen=True)
class ImageStatistics:
    """All pixels of an image, in numbers.

    channels: 1 if all of its channels are equal, else 3. stored_channels: in the file. stored: the type of its values.
    full: the value that counts as white: the settings', or the type's largest, or as the file says; 1 for floats.
    largest: the largest stored value. mean, deviation: of the values divided by `full`.
    """

    path: Path
    width: int
    height: int
    channels: Literal[1, 3]
    stored_channels: int
    stored: str
    full: float
    largest: float
    mean: float
    deviation: float


def statistics_of(path: Path, settings: ImageSettings) -> ImageStatistics:
    """Read an image once, by bands of rows.

    Raises:
        InputError: it cannot be read, or holds NaN or values outside its range.
    """
    with opened_rows(path, settings.pixel_limit) as rows:
        header = rows.header
        height, width = header.height, header.width
        equal, largest, full, sums = True, 0.0, 1.0, np.zeros(2)
        for window in windows(height, height if header.pixels <= WHOLE_PIXELS else band_rows(width), 0):
            decoded = rows.read(window.first, window.last)
            values = decoded.values
            whole = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
            full = float(settings.white or decoded.full or whole)
            equal = equal and is_grey(values)
            largest = max(largest, float(values.max()))
            plain = to_unit(values, settings.white, name=str(path), full=decoded.full).pixels
            sums += plain.sum(dtype=np.float64), np.einsum("ijk,ijk->", plain, plain, dtype=np.float64)
    mean, square = sums / (header.pixels * header.channels)
    return ImageStatistics(
        path=path,
        width=width,
        height=height,
        channels=1 if equal or settings.mode == "grey" else 3,
        stored_channels=header.channels,
        stored=header.stored,
        full=full,
        largest=largest,
        mean=float(mean),
        deviation=float(np.sqrt(max(0.0, square - mean**2))),
    )


def all_statistics(
    paths: Sequence[Path], settings: ImageSettings
) -> Generator[ImageStatistics | InputError, None, None]:
    """`statistics_of` each image, or why it cannot be read; several at once, in order."""

    def attempt(path: Path) -> ImageStatistics | InputError:
        try:
            with opened_rows(path, settings.pixel_limit) as rows:
                large = rows.header.pixels > _LARGE_PIXELS
            with _large if large else nullcontext():
                return statistics_of(path, settings)
        except InputError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            yield from pool.map(attempt, paths)
        finally:
            pool.shutdown(cancel_futures=True)  # whoever stops early does not wait for the rest


# --------------------------------------------------------------------------------------------------- channels and depth


@dataclass(frozen=True)
class ImageFacts:
    """What images have in common. channels: 1 or 3. white: the stored value that is white, where the images say that
    it is not their type's largest; None: nothing to say. sentences: what was found, for people.
    """

    channels: Literal[1, 3]
    white: float | None
    sentences: tuple[str, ...]


def image_facts(images: Sequence[ImageStatistics], settings: ImageSettings) -> ImageFacts:
    """Channels and bit depth of images, by all of their pixels.

    Colour files whose channels are all equal count as grey. Integers of 16 bits that all fit 8, 10, 12 or 14 bits are
    taken as values of that depth, unless the settings name the white.

    Raises:
        InputError: some images have colours and others are stored as grey.
    """
    channels, sentences = _channels(images, settings)
    white, said = _white(images, settings)
    return ImageFacts(channels, white, (*sentences, *said))


def _channels(images: Sequence[ImageStatistics], settings: ImageSettings) -> tuple[Literal[1, 3], list[str]]:
    if settings.mode != "auto":
        return (1 if settings.mode == "grey" else 3), []
    coloured = [image for image in images if image.channels == 3]
    grey = [image for image in images if image.stored_channels == 1]
    if coloured and grey:
        raise InputError(
            f"the images are mixed: {len(coloured)} in colour ({first_few(image.path.name for image in coloured)}) and "
            f"{len(grey)} grey ({first_few(image.path.name for image in grey)}); make them alike with --mode grey or "
            "--mode colour"
        )
    alike = [image for image in images if image.channels == 1 and image.stored_channels == 3]
    if coloured:
        return 3, [f"{len(alike)} of {len(images)} colour images hold grey pixels alone"] if alike else []
    said = f"{len(alike)} of {len(images)} images hold grey pixels stored as colour: the model has one channel"
    return 1, [said] if alike else []


def _white(images: Sequence[ImageStatistics], settings: ImageSettings) -> tuple[float | None, list[str]]:
    deep = [image for image in images if image.stored == "uint16" and image.full == 65535]
    if settings.white is not None or not deep:
        return None, []
    largest = max(image.largest for image in deep)
    bits = next((bits for bits in BITS if largest < 2**bits), None)
    if bits is None or largest == 0:
        return None, []
    found = f"no value of {len(deep)} 16-bit images is above {largest:g}: they look like {bits} bits"
    if len(deep) < len(images):
        return None, [f"{found}, but other images have another type; convert them to one, or set images.white"]
    return 2**bits - 1, [f"{found}, so {2**bits - 1} is white (images.white)"]


# ------------------------------------------------------------------------------------------------------------- outliers


def outliers(images: Sequence[ImageStatistics]) -> tuple[tuple[Path, str], ...]:
    """Images that are flat, or far from the others in brightness, contrast or size, each with its first reason.

    Flat: a standard deviation below FLAT. Far: more than FAR robust standard deviations from the median. Values are
    fractions of the median of the images' largest values, so images of any bit depth are treated alike.
    """
    if not images:
        return ()
    unit = median(image.largest / image.full for image in images) or 1.0
    reasons: dict[Path, str] = {}
    for image in images:
        if image.deviation / unit < FLAT:
            reasons[image.path] = f"it is flat: all of its values are about {image.largest:g}"
    if len(images) >= FEWEST:
        measures = {
            "brightness": [image.mean / unit for image in images],
            "contrast": [image.deviation / unit for image in images],
            "size": [float(np.log(image.width * image.height) / 2) for image in images],
        }
        for name, values in measures.items():
            for image, usual in _far(images, values, LEAST[name]):
                reasons.setdefault(image.path, _reason(name, image, usual, unit))
    return tuple((image.path, reasons[image.path]) for image in images if image.path in reasons)


def _far(
    images: Sequence[ImageStatistics], values: Sequence[float], least: float
) -> Iterator[tuple[ImageStatistics, float]]:
    """The images whose value is far from the median, and the median."""
    usual = median(values)
    deviation = max(least, 1.4826 * median(abs(value - usual) for value in values))
    for image, value in zip(images, values, strict=True):
        if abs(value - usual) > FAR * deviation:
            yield image, usual


def _reason(name: str, image: ImageStatistics, usual: float, unit: float) -> str:
    if name == "size":
        return f"its size is {image.width} x {image.height}, usual is a side of about {np.exp(usual):.0f} pixels"
    value = (image.mean if name == "brightness" else image.deviation) / unit
    return f"its {name} is {value:.2f}, usual is {usual:.2f}"

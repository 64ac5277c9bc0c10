"""Image files to (H, W, C) arrays in [0, 1] and back: reading, masks, sizes, writing, finding. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import finite
from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import Decoded, decode, opened_rows, read_header
from flawmap.imaging.rows import band_rows, windows

Pixels = NDArray[np.float32]
"""(H, W, C) float32 in [0, 1], C in {1, 3}."""


@dataclass(frozen=True)
class LoadedImage:
    """An image as it is worked on, and what was done to the file's values on the way.

    pixels: (H, W, C) float32 in [0, 1], C in {1, 3}, upright. notes: sentences for the user; none for plain 8 bit.
    stored: the file's own type of a value: "bool", "uint8", "uint16", "float32", ...
    """

    pixels: Pixels
    notes: tuple[str, ...]
    stored: str


def read_image(path: Path, settings: ImageSettings) -> LoadedImage:
    """An image file at its own size, scaled to [0, 1], in the mode that the settings ask for.

    Raises:
        InputError: the file is missing, foreign, damaged, of several pages, larger than the pixel limit, or holds
            values outside the range; the message names the file.
    """
    decoded = decode(path, settings.pixel_limit)
    pixels, scaling, conversion = _converted(decoded, settings, str(path))
    return LoadedImage(pixels, _notes(decoded, scaling, conversion), decoded.header.stored)


def _converted(decoded: Decoded, settings: ImageSettings, name: str) -> tuple[Pixels, str, str]:
    """Stored values as an image in [0, 1] in the mode asked for, with what was done about scale and mode."""
    pixels, scaling = to_unit(decoded.values, settings.white, name=name, full=decoded.full)
    if decoded.inverted:
        np.subtract(1, pixels, out=pixels)
    notes: list[str] = []
    return _in_mode(pixels, settings.mode, notes), scaling, "".join(notes)


def _notes(decoded: Decoded, scaling: str, conversion: str) -> tuple[str, ...]:
    return (*decoded.notes, *(note for note in (scaling, conversion) if note not in ("", _PLAIN)))


_PLAIN = "8-bit divided by 255"

WHOLE_PIXELS = 2**25
"""An image of more pixels is read by bands of rows; 33,554,432."""


class ImageRows:
    """An image by bands of rows, whatever it comes from: a file, a part of one, or an array.

    shape: (H, W, C). path: the file, or None. whole: (H, W) of the image that it was cut from. notes: sentences about
    the file, complete once the bands were read.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        bands: Callable[[], Iterator[Pixels]],
        *,
        path: Path | None = None,
        whole: tuple[int, int] | None = None,
        notes: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self.shape, self.path, self.whole = shape, path, whole or (shape[0], shape[1])
        self._bands, self._notes = bands, notes

    @classmethod
    def of(cls, pixels: Pixels, *, path: Path | None = None, notes: tuple[str, ...] = ()) -> ImageRows:
        """An array (H, W, C) as one band."""
        height, width, channels = pixels.shape
        return cls((height, width, channels), lambda: iter([pixels]), path=path, notes=lambda: notes)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes()

    def bands(self) -> Iterator[Pixels]:
        """(h, W, C) float32 in [0, 1], one below the other; every call begins anew."""
        return self._bands()

    def pixels(self) -> Pixels:
        """(H, W, C): all bands."""
        return np.concatenate(list(self.bands()))

    def cut(self, box: tuple[int, int, int, int]) -> ImageRows:
        """The part in a box (left, top, right, bottom), which lies in the image."""
        left, top, right, bottom = box

        def bands() -> Iterator[Pixels]:
            start = 0
            for band in self.bands():
                inside = band[max(0, top - start) : max(0, bottom - start), left:right]
                start += len(band)
                if len(inside):
                    yield inside

        shape = bottom - top, right - left, self.shape[2]
        return ImageRows(shape, bands, path=self.path, whole=self.whole, notes=self._notes)


@contextmanager
def opened_image(path: Path, settings: ImageSettings) -> Iterator[ImageRows]:
    """An image file to be read by bands of rows: of any size, but for decompression bombs; see `opened_rows`."""
    with opened_rows(path, settings.pixel_limit) as rows:
        header = rows.header
        shape = header.height, header.width, {"grey": 1, "colour": 3, "auto": header.channels}[settings.mode]
        notes: list[tuple[str, ...]] = [()]

        def bands() -> Iterator[Pixels]:
            for window in windows(shape[0], shape[0] if header.pixels <= WHOLE_PIXELS else band_rows(shape[1]), 0):
                decoded = rows.read(window.first, window.last)
                pixels, scaling, conversion = _converted(decoded, settings, str(path))
                notes[0] = _notes(decoded, scaling, conversion)
                yield pixels

        yield ImageRows(shape, bands, path=path, notes=lambda: notes[0])


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """An image (h, W, C) with 1 or 3 channels: grey becomes three equal channels, three equal channels become grey.

    Raises:
        InputError: it has colours, and one channel is asked for.
    """
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if not (pixels == pixels[:, :, :1]).all():
        raise InputError(
            "this model was trained on grey images, got a colour one; convert the image, or train with --mode grey so "
            "that every image is converted"
        )
    return np.ascontiguousarray(pixels[:, :, :1])


def to_unit(
    values: NDArray[Any], white: float | None, *, name: str = "image", full: int | None = None
) -> tuple[NDArray[np.float32], str]:
    """Stored values as float32 in [0, 1], and how they got there.

    Integers are divided by the largest value of their type (by `full`, where fewer bits than the type has are used),
    floating-point values are taken as they are; with `white`, both are divided by it. Truth values become 0 and 1.

    Raises:
        InputError: NaN or infinite values, or values outside [0, white]; the message counts them.
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.float32), "1-bit, 0 or 1"
    if kind not in "uif":
        raise InputError(f"{name} must hold integers or floating-point numbers, got {values.dtype}")
    if kind == "f":
        finite(values, name)
    largest = float(full or np.iinfo(values.dtype).max) if kind in "ui" else 1.0
    top = white if white is not None else largest
    _within(values, top, name)
    wide = np.float64 if values.dtype.itemsize > 2 and kind in "ui" else np.float32
    pixels = np.divide(values, wide(top), dtype=wide).astype(np.float32, copy=False)
    # A double just below `top` may round up to a float32 above 1.
    np.minimum(pixels, 1, out=pixels)
    return pixels, _scaling_note(values, white, largest)


def _within(values: NDArray[Any], top: float, name: str) -> None:
    if values.size == 0:
        raise InputError(f"{name} has no pixels")
    low, high = values.min(), values.max()
    if low >= 0 and high <= top:
        return
    count = int(((values < 0) | (values > top)).sum())
    span = f"{count:,} of {values.size:,} outside (from {low:g} to {high:g})"
    message = f"{name} must hold values from 0 to {top:g}, got {span}"
    if low < 0:
        raise InputError(f"{message}; shift the values so that none is negative")
    raise InputError(f"{message}; say which stored value is white (--set images.white=N)")


def _scaling_note(values: NDArray[Any], white: float | None, largest: float) -> str:
    if values.dtype.kind == "f":
        return f"{values.dtype} divided by {white:g}" if white is not None else f"{values.dtype} taken as it is"
    bits = int(largest + 1).bit_length() - 1
    bits += values.dtype.kind == "i"
    note = f"{bits}-bit divided by {largest if white is None else white:.15g}"
    if white is None and bits == 16 and values.max() < 4096:
        note += "; no value above 4095: if it is 12-bit, set white to 4095"
    return note


def _in_mode(pixels: Pixels, mode: str, notes: list[str]) -> Pixels:
    if mode == "grey" and pixels.shape[2] == 3:
        notes.append("colour converted to grey")
        # Rec. 601 luma; in [0, 1] but for rounding.
        return np.clip(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 0, 1)[:, :, None].astype(np.float32, copy=False)
    if mode == "colour" and pixels.shape[2] == 1:
        notes.append("grey repeated to three channels")
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def luma(pixels: Pixels) -> FloatMap:
    """(H, W) grey values of an (H, W, C) image, by Rec. 601 where it has colours."""
    return _in_mode(pixels, "grey", [])[:, :, 0]


def read_mask(path: Path, shape: tuple[int, int] | None = None) -> Mask:
    """A mask file as (H, W) bool: True where its value is above half of the largest value it holds.

    So 0/1, 0/255, 1-bit and 16-bit masks read alike, and the grey edges of a lossy or resampled one are cut in the
    middle. Of a coloured mask the brightest channel counts. A mask of zeros has no flaw. Stored values count, even
    where a TIFF says that zero is white: mask writers (tifffile of truth values, ImageJ) say so and mean True.

    Raises:
        InputError: unreadable, or its size is not `shape`, the image's (H, W).
    """
    if shape is not None:
        header = read_header(path)
        if (header.height, header.width) != shape:
            raise InputError(
                f"the mask {path} is {header.width} x {header.height}, its image {shape[1]} x {shape[0]}; "
                "a mask has its image's size"
            )
    decoded = decode(path, ImageSettings().pixel_limit if shape is None else max(1, shape[0] * shape[1]))
    values = decoded.values.max(axis=2)
    if values.dtype.kind == "f":
        finite(values, str(path))
    largest = values.max()
    # Not `2 * values > largest`: that overflows in 8 bits.
    return np.asarray(values > largest / 2 if largest > 0 else np.zeros(values.shape), dtype=np.bool_)

"""Image files as images in [0, 1], whole or by bands of rows, and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import finite
from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import decode, opened_rows, read_header
from flawmap.imaging.decoded import Decoded, is_grey
from flawmap.imaging.rows import band_rows, windows

Pixels = NDArray[np.float32]
"""(H, W, C) float32 in [0, 1], C in {1, 3}."""

WHOLE_PIXELS = 2**25
"""An image of more pixels is read by bands of rows; 33,554,432."""


@dataclass(frozen=True)
class LoadedImage:
    """An image as it is worked on, and what was done to the file's values on the way.

    pixels: (H, W, C) float32 in [0, 1], C in {1, 3}, upright. notes: sentences for the user; none for plain 8 bit.
    """

    pixels: Pixels
    notes: tuple[str, ...]


def read_image(path: Path, settings: ImageSettings, *, page: int | None = None) -> LoadedImage:
    """An image file at its own size, scaled to [0, 1], in the mode that the settings ask for.

    Args:
        page: of a TIFF of several pages, counted from 1; None: it has one.
    Raises:
        InputError: the file is missing, foreign, damaged, of several pages, larger than the pixel limit, or holds
            values outside the range; the message names the file.
    """
    decoded = decode(path, settings.pixel_limit, page=page)
    scaled = _converted(decoded, settings, str(path))
    return LoadedImage(scaled.pixels, tuple(_notes(decoded, scaled, scaled.clipped, settings.mode)))


def _converted(decoded: Decoded, settings: ImageSettings, name: str) -> Scaled:
    """Stored values as an image in [0, 1] in the mode asked for."""
    scaled = to_unit(decoded.values, settings.white, name=name, full=decoded.full)
    if decoded.inverted:
        np.subtract(1, scaled.pixels, out=scaled.pixels)
    return scaled._replace(pixels=_in_mode(scaled.pixels, settings.mode))


def _notes(decoded: Decoded, scaled: Scaled, clipped: int, mode: str) -> list[str]:
    """Sentences about a file; `clipped` counts the values of all its bands so far."""
    notes = [*decoded.notes]
    if scaled.note != "8-bit divided by 255":
        notes.append(scaled.note)
    if clipped:
        notes.append(f"{clipped:,} values above white = {scaled.white:.15g}, clipped")
    if mode == "grey" and decoded.header.channels == 3:
        notes.append("colour converted to grey")
    if mode == "colour" and decoded.header.channels == 1:
        notes.append("grey repeated to three channels")
    return notes


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
        notes: Sequence[str] = (),
    ) -> None:
        self.shape, self.path, self.whole = shape, path, whole or (shape[0], shape[1])
        self._bands, self._notes = bands, notes

    @classmethod
    def of(cls, pixels: Pixels, *, path: Path | None = None) -> ImageRows:
        """An array (H, W, C) as one band."""
        height, width, channels = pixels.shape
        return cls((height, width, channels), lambda: iter([pixels]), path=path)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

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
def opened_image(
    file: Path | bytes, settings: ImageSettings, *, page: int | None = None, path: Path | None = None
) -> Iterator[ImageRows]:
    """An image file, or its bytes, to be read by bands of rows, one for at most WHOLE_PIXELS pixels; see `opened_rows`.

    path: names bytes.
    """
    content, path = (file, path) if isinstance(file, bytes) else (None, file)
    name = path or Path("the image")
    with opened_rows(name, settings.pixel_limit, page=page, content=content) as rows:
        header = rows.header
        shape = header.height, header.width, {"grey": 1, "colour": 3, "auto": header.channels}[settings.mode]
        notes: list[str] = []

        def bands() -> Iterator[Pixels]:
            clipped = 0
            for window in windows(shape[0], shape[0] if header.pixels <= WHOLE_PIXELS else band_rows(shape[1]), 0):
                decoded = rows.read(window.first, window.last)
                scaled = _converted(decoded, settings, str(name))
                clipped += scaled.clipped
                notes[:] = _notes(decoded, scaled, clipped, settings.mode)
                del decoded
                yield scaled.pixels

        yield ImageRows(shape, bands, path=path, notes=notes)


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """(H, W, channels): a grey image repeated to three equal channels, or one of three equal channels.

    Raises:
        InputError: colours, where one channel is wanted.
    """
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if is_grey(pixels):
        return np.ascontiguousarray(pixels[:, :, :1])
    raise InputError(
        "this model was trained on grey images, got a colour one; convert the image, or train with --mode grey so that "
        "every image is converted"
    )


class Scaled(NamedTuple):
    """Values in [0, 1]. note: how they got there. white: the stored value that became 1. clipped: values above it."""

    pixels: NDArray[np.float32]
    note: str
    white: float
    clipped: int


def to_unit(values: NDArray[Any], white: float | None, *, name: str = "image", full: int | None = None) -> Scaled:
    """Stored values as float32 in [0, 1].

    Integers are divided by `full` or, without it, by the largest value of their type. Floating-point values are taken
    as they are. With `white`, both are divided by it. Values above `white` or `full` become 1 and are counted. Truth
    values become 0 and 1.

    Raises:
        InputError: NaN or infinite values, negative values, or floating-point values above 1 without `white`.
    """
    kind = values.dtype.kind
    if kind == "b":
        return Scaled(values.astype(np.float32), "1-bit, 0 or 1", 1.0, 0)
    if kind == "f":
        finite(values, name)
    largest = float(full or np.iinfo(values.dtype).max) if kind in "ui" else 1.0
    top = white if white is not None else largest
    clipped = _above(values, top, name, refused=white is None and kind == "f")
    wide = np.float64 if values.dtype.itemsize > 2 and kind in "ui" else np.float32
    pixels = np.divide(values, wide(top), dtype=wide).astype(np.float32, copy=False)
    # A double just below `top` may round up to a float32 above 1.
    np.minimum(pixels, 1, out=pixels)
    return Scaled(pixels, _scaling_note(values, white, largest), top, clipped)


def _above(values: NDArray[Any], top: float, name: str, *, refused: bool) -> int:
    """How many values lie above `top`; refuses negative values, and those above if told to."""
    low, high = values.min(), values.max()
    if low >= 0 and high <= top:
        return 0
    outside = int(((values < 0) | (values > top)).sum())
    span = f"{outside:,} of {values.size:,} outside (from {low:g} to {high:g})"
    message = f"{name} must hold values from 0 to {top:g}, got {span}"
    if low < 0:
        raise InputError(f"{message}; shift the values so that none is negative")
    if refused:
        raise InputError(f"{message}; say which stored value is white (--set images.white=N)")
    return outside


def _scaling_note(values: NDArray[Any], white: float | None, largest: float) -> str:
    if values.dtype.kind == "f":
        return f"{values.dtype} divided by {white:g}" if white is not None else f"{values.dtype} taken as it is"
    bits = int(largest).bit_length() + (values.dtype.kind == "i")
    return f"{bits}-bit divided by {largest if white is None else white:.15g}"


def _in_mode(pixels: Pixels, mode: str) -> Pixels:
    if mode == "grey" and pixels.shape[2] == 3:
        return luma(pixels)[:, :, None]
    if mode == "colour" and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def luma(pixels: Pixels) -> FloatMap:
    """(H, W) grey values of an (H, W, C) image by Rec. 601, 0.299 R + 0.587 G + 0.114 B.

    Written so that equal channels give their own value, bit for bit.
    """
    red, green, blue = pixels[:, :, 0], pixels[:, :, pixels.shape[2] // 2], pixels[:, :, -1]
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(red)
    grey: FloatMap = np.clip(green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green), 0, 1)
    return grey


def read_mask(path: Path, shape: tuple[int, int] | None = None) -> Mask:
    """A mask file as (H, W) bool.

    A pixel is True where its value is above 0: so are 0/1, 0/255, 1-bit and 16-bit masks and masks of several classes.
    In lossy formats (JPEG, lossy WebP, JPEG 2000), where black is never quite 0, it is True above half of the range of
    its type. Of colours, those of a palette too, the brightest channel counts; alpha does not. Stored values count,
    even where a TIFF says that zero is white: mask writers (tifffile of truth values, ImageJ) say so and mean True.

    Raises:
        InputError: unreadable, or its size is not `shape`, the image's (H, W).
    """
    header = read_header(path)
    if shape is not None and (header.height, header.width) != shape:
        raise InputError(
            f"the mask {path} is {header.width} x {header.height}, its image {shape[1]} x {shape[0]}; "
            "a mask has its image's size"
        )
    decoded = decode(path, ImageSettings().pixel_limit if shape is None else header.pixels)
    values = decoded.values.max(axis=2)
    if values.dtype.kind == "f":
        finite(values, str(path))
    lossy = header.lossy and values.dtype.kind in "ui"
    least = (decoded.full or np.iinfo(values.dtype).max) // 2 if lossy else 0
    return np.asarray(values > least, dtype=np.bool_)

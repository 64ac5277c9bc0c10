"""Image files to (H, W, C) arrays in [0, 1] and back: reading, masks, sizes, writing, finding. No torch here."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from flawmap.bands import Rolling, band_rows, windows
from flawmap.checks import finite, shape_text
from flawmap.config import ImageSettings
from flawmap.decoders import Decoded, Header, StoredRows, decode, opened_rows, read_header
from flawmap.errors import InputError
from flawmap.files import atomic, natural_key
from flawmap.records import FloatMap, Mask

__all__ = [
    "IMAGE_SUFFIXES",
    "FoundImage",
    "Header",
    "ImageRows",
    "LoadedImage",
    "Pixels",
    "files_below",
    "find_images",
    "is_image",
    "luma",
    "opened_image",
    "part_scale",
    "read_header",
    "read_image",
    "read_mask",
    "resized_bands",
    "to_size",
    "to_unit",
    "worked",
    "worked_size",
    "write_image",
]

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
COMPRESSION = 1  # of 9, what is written: PNG and Deflate get four times slower by 6, and photographs hardly smaller

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


class FoundImage(NamedTuple):
    """path: to open. relative: to name outputs by; no two images of one search share it."""

    path: Path
    relative: Path


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


class ImageRows:
    """An image file as `read_image` gives it, by bands of rows.

    shape: (H, W, C) as worked on. notes: those of the bands read so far.
    """

    def __init__(self, path: Path, rows: StoredRows, settings: ImageSettings) -> None:
        header, channels = rows.header, {"grey": 1, "colour": 3, "auto": rows.header.channels}
        self.shape = (header.height, header.width, channels[settings.mode])
        self.notes: tuple[str, ...] = ()
        self._path, self._rows, self._settings = path, rows, settings

    def bands(self) -> Iterator[Pixels]:
        """(h, W, C) float32 in [0, 1], one below the other.

        Raises:
            InputError: a band is damaged, or holds values outside the range; the message names file and rows.
        """
        scalings = set()
        for window in windows(self.shape[0], band_rows(self.shape[1]), 0):
            decoded = self._rows.read(window.first, window.last)
            name = f"{self._path}, rows {window.first} to {window.last - 1},"
            pixels, scaling, conversion = _converted(decoded, self._settings, name)
            scalings.add(scaling)
            # That no value is above 4095 is said of an image if it holds for every band.
            self.notes = _notes(decoded, min(scalings, key=len), conversion)
            yield pixels


@contextmanager
def opened_image(path: Path, settings: ImageSettings) -> Iterator[ImageRows]:
    """An image file to be read by bands of rows: of any size, but for decompression bombs; see `opened_rows`.

    Raises:
        InputError: the file is missing, foreign, of several pages, a bomb, or larger than the pixel limit and of a
            format that is decoded whole.
    """
    with opened_rows(path, settings.pixel_limit) as rows:
        yield ImageRows(path, rows, settings)


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
    raise InputError(f"{message}; say with --white (images.white) which stored value is white")


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


def worked_size(height: int, width: int, scale: float | tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which an image is worked: `scale` is a factor or (width, height); at least one pixel."""
    if isinstance(scale, tuple):
        return scale[1], scale[0]
    return max(1, round(height * scale)), max(1, round(width * scale))


def worked(image: Pixels, scale: float | tuple[int, int]) -> Pixels:
    """An (H, W, C) image at the size it is worked at: by area where a side shrinks, bilinear where it grows."""
    return _resized(image, worked_size(image.shape[0], image.shape[1], scale))


def part_scale(
    scale: float | tuple[int, int], whole: tuple[int, int], part: tuple[int, int]
) -> float | tuple[int, int]:
    """The scale of a part, (h, w), cut out of an image, (H, W), that as a whole is worked at `scale`."""
    if not isinstance(scale, tuple):
        return scale
    return max(1, round(scale[0] * part[1] / whole[1])), max(1, round(scale[1] * part[0] / whole[0]))


def to_size(values: FloatMap, shape: tuple[int, int]) -> FloatMap:
    """A (h, w) map brought back to the image's own (H, W): bilinear where it grows, by area where it shrinks."""
    return _resized(values[:, :, None], shape)[:, :, 0]


def _resized(image: Pixels, shape: tuple[int, int]) -> Pixels:
    """One side after the other where one shrinks and the other grows: OpenCV averages by area only if both shrink."""
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    smaller = min(height, shape[0]), min(width, shape[1])
    sized: NDArray[Any] = image
    for target, how in ((smaller, cv2.INTER_AREA), (shape, cv2.INTER_LINEAR)):
        if sized.shape[:2] != target:
            sized = cv2.resize(sized, (target[1], target[0]), interpolation=how).reshape(*target, -1)
    # Means of values in a range lie in it, but for rounding.
    clipped: Pixels = np.clip(sized, image.min(), image.max()).astype(np.float32, copy=False)
    return clipped


def resized_bands(
    blocks: Iterable[NDArray[np.float32]], size: tuple[int, int], target: tuple[int, int]
) -> Iterator[NDArray[np.float32]]:
    """An image (H, W, C) that comes as blocks of rows, brought to another size as `worked` and `to_size` do.

    Args:
        blocks: (h, W, C) float32. size: (H, W). target: (height, width) to come to.
    """
    if size == target:
        yield from blocks
        return
    source = Rolling(blocks)
    rows = max(1, min(band_rows(target[1]), band_rows(size[1]) * target[0] // size[0]))
    for window in windows(target[0], rows, 0):
        first, weights = _row_weights(size[0], target[0], window.first, window.last)
        part = source.take(first, first + weights.shape[1])
        wide = _resized(part, (len(part), target[1]))
        sized = np.tensordot(weights, wide, axes=1)
        yield np.clip(sized, wide.min(), wide.max())  # as in `_resized`


_LEAST_SHARE = 1e-3  # of a pixel: OpenCV leaves out smaller ones when it averages by area


def _row_weights(height: int, target: int, top: int, bottom: int) -> tuple[int, NDArray[np.float32]]:
    """The first source row and the weights (bottom - top, n) of it and those below in rows `top` to `bottom`."""
    scale = height / target
    places = np.arange(top, bottom, dtype=np.float64)
    if target <= height:
        starts, ends = places * scale, np.minimum((places + 1) * scale, height)
        first, last = int(starts[0] + 1e-9), min(height, math.ceil(ends[-1] - 1e-9))
        rows = np.arange(first, last)
        shares = np.minimum(ends[:, None], rows + 1) - np.maximum(starts[:, None], rows)
        shares[shares <= _LEAST_SHARE] = 0
        return first, (shares / (ends - starts)[:, None]).astype(np.float32)
    centres = np.clip((places + 0.5) * scale - 0.5, 0, height - 1)
    above = np.minimum(centres.astype(np.int64), max(0, height - 2))
    first, last = int(above[0]), min(height, int(above[-1]) + 2)
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(first, last)), 0, 1)
    return first, weights.astype(np.float32)


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


def write_image(path: Path, values: NDArray[Any]) -> None:
    """Write an array, whole or not at all: an error leaves neither a part nor a damaged older file.

    Args:
        path: .png for uint8 (H, W), (H, W, 1) or (H, W, 3) and for bool (H, W), written as 0 and 255;
            .tif or .tiff for float (H, W), written as float32 with Deflate, value for value.
    Raises:
        InputError: another type, shape or suffix, values that are not finite, or the file cannot be written.
    """
    suffix, kind = path.suffix.lower(), values.dtype.kind
    if kind == "f":
        finite(values, str(path))
    plain = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    picture = values.dtype == np.uint8 and (plain.ndim == 2 or (plain.ndim == 3 and plain.shape[2] == 3))
    if picture or (kind == "b" and plain.ndim == 2):
        _needs(path, suffix, (".png",), values)
        stored = plain.astype(np.uint8) * np.uint8(255) if kind == "b" else np.ascontiguousarray(plain)
        with atomic(path) as part:
            Image.fromarray(stored).save(part, format="PNG", compress_level=COMPRESSION)
    elif kind == "f" and plain.ndim == 2:
        _needs(path, suffix, (".tif", ".tiff"), values)
        with atomic(path) as part:
            stored = plain.astype(np.float32)
            tifffile.imwrite(
                part,
                stored,
                compression="zlib",
                compressionargs={"level": COMPRESSION},
                metadata=None,
                photometric="minisblack",
            )
    else:
        raise InputError(
            f"{path}: uint8 (H, W) or (H, W, 3), bool (H, W) or float (H, W) can be written, "
            f"got {values.dtype} {shape_text(values.shape)}"
        )


def _needs(path: Path, suffix: str, suffixes: tuple[str, ...], values: NDArray[Any]) -> None:
    if suffix not in suffixes:
        raise InputError(f"{path}: {values.dtype} is written as {' or '.join(suffixes)}, got {suffix or 'no suffix'}")


def find_images(paths: Iterable[Path | str]) -> list[FoundImage]:
    """The image files that files, folders (with all below them) and glob patterns name, in natural order.

    Within folders a file is an image by its suffix, and hidden files and folders are passed over; a file named by
    itself is taken as it is. Each file is found once.

    Raises:
        InputError: nothing of that name, an empty folder, or no image in it.
    """
    named = [str(path) for path in paths]
    if not named:
        raise InputError("no image, folder or pattern was given")
    found: dict[str, FoundImage] = {}
    for name in named:
        for image in _images_of(name):
            found.setdefault(os.path.abspath(image.path), image)  # noqa: PTH100 - resolve() would follow links
    images = list(found.values())
    if len({image.relative for image in images}) < len(images):
        base = os.path.commonpath([str(Path(path).parent) for path in found])
        images = [FoundImage(image.path, Path(path).relative_to(base)) for path, image in found.items()]
    return sorted(images, key=lambda image: (natural_key(image.relative), natural_key(image.path)))


def _images_of(name: str) -> list[FoundImage]:
    path = Path(name)
    if path.is_dir():
        return _images_below(path)
    if path.is_file():
        return [FoundImage(path, Path(path.name))]
    if not glob.has_magic(name):
        raise InputError(f"no such file or folder: {name}")
    matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207 - Path.glob wants a fixed root
    if not matches:
        raise InputError(f"nothing matches the pattern {name}")
    fixed = name[: next(place for place, letter in enumerate(name) if letter in "*?[")]
    base = Path(fixed) if fixed.endswith(("/", os.sep)) else Path(fixed).parent
    files = {file for match in matches for file in ([match] if match.is_file() else files_below(match))}
    images = [FoundImage(file, file.relative_to(base)) for file in files if is_image(file)]
    if not images:
        raise InputError(f"no image among what matches the pattern {name}; images end in {', '.join(IMAGE_SUFFIXES)}")
    return images


def _images_below(folder: Path) -> list[FoundImage]:
    files = list(files_below(folder))
    images = [FoundImage(file, file.relative_to(folder)) for file in files if is_image(file)]
    if images:
        return images
    if not files:
        raise InputError(f"the folder {folder} is empty")
    some = ", ".join(str(file.relative_to(folder)) for file in sorted(files, key=natural_key)[:3])
    raise InputError(
        f"no image in the folder {folder}, only {some}{', ...' if len(files) > 3 else ''}; "
        f"images end in {', '.join(IMAGE_SUFFIXES)}"
    )


def is_image(path: Path) -> bool:
    """Whether the name says so; reading looks at the content."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def files_below(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """All files below a folder, links to folders followed once; hidden files and folders only if asked for."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back to where we were
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]
        yield from (Path(place) / name for name in files if hidden or not name.startswith("."))

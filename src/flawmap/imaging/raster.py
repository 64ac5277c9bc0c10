"""PNG, JPEG and BMP: decoded by Pillow, which raises on a truncated file; 16-bit PNG by imagecodecs, because Pillow
reduces 16-bit colour to 8.

Pillow's readers are opened directly: `Image.open` compares sizes with a limit that is global, here the caller's counts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin

from flawmap.core.errors import InputError
from flawmap.imaging import jpeg
from flawmap.imaging.decoded import (
    Decoded,
    Header,
    Source,
    Stored,
    damaged,
    decoding,
    is_grey,
    library_source,
    three_axes,
    upright,
    upright_size,
    whole_source,
    without_alpha,
)
from flawmap.imaging.exif import no_warnings, orientation_of

_READERS: dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_GREY_MODES, _COLOUR_MODES = ("1", "L", "LA"), ("RGB", "RGBA", "CMYK")
_PNG_GREY = (0, 4)  # PNG's colour types: grey, grey with alpha


def open_raster(path: Path, file: IO[bytes], name: str) -> Source:
    """A PNG, JPEG or BMP file. InputError: damaged, an animation, or of a kind that is not supported."""
    depth, colour_type = _png_samples(path, file) if name == "PNG" else (8, None)
    with decoding(path, name), no_warnings():
        image = _READERS[name](file)
        frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InputError(f"{path} is an animation of {frames} frames; save the one you need as a file of its own")
    if image.mode not in (*_GREY_MODES, *_COLOUR_MODES, "P", "I", "I;16"):
        raise InputError(f"{path} has Pillow's mode {image.mode}, which is not supported; save it as grey or RGB")
    grey = image.mode in _GREY_MODES or (image.mode == "P" and _grey_palette(path, image))
    if depth == 16:  # Pillow's mode is RGBA for grey with alpha then
        grey = colour_type in _PNG_GREY
    notes: list[str] = []
    orientation = orientation_of(image.info.get("exif"), notes)
    stored = "uint16" if depth == 16 else "bool" if image.mode == "1" else "uint8"
    size = upright_size(*image.size, orientation)
    header = Header(*size, 1 if grey else 3, stored, name, lossy=name == "JPEG")

    if depth == 16:
        return library_source(path, file, header, imagecodecs.png_decode, notes=notes, orientation=orientation)

    def decode() -> Decoded:
        said = [*notes]
        content = _jpeg_content(path, file) if name == "JPEG" else b""
        values = without_alpha(_values(path, image, header, said), said)[:, :, : header.channels]
        if content:
            said += jpeg.warnings_of(content)
        return Decoded(upright(values, orientation, said), header, tuple(said))

    return whole_source(header, decode)


def _values(path: Path, image: ImageFile.ImageFile, header: Header, notes: list[str]) -> Stored:
    clear = image.mode == "P" and image.info.pop("transparency", None) is not None
    converted: Any = image
    with decoding(path, header.format):
        if image.mode in ("P", "CMYK"):
            converted = image.convert("RGB")
        values = np.asarray(converted)
    if image.mode == "P":
        notes.append("palette expanded")
    if clear:
        notes.append("alpha dropped")
    if image.mode == "CMYK":
        notes.append("CMYK converted to RGB without a colour profile")
    return three_axes(values)


def _jpeg_content(path: Path, file: IO[bytes]) -> bytes:
    file.seek(0)
    content = file.read()
    if (count := jpeg.scans(content)) > jpeg.SCANS:
        raise InputError(f"{path} has {count} scans, at most {jpeg.SCANS} are read; save it as a baseline JPEG")
    return content


def _png_samples(path: Path, file: IO[bytes]) -> tuple[int, int]:
    """Bits per sample and colour type of a PNG, from its first chunk, IHDR, which always has the same place."""
    start = file.read(26)
    file.seek(0)
    if len(start) < 26 or start[12:16] != b"IHDR":
        raise damaged(path, "PNG", "it does not begin with its header")
    return start[24], start[25]


def _grey_palette(path: Path, image: ImageFile.ImageFile) -> bool:
    """Whether all colours of a palette are grey. Pillow's `getpalette` would decode the pixels first."""
    if image.palette is None:
        raise damaged(path, str(image.format), "its palette is missing")
    order, colours = image.palette.getdata()
    entries = len(colours) // len(order)
    return is_grey(np.frombuffer(colours, np.uint8, entries * len(order)).reshape(entries, len(order))[:, :3])

"""Writing images, masks and maps: PNG and TIFF, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.files import atomic

COMPRESSION = 1  # of 9, what is written: PNG and Deflate get four times slower by 6, and photographs hardly smaller


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

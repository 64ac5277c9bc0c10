"""Checks of arguments. Each raises an InputError that says what was expected, what was found, and what to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import Array, namespace_of
from flawmap.core.errors import InputError


def shape_text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(side) for side in shape) + ")"


def image_batch(batch: Array, name: str) -> None:
    """Refuse anything but floating point (N, C, H, W)."""
    if batch.ndim != 4:
        hint = f"; for one image pass {name}[None]" if batch.ndim == 3 else ""
        raise InputError(f"{name} must be (N, C, H, W), got {shape_text(tuple(batch.shape))}{hint}")
    if not namespace_of(batch).isdtype(batch.dtype, "real floating"):
        raise InputError(
            f"{name} must be floating point in [0, 1], got {batch.dtype}; divide by the type's range first"
        )


def same_shape(first: Array, second: Array, first_name: str, second_name: str) -> None:
    if first.shape != second.shape:
        raise InputError(
            f"{first_name} and {second_name} must have one shape, "
            f"got {shape_text(tuple(first.shape))} and {shape_text(tuple(second.shape))}"
        )


def image_array(image: NDArray[np.float32]) -> None:
    """Refuse anything but a finite floating point (H, W, C) array with one or three channels."""
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        hint = "; for a grey image pass image[:, :, None]" if image.ndim == 2 else ""
        raise InputError(f"image must be (H, W, 1) or (H, W, 3), got {shape_text(image.shape)}{hint}")
    if image.size == 0:
        raise InputError(f"image must have pixels, got {shape_text(image.shape)}")
    if image.dtype.kind != "f":
        raise InputError(f"image must be floating point in [0, 1], got {image.dtype}; divide by the type's range first")
    finite(image, "image")


def finite(values: NDArray[np.float32], name: str) -> None:
    known = np.isfinite(values)
    if not known.all():
        bad = values.size - int(known.sum())
        raise InputError(f"{name} must be finite, got {bad} NaN or infinite values of {values.size}")

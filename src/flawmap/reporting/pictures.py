"""Pictures of images, masks and residual maps: outlines, heat maps, sizes and files for a page. No torch here."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.checks import finite, image_array, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.imaging.morphology import dilated
from flawmap.imaging.resize import resized
from flawmap.imaging.rows import BlockReduce, block_counts

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, red green blue."""
Levels = NDArray[np.uint8]
"""(H, W) or (H, W, 3) uint8."""

OVERLAY_SIDE = 4096  # pixels: the longest side of a reduced overlay
DETECTED = (0, 230, 90)  # green
TRUTH = (255, 45, 60)  # red
LONGEST, SHORTEST = 1400, 256  # pixels: a page's pictures shrink until one side fits; strips keep their height
LIMIT = 8192  # pixels: and no side is longer
JPEG_QUALITY = 88
FITTED_QUALITY = 75  # where a picture may have so many bytes alone: pixels are worth more than quality
SMALL = 256 * 256  # pixels: up to this size a picture is a PNG, exact and not much larger
DRAWN_VALUES = 16  # a picture with no more values is a mask or a drawing, which JPEG would fray


# ------------------------------------------------------------------------------------------------- outlines and colours


def overlay(
    image: NDArray[np.float32],
    mask: Mask,
    truth: Mask | None = None,
    *,
    width: int | None = None,
) -> Picture:
    """An image with the detected flaws outlined in green and the ground truth in red.

    Outlines run around a flaw, outside it, so that the flaw itself stays visible: green next to it, red around that.
    Along the image's border, where there is no outside, they run inside.

    Args:
        image: (H, W, 1) or (H, W, 3), floating point, intensities in [0, 1]; values outside are clipped.
        mask: (H, W) bool, detected. truth: (H, W) bool, or None.
        width: of the outlines, pixels; None: one pixel in images below 768 pixels, and wider with the longer side.
    Returns:
        (H, W, 3) uint8.
    Raises:
        InputError: a shape, a type, or NaN.
    """
    image_array(image)
    size = image.shape[:2]
    for name, layer in (("mask", mask), ("truth", truth)):
        if layer is not None and layer.shape != size:
            raise InputError(f"{name} must be {shape_text(size)}, as large as the image, got {shape_text(layer.shape)}")
    levels = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    picture = levels if levels.shape[2] == 3 else np.asarray(cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB), np.uint8)
    width = width or max(1, round(max(size) / 512))
    dots = picture.reshape(-1, 3)
    if truth is not None:
        dots[np.flatnonzero(_outline(truth, width, gap=width))] = TRUTH
    dots[np.flatnonzero(_outline(mask, width))] = DETECTED
    return picture


class ReducedOverlay:
    """An overlay of an image that arrives by bands, reduced by a whole factor.

    A pixel of it counts as flawed if any of the pixels that it stands for is.

    Args:
        shape: (H, W, C) of all bands together. factor: 1 or more; None: one that leaves no side over OVERLAY_SIDE.
    """

    def __init__(self, shape: tuple[int, int, int], factor: int | None = None) -> None:
        height, width, channels = shape
        self._factor, self._size = factor or -(-max(height, width) // OVERLAY_SIDE), (height, width)
        self._image = BlockReduce((height, width, channels), self._factor, np.add, np.float64)
        self._mask = BlockReduce((height, width), self._factor, np.logical_or, np.bool_)

    def add_image(self, image: NDArray[np.float32]) -> None:
        """The band below the last one: (h, W, C) in [0, 1]."""
        self._image.add(image)

    def add_mask(self, mask: Mask) -> None:
        """The band below the last one: (h, W) bool."""
        self._mask.add(mask)

    def picture(self, truth: Mask | None = None, *, width: int | None = None) -> Picture:
        """(h, w, 3) uint8, after the last band. truth: (h, w) bool, reduced alike. width: of the outlines, pixels."""
        means = self._image.values / block_counts(self._size, self._factor)[:, :, None]
        return overlay(np.clip(means, 0, 1).astype(np.float32), self._mask.values, truth, width=width)


def heatmap(residual: FloatMap, low: float, high: float) -> Picture:
    """A residual map in the colours of `inferno`, perceptually even: black = low or less, light yellow = high or more.

    The limits are given, not taken from the map, so two maps with the same limits can be compared.

    Args:
        residual: (H, W) float32, finite. low, high: residuals at the ends of the colour scale, low < high.
    Returns:
        (H, W, 3) uint8.
    Raises:
        InputError: a shape, NaN, or limits that span nothing.
    """
    if residual.ndim != 2:
        raise InputError(f"residual must be (H, W), got {shape_text(residual.shape)}")
    finite(residual, "residual")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"low and high must be finite with low < high, got {low} and {high}")
    fraction = np.clip((residual.astype(np.float64) - low) / (high - low), 0, 1)
    levels = np.rint(fraction * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(coloured[:, :, ::-1], dtype=np.uint8)


def _outline(mask: Mask, width: int, gap: int = 0) -> Mask:
    """The ring of a width, `gap` pixels outside a mask; where the mask meets the border, the ring's part inside it."""
    inner, outer = dilated(mask, gap), dilated(mask, gap + width)
    border = np.ones(mask.shape, np.bool_)
    border[width:-width, width:-width] = False
    ring: Mask = (outer & ~inner) | (mask & border)
    return ring


# ---------------------------------------------------------------------------------------------- pictures for a page


def picture(values: NDArray[np.floating[Any]] | Mask) -> Levels:
    """An image, a reconstruction or a mask to look at; values outside [0, 1] are clipped.

    Args:
        values: (H, W, 1) or (H, W, 3), floating point; or (H, W) bool.
    Returns:
        uint8, (H, W) or (H, W, 3): 255 = 1 or True.
    Raises:
        InputError: a shape, a type, NaN or infinite values.
    """
    if values.dtype == np.bool_ and values.ndim == 2:
        return values.astype(np.uint8) * np.uint8(255)
    image_array(values)  # type: ignore[arg-type]  # it names what is wrong with anything else
    levels: Levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return levels[:, :, 0] if levels.shape[2] == 1 else levels


def shrunk(values: Levels) -> Levels:
    """A picture at the size a page holds: by area, until its longer side has 1400 pixels or its shorter one 256.

    A strip of 2770 x 256 stays as it is; no side is longer than 8192.
    """
    return _scaled(values, page_scale(values.shape[:2]))


def page_scale(size: tuple[int, int]) -> float:
    """By how much a picture (height, width) is scaled for a page, at most 1."""
    longer, shorter = max(size), min(size)
    return min(1.0, max(LONGEST / longer, min(1.0, SHORTEST / shorter)), LIMIT / longer)


def _scaled(values: Levels, scale: float) -> Levels:
    """A picture made smaller by area."""
    if scale == 1:
        return values
    height, width = values.shape[:2]
    layers = values if values.ndim == 3 else values[:, :, None]
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small: Levels = np.rint(resized(layers.astype(np.float32), size)).astype(np.uint8)
    return small if values.ndim == 3 else small[:, :, 0]


class EncodedPicture(NamedTuple):
    """A picture as the bytes of a file. kind: its media type. width, height: pixels."""

    kind: str
    content: bytes
    width: int
    height: int

    @property
    def url(self) -> str:
        """The whole picture as a data URL."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


def fitted(values: Levels, most: int) -> EncodedPicture:
    """A picture as a file of at most so many bytes, a thousand or more: a JPEG that is scaled down where it must be."""
    made = encoded(values)
    while len(made.content) > most and max(values.shape[:2]) > 1:
        if made.kind == "image/jpeg":
            values = _scaled(values, min(0.9, (most / len(made.content)) ** 0.5))
        made = _jpeg(values, FITTED_QUALITY)
    return made


def encoded(values: Levels) -> EncodedPicture:
    """A picture as a file: PNG for masks, drawings and small pictures, else JPEG."""
    height, width = values.shape[:2]
    if width * height > SMALL and not _drawn(values):
        return _jpeg(values, JPEG_QUALITY)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(file, "PNG", optimize=True)
    return EncodedPicture("image/png", file.getvalue(), width, height)


def _drawn(values: Levels) -> bool:
    """Whether a picture has few values; most that have many show them in the first pixels."""
    return all(
        np.count_nonzero(np.bincount(part, minlength=256)) <= DRAWN_VALUES
        for part in (values.ravel()[:SMALL], values.ravel())
    )


def _jpeg(values: Levels, quality: int) -> EncodedPicture:
    """Colours at full resolution, or outlines one pixel wide would turn grey."""
    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(values))
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return EncodedPicture("image/jpeg", file.getvalue(), image.width, image.height)

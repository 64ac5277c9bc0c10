"""What happens to images on a line: light, focus, noise and the camera's place, each in steps from faint to strong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import image_array
from flawmap.core.records import Mask
from flawmap.imaging.reading import Pixels

JPEG = (int(cv2.IMWRITE_JPEG_QUALITY),)
TINY = 1e-6  # instead of 0, where a logarithm is taken


class Change(NamedTuple):
    """One kind of change.

    name: an adjective for the image. unit: of a step, as a format that takes it. steps: from faint to strong. pixels:
    an image (H, W, C) in [0, 1] and a step to the changed image, of the same shape. moves: whether what lies in the
    image moves, too.
    """

    name: str
    unit: str
    steps: tuple[float, ...]
    pixels: Callable[[Pixels, float], Pixels]
    moves: bool = False

    def text(self, step: float) -> str:
        return self.unit.format(step)

    def mask(self, mask: Mask, step: float) -> Mask:
        """A mask (H, W) of the image, as it lies in the changed one."""
        if not self.moves:
            return mask
        return np.asarray(self.pixels(mask.astype(np.float32)[:, :, None], step)[:, :, 0] > 0.5)


def _lit(image: Pixels, factor: float) -> Pixels:
    return np.asarray(np.clip(image * np.float32(factor), 0, 1), np.float32)


def _shaded(image: Pixels, strength: float) -> Pixels:
    ramp = np.linspace(1 - strength, 1 + strength, image.shape[1], dtype=np.float32)
    return np.asarray(np.clip(image * ramp[None, :, None], 0, 1), np.float32)


def _softened(image: Pixels, sigma: float) -> Pixels:
    return _channels(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), image)


def _noisy(image: Pixels, levels: float) -> Pixels:
    noise = np.random.default_rng(0).standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(image + noise * np.float32(levels / 255), 0, 1), np.float32)


def _recompressed(image: Pixels, quality: float) -> Pixels:
    levels = np.rint(image * 255).astype(np.uint8)
    _, blob = cv2.imencode(".jpg", levels, (*JPEG, int(quality)))
    flag = cv2.IMREAD_GRAYSCALE if image.shape[2] == 1 else cv2.IMREAD_COLOR
    return _channels(np.asarray(cv2.imdecode(blob, flag), np.float32) / 255, image)


def _turned(image: Pixels, degrees: float) -> Pixels:
    return _warped(image, degrees, 1.0)


def _magnified(image: Pixels, factor: float) -> Pixels:
    return _warped(image, 0.0, factor)


def _warped(image: Pixels, degrees: float, factor: float) -> Pixels:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return _channels(np.clip(moved, 0, 1), image)


def _channels(found: NDArray[Any], image: Pixels) -> Pixels:
    """OpenCV drops the one channel of a grey image."""
    return np.asarray(found.reshape(image.shape), np.float32)


CHANGES = (
    Change("brighter", "{:g} times the light", (1.05, 1.1, 1.2, 1.4), _lit),
    Change("darker", "{:g} times the light", (0.95, 0.9, 0.8, 0.6), _lit),
    Change("shaded", "{:.0%} of the light each way", (0.05, 0.1, 0.2, 0.4), _shaded),
    Change("softer", "blurred by {:g} pixels", (0.5, 1.0, 1.5, 2.5), _softened),
    Change("noisier", "noise of {:g} in 255", (2.0, 5.0, 10.0, 20.0), _noisy),
    Change("recompressed", "JPEG of quality {:g}", (90.0, 75.0, 50.0, 25.0), _recompressed),
    Change("turned", "by {:g} degrees", (1.0, 2.0, 4.0, 8.0), _turned, moves=True),
    Change("magnified", "{:g} times", (1.01, 1.02, 1.05, 1.1), _magnified, moves=True),
)


TRAITS = ("brightness", "contrast", "sharpness", "noise", "shading", "period")


def traits(image: Pixels) -> tuple[float, ...]:
    """Six numbers of an image (H, W, C) that its light, its focus and its place change, in the order of TRAITS.

    brightness: the mean. contrast: the standard deviation. sharpness: mean size of the gradient, as a logarithm. noise:
    median size of what a 3 x 3 Laplacian leaves, as a logarithm. shading: the mean of the right half over that of the
    left, as a logarithm. period: the mean spatial frequency by power, as a logarithm.

    Raises:
        InputError: not such an image.
    """
    image_array(image)
    grey = np.asarray(image.mean(axis=2), np.float32)
    down, across = np.gradient(grey) if min(grey.shape) > 1 else (np.zeros_like(grey), np.zeros_like(grey))
    rest = cv2.filter2D(grey, -1, np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32))
    half = max(1, grey.shape[1] // 2)
    centred = grey - cv2.GaussianBlur(grey, (0, 0), 8, borderType=cv2.BORDER_REFLECT_101)
    power = np.abs(np.fft.rfft2(centred)) ** 2
    rows, columns = np.fft.fftfreq(grey.shape[0])[:, None], np.fft.rfftfreq(grey.shape[1])[None]
    frequency = float((np.hypot(rows, columns) * power).sum() / max(float(power.sum()), TINY))
    return (
        float(grey.mean()),
        float(grey.std()),
        _logarithm(float(np.hypot(down, across).mean())),
        _logarithm(float(np.median(np.abs(rest)))),
        _logarithm(float(grey[:, -half:].mean())) - _logarithm(float(grey[:, :half].mean())),
        _logarithm(frequency),
    )


def _logarithm(value: float) -> float:
    return float(np.log(max(value, TINY)))

"""Images and small models that several test files make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import flawmap
from flawmap.data.defects import add_flaw
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset

TINY: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 5, "batch": 4, "device": "cpu", "precision": "float32"},
}
"""Settings of a training that takes a second."""


def write_grey(path: Path, image: NDArray[np.float32]) -> None:
    """The first channel of an (H, W, C) in [0, 1] as a grey picture of 8 bits."""
    write_image(path, np.rint(image[:, :, 0] * 255).astype(np.uint8))


def write_cloth(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> list[NDArray[np.float32]]:
    """Good cloth as FOLDER/00.png and so on; size: width and height. Returns the images."""
    folder.mkdir()
    images = list(good_images("cloth", count, size, seed))
    for number, image in enumerate(images):
        write_grey(folder / f"{number:02d}.png", image)
    return images


def write_flawed(path: Path, image: NDArray[np.float32], size: int) -> None:
    """An image with a cut of about so many pixels."""
    write_grey(path, add_flaw(image, "cut", 1, size=size)[0])


def trained(folder: Path, model: Path, settings: Mapping[str, Any], method: str = "ssim") -> Path:
    """A model of a folder's images, by settings laid over the preset `fast`; returns its path."""
    flawmap.train(folder, model, override(preset("fast", method), dict(settings)))
    return model

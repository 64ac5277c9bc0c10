"""`flawmap synth`: a synthetic data set."""

from __future__ import annotations

from pathlib import Path

from flawmap.core.errors import InputError
from flawmap.core.files import enough_space
from flawmap.data.defects import defective_images
from flawmap.data.synthetic import FITTING, good_images
from flawmap.data.writing import write_mvtec


def synth(folder: Path, kind: str, *, good: int, bad: int, size: tuple[int, int], seed: int) -> dict[str, int]:
    """Write a synthetic data set in the layout of MVTec AD.

    Args:
        good: images to train on; a quarter as many, at least one, go to test/good. bad: images with one flaw each,
            the kinds of flaw in turn. size: (width, height), pixels.
    Returns:
        Images written, by folder.
    """
    if good < 1 or bad < 0:
        raise InputError(f"at least one good image and no fewer than 0 bad ones are needed, got {good} and {bad}")
    enough_space(folder, (good + max(1, good // 4) + bad) * size[0] * size[1])
    train = good_images(kind, good, size, seed, stream="train")
    test = good_images(kind, max(1, good // 4), size, seed, stream="good")
    flawless = good_images(kind, bad, size, seed, stream="bad")
    return write_mvtec(folder, train, test, defective_images(flawless, FITTING[kind], seed))

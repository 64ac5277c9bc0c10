"""The ground truth of an image: the union of all that shows its defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.data.annotations import rasterised, read_labelme
from flawmap.data.samples import Sample
from flawmap.imaging.reading import read_mask


def truth_of(sample: Sample, shape: tuple[int, int]) -> Mask | None:
    """Where a sample is defective, (H, W) bool, True = defective; None: nothing was drawn for it, or it is good.

    Args:
        shape: (H, W) of the image, which mask files must have.
    Raises:
        InputError: a mask or an annotation file cannot be read, or is of another size.
    """
    if not sample.annotated:
        return None
    truth = rasterised(sample.shapes, shape, str(sample.path))
    for path in sample.masks:
        truth |= _drawn(path, shape) if path.suffix.lower() == ".json" else read_mask(path, shape)
    return np.asarray(truth)


def _drawn(path: Path, shape: tuple[int, int]) -> Mask:
    drawing = read_labelme(path)
    if drawing.size not in (None, shape):
        height, width = drawing.size or shape
        raise InputError(
            f"{path} was drawn on an image of {width} x {height}, its image is {shape[1]} x {shape[0]}; draw it anew"
        )
    return rasterised(drawing.shapes, shape, str(path))

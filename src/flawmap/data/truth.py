"""The ground truth of an image: the union of all that shows its defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.data.annotations import Drawing, rasterised, read_labelme
from flawmap.data.samples import Sample
from flawmap.imaging.codecs import decode
from flawmap.imaging.reading import read_mask


def truth_of(sample: Sample, shape: tuple[int, int]) -> Mask | None:
    """Where a sample is defective, (H, W) bool, True = defective; None: nothing was drawn for it, or it is good.

    Args:
        shape: (H, W) of the image, which mask files must have.
    Raises:
        InputError: a mask or an annotation file cannot be read, or belongs to an image of another size.
    """
    masks = [_of_file(path, shape) for path in sample.masks]
    if sample.drawing is not None:
        masks.append(_of_drawing(sample.drawing, shape, sample.path))
    return np.logical_or.reduce(masks) if masks else None


def _of_file(path: Path, shape: tuple[int, int]) -> Mask:
    return _of_drawing(read_labelme(path), shape, path) if path.suffix.lower() == ".json" else read_mask(path, shape)


def _of_drawing(drawing: Drawing, shape: tuple[int, int], path: Path) -> Mask:
    if drawing.size is not None and drawing.size != shape:
        height, width = drawing.size
        raise InputError(
            f"the annotations of {path} were drawn on {width} x {height} pixels, its image has {shape[1]} x "
            f"{shape[0]}; annotations have their image's size"
        )
    return rasterised(drawing.shapes, shape, str(path))


def distinct_values(path: Path, pixel_limit: int) -> int:
    """How many different values a mask file holds, 0 among them; labelme's shapes count as one value beside 0."""
    if path.suffix.lower() == ".json":
        return 2
    return len(np.unique(decode(path, pixel_limit).values.max(axis=2)))

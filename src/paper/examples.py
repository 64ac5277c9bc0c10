"""The paper's figures 1 and 5: an image, what networks make of it, and what is found, beside the ground truth.

A row of pictures for each method. The image is chosen by the size of its flaws alone, never by how well these are
found.

Reference: Bergmann et al. 2019, arXiv:1807.02011, figures 1 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.core.files import natural_key
from flawmap.core.records import Mask
from flawmap.core.runtime import Runtime
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Sample
from flawmap.data.truth import truth_of
from flawmap.evaluation.histograms import check_rate
from flawmap.imaging.morphology import label
from flawmap.imaging.reading import opened_image
from flawmap.imaging.roi import bounding_box, find_roi, label_in_roi
from flawmap.reporting.charts import INK, save_figure
from flawmap.reporting.pictures import Levels, Picture, heatmap, overlay, picture, shrunk
from flawmap.scoring.detector import Detector
from paper.figures import tight_figure
from paper.plan import METHODS

RATE = 0.05  # the false positive rate of the second segmentation
WINDOW = 1024  # pixels: only this much of a longer strip is shown
STRIP = 3  # pictures that are this many times as wide as high are strips, and stand below each other


class View(NamedTuple):
    """An image and what one method makes of it, cut to what is shown. All (h, w, 3) uint8."""

    image: Picture
    reconstruction: Picture
    residual: Picture
    own: Picture
    at_rate: Picture


TITLES = ("image", "reconstruction", "residual", "at its own threshold", "at 5 % false positives")
"""The names of a view's pictures for readers."""


def draw(
    models: Mapping[str, Path],
    dataset_folder: Path,
    path: Path,
    *,
    thresholds: Mapping[str, float],
    runtime: Runtime | None = None,
) -> None:
    """Draw an image with its reconstructions, residuals and segmentations: of all defective ones the median by size.

    Segmentations are shown twice: at the model's own threshold, which good images gave, and at the one with 5 % of the
    set's good pixels above it, as in the paper's figures of overlap.

    Args:
        models: model files by method, in the order of the rows.
        dataset_folder: a labelled set. path: the PNG file to write; its folder exists.
        thresholds: by method, with 5 % of the set's good pixels above, see `threshold_at`.
    Raises:
        InputError: no models, or no defective images with masks.
        ConfigError: a model has no threshold.
    """
    if not models:
        raise InputError("examples need at least one model, got none")
    detectors = {method: Detector.load(file, runtime or Runtime()) for method, file in models.items()}
    samples = _flawed(dataset_folder, next(iter(detectors.values())))
    sample, truth = samples[round((len(samples) - 1) / 2)]
    views = {method: _view(sample, truth, detector, thresholds[method]) for method, detector in detectors.items()}
    _compose(views, f"{sample.kind}/{sample.path.name}", path)  # in some layouts every kind of flaw has a 000.png


def threshold_at(histogram: Mapping[str, Any], rate: float = RATE) -> float:
    """The lowest edge of a record's histogram with at most a fraction of the good pixels above it.

    Args:
        histogram: "edges" (B + 1,), rising, and the "good" pixels between them, (B,).
        rate: fraction of the good pixels, in [0, 1).
    Raises:
        InputError: a rate outside [0, 1), or no good pixels.

    >>> threshold_at({"edges": [0, 1, 2, 3], "good": [90, 5, 5]}, 0.05)
    2.0
    """
    check_rate(rate, "rate")
    good = np.asarray(histogram["good"], dtype=np.float64)
    if good.sum() == 0:
        raise InputError("a threshold needs good pixels, got none")
    above = np.append(good[::-1].cumsum()[::-1], 0)  # of each edge
    return float(histogram["edges"][int(np.argmax(above <= rate * good.sum()))])


def window_of(truth: Mask, inside: Mask | None = None, longest: int = WINDOW) -> tuple[slice, slice]:
    """The part of an image that is shown: all of a side, or of a long side only the pixels around the largest flaw.

    Args:
        truth: (H, W) bool, with some flaw. inside: the region of interest; where it is long enough, nothing beside it
            is shown. longest: of a side that is shown whole, pixels.

    >>> mask = np.zeros((256, 4096), np.bool_)
    >>> mask[10:20, 4000:4050] = True
    >>> window_of(mask)[1]
    slice(3072, 4096, None)
    """
    labels, _ = label(truth)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    flaw = np.nonzero(labels == int(sizes.argmax()))
    left, top, right, bottom = (0, 0, truth.shape[1], truth.shape[0]) if inside is None else bounding_box(inside)
    ends = ((top, bottom), (left, right))
    rows, columns = (
        _around(places, side, end, longest) for places, side, end in zip(flaw, truth.shape, ends, strict=True)
    )
    return rows, columns


def _around(places: NDArray[np.intp], side: int, ends: tuple[int, int], longest: int) -> slice:
    if side <= longest:
        return slice(0, side)
    low, high = ends if ends[1] - ends[0] >= longest else (0, side)
    middle = (int(places.min()) + int(places.max())) // 2
    start = min(max(low, middle - longest // 2), high - longest)
    return slice(start, start + longest)


# ------------------------------------------------------------------------------------------------------- which images


def _flawed(folder: Path, detector: Detector) -> list[tuple[Sample, Mask]]:
    """The defective images whose flaws lie in the region of interest, and their truth there, by rising size of it."""
    found = []
    for sample in find_dataset(folder).samples:
        if not sample.annotated:
            continue
        with opened_image(sample.path, detector.config.images) as image:
            truth = truth_of(sample, (image.shape[0], image.shape[1]))
            inside = find_roi(image, detector.config.images.roi).rows(0, image.shape[0], image.shape[1])
        if truth is not None and label_in_roi(sample.label, truth, inside) == "defective" and truth.any():
            found.append((sample, truth & inside))
    if not found:
        raise InputError(f"{folder} must hold defective images with masks of their flaws, got none")
    return sorted(found, key=lambda pair: (int(pair[1].sum()), natural_key(pair[0].path)))


# ------------------------------------------------------------------------------------------------------ what is shown


def _view(sample: Sample, truth: Mask, detector: Detector, threshold: float) -> View:
    """What a method makes of an image, also at a threshold that is not the model's own."""
    pixels = detector.read(sample.path).pixels
    explained = detector.explain(pixels, path=sample.path)
    own, at_rate = (detector.inspect(pixels, path=sample.path, threshold=limit) for limit in (None, threshold))
    assert explained.reconstruction is not None  # the paper's methods all have one
    window = window_of(truth, explained.inside)
    part, known = pixels[window], truth[window]
    width = max(1, round(max(known.shape) / 256))
    top = own.threshold if own.threshold > 0 else float(own.residual.max()) or 1.0
    return View(
        _rgb(picture(part)),
        _rgb(picture(explained.reconstruction)[window]),
        heatmap(own.residual[window], 0.0, top),
        overlay(part, own.mask[window], known, width=width),
        overlay(part, at_rate.mask[window], known, width=width),
    )


def _rgb(levels: Levels) -> Picture:
    return levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=2)


def _compose(views: Mapping[str, View], name: str, path: Path) -> None:
    """Pictures side by side, a row a method; strips below each other, a column a method."""
    methods, rows = [METHODS[method] for method in views], [list(view) for view in views.values()]
    height, width = rows[0][0].shape[:2]
    strips = width >= STRIP * height
    tiles = [list(column) for column in zip(*rows, strict=True)] if strips else rows
    columns, labels = (methods, TITLES) if strips else (TITLES, methods)
    side = (12.4 - 0.4) / len(columns) * height / width
    figure = tight_figure(12.4, len(tiles) * (side + 0.06) + 0.5)
    grid = figure.subplots(len(tiles), len(columns), squeeze=False)
    for line, places, row_name in zip(tiles, grid, labels, strict=True):
        for axes, tile in zip(places, line, strict=True):
            axes.imshow(shrunk(tile), interpolation="antialiased")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        places[0].set_ylabel(row_name, color=INK, fontsize=8.5 if strips else 11)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, color=INK, fontsize=10.5, pad=5)
    figure.suptitle(name, color="#777777", fontsize=8.5, x=0.995, ha="right")
    save_figure(figure, path)

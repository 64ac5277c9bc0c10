"""The paper's figures 1 and 5: an image, what networks make of it, and what is found, beside the ground truth.

Rows of pictures for each image, a row a method. The images are chosen by the size of their flaws alone, never by how
well these are found.

Reference: Bergmann et al. 2019, arXiv:1807.02011, figures 1 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.core.files import natural_key
from flawmap.core.records import MappedInspection, Mask
from flawmap.core.runtime import Runtime
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Sample
from flawmap.data.truth import truth_of
from flawmap.evaluation.evaluate import score_case
from flawmap.evaluation.histograms import ScoreHistogram, check_rate, quantile_from_good
from flawmap.imaging.morphology import label
from flawmap.imaging.reading import opened_image
from flawmap.imaging.roi import bounding_box, find_roi, label_in_roi
from flawmap.reporting.charts import INK, save_figure
from flawmap.reporting.pictures import Picture, heatmap, overlay, picture, shrunk
from flawmap.scoring.detector import Detector, ScoreMaps
from paper.figures import tight_figure
from paper.plan import METHODS

RATE = 0.05  # the false positive rate of the second segmentation
WINDOW = 1024  # pixels: only this much of a longer strip is shown
STRIP = 3  # pictures that are this many times as wide as high are strips, and stand below each other


class View(NamedTuple):
    """What one method makes of one image, cut to what is shown. All (h, w, 3) uint8."""

    reconstruction: Picture
    residual: Picture
    own: Picture
    at_rate: Picture


class Example(NamedTuple):
    """name: of the image. image: (h, w, 3) uint8. views: by method."""

    name: str
    image: Picture
    views: dict[str, View]


def draw(
    models: Mapping[str, Path],
    dataset_folder: Path,
    path: Path,
    *,
    images: int = 1,
    names: Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    runtime: Runtime | None = None,
) -> None:
    """Draw images with their reconstructions, residuals and segmentations.

    Segmentations are shown twice: at the model's own threshold, which good images gave, and at the one with 5 % of the
    set's good pixels above it, as in the paper's figures of overlap.

    Args:
        models: model files by method, in the order of the rows.
        dataset_folder: a labelled set. path: the PNG file to write; its folder exists.
        images: how many, 1 to 3: spread over the sizes of the flaws.
        names: show these instead, as KIND/FILE: "cut/000.png".
        thresholds: by method, with 5 % of the set's good pixels above, see `threshold_at`; without one, a method scores
            every defective image of the set to find it, which is slow.
    Raises:
        InputError: no models, no defective images with masks, an unknown name, or more than 3 images.
        ConfigError: a model has no threshold.
    """
    if not models or not 1 <= images <= 3:
        raise InputError(f"examples need at least one model and 1 to 3 images, got {len(models)} and {images}")
    detectors = {method: Detector.load(file, runtime or Runtime()) for method, file in models.items()}
    samples = _flawed(dataset_folder, next(iter(detectors.values())))
    chosen = _named(samples, names) if names else _evenly(samples, images)
    limits = dict(thresholds or {})
    for method in detectors.keys() - limits.keys():
        limits[method] = _limit(detectors[method], [sample for sample, _ in samples])
    _compose([_example(sample, truth, detectors, limits) for sample, truth in chosen], path)


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


def _name(sample: Sample) -> str:
    """Kind and file: in some layouts every kind of flaw has its own 000.png."""
    return f"{sample.kind}/{sample.path.name}"


def _evenly(samples: Sequence[tuple[Sample, Mask]], images: int) -> list[tuple[Sample, Mask]]:
    """Some of a list, in its order: the middle one, or the three quartiles."""
    places = np.linspace(0, len(samples) - 1, images + 2)[1:-1].round().astype(int)
    return [samples[place] for place in dict.fromkeys(places.tolist())]


def _named(samples: Sequence[tuple[Sample, Mask]], names: Sequence[str]) -> list[tuple[Sample, Mask]]:
    by_name = {_name(sample): (sample, truth) for sample, truth in samples}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)} must be among the defective images with masks: {', '.join(sorted(by_name))}"
        )
    return [by_name[name] for name in names]


# ----------------------------------------------------------------------------------------------------- what they show


def _limit(detector: Detector, samples: Sequence[Sample]) -> float:
    """The threshold with 5 % of the good pixels of the defective images above it."""
    pooled = ScoreHistogram.empty()
    for sample in samples:
        case, _ = score_case(detector, sample)
        if case.label != "defective" or case.truth is None:
            continue
        counted = ~case.truth & case.explained.inside
        pooled = pooled + ScoreHistogram.of(case.inspection.residual[counted])
    return quantile_from_good(pooled, RATE)


def _example(sample: Sample, truth: Mask, detectors: Mapping[str, Detector], limits: Mapping[str, float]) -> Example:
    views, shown = {}, np.zeros(0, np.uint8)
    for method, detector in detectors.items():
        pixels = detector.read(sample.path).pixels
        explained = detector.explain(pixels, path=sample.path)
        window = window_of(truth, explained.inside)
        shown = _rgb(picture(pixels)[window])
        inspections = [detector.inspect(pixels, path=sample.path, threshold=limit) for limit in (None, limits[method])]
        views[method] = _view(pixels, explained, inspections, truth, window)
    return Example(_name(sample), shown, views)


def _view(
    pixels: NDArray[np.float32],
    explained: ScoreMaps,
    inspections: Sequence[MappedInspection],
    truth: Mask,
    window: tuple[slice, slice],
) -> View:
    """inspections: at the model's own threshold, and at the rate's."""
    own, at_rate = inspections
    assert explained.reconstruction is not None  # the paper's methods all have one
    part, known = pixels[window], truth[window]
    width = max(1, round(max(known.shape) / 256))
    top = own.threshold if own.threshold > 0 else float(own.residual.max()) or 1.0
    return View(
        _rgb(picture(explained.reconstruction)[window]),
        heatmap(own.residual[window], 0.0, top),
        overlay(part, own.mask[window], known, width=width),
        overlay(part, at_rate.mask[window], known, width=width),
    )


def _rgb(levels: NDArray[np.uint8]) -> Picture:
    return levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=2)


# -------------------------------------------------------------------------------------------------------- one picture

TITLES = ("image", "reconstruction", "residual", "at its own threshold", "at 5 % false positives")


def _compose(examples: Sequence[Example], path: Path) -> None:
    """Pictures side by side, a row a method; strips below each other, a column a method."""
    height, width = examples[0].image.shape[:2]
    strips = width >= STRIP * height
    methods = list(examples[0].views)
    tiles: list[list[Picture]] = []
    labels: list[str] = []
    for example in examples:
        rows = [[example.image, *view] for view in example.views.values()]
        tiles += [list(column) for column in zip(*rows, strict=True)] if strips else rows
        labels += TITLES if strips else [METHODS[method] for method in methods]
    columns = [METHODS[method] for method in methods] if strips else TITLES
    side = (12.4 - 0.4) / len(columns)
    each = side * height / width
    figure = tight_figure(12.4, len(tiles) * (each + 0.06) + 0.4 + 0.25 * len(examples))
    parts = figure.subfigures(len(examples), 1, squeeze=False).ravel()
    lines = len(tiles) // len(examples)
    for number, (part, example) in enumerate(zip(parts, examples, strict=True)):
        grid = part.subplots(lines, len(columns), squeeze=False)
        for line, places in enumerate(grid):
            for axes, tile in zip(places, tiles[number * lines + line], strict=True):
                axes.imshow(shrunk(tile), interpolation="antialiased")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            places[0].set_ylabel(labels[number * lines + line], color=INK, fontsize=8.5 if strips else 11)
        for axes, title in zip(grid[0], columns, strict=True):
            axes.set_title(title, color=INK, fontsize=10.5, pad=5)
        part.suptitle(example.name, color="#777777", fontsize=8.5, x=0.995, ha="right")
    save_figure(figure, path)

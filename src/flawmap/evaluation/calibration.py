"""What good images tell of a network: what it leaves at their border, and where a residual becomes a flaw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flawmap.core.errors import ConfigError
from flawmap.core.records import FloatMap, Mask
from flawmap.data.loading import LoadStatistics, pieces
from flawmap.data.patches import TrainingImage
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.histograms import ScoreHistogram, quantile_from_good
from flawmap.imaging.roi import roi_mask
from flawmap.scoring.borders import Profile, border_profile
from flawmap.scoring.detector import Detector

BORDER_IMAGES = 20  # at most, to measure a border on


def calibrated(detector: Detector, training: Sequence[ImageRegion], held_out: Sequence[ImageRegion]) -> Detector:
    """The detector with the border that its settings ask to level, if they do, and then with its threshold.

    Args:
        training: the good images or areas that the border is measured on; read if it is.
        held_out: other good images or areas, for the threshold; none: there is none.
    """
    if detector.config.residual.border_correction:
        border = border_from_good(
            detector, pieces(evenly(training, BORDER_IMAGES), detector.config.images, LoadStatistics())
        )
        detector = replace(detector, artifact=detector.artifact.with_border(border))
    if held_out:
        artifact = detector.artifact.with_threshold(*threshold_from_good(detector, held_out))
        detector = replace(detector, artifact=artifact)
    return detector


def border_from_good(detector: Detector, images: Iterable[TrainingImage]) -> Profile:
    """How much more good images leave at their border than in their middle, by a detector that does not level it yet.

    Those trained on will do: a ratio is measured, not a level, and the threshold is found on others.

    Args:
        images: as they are worked; nothing outside their regions of interest counts.
    """
    maps = ((detector.score_worked(piece.pixels).residual, piece.inside) for piece in images)
    return border_profile(maps, detector.config.model.patch // 2)


def evenly(areas: Sequence[ImageRegion], most: int) -> list[ImageRegion]:
    """At most so many of these areas, from the first to the last at even distances."""
    places = np.unique(np.linspace(0, len(areas) - 1, min(most, len(areas))).round().astype(int))
    return [areas[place] for place in places]


def threshold_from_good(
    detector: Detector, areas: Iterable[ImageRegion], report: Callable[[], None] = lambda: None
) -> tuple[float, dict[str, Any]]:
    """The threshold that the detector's settings ask for, and how it was found.

    By `quantile` at most the given share of the held-out good pixels has an opened residual above it; by `largest`
    none has.

    Args:
        areas: good images, or areas of them, that were not trained on.
        report: called after each area.
    Raises:
        ConfigError: no areas, or nothing of them in the region of interest.
    """
    settings = detector.config.threshold
    good, largest, count = ScoreHistogram.empty(), -np.inf, 0
    for residual, inside in opened_residuals(detector, areas):
        values = residual if inside is None else residual[inside]
        good, largest, count = good + ScoreHistogram.of(values), max(largest, float(values.max())), count + 1
        report()
    if count == 0:
        raise ConfigError(
            "a threshold is found on good images that were held out, but none were; hold a share out for validation "
            "(--validation 0.1)"
        )
    threshold = largest if settings.rule == "largest" else quantile_from_good(good, settings.false_positive_rate)
    found = {
        "rule": settings.rule,
        "false_positive_rate": settings.false_positive_rate if settings.rule == "quantile" else 0.0,
        "good_areas": count,
        "good_pixels": good.good_pixels,
        "largest": largest,
    }
    return float(threshold), found


def opened_residuals(detector: Detector, areas: Iterable[ImageRegion]) -> Iterator[tuple[FloatMap, Mask | None]]:
    """The opened residual map of each area, scored by itself, and its region of interest (None = all of it).

    An area of which nothing lies in the region is passed over.
    """
    for area in areas:
        image = detector.read(area.path).pixels
        inside = roi_mask(area.path, image, detector.config.images.roi)
        whole = image.shape[:2]
        if area.box is not None:
            left, top, right, bottom = area.box
            image = image[top:bottom, left:right]
            inside = None if inside is None else inside[top:bottom, left:right]
            if inside is not None and not inside.any():
                continue
        yield detector.opened(detector.explain_inside(image, inside, whole).residual), inside

"""Calibration on good images: the border correction, and the threshold above which a residual is a flaw."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import Array, namespace_of
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.records import Mask
from flawmap.core.settings import ThresholdSettings
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.histograms import ScoreHistogram, grouped, quantile_from_good
from flawmap.evaluation.pasting import Turn, good_part, score_part, turns, with_defect
from flawmap.evaluation.scans import each, evenly, good_layers, in_parallel, scan_good
from flawmap.scoring.borders import BorderProfile, border_profile
from flawmap.scoring.conformal import images_needed, score_limit
from flawmap.scoring.detector import Detector
from flawmap.scoring.operating_point import UNDECIDED, OperatingPoint

log = logging.getLogger(__name__)

BORDER_IMAGES = 20  # at most, to measure a border on
MASK_PARTS, MASK_SEED = 28, 3000  # parts of good images that a mask's level is found on, and the first one's seed


def calibrated(
    detector: Detector,
    training: Sequence[ImageRegion],
    held_out: Sequence[ImageRegion],
    events: Events = SILENT,
) -> Detector:
    """The detector with its border correction, if the settings ask for one, and then with its threshold.

    Args:
        training: the good images or areas that the border is measured on; read only then.
        held_out: other good images or areas, for the threshold; without them it has none.
    """
    if detector.config.evidence.enabled:
        from flawmap.evaluation.evidence import evidence_from_good  # noqa: PLC0415 - of a training, with torch

        evidence = evidence_from_good(detector, training, held_out)
        detector = replace(detector, artifact=detector.artifact.with_evidence(evidence))
    if detector.config.residual.border_correction:
        border = border_from_good(detector, evenly(training, BORDER_IMAGES))
        detector = replace(detector, artifact=detector.artifact.with_border(border))
    if held_out:
        calibration = calibration_of(detector, held_out, events)
        settings = detector.config.threshold
        mask = mask_level(detector, training) if settings.mask == "pasted" else None
        point = point_of(calibration, settings, mask)
        detector = replace(detector, artifact=detector.artifact.with_point(point, calibration=calibration.to_dict()))
    return detector


def border_from_good(detector: Detector, regions: Sequence[ImageRegion]) -> BorderProfile:
    """Measure the border correction on normal images, with a detector that does not apply it yet.

    Images that were trained on are suitable: a ratio is measured, not a level, and the threshold is found on others.
    Nothing outside their regions of interest counts.
    """
    return border_profile(each(partial(_map, detector), regions), detector.config.model.patch // 2)


def _map(detector: Detector, region: ImageRegion) -> tuple[Array, Mask] | None:
    """The residual map at the working scale, and where it counts."""
    parts = [(band[0], inside) for band, inside, _, _ in good_layers(detector, region)]
    if not parts:
        return None
    bands, insides = zip(*parts, strict=True)
    return namespace_of(bands[0]).concat(bands), np.concatenate(insides)


def mask_level(detector: Detector, training: Sequence[ImageRegion]) -> float | None:
    """The level that outlines pasted defects best: of all, the one with the highest F1 of their pixels.

    training: good images or areas that were trained on. None: no defect found a place.
    """
    every = ScoreHistogram.empty()
    for counted in each(partial(_pasted, detector), turns(evenly(training, MASK_PARTS), MASK_PARTS, MASK_SEED)):
        every = every + counted
    if every.undefined:
        return None
    hit, found = (np.cumsum(counts[::-1]).astype(np.float64) for counts in (every.defective, every.good))
    best = int(np.argmax(2 * hit / (hit + found + hit[-1])))
    edges = every.binning.edge(every.bins[::-1])
    # Above the next lower bin's edge: all pixels of the bins down to the best one.
    return float(edges[min(best + 1, len(edges) - 1)])


def _pasted(detector: Detector, turn: Turn) -> ScoreHistogram | None:
    """Pixels of a part of a good image with a defect in it."""
    pasted = with_defect(good_part(detector, turn), turn.seed)
    if pasted is None:
        return None
    residual, inside = score_part(detector, pasted.part, pasted.flawed)
    return ScoreHistogram.of(residual[inside], pasted.mask[inside])


@dataclass(frozen=True, eq=False)
class CompactHistogram:
    """A histogram of good scores with few bins: `counts[i]` pixels lie above `edges[i - 1]` and up to `edges[i]`.

    The fraction of pixels above an edge is exact. Above a threshold between two edges it is known to within the
    fraction that lies between these, at most `error`; bins are finer towards the highest scores.
    """

    edges: NDArray[np.float32]
    counts: NDArray[np.int64]
    error: float

    @classmethod
    def of(cls, histogram: ScoreHistogram, entries: int = 1024) -> CompactHistogram:
        """At most so many entries. histogram: its good pixels are taken, of which there is one at least."""
        occupied = np.flatnonzero(histogram.good)[::-1]  # falling scores
        good = histogram.good[occupied]
        group = grouped(good, good, entries - 2)
        first = np.flatnonzero(np.diff(group, prepend=-1))  # the highest bin of each group
        counts = np.add.reduceat(good, first)[::-1]
        edges = histogram.binning.edge(histogram.bins[occupied[first]])[::-1]
        return cls(edges, counts, float(counts.max() / counts.sum()))

    def to_dict(self) -> dict[str, Any]:
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist(), "error": self.error}


@dataclass(frozen=True, eq=False)
class Calibration:
    """What good images that were held out, or areas of them, leave: everything that an operating point is found by.

    good: the histogram of their opened residuals. image_scores: the largest of each image, ascending; of the images of
    one group (a roll, a lot) one counts, since they may be alike. resolvable_rate: of one pixel; a smaller rate cannot
    be told from 0. precision: of the arithmetic, "float32" or "bfloat16".
    """

    good: ScoreHistogram
    good_areas: int
    image_scores: tuple[float, ...]
    precision: str

    @property
    def good_pixels(self) -> int:
        return self.good.good_pixels

    @property
    def resolvable_rate(self) -> float:
        return 1 / self.good_pixels

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, for the model file."""
        return {
            "good_areas": self.good_areas,
            "good_pixels": self.good_pixels,
            "resolvable_rate": self.resolvable_rate,
            "largest": self.image_scores[-1],
            "image_scores": list(self.image_scores),
            "precision": self.precision,
            "scores": CompactHistogram.of(self.good).to_dict(),
        }


def calibration_of(detector: Detector, areas: Sequence[ImageRegion], events: Events = SILENT) -> Calibration:
    """Score good images, or areas of them, that were not trained on, in parallel.

    Args:
        events: told of progress after each area.
    Raises:
        ConfigError: no areas, or nothing of them in the region of interest.
        InputError: one of them cannot be read.
    """
    good, count, scores = ScoreHistogram.empty(), 0, dict[str, tuple[str, float]]()
    scans = in_parallel(partial(scan_good, detector, point=UNDECIDED), areas)
    with closing(scans):
        for done, (area, scan) in enumerate(scans, start=1):
            if isinstance(scan, InputError):
                raise scan
            if scan is not None:
                good, count = good + scan.counts.histogram, count + 1
                # Of a group the image with the least digest counts: a choice that knows nothing of the scores.
                one = (f"{area.sha256}{area.box or ''}", scan.inspection.score)
                scores[area.unit] = min(one, scores.get(area.unit, one))
            events.progress(done, len(areas), str(area.path))
    if not count:
        raise ConfigError(
            "a threshold is found on good images that were held out, but none were; hold a share out for validation "
            "(--set split.validation=0.1)"
        )
    return Calibration(good, count, tuple(sorted(score for _, score in scores.values())), detector.precision_name)


def point_of(calibration: Calibration, settings: ThresholdSettings, mask: float | None = None) -> OperatingPoint:
    """The operating point that the settings ask for.

    By `quantile` at most the given fraction of the held-out good pixels has an opened residual above the threshold; by
    `largest` none has. A rate that is too small for the number of pixels gives the largest residual too, and a warning.
    By `conformal` a new good image has one above it with a probability of at most alpha, see `scoring.conformal`.

    Args:
        mask: the level of masks; None: the threshold.
    """
    good, scores = calibration.good, calibration.image_scores
    found: dict[str, Any] = {"rule": settings.rule, "good_areas": calibration.good_areas, "images": len(scores)}
    threshold, warning = scores[-1] if settings.rule == "conformal" else quantile_from_good(good, 0), None
    if settings.rule == "quantile":
        rate = settings.false_positive_rate
        threshold, warning = quantile_from_good(good, rate), _unresolved(rate, good.good_pixels)
        found["false_positive_rate"] = rate
    elif settings.rule == "conformal":
        limit = score_limit(scores, settings.alpha)
        threshold, warning = (scores[-1], _too_few(settings.alpha, len(scores))) if limit is None else (limit, None)
        found["alpha"] = settings.alpha
    if warning is not None:
        log.warning("%s", warning)
    return OperatingPoint(threshold=threshold, mask=mask, area=settings.area, found=found | {"warning": warning})


def _too_few(alpha: float, images: int) -> str:
    return (
        f"alpha {alpha:g} needs at least {images_needed(alpha)} held-out good images or areas, there are {images}: the "
        f"threshold is their largest score, and up to {100 / (images + 1):.0f} % of good images may be rejected; hold "
        "more out, or ask for a larger alpha (--set threshold.alpha)"
    )


def _unresolved(rate: float, pixels: int) -> str | None:
    """Why a rate above 0 cannot be told from 0 by so many good pixels; None if it can."""
    if rate == 0 or rate >= 1 / pixels:
        return None
    return (
        f"a false positive rate of {rate:g} cannot be resolved: {pixels:,} held-out good pixels resolve rates down to "
        f"{1 / pixels:.2g}, so the threshold is their largest residual; hold more good images out, or ask for a higher "
        "rate"
    )

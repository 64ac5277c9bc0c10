"""What an evaluation found: frozen records, each with the JSON types that metrics.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from flawmap.core.records import Curve, Verdict
from flawmap.evaluation.bootstrap import bootstrap
from flawmap.evaluation.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Bootstrap,
    Interval,
    binomial_interval,
    image_intervals,
    rate_interval,
)
from flawmap.evaluation.metrics import PixelMetrics, PixelResult, image_metrics

Label = Literal["good", "defective", "outside"]
"""outside: all defects of the image lie outside the region of interest, so it is neither good nor defective."""


@dataclass(frozen=True)
class PixelSection:
    """The pixel metrics of a set of images, with how far other images of the same kinds might have moved them."""

    result: PixelResult
    intervals: Bootstrap

    @classmethod
    def of(cls, metrics: PixelMetrics, resamples: int = RESAMPLES) -> PixelSection:
        return cls(metrics.result(), bootstrap(metrics.per_image, resamples))

    @property
    def values(self) -> dict[str, float | None]:
        """The metrics by name; None where undefined."""
        return {name: measure.value for name, measure in self.result.measures.items()}

    def to_dict(self) -> dict[str, Any]:
        return self.result.to_dict() | {"intervals": self.intervals.to_dict()}


class TruthCounts(NamedTuple):
    """Pixels of an image's ground truth inside the region of interest, and of these that were found.

    found: all pixels above the threshold. hit: those of them that are defective.
    """

    defective: int
    found: int
    hit: int

    def to_dict(self, *, decided: bool) -> dict[str, Any]:
        return {
            "truth_pixels": self.defective,
            "hit_pixels": self.hit if decided else None,
            "false_pixels": self.found - self.hit if decided else None,
            "overlap": self.hit / self.defective if self.defective and decided else None,
        }


@dataclass(frozen=True)
class ImageRow:
    """One scored image.

    path: relative to the data set. score: the largest opened residual. verdict, regions, flawed_pixels: None where the
    model has no threshold. truth: None without a usable mask. metrics: those of its own pixels, with its AUPIMO; None
    where it does not count for pixel metrics.
    """

    path: str
    kind: str
    label: Label
    score: float
    verdict: Verdict | None
    regions: int | None
    flawed_pixels: int | None
    truth: TruthCounts | None
    metrics: dict[str, float | None] | None

    def to_dict(self) -> dict[str, Any]:
        row = dict(vars(self))
        truth, metrics = row.pop("truth"), row.pop("metrics")
        return row | ({} if truth is None else truth.to_dict(decided=self.verdict is not None)) | (metrics or {})


@dataclass(frozen=True)
class ImageSection:
    """Metrics of whole images. found, false_positives: defective and good ones above the threshold; None without it."""

    values: dict[str, float | None]
    good: int
    defective: int
    found: int | None
    false_positives: int | None
    intervals: Bootstrap

    @classmethod
    def of(cls, rows: Sequence[ImageRow], resamples: int = RESAMPLES) -> tuple[ImageSection | None, str | None]:
        """The section, or None and the reason."""
        counted = [row for row in rows if row.label != "outside"]
        scores = [row.score for row in counted]
        defective = np.array([row.label == "defective" for row in counted], np.bool_)
        measures = image_metrics(scores, defective)
        if measures["auroc"].value is None:
            return None, measures["auroc"].reason
        decided = counted[0].verdict is not None
        flawed = np.array([row.verdict == "flawed" for row in counted], np.bool_)
        section = cls(
            {name: measure.value for name, measure in measures.items()},
            good=int((~defective).sum()),
            defective=int(defective.sum()),
            found=int((flawed & defective).sum()) if decided else None,
            false_positives=int((flawed & ~defective).sum()) if decided else None,
            intervals=image_intervals(scores, defective, resamples=resamples),
        )
        return section, None

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.values,
            "good": self.good,
            "defective": self.defective,
            "found": self.found,
            "false_alarms": self.false_positives,
            "intervals": self.intervals.to_dict(),
        }


@dataclass(frozen=True)
class Share:
    """So many of so many images, with the exact interval of the rate that they come from (Clopper and Pearson)."""

    count: int
    of: int
    interval: Interval

    @classmethod
    def counted(cls, count: int, of: int) -> Share:
        return cls(count, of, binomial_interval(count, of))

    def to_dict(self) -> dict[str, Any]:
        return {"count": self.count, "of": self.of, "interval": list(self.interval)}


@dataclass(frozen=True)
class DecisionSection:
    """What the model decides at its own operating point, on images that it has not seen.

    found: defective images that are called flawed. rejected: good ones that are. Either is None without such images.
    precision, recall, f1: of the masks' pixels, all images together; None without a ground truth.
    """

    found: Share | None
    rejected: Share | None
    precision: float | None
    recall: float | None
    f1: float | None
    level: float = CONFIDENCE

    @classmethod
    def of(cls, rows: Sequence[ImageRow]) -> DecisionSection | None:
        """The section; None where nothing was decided."""
        decided = [row for row in rows if row.verdict is not None and row.label != "outside"]
        if not decided:
            return None

        def share(label: Label) -> Share | None:
            flawed = [row.verdict == "flawed" for row in decided if row.label == label]
            return Share.counted(sum(flawed), len(flawed)) if flawed else None

        truth = [row.truth for row in decided if row.truth is not None]
        hit, found, defective = (sum(getattr(one, name) for one in truth) for name in ("hit", "found", "defective"))
        return cls(
            found=share("defective"),
            rejected=share("good"),
            precision=hit / found if found and defective else None,
            recall=hit / defective if defective else None,
            f1=2 * hit / (found + defective) if defective else None,
        )

    def to_dict(self) -> dict[str, Any]:
        shares = {
            name: None if share is None else share.to_dict()
            for name, share in (("found", self.found), ("rejected", self.rejected))
        }
        return vars(self) | shares


@dataclass(frozen=True)
class HeldOut:
    """False positives on good images, or areas, that were neither trained on nor used for the threshold.

    false_positive_rate: the fraction of their good pixels above the threshold; its interval is over images.
    images_above: how many have such a pixel; its interval is of the fraction of images, by Clopper and Pearson.
    level: the confidence of both intervals.
    """

    images_or_areas: int
    good_pixels: int
    threshold: float
    false_positive_rate: float
    false_positive_rate_interval: Interval
    images_above: int
    images_above_interval: Interval
    level: float = CONFIDENCE

    @classmethod
    def of(cls, threshold: float, pixels: Sequence[tuple[int, int]], resamples: int = RESAMPLES) -> HeldOut:
        """From the pixels above the threshold and all good pixels of each image; at least one image."""
        above, total = zip(*pixels, strict=True)
        images_above = sum(count > 0 for count in above)
        return cls(
            images_or_areas=len(pixels),
            good_pixels=sum(total),
            threshold=threshold,
            false_positive_rate=sum(above) / sum(total),
            false_positive_rate_interval=rate_interval(above, total, resamples=resamples),
            images_above=images_above,
            images_above_interval=binomial_interval(images_above, len(pixels)),
        )


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    decision: at the model's own operating point; None where it has none.
    pixel: over all images that count; pixel_defective_images: over the defective ones alone.
    image: None where `image_reason` says why. held_out: None without a threshold or without such images.
    unreadable: images that were lost, and why. notes: what was wrong with masks of images that count all the same.
    curve: of the pixels; None where it is undefined.
    """

    decision: DecisionSection | None
    pixel: PixelSection
    pixel_defective_images: PixelSection
    image: ImageSection | None
    image_reason: str | None
    held_out: HeldOut | None
    per_image: tuple[ImageRow, ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    curve: Curve | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "decision": None if self.decision is None else self.decision.to_dict(),
            "pixel": self.pixel.to_dict(),
            "pixel_defective_images": self.pixel_defective_images.to_dict(),
            "image": None if self.image is None else self.image.to_dict(),
            "image_reason": self.image_reason,
            "held_out": None if self.held_out is None else dict(vars(self.held_out)),
            "unreadable": [{"path": path, "problem": problem} for path, problem in self.unreadable],
            "notes": [{"path": path, "problem": problem} for path, problem in self.notes],
            "per_image": [row.to_dict() for row in self.per_image],
        }

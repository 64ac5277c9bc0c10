"""A detector against a labelled set: which images may count, and what the figures are."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawmap.core.checks import shape_text
from flawmap.core.errors import InputError
from flawmap.core.files import natural_key, sha256_of
from flawmap.core.parallel import exclusive_slot, parallel_map
from flawmap.core.records import Curve, FloatMap, Inspection, Mask
from flawmap.data.layouts import Dataset, Sample
from flawmap.data.splits import ImageRegion, Split, refuse_trained
from flawmap.evaluation.bootstrap import bootstrap
from flawmap.evaluation.calibration import opened_residuals
from flawmap.evaluation.metrics import PixelMetrics, aupimo_per_image, image_metrics, own_metrics
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import read_mask
from flawmap.imaging.roi import label_in_roi
from flawmap.scoring.detector import Detector, ScoreMaps

log = logging.getLogger(__name__)

SCHEMA = 1  # of metrics.json
NOTHING_UNSEEN = (
    "the set has neither test images nor good ones that the model's split held out; good images that the model never "
    "saw are counted with --last N"
)


@dataclass(frozen=True)
class Case:
    """One scored image. truth: (H, W) bool, cut by the region of interest; None: defective, but without a mask."""

    sample: Sample
    label: str  # good, defective, or outside: all of its defects lie outside the region of interest
    inspection: Inspection
    explained: ScoreMaps
    truth: Mask | None


@dataclass(frozen=True)
class Evaluation:
    """What was measured. pixel: over all images that count, with intervals; image: None where `image_reason` says why.

    held_out: the share of good pixels above the threshold, on good images or areas that were never trained on.
    unreadable: images that were lost, and why. notes: what was wrong with masks of images that count all the same.
    curve: of the pixels; None where it is undefined.
    """

    pixel: dict[str, Any]
    pixel_defective_images: dict[str, Any]
    image: dict[str, Any] | None
    image_reason: str | None
    held_out: dict[str, Any] | None
    per_image: tuple[dict[str, Any], ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]
    curve: Curve | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "pixel": self.pixel,
            "pixel_defective_images": self.pixel_defective_images,
            "image": self.image,
            "image_reason": self.image_reason,
            "held_out": self.held_out,
            "unreadable": [{"path": path, "problem": problem} for path, problem in self.unreadable],
            "notes": [{"path": path, "problem": problem} for path, problem in self.notes],
            "per_image": list(self.per_image),
        }


def unseen_samples(dataset: Dataset, split: Split, last: int | None = None) -> tuple[Sample, ...]:
    """The images that may be scored as unseen: the defective ones, and the good ones that were not trained on.

    Good ones are those in the data set's test folder, those of the training folder that the model's split held out,
    and with `last` the last N of the training folder by name.

    Raises:
        InputError: one of them was trained on, or gave the model its threshold.
    """
    good_train = sorted(dataset.select("train", "good"), key=lambda sample: natural_key(sample.path))
    chosen = list(good_train[-last:] if last else [])
    if last and last > len(good_train):
        raise InputError(f"the last {last} good images were asked for, but there are {len(good_train)}; take fewer")
    taken = {sample.path for sample in chosen}
    chosen += [s for s in good_train if s.path not in taken and split.role_of(sha256_of(s.path)) == "test"]
    tested = [sample for sample in dataset.samples if sample.split == "test"]
    refuse_trained(split, [sample.path for sample in (*chosen, *tested)])
    tuned = [s.path for s in (*chosen, *tested) if split.role_of(sha256_of(s.path)) == "validation"]
    if tuned:
        names = ", ".join(str(path) for path in tuned[:3]) + (", ..." if len(tuned) > 3 else "")
        raise InputError(
            f"{len(tuned)} of the images to be scored as unseen gave the model its threshold: {names}; leave them out"
        )
    return tuple(sorted(chosen, key=lambda sample: natural_key(sample.path))) + tuple(tested)


def held_out_areas(dataset: Dataset, split: Split) -> tuple[ImageRegion, ...]:
    """The areas that the model's split held out of images that it was otherwise trained on, with today's paths."""
    return located(dataset, [area for area in split.test if area.box is not None])


def located(dataset: Dataset, areas: Sequence[ImageRegion]) -> tuple[ImageRegion, ...]:
    """Those of a split's areas whose images are still in the data set, with today's paths."""
    paths = {sha256_of(sample.path): sample.path for sample in dataset.select("train", "good")}
    return tuple(ImageRegion(paths[area.sha256], area.sha256, area.box) for area in areas if area.sha256 in paths)


def score_case(detector: Detector, sample: Sample) -> tuple[Case, str | None]:
    """One image scored and judged, and what was wrong with its mask, if anything.

    Raises:
        InputError: the image or its mask cannot be read, or the mask has another size.
    """
    image = detector.read(sample.path)
    shape = image.pixels.shape[:2]
    truth, problem = _truth(sample, shape)
    explained = detector.explain(image.pixels, path=sample.path)
    label = label_in_roi(sample.label, truth, explained.inside)
    if truth is not None and explained.inside is not None:
        truth = truth & explained.inside
    # Without a threshold nothing is decided, but everything can be measured.
    limit = math.inf if detector.artifact.threshold is None else None
    inspection = detector.judge(explained, path=sample.path, notes=image.notes, threshold=limit)
    return Case(sample, label, inspection, explained, truth), problem


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    areas: Sequence[ImageRegion] = (),
    *,
    root: Path = Path(),
    observe: Callable[[Sample], None] = lambda sample: None,
) -> Evaluation:
    """Score every sample once and pool what was found. Nothing is tuned, rescaled or clamped on the way.

    Args:
        samples: images to be scored as unseen, see `unseen_samples`.
        areas: held-out good areas, scored for the false positive rate at the threshold only.
        root: paths in the records are relative to it.
        observe: called after each image.
    """
    everything, defective_only = PixelMetrics(), PixelMetrics()
    alarms = _FalsePositiveCounter(detector.artifact.threshold)
    rows: list[dict[str, Any]] = []
    pooled: list[dict[str, Any]] = []  # those of images that count for pixel metrics
    unreadable: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for case, problem in _cases(detector, samples, root, unreadable, observe):
        rows.append(_row(case, root))
        if problem is not None:
            notes.append((relative_name(case.sample.path, root), problem))
        if case.label == "outside" or case.truth is None:
            continue
        residual, inside = case.inspection.residual, case.explained.inside
        counted = everything.add(residual, case.truth, inside)
        rows[-1] |= own_metrics(counted)
        pooled.append(rows[-1])
        if case.label == "defective":
            defective_only.add(residual, case.truth, inside)
        else:
            alarms.add(residual, inside)
    for row, measure in zip(pooled, aupimo_per_image(everything.normal, everything.per_image), strict=True):
        row["aupimo"] = None if measure is None else measure.value
    for area in areas:
        try:
            for residual, inside in opened_residuals(detector, [area]):
                alarms.add(residual, inside)
        except InputError as error:
            unreadable.append((relative_name(area.path, root), str(error)))
    if not rows and not alarms.images:
        raise InputError(f"no image could be evaluated: {unreadable[0][1] if unreadable else NOTHING_UNSEEN}")
    image, reason = _image_level(rows)
    return Evaluation(
        pixel=_figures(everything),
        pixel_defective_images=_figures(defective_only),
        image=image,
        image_reason=reason,
        held_out=alarms.to_dict(),
        per_image=tuple(rows),
        unreadable=tuple(unreadable),
        notes=tuple(notes),
        curve=everything.curve(),
    )


def _figures(metrics: PixelMetrics) -> dict[str, Any]:
    """The figures of a section, with how far other images of the same kind might have moved them."""
    return metrics.result() | {"intervals": bootstrap(metrics.per_image).to_dict()}


@dataclass
class _FalsePositiveCounter:
    """How often the threshold is passed on good pixels that nobody trained on or calibrated with."""

    threshold: float | None
    images: int = 0
    pixels: int = 0
    above: int = 0

    def add(self, residual: FloatMap, inside: Mask | None) -> None:
        if self.threshold is None:
            return
        values = residual if inside is None else residual[inside]
        self.images += 1
        self.pixels += values.size
        self.above += int((values > self.threshold).sum())

    def to_dict(self) -> dict[str, Any] | None:
        if not self.pixels:
            return None
        return {
            "images_or_areas": self.images,
            "good_pixels": self.pixels,
            "threshold": self.threshold,
            "false_positive_rate": self.above / self.pixels,
        }


def _cases(
    detector: Detector,
    samples: Sequence[Sample],
    root: Path,
    unreadable: list[tuple[str, str]],
    observe: Callable[[Sample], None],
) -> Iterator[tuple[Case, str | None]]:
    cores = torch.get_num_threads()

    def score(sample: Sample) -> tuple[Case, str | None] | InputError:
        try:
            with exclusive_slot(read_header(sample.path).pixels, cores):
                return score_case(detector, sample)
        except InputError as error:
            return error

    with closing(parallel_map(score, samples)) as results:
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, InputError):
                log.warning("%s", result)
                unreadable.append((relative_name(sample.path, root), str(result)))
            else:
                yield result
            observe(sample)


def _truth(sample: Sample, shape: tuple[int, int]) -> tuple[Mask | None, str | None]:
    """The ground truth as drawn, None where there is none, and what is wrong with it."""
    if sample.label == "good":
        return np.zeros(shape, np.bool_), None
    if sample.mask is None:
        return None, "defective, but without a mask: counts for image metrics alone"
    mask = read_mask(sample.mask)
    if mask.shape != shape:
        raise InputError(
            f"the mask {sample.mask} is {shape_text(mask.shape[::-1])}, its image {sample.path} is "
            f"{shape_text(shape[::-1])} (width, height); a mask has its image's size"
        )
    if not mask.any():
        return None, f"the mask {sample.mask} shows no flaw: counts for image metrics alone"
    return mask, None


def _row(case: Case, root: Path) -> dict[str, Any]:
    """What metrics.json says of one image."""
    found = case.inspection.mask
    decided = math.isfinite(case.inspection.threshold)
    row: dict[str, Any] = {
        "path": relative_name(case.sample.path, root),
        "kind": case.sample.kind,
        "label": case.label,
        "score": case.inspection.score,
        "verdict": case.inspection.verdict if decided else None,
        "regions": len(case.inspection.regions) if decided else None,
        "flawed_pixels": int(found.sum()) if decided else None,
    }
    if case.truth is not None:
        truth_pixels = int(case.truth.sum())
        hit = int((found & case.truth).sum())
        row["truth_pixels"] = truth_pixels
        row["hit_pixels"] = hit if decided else None
        row["false_pixels"] = int(found.sum()) - hit if decided else None
        row["overlap"] = hit / truth_pixels if truth_pixels and decided else None
    return row


def _image_level(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any] | None, str | None]:
    counted = [row for row in rows if row["label"] != "outside"]
    defective = np.array([row["label"] == "defective" for row in counted], dtype=np.bool_)
    measures = image_metrics([row["score"] for row in counted], defective)
    if measures["auroc"].value is None:
        return None, measures["auroc"].reason
    decided = counted[0]["verdict"] is not None
    flawed = np.array([row["verdict"] == "flawed" for row in counted], dtype=np.bool_)
    return {
        **{name: measure.value for name, measure in measures.items()},
        "good": int((~defective).sum()),
        "defective": int(defective.sum()),
        "found": int((flawed & defective).sum()) if decided else None,
        "false_alarms": int((flawed & ~defective).sum()) if decided else None,
    }, None


def relative_name(path: Path, root: Path) -> str:
    """What records call an image: its path below the data set's root, whole where it lies elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

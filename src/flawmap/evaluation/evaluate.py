"""A detector against a labelled set: which images may count, and what is measured on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import first_few, natural_key
from flawmap.core.records import MappedInspection, Mask
from flawmap.data.index import ImageIndex
from flawmap.data.samples import Dataset, Sample
from flawmap.data.splits import ImageRegion, Split, refuse_trained
from flawmap.data.truth import truth_of
from flawmap.evaluation.image_counts import CountedImage
from flawmap.evaluation.intervals import RESAMPLES
from flawmap.evaluation.metrics import Measure, PixelMetrics, curve_metrics
from flawmap.evaluation.results import (
    DecisionSection,
    Evaluation,
    HeldOut,
    ImageRow,
    ImageSection,
    Label,
    PixelSection,
    TruthCounts,
)
from flawmap.evaluation.scans import Mapper, Viewer, mapper_of, scan_good, scan_image
from flawmap.imaging.reading import opened_image
from flawmap.imaging.roi import label_in_roi
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import Band, inspected, joined
from flawmap.scoring.operating_point import UNDECIDED, OperatingPoint

log = logging.getLogger(__name__)

View = Callable[[tuple[int, int, int], Mask | None], Viewer]
"""Who sees an image: asked with its (H, W, C) and its ground truth (H, W) or None, where it is scored."""
Keep = Callable[[Sample, Any], None]
"""Gets each sample and what its viewer made, in order."""
NOTHING_UNSEEN = (
    "the set has neither test images nor good ones that the model's split held out; good images that the model never "
    "saw are counted with --last N"
)


@dataclass(frozen=True)
class Case:
    """One scored image with its maps. truth: (H, W) bool, cut by the region of interest; None: no usable mask."""

    sample: Sample
    label: Label
    inspection: MappedInspection
    explained: Band
    truth: Mask | None


def unseen_samples(
    dataset: Dataset, split: Split, last: int | None = None, index: ImageIndex | None = None
) -> tuple[Sample, ...]:
    """The images that may be scored as unseen: the defective ones, and the good ones that were not trained on.

    Good ones are those in the data set's test folder, those of the training folder that the model's split held out,
    and with `last` the last N of the training folder by name. A shared index spares others from hashing them again.

    Raises:
        InputError: one of them was trained on, or gave the model its threshold.
    """
    index = index or ImageIndex()
    good_train = sorted(dataset.select("train", "good"), key=lambda sample: natural_key(sample.path))
    chosen = list(good_train[-last:] if last else [])
    if last and last > len(good_train):
        raise InputError(f"the last {last} good images were asked for, but there are {len(good_train)}; take fewer")
    taken = {sample.path for sample in chosen}
    chosen += [s for s in good_train if s.path not in taken and split.role_of(index.sha256(s.path)) == "test"]
    tested = [sample for sample in dataset.samples if sample.split == "test"]
    refuse_trained(split, [sample.path for sample in (*chosen, *tested)], index)
    tuned = [s.path for s in (*chosen, *tested) if split.role_of(index.sha256(s.path)) == "validation"]
    if tuned:
        raise InputError(
            f"{len(tuned)} of the images to be scored as unseen gave the model its threshold: {first_few(tuned)}; "
            "leave them out"
        )
    return tuple(sorted(chosen, key=lambda sample: natural_key(sample.path))) + tuple(tested)


def held_out_areas(dataset: Dataset, split: Split, index: ImageIndex | None = None) -> tuple[ImageRegion, ...]:
    """The areas that the model's split held out of images that it was otherwise trained on, with today's paths."""
    return located(dataset, [area for area in split.test if area.box is not None], index)


def located(dataset: Dataset, areas: Sequence[ImageRegion], index: ImageIndex | None = None) -> tuple[ImageRegion, ...]:
    """Those of a split's areas whose images are still in the data set, with today's paths."""
    if not areas:
        return ()
    index = index or ImageIndex()
    good = (*dataset.select("train", "good"), *dataset.select("validation", "good"))
    paths = {index.sha256(sample.path): sample.path for sample in good}
    return tuple(replace(area, path=paths[area.sha256]) for area in areas if area.sha256 in paths)


def score_case(detector: Detector, sample: Sample) -> tuple[Case, str | None]:
    """One image scored, with all its maps in memory, and what was wrong with its mask, if anything.

    Raises:
        InputError: the image or its mask cannot be read, or the mask has another size.
    """
    with opened_image(sample.path, detector.config.images) as image:
        truth, problem = _truth(sample, image.shape[:2])
        bands = list(detector.scan(image, reconstruction=True))
        inspection = inspected(
            bands,
            _point(detector),
            path=sample.path,
            notes=lambda: image.notes,
            good_scores=detector.artifact.good_scores,
        )
    whole = joined(bands)
    if sample.label == "good":
        truth = np.zeros(whole.inside.shape, np.bool_)
    label = label_in_roi(sample.label, truth, whole.inside)
    return Case(sample, label, inspection, whole, None if truth is None else truth & whole.inside), problem


def evaluate(
    detector: Detector,
    samples: Sequence[Sample],
    areas: Sequence[ImageRegion] = (),
    *,
    root: Path = Path(),
    events: Events = SILENT,
    resamples: int = RESAMPLES,
    view: View | None = None,
    keep: Keep = lambda sample, seen: None,
    mapper: Mapper | None = None,
) -> Evaluation:
    """Score every sample once and pool what was found. Nothing is tuned, rescaled or clamped on the way.

    Images are read by bands of rows, so their size is limited by their masks alone: one byte a pixel.

    Args:
        samples: images to be scored as unseen, see `unseen_samples`.
        areas: held-out good areas, scored for the false positive rate at the threshold only.
        root: paths in the records are relative to it.
        events: told of progress after each image.
        resamples: for the intervals, see `bootstrap`.
        view: who sees each image on the way, for pictures. keep: gets what it made.
        mapper: where images are scored, by the same model; None: in this process, by the detector.
    """
    mapper = mapper or mapper_of(detector)
    everything, defective_only = PixelMetrics(), PixelMetrics()
    measured: list[Measured] = []
    unreadable: list[tuple[str, str]] = []
    with closing(mapper(partial(_measure_sample, root=root, view=view), samples)) as scored:
        for done, (sample, result) in enumerate(scored, start=1):
            if isinstance(result, InputError):
                log.warning("%s", result)
                unreadable.append((relative_name(sample.path, root), str(result)))
            else:
                found, counts, seen = result
                keep(sample, seen)
                measured.append(found)
                if counts is not None:
                    everything.add_image(counts)
                if counts is not None and found.row.label == "defective":
                    defective_only.add_image(counts)
            events.progress(done, len(samples), str(sample.path))
    good = [found.pixels for found in measured if found.row.label == "good" and found.pixels[1] > 0]
    with closing(mapper(partial(scan_good, point=_point(detector)), areas)) as scanned:
        for area, part in scanned:
            if isinstance(part, InputError):
                unreadable.append((relative_name(area.path, root), str(part)))
            elif part is not None:
                good.append((part.inspection.flawed_pixels, part.counts.histogram.good_pixels))
    if not measured and not good:
        raise InputError(f"no image could be evaluated: {unreadable[0][1] if unreadable else NOTHING_UNSEEN}")
    aupimo = iter(everything.aupimo_per_image())
    rows = tuple(_with_aupimo(found.row, aupimo) for found in measured)
    image, reason = ImageSection.of(rows, resamples)
    threshold = detector.artifact.threshold
    return Evaluation(
        decision=DecisionSection.of(rows),
        pixel=PixelSection.of(everything, resamples),
        pixel_defective_images=PixelSection.of(defective_only, resamples),
        image=image,
        image_reason=reason,
        held_out=HeldOut.of(threshold, good, resamples) if threshold is not None and good else None,
        per_image=rows,
        unreadable=tuple(unreadable),
        notes=tuple((found.row.path, found.problem) for found in measured if found.problem),
        curve=everything.curve(),
    )


def relative_name(path: Path, root: Path) -> str:
    """What records call an image: its path below the data set's root, whole where it lies elsewhere."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# ------------------------------------------------------------------------------------------------------- of one image


class Measured(NamedTuple):
    """One image: its row, without AUPIMO yet. problem: with its mask. pixels: above the threshold; all good ones."""

    row: ImageRow
    problem: str | None
    pixels: tuple[int, int]


def _measure_sample(
    detector: Detector, sample: Sample, *, root: Path, view: View | None
) -> tuple[Measured, CountedImage | None, Any]:
    """The numbers of an image, its counts where they belong to the pixel metrics, and what its viewer made."""
    with opened_image(sample.path, detector.config.images) as image:
        truth, problem = _truth(sample, image.shape[:2])
        viewer = None if view is None else view(image.shape, truth)
        inspection, counts, hit, seen = scan_image(detector, image, truth, point=_point(detector), viewer=viewer)
    defective = counts.histogram.defective_pixels
    usable = sample.label == "good" or truth is not None
    label: Label = "outside" if truth is not None and not defective else sample.label
    counted = usable and label != "outside"
    own = {name: measure.value for name, measure in curve_metrics(counts.histogram).items()} if counted else None
    decided = detector.artifact.threshold is not None
    row = ImageRow(
        path=relative_name(sample.path, root),
        kind=sample.kind,
        label=label,
        score=inspection.score,
        verdict=inspection.verdict if decided else None,
        regions=len(inspection.regions) if decided else None,
        flawed_pixels=inspection.flawed_pixels if decided else None,
        truth=TruthCounts(defective, inspection.flawed_pixels, hit) if usable else None,
        metrics=own,
    )
    pixels = (inspection.flawed_pixels, counts.histogram.good_pixels)
    return Measured(row, problem, pixels), counts if counted else None, seen


def _with_aupimo(row: ImageRow, aupimo: Iterator[Measure | None]) -> ImageRow:
    """aupimo: the next one is this row's if it counts for pixel metrics."""
    if row.metrics is None:
        return row
    measure = next(aupimo)
    return replace(row, metrics=row.metrics | {"aupimo": None if measure is None else measure.value})


def _point(detector: Detector) -> OperatingPoint:
    """The model's; where it has none, nothing is decided, but everything can be measured."""
    return detector.artifact.operating_point or UNDECIDED


def _truth(sample: Sample, shape: tuple[int, int]) -> tuple[Mask | None, str | None]:
    """The ground truth as drawn, None where there is none, and what is wrong with it."""
    if sample.label == "good":
        return None, None
    truth = truth_of(sample, shape)
    if truth is None:
        return None, "defective, but without a mask: counts for image metrics alone"
    if not truth.any():
        drawn = ", ".join(str(path) for path in sample.masks) or "its annotations"
        return None, f"the mask {drawn} shows no flaw: counts for image metrics alone"
    return truth, None

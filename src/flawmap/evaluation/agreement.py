"""Whether a cheaper way to compute a network may stand for the one that a model was calibrated with.

Rule: on held-out good images, and on the same with pasted defects, the model's own operating point gives every verdict
that the reference gives. How far the maps differ is told beside. A reference's score that lies within rounding of the
threshold decides nothing: there another number of threads may change the verdict, too, and a threshold that is one of
the held-out scores always meets one such image.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flawmap.core.events import SILENT, Events
from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.pasting import Part, good_part, turns, with_defect
from flawmap.evaluation.scans import each, evenly
from flawmap.imaging.reading import Pixels
from flawmap.methods.autoencoder import restored
from flawmap.methods.interface import PatchScores
from flawmap.methods.residuals import BEYOND
from flawmap.methods.settings import AutoencoderSettings
from flawmap.nets.engines import ENGINES, runs_here
from flawmap.nets.export import Samples, whole_parts
from flawmap.nets.layers import Ranges
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import inspected
from flawmap.scoring.model_file import Artifact
from flawmap.scoring.operating_point import UNDECIDED
from flawmap.scoring.variants import Compared, Variant, Variants

log = logging.getLogger(__name__)

PARTS, SIDE = 12, 256  # parts of good images for the record of a model, and their side in pixels of the working scale
FIRST_SEED = 7000  # other defects than those that weights, candidates and the self-check are judged by
CONTRASTS = (0.2, 0.1, 0.05)  # of pasted defects, in turn: from plain to hardly seen
ROUNDING = 0.001  # of the threshold: as near to it a score may fall to either side
SAMPLES = 128  # patches that the ranges of 8 bits are found on


class Shown(NamedTuple):
    """A part of a good image as it is, or with a defect. pixels: (H, W, C)."""

    part: Part
    pixels: Pixels
    flawed: bool

    @property
    def path(self) -> Path:
        return self.part.path


class Agreement(NamedTuple):
    """Two detectors on the same images. changed: images whose verdict differs. largest: the largest difference of the
    maps at a pixel, as a share of the threshold (of the reference's highest value for a model without one)."""

    changed: tuple[str, ...]
    largest: float


def shown_parts(
    detector: Detector, good: Sequence[ImageRegion], count: int, side: int, *, working: bool = False
) -> list[Shown]:
    """Parts of so many good images, each as it is and with a defect, where one finds a place.

    Args:
        side: at most so many pixels high and wide. working: whether they are those of the working scale.
    Raises:
        InputError: an image cannot be read.
    """
    shown: list[Shown] = []
    chosen = turns(evenly(good, count), count, FIRST_SEED)
    for number, part in enumerate(each(partial(good_part, detector, side=side, working=working), chosen)):
        pasted = with_defect(part, FIRST_SEED + number, contrast=CONTRASTS[number % len(CONTRASTS)])
        shown.append(Shown(part, part.pixels, flawed=False))
        if pasted is not None:
            shown.append(Shown(part, pasted.flawed, flawed=True))
    return shown


def looked_at(detector: Detector, shown: Shown) -> MappedInspection:
    """The inspection of what is shown by the model's own operating point; without one every verdict is ok."""
    rows, roi = shown.part.shown(shown.pixels)
    point = detector.artifact.operating_point or UNDECIDED
    return inspected(detector.scan(rows, roi=roi), point, path=shown.path)


def agreement(before: Sequence[MappedInspection], after: Sequence[MappedInspection]) -> Agreement:
    """Compare the inspections of a reference with another detector's, of the same images in the same order."""
    largest, changed = 0.0, []
    for one, other in zip(before, after, strict=True):
        decided = one.threshold < UNDECIDED.threshold
        unit = one.threshold if decided else float(one.residual.max())
        largest = max(largest, float(np.abs(one.residual - other.residual).max()) / (abs(unit) or 1.0))
        near = decided and abs(one.score - one.threshold) <= ROUNDING * abs(one.threshold)
        if one.verdict != other.verdict and not near:
            changed.append(str(one.path))
    return Agreement(tuple(changed), largest)


def samples_of(detector: Detector, shown: Sequence[Shown]) -> Samples:
    """Patches of good images, or their features, as one batch, and the images if they are encoded once: as the network
    gets them."""
    seen: list[Tensor] = []
    whole: list[Tensor] = []
    scorer = detector.scorer

    def record(*given: Tensor) -> PatchScores:
        seen.extend(part[None].cpu().clone() for part in given[-1])
        return scorer.score(*given)

    def encode(image: Tensor) -> Tensor:
        assert scorer.encoder is not None
        whole.append(image.cpu())
        features: Tensor = scorer.encoder.encode(image)
        return features

    encoder = None if scorer.encoder is None else replace(scorer.encoder, encode=encode)
    watched = replace(detector, scorer=replace(scorer, score=record, encoder=encoder))
    for one in shown:
        if not one.flawed:
            looked_at(watched, one)
    return Samples([torch.cat(evenly(seen, SAMPLES))], whole)


def with_variants(detector: Detector, good: Sequence[ImageRegion], events: Events = SILENT) -> Detector:
    """The detector with the record of the variants that this machine has, in its model; none for a method whose network
    torch alone runs, and without a threshold.

    Args:
        good: good images or areas that were not trained on; parts of PARTS of them are shown.
    Raises:
        InputError: an image cannot be read.
    """
    artifact, point = detector.artifact, detector.artifact.operating_point
    if point is None or not has_variants(artifact):
        return detector
    shown = shown_parts(detector, good, PARTS, SIDE, working=True)
    record = Variants(
        threshold=point.threshold,
        area=point.area,
        reference=detector.precision_name,
        good=sum(not one.flawed for one in shown),
        flawed=sum(one.flawed for one in shown),
        compared=(),
        ranges=ranges_on(detector, shown),
    )
    artifact = replace(artifact, variants=record)
    before = each(partial(looked_at, detector), shown)
    others = [variant for variant in variants_here() if variant != Variant("torch", record.reference)]
    compared = []
    for number, variant in enumerate(others, start=1):
        try:
            other = Detector.of(artifact, Runtime("cpu", variant.precision, variant.engine))
            found = agreement(before, each(partial(looked_at, other), shown))
            compared.append(Compared(**variant._asdict(), changed=len(found.changed), largest=found.largest))
        except (RuntimeError, ImportError) as error:  # of the engine: no reason to lose a training
            log.warning("%s cannot be compared: %s", variant, error)
        events.progress(number, len(others), f"verdicts by {variant}")
    return replace(
        detector, artifact=replace(artifact, variants=record.model_copy(update={"compared": tuple(compared)}))
    )


def has_variants(artifact: Artifact) -> bool:
    """Whether engines other than torch can run the model's network."""
    own = isinstance(artifact.config.method, AutoencoderSettings)
    return own and artifact.graph is None and not any(part.name in BEYOND for part in artifact.config.parts)


def variants_here() -> list[Variant]:
    """The engines that are installed, in the precisions that the processor has."""
    return [
        Variant(name, precision)
        for name, engine in ENGINES.items()
        for precision in engine.precisions
        if runs_here(name, precision)
    ]


def ranges_on(detector: Detector, shown: Sequence[Shown]) -> tuple[Ranges, ...]:
    """The ranges of 8 bits of the network's parts, on patches of the good images that are shown."""
    artifact, samples = detector.artifact, samples_of(detector, shown)
    network = restored(artifact.config, artifact.weights)
    parts = whole_parts(network, samples, once=detector.scorer.encoder is not None)
    return tuple(part.ranges for part in parts if part is not None and part.ranges is not None)

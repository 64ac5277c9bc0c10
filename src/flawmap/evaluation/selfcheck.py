"""What a model is worth on its material, by good images alone: which defects it finds, and what it tolerates.

Sizes: into parts of held-out good images defects of several kinds and contrasts are pasted, and the smallest size is
looked for of which 90 % are found at the model's own operating point. Tolerance: the same parts, with and without
defects, are made brighter, softer, noisier and so on, in steps, until more good parts are rejected than the decision
allows, or defects of twice the size that is found are missed. No defective image is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flawmap.core.events import SILENT, Events
from flawmap.core.records import Mask
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.intervals import binomial_interval
from flawmap.evaluation.pasting import Part, Pasted, Turn, good_part, scale_at, score_part, turns, with_defect
from flawmap.evaluation.scans import each
from flawmap.imaging.changes import CHANGES, TRAITS, Change, traits
from flawmap.imaging.reading import Pixels
from flawmap.scoring.detector import Detector

KINDS = ("spot", "scratch", "crack", "contamination", "film", "dent", "missing_thread", "foreign")
CONTRASTS = (0.2, 0.1, 0.05)  # mean change of intensities in the defect, of the range 0 to 1
SIZES = (4, 8, 16, 32, 64)  # pixels of the working scale; the search begins in the middle
FOUND = 0.9  # the share of defects of a size that has to be found
DEFECTS = 10  # of each kind, contrast and size
SIDE = 192  # pixels of the working scale: of a part with one defect
FIRST_SEED = 5000  # other defects than those that weights and candidates are judged by
TOLERANCE_PARTS, TOLERANCE_SIDE = 12, 256
TOLERANCE_CONTRAST = CONTRASTS[0]
USELESS = 32  # pixels of the working scale: a material where only larger ones are found is said to be difficult


@dataclass(frozen=True)
class SizeRow:
    """One kind of defect at one contrast. rates: how many of how many were found, by size in pixels of the image,
    of the sizes that were tried. smallest: the least of which 90 % are found; None: not even of the largest, or none
    could be painted. Sizes above it are taken to be found, and those below the largest one that is not to be missed."""

    kind: str
    contrast: float
    rates: dict[int, tuple[int, int]]
    smallest: int | None


@dataclass(frozen=True)
class ToleranceRow:
    """One change. rejected, found: of parts without and with defects, by step, as many as were tried. last: the last
    step at which the decision holds; None: not even the first. signature: by how many spreads of good images the second
    step moves each of TRAITS."""

    change: str
    rejected: dict[str, tuple[int, int]]
    found: dict[str, tuple[int, int]]
    last: str | None
    signature: tuple[float, ...]


@dataclass(frozen=True)
class SelfCheck:
    """Both tables. warning: a sentence where little is found; None: fine. traits: mean and spread of TRAITS over
    held-out good images."""

    sizes: tuple[SizeRow, ...]
    tolerance: tuple[ToleranceRow, ...]
    traits: tuple[tuple[float, float], ...]
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, for the model file."""
        return {
            "sizes": [
                vars(row) | {"rates": {str(size): list(rate) for size, rate in row.rates.items()}} for row in self.sizes
            ],
            "tolerance": [
                vars(row)
                | {
                    "rejected": {step: list(rate) for step, rate in row.rejected.items()},
                    "found": {step: list(rate) for step, rate in row.found.items()},
                    "signature": list(row.signature),
                }
                for row in self.tolerance
            ],
            "traits": dict(zip(TRAITS, map(list, self.traits), strict=True)),
            "warning": self.warning,
        }


def self_check(detector: Detector, good: Sequence[ImageRegion], events: Events = SILENT) -> SelfCheck:
    """Both tables of a detector that has an operating point.

    Args:
        good: good images or areas that were not trained on. events: told of progress after each row.
    Raises:
        ConfigError: the detector has no operating point. InputError: an image cannot be read.
    """
    total = len(KINDS) * len(CONTRASTS) + len(CHANGES)
    sizes: list[SizeRow] = []
    for kind in KINDS:
        for contrast in CONTRASTS:
            sizes.append(_size_row(detector, good, kind, contrast))
            events.progress(len(sizes), total, f"self-check: {kind} at {contrast:.0%}")
    parts = each(
        partial(good_part, detector, side=TOLERANCE_SIDE, working=True), turns(good, TOLERANCE_PARTS, FIRST_SEED)
    )
    usual = np.array([traits(part.pixels) for part in parts]).reshape(-1, len(TRAITS))
    mean, spread = usual.mean(axis=0), np.maximum(usual.std(axis=0), 1e-3)
    pairs = list(_with_defects(parts, sizes))
    tolerance: list[ToleranceRow] = []
    for change in CHANGES:
        tolerance.append(_tolerance_row(detector, parts, pairs, change, (mean, spread)))
        events.progress(len(sizes) + len(tolerance), total, f"self-check: {change.name}")
    return SelfCheck(
        tuple(sizes),
        tuple(tolerance),
        tuple((float(middle), float(width)) for middle, width in zip(mean, spread, strict=True)),
        _warning(scale_at(detector, good[0].path), sizes),
    )


# --------------------------------------------------------------------------------------------------------------- sizes


class _Asked(NamedTuple):
    """A turn with what is pasted into it."""

    path: Path
    turn: Turn
    kind: str
    contrast: float
    size: int


def _size_row(detector: Detector, good: Sequence[ImageRegion], kind: str, contrast: float) -> SizeRow:
    """Sizes are tried from the middle: smaller ones while they are found, larger ones until they are."""
    rates: dict[int, tuple[int, int]] = {}
    sizes = [max(4, round(working / scale_at(detector, good[0].path))) for working in SIZES]
    place, way = len(sizes) // 2, 0
    smallest = None
    while 0 <= place < len(sizes):
        asked = [_Asked(turn.path, turn, kind, contrast, sizes[place]) for turn in turns(good, DEFECTS, FIRST_SEED)]
        hits = each(partial(_found, detector), asked)
        found = bool(hits) and sum(hits) >= FOUND * len(hits)
        if hits:
            rates[sizes[place]] = (sum(hits), len(hits))
        if found:
            smallest = sizes[place]
        way = way or (-1 if found else 1)
        if found == (way > 0):
            break
        place += way
    return SizeRow(kind, contrast, dict(sorted(rates.items())), smallest)


def _found(detector: Detector, asked: _Asked) -> bool | None:
    """Whether a defect is found; None: it found no place."""
    part = good_part(detector, asked.turn, SIDE, working=True)
    pasted = with_defect(part, asked.turn.seed, asked.kind, size=asked.size, contrast=asked.contrast)
    return None if pasted is None else _hit(detector, pasted.part, pasted.flawed, pasted.mask)


def _hit(detector: Detector, part: Part, flawed: Pixels, mask: Mask) -> bool:
    residual, inside = score_part(detector, part, flawed)
    return bool((residual[mask & inside] > detector.point().threshold).any())


# ----------------------------------------------------------------------------------------------------------- tolerance


def _with_defects(parts: Sequence[Part], sizes: Sequence[SizeRow]) -> Iterator[Pasted]:
    """Each part with a defect of twice the size that is found, the kinds in turn."""
    usable = [(row.kind, row.smallest) for row in sizes if row.contrast == TOLERANCE_CONTRAST and row.smallest]
    for number, part in enumerate(parts):
        if not usable:
            return
        kind, smallest = usable[number % len(usable)]
        pasted = with_defect(part, number, kind, size=2 * smallest, contrast=TOLERANCE_CONTRAST)
        if pasted is not None:
            yield pasted


def _tolerance_row(
    detector: Detector,
    parts: Sequence[Part],
    pairs: Sequence[Pasted],
    change: Change,
    usual: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> ToleranceRow:
    threshold = detector.point().threshold
    rejected: dict[str, tuple[int, int]] = {}
    found: dict[str, tuple[int, int]] = {}
    last = None
    for step in change.steps:
        name = change.text(step)

        def score(part: Part, step: float = step) -> bool:
            return bool(score_part(detector, part, change.pixels(part.pixels, step))[0].max() > threshold)

        def hit(pasted: Pasted, step: float = step) -> bool:
            return _hit(detector, pasted.part, change.pixels(pasted.flawed, step), change.mask(pasted.mask, step))

        alarms, hits = each(score, parts), each(hit, pairs)
        rejected[name], found[name] = (sum(alarms), len(alarms)), (sum(hits), len(hits))
        if _too_many(detector, *rejected[name]) or sum(hits) < FOUND * len(hits):
            break
        last = name
    mean, spread = usual
    moved = np.array([traits(change.pixels(part.pixels, change.steps[1])) for part in parts]).reshape(-1, len(TRAITS))
    signature = ((moved.mean(axis=0) - mean) / spread).tolist() if len(moved) else [0.0] * len(TRAITS)
    return ToleranceRow(change.name, rejected, found, last, tuple(signature))


def _too_many(detector: Detector, count: int, of: int) -> bool:
    """Whether so many rejected good parts say that the decision's rate is left."""
    alpha = float(detector.point().found.get("alpha") or detector.config.threshold.alpha)
    return of > 0 and binomial_interval(count, of).low > alpha


def _warning(scale: float, sizes: Sequence[SizeRow]) -> str | None:
    """A sentence where at the highest contrast most kinds are found only when they are large."""
    strong = [row for row in sizes if row.contrast == max(CONTRASTS) and row.rates]
    limit = USELESS / scale
    hidden = [row for row in strong if row.smallest is None or row.smallest > limit]
    if 2 * len(hidden) < len(strong) or not strong:
        return None
    names = ", ".join(row.kind.replace("_", " ") for row in hidden)
    return (
        f"this material hides much at this scale: at a contrast of {max(CONTRASTS):.0%} these are not found below "
        f"{math.ceil(limit)} pixels: {names}; try --set images.scale={scale / 2:g}, more good images, or a longer "
        "training"
    )


def with_self_check(detector: Detector, good: Sequence[ImageRegion], events: Events = SILENT) -> Detector:
    """The detector with what it is worth in its model."""
    check = self_check(detector, good, events)
    return replace(detector, artifact=replace(detector.artifact, check=check.to_dict()))

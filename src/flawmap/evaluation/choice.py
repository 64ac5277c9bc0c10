"""Which candidate suits a material: short trainings, judged by defects that are pasted into good images.

A candidate is a set of changes to the settings. Each is trained for a share of the budget, and judged like any detector
by how well its map tells pasted defects from what lies around them. All see the same defects, so candidates are
compared defect by defect, and a later candidate takes the place of an earlier one only where it is better beyond
chance. No defective image is read, and none of the good images that the decision is calibrated on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flawmap.core.errors import ConfigError, TrainingError
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.evidence import evidence_from_good
from flawmap.evaluation.image_counts import CountedImage, ImageCounts
from flawmap.evaluation.metrics import PixelMetrics, curve_metrics, image_metrics
from flawmap.evaluation.pasting import Turn, good_part, score_part, turns, with_defect
from flawmap.evaluation.scans import each, evenly
from flawmap.methods.config import Config
from flawmap.methods.overrides import changed_by
from flawmap.scoring.detector import Detector

PARTS = 28  # of good images, each with a defect and without one: two for each kind
SIDE = 384  # pixels of the working scale: of a part, at most
FIRST_SEED = 1000  # other defects than those that the weights of evidence are learnt from
IMAGES = 12  # good images that evidence is measured on for a trial
EQUAL = 0.005  # of the mean over parts: a difference below it is none
ERRORS = 2.0  # standard errors of a difference that chance may make
FINISHED = 0.1  # by so much a candidate has to be better whose fit a longer training would not improve
LOST = {"mean": 0.003, "au_pro_30": 0.01, "image_auroc": 0.01}  # of a detector's worth, for which it is made quicker


class Worth(NamedTuple):
    """How well pasted defects are told from good material.

    pixel_auroc, au_pro_30: of all parts' pixels together. image_auroc: of parts with a defect and the same without one.
    parts: the pixel AUROC of each part, by the seed of its defect.
    """

    pixel_auroc: float
    au_pro_30: float
    image_auroc: float
    parts: dict[int, float]

    @property
    def mean(self) -> float:
        return sum(self.parts.values()) / max(len(self.parts), 1)

    def keeps(self, other: Worth) -> bool:
        """Whether it lacks no more of what another is worth than may be lost for speed."""
        return all(getattr(self, name) >= getattr(other, name) - lost for name, lost in LOST.items())

    def beats(self, other: Worth, *, by: float = EQUAL) -> bool:
        """Whether it is better than another, over the defects that both met, by so much and beyond chance."""
        shared = sorted(self.parts.keys() & other.parts.keys())
        if len(shared) < 2:
            return False
        gain = np.array([self.parts[seed] - other.parts[seed] for seed in shared])
        return bool(gain.mean() > max(by, ERRORS * gain.std(ddof=1) / math.sqrt(len(gain))))


@dataclass(frozen=True)
class Trial:
    """A candidate's short training. worth: None where `problem` says why it did not come to one. finished: whether a
    longer training would not improve it."""

    candidate: str
    worth: Worth | None
    seconds: float
    problem: str | None = None
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, for the model file."""
        if self.worth is None:
            return dict(vars(self))
        parts = {str(seed): round(value, 4) for seed, value in self.worth.parts.items()}
        return vars(self) | {"worth": self.worth._asdict() | {"parts": parts}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        """The inverse of `to_dict`."""
        worth = data["worth"]
        if worth is not None:
            worth = Worth(**(worth | {"parts": {int(seed): value for seed, value in worth["parts"].items()}}))
        return cls(**(data | {"worth": worth}))


def candidates_of(config: Config, smallest: tuple[int, int]) -> dict[str, Config]:
    """The candidates of the settings with their whole configurations, in order, without those that cannot be or repeat
    one before. None: the settings themselves.

    smallest: (height, width) of the smallest image, pixels. A candidate of a smaller scale is left out where an image
    would have less than two patches along a side.
    """
    found: dict[str, Config] = {}
    for text in config.choice.candidates:
        changed = changed_by(config, text)
        if changed is None or changed in found.values() or not _large_enough(changed, config, smallest):
            continue
        found[text] = changed
    return found or {"": config}


def _large_enough(changed: Config, config: Config, smallest: tuple[int, int]) -> bool:
    scale, before = changed.images.scale, config.images.scale
    if scale == before:
        return True
    if isinstance(scale, tuple) or isinstance(before, tuple) or scale >= before:
        return False
    return min(smallest) * scale >= 2 * changed.model.patch


def best_of(trials: Sequence[Trial]) -> list[str]:
    """Candidates with the best first: a later one only where it beats those before. The others follow by their means,
    and those that failed come last, in their order."""
    known = [(trial, trial.worth) for trial in trials if trial.worth is not None]
    best = known[:1]
    for trial, worth in known[1:]:
        if worth.beats(best[0][1], by=FINISHED if trial.finished else EQUAL):
            best = [(trial, worth)]
    others = sorted(known, key=lambda pair: -pair[1].mean)
    return list(dict.fromkeys([trial.candidate for trial in (*(one for one, _ in (*best, *others)), *trials)]))


def judged(detector: Detector, training: Sequence[ImageRegion]) -> Worth:
    """What a detector without evidence is worth, with evidence of a few training images if the settings ask for it.

    Raises:
        InputError: an image cannot be read. ConfigError: no defect found a place.
    """
    good = evenly(training, IMAGES)
    if detector.config.evidence.enabled:
        evidence = evidence_from_good(detector, good, ())
        detector = replace(detector, artifact=detector.artifact.with_evidence(evidence))
    pairs = each(partial(_pair, detector), turns(evenly(training, PARTS), PARTS, FIRST_SEED))
    if not pairs:
        raise ConfigError("no defect found a place in the training images; enlarge the region of interest")
    metrics = PixelMetrics()
    for pair in pairs:
        metrics.add_image(pair.counted)
    pixels = metrics.result().measures
    scores = [score for pair in pairs for score in (pair.flawed, pair.good)]
    images = image_metrics(scores, [True, False] * len(pairs))
    own = {pair.seed: curve_metrics(pair.counted.histogram)["auroc"].value for pair in pairs}
    return Worth(
        pixels["auroc"].value or 0.0,
        pixels["au_pro_30"].value or 0.0,
        images["auroc"].value or 0.0,
        {seed: value for seed, value in own.items() if value is not None},
    )


class _Pair(NamedTuple):
    """A part with a defect, counted, and its score with and without it."""

    seed: int
    counted: CountedImage
    flawed: float
    good: float


def _pair(detector: Detector, turn: Turn) -> _Pair | None:
    pasted = with_defect(good_part(detector, turn, SIDE, working=True), turn.seed)
    if pasted is None:
        return None
    before, inside = score_part(detector, pasted.part, pasted.part.pixels)
    after, _ = score_part(detector, pasted.part, pasted.flawed)
    counts = ImageCounts()
    counts.add(after, pasted.mask & inside, inside)
    return _Pair(turn.seed, counts.counted(), float(after.max()), float(before.max()))


def tried(
    candidate: str,
    fit: Callable[[], Detector],
    training: Sequence[ImageRegion],
    clock: Callable[[], float],
    *,
    finished: bool = False,
) -> Trial:
    """One candidate's trial: fitted, then judged. A training that cannot succeed is a trial's result, no error."""
    started = clock()
    try:
        worth, problem = judged(fit(), training), None
    except (TrainingError, ConfigError) as error:
        worth, problem = None, str(error)
    return Trial(candidate, worth, round(clock() - started, 1), problem, finished)

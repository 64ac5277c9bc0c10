"""Which candidate suits a material: short trainings, judged by defects that are pasted into good images.

A candidate is a set of changes to the settings. Each is trained for a share of the budget, and judged like any detector
by how well its map and its image scores tell pasted defects from good parts. The first of those that are as good as the
best is taken. No defective image is read, and none of the good images that the decision is calibrated on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flawmap.core.errors import ConfigError, InputError, TrainingError
from flawmap.data.defects import FLAWS, add_flaw
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.evidence import evidence_from_good
from flawmap.evaluation.image_counts import CountedImage, ImageCounts
from flawmap.evaluation.metrics import PixelMetrics, image_metrics
from flawmap.evaluation.pasting import Turn, good_part, score_part, turns
from flawmap.evaluation.scans import each, evenly
from flawmap.methods.config import Config
from flawmap.methods.overrides import assigned, override
from flawmap.scoring.detector import Detector

PARTS = 28  # of good images, each with a defect and without one: two for each kind
SIDE = 384  # pixels of the working scale: of a part, at most
FIRST_SEED = 1000  # other defects than those that the weights of evidence are learnt from
CONTRASTS = (0.04, 0.2)  # of a defect, log-uniformly
IMAGES = 12  # good images that evidence is measured on for a trial
EQUAL = 0.005  # of worth: a difference below it is none


class Worth(NamedTuple):
    """How well pasted defects are told from good material: AUROC and AU-PRO of pixels, AUROC of image parts."""

    pixel_auroc: float
    au_pro_30: float
    image_auroc: float

    @property
    def mean(self) -> float:
        return sum(self) / len(self)


@dataclass(frozen=True)
class Trial:
    """A candidate's short training. worth: None where `problem` says why it did not come to one."""

    candidate: str
    worth: Worth | None
    seconds: float
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"worth": None if self.worth is None else self.worth._asdict()}


def candidates_of(config: Config, smallest: tuple[int, int]) -> dict[str, Config]:
    """The candidates of the settings with their whole configurations, in order, without those that cannot be or repeat
    one before. None: the settings themselves.

    smallest: (height, width) of the smallest image, pixels. A candidate of a smaller scale is left out where an image
    would have less than two patches along a side.
    """
    found: dict[str, Config] = {}
    for text in config.choice.candidates:
        try:
            changed = config
            for change in text.split():
                changed = override(changed, assigned(change))
        except ConfigError:  # a setting that the method does not have
            continue
        if changed in found.values() or not _large_enough(changed, config, smallest):
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
    """Candidates from the best on, the first of equals first; those that failed come last, in their order."""
    worths = [trial.worth for trial in trials if trial.worth is not None]
    top = max((worth.mean for worth in worths), default=0.0)
    equal = [trial.candidate for trial in trials if trial.worth is not None and trial.worth.mean >= top - EQUAL]
    known = [trial for trial in trials if trial.worth is not None]
    others = [trial.candidate for trial in sorted(known, key=lambda trial: -trial.worth.mean if trial.worth else 0.0)]
    return list(dict.fromkeys([*equal[:1], *others, *(trial.candidate for trial in trials)]))


def judged(detector: Detector, training: Sequence[ImageRegion]) -> Worth:
    """What a detector without evidence is worth, with evidence of a few training images if the settings ask for it.

    Raises:
        InputError: an image cannot be read, or no defect found a place.
    """
    good = evenly(training, IMAGES)
    if detector.config.evidence.enabled:
        evidence = evidence_from_good(detector, good, ())
        detector = replace(detector, artifact=detector.artifact.with_evidence(evidence))
    pairs = each(partial(_pair, detector), turns(evenly(training, PARTS), PARTS, FIRST_SEED))
    if not pairs:
        raise InputError("no defect found a place in the training images; enlarge the region of interest")
    metrics = PixelMetrics()
    for counted, _, _ in pairs:
        metrics.add_image(counted)
    pixels = metrics.result().measures
    scores = [score for _, flawed, good_one in pairs for score in (flawed, good_one)]
    images = image_metrics(scores, [True, False] * len(pairs))
    found = (pixels["auroc"].value, pixels["au_pro_30"].value, images["auroc"].value)
    return Worth(*(value or 0.0 for value in found))


class _Pair(NamedTuple):
    """A part with a defect, counted, and its score with and without it."""

    counted: CountedImage
    flawed: float
    good: float


def _pair(detector: Detector, turn: Turn) -> _Pair | None:
    scale = detector.config.images.scale
    part = good_part(detector, turn, round(SIDE / scale) if isinstance(scale, float) else SIDE)
    if part is None:
        return None
    random = np.random.default_rng(turn.seed)
    contrast = float(np.exp(random.uniform(*np.log(CONTRASTS))))
    kind = FLAWS[turn.seed % len(FLAWS)]
    for asked in (contrast, None):  # None: where no such contrast is reached
        try:
            flawed, mask = add_flaw(part.pixels, kind, turn.seed, contrast=asked, inside=part.inside)
            break
        except InputError:
            continue
    else:
        return None
    before, inside = score_part(detector, part, part.pixels)
    after, _ = score_part(detector, part, flawed)
    counts = ImageCounts()
    counts.add(after, mask & inside, inside)
    return _Pair(counts.counted(), float(after.max()), float(before.max()))


def tried(
    candidate: str, fit: Callable[[], Detector], training: Sequence[ImageRegion], clock: Callable[[], float]
) -> Trial:
    """One candidate's trial: fitted, then judged. A training that cannot succeed is a trial's result, no error."""
    started = clock()
    try:
        worth, problem = judged(fit(), training), None
    except (TrainingError, ConfigError) as error:
        worth, problem = None, str(error)
    return Trial(candidate, worth, round(clock() - started, 1), problem)

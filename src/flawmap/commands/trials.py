"""What a training does before and after its long run: short trials of candidates, and looks at its states."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from flawmap.core.events import Events, Named
from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.splits import ImageRegion, Split
from flawmap.evaluation.choice import LOST, Trial, Worth, best_of, candidates_of, judged, tried
from flawmap.evaluation.scans import evenly
from flawmap.methods.config import Config
from flawmap.methods.interface import State
from flawmap.methods.overrides import override, parse, quicker_of
from flawmap.reporting.logs import write_json
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact

IMAGES = 40  # good images that a trial is trained on, at most
PLATEAU_STEPS = 100  # a trial that has learnt nothing after these has failed
LEAST_SHARE = 0.5  # of the budget that is left to the training itself

Fit = Callable[[Config, Sequence[ImageRegion], Events], State]
"""Fits a method to good images, without a checkpoint."""


@dataclass(frozen=True)
class Choice:
    """What the trials came to. configs: the whole settings of the candidates by name, the best first. trials: none
    where there was nothing to choose."""

    configs: dict[str, Config]
    trials: tuple[Trial, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types, for the model file."""
        return {"chosen": next(iter(self.configs)), "trials": [trial.to_dict() for trial in self.trials]}


def chosen(
    config: Config,
    split: Split,
    fit: Fit,
    *,
    record: Path,
    resume: bool,
    index: ImageIndex,
    events: Events,
) -> Choice:
    """Try the candidates of the settings, a short training each, and put them in order.

    record: a file that the choice is written to, and read from with `resume`, so that a training goes on with what it
    began with.
    """
    candidates = candidates_of(config, _smallest(split.train, index))
    if len(candidates) == 1:
        return Choice(candidates)
    about = {"settings": config.model_dump(mode="json"), "data": split.training_digest}
    if resume and record.exists():
        kept = json.loads(record.read_text(encoding="utf-8"))
        if kept["about"] == about:
            return Choice(
                {name: parse(data) for name, data in kept["configs"].items()},
                tuple(map(Trial.from_dict, kept["trials"])),
            )
    good, trials = evenly(split.train, IMAGES), []
    for number, (name, settings) in enumerate(candidates.items(), start=1):
        events.message(f"trial {number} of {len(candidates)}: {name}")
        trial = _trial(name, settings, good, fit, events)
        trials.append(trial)
        events.message(f"  {_said(trial)}")
    order = best_of(trials)
    spent = sum(trial.seconds for trial in trials) / 60
    found = Choice({name: _shortened(candidates[name], spent) for name in order}, tuple(trials))
    events.message(f"chosen by defects pasted into good images: {order[0]}")
    configs = {name: settings.model_dump(mode="json") for name, settings in found.configs.items()}
    write_json(record, {"about": about, "configs": configs, **found.to_dict()})
    return found


def left_out(record: Path, candidate: str) -> None:
    """Note in the file of a choice that a candidate's long training failed: whoever resumes goes on without it."""
    if record.exists():
        kept = json.loads(record.read_text(encoding="utf-8"))
        del kept["configs"][candidate]
        write_json(record, kept)


def _trial(name: str, settings: Config, good: Sequence[ImageRegion], fit: Fit, events: Events) -> Trial:
    short = override(settings, {"training": _budget(settings)})

    def detector() -> Detector:
        return _detector(short, fit(short, good, Named(events, name)))

    return tried(name, detector, good, time.monotonic, finished=not settings.method.gradual)


def _budget(settings: Config) -> dict[str, Any]:
    """The training settings of a trial: a share of the budget, and less patience."""
    training, share = settings.training, settings.choice.share
    plateau = {"plateau_steps": min(training.plateau_steps, PLATEAU_STEPS)}
    if training.minutes is not None:
        return plateau | {"minutes": share * training.minutes}
    steps = training.steps or (training.epochs or 1) * (training.pool or training.batch) // training.batch
    return plateau | {"steps": max(1, round(share * steps))}


def _shortened(settings: Config, minutes: float) -> Config:
    """The settings with what the trials took off a budget in minutes."""
    budget = settings.training.minutes
    if budget is None:
        return settings
    return override(settings, {"training": {"minutes": max(budget - minutes, LEAST_SHARE * budget)}})


def _smallest(regions: Sequence[ImageRegion], index: ImageIndex) -> tuple[int, int]:
    """(height, width): the least of the areas."""
    boxes = [region.box or index.box(region.path) for region in regions]
    return min(bottom - top for _, top, _, bottom in boxes), min(right - left for left, _, right, _ in boxes)


def _said(trial: Trial) -> str:
    if trial.worth is None:
        return f"failed after {trial.seconds:.0f} s: {trial.problem}"
    worth = trial.worth
    return (
        f"pixel AUROC {worth.pixel_auroc:.3f}, AU-PRO {worth.au_pro_30:.3f}, mean over defects {worth.mean:.3f} "
        f"({trial.seconds:.0f} s)"
    )


def _detector(config: Config, state: State) -> Detector:
    artifact = Artifact(config, state.tensors, facts=state.facts)
    return Detector.of(artifact, Runtime(config.training.device, config.training.precision))


@dataclass
class Looks:
    """States of a training at even distances, by step, without its end; kept in memory."""

    steps: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def add(self, step: int, tensors: dict[str, Tensor]) -> None:
        self.steps[step] = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def best_state(
    config: Config, state: State, looks: Looks, training: Sequence[ImageRegion], events: Events
) -> tuple[State, dict[str, Any]]:
    """The state of a training that finds pasted defects best, and what was compared, as JSON's types.

    It is the last one unless an earlier one beats it: on some materials a network that is trained for longer learns to
    rebuild flaws, too.
    """
    if not looks.steps:
        return state, {}
    last = int(state.provenance["training"]["steps"])
    worths: dict[int, Worth] = {}
    for number, (step, tensors) in enumerate((looks.steps | {last: state.tensors}).items(), start=1):
        worths[step] = judged(_detector(config, replace(state, tensors=tensors)), training)
        events.progress(number, len(looks.steps) + 1, f"state after {step} steps")
    best = max(worths, key=lambda step: worths[step].mean)
    if not worths[best].beats(worths[last]):
        best = last
    record = {"kept": best, "worth": {str(step): round(worth.mean, 4) for step, worth in worths.items()}}
    return (state if best == last else replace(state, tensors=looks.steps[best])), record


def quickest(
    config: Config, state: State, training: Sequence[ImageRegion], events: Events
) -> tuple[Config, dict[str, Any]]:
    """The quickest of the settings' ways to score that finds pasted defects nearly as well as they do themselves, and
    what each is worth that was compared, as JSON's types. Seconds are those of the comparison."""
    *ways, own = quicker_of(config).items()
    if not ways:
        return config, {}
    worths: list[Worth] = []
    record: dict[str, dict[str, float]] = {}
    kept = own
    for number, way in enumerate((own, *ways)):
        started = time.monotonic()
        worths.append(judged(_detector(way[1], state), training))
        record[way[0]] = {name: round(getattr(worths[-1], name), 4) for name in LOST}
        record[way[0]]["seconds"] = round(time.monotonic() - started, 1)
        events.progress(number + 1, 1 + len(ways), f"quicker scoring: {way[0] or 'as it is'}")
        if number and worths[-1].keeps(worths[0]):
            kept = way
            break
    name, settings = kept
    events.message(f"quicker scoring, by defects pasted into good images: {name or 'none costs little'}")
    return settings, {"kept": name, "worth": record}

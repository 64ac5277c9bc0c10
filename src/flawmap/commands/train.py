"""`flawmap train`: from a folder of good images to a model file."""

from __future__ import annotations

import datetime
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.commands.outputs import usable_folder
from flawmap.commands.trials import Choice, Fit, Looks, best_state, chosen, left_out, quickest
from flawmap.core.device import choose_device, describe_machine, free_memory
from flawmap.core.distributed import joined
from flawmap.core.errors import ConfigError, InputError, TrainingError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import writable_folder
from flawmap.core.group import Group
from flawmap.core.runtime import Runtime
from flawmap.data.facts import ImageFacts
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, open_patches
from flawmap.data.patches import PatchSource
from flawmap.data.preparation import training_set
from flawmap.data.splits import ImageRegion, Split, split_dataset
from flawmap.evaluation.agreement import with_variants
from flawmap.evaluation.calibration import calibrated
from flawmap.evaluation.selfcheck import with_self_check
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Progress, Row, State
from flawmap.methods.overrides import override
from flawmap.methods.table import METHODS
from flawmap.reporting.charts import check_figure, loss_figure
from flawmap.reporting.logs import write_history
from flawmap.scoring.conformal import images_needed
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, save_artifact

log = logging.getLogger(__name__)

VALIDATION_PATCHES = 256  # whose loss goes into the history
MODEL_BYTES = 200_000_000  # free space asked for before a training: model, checkpoint and their parts

PatchSourceFactory = Callable[[Sequence[ImageRegion]], AbstractContextManager[tuple[PatchSource, LoadStatistics]]]
"""Opens the patches of image regions, in memory or on disk, with statistics of the images read."""


@dataclass(frozen=True)
class TrainingReport:
    """What a training left. skipped: images that were left out, and why."""

    model: Path
    artifact: Artifact
    history: tuple[Row, ...]
    skipped: tuple[tuple[Path, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The model's summary as JSON's types, without the list of its training images."""
        return self.artifact.report(self.model)


def train(
    path: Path,
    model: Path,
    config: Config,
    *,
    resume: bool = False,
    skip_unreadable: bool = False,
    skip_outliers: bool = False,
    tensorboard: Path | None = None,
    events: Events = SILENT,
) -> TrainingReport:
    """Train on the good images of a data set and write a `.flawmap` file with a threshold from held-out good images.

    Beside the model lie `NAME.history.csv`, `NAME.history.png`, `NAME.check.png` after a self-check and, until the
    training is done, `NAME.checkpoint` and `NAME.choice.json`; also `NAME.patches` while it runs, if the images do not
    fit in memory.

    Under torchrun the processes share the training by gradients. The first one alone does everything before and after,
    and writes all files but its fellows' `NAME.1.patches` and so on. All of them return the same report.

    Raises:
        InputError, ConfigError, TrainingError: the data, the settings, or the course of the training.
        LostProcessError: another process of torchrun's ended.
    """
    checkpoint, index = _beside(model, ".checkpoint"), ImageIndex()
    with joined() as group:
        told = events if group.first else SILENT
        supplies = partial(_supply, model=model, index=index, group=group, events=told)
        plan = group.from_first(
            lambda: _planned(
                path,
                model,
                config,
                group,
                supplies,
                resume=resume,
                skip_unreadable=skip_unreadable,
                skip_outliers=skip_outliers,
                index=index,
                events=told,
            )
        )
        with _listener(tensorboard if group.first else None, told) as listen:
            context = FitContext(None, checkpoint, resume, plan.split.training_digest, listen, group=group)
            failed = partial(left_out, _beside(model, ".choice.json"))
            fitted = _first_that_fits(plan.choice.configs, plan.split, supplies, context, failed=failed, events=told)
        return group.from_first(lambda: _finished(model, plan, fitted, told))


@dataclass(frozen=True)
class _Plan:
    """What is trained, on what. layout: of the data set. skipped: images that were left out, and why."""

    layout: str
    split: Split
    skipped: tuple[tuple[Path, str], ...]
    choice: Choice


@dataclass(frozen=True)
class _Fitted:
    """A candidate that was trained. images: statistics of those it was fitted to. looks: its earlier states."""

    candidate: str
    state: State
    images: LoadStatistics
    looks: Looks


def _planned(
    path: Path,
    model: Path,
    config: Config,
    group: Group,
    supplies: Callable[[Config], PatchSourceFactory],
    *,
    resume: bool,
    skip_unreadable: bool,
    skip_outliers: bool,
    index: ImageIndex,
    events: Events,
) -> _Plan:
    """What the data and the settings come to, and the order of the candidates after short trials."""
    dataset = find_dataset(path)
    checkpoint = _ready(model, config, group, resume=resume)
    if resume and not checkpoint.exists():
        events.message(f"there is no checkpoint {checkpoint}: the training starts anew")
    images = training_set(
        dataset.samples,
        config.images,
        config.model.patch,
        pad=config.tiling.pad,
        skip_unreadable=skip_unreadable,
        skip_outliers=skip_outliers,
        index=index,
        events=events,
    )
    config = _with_facts(config, images.facts)
    rule = config.threshold
    needed = images_needed(rule.alpha) if rule.rule == "conformal" else 0
    split = split_dataset(images.samples, config.images, config.split, config.model.patch, index, needed=needed)
    events.message(
        f"{dataset.layout} data: {len(split.train)} good images or areas to train on, {len(split.validation)} to "
        f"validate, {len(split.test)} held out as good test images"
    )
    record = _beside(model, ".choice.json")
    choice = chosen(config, split, _trial_fit(supplies), record=record, resume=resume, index=index, events=events)
    return _Plan(dataset.layout, split, images.left_out, choice)


def _finished(model: Path, plan: _Plan, fitted: _Fitted, events: Events) -> TrainingReport:
    """Choose state and tiling, calibrate and check, write the model and what lies beside it, drop the checkpoint."""
    config, split = plan.choice.configs[fitted.candidate], plan.split
    state, looks = best_state(config, fitted.state, fitted.looks, split.train, events)
    config, quicker = quickest(config, state, split.train, events)
    choice = replace(plan.choice, configs={fitted.candidate: config})
    provenance = _provenance(state, split, layout=plan.layout, tally=fitted.images, skipped=plan.skipped)
    provenance["choice"] = choice.to_dict() | {"looks": looks, "quicker": quicker}
    artifact = _calibrated(config, state, split, provenance, events)
    save_artifact(artifact, model)  # first: a disk that fills up over a picture must not cost the training
    if state.history:
        write_history(state.history, _beside(model, ".history.csv"))
        loss_figure([asdict(row) for row in state.history], _beside(model, ".history.png"))
    if artifact.check is not None:
        check_figure(artifact.check, _beside(model, ".check.png"))
    for ending in (".checkpoint", ".choice.json"):
        _beside(model, ending).unlink(missing_ok=True)
    return TrainingReport(model, artifact, state.history, plan.skipped)


def _trial_fit(supplies: Callable[[Config], PatchSourceFactory]) -> Fit:
    """How a trial is fitted: to a few images, without validation or checkpoint."""

    def fit(config: Config, good: Sequence[ImageRegion], events: Events) -> State:
        with supplies(config)(good) as (source, _):
            return METHODS[config.method.name].fit(config, source, FitContext(on_progress=events.training))

    return fit


def _first_that_fits(
    configs: Mapping[str, Config],
    split: Split,
    supplies: Callable[[Config], PatchSourceFactory],
    context: FitContext,
    *,
    failed: Callable[[str], None],
    events: Events,
) -> _Fitted:
    """The first of the candidates whose training succeeds. Raises TrainingError if none does.

    failed: told of each one whose training does not.
    """
    for place, (name, config) in enumerate(configs.items(), start=1):
        looks = Looks()
        watched = replace(context, looks=config.choice.looks, on_look=looks.add)
        fit = partial(_fitted, config, split, supplies(config), watched, events)
        try:
            state, images = fit() if config.method.gradual else context.group.from_first(fit)
            return _Fitted(name, state, images, looks)
        except TrainingError as error:
            if place == len(configs):
                raise
            events.message(f"{name} failed, the next candidate is trained: {error}")
            context = replace(context, resume=False)
            if context.group.first:
                if context.checkpoint is not None:
                    context.checkpoint.unlink(missing_ok=True)
                failed(name)
    raise AssertionError("there is at least one candidate")


def _supply(config: Config, model: Path, index: ImageIndex, group: Group, events: Events) -> PatchSourceFactory:
    """Each process has the images to itself, in its part of the memory or in a file of its own."""
    memory = config.training.memory_gb
    return partial(
        open_patches,
        settings=config.images,
        patch=config.model.patch,
        budget=free_memory() // 2 // group.local_size if memory is None else round(1e9 * memory),
        path=_beside(model, ".patches" if group.first else f".{group.rank}.patches"),
        channels=config.model.channels,
        pad=config.tiling.pad,
        index=index,
        events=events,
    )


def _fitted(
    config: Config, split: Split, supply: PatchSourceFactory, context: FitContext, events: Events
) -> tuple[State, LoadStatistics]:
    """The fitted method, and statistics of the images that it was fitted to."""
    held_out = _validation_patches(split, config, supply) if context.group.first else None
    with supply(split.train) as (source, tally):
        try:
            state = METHODS[config.method.name].fit(config, source, replace(context, validation=held_out))
        except KeyboardInterrupt:
            if context.checkpoint is not None and context.checkpoint.exists():
                events.message(f"{context.checkpoint} holds the training so far; go on with --resume")
            raise
    return state, tally


def _ready(model: Path, config: Config, group: Group, *, resume: bool) -> Path:
    """The checkpoint's path, after a check of what a training needs, before hours of it."""
    if group.size > 1 and not config.method.gradual:
        raise ConfigError(
            f"{group.size} processes were started, but {config.method.name} is not trained by gradients, which they "
            "could share; train it without torchrun"
        )
    choose_device(config.training.device)
    config.method.files()  # an error where one is missing
    if model.is_dir():
        raise InputError(f"{model} is a folder, the model is a file; name one in it: -o {model / 'model.flawmap'}")
    checkpoint = _beside(model, ".checkpoint")
    usable_folder(model.absolute().parent, MODEL_BYTES)
    if checkpoint.exists() and not resume:
        raise InputError(
            f"{checkpoint} was left by an unfinished training; go on with --resume, or remove it to start anew"
        )
    return checkpoint


def _beside(model: Path, ending: str) -> Path:
    """A file of the model's name with another ending; only `.flawmap` is cut off: v0.1 and v0.2 are two names."""
    return model.with_name((model.stem if model.suffix == ".flawmap" else model.name) + ending)


def _with_facts(config: Config, facts: ImageFacts) -> Config:
    """The settings with what the images decide: one channel for grey, three for colour; and which value is white."""
    wanted = config.model.channels
    if wanted is not None and wanted != facts.channels:
        names = {1: "grey", 3: "colour"}
        raise InputError(
            f"the model is set to {names[wanted]} images (channels = {wanted}), the training images are "
            f"{names[facts.channels]}; convert them with --mode {names[wanted]}, or leave channels out"
        )
    white = {} if facts.white is None else {"white": facts.white}
    return override(config, {"model": {"channels": facts.channels}, "images": white})


def _validation_patches(split: Split, config: Config, supply: PatchSourceFactory) -> NDArray[np.float32] | None:
    if not split.validation:
        return None
    with supply(split.validation) as (source, _):
        return source.sample(VALIDATION_PATCHES, np.random.default_rng(config.training.seed))


def _calibrated(config: Config, state: State, split: Split, provenance: dict[str, Any], events: Events) -> Artifact:
    """The model with border correction and threshold; without the latter, with a warning, if nothing was held out."""
    if not split.validation:
        log.warning("no good images were held out (validation = 0): the model has no threshold")
    artifact = Artifact(config, state.tensors, provenance=provenance, facts=state.facts)
    detector = Detector.of(artifact, Runtime(config.training.device, config.training.precision))
    detector = calibrated(detector, split.train, split.validation, events=events)
    if config.check.enabled and split.validation:
        detector = with_variants(with_self_check(detector, split.validation, events), split.validation, events)
    return detector.artifact


def _provenance(
    state: State,
    split: Split,
    *,
    layout: str,
    tally: LoadStatistics,
    skipped: Sequence[tuple[Path, str]],
) -> dict[str, Any]:
    """Where a model comes from, as JSON's types."""
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "data": {
            "layout": layout,
            "images": len(split.train),
            "sizes": dict(tally.sizes),
            "stored": dict(tally.stored),
            "notes": dict(tally.notes),
            "skipped": len(skipped),
            "split": split.to_dict(),
            "split_sha256": split.digest,
        },
        **state.provenance,
        "versions": {name: version(name) for name in ("flawmap", "torch", "numpy")}
        | {"python": platform.python_version()},
        "machine": describe_machine(),
    }


@contextmanager
def _listener(tensorboard: Path | None, events: Events) -> Iterator[Callable[[Progress], None]]:
    """Who is told of the progress: `events` and, if a folder was given, TensorBoard, an extra that is imported then."""
    if tensorboard is None:
        yield events.training
        return
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError:
        raise InputError(
            "--tensorboard needs a package that is not installed; pip install 'flawmap[tensorboard]'"
        ) from None
    with SummaryWriter(log_dir=str(writable_folder(tensorboard))) as writer:

        def listen(progress: Progress) -> None:
            values = asdict(progress.row) | {"patches_per_second": progress.patches_per_second}
            for name, value in values.items():
                if value is not None and name != "step":
                    writer.add_scalar(name, value, progress.row.step)
            events.training(progress)

        yield listen

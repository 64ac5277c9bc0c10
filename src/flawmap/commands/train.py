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
from flawmap.commands.trials import Fit, Looks, best_state, chosen, left_out
from flawmap.core.device import choose_device, describe_machine, free_memory
from flawmap.core.errors import InputError, TrainingError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import writable_folder
from flawmap.core.runtime import Runtime
from flawmap.data.facts import ImageFacts
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, open_patches
from flawmap.data.patches import PatchSource
from flawmap.data.preparation import training_set
from flawmap.data.splits import ImageRegion, Split, split_dataset
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

    Raises:
        InputError, ConfigError, TrainingError: the data, the settings, or the course of the training.
    """
    dataset = find_dataset(path)
    checkpoint = _ready(model, config, resume=resume)
    if resume and not checkpoint.exists():
        events.message(f"there is no checkpoint {checkpoint}: the training starts anew")
    index = ImageIndex()
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
    supplies = partial(_supply, model=model, index=index, events=events)
    choice = chosen(config, split, _trial_fit(supplies), record=record, resume=resume, index=index, events=events)
    with _listener(tensorboard, events) as listen:
        context = FitContext(None, checkpoint, resume, split.training_digest, listen)
        name, (state, tally), looks = _first_that_fits(
            choice.configs, split, supplies, context, failed=partial(left_out, record), events=events
        )
    config = choice.configs[name]
    choice = replace(choice, configs={name: config})
    state, compared = best_state(config, state, looks, split.train, events)
    provenance = _provenance(state, split, layout=dataset.layout, tally=tally, skipped=images.left_out)
    provenance["choice"] = choice.to_dict() | {"looks": compared}
    artifact = _calibrated(config, state, split, provenance, events)
    save_artifact(artifact, model)  # first: a disk that fills up over a picture must not cost the training
    if state.history:
        write_history(state.history, _beside(model, ".history.csv"))
        loss_figure([asdict(row) for row in state.history], _beside(model, ".history.png"))
    if artifact.check is not None:
        check_figure(artifact.check, _beside(model, ".check.png"))
    checkpoint.unlink(missing_ok=True)
    record.unlink(missing_ok=True)
    return TrainingReport(model, artifact, state.history, images.left_out)


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
) -> tuple[str, tuple[State, LoadStatistics], Looks]:
    """The first of the candidates whose training succeeds. Raises TrainingError if none does.

    failed: told of each one whose training does not.
    """
    for place, (name, config) in enumerate(configs.items(), start=1):
        looks = Looks()
        watched = replace(context, looks=config.choice.looks, on_look=looks.add)
        try:
            return name, _fitted(config, split, supplies(config), watched, events), looks
        except TrainingError as error:
            if place == len(configs):
                raise
            events.message(f"{name} failed, the next candidate is trained: {error}")
            context = replace(context, resume=False)
            if context.checkpoint is not None:
                context.checkpoint.unlink(missing_ok=True)
            failed(name)
    raise AssertionError("there is at least one candidate")


def _supply(config: Config, model: Path, index: ImageIndex, events: Events) -> PatchSourceFactory:
    memory = config.training.memory_gb
    return partial(
        open_patches,
        settings=config.images,
        patch=config.model.patch,
        budget=free_memory() // 2 if memory is None else round(1e9 * memory),
        path=_beside(model, ".patches"),
        channels=config.model.channels,
        pad=config.tiling.pad,
        index=index,
        events=events,
    )


def _fitted(
    config: Config, split: Split, supply: PatchSourceFactory, context: FitContext, events: Events
) -> tuple[State, LoadStatistics]:
    """The fitted method, and statistics of the images that it was fitted to."""
    held_out = _validation_patches(split, config, supply)
    with supply(split.train) as (source, tally):
        try:
            state = METHODS[config.method.name].fit(config, source, replace(context, validation=held_out))
        except KeyboardInterrupt:
            if context.checkpoint is not None and context.checkpoint.exists():
                events.message(f"{context.checkpoint} holds the training so far; go on with --resume")
            raise
    return state, tally


def _ready(model: Path, config: Config, *, resume: bool) -> Path:
    """The checkpoint's path, after a check of what a training needs, before hours of it."""
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
        detector = with_self_check(detector, split.validation, events)
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

"""What a command does: one function each, callable from Python. The command line only parses, calls and prints."""

from __future__ import annotations

import datetime
import logging
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flawmap.commands.outputs import _usable
from flawmap.core.device import choose_device, describe_machine, free_memory
from flawmap.core.errors import InputError
from flawmap.core.files import writable_folder
from flawmap.core.overrides import override
from flawmap.core.settings import Config, ImageSettings
from flawmap.data.layouts import Sample, find_dataset
from flawmap.data.loading import LoadStatistics
from flawmap.data.patches import PatchSource
from flawmap.data.sources import open_patches, storage_estimate
from flawmap.data.splits import ImageRegion, Split, split_dataset
from flawmap.evaluation.calibration import calibrated
from flawmap.imaging.codecs import read_header as image_header
from flawmap.imaging.reading import read_image
from flawmap.methods.gradient import Progress, Row, Trained, fit, write_history
from flawmap.nets.weights import weights_summary
from flawmap.reporting.charts import loss_figure
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, save_artifact

log = logging.getLogger(__name__)

VALIDATION_PATCHES = 256  # whose loss goes into the history
MODEL_BYTES = 200_000_000  # free space asked for before a training: model, checkpoint and their parts

Supply = Callable[[Sequence[ImageRegion]], AbstractContextManager[tuple[PatchSource, LoadStatistics]]]
"""Patches of areas, wherever their images fit, and what is to be said of these."""


# -------------------------------------------------------------------------------------------------------------- train


@dataclass(frozen=True)
class TrainingReport:
    """What a training left: the model file and what a user wants to know of it."""

    model: Path
    artifact: Artifact
    history: tuple[Row, ...]
    skipped: tuple[tuple[Path, str], ...]


def train(
    path: Path,
    model: Path,
    config: Config,
    *,
    resume: bool = False,
    skip_unreadable: bool = False,
    tensorboard: Path | None = None,
    observe: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = log.info,
) -> TrainingReport:
    """Train on the good images of a data set and write a `.flawmap` file with a threshold from held-out good images.

    Beside the model lie `NAME.history.csv`, `NAME.history.png` and, until the training is done, `NAME.checkpoint`; also
    `NAME.patches` while it runs, if the images do not fit in memory.

    Args:
        observe: called after every row of the history. say: told in a sentence what was understood and done.
    Raises:
        InputError, ConfigError, TrainingError: the data, the settings, or the course of the training.
    """
    dataset = find_dataset(path)
    checkpoint = _ready(model, config, resume=resume)
    features = weights_summary(config.loss.features) if config.loss.name == "fm" else None
    if resume and not checkpoint.exists():
        say(f"there is no checkpoint {checkpoint}: the training starts anew")
    samples, skipped = _readable(dataset.samples, config.images, skip=skip_unreadable)
    for file, reason in skipped:
        say(f"left out {file}: {reason}")
    split = split_dataset(samples, config.images, config.split, config.model.patch)
    say(
        f"{dataset.layout} data: {len(split.train)} good images or areas to train on, {len(split.validation)} to "
        f"validate, {len(split.test)} held out as good test images"
    )
    with _TensorBoard(tensorboard) as writer:

        def note(progress: Progress) -> None:
            writer.add(progress)
            observe(progress)

        config = _with_channels(config, storage_estimate(split.train, config.images).channels)
        supply = partial(
            open_patches,
            settings=config.images,
            patch=config.model.patch,
            budget=_memory(config),
            path=_beside(model, ".patches"),
            say=say,
        )
        held_out = _validation_patches(split, config, supply)
        with supply(split.train) as (source, tally):
            try:
                trained = fit(
                    config,
                    source,
                    held_out,
                    checkpoint=checkpoint,
                    resume=resume,
                    data_digest=split.digest,
                    observe=note,
                )
            except KeyboardInterrupt:
                say(_what_is_left(checkpoint, config))
                raise
    provenance = _provenance(config, trained, split, layout=dataset.layout, tally=tally, skipped=skipped)
    if features is not None:  # every figure has to say by which network's features it came about
        provenance["features"] = features
    artifact = _calibrated(config, trained, split, provenance)
    save_artifact(artifact, model)  # first: a disk that fills up over a picture must not cost the training
    write_history(trained.history, _beside(model, ".history.csv"))
    loss_figure([asdict(row) for row in trained.history], _beside(model, ".history.png"))
    checkpoint.unlink(missing_ok=True)
    return TrainingReport(model, artifact, trained.history, skipped)


def _ready(model: Path, config: Config, *, resume: bool) -> Path:
    """Whether a training can be done at all, asked before hours of it; the checkpoint's path."""
    choose_device(config.training.device)
    if model.is_dir():
        raise InputError(f"{model} is a folder, the model is a file; name one in it: -o {model / 'model.flawmap'}")
    checkpoint = _beside(model, ".checkpoint")
    _usable(model.absolute().parent, MODEL_BYTES)
    if checkpoint.exists() and not resume:
        raise InputError(
            f"{checkpoint} is what an unfinished training left; go on with --resume, or remove it to start anew"
        )
    return checkpoint


def _what_is_left(checkpoint: Path, config: Config) -> str:
    """Of an interrupted training."""
    if checkpoint.exists():
        return f"{checkpoint} holds the training up to its last save; go on with --resume"
    return (
        f"stopped before the first checkpoint, which is due after {config.training.checkpoint_minutes:g} minutes "
        "(checkpoint_minutes): nothing is left to resume"
    )


def _beside(model: Path, ending: str) -> Path:
    """A file of the model's name with another ending; only `.flawmap` is cut off: v0.1 and v0.2 are two names."""
    return model.with_name((model.stem if model.suffix == ".flawmap" else model.name) + ending)


def _readable(
    samples: Sequence[Sample], settings: ImageSettings, *, skip: bool
) -> tuple[tuple[Sample, ...], tuple[tuple[Path, str], ...]]:
    """The samples without the unreadable ones among those to train on, and these with the reasons.

    Raises:
        InputError: one cannot be read and `skip` is off (then by its header alone: the pixels are read later), or
            none can.
    """
    kept: list[Sample] = []
    skipped: list[tuple[Path, str]] = []
    for sample in samples:
        try:
            if sample.split == "train" and skip:
                read_image(sample.path, settings)
            elif sample.split == "train":
                image_header(sample.path)
        except InputError as error:
            if not skip:
                raise InputError(f"{error}; remove it, or leave such files out with --skip-unreadable") from error
            skipped.append((sample.path, str(error)))
        else:
            kept.append(sample)
    if skipped and not any(sample.split == "train" for sample in kept):
        raise InputError(f"none of {len(skipped)} images to train on could be read: {skipped[0][1]}")
    return tuple(kept), tuple(skipped)


def _with_channels(config: Config, found: int) -> Config:
    """The settings with what the images decide: one channel for grey, three for colour."""
    wanted = config.model.channels
    if wanted is not None and wanted != found:
        names = {1: "grey", 3: "colour"}
        raise InputError(
            f"the model is set to {names[wanted]} images (channels = {wanted}), the training images are "
            f"{names[found]}; convert them with --mode {names[wanted]}, or leave channels out"
        )
    return override(config, {"model": {"channels": found}})


def _memory(config: Config) -> int:
    """Bytes that images may take."""
    given = config.training.memory_gb
    return free_memory() // 2 if given is None else round(1e9 * given)


def _validation_patches(split: Split, config: Config, supply: Supply) -> NDArray[np.float32] | None:
    if not split.validation:
        return None
    with supply(split.validation) as (source, _):
        if source.channels != config.model.channels:
            raise InputError(
                "the images are mixed: grey and colour among those to train on and to validate; make them alike with "
                "--mode grey or --mode colour"
            )
        return source.sample(VALIDATION_PATCHES, np.random.default_rng(config.training.seed))


def _calibrated(config: Config, trained: Trained, split: Split, provenance: dict[str, Any]) -> Artifact:
    """The model with border and threshold; without the latter, and said so, where no good image was held out for it."""
    if not split.validation:
        log.warning("no good images were held out (validation = 0): the model has no threshold")
    artifact = Artifact(config, trained.network.state_dict(), None, {}, provenance)
    detector = Detector.of(artifact, device=config.training.device, precision=config.training.precision)
    return calibrated(detector, split.train, split.validation).artifact


def _provenance(
    config: Config,
    trained: Trained,
    split: Split,
    *,
    layout: str,
    tally: LoadStatistics,
    skipped: Sequence[tuple[Path, str]],
) -> dict[str, Any]:
    """Where a model comes from, as JSON's types."""
    last = trained.history[-1]
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
        "training": {
            "steps": trained.steps,
            "patches": trained.steps * config.training.batch,
            "seconds": round(trained.seconds, 1),
            "patches_per_second": round(trained.patches_per_second, 1),
            "loss": last.loss,
            "validation_loss": last.validation,
            "constant_loss": trained.constant_loss,
        },
        "versions": {name: version(name) for name in ("flawmap", "torch", "numpy")}
        | {"python": platform.python_version()},
        "machine": describe_machine(),
    }


class _TensorBoard:
    """Writes the history as scalars, if a folder was given. The extra is imported then, and only then."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
        except ImportError:
            raise InputError(
                "--tensorboard needs a package that is not installed; pip install 'flawmap[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(log_dir=str(writable_folder(folder)))

    def __enter__(self) -> Self:
        return self

    def add(self, progress: Progress) -> None:
        if self._writer is None:
            return
        values = asdict(progress.row) | {"patches_per_second": progress.patches_per_second}
        for name, value in values.items():
            if value is not None and name != "step":
                self._writer.add_scalar(name, value, progress.row.step)

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

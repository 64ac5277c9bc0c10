"""What a command does: one function each, callable from Python. The command line only parses, calls and prints."""

from __future__ import annotations

import datetime
import logging
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from flawmap.artifact import Artifact, load_artifact, read_header, save_artifact, version_hash
from flawmap.calibration import calibrated
from flawmap.config import Config, ImageSettings, override
from flawmap.datasets import (
    Area,
    DatasetSummary,
    PatchSource,
    Sample,
    Split,
    Tally,
    describe,
    find_dataset,
    split_dataset,
    write_mvtec,
)
from flawmap.detector import Detector
from flawmap.errors import ConfigError, InputError, OutputError
from flawmap.evaluation import SCHEMA, Evaluation, evaluate, held_out_areas, unseen_samples
from flawmap.files import enough_space, writable_folder
from flawmap.flaws import bad_images
from flawmap.hardware import choose_device, describe_machine, free_memory
from flawmap.huge import by_bands, inspect_bands
from flawmap.images import FoundImage, find_images, read_image, write_image
from flawmap.images import read_header as image_header
from flawmap.lists import InspectionLog, write_json
from flawmap.pages import evaluation_page
from flawmap.plots import loss_figure, overlay, roc_figure
from flawmap.records import Findings, Inspection
from flawmap.reports import write_page
from flawmap.sources import needs_of, open_source
from flawmap.synthetic import FITTING, good_images
from flawmap.training import Progress, Row, Trained, fit, write_history
from flawmap.weights import weights_card
from flawmap.workers import side_by_side, turn

log = logging.getLogger(__name__)

VALIDATION_PATCHES = 256  # whose loss goes into the history
MODEL_BYTES = 200_000_000  # free space asked for before a training: model, checkpoint and their parts
PAGE_BYTES = 50_000_000  # and before an evaluation: its page holds some forty pictures
PICTURE_BYTES, RESIDUAL_BYTES = 2, 4  # and before an inspection, for each pixel: mask and overlay, residual map

OUTPUTS = ("_mask", "_overlay", "_residual")  # what the names of an inspection's pictures end in

Done = Callable[[int, int, str], None]
"""Told (done, of how many, what) as work goes on."""

Supply = Callable[[Sequence[Area]], AbstractContextManager[tuple[PatchSource, Tally]]]
"""Patches of areas, wherever their images fit, and what is to be said of these."""


def _silent(done: int, total: int, what: str) -> None:
    return None


def _usable(folder: Path, needed: int) -> None:
    """Refuse an output folder, made already or not, that cannot take what will be written; make it otherwise."""
    enough_space(folder, needed)
    writable_folder(folder)


# -------------------------------------------------------------------------------------------------------------- synth


def synth(folder: Path, kind: str, *, good: int, bad: int, size: tuple[int, int], seed: int) -> dict[str, int]:
    """Write a synthetic data set in the layout of MVTec AD.

    Args:
        good: images to train on; a quarter as many, at least one, go to test/good. bad: images with one flaw each,
            the kinds of flaw in turn. size: (width, height), pixels.
    Returns:
        Images written, by folder.
    """
    if good < 1 or bad < 0:
        raise InputError(f"at least one good image and no fewer than 0 bad ones are needed, got {good} and {bad}")
    enough_space(folder, (good + max(1, good // 4) + bad) * size[0] * size[1])
    train = good_images(kind, good, size, seed, stream="train")
    test = good_images(kind, max(1, good // 4), size, seed, stream="good")
    flawless = good_images(kind, bad, size, seed, stream="bad")
    return write_mvtec(folder, train, test, bad_images(flawless, FITTING[kind], seed))


# --------------------------------------------------------------------------------------------------------------- data


def data(path: Path, images: ImageSettings) -> DatasetSummary:
    """What a folder or manifest is understood to hold; nothing is trained or written."""
    return describe(find_dataset(path), images)


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
    features = weights_card(config.loss.features) if config.loss.name == "fm" else None
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

        config = _with_channels(config, needs_of(split.train, config.images).channels)
        supply = partial(
            open_source,
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
    tally: Tally,
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
            "flat_loss": trained.flat_loss,
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


# ------------------------------------------------------------------------------------------------------------ inspect


@dataclass(frozen=True)
class InspectionRow:
    """One line of the summary: what was found, or why the image could not be read."""

    path: str
    score: float | None
    verdict: str
    regions: int
    flawed_pixels: int
    error: str | None = None


def inspect(
    model: Path,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    threshold: float | None = None,
    residuals: bool = False,
    overlays: bool = True,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "torch",
    done: Done = _silent,
) -> tuple[InspectionRow, ...]:
    """Inspect files, folders and globs with a model, and write what was found.

    For each image, under its path relative to what was given: `NAME_mask.png`, `NAME_overlay.png` and, if asked for,
    `NAME_residual.tif` (float32, opened). For all: `inspections.jsonl` and `regions.csv`. An unreadable image is
    listed, and the run goes on. An image of more than `huge.WHOLE_PIXELS` pixels is inspected by bands of rows: its
    mask is a TIFF, too, `NAME_mask.tif`, and its overlay is scaled down.

    Args:
        threshold: instead of the model's own. engine: what runs the network: torch, onnxruntime or openvino.
    Raises:
        InputError, ConfigError, ArtifactError: before any image is looked at, or a disk that filled up meanwhile.
    """
    detector = Detector.load(model, device=device, precision=precision, engine=engine)
    _check_threshold(model, detector.artifact.threshold if threshold is None else threshold)
    found = _not_in(out, find_images(inputs))
    _usable(out, _bytes_needed(found, residuals=residuals, overlays=overlays))
    names = _output_names(found)

    cores = torch.get_num_threads()

    def look(image: FoundImage) -> Findings | InputError:
        target = out / names[image]
        try:
            header = image_header(image.path)
            with turn(header.pixels, cores):
                inspected = inspect_bands if by_bands(header, detector.config.images) else _inspect_whole
                return inspected(
                    detector, image.path, target, threshold=threshold, residuals=residuals, overlays=overlays
                )
        except OutputError:
            raise
        except InputError as error:
            return error

    rows: list[InspectionRow] = []
    with InspectionLog(out) as records, closing(side_by_side(look, found)) as results:
        for number, (image, result) in enumerate(zip(found, results, strict=True)):
            if isinstance(result, InputError):
                records.fail(str(image.path), str(result))
                rows.append(InspectionRow(str(image.path), None, "unreadable", 0, 0, str(result)))
            else:
                records.add(result)
                rows.append(_summary_row(result))
            done(number + 1, len(found), str(image.path))
    return tuple(rows)


def _inspect_whole(
    detector: Detector, path: Path, target: Path, *, threshold: float | None, residuals: bool, overlays: bool
) -> Findings:
    """Inspect an image file in one piece, and write its pictures."""
    loaded = detector.read(path)
    explained = detector.explain(loaded.pixels, path=path)
    inspection = detector.judge(explained, path=path, notes=loaded.notes, threshold=threshold)
    _write_pictures(target, inspection, loaded.pixels, residuals=residuals, overlays=overlays)
    return inspection.findings


def _check_threshold(model: Path, threshold: float | None) -> None:
    if threshold is None:
        raise ConfigError(
            f"{model} has no threshold, since no good images were held out when it was trained; give one with "
            "--threshold, or train with --validation 0.1"
        )
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold must be a finite number, got {threshold}")


def _not_in(out: Path, found: Sequence[FoundImage]) -> list[FoundImage]:
    """The images without those in the output folder, so that a second run does not inspect the masks of the first."""
    own = out.resolve()
    kept = [image for image in found if not image.path.resolve().is_relative_to(own)]
    if not kept:
        raise InputError(f"all images found lie in the output folder {out} itself; name another one with -o")
    foreign = [image.path for image in set(found).difference(kept) if not image.path.stem.endswith(OUTPUTS)]
    if foreign:
        log.warning(
            "%d images in the output folder %s are passed over, %s for one; to inspect them name another one with -o",
            len(foreign),
            out,
            min(foreign),
        )
    return kept


def _bytes_needed(found: Iterable[FoundImage], *, residuals: bool, overlays: bool) -> int:
    """About what an inspection writes; unreadable images need nothing."""
    pixels = 0
    for image in found:
        with suppress(InputError):
            header = image_header(image.path)
            pixels += header.width * header.height
    return pixels * (PICTURE_BYTES * overlays + RESIDUAL_BYTES * residuals + 1)


def _output_names(found: Iterable[FoundImage]) -> dict[FoundImage, Path]:
    """Each image's relative path without its suffix; with it where two images would share a name."""
    images = list(found)
    shared = Counter(image.relative.with_suffix("") for image in images)
    return {
        image: image.relative.with_suffix("") if shared[image.relative.with_suffix("")] == 1 else image.relative
        for image in images
    }


def _write_pictures(
    target: Path, inspection: Inspection, pixels: NDArray[np.float32], *, residuals: bool, overlays: bool
) -> None:
    folder = writable_folder(target.parent)
    write_image(folder / f"{target.name}_mask.png", inspection.mask)
    if overlays:
        write_image(folder / f"{target.name}_overlay.png", overlay(pixels, inspection.mask))
    if residuals:
        write_image(folder / f"{target.name}_residual.tif", inspection.residual)


def _summary_row(findings: Findings) -> InspectionRow:
    return InspectionRow(
        str(findings.path), findings.score, findings.verdict, len(findings.regions), findings.flawed_pixels
    )


# ----------------------------------------------------------------------------------------------------------- evaluate


def evaluate_model(
    model: Path,
    path: Path,
    out: Path,
    *,
    last: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "torch",
    done: Done = _silent,
) -> Evaluation:
    """Measure a model on a labelled set: `metrics.json`, `roc.png`, and `index.html` with its best and worst cases.

    Args:
        last: count the last N good training images by name as good test images; refused if the model saw one.
        engine: what runs the network: torch, onnxruntime or openvino.
    """
    artifact = load_artifact(model)
    detector = Detector.of(artifact, device=device, precision=precision, engine=engine)
    dataset = find_dataset(path)
    root = dataset.root.parent if dataset.root.is_file() else dataset.root  # paths in a manifest are relative to it
    _usable(out, PAGE_BYTES)
    split = Split.from_dict(artifact.provenance["data"]["split"])
    samples = unseen_samples(dataset, split, last)
    total, seen = len(samples), 0

    def count(sample: Any) -> None:
        nonlocal seen
        seen += 1
        done(seen, total, str(sample.path))

    evaluation = evaluate(detector, samples, held_out_areas(dataset, split), root=root, observe=count)
    about = {
        "schema": SCHEMA,
        "model": model_card(model, artifact),
        "dataset": {
            "name": dataset.root.resolve().name,
            "layout": dataset.layout,
            "images": dict(Counter(row["label"] for row in evaluation.per_image)),
            "scale": artifact.config.images.scale,
            "region": artifact.config.images.region.model_dump(mode="json", exclude_none=True),
            "measured_in": "the images' own pixels",
        },
        "precision": str(detector.precision).removeprefix("torch."),
        "engine": detector.engine,
    }
    write_json(out / "metrics.json", about | evaluation.to_dict())
    if evaluation.curve is not None:
        roc_figure({artifact.config.loss.name: evaluation.curve}, out / "roc.png")
    else:
        (out / "roc.png").unlink(missing_ok=True)  # an earlier evaluation's
    page = evaluation_page(detector, evaluation, samples, about=about, root=root, roc=out / "roc.png")
    write_page(page, out / "index.html")
    return evaluation


def model_card(model: Path, artifact: Artifact) -> dict[str, Any]:
    """What a reader of figures needs to know of the model that made them."""
    settings = artifact.config
    return {
        "file": model.name,
        "version": version_hash(model),
        "method": settings.loss.name,
        "residual": settings.residual.model_dump(mode="json"),
        "latent": settings.model.latent,
        "patch": settings.model.patch,
        "stride": settings.tiling.stride,
        "opening": settings.threshold.opening,
        "threshold": artifact.threshold,
        "training": artifact.provenance["training"],
        "features": artifact.provenance.get("features"),
        "seed": settings.training.seed,
        "split_sha256": artifact.provenance["data"]["split_sha256"],
    }


# --------------------------------------------------------------------------------------------------------------- info


def info(model: Path) -> dict[str, Any]:
    """The header of a model file, and the hash that names this version of it."""
    header = read_header(model)
    return {"file": str(model), "version": version_hash(model), **header}

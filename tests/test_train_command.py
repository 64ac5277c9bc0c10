"""`flawmap train`, called from Python: what it leaves, how it goes on, and which images it takes."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

import flawmap
from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.events import Events
from flawmap.data.synthetic import good_images
from flawmap.imaging.reading import read_image, read_mask
from flawmap.imaging.writing import write_image
from flawmap.methods import gradient
from flawmap.methods.config import Config
from flawmap.methods.interface import Progress
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.model_file import load_artifact

TINY: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 5, "batch": 4, "device": "cpu", "precision": "float32"},
}


class Heard(Events):
    """Events that are kept, or handed to functions."""

    def __init__(
        self,
        said: list[str] | None = None,
        on_row: Callable[[Progress], None] = lambda progress: None,
        on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    ) -> None:
        self.said, self.on_row, self.on_progress = [] if said is None else said, on_row, on_progress

    def message(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: int, total: int, what: str) -> None:
        self.on_progress(done, total, what)

    def training(self, progress: Progress, name: str = "training") -> None:
        self.on_row(progress)


def config(**changes: Any) -> Config:
    return override(override(preset("fast"), TINY), changes)


def cloth(count: int, size: tuple[int, int] = (96, 80), seed: int = 0) -> list[NDArray[np.uint8]]:
    """(H, W) images of cloth."""
    return [np.rint(image[:, :, 0] * 255).astype(np.uint8) for image in good_images("cloth", count, size, seed)]


def put(folder: Path, images: list[NDArray[Any]]) -> Path:
    """A folder of images: PNG, or TIFF for 16 bit and floating point."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        if image.dtype == np.uint8:
            write_image(folder / f"{number:03d}.png", image)
        else:
            tifffile.imwrite(folder / f"{number:03d}.tif", image)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer validation patches and no picture of the loss, which cost more than the trainings here."""
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    monkeypatch.setattr("flawmap.commands.train.loss_figure", lambda *_: None)
    monkeypatch.setattr(gradient, "ROW_STEPS", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("jobs") / "good", cloth(8))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    path = folder.parent / "model.flawmap"
    flawmap.train(folder, path, config())
    return path


# ----------------------------------------------------------------------------------------------------------- training


def test_what_a_training_leaves(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, its history beside it, and no checkpoint; the report says what the file says."""
    monkeypatch.undo()
    report = flawmap.train(folder, tmp_path / "new" / "m.flawmap", config())
    names = ["m.flawmap", "m.history.csv", "m.history.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    stored = load_artifact(report.model)
    assert stored.header() == report.artifact.header()
    with (tmp_path / "new" / "m.history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "validation", "rate", "seconds"]
    assert [float(row["loss"]) for row in rows] == [row.loss for row in report.history]
    assert rows[-1]["step"] == "5"
    assert float(rows[-1]["validation"]) == stored.provenance["training"]["validation_loss"]


def test_provenance(folder: Path, model: Path) -> None:
    """A model names its data by number, size and digest, but no folder; and its seed, steps, versions and duration."""
    artifact = load_artifact(model)
    made = artifact.provenance
    assert made["data"]["layout"] == "plain"
    assert made["data"]["sizes"] == {"96x80": made["data"]["images"]}
    assert len(made["data"]["split_sha256"]) == 64
    assert made["training"]["steps"] == 5
    assert made["training"]["patches"] == 20
    assert set(made["versions"]) == {"flawmap", "torch", "numpy", "python"}
    assert artifact.config.training.seed == 0
    assert str(folder.parent) not in json.dumps(artifact.header())


def test_threshold_comes_from_images_never_trained_on(folder: Path, tmp_path: Path) -> None:
    """For every seed of the split the images that validate are none of those trained on, and all of them count."""
    for seed in range(3):
        report = flawmap.train(folder, tmp_path / "m.flawmap", config(split={"seed": seed, "validation": 0.3}))
        split = report.artifact.provenance["data"]["split"]
        parts = [{area["sha256"] for area in split[role]} for role in ("train", "validation", "test")]
        assert sum(len(part) for part in parts) == len(set.union(*parts)) == 8
        assert report.artifact.calibration["good_areas"] == len(parts[1]) >= 1
        assert report.artifact.threshold is not None


def test_same_seed_same_model(folder: Path, model: Path, tmp_path: Path) -> None:
    """The same seed, steps and machine give the same weights and threshold; another seed gives others."""
    again = flawmap.train(folder, tmp_path / "a.flawmap", config()).artifact
    first = load_artifact(model)
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert first.threshold == again.threshold
    other = flawmap.train(folder, tmp_path / "b.flawmap", config(training={"seed": 1})).artifact
    assert not all(torch.equal(first.weights[name], other.weights[name]) for name in first.weights)


def test_resume_equals_never_stopped(folder: Path, tmp_path: Path) -> None:
    """An interrupted training leaves a checkpoint, is not begun anew by accident, and resumes to the same weights."""
    settings = config(training={"steps": 10, "checkpoint_minutes": 1e-9})
    whole = flawmap.train(folder, tmp_path / "whole.flawmap", settings)
    stopped = tmp_path / "stopped.flawmap"

    def stop(progress: Progress) -> None:
        if progress.row.step == 5:
            raise KeyboardInterrupt

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        flawmap.train(folder, stopped, settings, events=Heard(said, on_row=stop))
    checkpoint = tmp_path / "stopped.checkpoint"
    assert said[-1] == f"{checkpoint} holds the training so far; go on with --resume"
    assert checkpoint.is_file()
    assert not stopped.exists()
    with pytest.raises(InputError) as error:
        flawmap.train(folder, stopped, settings)
    assert str(error.value) == (
        f"{checkpoint} was left by an unfinished training; go on with --resume, or remove it to start anew"
    )
    seen: list[int] = []
    resumed = flawmap.train(
        folder, stopped, settings, resume=True, events=Heard(on_row=lambda p: seen.append(p.row.step))
    )
    assert seen == [10], "five steps were saved"
    assert not checkpoint.exists()
    assert [row.loss for row in resumed.history] == [row.loss for row in whole.history]
    assert all(torch.equal(whole.artifact.weights[n], resumed.artifact.weights[n]) for n in whole.artifact.weights)
    assert resumed.artifact.threshold == whole.artifact.threshold


@pytest.mark.parametrize("changes", [{}, {"augment": "turns", "pool": 20, "epochs": 2}, {"corrupt": 0.5}], ids=str)
def test_from_disk_as_from_memory(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Without memory for images weights, losses and threshold are the same, and nothing of the file stays."""
    said: list[str] = []
    memory, disk = (
        flawmap.train(
            folder,
            tmp_path / f"{gigabytes}.flawmap",
            config(training={"memory_gb": gigabytes, **changes}, images={"scale": 1.1}),
            events=Heard(said),
        )
        for gigabytes in (1.0, 0.0)
    )
    first, second = memory.artifact, disk.artifact
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert [(row.loss, row.validation) for row in memory.history] == [
        (row.loss, row.validation) for row in disk.history
    ]
    assert first.threshold == second.threshold
    assert first.provenance["data"] == second.provenance["data"]
    assert sum(str(tmp_path / "0.0.patches") in sentence for sentence in said) == 2, "to validate, and to train on"
    assert not list(tmp_path.glob("*.patches"))


def test_resume_from_disk_what_began_in_memory(folder: Path, tmp_path: Path) -> None:
    """A checkpoint does not ask for memory: a training goes on from disk, and back in memory, to the same weights."""
    settings = config(training={"steps": 15, "checkpoint_minutes": 1e-9})
    whole = flawmap.train(folder, tmp_path / "whole.flawmap", settings)
    stopped, patches = tmp_path / "stopped.flawmap", tmp_path / "stopped.patches"
    seen: list[tuple[int, bool]] = []

    def watch(progress: Progress) -> None:
        seen.append((progress.row.step, patches.exists()))
        if len(seen) < 3:
            raise KeyboardInterrupt

    for gigabytes in (1.0, 0.0):
        with pytest.raises(KeyboardInterrupt):
            flawmap.train(
                folder,
                stopped,
                override(settings, {"training": {"memory_gb": gigabytes}}),
                resume=(tmp_path / "stopped.checkpoint").exists(),
                events=Heard(on_row=watch),
            )
        assert not patches.exists(), "it is of no use without the run"
    resumed = flawmap.train(folder, stopped, settings, resume=True, events=Heard(on_row=watch))
    assert seen == [(5, False), (10, True), (15, False)]
    assert [row.loss for row in resumed.history] == [row.loss for row in whole.history]
    assert all(torch.equal(whole.artifact.weights[n], resumed.artifact.weights[n]) for n in whole.artifact.weights)


def test_half_of_what_is_free(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless told otherwise images may take half of the memory that the machine has free."""
    said: list[str] = []
    for free in (2 * 4 * 6 * 96 * 80, 2 * 4 * 6 * 96 * 80 - 2):
        monkeypatch.setattr("flawmap.commands.train.free_memory", lambda free=free: free)
        flawmap.train(folder, tmp_path / "m.flawmap", config(), events=Heard(said))
    assert [str(tmp_path / "m.patches") in sentence for sentence in said] == [False, False, True]


def test_an_interruption_saves_at_once(folder: Path, tmp_path: Path) -> None:
    """Long before the first checkpoint is due, Ctrl-C leaves one, and the training ends as if it had never stopped."""

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    said: list[str] = []
    settings = config(training={"steps": 10, "checkpoint_minutes": 60.0})
    with pytest.raises(KeyboardInterrupt):
        flawmap.train(folder, tmp_path / "m.flawmap", settings, events=Heard(said, on_row=stop))
    assert said[-1] == f"{tmp_path / 'm.checkpoint'} holds the training so far; go on with --resume"
    assert [path.name for path in tmp_path.iterdir()] == ["m.checkpoint"]
    resumed = flawmap.train(folder, tmp_path / "m.flawmap", settings, resume=True)
    whole = flawmap.train(folder, tmp_path / "whole.flawmap", settings)
    assert [row.loss for row in resumed.history] == [row.loss for row in whole.history]


def test_resume_without_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    """`resume` where there is nothing to resume begins anew, and says so."""
    said: list[str] = []
    flawmap.train(folder, tmp_path / "m.flawmap", config(), resume=True, events=Heard(said))
    assert said[0] == f"there is no checkpoint {tmp_path / 'm.checkpoint'}: the training starts anew"


def test_resume_with_other_settings(folder: Path, tmp_path: Path) -> None:
    """A checkpoint of other settings is refused, with what changed."""
    settings = config(training={"steps": 10, "checkpoint_minutes": 1e-9})

    def stop(progress: Progress) -> None:
        if progress.row.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flawmap.train(folder, tmp_path / "m.flawmap", settings, events=Heard(on_row=stop))
    with pytest.raises(ConfigError, match=r"other settings: method\.latent was 8, is 9; resume with the same ones"):
        flawmap.train(folder, tmp_path / "m.flawmap", override(settings, {"method": {"latent": 9}}), resume=True)


def test_files_beside_a_model(folder: Path, tmp_path: Path) -> None:
    """Models of two versions do not share a history: only `.flawmap` is cut off a name."""
    for name in ("v0.1", "v0.2", "v1.flawmap"):
        flawmap.train(folder, tmp_path / name, config())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"v0.1", "v0.1.history.csv", "v0.2", "v0.2.history.csv", "v1.flawmap", "v1.history.csv"}


def test_without_validation(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without held-out images a model has no threshold: training says so, and inspecting says what to do."""
    caplog.set_level(logging.WARNING, logger="flawmap")
    path = tmp_path / "m.flawmap"
    report = flawmap.train(folder, path, config(split={"validation": 0.0}))
    assert report.artifact.threshold is None
    assert report.artifact.calibration == {}
    assert "no good images were held out (validation = 0): the model has no threshold" in caplog.messages
    with pytest.raises(ConfigError) as error:
        flawmap.inspect(path, [folder], tmp_path / "out")
    assert str(error.value) == (
        f"{path} has no threshold, since no good images were held out when it was trained; give one with --threshold, "
        "or train with --set split.validation=0.1"
    )
    assert not (tmp_path / "out").exists(), "found before the work starts"
    assert len(flawmap.inspect(path, [folder], tmp_path / "out", outputs=InspectionOutputs(0.5))) == 8


def test_held_out_by_name(folder: Path, tmp_path: Path) -> None:
    """`last` holds the last images by name out of training, and no others."""
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(split={"last": 2}))
    split = report.artifact.provenance["data"]["split"]
    assert [area["file"] for area in split["test"]] == ["006.png", "007.png"]
    assert len(split["train"]) + len(split["validation"]) == 6


def test_few_images_are_parted_by_areas(tmp_path: Path) -> None:
    """Of five or fewer images areas are held out; the threshold comes from these."""
    report = flawmap.train(put(tmp_path / "good", cloth(2, (128, 96))), tmp_path / "m.flawmap", config())
    split = report.artifact.provenance["data"]["split"]
    assert all(area["box"] is not None for role in split.values() for area in role)
    assert report.artifact.calibration["good_areas"] == 2
    assert report.artifact.calibration["good_pixels"] == 2 * 32 * 48


# ----------------------------------------------------------------------------------------------------- kinds of image


def test_colour(tmp_path: Path) -> None:
    """A colour data set makes a model of three channels that inspects colour images."""
    grey = cloth(7, (64, 64))
    images = [np.stack([image, image // 2, 255 - image], axis=2) for image in grey]
    folder = put(tmp_path / "good", images)
    report = flawmap.train(folder, tmp_path / "m.flawmap", config())
    assert report.artifact.config.model.channels == 3
    (row,) = flawmap.inspect(report.model, [folder / "000.png"], tmp_path / "out")
    assert row.error is None
    assert read_image(tmp_path / "out" / "000_overlay.png", report.artifact.config.images).pixels.shape == (64, 64, 3)


def test_sixteen_bits(tmp_path: Path) -> None:
    """16-bit images train and inspect, and the model file says how they were scaled."""
    folder = put(tmp_path / "good", [image.astype(np.uint16) * 257 for image in cloth(7, (64, 64))])
    report = flawmap.train(folder, tmp_path / "m.flawmap", config())
    data = report.artifact.provenance["data"]
    assert data["notes"] == {"16-bit divided by 65535": data["images"]}
    (row,) = flawmap.inspect(report.model, [folder / "000.tif"], tmp_path / "out")
    assert row.error is None
    assert lines(tmp_path / "out" / "inspections.jsonl")[0]["notes"] == ["16-bit divided by 65535"]


def test_colour_as_grey(tmp_path: Path) -> None:
    """With mode grey a folder of grey and colour images trains one grey model, which then takes both."""
    images: list[NDArray[Any]] = list(cloth(7, (64, 64)))
    images[2] = np.stack([images[2]] * 3, axis=2)
    folder = put(tmp_path / "good", images)
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(images={"mode": "grey"}))
    assert report.artifact.config.model.channels == 1
    rows = flawmap.inspect(report.model, [folder], tmp_path / "out")
    assert [row.error for row in rows] == [None] * 7


def test_mixed_sizes(tmp_path: Path) -> None:
    """Images of several sizes train one model, and each mask has its own image's size."""
    folder = put(tmp_path / "good", cloth(4, (64, 64)) + cloth(4, (96, 48), seed=1))
    report = flawmap.train(folder, tmp_path / "m.flawmap", config())
    assert set(report.artifact.provenance["data"]["sizes"]) == {"64x64", "96x48"}
    flawmap.inspect(report.model, [folder], tmp_path / "out")
    for image in folder.iterdir():
        own = read_image(image, report.artifact.config.images).pixels.shape[:2]
        assert read_mask(tmp_path / "out" / f"{image.stem}_mask.png").shape == own


@pytest.mark.parametrize("scale", [0.5, (64, 40)])
def test_scale(folder: Path, tmp_path: Path, scale: float | tuple[int, int]) -> None:
    """Images worked at another size are inspected in their own pixels, and the model file says the worked size."""
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(images={"scale": scale}))
    assert set(report.artifact.provenance["data"]["sizes"]) == {"48x40" if scale == 0.5 else "64x40"}
    flawmap.inspect(
        report.model, [folder / "000.png"], tmp_path / "out", outputs=InspectionOutputs(0.1, residuals=True)
    )
    assert read_mask(tmp_path / "out" / "000_mask.png").shape == (80, 96)
    assert tifffile.imread(tmp_path / "out" / "000_residual.tif").shape == (80, 96)
    (record,) = lines(tmp_path / "out" / "inspections.jsonl")
    assert (record["width"], record["height"]) == (96, 80)


def test_pad(tmp_path: Path) -> None:
    """With `pad` an image smaller than a patch is inspected at its own size; without it, it is listed."""
    folder = put(tmp_path / "good", cloth(7, (64, 64)))
    small = put(tmp_path / "small", cloth(1, (40, 32), seed=2))
    write_image(small / "000.png", cloth(1, (40, 32), seed=2)[0][:24, :30])
    for pad in (True, False):
        report = flawmap.train(folder, tmp_path / f"{pad}.flawmap", config(tiling={"pad": pad}))
        (row,) = flawmap.inspect(report.model, [small], tmp_path / f"out {pad}")
        if pad:
            assert row.error is None
            assert read_mask(tmp_path / "out True" / "000_mask.png").shape == (24, 30)
        else:
            assert row.verdict == "unreadable"
            assert row.error == (
                "image must be at least one patch large, 32x32 pixels, got 30x24; use larger images, a smaller patch, "
                "a larger scale, or pad (--set tiling.pad=true)"
            )


def regions_of_interest(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any], NDArray[np.bool_]]]:
    """Name, setting, and the pixels inside, for images of 96 x 80 whose left third is dark."""
    inside = np.zeros((80, 96), np.bool_)
    inside[:, 40:] = True
    yield "box", {"box": (40, 0, 96, 80)}, inside
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(8):
        write_image(masks / f"{number:03d}.png", inside)
    yield "masks", {"masks": masks}, inside
    yield "brightness", {"brightness": (0.2, 1.0)}, inside


def test_region_of_interest(tmp_path: Path) -> None:
    """By box, by masks and by brightness: nothing outside the region is trained on or found."""
    images = cloth(8)
    for image in images:
        image[:, :32] = 0
    folder = put(tmp_path / "good", images)
    for name, region, inside in regions_of_interest(tmp_path):
        report = flawmap.train(folder, tmp_path / f"{name}.flawmap", config(images={"roi": region}))
        out = tmp_path / f"out {name}"
        masks = region.get("masks")
        flawmap.inspect(
            report.model,
            [folder / "000.png"],
            out,
            outputs=InspectionOutputs(1e-6, residuals=True),
            roi_masks=None if masks is None else Path(str(masks)),
        )
        mask, residual = read_mask(out / "000_mask.png"), tifffile.imread(out / "000_residual.tif")
        assert mask.any(), name
        assert not residual[~mask].any(), name
        if name == "brightness":  # the mean over 31 pixels blurs the edge of the dark part
            assert not mask[:, :16].any()
            assert mask[:, 48:].mean() > 0.5
        else:
            assert not mask[~inside].any()
        calibration = report.artifact.calibration
        assert calibration["good_pixels"] < 80 * 96 * calibration["good_areas"]


# ------------------------------------------------------------------------------------------------- unreadable, extras


@pytest.mark.parametrize("count", [4, 8])
def test_skip_unreadable(tmp_path: Path, count: int) -> None:
    """Unreadable files are left out wherever the split would have put them, also where areas are cut; and are named."""
    folder = put(tmp_path / "good", cloth(count, (128, 96)))
    for number in range(6):  # so many that training, validation and test would all get some
        (folder / f"bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]))
    whole = (folder / "000.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"it may be truncated or damaged: .*; remove it, or leave such files out"):
        flawmap.train(folder, tmp_path / "m.flawmap", config())
    said: list[str] = []
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(), skip_unreadable=True, events=Heard(said))
    names = [*(f"bad{number}.png" for number in range(6)), "truncated.png"]
    assert [path.name for path, _ in report.skipped] == names
    assert [sentence.split(":")[0] for sentence in said[:7]] == [f"left out {folder / name}" for name in names]
    assert report.artifact.provenance["data"]["skipped"] == 7
    split = report.artifact.provenance["data"]["split"]
    assert not {area["file"] for role in split.values() for area in role} & set(names)


def test_skip_outliers(tmp_path: Path) -> None:
    """A black and a white frame are named; with `skip_outliers` they are not trained on."""
    dead = [np.zeros((80, 96), np.uint8), np.full((80, 96), 255, np.uint8)]
    folder = put(tmp_path / "good", [*cloth(8), *dead])
    said: list[str] = []
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(), events=Heard(said))
    assert report.skipped == ()
    assert said[0].startswith("2 of 10 images are unlike the others: ")
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(), skip_outliers=True)
    assert [path.name for path, _ in report.skipped] == ["008.png", "009.png"]
    assert report.artifact.provenance["data"]["skipped"] == 2


def test_nothing_readable(tmp_path: Path) -> None:
    """With every file unreadable there is an error that says why, also with `skip_unreadable`."""
    folder = put(tmp_path / "good", [])
    (folder / "a.png").write_text("no image")
    with pytest.raises(InputError) as error:
        flawmap.train(folder, tmp_path / "m.flawmap", config(), skip_unreadable=True)
    said = f"none of 1 images is left to train on: {folder / 'a.png'} is no known image, whatever its name says; "
    assert str(error.value).startswith(said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own
def test_tensorboard(folder: Path, tmp_path: Path) -> None:
    """With a folder for TensorBoard the history is also written as its events, and stays a CSV file."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = flawmap.train(folder, tmp_path / "m.flawmap", config(), tensorboard=tmp_path / "events")
    assert (tmp_path / "m.history.csv").is_file()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "validation", "rate", "seconds", "patches_per_second"}
    assert [event.step for event in events.Scalars("loss")] == [row.step for row in report.history]
    assert events.Scalars("loss")[-1].value == pytest.approx(report.history[-1].loss)


def test_tensorboard_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says how to install it, before anything is trained."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError) as error:
        flawmap.train(folder, tmp_path / "m.flawmap", config(), tensorboard=tmp_path / "events")
    assert str(error.value) == (
        "--tensorboard needs a package that is not installed; pip install 'flawmap[tensorboard]'"
    )
    assert list(tmp_path.iterdir()) == []

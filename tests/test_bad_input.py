"""Bad input, as a user meets it: the exact message on stderr, the exit code, and nothing left behind.

Every test runs in a folder of its own, so that the messages hold short paths.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tifffile
import torch
from numpy.typing import NDArray

from flawmap.commands.cli import main
from flawmap.imaging.formats import IMAGE_SUFFIXES
from flawmap.imaging.writing import write_image
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.methods.table import METHODS
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

Run = Callable[..., tuple[int, str]]

RNG = np.random.default_rng(3)
TINY = (
    "--preset",
    "fast",
    "--set",
    "model.patch=32",
    "--set",
    "method.latent=8",
    "--set",
    "tiling.stride=16",
    "--set",
    "training.batch=4",
    "--steps",
    2,
    "--set",
    "training.precision=float32",
)
NAMES = f"images end in {', '.join(IMAGE_SUFFIXES)}"
NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the test's own; and no picture of the loss, which costs more than the trainings here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flawmap.commands.train.loss_figure", lambda *_: None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line: the exit code and the last line on stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return call


def picture(height: int = 64, width: int = 64, channels: int = 1) -> NDArray[np.uint8]:
    image = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return image[:, :, 0] if channels == 1 else image


def put(path: str, image: NDArray[Any] | bytes | None = None) -> Path:
    """A file: an array as an image, or bytes as they are."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        file.write_bytes(image)
    else:
        write_image(file, picture() if image is None else image)
    return file


def good(count: int = 7, **kind: int) -> None:
    for number in range(count):
        put(f"good/{number}.png", picture(**kind))


def a_model(path: str = "m.flawmap", *, threshold: float | None = 0.5, **changes: Any) -> Path:
    """A model with random weights: what it finds does not matter here."""
    tiny = {"model": {"patch": 32, "channels": 1}, "method": {"latent": 8}, "tiling": {"stride": 16}}
    config = override(override(preset("fast"), tiny), changes)
    torch.manual_seed(0)
    points = {} if threshold is None else {DEFAULT: OperatingPoint(threshold=threshold)}
    save_artifact(Artifact(config, build_network(config).state_dict(), points), Path(path))
    return Path(path)


def left() -> set[str]:
    """Everything in the folder, hidden files too."""
    return {path.as_posix() for path in Path().rglob("*") if path.name not in (".run.json", ".lock")}


# --------------------------------------------------------------------------------------------------- images to work on


@pytest.mark.parametrize("command", [["train"], ["data"], ["inspect", "m.flawmap"], ["evaluate", "m.flawmap"]])
def test_no_such_folder(run: Run, command: list[str]) -> None:
    """A folder that is not there is named."""
    a_model()
    what = "file or folder" if command[0] == "inspect" else "folder"
    assert run(*command, "nowhere") == (2, f"error: no such {what}: nowhere")
    assert left() == {"m.flawmap"}, "nothing is made before it is known that there is something to do"


@pytest.mark.parametrize("command", [["train"], ["data"], ["inspect", "m.flawmap"], ["evaluate", "m.flawmap"]])
def test_empty_folder(run: Run, command: list[str]) -> None:
    """An empty folder is said to be empty."""
    a_model()
    Path("empty").mkdir()
    assert run(*command, "empty") == (2, "error: the folder empty is empty")


@pytest.mark.parametrize("command", [["train"], ["data"], ["inspect", "m.flawmap"], ["evaluate", "m.flawmap"]])
def test_no_images(run: Run, command: list[str]) -> None:
    """A folder without an image names what it holds instead, and what an image is called."""
    a_model()
    put("texts/notes.txt", b"no image")
    assert run(*command, "texts") == (2, f"error: no image in the folder texts, only notes.txt; {NAMES}")


def test_no_match(run: Run) -> None:
    """A pattern that matches nothing is named."""
    a_model()
    assert run("inspect", "m.flawmap", "*.png") == (2, "error: nothing matches the pattern *.png")


def test_a_file_for_a_data_set(run: Run) -> None:
    """A file where a data set is needed is an error that says what a data set is."""
    put("a.png")
    assert run("train", "a.png") == (
        2,
        "error: a.png is a file; a data set is a folder of images, a CSV manifest or COCO annotations",
    )


def a_bad_image(kind: str) -> Path:
    """An image that cannot be used, among the good ones."""
    if kind in ("foreign", "empty"):
        return put("good/a.png", b"no image" if kind == "foreign" else b"")
    if kind == "truncated":
        whole = put("good/a.png").read_bytes()
        return put("good/a.png", whole[: len(whole) // 2])
    if kind == "large":
        return put("good/a.png", picture(64, 65))
    values = np.full((64, 64), np.nan if kind == "not finite" else 1000, np.float32)
    tifffile.imwrite("good/a.tif", values)
    return Path("good/a.tif")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("foreign", "is no known image, whatever its name says"),
        ("empty", "is empty (0 bytes)"),
        ("truncated", "cannot be read as PNG, it may be truncated or damaged"),
        ("large", "has 65 x 64 = 4,160 pixels, the limit is 4,096"),
        ("not finite", "must be finite, got 4096 NaN or infinite values of 4096"),
        ("too bright", "must hold values from 0 to 1, got 4,096 of 4,096 outside"),
    ],
)
def test_an_image_that_cannot_be_read(run: Run, capsys: pytest.CaptureFixture[str], kind: str, reason: str) -> None:
    """It stops a training before it begins, is left out if that is asked for, and is listed by an inspection."""
    good()
    bad = a_bad_image(kind)
    training = ("train", "good", *TINY, "--set", "images.pixel_limit=4096", "-o", "new.flawmap")
    code, message = run(*training)
    assert code == 2
    assert message.startswith(f"error: {bad} {reason}")
    assert message.endswith("; remove it, or leave such files out with --skip-unreadable")
    assert not [name for name in left() if name.startswith("new")]
    assert run(*training, "--skip-unreadable")[0] == 0
    a_model(images={"pixel_limit": 4096})
    assert main(["inspect", "m.flawmap", "good", "-o", "out"]) == 4
    assert f"{bad} {reason}" in capsys.readouterr().out
    assert len(Path("out/inspections.jsonl").read_text().splitlines()) == 8


def test_inspection_goes_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Truncated, foreign, empty and small images among others are listed with the reason, and the rest is done."""
    a_model()
    whole = put("in/a.png").read_bytes()
    put("in/b.png", whole[: len(whole) // 2])
    put("in/c.png", b"no image")
    put("in/d.png", b"")
    put("in/e.png", picture(20, 31))
    put("in/f.png")
    assert main(["inspect", "m.flawmap", "in", "-o", "out", "--json"]) == 4
    rows = json.loads(capsys.readouterr().out)["images"]
    errors = {Path(row["path"]).name: row["error"] for row in rows}
    assert errors["a.png"] is errors["f.png"] is None
    assert errors["b.png"].startswith(f"{Path('in/b.png')} cannot be read as PNG, it may be truncated or damaged: ")
    assert errors["c.png"].startswith(f"{Path('in/c.png')} is no known image, whatever its name says; convert it to ")
    assert errors["d.png"] == f"{Path('in/d.png')} is empty (0 bytes)"
    assert errors["e.png"] == (
        "image must be at least one patch large, 32x32 pixels, got 31x20; use larger images, a smaller patch, a "
        "larger scale, or pad (--set tiling.pad=true)"
    )
    assert {path for path in left() if path.startswith("out/")} == {
        "out/inspections.jsonl",
        "out/regions.csv",
        "out/report.html",
        *(f"out/{name}_{kind}.png" for name in "af" for kind in ("mask", "overlay")),
    }


def test_images_smaller_than_a_patch(run: Run) -> None:
    """Images without room for a patch are named and left out; if no other is there, the error says what to do."""
    put("good/big.png", picture(64, 31))
    said = "images are smaller than a patch (32 x 32) and are left out"
    assert run("train", "good", *TINY, "--set", "split.validation=0", "--set", "split.last=0") == (
        2,
        f"error: no image is left to train on: 1 of 1 {said}: {Path('good/big.png')} (31 x 64); --set tiling.pad=true "
        "trains on them with reflected borders; or take a smaller patch",
    )
    good()
    assert run("train", "good", *TINY, "--set", "split.validation=0", "--set", "split.last=0")[0] == 0
    assert (
        run("train", "good", *TINY, "--set", "tiling.pad=true", "--set", "split.validation=0", "--set", "split.last=0")[
            0
        ]
        == 0
    )


def test_too_few_pixels_to_hold_out(run: Run) -> None:
    """Few images that have no area to spare are an error that names what is needed."""
    good(1, height=48, width=48)
    assert run("train", "good", *TINY) == (
        2,
        f"error: {Path('good/0.png')} has 48 x 48 usable pixels, too few to keep a strip for validation or test: "
        "96 x 32 are needed; give more than 5 good images, larger ones, a smaller patch, or keep none "
        "(--set split.validation=0 --set split.last=0)",
    )
    assert run("train", "good", *TINY, "--set", "split.validation=0", "--set", "split.last=0")[0] == 0


def test_mixed_modes(run: Run) -> None:
    """Grey and colour images in one folder are counted, and the error says how to make them alike."""
    good(5)
    for number in range(5):
        put(f"good/c{number}.png", picture(channels=3))
    assert run("train", "good", *TINY, "--set", "split.validation=0", "--set", "split.last=0") == (
        2,
        "error: the images are mixed: 5 in colour (c0.png, c1.png, c2.png, ...) and 5 grey (0.png, 1.png, 2.png, ...); "
        "make them alike with --mode grey or --mode colour",
    )
    assert run("train", "good", *TINY, "--mode", "colour")[0] == 0


def test_a_model_of_the_other_mode(capsys: pytest.CaptureFixture[str]) -> None:
    """A grey model given an image with colours: listed, with what to do. A colour model takes grey images."""
    a_model()
    put("a.png", picture(channels=3))
    assert main(["inspect", "m.flawmap", "a.png"]) == 4
    assert (
        "a.png: this model was trained on grey images, got a colour one; convert the image, or train with --mode grey "
        "so that every image is converted"
    ) in capsys.readouterr().out.splitlines()
    a_model(model={"channels": 3})
    put("a.png", picture(channels=1))
    assert main(["inspect", "m.flawmap", "a.png"]) == 0


def test_settings_of_the_other_mode(run: Run) -> None:
    """A configuration set to colour and grey images to train on contradict each other."""
    good()
    Path("c.toml").write_text("[model]\nchannels = 3\n")
    assert run("train", "good", "--config", "c.toml", *TINY) == (
        2,
        "error: the model is set to colour images (channels = 3), the training images are grey; convert them with "
        "--mode colour, or leave channels out",
    )


# -------------------------------------------------------------------------------------------------------------- masks


@pytest.fixture
def labelled() -> Path:
    """Defective images without a mask, with one of another size, and with one without a flaw; and whole ones."""
    good()
    Path("set/train").mkdir(parents=True)
    Path("good").rename("set/train/good")
    put("set/test/good/0.png")
    for kind in ("whole", "missing", "other", "empty"):
        put(f"set/test/{kind}/0.png")
    flaw = np.zeros((64, 64), np.bool_)
    flaw[20:30, 20:30] = True
    put("set/ground_truth/whole/0_mask.png", flaw)
    put("set/ground_truth/other/0_mask.png", flaw[:32])
    put("set/ground_truth/empty/0_mask.png", flaw & False)
    return Path("set")


def test_masks_in_data(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`data` lists missing masks, those of another size and those without a flaw, before anyone trains."""
    assert main(["data", str(labelled)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for heading, kind in (
        ("masks missing (1):", "missing"),
        ("masks without a flaw (1):", "empty"),
        ("masks of another size (1):", "other"),
    ):
        assert lines[lines.index(heading) + 1] == f"  {Path('set/test', kind, '0.png')}"


def test_masks_in_evaluate(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`evaluate` says of each which figures it counts for; one of another size counts for none, and the code is 4."""
    a_model()
    assert main(["evaluate", "m.flawmap", str(labelled), "-o", "out"]) == 4
    lines = capsys.readouterr().out.splitlines()
    place = Path("set/ground_truth")
    assert lines[-4:] == [
        f"{Path('test/other/0.png')}: the mask {place / 'other' / '0_mask.png'} is 64 x 32, its image 64 x 64; a mask "
        "has its image's size",
        f"{Path('test/empty/0.png')}: the mask {place / 'empty' / '0_mask.png'} shows no flaw: counts for image "
        "metrics alone",
        f"{Path('test/missing/0.png')}: defective, but without a mask: counts for image metrics alone",
        "4 images, 1 not counted; written to out",
    ]


# -------------------------------------------------------------------------------------------------- region of interest


def test_box_outside(run: Run) -> None:
    """A box that does not lie in an image names both."""
    good()
    assert run("train", "good", *TINY, "--roi-box", "0,0,65,64") == (
        2,
        f"error: the box 0,0,65,64 (left, top, right, bottom) does not lie in {Path('good/0.png')}, which is 64 x 64",
    )


def test_masks_of_the_region(run: Run) -> None:
    """A region's folder of masks that is not there, and one without the image's mask."""
    good()
    missing = Path("nowhere").absolute()  # a model is used from other folders too
    assert run("train", "good", *TINY, "--roi-masks", "nowhere") == (2, f"error: no such folder of masks: {missing}")
    Path("masks").mkdir()
    code, message = run("train", "good", *TINY, "--roi-masks", "masks")
    assert code == 2
    assert message.startswith("error: no mask for good")
    endings = ", ".join(IMAGE_SUFFIXES)
    assert message.endswith(f".png in {Path('masks').absolute()}; a mask has its image's name and one of {endings}")


# ------------------------------------------------------------------------------------------------------------- outputs

WRITING = {
    "demo": ["demo", "-o", "{out}"],
    "synth": ["synth", "{out}"],
    "train": ["train", "good", *map(str, TINY), "-o", "{out}/m.flawmap"],
    "tensorboard": ["train", "good", *map(str, TINY), "-o", "new.flawmap", "--tensorboard", "{out}"],
    "inspect": ["inspect", "m.flawmap", "good", "-o", "{out}"],
    "evaluate": ["evaluate", "m.flawmap", "set", "-o", "{out}"],
}


@pytest.fixture
def forbidden_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, scored or woven: what is wrong must be found before."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setitem(METHODS, "ssim", METHODS["ssim"]._replace(fit=fail))
    monkeypatch.setattr("flawmap.commands.synth.defective_images", lambda *_: iter(()))
    monkeypatch.setattr(Detector, "explain", fail)


@pytest.mark.usefixtures("forbidden_work")
@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("below", [False, True])
def test_output_folder_not_writable(run: Run, labelled: Path, name: str, below: bool) -> None:
    """A file where the output folder should be, or above it, is found before the work starts."""
    a_model()
    good()
    put("file", b"in the way")
    out = "file/below" if below else "file"
    made = {"demo": f"{out}/data", "train": f"{Path.cwd() / out}"}.get(name, out)
    before = left()
    code, message = run(*(part.format(out=out) for part in WRITING[name]))
    reason = os.strerror(errno.EEXIST if made.endswith("file") else errno.ENOTDIR)
    if sys.platform == "win32":  # which has its own words for it
        reason = message.partition("cannot be made: ")[2].partition(";")[0]
    assert (code, message) == (2, f"error: the folder {Path(made)} cannot be made: {reason}; name another one")
    assert left() == before


@pytest.mark.usefixtures("forbidden_work")
@pytest.mark.parametrize("name", [name for name in WRITING if name != "tensorboard"])
def test_full_disk(run: Run, labelled: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room is found before the work starts, with what is free and what is needed."""
    a_model()
    good()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8000))
    needed = {"demo": "0.4 GB", "synth": "2.3 MB", "train": "0.2 GB", "inspect": "0.1 MB", "evaluate": "1.6 MB"}[name]
    folder = Path.cwd() / "out" if name == "train" else Path("out")
    assert run(*(part.format(out="out") for part in WRITING[name])) == (
        2,
        f"error: {folder} has 0.0 MB free, {needed} are needed; make room or name a folder on another disk",
    )
    assert "out" not in left()


def half_written(self: Path, data: bytes) -> int:
    """What `Path.write_bytes` does on a disk that fills up."""
    with self.open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, NO_SPACE)


def test_disk_fills_up_while_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot be written whole is not there at all, nor any part of it; an older one stays as it was."""
    good()
    put("m.flawmap", b"an older model")
    monkeypatch.setattr(Path, "write_bytes", half_written)
    before = left()
    assert run("train", "good", *TINY, "-o", "m.flawmap") == (
        2,
        f"error: m.flawmap cannot be written: {NO_SPACE}",
    )
    assert left() == before
    assert Path("m.flawmap").read_bytes() == b"an older model"


def test_disk_fills_up_while_evaluating(run: Run, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics that cannot be written whole are not there at all."""
    a_model()
    monkeypatch.setattr(Path, "write_bytes", half_written)
    assert run("evaluate", "m.flawmap", labelled, "-o", "out") == (
        2,
        f"error: {Path('out/metrics.json')} cannot be written: {NO_SPACE}",
    )
    assert not [path for path in left() if path.startswith("out/")]


def test_disk_fills_up_while_inspecting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inspection stops there: the pictures before are whole, the lists hold their images, and no part is left."""
    a_model()
    good(3)
    pictures = 0
    write = Path.write_bytes

    def fill_up(self: Path, data: bytes) -> int:
        nonlocal pictures
        pictures += data.startswith(b"\x89PNG")
        return write(self, data) if pictures < 3 else half_written(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert run("inspect", "m.flawmap", "good", "-o", "out") == (
        2,
        f"error: {Path('out/1_mask.png')} cannot be written: {NO_SPACE}",
    )
    files = ["0_mask.png", "0_overlay.png", "inspections.jsonl", "regions.csv"]
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == files
    (line,) = Path("out/inspections.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == str(Path("good/0.png"))


def test_disk_that_says_no_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk's refusal that no part of flawmap foresaw is the user's to mend, not a fault of ours."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "good")

    monkeypatch.setattr("flawmap.commands.data.data", refuse)
    hint = "check the path, its rights and the disk"
    assert run("data", "good") == (2, f"error: good cannot be used: {os.strerror(errno.EACCES)}; {hint}")

    def fill_up(*_: object) -> None:
        raise OSError(errno.ENOSPC, NO_SPACE)

    monkeypatch.setattr("flawmap.commands.data.data", fill_up)
    assert run("data", "good") == (2, f"error: the disk refuses: {NO_SPACE}; {hint}")


def test_model_named_like_a_folder(run: Run) -> None:
    """A folder in place of the model file is found before the training."""
    good()
    Path("models").mkdir()
    assert run("train", "good", *TINY, "-o", "models") == (
        2,
        f"error: models is a folder, the model is a file; name one in it: -o {Path('models/model.flawmap')}",
    )


def test_model_named_like_a_checkpoint(run: Run) -> None:
    """A model may have any name: removing the checkpoint at the end does not remove it."""
    good()
    assert run("train", "good", *TINY, "-o", "m.checkpoint")[0] == 0
    assert run("info", "m.checkpoint")[0] == 0


def test_a_folder_of_other_things(run: Run) -> None:
    """`synth` does not write among files that are not its own."""
    put("out/letter.txt", b"dear")
    assert run("synth", "out") == (
        2,
        "error: the folder out holds files that flawmap did not write (letter.txt); name an empty or a new folder",
    )


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[training]\nstep = 5", "unknown setting training.step; did you mean training.steps?"),
        ("[method]\nlatnet = 5", "unknown setting method.latnet; did you mean method.latent?"),
        ("[modle]\npatch = 5", "unknown setting modle; did you mean model?"),
        ("[images.roi]\nbrightnes = [0, 1]", None),
        ("[model]\npatch = 100", "model: patch must be one of 32, 64, 128, 256 pixels, got 100"),
        ("[model\n", None),
    ],
)
def test_configuration_file(run: Run, toml: str, message: str | None) -> None:
    """An unknown key names the nearest known one; nonsense says where it stands."""
    Path("c.toml").write_text(toml)
    code, said = run("train", "good", "--config", "c.toml")
    assert code == 2
    if message is not None:
        assert said == f"error: c.toml: {message}"
    elif "brightnes" in toml:
        assert said.endswith("did you mean images.roi.brightness?")
    else:
        assert said.startswith("error: c.toml is not TOML: ")


def test_no_configuration_file(run: Run) -> None:
    """A configuration file that is missing, and a folder in its place."""
    assert run("train", "good", "--config", "c.toml") == (
        2,
        "error: no configuration file c.toml; `flawmap train --show-config` prints one to start from",
    )
    Path("c.toml").mkdir()
    reason = os.strerror(errno.EACCES if sys.platform == "win32" else errno.EISDIR)
    assert run("train", "good", "--config", "c.toml") == (
        2,
        f"error: c.toml cannot be used: {reason}; check the path, its rights and the disk",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--set model.patch=100", "model: patch must be one of 32, 64, 128, 256 pixels, got 100"),
        (
            "--set model.patch=32 --set tiling.stride=33",
            "stride must not exceed the patch, or pixels between patches go unseen, got stride 33 with patch 32",
        ),
        ("--set method.latent=200000", "method.latent: Input should be less than or equal to 100000, got 200000"),
        (
            "--steps 1 --minutes 1",
            "training: exactly one of steps, epochs and minutes is needed, got steps and minutes",
        ),
        (
            "--scale half",
            "--scale must be a factor up to 16 such as 0.5, or width x height in pixels such as 256x256, got half",
        ),
        ("--roi-box 1,2,3", "--roi-box must be left,top,right,bottom such as 10,20,500,400, got 1,2,3"),
        (
            "--roi-box 0,0,9,9 --set images.roi.brightness=[0,1]",
            "images.roi: a region of interest is given in one way, got box and brightness",
        ),
    ],
)
def test_settings_that_make_no_sense(run: Run, arguments: str, message: str) -> None:
    """A setting, two that contradict each other, and an option: each says what was expected and what came."""
    assert run("train", "good", *arguments.split()) == (2, f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --steps 0", "Invalid value for '--steps': Input should be greater than or equal to 1, got 0"),
        ("train --preset best", "Invalid value for '--preset': 'best' is not one of 'auto', 'fast', 'paper'"),
        ("train", "Invalid value for DATA: the folder of good images to train on is missing"),
        ("inspect m.flawmap", "Missing argument 'images'"),
        ("synth x --kind linen", None),
        ("train x --stesp 5", None),
    ],
)
def test_wrong_use(run: Run, arguments: str, message: str | None) -> None:
    """A wrong argument says what came and where the help is."""
    command, *rest = arguments.split()
    code, said = run(command, *rest)
    assert code == 2
    assert said.endswith(f"; see `flawmap {command} --help`")
    if message is None:
        assert "cloth" in said or "--steps" in said
    else:
        assert said.startswith(f"error: {message}; ")


@pytest.mark.parametrize("text", ["64", "64x", "²x9", "9x9"])
def test_sizes_that_make_no_sense(run: Run, text: str) -> None:
    """`synth` says what a size looks like, and writes nothing."""
    code, message = run("synth", "out", "--size", text)
    assert code == 2
    assert "size must be " in message
    assert left() == set()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_no_cuda(run: Run) -> None:
    """CUDA asked for where there is none is found before anything is read."""
    a_model()
    good()
    message = "error: device cuda was asked for, but this machine's torch sees no CUDA GPU; use --device cpu"
    before = left()
    for command in (["train", "good"], ["inspect", "m.flawmap", "good"], ["evaluate", "m.flawmap", "good"]):
        assert run(*command, "--device", "cuda") == (2, message)
    assert left() == before


def test_no_such_device(run: Run) -> None:
    """A device that nobody has names those that exist."""
    good()
    message = "error: device must be auto, cpu, cuda, cuda:N or mps, got 'tpu'"
    assert run("train", "good", "--device", "tpu") == (2, message)


# --------------------------------------------------------------------------------------------------------- model files


@pytest.mark.parametrize("command", ["info", "inspect", "evaluate"])
def test_not_a_model(run: Run, command: str) -> None:
    """A missing, foreign, truncated or newer model file says which of these it is."""
    good()
    more = [] if command == "info" else ["good"]
    assert run(command, "m.flawmap", *more) == (
        2,
        "error: no model file m.flawmap; `flawmap train DATA -o m.flawmap` makes one",
    )
    put("m.flawmap", b"no model at all")
    code, message = run(command, "m.flawmap", *more)
    assert code == 2
    assert message.startswith("error: m.flawmap is not a flawmap model, or is damaged: expected a .flawmap file, ")
    put("m.flawmap", safetensors.torch.save({"weight": torch.zeros(1)}))
    assert run(command, "m.flawmap", *more) == (
        2,
        "error: m.flawmap is a safetensors file, but not a flawmap model: it has no flawmap header; expected a file "
        "written by `flawmap train`",
    )
    put("m.flawmap", safetensors.torch.save({"weight": torch.zeros(1)}, metadata={"flawmap": '{"format": 99}'}))
    assert run(command, "m.flawmap", *more) == (
        2,
        "error: m.flawmap has format 99, this flawmap reads up to 4; update flawmap to read it",
    )
    whole = a_model().read_bytes()
    put("m.flawmap", whole[:-100])
    code, message = run(command, "m.flawmap", *more)
    assert code == 2
    assert message.startswith("error: m.flawmap is ")
    assert "damaged" in message


def test_a_model_without_threshold(run: Run) -> None:
    """A model without a threshold inspects with one that is given, and says so."""
    a_model(threshold=None)
    good()
    assert run("inspect", "m.flawmap", "good") == (
        2,
        "error: m.flawmap has no threshold, since no good images were held out when it was trained; give one with "
        "--threshold, or train with --set split.validation=0.1",
    )
    assert run("inspect", "m.flawmap", "good", "--threshold", 0.9)[0] == 0


def test_a_left_checkpoint(run: Run) -> None:
    """What an unfinished training left is not overwritten, and a damaged one is not resumed."""
    good()
    put("m.checkpoint", b"half a training")
    assert run("train", "good", *TINY, "-o", "m.flawmap") == (
        2,
        "error: m.checkpoint was left by an unfinished training; go on with --resume, or remove it to start anew",
    )
    code, message = run("train", "good", *TINY, "-o", "m.flawmap", "--resume")
    assert code == 2
    assert message.startswith("error: m.checkpoint is not a readable checkpoint (")
    assert message.endswith("); remove it to start anew")


def test_trained_images_as_unseen(run: Run) -> None:
    """Images that a model was trained on are not scored as unseen, whatever is asked for."""
    good(7)
    assert run("train", "good", *TINY, "-o", "m.flawmap", "--set", "split.last=2")[0] == 0
    assert run("evaluate", "m.flawmap", "good", "--last", 2)[0] == 0
    assert run("evaluate", "m.flawmap", "good", "--last", 3) == (
        2,
        f"error: 1 of the images to be scored as unseen were trained on: {Path('good/4.png')}; leave them out, or "
        "score the areas of the split that were held out",
    )

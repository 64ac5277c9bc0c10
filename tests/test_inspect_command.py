"""`flawmap inspect`, called from Python: folders of all kinds, files beside each image, results that survive a kill."""

from __future__ import annotations

import csv
import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import flawmap
from flawmap.commands import inspection_files
from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.errors import ConfigError, InputError, OutputError
from flawmap.core.events import Events
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import good_images
from flawmap.imaging.morphology import opened
from flawmap.imaging.reading import read_mask
from flawmap.imaging.writing import write_image
from flawmap.methods.config import Config
from flawmap.methods.interface import Progress
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

TINY: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 5, "batch": 4, "device": "cpu", "precision": "float32"},
}

PLAIN = Runtime("cpu", "float32")


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("jobs") / "good", cloth(8))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    path = folder.parent / "model.flawmap"
    flawmap.train(folder, path, config())
    return path


# ---------------------------------------------------------------------------------------------------------- inspecting


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images of one stem, one in a folder below, an unreadable one, a hidden one, and what is no image."""
    images = cloth(4)
    root = tmp_path / "tree"
    (root / "sub" / "deep").mkdir(parents=True)
    write_image(root / "a.png", images[0])
    Image.fromarray(images[1]).save(root / "a.bmp")
    write_image(root / "sub" / "deep" / "b.png", images[2])
    write_image(root / ".hidden.png", images[3])
    (root / "broken.png").write_bytes((root / "a.png").read_bytes()[:400])
    (root / "notes.txt").write_text("no image")
    return root


def test_inspect_a_folder(model: Path, tree: Path, tmp_path: Path) -> None:
    """Every image below a folder gets its pictures under its own relative path; an unreadable one is listed."""
    seen: list[tuple[int, int, str]] = []
    rows = flawmap.inspect(
        model,
        [tree],
        tmp_path / "out",
        outputs=InspectionOutputs(residuals=True),
        events=Heard(on_progress=lambda *what: seen.append(what)),
    )
    relative = ["a.bmp", "a.png", "broken.png", "sub/deep/b.png"]
    assert [Path(row.path).relative_to(tree).as_posix() for row in rows] == relative
    assert [row.verdict == "unreadable" for row in rows] == [False, False, True, False]
    assert seen == [(number + 1, 4, row.path) for number, row in enumerate(rows)]
    files = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("[!.]*") if path.is_file()
    }
    assert files == {"inspections.jsonl", "regions.csv", "report.html"} | {
        f"{name}_{kind}"
        for name in ("a.bmp", "a.png", "sub/deep/b")
        for kind in ("mask.png", "overlay.png", "residual.tif")
    }


def test_inspection_files_equal_the_inspection(model: Path, tree: Path, tmp_path: Path) -> None:
    """Lines, regions, mask, overlay and residual map hold what `Detector.inspect` gives, value for value."""
    out = tmp_path / "out"
    rows = flawmap.inspect(model, [tree], out, outputs=InspectionOutputs(residuals=True))
    detector = Detector.load(model)
    records = lines(out / "inspections.jsonl")
    with (out / "regions.csv").open(newline="") as file:
        regions = list(csv.DictReader(file))
    stems = {"a.bmp": "a.bmp", "a.png": "a.png", "b.png": "sub/deep/b"}
    assert records[2] == {"schema": "flawmap.inspection/1", "path": rows[2].path, "error": rows[2].error}
    count = 0
    for record, row in zip(records, rows, strict=True):
        path = Path(row.path)
        if row.error is not None:
            continue
        inspection = detector.inspect(path)
        pictures = record.pop("pictures")
        assert (out / f"{pictures}_mask.png").is_file()
        assert record == {"schema": "flawmap.inspection/1"} | inspection.to_dict()
        assert (row.score, row.verdict) == (inspection.score, inspection.verdict)
        assert (row.regions, row.flawed_pixels) == (len(inspection.regions), int(inspection.mask.sum()))
        own = [region for region in regions if region["path"] == row.path]
        assert [int(region["region"]) for region in own] == list(range(1, row.regions + 1))
        for found, region in zip(own, inspection.regions, strict=True):
            assert tuple(int(found[name]) for name in ("left", "top", "width", "height")) == region.box
            assert (int(found["area"]), float(found["peak"]), float(found["mean"])) == (
                region.area,
                region.peak,
                region.mean,
            )
        count += len(own)
        target = out / stems[path.name]
        assert np.array_equal(read_mask(Path(f"{target}_mask.png")), inspection.mask)
        residual = tifffile.imread(f"{target}_residual.tif")
        assert residual.dtype == np.float32
        assert np.array_equal(residual, inspection.residual)
        assert np.array_equal(residual, opened(detector.score(detector.read(path).pixels), 4))
    assert count == len(regions) > 0


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 10,000 pixels are read, scored and written by bands of about 4,000."""
    for place in ("imaging.reading", "commands.inspect"):
        monkeypatch.setattr(f"flawmap.{place}.WHOLE_PIXELS", 10_000)
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 4_000)


def test_a_large_image_is_written_by_bands(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Mask, residual map and verdict are those of the image in one piece, but for rounding, in tiled files."""
    (image,) = cloth(1, (150, 300))
    write_image(tmp_path / "a.png", image)
    outputs = InspectionOutputs(residuals=True)
    (whole,) = flawmap.inspect(model, [tmp_path / "a.png"], tmp_path / "whole", outputs=outputs)
    request.getfixturevalue("small_bands")
    (banded,) = flawmap.inspect(model, [tmp_path / "a.png"], tmp_path / "bands", outputs=outputs)
    assert banded == replace(whole, score=pytest.approx(whole.score, abs=1e-6))
    names = ["a_mask.tif", "a_overlay.png", "a_residual.tif", "inspections.jsonl", "regions.csv", "report.html"]
    assert sorted(path.name for path in (tmp_path / "bands").glob("[!.]*")) == names
    with tifffile.TiffFile(tmp_path / "bands" / "a_mask.tif") as file:
        assert file.is_bigtiff
        assert file.pages.first.is_tiled
    mask = read_mask(tmp_path / "bands" / "a_mask.tif")
    assert np.array_equal(mask, read_mask(tmp_path / "whole" / "a_mask.png"))
    maps = [tifffile.imread(tmp_path / folder / "a_residual.tif") for folder in ("bands", "whole")]
    np.testing.assert_allclose(*maps, atol=1e-6)


@pytest.mark.usefixtures("small_bands")
def test_a_large_image_that_breaks_off_leaves_no_files(model: Path, tmp_path: Path) -> None:
    """An image whose last rows cannot be used is listed, after bands of it were scored, and has no pictures."""
    values = cloth(1, (150, 300))[0] / np.float32(255)
    values[-1, 0] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values)
    (row,) = flawmap.inspect(model, [tmp_path / "a.tif"], tmp_path / "out", outputs=InspectionOutputs(residuals=True))
    assert row.verdict == "unreadable"
    names = ["inspections.jsonl", "regions.csv", "report.html"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names
    assert not list((tmp_path / "out").glob(".part-*"))


def test_second_run_does_not_inspect_the_first(model: Path, tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An output folder among the images is not inspected again; an image of one's own in it is passed over aloud."""
    first = flawmap.inspect(model, [tree], tree / "out")
    assert flawmap.inspect(model, [tree], tree / "out") == first
    assert caplog.messages == []
    write_image(tree / "out" / "mine.png", cloth(1)[0])
    assert flawmap.inspect(model, [tree, tree / "out" / "mine.png"], tree / "out") == first
    assert caplog.messages == [
        f"1 images in the output folder {tree / 'out'} are left out, {tree / 'out' / 'mine.png'} for one; "
        "to inspect them name another folder with -o"
    ]
    with pytest.raises(InputError) as error:
        flawmap.inspect(model, [tree], tree)
    assert str(error.value) == (f"all images found lie in the output folder {tree} itself; name another one with -o")


def test_inspect_files_and_globs(model: Path, tree: Path, tmp_path: Path) -> None:
    """Files are named by themselves, and what a pattern matches by what follows its fixed part."""
    rows = flawmap.inspect(model, [tree / "a.png"], tmp_path / "file")
    assert [row.path for row in rows] == [str(tree / "a.png")]
    assert (tmp_path / "file" / "a_mask.png").is_file()
    rows = flawmap.inspect(model, [f"{tree}/**/[ab].png"], tmp_path / "glob")
    assert [Path(row.path).name for row in rows] == ["a.png", "b.png"]
    assert (tmp_path / "glob" / "sub" / "deep" / "b_mask.png").is_file()


def test_inspect_threshold(model: Path, tree: Path, tmp_path: Path) -> None:
    """A threshold given for the run is the one that decides, and it is written beside each verdict."""
    own = load_artifact(model).threshold
    for threshold, verdict in ((None, None), (2.0, "ok"), (1e-6, "flawed")):
        (row,) = flawmap.inspect(model, [tree / "a.png"], tmp_path / "out", outputs=InspectionOutputs(threshold))
        (record,) = lines(tmp_path / "out" / "inspections.jsonl")
        assert record["threshold"] == (own if threshold is None else threshold)
        assert verdict is None or row.verdict == record["verdict"] == verdict


def test_a_threshold_of_another_precision_is_said(model: Path, tree: Path, tmp_path: Path) -> None:
    """A threshold that was found in other arithmetic than now is used, and said; one that is given needs no word."""
    artifact = load_artifact(model)
    other = tmp_path / "other.flawmap"
    save_artifact(
        artifact.with_point(
            OperatingPoint(threshold=0.5), calibration=artifact.calibration | {"precision": "bfloat16"}
        ),
        other,
    )
    said: list[list[str]] = []
    for place, threshold in ((model, None), (other, 0.5), (other, None)):
        events, outputs = Heard(), InspectionOutputs(threshold)
        flawmap.inspect(place, [tree / "a.png"], tmp_path / "out", outputs=outputs, runtime=PLAIN, events=events)
        said.append(events.said)
    assert said == [[], [], ["the threshold was found in bfloat16, scores are computed in float32"]]


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_threshold_must_be_a_number(model: Path, tree: Path, tmp_path: Path, threshold: float) -> None:
    """A threshold that is no number is refused before any image is looked at."""
    with pytest.raises(ConfigError, match=f"threshold must be a finite number, got {threshold}"):
        flawmap.inspect(model, [tree], tmp_path / "out", outputs=InspectionOutputs(threshold))
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- pages


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A folder with a TIFF of three pages and an image of one."""
    images = cloth(4)
    put(tmp_path / "in", images[3:])
    tifffile.imwrite(tmp_path / "in" / "stack.tif", np.stack(images[:3]), photometric="minisblack")
    return tmp_path / "in"


def test_every_page_is_inspected_as_an_image(model: Path, stack: Path, tmp_path: Path) -> None:
    """Each page has a row, pictures and regions of its own, equal to those of the page as a file; others as before."""
    out = tmp_path / "out"
    rows = flawmap.inspect(model, [stack], out, pages="all")
    assert [(Path(row.path).name, row.page) for row in rows] == [
        ("000.png", None),
        *(("stack.tif", page) for page in (1, 2, 3)),
    ]
    for page, image in enumerate(cloth(4)[:3], start=1):
        write_image(tmp_path / "page.png", image)
        (alone,) = flawmap.inspect(model, [tmp_path / "page.png"], tmp_path / "alone")
        assert rows[page].score == alone.score
        masks = [read_mask(out / f"stack_p{page:03d}_mask.png"), read_mask(tmp_path / "alone" / "page_mask.png")]
        assert np.array_equal(*masks)
    with (out / "regions.csv").open(newline="") as file:
        numbered = {(Path(row["path"]).name, row["page"]) for row in csv.DictReader(file)}
    assert numbered <= {("000.png", ""), ("stack.tif", "1"), ("stack.tif", "2"), ("stack.tif", "3")}
    assert [line.get("page") for line in lines(out / "inspections.jsonl")] == [None, 1, 2, 3]


def test_one_page_is_inspected(model: Path, stack: Path, tmp_path: Path) -> None:
    """The page asked for, of each file; one that a file does not have, and none asked for, is that image's error."""
    rows = flawmap.inspect(model, [stack], tmp_path / "out", pages=2)
    assert [row.page for row in rows] == [2, 2]
    assert rows[0].error == f"{stack / '000.png'} has 1 page, there is no page 2"
    assert rows[1].error is None
    assert (tmp_path / "out" / "stack_p002_mask.png").is_file()
    single, several = flawmap.inspect(model, [stack], tmp_path / "out")
    assert single.error is None
    assert "has 3 pages, an image has one; `flawmap inspect` takes --page N or --pages, " in str(several.error)


def bomb(path: Path, width: int, height: int) -> None:
    """A file of a few kB whose header claims so many pixels."""
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 256, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 2000, 0, 0, 54 + 1024) + sizes + bytes(2000))


def test_a_hostile_header_costs_one_row(model: Path, tmp_path: Path) -> None:
    """Files that claim more pixels than fit on any disk are listed as unreadable, and the others are inspected."""
    folder = tmp_path / "upload"
    folder.mkdir()
    bomb(folder / "bomb.bmp", 7_274_624, 13_107_296)
    tifffile.imwrite(folder / "bomb.tif", np.zeros((16, 16), np.uint8), compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(folder / "bomb.tif", mode="r+") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(2**31)
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(folder / "plain.png")
    bmp, tif, plain = flawmap.inspect(model, [folder], tmp_path / "out", runtime=PLAIN)
    assert bmp.error is not None
    assert "the limit is 400,000,000" in bmp.error
    assert tif.error is not None
    assert plain.error is None


def test_pages_are_resumed_one_by_one(model: Path, stack: Path, tmp_path: Path) -> None:
    """After an interruption in the middle of a file its other pages are inspected."""
    with pytest.raises(KeyboardInterrupt):
        flawmap.inspect(model, [stack], tmp_path / "out", pages="all", events=stop_after(2))
    resumed = flawmap.inspect(model, [stack], tmp_path / "out", pages="all", resume=True)
    assert resumed == flawmap.inspect(model, [stack], tmp_path / "whole", pages="all")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_pages_do_not_take_the_names_of_other_images(model: Path, stack: Path, tmp_path: Path) -> None:
    """Where an image is called like a page, both are named by their whole file names."""
    (stack / "000.png").rename(stack / "stack_p002.png")
    flawmap.inspect(model, [stack], tmp_path / "out", pages="all", outputs=InspectionOutputs(overlays=False))
    names = {path.name for path in (tmp_path / "out").glob("*_mask.png")}
    assert names == {
        "stack_p001_mask.png",
        "stack.tif_p002_mask.png",
        "stack_p003_mask.png",
        "stack_p002.png_mask.png",
    }


# ------------------------------------------------------------------------------------------------- results that last


def files_of(out: Path) -> dict[str, bytes]:
    """Everything that people see in an output folder."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("[!.]*") if path.is_file()}


def stop_after(count: int) -> Heard:
    """Ctrl-C after so many images."""

    def stop(done: int, total: int, what: str) -> None:
        if done == count:
            raise KeyboardInterrupt

    return Heard(on_progress=stop)


def test_an_interruption_keeps_what_is_done(model: Path, tree: Path, tmp_path: Path) -> None:
    """Ctrl-C leaves whole pictures and the lines of the images that were finished, and says how to go on."""
    out, events = tmp_path / "out", stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        flawmap.inspect(model, [tree], out, runtime=PLAIN, events=events)
    assert [Path(line["path"]).name for line in lines(out / "inspections.jsonl")] == ["a.bmp", "a.png"]
    assert (out / "regions.csv").is_file()
    assert not list(out.rglob("*part*"))
    assert events.said == [f"2 of 4 images are done and listed in {out}; go on with --resume"]


def test_resuming_inspects_the_missing_images_alone(model: Path, tree: Path, tmp_path: Path) -> None:
    """A run that was stopped and resumed leaves what an undisturbed one leaves, byte for byte."""
    whole = flawmap.inspect(model, [tree], tmp_path / "whole", runtime=PLAIN)
    with pytest.raises(KeyboardInterrupt):
        flawmap.inspect(model, [tree], tmp_path / "out", runtime=PLAIN, events=stop_after(2))
    seen: list[str] = []
    events = Heard(on_progress=lambda done, total, what: seen.append(f"{done}/{total} {Path(what).name}"))
    resumed = flawmap.inspect(model, [tree], tmp_path / "out", runtime=PLAIN, resume=True, events=events)
    assert seen == ["1/2 broken.png", "2/2 b.png"]
    assert events.said == ["2 images were inspected before, 2 remain"]
    assert resumed == whole
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def slow_or_failing(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> None:
    """Something that happens before each picture is written."""

    def picture(path: Path, values: NDArray[Any], *, quick: bool = False) -> None:
        write(path)
        write_image(path, values, quick=quick)

    monkeypatch.setattr(inspection_files, "write_image", picture)


def test_a_disk_that_fills_up_ends_the_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While pictures are written on another thread: the error names the picture, images before it are listed with all
    of theirs, and resuming inspects the others."""
    images, out = put(tmp_path / "in", cloth(6)), tmp_path / "out"

    def full(path: Path) -> None:
        if path.name == "003_overlay.png":
            raise OutputError(f"{path} cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        slow_or_failing(patch, full)
        with pytest.raises(OutputError, match=r"003_overlay\.png cannot be written: No space left on device"):
            flawmap.inspect(model, [images], out, runtime=PLAIN)
    listed = [Path(line["path"]).stem for line in lines(out / "inspections.jsonl")]
    assert listed == ["000", "001", "002"]
    assert all((out / f"{name}_{kind}.png").is_file() for name in listed for kind in ("mask", "overlay"))
    assert not (out / "003_overlay.png").exists()
    assert not list(out.rglob(".part-*"))
    flawmap.inspect(model, [images], out, runtime=PLAIN, resume=True)
    flawmap.inspect(model, [images], tmp_path / "whole", runtime=PLAIN)
    assert files_of(out) == files_of(tmp_path / "whole")


def test_an_image_is_listed_when_its_pictures_are_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long they take to be written, and in the order of the images."""
    images, out = put(tmp_path / "in", cloth(5)), tmp_path / "out"
    slow_or_failing(monkeypatch, lambda path: time.sleep(0.02))
    seen: list[str] = []

    def listed(done: int, total: int, what: str) -> None:
        seen.append(Path(what).stem)
        assert [Path(line["path"]).stem for line in lines(out / "inspections.jsonl")] == seen
        assert all((out / f"{name}_{kind}.png").is_file() for name in seen for kind in ("mask", "overlay"))

    flawmap.inspect(model, [images], out, runtime=PLAIN, events=Heard(on_progress=listed))
    assert seen == ["000", "001", "002", "003", "004"]


def test_other_settings_do_not_resume(model: Path, tree: Path, tmp_path: Path) -> None:
    """Another threshold, other outputs or another model are another run: refused, and the results stay."""
    out = tmp_path / "out"
    flawmap.inspect(model, [tree], out)
    before = files_of(out)
    other = tmp_path / "other.flawmap"
    save_artifact(load_artifact(model).with_point(OperatingPoint(threshold=0.5), calibration={}), other)
    for changed, arguments in (
        ("threshold was None, is 0.25", {"outputs": InspectionOutputs(0.25)}),
        ("residuals was False, is True", {"outputs": InspectionOutputs(residuals=True)}),
        ("model_sha256 was ", {"model": other}),
    ):
        call: dict[str, Any] = {"model": model, "inputs": [tree], "out": out, "resume": True} | arguments
        with pytest.raises(ConfigError, match=f"another model or other settings: {changed}"):
            flawmap.inspect(**call)
    assert files_of(out) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import flawmap
from flawmap.core.events import Events
from flawmap.core.runtime import Runtime
from flawmap.core.files import atomic
from flawmap.scoring.operating_point import OperatingPoint

class Killer(Events):
    def progress(self, done, total, what):
        if done == int(sys.argv[4]):
            with atomic(Path(sys.argv[3]) / "another.png") as part:
                part.write_text("half of it")
                os.kill(os.getpid(), signal.SIGKILL)

flawmap.inspect(Path(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]), events=Killer())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_inspection_leaves_its_results(model: Path, tmp_path: Path) -> None:
    """Killed after 3 of 6 images: their 3 lines are there, resuming gives what an undisturbed run gives, no parts."""
    images, out = put(tmp_path / "in", cloth(6)), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(model), str(images), str(out), "3"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [Path(line["path"]).name for line in lines(out / "inspections.jsonl")] == ["000.png", "001.png", "002.png"]
    assert list(out.glob(".part-*"))
    assert len(flawmap.inspect(model, [images], out, resume=True)) == 6
    flawmap.inspect(model, [images], tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not list(out.rglob(".part-*"))


def test_a_folder_belongs_to_one_inspection(model: Path, tree: Path, tmp_path: Path) -> None:
    """Another process that wants to write to the folder is refused, and the first one ends as if nothing had been."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flawmap", "inspect", str(model), str(tree / "a.png"), "-o", str(out), "--resume"]
    others: list[subprocess.CompletedProcess[str]] = []

    def intrude(done: int, total: int, what: str) -> None:
        if done == 1:
            others.append(subprocess.run(command, capture_output=True, text=True, check=False))

    rows = flawmap.inspect(model, [tree], out, events=Heard(on_progress=intrude))
    assert [other.returncode for other in others] == [2]
    assert others[0].stderr.endswith(f"error: another inspection is writing to {out}; name another folder with -o\n")
    assert len(lines(out / "inspections.jsonl")) == len(rows) == 4


def test_a_new_run_replaces_the_results_of_the_old(model: Path, tree: Path, tmp_path: Path) -> None:
    """Without `resume` the lists hold the new run alone."""
    flawmap.inspect(model, [tree], tmp_path / "out")
    flawmap.inspect(model, [tree / "a.png"], tmp_path / "out")
    assert [line["path"] for line in lines(tmp_path / "out" / "inspections.jsonl")] == [str(tree / "a.png")]


def test_masks_of_a_region_are_named_on_each_machine(model: Path, tree: Path, tmp_path: Path) -> None:
    """A model whose region of interest is a folder of masks is told the folder; its file knows no path of the other."""
    (tmp_path / "secret" / "rois").mkdir(parents=True)
    artifact = load_artifact(model)
    roi = {"images": {"roi": {"masks": tmp_path / "secret" / "rois"}}}
    moved = tmp_path / "moved.flawmap"
    save_artifact(replace(artifact, config=override(artifact.config, roi)), moved)
    assert str(tmp_path).encode() not in moved.read_bytes()
    with pytest.raises(ConfigError, match=r"a folder of masks, rois, which is not here; name it with --roi-masks"):
        flawmap.inspect(moved, [tree / "a.png"], tmp_path / "out")
    here = tmp_path / "here"
    here.mkdir()
    inside = np.zeros((80, 96), np.uint8)
    inside[:40] = 255
    write_image(here / "a.png", inside)
    (row,) = flawmap.inspect(moved, [tree / "a.png"], tmp_path / "out", roi_masks=here, outputs=InspectionOutputs(1e-6))
    assert row.verdict == "flawed"
    assert not read_mask(tmp_path / "out" / "a_mask.png")[40:].any()

"""Where a training's patches come from: the same ones from memory and from disk, in bounded memory."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flawmap.core.errors import InputError, OutputError
from flawmap.core.events import Events
from flawmap.core.settings import ImageSettings, RegionOfInterest
from flawmap.data import loading
from flawmap.data.loading import LoadStatistics, StorageEstimate, open_patches, storage_estimate, training_images
from flawmap.data.patches import PatchSource, TrainingImage, padded
from flawmap.data.splits import ImageRegion
from flawmap.imaging import reading, rows
from flawmap.imaging.padding import padding_of
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.writing import write_image

RNG = np.random.default_rng(0)
PATCH = 32
SIZES = ((64, 64), (97, 71), (80, 130), (33, 200))


def put(folder: Path, images: list[NDArray[Any]]) -> list[ImageRegion]:
    """Areas of PNG files, or of TIFF files for 16 bit and floating point."""
    folder.mkdir(exist_ok=True)
    areas = []
    for number, image in enumerate(images):
        path = folder / f"{number:03d}.{'png' if image.dtype == np.uint8 else 'tif'}"
        if image.dtype == np.uint8:
            write_image(path, image)
        else:
            tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")
        areas.append(ImageRegion(path, ""))
    return areas


def pictures(kind: str, channels: int) -> list[NDArray[Any]]:
    shapes = [size if channels == 1 else (*size, channels) for size in SIZES]
    if kind == "float32":
        return [RNG.random(shape, dtype=np.float32) for shape in shapes]
    return [RNG.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True) for shape in shapes]


def same_patches(areas: list[ImageRegion], settings: ImageSettings, path: Path) -> PatchSource:
    """Asserts that a source of one's own, memory and disk give one and the same; returns the first."""
    tally = LoadStatistics()
    plain, found, tallies = PatchSource(training_images(areas, settings, tally), PATCH), [], [tally]
    for budget in (10**9, 0):
        with open_patches(areas, settings, PATCH, budget=budget, path=path) as (source, tally):
            assert path.exists() == (budget == 0)
            assert (source.places, source.channels) == (plain.places, plain.channels)
            edges = np.array([0, source.places - 1])
            numbers = np.concatenate([edges, source.draw(60, np.random.default_rng(1))])
            found.append(source.cut(numbers))
            tallies.append(tally)
        assert not path.exists()
    np.testing.assert_array_equal(*(patches.view(np.uint32) for patches in found))
    np.testing.assert_array_equal(found[0], plain.cut(numbers))
    assert tallies[0] == tallies[1] == tallies[2]
    return plain


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings", [{}, {"scale": 1.3}, {"scale": (90, 70)}, {"mode": "grey"}, {"mode": "colour"}], ids=str
)
def test_one_patch_wherever_it_comes_from(tmp_path: Path, kind: str, channels: int, settings: dict[str, Any]) -> None:
    """8 bit, 16 bit and float, grey and colour, converted and scaled: equal in every bit."""
    same_patches(put(tmp_path / "good", pictures(kind, channels)), ImageSettings(**settings), tmp_path / "patches")


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "settings", [{}, {"scale": 1.3}, {"scale": (90, 70)}, {"roi": {"box": (3, 1, 60, 33)}}], ids=str
)
def test_patches_do_not_depend_on_bands(
    tmp_path: Path, kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few rows of an image are read at a time, patches are the same, bit for bit, in memory and on disk."""
    areas, images = put(tmp_path / "good", pictures(kind, 3)), ImageSettings.model_validate(settings)
    source = same_patches(areas, images, tmp_path / "patches")
    numbers = source.draw(60, np.random.default_rng(1))
    whole = source.cut(numbers)
    monkeypatch.setattr(reading, "WHOLE_PIXELS", 100)
    for pixels in (1, 700, 3000):
        monkeypatch.setattr(rows, "BAND_PIXELS", pixels)
        found = same_patches(areas, images, tmp_path / "patches").cut(numbers)
        np.testing.assert_array_equal(found, whole, err_msg=str(pixels))


def test_an_image_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TIFF is read, scaled and stored by bands: at no time is more than a few of them in memory."""
    path = tmp_path / "large.tif"
    values = RNG.integers(0, 256, (3000, 1000), np.uint8)
    tifffile.imwrite(path, values, rowsperstrip=16)
    monkeypatch.setattr(reading, "WHOLE_PIXELS", 100_000)
    monkeypatch.setattr(rows, "BAND_PIXELS", 20_000)
    area = ImageRegion(path, "")
    tracemalloc.start()
    try:
        for settings in (ImageSettings(), ImageSettings(scale=0.5)):
            with open_patches([area], settings, PATCH, budget=0, path=tmp_path / "patches") as (source, _):
                source.sample(4, np.random.default_rng(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * values.size / 4, "a fourth of the image as float32"


SIDES = st.integers(11, 45)


@given(height=SIDES, width=SIDES, channels=st.sampled_from([1, 3]), cuts=st.lists(st.integers(0, 45), max_size=3))
def test_small_images_are_padded_as_they_are_scored(height: int, width: int, channels: int, cuts: list[int]) -> None:
    """By torch's reflection at both ends, to the side of a patch, from any bands; their region of interest, too."""
    if min(height, width) < 12:
        with pytest.raises(InputError, match="image must be at least 12x12 pixels to be padded by reflection"):
            padded(TrainingImage(np.zeros((height, width, channels), np.float32)), PATCH)
        return
    pixels = RNG.random((height, width, channels), dtype=np.float32)
    inside = RNG.random((height, width)) > 0.1
    bands = np.split(pixels, sorted(min(cut, height) for cut in cuts))
    image = TrainingImage(ImageRows(pixels.shape, lambda: iter(bands)), inside, "a")
    found = padded(image, PATCH)
    padding = padding_of(height, width, PATCH, pad=True)
    for got, given_ in ((found.pixels, pixels), (found.inside, inside[:, :, None])):
        tensor = torch.from_numpy(given_.astype(np.float32).transpose(2, 0, 1))[None]
        expected = torch.nn.functional.pad(tensor, padding, mode="reflect")[0].numpy().transpose(1, 2, 0)
        assert got is not None
        np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    assert found.rows.shape == found.pixels.shape
    assert min(found.rows.shape[:2]) >= PATCH


def test_padding_a_training(tmp_path: Path) -> None:
    """With `pad`, images smaller than a patch give patches, and count as large as they become."""
    areas = put(tmp_path / "good", [RNG.integers(0, 256, size, np.uint8) for size in ((20, 40), (64, 31), (32, 32))])
    path = tmp_path / "patches"
    estimate = storage_estimate(areas, ImageSettings(), least=PATCH)
    assert estimate.memory == 4 * (32 * 40 + 64 * 32 + 32 * 32)
    with open_patches(areas, ImageSettings(), PATCH, budget=10**9, path=path, pad=True) as (source, _):
        assert source.places == 9 + 33 + 1
    with (
        pytest.raises(InputError, match=r"000\.png is 40 x 20 at the working scale, a patch is 32 x 32"),
        open_patches(areas, ImageSettings(), PATCH, budget=10**9, path=path),
    ):
        pass


def test_grey_and_colour_are_brought_to_one_number_of_channels(tmp_path: Path) -> None:
    """Grey stored as colour gives the patches of the grey file; for a colour model grey becomes three channels."""
    grey = [RNG.integers(0, 256, (40, 50), np.uint8) for _ in range(2)]
    plain = put(tmp_path / "grey", grey)
    mixed = [put(tmp_path / "colour", [np.repeat(grey[0][:, :, None], 3, axis=2)])[0], plain[1]]
    found = []
    for areas, channels in ((plain, 1), (mixed, 1), (mixed, 3), (plain, 3)):
        with open_patches(areas, ImageSettings(), PATCH, budget=0, path=tmp_path / "patches", channels=channels) as (
            source,
            _,
        ):
            assert source.channels == channels
            found.append(source.cut(np.arange(0, source.places, 17)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    np.testing.assert_array_equal(np.repeat(found[0], 3, axis=1), found[2])


def test_regions_of_interest(tmp_path: Path) -> None:
    """By box, masks and brightness, and of areas of images: the same places, the same patches."""
    images = pictures("uint8", 1)
    areas = put(tmp_path / "good", images)
    insides = []
    for image in images:
        inside = np.ones(image.shape, np.uint8) * 255
        inside[:, 40:44] = inside[5, 60:] = inside[-1, :7] = 0
        insides.append(inside)
        image[:, 50:] //= 8
    put(tmp_path / "good", images)
    put(tmp_path / "masks", insides)
    for region in ({"masks": tmp_path / "masks"}, {"box": (3, 0, 64, 33)}, {"brightness": (0.3, 1.0)}):
        for scale in (1.0, 0.99):
            settings = ImageSettings(roi=RegionOfInterest(**region), scale=scale)
            same_patches(areas, settings, tmp_path / "patches")
    cut = [ImageRegion(area.path, "", (20, 0, 64, 33)) for area in areas]
    assert same_patches(cut, ImageSettings(), tmp_path / "patches").places == 4 * 13 * 2


@pytest.mark.parametrize(
    ("kind", "channels", "settings", "bytes_a_value"),
    [
        ("uint8", 1, {}, 1),
        ("uint8", 3, {}, 1),
        ("uint16", 1, {}, 2),
        ("uint16", 1, {"white": 65535.0}, 2),
        ("float32", 1, {}, 4),
        ("uint8", 3, {"mode": "grey"}, 4),
        ("uint8", 1, {"mode": "colour"}, 1),
        ("uint8", 1, {"scale": 1.5}, 4),
    ],
)
def test_needs_are_what_the_file_takes(
    tmp_path: Path, kind: str, channels: int, settings: dict[str, Any], bytes_a_value: int
) -> None:
    """Headers tell to the byte what memory and disk will take."""
    areas, path = put(tmp_path / "good", pictures(kind, channels)), tmp_path / "patches"
    images = ImageSettings(**settings)
    needs = storage_estimate(areas, images)
    loaded = [piece.pixels for piece in training_images(areas, images, LoadStatistics())]
    assert needs.memory == sum(image.nbytes for image in loaded)
    padded = sum(image.shape[0] * -(-image.shape[1] // 64) * 64 * image.shape[2] for image in loaded)
    assert needs == StorageEstimate(loaded[0].shape[2], needs.memory, bytes_a_value * padded)
    with open_patches(areas, images, PATCH, budget=0, path=path):
        assert path.stat().st_size == needs.disk


def test_a_box_cuts_the_needs(tmp_path: Path) -> None:
    """What lies outside of area and box takes nothing."""
    (area, *_) = put(tmp_path, [RNG.integers(0, 256, (100, 120), np.uint8)])
    settings = ImageSettings(roi=RegionOfInterest(box=(10, 20, 90, 100)))
    assert storage_estimate([ImageRegion(area.path, "", (0, 0, 50, 60))], settings).memory == 4 * 40 * 40


def test_what_is_said(tmp_path: Path) -> None:
    """Each image that was read; where images do not fit, what they take and where patches are read from instead."""
    areas, path, heard = put(tmp_path / "good", pictures("uint8", 1)), tmp_path / "m.patches", Heard()
    for budget in (10**6, 10_000):
        with open_patches(areas, ImageSettings(), PATCH, budget=budget, path=path, events=heard):
            pass
    assert heard.progressed == 2 * [(done, 4, str(area.path)) for done, area in enumerate(areas, start=1)]
    assert heard.said == [
        "4 images or areas take 0.1 MB of memory, 0.0 MB may be used (training.memory_gb): patches are read from "
        f"{path}, which takes 0.0 MB and is written now"
    ]


class Heard(Events):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.progressed: list[tuple[int, int, str]] = []

    def message(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: int, total: int, what: str) -> None:
        self.progressed.append((done, total, what))


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room is known before anything is written, with what is needed and what else can be done."""
    areas, path = put(tmp_path / "good", [np.zeros((3000, 1024), np.uint8)] * 2), tmp_path / "m.patches"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6_100_000))
    with (
        pytest.raises(InputError) as error,
        open_patches(areas, ImageSettings(), PATCH, budget=0, path=path),
    ):
        pass
    assert str(error.value) == (
        f"{tmp_path} has 6.1 MB free, 6.1 MB are needed; make room or name a folder on another disk, or hold the "
        "images in memory (--set training.memory_gb=0.1)"
    )
    assert not path.exists()


def test_what_ends_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged image, a full disk, an interruption: the file is gone, and so is one that a killed run has left."""
    areas, path = put(tmp_path / "good", pictures("uint8", 1)), tmp_path / "m.patches"
    path.write_text("left by a run that was killed")
    with open_patches(areas, ImageSettings(), PATCH, budget=10**9, path=path):
        assert not path.exists()
    path.write_text("left by a run that was killed")
    with pytest.raises(KeyboardInterrupt), open_patches(areas, ImageSettings(), PATCH, budget=0, path=path):
        raise KeyboardInterrupt
    assert not path.exists()
    whole = areas[2].path.read_bytes()
    areas[2].path.write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(InputError, match="remove it, or leave such files out with --skip-unreadable"),
        open_patches(areas, ImageSettings(), PATCH, budget=0, path=path),
    ):
        pass
    assert not path.exists()

    def full(store: Any, shape: Any, blocks: Any) -> None:
        raise OutputError("no room")

    monkeypatch.setattr(loading.TileStore, "add", full)
    with (
        pytest.raises(OutputError, match="no room"),
        open_patches(areas, ImageSettings(), PATCH, budget=0, path=path),
    ):
        pass
    assert not path.exists()


def test_mixed_images_are_refused_by_their_headers(tmp_path: Path) -> None:
    """Grey and colour are counted before any image is read."""
    areas = put(tmp_path, [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8)])
    with pytest.raises(InputError, match=r"^the images are mixed: 2 grey and 1 in colour; make them alike with "):
        storage_estimate(areas, ImageSettings())
    assert storage_estimate(areas, ImageSettings(mode="grey")).channels == 1


@pytest.mark.parametrize("masks", [False, True])
def test_memory_is_bounded(tmp_path: Path, masks: bool) -> None:
    """Of 60 images no more than a few are in memory at any time, while the file is written and while it is read."""
    size, count = (256, 320), 60
    areas = put(tmp_path / "good", [RNG.integers(0, 256, size, np.uint8) for _ in range(count)])
    settings = ImageSettings()
    if masks:
        rows, columns = np.ogrid[: size[0], : size[1]]
        inside = np.uint8(255) * ((rows - 128) ** 2 + (columns - 160) ** 2 < 120**2)
        put(tmp_path / "masks", [inside] * count)
        settings = ImageSettings(roi=RegionOfInterest(masks=tmp_path / "masks"))
    one = 4 * size[0] * size[1]
    with open_patches(areas[:1], settings, PATCH, budget=0, path=tmp_path / "patches") as (source, _):
        source.sample(4, np.random.default_rng(0))  # whatever is imported or kept at the first time
    measured = []
    for _ in range(2):  # the interpreter's own tables grow now and then, once: the smaller of two counts
        tracemalloc.start()
        try:
            with open_patches(areas, settings, PATCH, budget=0, path=tmp_path / "patches") as (source, _):
                written = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                for seed in range(20):
                    source.sample(32, np.random.default_rng(seed))
                measured.append((*written, *tracemalloc.get_traced_memory()))
        finally:
            tracemalloc.stop()
    kept, at_most, _, read = np.min(measured, axis=0)
    transient = 12 if masks else 4  # tables of sums over a mask, 8 bytes a pixel each
    assert at_most < transient * one
    assert kept < one, "runs of places are what stays"
    assert read < 3 * one

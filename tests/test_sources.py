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
from numpy.typing import NDArray

from flawmap.core.errors import InputError, OutputError
from flawmap.core.settings import ImageSettings, RegionOfInterest
from flawmap.data import loading
from flawmap.data.loading import LoadStatistics, StorageEstimate, open_patches, pieces, storage_estimate
from flawmap.data.patches import PatchSource
from flawmap.data.splits import ImageRegion
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


def silent(sentence: str) -> None:
    return None


def same_patches(areas: list[ImageRegion], settings: ImageSettings, path: Path) -> PatchSource:
    """Asserts that a source of one's own, memory and disk give one and the same; returns the first."""
    tally = LoadStatistics()
    plain, found, tallies = PatchSource(pieces(areas, settings, tally), PATCH), [], [tally]
    for budget in (10**9, 0):
        with open_patches(areas, settings, PATCH, budget=budget, path=path, say=silent) as (source, tally):
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
    loaded = [piece.pixels for piece in pieces(areas, images, LoadStatistics())]
    assert needs.memory == sum(image.nbytes for image in loaded)
    padded = sum(image.shape[0] * -(-image.shape[1] // 64) * 64 * image.shape[2] for image in loaded)
    assert needs == StorageEstimate(loaded[0].shape[2], needs.memory, bytes_a_value * padded)
    with open_patches(areas, images, PATCH, budget=0, path=path, say=silent):
        assert path.stat().st_size == needs.disk


def test_a_box_cuts_the_needs(tmp_path: Path) -> None:
    """What lies outside of area and box takes nothing."""
    (area, *_) = put(tmp_path, [RNG.integers(0, 256, (100, 120), np.uint8)])
    settings = ImageSettings(roi=RegionOfInterest(box=(10, 20, 90, 100)))
    assert storage_estimate([ImageRegion(area.path, "", (0, 0, 50, 60))], settings).memory == 4 * 40 * 40


def test_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far reading has come; where images do not fit, what they take and where patches are read from instead."""
    monkeypatch.setattr(loading, "SAY_SECONDS", -1)
    areas, path = put(tmp_path / "good", pictures("uint8", 1)), tmp_path / "m.patches"
    said: list[str] = []
    with open_patches(areas, ImageSettings(), PATCH, budget=10**6, path=path, say=said.append):
        assert said == [f"{number} of 4 images or areas read" for number in (1, 2, 3, 4)]
    with open_patches(areas, ImageSettings(), PATCH, budget=10_000, path=path, say=said.append):
        pass
    assert said[4:] == [
        f"4 images or areas take 0.1 MB of memory, 0.0 MB may be used (training.memory_gb): patches are read from "
        f"{path}, which takes 0.0 MB and is written now",
        *said[:4],
    ]


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room is known before anything is written, with what is needed and what else can be done."""
    areas, path = put(tmp_path / "good", [np.zeros((3000, 1024), np.uint8)] * 2), tmp_path / "m.patches"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=6_100_000))
    with (
        pytest.raises(InputError) as error,
        open_patches(areas, ImageSettings(), PATCH, budget=0, path=path, say=silent),
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
    with open_patches(areas, ImageSettings(), PATCH, budget=10**9, path=path, say=silent):
        assert not path.exists()
    path.write_text("left by a run that was killed")
    with pytest.raises(KeyboardInterrupt), open_patches(areas, ImageSettings(), PATCH, budget=0, path=path, say=silent):
        raise KeyboardInterrupt
    assert not path.exists()
    whole = areas[2].path.read_bytes()
    areas[2].path.write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(InputError, match="remove it, or leave such files out with --skip-unreadable"),
        open_patches(areas, ImageSettings(), PATCH, budget=0, path=path, say=silent),
    ):
        pass
    assert not path.exists()

    def full(store: Any, shape: Any, blocks: Any) -> None:
        raise OutputError("no room")

    monkeypatch.setattr(loading.TileStore, "add", full)
    with (
        pytest.raises(OutputError, match="no room"),
        open_patches(areas, ImageSettings(), PATCH, budget=0, path=path, say=silent),
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
    with open_patches(areas[:1], settings, PATCH, budget=0, path=tmp_path / "patches", say=silent) as (source, _):
        source.sample(4, np.random.default_rng(0))  # whatever is imported or kept at the first time
    tracemalloc.start()
    try:
        with open_patches(areas, settings, PATCH, budget=0, path=tmp_path / "patches", say=silent) as (source, _):
            written = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for seed in range(20):
                source.sample(32, np.random.default_rng(seed))
            read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    transient = 12 if masks else 4  # tables of sums over a mask, 8 bytes a pixel each
    assert written[1] < transient * one
    assert written[0] < one, "runs of places are what stays"
    assert read[1] < 3 * one

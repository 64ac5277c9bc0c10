"""What the pixels of training images say: grey stored as colour, bit depth, dead frames and outliers, sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.core.events import Events
from flawmap.core.settings import ImageSettings, RegionOfInterest
from flawmap.data.facts import FAR, ImageStatistics, all_statistics, image_facts, outliers, statistics_of
from flawmap.data.layouts import find_dataset
from flawmap.data.preparation import TrainingSet, training_set
from flawmap.data.samples import Sample
from flawmap.data.summary import describe
from flawmap.imaging import rows
from flawmap.imaging.writing import write_image

RNG = np.random.default_rng(7)
AUTO = ImageSettings()


def cloth(*, mean: float = 0.5, deviation: float = 0.1, shape: tuple[int, ...] = (60, 70)) -> NDArray[np.float64]:
    return np.clip(RNG.normal(mean, deviation, shape), 0, 1)


def put(folder: Path, images: list[NDArray[Any]]) -> list[Path]:
    """PNG files of 8 bit, TIFF files of any other type."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, image in enumerate(images):
        path = folder / f"{number:03d}.{'png' if image.dtype == np.uint8 else 'tif'}"
        if image.dtype == np.uint8:
            write_image(path, image)
        else:
            tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")
        paths.append(path)
    return paths


def bytes_of(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(image * 255).astype(np.uint8)


def seen(paths: list[Path], settings: ImageSettings = AUTO) -> list[ImageStatistics]:
    found = list(all_statistics(paths, settings))
    assert all(isinstance(image, ImageStatistics) for image in found)
    return [image for image in found if isinstance(image, ImageStatistics)]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_pixels(
    tmp_path: Path, kind: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean, standard deviation, largest value and size, whole or by bands of rows."""
    values = cloth(shape=(60, 70) if channels == 1 else (60, 70, 3))
    full = {"uint8": 255, "uint16": 65535, "float32": 1}[kind]
    stored = (np.rint(values * full) if full > 1 else values).astype(kind)
    (path,) = put(tmp_path, [stored])
    whole = statistics_of(path, AUTO)
    monkeypatch.setattr(rows, "BAND_PIXELS", 500)
    monkeypatch.setattr("flawmap.data.facts.WHOLE_PIXELS", 100)
    for found in (whole, statistics_of(path, AUTO)):
        assert (found.width, found.height, found.stored, found.full) == (70, 60, kind, full)
        assert (found.channels, found.stored_channels) == (channels, channels)
        assert found.largest == stored.max()
        assert found.mean == pytest.approx(stored.mean(dtype=np.float64) / full, rel=1e-5)
        assert found.deviation == pytest.approx(stored.std(dtype=np.float64) / full, rel=1e-4)


def test_unreadable_images_have_no_statistics(tmp_path: Path) -> None:
    """An error takes their place, in order; values beyond the white that was named are one."""
    good, bad = put(tmp_path, [bytes_of(cloth())] * 2)
    bad.write_text("hello")
    first, second = all_statistics([good, bad], AUTO)
    assert isinstance(first, ImageStatistics)
    assert isinstance(second, InputError)


# --------------------------------------------------------------------------------------------------- channels and depth


def test_grey_stored_as_colour(tmp_path: Path) -> None:
    """Three equal channels are grey; among truly grey ones, too; with one coloured pixel they are colour."""
    grey = [bytes_of(cloth()) for _ in range(3)]
    as_colour = [np.repeat(image[:, :, None], 3, axis=2) for image in grey]
    coloured = as_colour[0].copy()
    coloured[30, 40, 1] ^= 1
    facts = image_facts(seen(put(tmp_path / "a", as_colour)), AUTO)
    assert (facts.channels, facts.sentences) == (
        1,
        ("3 of 3 images hold grey pixels stored as colour: the model has one channel",),
    )
    assert image_facts(seen(put(tmp_path / "b", [*grey, *as_colour])), AUTO).channels == 1
    facts = image_facts(seen(put(tmp_path / "c", [coloured, *as_colour])), AUTO)
    assert (facts.channels, facts.sentences) == (3, ("3 of 4 colour images hold grey pixels alone",))
    mixed = seen(put(tmp_path / "d", [coloured, *grey]))
    with pytest.raises(InputError) as error:
        image_facts(mixed, AUTO)
    assert str(error.value) == (
        "the images are mixed: 1 in colour (000.png) and 3 grey (001.png, 002.png, 003.png); make them alike with "
        "--mode grey or --mode colour"
    )
    assert image_facts(mixed, ImageSettings(mode="colour")).channels == 3
    assert image_facts(mixed, ImageSettings(mode="grey")).channels == 1


@pytest.mark.parametrize(
    ("largest", "white"),
    [(200, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (16383, 16383), (16384, None)],
)
def test_bit_depth(tmp_path: Path, largest: int, white: int | None) -> None:
    """The smallest depth of cameras that all stored values fit; true 16 bit stays what it is."""
    images = [np.rint(cloth() * 100).astype(np.uint16) for _ in range(3)]
    images[1][5, 5] = largest
    facts = image_facts(seen(put(tmp_path, images)), AUTO)
    assert facts.white == white
    bits = 0 if white is None else (white + 1).bit_length() - 1
    said = f"no value of 3 16-bit images is above {largest}: they look like {bits} bits, so {white} is white"
    assert facts.sentences == (() if white is None else (f"{said} (images.white)",))


def test_bit_depth_is_left_alone(tmp_path: Path) -> None:
    """Where the white is named, values are of another type, or a TIFF says its own depth."""
    deep = np.rint(cloth() * 4095).astype(np.uint16)
    paths = put(tmp_path / "deep", [deep])
    assert image_facts(seen(paths, ImageSettings(white=65535)), ImageSettings(white=65535)).white is None
    assert image_facts(seen(put(tmp_path / "float", [cloth().astype(np.float32)])), AUTO).white is None
    facts = image_facts(seen([*paths, *put(tmp_path / "eight", [bytes_of(cloth())])]), AUTO)
    assert facts.white is None
    assert facts.sentences[0].endswith(
        "they look like 12 bits, but other images have another type; convert them to one, or set images.white"
    )


# ------------------------------------------------------------------------------------------------------------- outliers


def statistics(
    number: int, *, mean: float = 0.5, deviation: float = 0.1, size: tuple[int, int] = (60, 70), largest: float = 255
) -> ImageStatistics:
    path = Path(f"{number}.png")
    return ImageStatistics(path, size[1], size[0], 1, 1, "uint8", 255, largest, mean, deviation)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_dead_frames(tmp_path: Path, bits: int) -> None:
    """An all-black and an all-white image are named, whatever the bit depth; a usual one is not."""
    kind, full = (np.uint8, 255) if bits == 8 else (np.uint16, 2**bits - 1)
    images = [np.rint(cloth() * full).astype(kind) for _ in range(20)]
    images += [np.zeros((60, 70), kind), np.full((60, 70), full, kind)]
    found = dict(outliers(seen(put(tmp_path, images))))
    assert [path.stem for path in found] == ["020", "021"]
    black, white = found.values()
    assert black == "it is flat: all of its values are about 0"
    assert white == f"it is flat: all of its values are about {full}"


@pytest.mark.parametrize(
    ("strange", "said"),
    [
        ({"mean": 0.05}, "its brightness is 0.05, usual is 0.50"),
        ({"mean": 0.95}, "its brightness is 0.95, usual is 0.50"),
        ({"deviation": 0.3}, "its contrast is 0.30, usual is 0.10"),
        ({"size": (6, 7)}, "its size is 7 x 6, usual is a side of about 65 pixels"),
        ({"size": (600, 700)}, "its size is 700 x 600, usual is a side of about 65 pixels"),
    ],
)
def test_what_is_far_from_the_others(strange: dict[str, Any], said: str) -> None:
    """Brightness, contrast and size, each with what is usual."""
    usual = [statistics(number, mean=0.5 + 0.002 * (number % 5)) for number in range(10)]
    assert outliers(usual) == ()
    ((path, reason),) = outliers([*usual, statistics(99, **strange)])
    assert path.name == "99.png"
    assert reason == said


def test_few_images_say_nothing_about_what_is_usual() -> None:
    """Of four images only flat ones are named."""
    four = [
        statistics(0, mean=0.1),
        statistics(1, mean=0.9),
        statistics(2, size=(900, 900)),
        statistics(3, deviation=0),
    ]
    assert outliers(four) == ((Path("3.png"), "it is flat: all of its values are about 255"),)
    assert outliers([]) == ()


@given(
    st.lists(st.floats(0.1, 0.9), min_size=5, max_size=30),
    st.floats(0.1, 1.0),
    st.sampled_from([255.0, 1023.0, 65535.0]),
)
def test_the_rule_is_median_and_mad(means: list[float], largest: float, full: float) -> None:
    """The documented rule, spelled out; at whatever part of its range a camera works."""
    images = [
        ImageStatistics(Path(f"{n}.png"), 70, 60, 1, 1, "uint16", full, largest * full, mean * largest, 0.1 * largest)
        for n, mean in enumerate(means)
    ]
    usual = np.median(means)
    spread = max(0.02, 1.4826 * float(np.median(np.abs(np.array(means) - usual))))
    far = {f"{n}.png" for n, mean in enumerate(means) if abs(mean - usual) > FAR * spread * (1 + 1e-9)}
    near = {f"{n}.png" for n, mean in enumerate(means) if abs(mean - usual) > FAR * spread * (1 - 1e-9)}
    assert far <= {path.name for path, _ in outliers(images)} <= near


@pytest.mark.parametrize("name", ["nanotwice", "mvtec_grid_512", "aitex_fabric03", "aitex_fabric04"])
def test_no_real_image_is_an_outlier(real_data: Path, name: str) -> None:
    """Nothing is flagged among the good images of the real sets, nor is anything found of depth or colour."""
    summary = describe(find_dataset(real_data / name), AUTO)
    assert summary.outliers == ()
    assert summary.facts == ()


# ---------------------------------------------------------------------------------------------------------- preparation


class Heard(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def prepared(
    folder: Path, settings: ImageSettings = AUTO, patch: int = 32, **more: Any
) -> tuple[TrainingSet, list[str]]:
    heard = Heard()
    return training_set(find_dataset(folder).samples, settings, patch, events=heard, **more), heard.said


def names(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.path.name for sample in samples]


def test_outliers_are_named_and_left_out(tmp_path: Path) -> None:
    """Without the option they are named and trained on; with it they are left out, each with its reason."""
    put(tmp_path, [*(bytes_of(cloth()) for _ in range(8)), np.zeros((60, 70), np.uint8)])
    kept, said = prepared(tmp_path)
    assert len(kept.samples) == 9
    assert said[0].startswith(f"1 of 9 images are unlike the others: {tmp_path / '008.png'}: it is flat")
    assert said[1] == "look at them; --skip-outliers leaves them out"
    kept, said = prepared(tmp_path, skip_outliers=True)
    assert len(kept.samples) == 8
    ((path, reason),) = kept.left_out
    assert (path.name, reason[:35]) == ("008.png", "unlike the others: it is flat: all ")
    assert said == [f"left out {path}: {reason}"]
    summary = describe(find_dataset(tmp_path), AUTO)
    assert [path.name for path, _ in summary.outliers] == ["008.png"]
    assert summary.to_dict()["outliers"][0]["path"] == str(tmp_path / "008.png")


def test_images_that_are_left_out_do_not_decide_the_depth(tmp_path: Path) -> None:
    """A frame of larger values hides that the others have 12 bits, until it is left out."""
    images = [np.rint(cloth() * 4095).astype(np.uint16) for _ in range(8)]
    put(tmp_path, [*images, np.full((60, 70), 65535, np.uint16)])
    assert prepared(tmp_path)[0].facts.white is None
    assert prepared(tmp_path, skip_outliers=True)[0].facts.white == 4095
    assert describe(find_dataset(tmp_path), AUTO).facts == ()


def test_unreadable_images(tmp_path: Path) -> None:
    """They stop the training, or are left out; then something must be left."""
    paths = put(tmp_path, [bytes_of(cloth()) for _ in range(3)])
    paths[1].write_text("hello")
    with pytest.raises(
        InputError, match=r"001\.png is no known image.*; remove it, or leave .* with --skip-unreadable$"
    ):
        prepared(tmp_path)
    kept, said = prepared(tmp_path, skip_unreadable=True)
    assert names(kept.samples) == ["000.png", "002.png"]
    assert [path.name for path, _ in kept.left_out] == ["001.png"]
    assert said[0].startswith(f"left out {paths[1]}: {paths[1]} is no known image")


def test_images_smaller_than_a_patch(tmp_path: Path) -> None:
    """They are left out by name at the working scale; with padding only those that reflection cannot fill."""
    put(tmp_path, [bytes_of(cloth(shape=shape)) for shape in ((40, 60), (31, 60), (60, 31), (11, 60), (12, 12))])
    kept, said = prepared(tmp_path)
    assert names(kept.samples) == ["000.png"]
    assert said[-1].startswith(
        f"4 of 5 images are smaller than a patch (32 x 32) and are left out: {tmp_path / '001.png'} (60 x 31), "
    )
    assert said[-1].endswith("(12 x 12); --set tiling.pad=true trains on them with reflected borders")
    kept, said = prepared(tmp_path, pad=True)
    assert names(kept.samples) == ["000.png", "001.png", "002.png", "004.png"]
    assert said[-1] == (
        "1 of 5 images are smaller than a third of a patch (32 x 32) and are left out: "
        f"{tmp_path / '003.png'} (60 x 11)"
    )
    half = ImageSettings(scale=0.5)
    with pytest.raises(InputError, match=r"^no image is left to train on: 5 of 5 images are smaller than a patch"):
        prepared(tmp_path, half)
    inside = np.zeros((40, 60), np.uint8)
    inside[:, :31] = 255
    write_image(tmp_path.parent / "masks.png", inside)
    masks = tmp_path.parent / "roi"
    put(masks, [inside])
    only = [find_dataset(tmp_path).samples[0]]
    with pytest.raises(InputError, match=r"000\.png \(31 x 40\)"):
        training_set(only, ImageSettings(roi=RegionOfInterest(masks=masks)), 32)

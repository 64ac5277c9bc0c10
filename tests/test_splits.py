"""Who trains, validates and is held out: never two roles for one pixel, nothing lost, nothing by chance."""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.files import sha256_of
from flawmap.core.settings import SplitSettings
from flawmap.data.splits import ROLES, Split, cut_strip, refuse_trained, split_good
from flawmap.imaging.writing import write_image

HALF = SplitSettings(validation=0.1, test=0.1)


@dataclass(frozen=True)
class Good:
    path: Path
    split: str = "train"
    label: str = "good"


def images(folder: Path, count: int, size: tuple[int, int] = (40, 60), split: str = "train") -> list[Good]:
    """Images of (height, width), all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(split))
    samples = []
    for number in range(count):
        path = folder / f"{split}{number}.png"
        write_image(path, rng.integers(0, 256, size, dtype=np.uint8))
        samples.append(Good(path, split))
    return samples


def names(split: Split, role: str) -> list[str]:
    return [area.path.name for area in getattr(split, role)]


def sizes(split: Split) -> list[int]:
    return [len(getattr(split, role)) for role in ROLES]


def test_many_images_are_parted_whole(tmp_path: Path) -> None:
    """Every image has exactly one role, the shares are rounded, and order and folder of the files do not matter."""
    samples = images(tmp_path / "a", 20)
    split = split_good(samples, SplitSettings(validation=0.2, test=0.1, seed=3), 10)
    assert sizes(split) == [14, 4, 2]
    assert sorted(name for role in ROLES for name in names(split, role)) == sorted(s.path.name for s in samples)
    assert all(area.box is None for role in ROLES for area in getattr(split, role))
    elsewhere = images(tmp_path / "elsewhere" / "b", 20)[::-1]
    again = split_good(elsewhere, SplitSettings(validation=0.2, test=0.1, seed=3), 10)
    assert [names(again, role) for role in ROLES] == [names(split, role) for role in ROLES]
    assert again.digest == split.digest


def test_seeds_part_differently(tmp_path: Path) -> None:
    """Over seeds, every image takes every role."""
    samples = images(tmp_path, 8)
    splits = [split_good(samples, SplitSettings(validation=0.25, test=0.25, seed=seed), 10) for seed in range(40)]
    for role in ROLES:
        assert {name for split in splits for name in names(split, role)} == {sample.path.name for sample in samples}
    assert len({split.digest for split in splits}) > 30


def test_small_shares_take_one_image_and_none_takes_none(tmp_path: Path) -> None:
    """A share above 0 is at least one image; a share of 0 is none."""
    samples = images(tmp_path, 6)
    assert sizes(split_good(samples, SplitSettings(validation=0.01, test=0.01), 10)) == [4, 1, 1]
    assert sizes(split_good(samples, SplitSettings(validation=0, test=0.01), 10)) == [5, 0, 1]
    assert sizes(split_good(samples, SplitSettings(validation=0, test=0), 10)) == [6, 0, 0]
    with pytest.raises(
        ConfigError, match=r"^3 validation and 3 test images of 6 leave none to train on; lower the shares$"
    ):
        split_good(samples, SplitSettings(validation=0.5, test=0.45), 10)


def test_last_by_name(tmp_path: Path) -> None:
    """`last` holds out the last images by natural order, and the shares apply to the rest."""
    samples = images(tmp_path, 12)
    split = split_good(samples, SplitSettings(validation=0.1, test=0.5, last=2), 10)
    assert names(split, "test") == ["train10.png", "train11.png"]
    assert sizes(split) == [9, 1, 2]
    assert sizes(split_good(samples, SplitSettings(last=0), 10)) == [11, 1, 0]
    with pytest.raises(
        ConfigError, match="the last 12 images are to be held out, but there are 12 good ones; take fewer"
    ):
        split_good(samples, SplitSettings(last=12), 10)


def test_own_test_images(tmp_path: Path) -> None:
    """Good images of the test folder are the test images; a share is taken only besides them by `last`."""
    samples = images(tmp_path, 10) + images(tmp_path, 3, split="test")
    split = split_good(samples, HALF, 10)
    assert sizes(split) == [9, 1, 3]
    assert names(split, "test") == ["test0.png", "test1.png", "test2.png"]
    assert sizes(split_good(samples, SplitSettings(last=2), 10)) == [7, 1, 5]


def test_copies_share_a_role(tmp_path: Path) -> None:
    """Files of one content are never parted, and none may be in train and test at once."""
    samples = images(tmp_path, 8)
    for number in range(4):
        copy = tmp_path / f"copy{number}.png"
        copy.write_bytes(samples[number].path.read_bytes())
        samples.append(Good(copy))
    for seed in range(10):
        split = split_good(samples, SplitSettings(validation=0.3, test=0.3, seed=seed), 10)
        contents = [{area.sha256 for area in getattr(split, role)} for role in ROLES]
        assert all(first.isdisjoint(second) for first, second in combinations(contents, 2))
        assert sum(sizes(split)) == 12
    with pytest.raises(InputError, match=r"copy0\.png are the same image, in training and in test; remove one"):
        split_good([*samples[:8], Good(samples[8].path, "test")], HALF, 10)


@pytest.mark.parametrize(
    "size", [(700, 1024), (1024, 700), (300, 300), (128, 384), (384, 128), (257, 256), (128, 5000)]
)
@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.1, 0), (0, 0.1)])
def test_few_images_give_up_a_strip(tmp_path: Path, size: tuple[int, int], shares: tuple[float, float]) -> None:
    """Areas cover each image exactly once, and no side is shorter than a patch."""
    samples = images(tmp_path, 3, size)
    for seed in range(4):
        split = split_good(samples, SplitSettings(validation=shares[0], test=shares[1], seed=seed), 128)
        assert sizes(split) == [3, 3 * (shares[0] > 0), 3 * (shares[1] > 0)]
        for sample in samples:
            covered = np.zeros(size, int)
            for role in ROLES:
                for area in getattr(split, role):
                    if area.path == sample.path:
                        left, top, right, bottom = area.box
                        assert min(right - left, bottom - top) >= 128
                        covered[top:bottom, left:right] += 1
            assert (covered == 1).all()


def test_strips_of_the_expected_width() -> None:
    """An eighth of the longer side, or a patch; halves across where they hold a patch, else side by side."""
    both = ("validation", "test")
    assert cut_strip((0, 0, 1024, 700), both, 128, at_end=False) == {
        "train": (128, 0, 1024, 700),
        "validation": (0, 0, 128, 350),
        "test": (0, 350, 128, 700),
    }
    assert cut_strip((100, 0, 4100, 256), both, 128, at_end=True) == {
        "train": (100, 0, 3600, 256),
        "validation": (3600, 0, 4100, 128),
        "test": (3600, 128, 4100, 256),
    }
    assert cut_strip((0, 0, 200, 1000), both, 128, at_end=True) == {
        "train": (0, 0, 200, 744),
        "validation": (0, 744, 200, 872),
        "test": (0, 872, 200, 1000),
    }
    assert cut_strip((0, 0, 383, 128), both, 128, at_end=True) is None
    assert cut_strip((0, 0, 400, 127), both, 128, at_end=True) is None


def test_ends_and_halves_depend_on_the_seed(tmp_path: Path) -> None:
    """Over seeds, validation lies at either end, in either half."""
    samples = images(tmp_path, 1, (300, 400))
    boxes = {split_good(samples, SplitSettings(seed=seed), 64).validation[0].box for seed in range(30)}
    assert boxes == {(0, 0, 64, 150), (0, 150, 64, 300), (336, 0, 400, 150), (336, 150, 400, 300)}


def test_no_shares_leave_whole_images(tmp_path: Path) -> None:
    """With both shares 0, or all held out by name, few images are trained on whole."""
    samples = images(tmp_path, 4)
    whole = split_good(samples, SplitSettings(validation=0, test=0), 500)
    assert [(area.path, area.box) for area in whole.train] == [(sample.path, None) for sample in samples]
    last = split_good(samples, SplitSettings(validation=0, test=0.1, last=1), 500)
    assert names(last, "test") == ["train3.png"]
    assert all(area.box is None for area in last.train)


def test_few_images_too_small(tmp_path: Path) -> None:
    """The error names the sizes and the ways out."""
    samples = images(tmp_path, 2, (100, 383))
    message = (
        r"train0\.png has 383 x 100 usable pixels, too few to keep a strip for validation or test: 384 x 128 are "
        r"needed; give more than 5 good images, larger ones, a smaller patch, or keep none "
        r"\(--validation 0 --last 0\)$"
    )
    with pytest.raises(InputError, match=message):
        split_good(samples, HALF, 128)


def test_bounds(tmp_path: Path) -> None:
    """Areas are cut within the bounds of a region of interest."""
    samples = images(tmp_path, 2, (256, 2000))
    split = split_good(samples, HALF, 64, bounds=lambda _: (600, 10, 1800, 250))
    for role in ROLES:
        for area in getattr(split, role):
            left, top, right, bottom = area.box
            assert 600 <= left < right <= 1800
            assert 10 <= top < bottom <= 250


def test_roles_and_refusal(tmp_path: Path) -> None:
    """A content's role is found again by its digest; what was trained on is refused as unseen."""
    samples = images(tmp_path / "many", 10)
    split = split_good(samples, HALF, 10)
    for role in ROLES:
        assert {split.role_of(area.sha256) for area in getattr(split, role)} == {role}
    assert split.role_of("0" * 64) is None
    refuse_trained(split, [area.path for area in (*split.validation, *split.test)])
    with pytest.raises(
        InputError, match=r"^8 of the images to be scored as unseen were trained on: .*, \.\.\.; leave them"
    ):
        refuse_trained(split, [sample.path for sample in samples])
    few = split_good(samples[:1], HALF, 10)
    assert few.role_of(sha256_of(samples[0].path)) == "areas"
    with pytest.raises(InputError, match="1 of the images"):
        refuse_trained(few, [samples[0].path])


@pytest.mark.parametrize("count", [2, 9])
def test_dictionary_and_back(tmp_path: Path, count: int) -> None:
    """Through JSON and back a split keeps names, contents, boxes and digest, and no folder's name."""
    split = split_good(images(tmp_path / "secret", count), HALF, 10)
    text = json.dumps(split.to_dict())
    assert "secret" not in text
    back = Split.from_dict(json.loads(text))
    assert back.to_dict() == split.to_dict()
    assert back.digest == split.digest


def test_digest_tells_splits_apart(tmp_path: Path) -> None:
    """Roles and boxes count, names do not."""
    split = split_good(images(tmp_path, 2), HALF, 10)
    data = split.to_dict()
    swapped = Split.from_dict({**data, "test": data["validation"], "validation": data["test"]})
    assert swapped.digest != split.digest
    data["train"][0]["file"] = "renamed.png"
    assert Split.from_dict(data).digest == split.digest
    data["train"][0]["box"][0] += 1
    assert Split.from_dict(data).digest != split.digest


@pytest.mark.parametrize("data", [{}, {"train": [{}], "validation": [], "test": []}, {"train": 3}])
def test_damaged_dictionary(data: dict) -> None:
    """A damaged record is an ArtifactError."""
    with pytest.raises(ArtifactError, match="the model file's record of its training images is damaged"):
        Split.from_dict(data)


def test_nothing_good() -> None:
    """Without a good image there is nothing to part."""
    with pytest.raises(InputError, match=r"^no good image to train on$"):
        split_good([], HALF, 10)

"""Who trains, validates and is held out: never two roles for one pixel, nothing lost, nothing by chance."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.files import sha256_of
from flawmap.core.settings import SplitSettings
from flawmap.data import index as data_index
from flawmap.data.index import ImageIndex
from flawmap.data.samples import Sample, SplitName
from flawmap.data.splits import ROLES, Split, cut_strip, refuse_trained, roles_of, split_good
from flawmap.imaging.writing import write_image

HALF = SplitSettings(validation=0.1, test=0.1)


def good(path: Path, split: SplitName = "train", group: str = "") -> Sample:
    return Sample(path, split, "good", "good", group=group)


def images(folder: Path, count: int, size: tuple[int, int] = (40, 60), split: SplitName = "train") -> list[Sample]:
    """Images of (height, width), all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(split))
    samples = []
    for number in range(count):
        path = folder / f"{split}{number}.png"
        write_image(path, rng.integers(0, 256, size, dtype=np.uint8))
        samples.append(good(path, split))
    return samples


def names(split: Split, role: str) -> list[str]:
    return [area.path.name for area in getattr(split, role)]


def sizes(split: Split) -> list[int]:
    return [len(getattr(split, role)) for role in ROLES]


def test_many_images_are_split_whole(tmp_path: Path) -> None:
    """Every image has exactly one role, and order and folder of the files do not matter."""
    samples = images(tmp_path / "a", 20)
    split = split_good(samples, SplitSettings(validation=0.2, test=0.1, seed=3), 10)
    assert min(sizes(split)) >= 1
    assert sorted(name for role in ROLES for name in names(split, role)) == sorted(s.path.name for s in samples)
    assert all(area.box is None for role in ROLES for area in getattr(split, role))
    elsewhere = images(tmp_path / "elsewhere" / "b", 20)[::-1]
    again = split_good(elsewhere, SplitSettings(validation=0.2, test=0.1, seed=3), 10)
    assert [names(again, role) for role in ROLES] == [names(split, role) for role in ROLES]
    assert again.digest == split.digest


KEYS = st.lists(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=6, max_size=40, unique=True)
FRACTION = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.45])


@given(keys=KEYS, new=st.text("ghijk", min_size=1), fractions=st.tuples(FRACTION, FRACTION), seed=st.integers(0, 5))
def test_a_new_image_moves_no_other(keys: list[str], new: str, fractions: tuple[float, float], seed: int) -> None:
    """A role depends on key and seed alone, unless a role would stay empty: then the nearest key fills it."""
    before, after = roles_of(keys, *fractions, seed), roles_of([*keys, new], *fractions, seed)
    alone = {key: rule(key, *fractions, seed) for key in [*keys, new]}
    wanted = {"train"} | {role for role, share in zip(("validation", "test"), fractions, strict=True) if share > 0}
    for roles in (before, after):
        assert set(roles.values()) == wanted
        filled = wanted - {alone[key] for key in roles}
        assert {role for key, role in roles.items() if role != alone[key]} == filled
        assert sum(role != alone[key] for key, role in roles.items()) == len(filled)


def rule(key: str, validation: float, test: float, seed: int) -> str:
    """The documented rule, spelled out."""
    place = int(hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()[:12], 16) / 16**12
    return "validation" if place < validation else "test" if place >= 1 - test else "train"


def test_fractions_are_met_on_average() -> None:
    """Of many images each role gets its fraction."""
    roles = Counter(roles_of([str(number) for number in range(20_000)], 0.2, 0.1, 0).values())
    assert abs(roles["validation"] - 4000) < 300
    assert abs(roles["test"] - 2000) < 250


def test_seeds_split_differently(tmp_path: Path) -> None:
    """Over seeds, every image takes every role."""
    samples = images(tmp_path, 8)
    splits = [split_good(samples, SplitSettings(validation=0.25, test=0.25, seed=seed), 10) for seed in range(40)]
    for role in ROLES:
        assert {name for split in splits for name in names(split, role)} == {sample.path.name for sample in samples}
    assert len({split.digest for split in splits}) > 30


def test_small_fractions_take_one_image_and_none_takes_none(tmp_path: Path) -> None:
    """A fraction above 0 is at least one image; a fraction of 0 is none; one image is always trained on."""
    samples = images(tmp_path, 6)
    for seed in range(20):
        tiny = {"seed": seed}
        assert min(sizes(split_good(samples, SplitSettings(validation=0.01, test=0.01, **tiny), 10))) >= 1
        assert sizes(split_good(samples, SplitSettings(validation=0, test=0.01, **tiny), 10))[1] == 0
        assert sizes(split_good(samples, SplitSettings(validation=0, test=0, **tiny), 10)) == [6, 0, 0]
        assert min(sizes(split_good(samples, SplitSettings(validation=0.5, test=0.45, **tiny), 10))) >= 1


def test_images_of_a_group_share_a_role(tmp_path: Path) -> None:
    """Rolls are never split; what would split one is refused."""
    samples = [replace(image, group=f"roll{number // 4}") for number, image in enumerate(images(tmp_path, 24))]
    for seed in range(10):
        split = split_good(samples, SplitSettings(validation=0.3, test=0.3, seed=seed), 10)
        rolls = [{samples[int(name.removeprefix("train")[:-4])].group for name in names(split, role)} for role in ROLES]
        assert all(first.isdisjoint(second) for first, second in combinations(rolls, 2))
        assert sum(sizes(split)) == 24
        assert min(sizes(split)) >= 4
    last = split_good(samples, SplitSettings(last=2), 10)
    assert names(last, "test") == ["train20.png", "train21.png", "train22.png", "train23.png"]
    with pytest.raises(
        ConfigError, match=r"^2 groups of images cannot be split into test, train, validation; give more"
    ):
        split_good(samples[:8], HALF, 10)
    with pytest.raises(InputError, match=r"train\d+\.png are of one group, in training and in test; the images of a"):
        split_good([*samples[:23], replace(samples[23], split="test")], HALF, 10)
    copy = tmp_path / "copy.png"
    copy.write_bytes(samples[0].path.read_bytes())
    with pytest.raises(InputError, match="are the same image, but of different groups; give them one group"):
        split_good([*samples, good(copy, group="roll9")], HALF, 10)


def test_own_validation_images(tmp_path: Path) -> None:
    """Good images of the set's own validation folder validate; then no fraction of the others does."""
    samples = images(tmp_path, 12) + images(tmp_path, 3, split="validation")
    split = split_good(samples, SplitSettings(validation=0.5, test=0), 10)
    assert sizes(split) == [12, 3, 0]
    few = images(tmp_path / "few", 2, (40, 600)) + images(tmp_path / "few", 1, split="validation")
    assert sizes(split_good(few, HALF, 10)) == [2, 1, 2]


def test_last_by_name(tmp_path: Path) -> None:
    """`last` holds out the last images by natural order, and the shares apply to the rest."""
    samples = images(tmp_path, 12)
    split = split_good(samples, SplitSettings(validation=0.1, test=0.5, last=2), 10)
    assert names(split, "test") == ["train10.png", "train11.png"]
    assert sizes(split)[2] == 2
    assert sizes(split_good(samples, SplitSettings(last=0), 10))[2] == 0
    with pytest.raises(
        ConfigError, match="the last 12 images are to be held out, but there are 12 good ones; take fewer"
    ):
        split_good(samples, SplitSettings(last=12), 10)


def test_own_test_images(tmp_path: Path) -> None:
    """Good images of the test folder are the test images; a share is taken only besides them by `last`."""
    samples = images(tmp_path, 10) + images(tmp_path, 3, split="test")
    split = split_good(samples, HALF, 10)
    assert names(split, "test") == ["test0.png", "test1.png", "test2.png"]
    assert sizes(split_good(samples, SplitSettings(last=2), 10))[2] == 5


def test_copies_share_a_role(tmp_path: Path) -> None:
    """Files of one content are never parted, and none may be in train and test at once."""
    samples = images(tmp_path, 8)
    for number in range(4):
        copy = tmp_path / f"copy{number}.png"
        copy.write_bytes(samples[number].path.read_bytes())
        samples.append(good(copy))
    for seed in range(10):
        split = split_good(samples, SplitSettings(validation=0.3, test=0.3, seed=seed), 10)
        contents = [{area.sha256 for area in getattr(split, role)} for role in ROLES]
        assert all(first.isdisjoint(second) for first, second in combinations(contents, 2))
        assert sum(sizes(split)) == 12
    with pytest.raises(
        InputError, match=r"train0\.png and .*copy0\.png are the same image, in training and in test; remove one"
    ):
        split_good([*samples[:8], good(samples[8].path, "test")], HALF, 10)


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
        r"\(--set split.validation=0 --set split.last=0\)$"
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


def test_roles_and_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A content's role is found by its digest; what was trained on is refused as unseen; a file is hashed once."""
    samples, index = images(tmp_path / "many", 10), ImageIndex()
    hashed: list[Path] = []
    monkeypatch.setattr(data_index, "sha256_of", lambda path: (hashed.append(path), sha256_of(path))[1])
    split = split_good(samples, HALF, 10, index=index)
    for role in ROLES:
        assert {split.role_of(area.sha256) for area in getattr(split, role)} == {role}
    assert split.role_of("0" * 64) is None
    refuse_trained(split, [area.path for area in (*split.validation, *split.test)], index)
    trained = len(split.train)
    with pytest.raises(
        InputError, match=rf"^{trained} of the images to be scored as unseen were trained on: .*, \.\.\.; leave them"
    ):
        refuse_trained(split, [sample.path for sample in samples], index)
    few = split_good(samples[:1], HALF, 10, index=index)
    assert few.role_of(sha256_of(samples[0].path)) == "areas"
    with pytest.raises(InputError, match="1 of the images"):
        refuse_trained(few, [samples[0].path], index)
    assert sorted(hashed) == sorted(sample.path for sample in samples)


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


def test_a_test_image_does_not_change_what_is_trained_on(tmp_path: Path) -> None:
    """The digest of a training is that of what it sees: a further test image leaves it as it is."""
    samples = images(tmp_path, 10) + images(tmp_path, 3, split="test")
    before, after = split_good(samples[:-1], HALF, 10), split_good(samples, HALF, 10)
    assert before.digest != after.digest
    assert before.training_digest == after.training_digest
    assert split_good(samples[1:], HALF, 10).training_digest != after.training_digest


@pytest.mark.parametrize("data", [{}, {"train": [{}], "validation": [], "test": []}, {"train": 3}])
def test_damaged_dictionary(data: dict) -> None:
    """A damaged record is an ArtifactError."""
    with pytest.raises(ArtifactError, match="the model file's record of its training images is damaged"):
        Split.from_dict(data)


def test_nothing_good() -> None:
    """Without a good image there is nothing to part."""
    with pytest.raises(InputError, match=r"^no good image to train on$"):
        split_good([], HALF, 10)


def test_so_many_images_validate_as_a_decision_needs(tmp_path: Path) -> None:
    """Unless a fraction is set: a quarter more than needed, at least a tenth; a fifth where there are too few."""
    images = []
    for number in range(80):
        path = tmp_path / f"{number}.png"
        write_image(path, np.full((40, 40), number, np.uint8))
        images.append(good(path))
    counts = {}
    for needed in (0, 19, 99):
        split = split_good(images, SplitSettings(test=0), 32, needed=needed)
        counts[needed] = len(split.validation)
    assert 2 <= counts[0] <= 14, "a tenth of 80, as a hash decides"
    assert 15 <= counts[19] <= 34, "0.297 of 80"
    assert 6 <= counts[99] <= 26, "a fifth of 80: 99 are out of reach"
    fixed = split_good(images, SplitSettings(validation=0.1, test=0), 32, needed=99)
    assert len(fixed.validation) == counts[0]

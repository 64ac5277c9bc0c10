"""Finding, describing, loading and writing data sets."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flawmap.core.errors import InputError
from flawmap.core.files import sha256_of
from flawmap.core.settings import ImageSettings, RegionOfInterest, SplitSettings
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, load_region, training_images
from flawmap.data.patches import PatchSource
from flawmap.data.splits import ImageRegion, split_dataset
from flawmap.data.summary import describe
from flawmap.data.writing import write_mvtec
from flawmap.imaging.writing import write_image

RNG = np.random.default_rng(5)
AUTO = ImageSettings()
MASK = np.zeros((30, 40), bool)
MASK[10:15, 10:20] = True


def picture(height: int = 30, width: int = 40) -> np.ndarray:
    return RNG.integers(0, 256, (height, width), dtype=np.uint8)


def put(path: Path, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        write_image(path, picture() if array is None else array)
    else:
        path.write_text("no image")
    return path


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for number in (2, 10, 1):
        put(root / "train" / "good" / f"{number}.png")
    put(root / "test" / "good" / "0.png")
    for kind, ending in (("bent", "_mask"), ("hole", "")):
        put(root / "test" / kind / "0.png")
        put(root / "ground_truth" / kind / f"0{ending}.png", MASK)
    return root


def relative(root: Path, entries: tuple[tuple[Path, str], ...]) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): reason for path, reason in entries}


def test_mvtec(mvtec: Path) -> None:
    """Good and defective images, kinds and both spellings of masks, in natural order, and nothing ignored."""
    dataset = find_dataset(mvtec)
    rows = [
        (
            sample.path.relative_to(mvtec).as_posix(),
            sample.split,
            sample.label,
            sample.kind,
            [mask.name for mask in sample.masks],
        )
        for sample in dataset.samples
    ]
    assert rows == [
        ("train/good/1.png", "train", "good", "good", []),
        ("train/good/2.png", "train", "good", "good", []),
        ("train/good/10.png", "train", "good", "good", []),
        ("test/bent/0.png", "test", "defective", "bent", ["0_mask.png"]),
        ("test/good/0.png", "test", "good", "good", []),
        ("test/hole/0.png", "test", "defective", "hole", ["0.png"]),
    ]
    assert dataset.layout == "mvtec"
    assert dataset.ignored == ()
    assert len(dataset.select("test", "defective")) == 2


def test_ignored_files_have_reasons(mvtec: Path) -> None:
    """Whatever has no part in the layout is listed with the reason."""
    reasons = {
        "readme.txt": "not an image",
        ".DS_Store": "hidden",
        "extra": "not part of this layout",
        "train/bad": "only train/good is trained on",
        "train/good/notes.txt": "not an image",
        "train/good/.x.png": "hidden",
        "test/loose.png": "not in a folder test/<kind>",
        "ground_truth/bent/9_mask.png": "a mask without an image",
        "ground_truth/bent/0.png": "another mask of the same image",
        "ground_truth/good/0_mask.png": "a mask of a good image",
        "ground_truth/other": "masks without images",
    }
    for name in reasons:
        if "." in name:
            put(mvtec / name)
        else:
            (mvtec / name).mkdir(parents=True)
    assert relative(mvtec, find_dataset(mvtec).ignored) == reasons
    assert find_dataset(mvtec).samples[3].masks == (mvtec / "ground_truth" / "bent" / "0_mask.png",)


def test_textures(tmp_path: Path) -> None:
    """The one kind "defective", with masks of the images' own names, is the textures layout."""
    put(tmp_path / "train" / "good" / "a.png")
    put(tmp_path / "test" / "defective" / "b.png")
    mask = put(tmp_path / "ground_truth" / "defective" / "b.png", MASK)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "textures"
    assert dataset.samples[1].masks == (mask,)


def test_nanotwice(tmp_path: Path) -> None:
    """Normal, Anomalous/images and Anomalous/gt, whose masks end in _gt."""
    put(tmp_path / "Normal" / "a.png")
    put(tmp_path / "Anomalous" / "images" / "b.png")
    mask = put(tmp_path / "Anomalous" / "gt" / "b_gt.png", MASK)
    put(tmp_path / "Anomalous" / "gt" / "c_gt.png", MASK)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "nanotwice"
    assert [(s.split, s.label, s.kind, s.masks) for s in dataset.samples] == [
        ("train", "good", "good", ()),
        ("test", "defective", "anomalous", (mask,)),
    ]
    assert relative(tmp_path, dataset.ignored) == {"Anomalous/gt/c_gt.png": "a mask without an image"}


def test_plain(tmp_path: Path) -> None:
    """All images below a folder without a layout are good ones to train on."""
    for name in ("b/2.png", "a.png", "b/10.png", "b/notes.txt"):
        put(tmp_path / name)
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "plain"
    assert [s.path.relative_to(tmp_path).as_posix() for s in dataset.samples] == ["a.png", "b/2.png", "b/10.png"]
    assert {(s.split, s.label) for s in dataset.samples} == {("train", "good")}
    assert relative(tmp_path, dataset.ignored) == {"b/notes.txt": "not an image"}


def test_folders_that_are_no_data_set(mvtec: Path, tmp_path: Path) -> None:
    """Nothing there, nothing good, and folders that would mix good and bad are told apart."""
    (tmp_path / "empty").mkdir()
    put(tmp_path / "text" / "a.txt")
    put(tmp_path / "only_test" / "test" / "bent" / "a.png")
    (tmp_path / "no_good" / "train" / "good").mkdir(parents=True)
    put(tmp_path / "anomalous" / "Anomalous" / "images" / "a.png")
    put(tmp_path / "mixed" / "Defective" / "a.png")
    put(tmp_path / "mixed" / "fine" / "a.png")
    cases = {
        "none": r"^no such folder: .*none$",
        "empty": r"^the folder .*empty is empty$",
        "text": r"^no image in the folder .*text, only a\.txt; images end in \.png",
        "text/a.txt": r"a\.txt is a file; a data set is a folder of images, a CSV manifest or COCO annotations$",
        "only_test": r"only_test has no folder train/good; put the good images to train on there$",
        "no_good": r"^no image in .*no_good/train/good; images end in",
        "anomalous": r"has a folder Anomalous, but all images of a plain folder are taken as good",
        "mixed": r"mixed has a folder Defective, but all images of a plain folder are taken as good; name the folder",
        "": r"holds data sets of their own \(no_good, set\); name one of them$",
        "set/test": r"set/test is a part of the data set .*set; name that, or its train/good$",
        "set/test/bent": r"set/test/bent is a part of the data set .*set; name that",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            find_dataset(tmp_path / name)
    assert find_dataset(mvtec / "train" / "good").layout == "plain"


def manifest(folder: Path, *lines: str) -> Path:
    path = folder / "set.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_manifest(mvtec: Path) -> None:
    """Columns in any order, paths relative to the file, empty lines and unknown columns passed over."""
    path = manifest(
        mvtec,
        "label,image,split,mask,operator,kind",
        "good,train/good/1.png,train,,Ann,",
        "",
        f"defective,{mvtec / 'test' / 'bent' / '0.png'},test,ground_truth/bent/0_mask.png,Bo,bent",
        "defective,test/hole/0.png,test",
        "good,test/good/0.png,test,,,",
    )
    dataset = find_dataset(path)
    assert dataset.layout == "manifest"
    assert [(s.path.parent.name, s.split, s.label, s.kind, s.annotated) for s in dataset.samples] == [
        ("good", "train", "good", "good", False),
        ("bent", "test", "defective", "bent", True),
        ("good", "test", "good", "good", False),
        ("hole", "test", "defective", "defective", False),
    ]
    assert dataset.ignored == ((path, "column operator: unknown"),)


def test_manifest_errors_name_their_lines(mvtec: Path) -> None:
    """Each wrong line is named, with what is wrong in it."""
    path = manifest(
        mvtec,
        "image,split,label,mask",
        "train/good/1.png,train,good,",
        "train/good/9.png,train,good,",
        "test/bent/0.png,train,defective,",
        "test/good/0.png,test,good,ground_truth/bent/0_mask.png",
        "test/good/0.png,tset,good,",
        "train/good/1.png,train,good,",
        "train/good/2.png,train,good,,,",
    )
    with pytest.raises(InputError) as caught:
        find_dataset(path)
    assert str(caught.value) == (
        f"{path}: line 3: no such file: {mvtec}/train/good/9.png; "
        "line 4: images to train on and to validate are good, got train and defective; "
        "line 5: a good image has no mask, got ground_truth/bent/0_mask.png; "
        "line 6: split must be train, validation or test and label good or defective, got 'tset' and 'good'; "
        f"line 7: {mvtec}/train/good/1.png stands on line 2 already; and 1 more"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("image;split;label;mask",), "separates its columns by semicolons; separate them by commas"),
        (("image,split",), "line 1: the columns image, split, label and mask are needed, got image, split"),
        ((), "line 1: the columns image, split, label and mask are needed, got nothing"),
        (("image,split,label,masks",), r"line 1: unknown column masks; did you mean mask\?"),
        (("image,split,label,label",), "line 1: the column label stands there twice"),
        (("image,split,label", "test/good/0.png,test,good"), "names no image with split train and label good"),
    ],
)
def test_manifest_as_a_whole(mvtec: Path, lines: tuple[str, ...], message: str) -> None:
    """A header that cannot be right, and a manifest without training images, are refused."""
    with pytest.raises(InputError, match=message):
        find_dataset(manifest(mvtec, *lines))


def test_describe(mvtec: Path) -> None:
    """Counts, sizes, modes, the state of each mask, duplicates and unreadable files are all reported at once."""
    put(mvtec / "test" / "hole" / "no_mask.png")
    put(mvtec / "test" / "hole" / "empty.png")
    put(mvtec / "ground_truth" / "hole" / "empty.png", ~MASK & MASK)
    put(mvtec / "test" / "hole" / "other.png", picture(50, 60))
    put(mvtec / "ground_truth" / "hole" / "other.png", MASK)
    put(mvtec / "test" / "hole" / "damaged.png")
    (mvtec / "ground_truth" / "hole" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    put(mvtec / "train" / "good" / "colour.png", RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    (mvtec / "train" / "good" / "text.png").write_text("hello")
    (mvtec / "train" / "good" / "copy.png").write_bytes((mvtec / "test" / "good" / "0.png").read_bytes())
    dataset = find_dataset(mvtec)
    summary = describe(dataset, AUTO)
    assert summary.counts == {
        ("train", "good", "good"): 6,
        ("test", "defective", "bent"): 1,
        ("test", "good", "good"): 1,
        ("test", "defective", "hole"): 5,
    }
    assert summary.sizes == {(40, 30): 11, (60, 50): 1}
    assert summary.modes == {"grey, uint8": 11, "colour, uint8": 1}
    states = {state: [path.stem for path in paths] for state, paths in summary.masks.items()}
    assert states == {
        "matched": ["0", "0"],
        "missing": ["no_mask"],
        "empty": ["empty"],
        "wrong size": ["other"],
        "unreadable": ["damaged"],
    }
    assert [path.name for path, _ in summary.problems] == ["text.png", "damaged.png"]
    assert [[path.parent.parent.name for path in group] for group in summary.duplicates] == [["train", "test"]]
    assert summary.outside == ()
    plain = json.loads(json.dumps(summary.to_dict()))
    assert plain["masks"]["matched"] == 2
    assert plain["counts"][0] == {"split": "train", "label": "good", "kind": "good", "images": 6}


def test_describe_with_a_region(mvtec: Path) -> None:
    """Images whose defects lie outside the region are listed; a box that fits no image is a problem of each."""
    put(mvtec / "ground_truth" / "hole" / "0.png", MASK[:, ::-1])
    dataset = find_dataset(mvtec)
    left = describe(dataset, ImageSettings(roi=RegionOfInterest(box=(0, 0, 20, 30))))
    assert [path.parent.name for path in left.outside] == ["hole"]
    assert left.problems == ()
    bright = describe(dataset, ImageSettings(roi=RegionOfInterest(brightness=(0, 1))))
    assert bright.outside == bright.problems == ()
    beyond = describe(dataset, ImageSettings(roi=RegionOfInterest(box=(0, 0, 400, 30))))
    assert len(beyond.problems) == len(dataset.samples)
    assert "does not lie in" in beyond.problems[0][1]


def area(path: Path, box: tuple[int, int, int, int] | None = None) -> ImageRegion:
    return ImageRegion(path, sha256_of(path), box)


def loaded(region: ImageRegion, settings: ImageSettings = AUTO) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels of an area at the working scale, and its region of interest."""
    image = load_region(region, settings)
    assert image.pixels.shape == image.rows.shape
    return image.pixels, image.inside


def test_load_region_cuts_then_scales(tmp_path: Path) -> None:
    """An area is the image's own pixels cut out, scaled alone."""
    stored = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    path = put(tmp_path / "a.png", stored)
    pixels, mask = loaded(area(path, (8, 4, 28, 24)))
    np.testing.assert_array_equal(pixels, stored[4:24, 8:28].astype(np.float32) / 255)
    assert mask is None
    half, _ = loaded(area(path, (8, 4, 28, 24)), ImageSettings(scale=0.5))
    np.testing.assert_allclose(half, pixels.reshape(10, 2, 10, 2, 3).mean(axis=(1, 3)), atol=1e-6)
    fixed, _ = loaded(area(path, (8, 4, 28, 24)), ImageSettings(scale=(20, 60)))
    assert fixed.shape == (40, 10, 3)


def test_load_region_within_a_region(tmp_path: Path) -> None:
    """A box cuts the image down and needs no mask; a mask, once scaled, keeps only what is wholly inside."""
    path = put(tmp_path / "a.png")
    box = ImageSettings(roi=RegionOfInterest(box=(5, 5, 35, 25)))
    pixels, mask = loaded(area(path, (0, 0, 20, 30)), box)
    assert pixels.shape == (20, 15, 1)
    assert mask is None
    with pytest.raises(
        InputError, match=r"nothing of .*a\.png, area \(36, 0, 40, 30\), lies in the region of interest"
    ):
        load_region(area(path, (36, 0, 40, 30)), box)
    inside = np.ones((30, 40), bool)
    inside[7, 9] = False
    put(tmp_path / "masks" / "a.png", inside)
    region = RegionOfInterest(masks=tmp_path / "masks")
    pixels, mask = loaded(area(path), ImageSettings(roi=region))
    np.testing.assert_array_equal(mask, inside)
    pixels, mask = loaded(area(path), ImageSettings(roi=region, scale=0.5))
    assert mask is not None
    assert pixels.shape[:2] == mask.shape == (15, 20)
    assert np.argwhere(~mask).tolist() == [[3, 4]]


def test_load_region_of_a_changed_file(tmp_path: Path) -> None:
    """A box beyond the image says that the file may have changed."""
    with pytest.raises(InputError, match=r"\(0, 0, 50, 30\) does not lie in .*a\.png, 40 x 30; has the file changed\?"):
        load_region(area(put(tmp_path / "a.png"), (0, 0, 50, 30)), AUTO)


def test_pieces_come_as_they_are_worked(tmp_path: Path) -> None:
    """Sizes may be mixed, a mode makes grey and colour alike, and what was done is counted."""
    areas = [area(put(tmp_path / f"{size}.png", picture(size, 40))) for size in (30, 31)]
    areas.append(area(put(tmp_path / "c.png", RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8))))
    tally = LoadStatistics()
    found = [(piece.name, piece.pixels.shape) for piece in training_images(areas, ImageSettings(mode="grey"), tally)]
    assert [shape for _, shape in found] == [(30, 40, 1), (31, 40, 1), (30, 40, 1)]
    assert [name for name, _ in found] == [str(area.path) for area in areas]
    assert tally == LoadStatistics(
        Counter({"colour converted to grey": 1}), Counter({"uint8": 3}), Counter({"40x30": 2, "40x31": 1})
    )


def test_an_unreadable_piece_stops_what_reads(tmp_path: Path) -> None:
    """The error says how to go on without the file."""
    bad = tmp_path / "b.png"
    bad.write_text("hello")
    with pytest.raises(
        InputError, match=r"b\.png is no known image.*; remove it, or leave .* out with --skip-unreadable$"
    ):
        list(training_images([area(bad)], AUTO, LoadStatistics()))


def test_split_dataset_counts_in_own_pixels(tmp_path: Path) -> None:
    """Worked at half the size, a strip holds a patch of twice as many of the image's pixels, within the region."""
    put(tmp_path / "a.png", picture(200, 900))
    samples = find_dataset(tmp_path).samples
    settings = ImageSettings(scale=0.5, roi=RegionOfInterest(box=(100, 0, 900, 200)))
    split = split_dataset(samples, settings, SplitSettings(), 64)
    for part in (split.train, split.validation, split.test):
        left, top, right, bottom = part[0].box or (0, 0, 0, 0)
        assert left >= 100
        assert min(right - left, bottom - top) >= 128
        assert PatchSource(training_images(part, settings, LoadStatistics()), 64).places > 0


def test_written_set_is_found_again(tmp_path: Path) -> None:
    """What is written comes back with its counts, masks and pixels, and writing again replaces it."""
    image = RNG.random((30, 40)).astype(np.float32)
    folder = tmp_path / "made"
    for train in (3, 2):
        bad = [("hole", picture(), MASK), ("stain", picture(), MASK), ("hole", picture(), ~MASK)]
        counts = write_mvtec(folder, (image for _ in range(train)), [picture()], iter(bad))
        assert counts == {"train/good": train, "test/good": 1, "test/hole": 2, "test/stain": 1}
        dataset = find_dataset(folder)
        assert dataset.ignored == ()
        assert len(dataset.samples) == train + 4
        assert describe(dataset, AUTO).masks["matched"] == tuple(s.path for s in dataset.select("test", "defective"))
    pixels, _ = loaded(area(folder / "train" / "good" / "001.png"))
    np.testing.assert_allclose(pixels[:, :, 0], image, atol=0.5 / 255 + 1e-6)


def test_write_mvtec_leaves_others_files_alone(tmp_path: Path) -> None:
    """Files that flawmap did not write stop it, in a foreign folder and in its own."""
    put(tmp_path / "foreign" / "a.txt")
    with pytest.raises(
        InputError, match=r"foreign holds files that flawmap did not write \(a\.txt\); name an empty or a new"
    ):
        write_mvtec(tmp_path / "foreign", [], [], [])
    write_mvtec(tmp_path / "own", [picture()], [], [])
    mine = put(tmp_path / "own" / "train" / "good" / "mine.png")
    with pytest.raises(InputError, match=r"did not write \(train/good/mine\.png\)"):
        write_mvtec(tmp_path / "own", [picture()], [], [])
    assert mine.exists()


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (
            ("good", MASK * np.uint8(1), MASK),
            "a kind of flaw must be usable as a folder's name and not be good, got 'good'",
        ),
        (("a/b", MASK * np.uint8(1), MASK), "got 'a/b'"),
        (("hole", MASK * np.uint8(1), MASK.T), r"a mask has its image's shape, \(30, 40\), got \(40, 30\)"),
        (("hole", MASK * np.float32(2), MASK), r"floating-point images must lie in \[0, 1\], got 0 to 2"),
    ],
)
def test_write_mvtec_refuses(tmp_path: Path, flaw: tuple[str, np.ndarray, np.ndarray], message: str) -> None:
    """Kinds that are no folder names, masks that do not fit, and values outside the range are refused."""
    with pytest.raises(InputError, match=message):
        write_mvtec(tmp_path / "made", [], [], [flaw])


REAL = {
    "nanotwice": ("nanotwice", 5, {"anomalous": 40}, {(1024, 696): 40, (1024, 700): 5}),
    "mvtec_grid_512": (
        "mvtec",
        264,
        {"bent": 12, "broken": 12, "glue": 11, "metal_contamination": 11, "thread": 11},
        {(512, 512): 321},
    ),
    "aitex_fabric03": ("textures", 20, {"defective": 30}, {(4096, 256): 50}),
    "aitex_fabric04": ("textures", 20, {"defective": 10}, {(4096, 256): 30}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets(real_data: Path, name: str) -> None:
    """Each real set is found complete: layout, counts, sizes, a mask with a flaw for each defective image."""
    layout, good, kinds, sizes = REAL[name]
    summary = describe(find_dataset(real_data / name), AUTO)
    assert summary.layout == layout
    expected = {("train", "good", "good"): good} | {("test", "defective", kind): n for kind, n in kinds.items()}
    assert summary.counts == expected
    assert summary.sizes == sizes
    assert set(summary.modes) == {"grey, uint8"}
    assert len(summary.masks["matched"]) == sum(kinds.values())
    assert summary.problems == summary.ignored == summary.duplicates == summary.outside == ()


def test_real_region(real_data: Path) -> None:
    """Inside the cloth of fabric 03 one defective image has no defect left; in fabric 04 none loses its own."""
    for name, left, outside in (("aitex_fabric03", 1280, ["0078_025_03.png"]), ("aitex_fabric04", 640, [])):
        settings = ImageSettings(roi=RegionOfInterest(box=(left, 0, 4050, 256)))
        summary = describe(find_dataset(real_data / name), settings)
        assert [path.name for path in summary.outside] == outside


def test_real_split_and_patches(real_data: Path) -> None:
    """The five nanofibre images give each a strip, and patches of the paper's size come from what is left."""
    samples = find_dataset(real_data / "nanotwice").samples
    split = split_dataset(samples, AUTO, SplitSettings(), 128)
    widths = {tuple(np.subtract(a.box[2:], a.box[:2])) for a in (*split.validation, *split.test) if a.box}
    assert widths == {(128, 350)}
    source = PatchSource(training_images(split.train, AUTO, LoadStatistics()), 128)
    assert source.places == 5 * (896 - 127) * (700 - 127)
    assert source.sample(4, np.random.default_rng(0)).shape == (4, 1, 128, 128)

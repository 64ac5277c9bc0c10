"""Folders as people have them: which images are good, which are defective, and which mask belongs to which image."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.data.annotations import Shape, rasterised
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Dataset, Sample
from flawmap.data.summary import describe
from flawmap.data.truth import truth_of
from flawmap.imaging.writing import write_image

RNG = np.random.default_rng(3)
SHAPE = (30, 40)
MASK = np.zeros(SHAPE, np.uint8)
MASK[10:15, 10:20] = 255


def put(root: Path, *names: str, pixels: NDArray[Any] | None = None) -> Path:
    """Files of these names: masks where a folder or an ending says so, images of noise elsewhere."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = RNG.integers(0, 256, SHAPE, dtype=np.uint8)
        drawn = any(word in name.casefold() for word in ("mask", "truth", "gt"))
        write_image(path, pixels if pixels is not None else MASK if drawn else noise)
    return root / names[-1]


def write_json(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def listed(dataset: Dataset) -> list[tuple[str, str, str, list[str]]]:
    """(path, split, kind, masks) of each sample, relative to the root."""
    root = dataset.root
    return [
        (
            sample.path.relative_to(root).as_posix(),
            sample.split,
            sample.kind,
            [mask.relative_to(root).as_posix() for mask in sample.masks],
        )
        for sample in dataset.samples
    ]


def ignored(dataset: Dataset) -> dict[str, str]:
    return {path.relative_to(dataset.root).as_posix(): reason for path, reason in dataset.ignored}


def truth(dataset: Dataset, number: int = -1) -> NDArray[np.bool_] | None:
    return truth_of(dataset.samples[number], SHAPE)


def test_masks_are_paired_within_their_folder(tmp_path: Path) -> None:
    """Images of one name in several folders each get their own mask, and never another one's."""
    put(tmp_path, "train/good/0.png", "test/bent/a/000.png", "test/bent/b/000.png", "test/bent/c/000.png")
    put(
        tmp_path, "ground_truth/bent/b/000_mask.png", "ground_truth/bent/c/000_mask.png", "ground_truth/bent/1_mask.png"
    )
    dataset = find_dataset(tmp_path)
    assert listed(dataset)[1:] == [
        ("test/bent/a/000.png", "test", "bent", []),
        ("test/bent/b/000.png", "test", "bent", ["ground_truth/bent/b/000_mask.png"]),
        ("test/bent/c/000.png", "test", "bent", ["ground_truth/bent/c/000_mask.png"]),
    ]
    assert ignored(dataset) == {"ground_truth/bent/1_mask.png": "a mask without an image"}


@pytest.mark.parametrize(
    ("good", "bad", "masks"),
    [
        ("normal", "abnormal", "mask"),
        ("good", "bad", "masks"),
        ("OK", "NG", "Masks"),
        ("Ok", "nok", "Ground Truth"),
        ("Good", "Not-OK", "gt"),
        ("normal", "Anomaly", None),
    ],
)
def test_folders_of_good_and_bad_images(tmp_path: Path, good: str, bad: str, masks: str | None) -> None:
    """By the usual words in any letter case; masks are optional; folders of bad images are kinds of defect."""
    put(tmp_path, f"{good}/0.png", f"{good}/1.png", f"{bad}/0.png", f"{bad}/scratch/0.png", f"{bad}/scratch/1.png")
    if masks is not None:
        put(tmp_path, f"{masks}/0.png", f"{masks}/scratch/0_mask.png", f"{masks}/scratch/7.png")
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "folders"
    own = [[f"{masks}/0.png"], [f"{masks}/scratch/0_mask.png"]] if masks is not None else [[], []]
    assert listed(dataset) == [
        (f"{good}/0.png", "train", "good", []),
        (f"{good}/1.png", "train", "good", []),
        (f"{bad}/0.png", "test", bad.casefold(), own[0]),
        (f"{bad}/scratch/0.png", "test", "scratch", own[1]),
        (f"{bad}/scratch/1.png", "test", "scratch", []),
    ]
    assert ignored(dataset) == ({f"{masks}/scratch/7.png": "a mask without an image"} if masks is not None else {})


def test_several_bad_folders_and_masks_within(tmp_path: Path) -> None:
    """Masks lie in a folder of the bad folder's name, or in one within the bad folder."""
    put(
        tmp_path, "OK/0.png", "NG/0.png", "defects/images/0.png", "defects/masks/0.png", "masks/ng/0.png", "notes/0.png"
    )
    dataset = find_dataset(tmp_path)
    assert listed(dataset)[1:] == [
        ("defects/images/0.png", "test", "defects", ["defects/masks/0.png"]),
        ("NG/0.png", "test", "ng", ["masks/ng/0.png"]),
    ]
    assert ignored(dataset) == {"notes": "not part of this layout"}


def test_masks_beside_bad_images(tmp_path: Path) -> None:
    """A name with an ending of masks is the mask of the image without it, in the same folder."""
    put(tmp_path, "good/0.png", "bad/0.png", "bad/0_GT.png", "bad/a/0.png", "bad/a/1.png", "bad/a/1_label.png")
    dataset = find_dataset(tmp_path)
    assert listed(dataset)[1:] == [
        ("bad/0.png", "test", "bad", ["bad/0_GT.png"]),
        ("bad/a/0.png", "test", "a", []),
        ("bad/a/1.png", "test", "a", ["bad/a/1_label.png"]),
    ]
    assert dataset.ignored == ()


def test_good_and_bad_in_a_folder_of_images(tmp_path: Path) -> None:
    """VisA: Images/Normal, Images/Anomaly and Masks/Anomaly."""
    put(tmp_path, "Images/Normal/0.png", "Images/Anomaly/0.png", "Masks/Anomaly/0.png", "notes/0.png")
    dataset = find_dataset(tmp_path)
    assert listed(dataset) == [
        ("Images/Normal/0.png", "train", "good", []),
        ("Images/Anomaly/0.png", "test", "anomaly", ["Masks/Anomaly/0.png"]),
    ]
    assert ignored(dataset) == {"notes": "not part of this layout"}


def test_masks_within_the_test_folder(tmp_path: Path) -> None:
    """MVTec AD 2: test_public holds good, bad and the masks."""
    put(tmp_path, "train/good/0.png", "validation/good/1.png", "test_public/good/2.png", "test_public/bad/3.png")
    put(tmp_path, "test_public/ground_truth/bad/3_mask.png")
    dataset = find_dataset(tmp_path)
    assert listed(dataset)[2:] == [
        ("test_public/bad/3.png", "test", "bad", ["test_public/ground_truth/bad/3_mask.png"]),
        ("test_public/good/2.png", "test", "good", []),
    ]
    assert dataset.ignored == ()


def test_mvtec_in_other_words(tmp_path: Path) -> None:
    """train/OK, Test/ok, valid/ok and masks: the same layout in any letter case."""
    put(tmp_path, "Train/OK/0.png", "valid/ok/1.png", "Test/OK/2.png", "Test/Bent/3.png", "masks/bent/3.PNG")
    assert listed(find_dataset(tmp_path)) == [
        ("Train/OK/0.png", "train", "good", []),
        ("valid/ok/1.png", "validation", "good", []),
        ("Test/Bent/3.png", "test", "Bent", ["masks/bent/3.PNG"]),
        ("Test/OK/2.png", "test", "good", []),
    ]


def test_a_folder_of_masks_for_each_image(tmp_path: Path) -> None:
    """MVTec LOCO AD: the union of all masks counts, whatever grey value stands for which type of defect."""
    put(tmp_path, "train/good/000.png", "validation/good/000.png", "test/good/000.png")
    put(tmp_path, "test/logical_anomalies/000.png", "test/structural_anomalies/000.png")
    place = tmp_path / "ground_truth" / "logical_anomalies" / "000"
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[2:5, 3:9], second[20:25, 3:9] = 248, 7
    put(place, "000.png", pixels=first)
    put(place, "001.png", pixels=second)
    put(tmp_path, "ground_truth/structural_anomalies/000/000.png")
    write_json(tmp_path / "defects_config.json", [{"defect_name": "x", "pixel_value": 248}])
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "loco"
    assert [(split, kind, len(masks)) for _, split, kind, masks in listed(dataset)] == [
        ("train", "good", 0),
        ("validation", "good", 0),
        ("test", "good", 0),
        ("test", "logical_anomalies", 2),
        ("test", "structural_anomalies", 1),
    ]
    np.testing.assert_array_equal(truth(dataset, 3), (first > 0) | (second > 0))
    assert ignored(dataset) == {"defects_config.json": "every value above 0 of these masks is a defect"}
    assert describe(dataset, ImageSettings()).mask_values == {2: 3}


def test_unclear_folders_are_refused_with_a_layout(tmp_path: Path) -> None:
    """What cannot be all good, and is not labelled, is never trained on."""
    put(tmp_path, "unclear/good/0.png", "unclear/scratch/0.png")
    put(tmp_path, "twice/good/0.png", "twice/OK/0.png", "twice/ng/0.png")
    put(tmp_path, "beside/0.png", "beside/0_mask.png")
    advice = "lay it out as good/, bad/<kind>/ and masks/, or as train/good, test/<kind> and ground_truth/<kind>"
    for name, message in {
        "unclear": f"has a folder good and a folder scratch, which is neither good nor bad by its name; {advice}",
        "twice": "has the folders good and OK, which mean the same; join them",
        "beside": f"has masks beside images (0_mask.png), but all images of a plain folder are taken as good; {advice}",
    }.items():
        with pytest.raises(InputError) as error:
            find_dataset(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name} {message}"


# ---------------------------------------------------------------------------------------------------------- annotations


def labelme(path: Path, *shapes: dict[str, Any], size: tuple[int, int] = SHAPE) -> Path:
    return write_json(path, {"shapes": list(shapes), "imageHeight": size[0], "imageWidth": size[1], "imageData": None})


BOX: dict[str, Any] = {"label": "hole", "points": [[10, 10], [19, 14]], "shape_type": "rectangle"}


def test_labelme_beside_images(tmp_path: Path) -> None:
    """In one folder, images with shapes are defective, of the kind that the labels say; all others are good."""
    put(tmp_path, "0.png", "1.png", "2.png")
    labelme(tmp_path / "1.json", BOX, {"label": "dent", "points": [[0, 0], [4, 0], [0, 4]], "shape_type": "polygon"})
    labelme(tmp_path / "2.json")
    labelme(tmp_path / "7.json", BOX)
    write_json(tmp_path / "settings.json", {"camera": 3})
    dataset = find_dataset(tmp_path)
    assert dataset.layout == "labelme"
    assert listed(dataset) == [
        ("0.png", "train", "good", []),
        ("2.png", "train", "good", []),
        ("1.png", "test", "dent+hole", ["1.json"]),
    ]
    assert ignored(dataset) == {"7.json": "annotations without an image", "settings.json": "not an image"}
    expected = MASK > 0
    expected[:5, :5] |= np.add.outer(np.arange(5), np.arange(5)) <= 4
    np.testing.assert_array_equal(truth(dataset), expected)
    summary = describe(dataset, ImageSettings())
    assert (len(summary.masks["matched"]), summary.mask_values) == (1, {2: 1})


def test_labelme_in_folders_of_bad_images(tmp_path: Path) -> None:
    """Beside a bad image, or in the place of its mask."""
    put(tmp_path, "good/0.png", "bad/0.png", "bad/1.png")
    labelme(tmp_path / "bad" / "0.json", BOX)
    labelme(tmp_path / "masks" / "1.json", BOX)
    labelme(tmp_path / "good" / "0.json")
    dataset = find_dataset(tmp_path)
    assert [masks for *_, masks in listed(dataset)] == [[], ["bad/0.json"], ["masks/1.json"]]
    assert ignored(dataset) == {"good/0.json": "annotations of a good image"}
    for number in (1, 2):
        np.testing.assert_array_equal(truth(dataset, number), MASK > 0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            {**BOX, "shape_type": "line"},
            "a line is no area; draw polygons, rectangles, circles or masks around defects",
        ),
        ({**BOX, "shape_type": "polygon"}, "a polygon with 2 points is no area"),
        ({**BOX, "points": [[0, 0], [float("nan"), 1]]}, "is not labelme's annotations: shapes.0.points.1.0: "),
        ({**BOX, "shape_type": "mask", "mask": "%%"}, "a mask in it cannot be read: "),
    ],
)
def test_labelme_that_cannot_be_drawn(tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    """Shapes without an area and damaged ones are refused, with the file."""
    path = labelme(tmp_path / "0.json", shape)
    with pytest.raises(InputError) as error:
        truth_of(Sample(tmp_path / "0.png", "test", "defective", "x", masks=(path,)), SHAPE)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_labelme_of_another_size(tmp_path: Path) -> None:
    """Shapes that were drawn on an image of another size are refused."""
    path = labelme(tmp_path / "0.json", BOX, size=(60, 80))
    sample = Sample(tmp_path / "0.png", "test", "defective", "x", masks=(path,))
    with pytest.raises(InputError) as error:
        truth_of(sample, SHAPE)
    assert str(error.value) == (
        f"the annotations of {path} were drawn on 80 x 60 pixels, its image has 40 x 30; annotations have their "
        "image's size"
    )


def test_a_mask_within_labelme(tmp_path: Path) -> None:
    """A mask as newer versions store it: a PNG of the part within its box."""
    data = io.BytesIO()
    Image.fromarray(MASK[10:15, 10:20]).save(data, "PNG")
    text = base64.b64encode(data.getvalue()).decode()
    path = labelme(tmp_path / "0.json", {**BOX, "shape_type": "mask", "mask": text})
    sample = Sample(tmp_path / "0.png", "test", "defective", "x", masks=(path,))
    np.testing.assert_array_equal(truth_of(sample, SHAPE), MASK > 0)


@given(st.lists(st.tuples(st.integers(0, 45), st.integers(0, 35)), min_size=3, max_size=3))
def test_triangles_are_filled_with_their_outline(points: list[tuple[int, int]]) -> None:
    """Every pixel whose centre is well inside, and none that is more than a pixel away from those and from the line."""
    draw = pytest.importorskip("skimage.draw")
    found = rasterised([Shape("polygon", tuple(points))], SHAPE, "a")
    wide = (SHAPE[0] + 20, SHAPE[1] + 20)  # ten pixels around the image
    inside = draw.polygon2mask(wide, [(y + 10, x + 10) for x, y in points])
    outline = np.zeros(wide, np.bool_)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        for part in np.linspace(0, 1, 400):
            outline[round(y0 + part * (y1 - y0)) + 10, round(x0 + part * (x1 - x0)) + 10] = True
    window, square = (slice(10, -10), slice(10, -10)), np.ones((3, 3), np.uint8)
    assert not (found & (cv2.dilate((inside | outline).astype(np.uint8), square) == 0)[window]).any()
    assert found[(cv2.erode(inside.astype(np.uint8), square) > 0)[window]].all()


@given(st.tuples(st.floats(0, 40), st.floats(0, 30)), st.floats(1, 12))
def test_circles(centre: tuple[float, float], radius: float) -> None:
    """All pixels a pixel and a half within the radius, none so much beyond it."""
    found = rasterised([Shape("circle", (centre, (centre[0] + radius, centre[1])))], SHAPE, "a")
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1])
    assert found[distance < radius - 1.5].all()
    assert not found[distance > radius + 1.5].any()


def packed(runs: list[int]) -> str:
    """COCO's packed run lengths, written as maskApi.c does (rleToString)."""
    text = ""
    for place, run in enumerate(runs):
        value = run - (runs[place - 2] if place > 2 else 0)
        while True:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | (32 if more else 0)) + 48)
            if not more:
                break
    return text


def runs_of(mask: NDArray[Any]) -> list[int]:
    """Lengths of good and defective runs down the columns, good first."""
    values = (mask.T.reshape(-1) > 0).astype(int)
    edges = np.flatnonzero(np.diff(values, prepend=0, append=1 - values[-1]))
    return np.diff(edges, prepend=0).tolist()


def coco(*drawn: dict[str, Any], images: int = 3) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": SHAPE[0], "width": SHAPE[1]} for n in range(images)],
        "annotations": [{"image_id": 2, "category_id": 5, **entry} for entry in drawn],
        "categories": [{"id": 5, "name": "hole"}, {"id": 6, "name": "dent"}],
    }


@pytest.mark.parametrize("place", ["set.json", "annotations/instances.json"])
def test_coco(tmp_path: Path, place: str) -> None:
    """Images without annotations are good; boxes, polygons and both forms of run lengths show defects."""
    put(tmp_path, "images/0.png", "images/1.png", "images/2.png", "images/other.png")
    noise = (RNG.random(SHAPE) > 0.7).astype(np.uint8)
    box = {"bbox": [10, 10, 10, 5]}
    polygon = {"segmentation": [[10, 10, 19, 10, 19, 14, 10, 14]], "category_id": 6}
    runs = {"segmentation": {"counts": runs_of(noise), "size": list(SHAPE)}}
    for drawn, kind, expected in (
        (box, "hole", MASK > 0),
        (polygon, "dent", MASK > 0),
        (runs, "hole", noise > 0),
        ({"segmentation": {"counts": packed(runs_of(noise))}}, "hole", noise > 0),
    ):
        write_json(tmp_path / place, coco(drawn))
        for path in (tmp_path, tmp_path / place):
            if path == tmp_path or place == "set.json":
                dataset = find_dataset(path)
                assert dataset.layout == "coco"
                assert listed(dataset) == [
                    ("images/0.png", "train", "good", []),
                    ("images/1.png", "train", "good", []),
                    ("images/2.png", "test", kind, []),
                ]
                assert ignored(dataset) == {"images/other.png": "not named in the annotations"}
                np.testing.assert_array_equal(truth(dataset), expected)
    assert describe(find_dataset(tmp_path), ImageSettings()).masks["matched"] == (tmp_path / "images" / "2.png",)


def test_coco_in_folders_of_splits(tmp_path: Path) -> None:
    """Annotations in the folders train, valid and test, each beside its images."""
    for folder in ("train", "valid", "test"):
        put(tmp_path, *(f"{folder}/{number}.png" for number in range(3)))
        write_json(tmp_path / folder / "_annotations.coco.json", coco({"bbox": [1, 1, 2, 2]}))
    found = listed(find_dataset(tmp_path))
    assert [split for _, split, kind, _ in found if kind == "good"] == 2 * ["train"] + 2 * ["validation"] + 2 * ["test"]
    assert [path for path, _, kind, _ in found if kind == "hole"] == ["test/2.png", "train/2.png", "valid/2.png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (coco({"image_id": 9, "bbox": [0, 0, 1, 1]}), "an annotation belongs to the image 9, which is not listed"),
        (coco({}), "an annotation of the image 2 has neither segmentation nor bbox"),
        (coco({"segmentation": [[1, 2, 3]]}), "a polygon needs at least three points, each of two numbers"),
        (coco({"segmentation": {"counts": "\n"}}), "run lengths hold the letter '\\n', which has no meaning there"),
        (coco({"segmentation": [["x"]]}), "is not COCO annotations: annotations.0.segmentation"),
        (coco({"bbox": [0, 0, 1, 1]}, images=1), "an annotation belongs to the image 2"),
        (coco(*[{"image_id": n, "bbox": [0, 0, 1, 1]} for n in range(3)]), "names no image without annotations"),
        ([], "is not COCO annotations: the file: "),
    ],
)
def test_coco_with_mistakes(tmp_path: Path, data: object, message: str) -> None:
    """Each is refused, with the file and what is wrong."""
    put(tmp_path, "0.png", "1.png", "2.png")
    path = write_json(tmp_path / "set.json", data)
    with pytest.raises(InputError) as error:
        find_dataset(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_runs_must_cover_the_image(tmp_path: Path) -> None:
    """Run lengths of another size are no truth."""
    put(tmp_path, "0.png", "1.png", "2.png")
    write_json(tmp_path / "set.json", coco({"segmentation": {"counts": [7, 3]}}))
    summary = describe(find_dataset(tmp_path), ImageSettings())
    assert summary.masks["wrong size"] == (tmp_path / "2.png",)


def test_manifest_with_groups_and_masks(tmp_path: Path) -> None:
    """A column of groups, and several masks of one image."""
    put(tmp_path, "0.png", "1.png", "2.png", "a_mask.png", "b_mask.png")
    write_image(tmp_path / "b_mask.png", MASK[::-1])
    (tmp_path / "set.csv").write_text(
        "image,split,label,mask,group\n0.png,train,good,,r1\n1.png,validation,good,,r2\n"
        "2.png,test,defective,a_mask.png|b_mask.png,\n"
    )
    dataset = find_dataset(tmp_path / "set.csv")
    assert [(sample.split, sample.group) for sample in dataset.samples] == [
        ("train", "r1"),
        ("validation", "r2"),
        ("test", ""),
    ]
    np.testing.assert_array_equal(truth(dataset), (MASK > 0) | (MASK[::-1] > 0))
    assert describe(dataset, ImageSettings()).groups == {"r1": 1, "r2": 1}

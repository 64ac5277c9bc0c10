"""Measuring a detector on labelled images, and the thresholds that good images alone give it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

import flawmap
from flawmap.commands import info as commands_info
from flawmap.core.errors import InputError
from flawmap.core.files import sha256_of
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.data.synthetic import good_images
from flawmap.evaluation.evaluate import unseen_samples
from flawmap.evaluation.metrics import Measure, PixelMetrics
from flawmap.evaluation.scans import scan_image
from flawmap.imaging.reading import ImageRows, read_mask
from flawmap.imaging.roi import Box
from flawmap.imaging.writing import write_image
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import Band
from flawmap.scoring.model_file import Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

SIZE = (80, 64)  # width, height of all images here
BOX = (0, 0, 80, 48)  # the region of interest

TINY: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 8, "batch": 8, "device": "cpu", "precision": "float32"},
}


def config(**changes: Any) -> Config:
    return override(override(preset("fast"), TINY), changes)


def cloth(count: int, seed: int, size: tuple[int, int] = SIZE) -> list[NDArray[np.uint8]]:
    return [np.rint(image[:, :, 0] * 255).astype(np.uint8) for image in good_images("cloth", count, size, seed)]


def put(path: Path, image: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def mask(top: int, left: int, height: int, width: int) -> NDArray[np.bool_]:
    shape = np.zeros(SIZE[::-1], np.bool_)
    shape[top : top + height, left : left + width] = True
    return shape


MASKS = {
    "big": mask(5, 10, 14, 20),
    "cut_by_the_region": mask(40, 50, 16, 12),
    "outside": mask(52, 20, 8, 8),
    "empty": mask(0, 0, 0, 0),
}


def labelled(root: Path, good_train: int = 8) -> Path:
    """An MVTec AD folder with one defective image for each thing that can be with its mask."""
    for number, image in enumerate(cloth(good_train, 0)):
        put(root / "train" / "good" / f"{number:03d}.png", image)
    for number, image in enumerate(cloth(2, 1)):
        put(root / "test" / "good" / f"{number:03d}.png", image)
    flawless = cloth(6, 2)
    for image, (kind, truth) in zip(flawless, MASKS.items(), strict=False):
        painted = image.copy()
        painted[truth] = np.where(np.indices(image.shape).sum(axis=0) % 6 < 3, 30, 220)[truth]
        put(root / "test" / kind / "000.png", painted)
        put(root / "ground_truth" / kind / "000_mask.png", truth)
    put(root / "test" / "missing" / "000.png", flawless[4])
    put(root / "test" / "other_size" / "000.png", flawless[5])
    put(root / "ground_truth" / "other_size" / "000_mask.png", np.ones((20, 30), np.bool_))
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pictures of curves, which cost more than the trainings here."""
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    monkeypatch.setattr("flawmap.commands.train.loss_figure", lambda *_: None)
    monkeypatch.setattr("flawmap.commands.evaluate.roc_figure", lambda *_: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("evaluation") / "set")


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    path = root.parent / "model.flawmap"
    settings = config(images={"roi": {"box": BOX}}, threshold={"false_positive_rate": 0.01})
    flawmap.train(root, path, settings)
    return path


@pytest.fixture(scope="module")
def out(root: Path, model: Path) -> Path:
    flawmap.evaluate_model(model, root, root.parent / "out")
    return root.parent / "out"


@pytest.fixture(scope="module")
def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return found


def rows(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {Path(row["path"]).as_posix(): row for row in metrics["per_image"]}


def with_settings(model: Path, **changes: Any) -> Detector:
    artifact = load_artifact(model)
    return Detector.of(replace(artifact, config=override(artifact.config, changes)), precision="float32")


# -------------------------------------------------------------------------------------------------------- metrics.json


def test_schema(metrics: dict[str, Any], model: Path) -> None:
    """metrics.json has its schema, the model, the data set, figures of pixels and images, and a row for each image."""
    assert metrics["schema"] == "flawmap.metrics/1"
    assert list(metrics) == [
        *("schema", "model", "dataset", "precision", "engine", "decision", "pixel", "pixel_defective_images"),
        *("image", "image_reason", "held_out", "unreadable", "notes", "per_image"),
    ]
    assert metrics["engine"] == "torch"
    assert {"auroc", "au_pro_30", "au_pro_05", "average_precision", "bounds", "undefined"} <= set(metrics["pixel"])
    assert metrics["model"]["version"] == commands_info.info(model)["version"]
    assert metrics["model"]["threshold"] == load_artifact(model).threshold
    assert metrics["dataset"]["name"] == "set"
    assert metrics["dataset"]["images"] == {"good": 2, "defective": 4, "outside": 1}
    assert metrics["dataset"]["region"] == {"box": list(BOX)}
    assert {len(row) for row in metrics["per_image"]} <= {7, 11, 15}


def test_what_counts(metrics: dict[str, Any]) -> None:
    """What each kind of mask makes of its image: only whole ones count for pixels, and what is wrong is said."""
    labels = {path.split("/")[1]: row["label"] for path, row in rows(metrics).items() if "good" not in path}
    assert labels == {
        "big": "defective",
        "cut_by_the_region": "defective",
        "outside": "outside",
        "empty": "defective",
        "missing": "defective",
    }
    assert metrics["notes"] == [
        {
            "path": str(Path("test/empty/000.png")),
            "problem": metrics["notes"][0]["problem"],
        },
        {
            "path": str(Path("test/missing/000.png")),
            "problem": "defective, but without a mask: counts for image metrics alone",
        },
    ]
    assert metrics["notes"][0]["problem"].endswith("000_mask.png shows no flaw: counts for image metrics alone")
    (lost,) = metrics["unreadable"]
    assert lost["path"] == str(Path("test/other_size/000.png"))
    assert lost["problem"].endswith("000_mask.png is 30 x 20, its image 80 x 64; a mask has its image's size")
    assert metrics["pixel"]["images"] == 4
    assert metrics["pixel_defective_images"]["images"] == 2
    assert (metrics["image"]["good"], metrics["image"]["defective"]) == (2, 4)


def opened(residual: NDArray[np.float32]) -> NDArray[np.float32]:
    """The opening with the circle of diameter 4 whose centre lies in the image, shift by shift."""
    height, width = residual.shape
    circle = [(y, x) for y in range(4) for x in range(4) if (y, x) not in ((0, 0), (0, 3), (3, 0), (3, 3))]
    room = np.pad(residual, 2, constant_values=np.inf)
    eroded = np.min([room[y : y + height + 1, x : x + width + 1] for y, x in circle], axis=0)
    wide = np.pad(eroded, 2, constant_values=-np.inf)
    return np.max([wide[y + 1 : y + 1 + height, x + 1 : x + 1 + width] for y, x in circle], axis=0)


def independent(root: Path, model: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
    """Opened residuals and truths inside the region, by way of `Detector.score` and an opening done by hand."""
    detector = Detector.load(model)
    left, top, right, bottom = BOX
    scores, truths = {}, {}
    for path in sorted((root / "test").rglob("*.png")):
        kind = path.parent.name
        if kind == "other_size":
            continue
        name = path.relative_to(root).as_posix()
        scores[name] = opened(detector.score(detector.read(path).pixels))[top:bottom, left:right]
        truths[name] = MASKS.get(kind, MASKS["empty"])[top:bottom, left:right]
    return scores, truths


def overlap_area(scores: list[NDArray[np.float32]], truths: list[NDArray[np.bool_]], limit: float) -> float:
    """The area under the mean overlap of the regions up to a false positive rate, over every distinct score."""
    good = np.sort(np.concatenate([s[~t] for s, t in zip(scores, truths, strict=True)]))
    regions = []
    for score, truth in zip(scores, truths, strict=True):
        labels, count = ndimage.label(truth, np.ones((3, 3)))
        regions += [np.sort(score[labels == number + 1]) for number in range(count)]
    thresholds = np.append(np.unique(np.concatenate([good, *regions]))[::-1], -np.inf)
    above = [1 - np.searchsorted(values, thresholds, side="right") / len(values) for values in [good, *regions]]
    x, y = above[0], np.mean(above[1:], axis=0)
    heights, grid = np.append(y[x < limit], np.interp(limit, x, y)), np.append(x[x < limit], limit)
    return float(np.sum(np.diff(grid) * (heights[1:] + heights[:-1])) / 2 / limit)


def test_pixel_metrics_equal_scikit_learn(root: Path, model: Path, metrics: dict[str, Any]) -> None:
    """Pooled pixel figures are those of scikit-learn and of a plain overlap curve, taken inside the region alone."""
    scores, truths = independent(root, model)
    counted = [name for name in scores if name.split("/")[1] in ("good", "big", "cut_by_the_region")]
    for key, names in (
        ("pixel", counted),
        ("pixel_defective_images", [name for name in counted if "good" not in name]),
    ):
        values, flawed = [scores[name] for name in names], [truths[name] for name in names]
        pixels, labels = np.concatenate(values, axis=None), np.concatenate(flawed, axis=None)
        found = metrics[key]
        assert found["good_pixels"] == int((~labels).sum())
        assert found["defective_pixels"] == int(labels.sum())
        assert found["regions"] == 2
        close = 1e-6
        assert found["auroc"] == pytest.approx(roc_auc_score(labels, pixels), abs=found["bounds"]["auroc"] + close)
        assert found["average_precision"] == pytest.approx(
            average_precision_score(labels, pixels), abs=found["bounds"]["average_precision"] + close
        )
        for name, limit in (("au_pro_30", 0.3), ("au_pro_05", 0.05)):
            assert found[name] == pytest.approx(overlap_area(values, flawed, limit), abs=found["bounds"][name] + 1e-3)


def test_image_metrics_equal_scikit_learn(root: Path, model: Path, metrics: dict[str, Any]) -> None:
    """The score of an image is its largest opened residual inside, and the image AUROC is that of these scores."""
    scores, _ = independent(root, model)
    found = rows(metrics)
    for name, score in scores.items():
        assert found[name]["score"] == float(score.max())
    counted = [name for name in scores if "outside" not in name]
    defective = ["good" not in name for name in counted]
    expected = roc_auc_score(defective, [float(scores[name].max()) for name in counted])
    assert metrics["image"]["auroc"] == pytest.approx(expected)
    threshold = metrics["model"]["threshold"]
    flawed = [float(scores[name].max()) > threshold for name in counted]
    assert metrics["image"]["found"] == sum(f and d for f, d in zip(flawed, defective, strict=True))
    assert metrics["image"]["false_alarms"] == sum(f and not d for f, d in zip(flawed, defective, strict=True))


def test_rows(root: Path, model: Path, metrics: dict[str, Any]) -> None:
    """The pixels found, hit and too many of every row, and the share of the flaw that was found."""
    scores, truths = independent(root, model)
    threshold = metrics["model"]["threshold"]
    for name, row in rows(metrics).items():
        found = scores[name] > threshold
        assert row["flawed_pixels"] == int(found.sum())
        assert row["verdict"] == ("flawed" if found.any() else "ok")
        if "truth_pixels" in row:
            truth = truths[name]
            assert row["truth_pixels"] == int(truth.sum())
            assert row["hit_pixels"] == int((truth & found).sum())
            assert row["false_pixels"] == int((found & ~truth).sum())
            assert row["overlap"] == ((truth & found).sum() / truth.sum() if truth.any() else None)
    assert rows(metrics)["test/cut_by_the_region/000.png"]["truth_pixels"] == 8 * 12, "of 16 rows 8 are inside"


def test_held_out_rate(root: Path, model: Path, metrics: dict[str, Any]) -> None:
    """The false positive rate is the share of the pixels of good test images above the threshold, inside alone."""
    scores, _ = independent(root, model)
    good = np.concatenate([score for name, score in scores.items() if "good" in name], axis=None)
    threshold, found = metrics["model"]["threshold"], metrics["held_out"]
    assert list(found) == [
        *("images_or_areas", "good_pixels", "threshold", "false_positive_rate", "false_positive_rate_interval"),
        *("images_above", "images_above_interval", "level"),
    ]
    assert (found["images_or_areas"], found["good_pixels"], found["threshold"]) == (2, good.size, threshold)
    assert found["false_positive_rate"] == float((good > threshold).mean())
    rates = sorted(float((score > threshold).mean()) for name, score in scores.items() if "good" in name)
    assert found["false_positive_rate_interval"] == pytest.approx(rates), "of two images of one size"
    assert found["images_above"] == sum(rate > 0 for rate in rates)


def test_page(out: Path, metrics: dict[str, Any]) -> None:
    """The page shows the figures, the curve, and every image, missed flaws first, and asks nothing of a network."""
    page = (out / "report.html").read_text(encoding="utf-8")
    low, high = metrics["pixel"]["intervals"]["auroc"]
    assert f"{metrics['pixel']['auroc']:.4f} ({low:.4f} to {high:.4f})" in page
    shown = re.findall(r"<h3>(.*?\.png)</h3><p>(.*?)</p>", page)
    found = rows(metrics)
    assert sorted(name for name, _ in shown) == sorted(row["path"] for row in found.values())
    wrong = [(found[name]["verdict"] == "ok") == (found[name]["label"] == "defective") for name, _ in shown]
    assert wrong == sorted(wrong, reverse=True), "wrong decisions come first"
    for value in (metrics["model"]["sha256"], metrics["schema"], "training.batch", "ROC curve", "Scores of these"):
        assert str(value) in page
    assert 'src="http' not in page
    assert (out / "roc.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluating_twice(root: Path, model: Path, metrics: dict[str, Any], tmp_path: Path) -> None:
    """The same model and images give the same figures again, bit for bit."""
    again = flawmap.evaluate_model(model, root, tmp_path / "out")
    assert json.loads(json.dumps(again.to_dict())) == {key: metrics[key] for key in again.to_dict()}


# ------------------------------------------------------------------------------------------------------- what is unseen


def test_trained_images_are_refused(root: Path, model: Path, tmp_path: Path) -> None:
    """Good images that the model was trained on are never scored as unseen; the message names them."""
    trained = [area["file"] for area in load_artifact(model).provenance["data"]["split"]["train"]]
    assert len(trained) == 7
    names = ", ".join(str(root / "train" / "good" / name) for name in sorted(trained)[:3])
    with pytest.raises(InputError) as error:
        flawmap.evaluate_model(model, root, tmp_path / "out", last=8)
    assert str(error.value) == (
        f"7 of the images to be scored as unseen were trained on: {names}, ...; leave them out, or score the areas of "
        "the split that were held out"
    )


def test_images_that_gave_the_threshold_are_refused(root: Path, model: Path) -> None:
    """Validation images are not unseen either: they gave the model its threshold."""
    dataset = find_dataset(root)
    split = Split.from_dict(load_artifact(model).provenance["data"]["split"])
    tuned = {area.sha256 for area in split.validation}
    path = next(s.path for s in dataset.samples if sha256_of(s.path) in tuned)
    sample = replace(next(s for s in dataset.samples if s.path == path), split="test")
    with pytest.raises(InputError) as error:
        unseen_samples(replace(dataset, samples=(sample,)), split)
    assert str(error.value) == (
        f"1 of the images to be scored as unseen gave the model its threshold: {path}; leave them out"
    )


def test_more_than_there_are(root: Path, model: Path, tmp_path: Path) -> None:
    """More held-out images than there are good ones is an error that says how many there are."""
    with pytest.raises(InputError) as error:
        flawmap.evaluate_model(model, root, tmp_path / "out", last=9)
    assert str(error.value) == "the last 9 good images were asked for, but there are 8; take fewer"


def test_held_out_by_name_counts_as_good(root: Path, tmp_path: Path) -> None:
    """Images that `train` held out by name count as good test images in `evaluate`, with the option and without."""
    flawmap.train(root, tmp_path / "m.flawmap", config(split={"last": 2}))
    for last in (None, 2, 1):
        metrics = flawmap.evaluate_model(tmp_path / "m.flawmap", root, tmp_path / "out", last=last)
        good = [Path(row.path).as_posix() for row in metrics.per_image if row.label == "good"]
        held = ["train/good/006.png", "train/good/007.png"]
        assert good == [*held, "test/good/000.png", "test/good/001.png"]
    with pytest.raises(InputError, match="1 of the images to be scored as unseen were trained on"):
        flawmap.evaluate_model(tmp_path / "m.flawmap", root, tmp_path / "out", last=3)


def test_areas(tmp_path: Path) -> None:
    """Of five or fewer good images areas are held out: they give a false positive rate, but no image metric."""
    folder = tmp_path / "nano"
    for number, image in enumerate(cloth(2, 0, (128, 96))):
        put(folder / "Normal" / f"{number}.png", image)
    put(folder / "Anomalous" / "images" / "0.png", cloth(1, 1)[0])
    put(folder / "Anomalous" / "gt" / "0_gt.png", MASKS["big"])
    flawmap.train(folder, tmp_path / "m.flawmap", config())
    found = flawmap.evaluate_model(tmp_path / "m.flawmap", folder, tmp_path / "out")
    assert (found.image, found.image_reason) == (None, "no good images")
    assert found.held_out is not None
    assert (found.held_out.images_or_areas, found.held_out.good_pixels) == (2, 2 * 32 * 48)
    assert found.pixel.values["auroc"] is not None, "the defective image has good pixels"
    with pytest.raises(InputError, match="2 of the images to be scored as unseen were trained on"):
        flawmap.evaluate_model(tmp_path / "m.flawmap", folder, tmp_path / "out", last=2)


def test_areas_alone(tmp_path: Path) -> None:
    """A plain folder of a few good images gives a false positive rate; every other figure says why there is none."""
    for number, image in enumerate(cloth(2, 0, (128, 96))):
        put(tmp_path / "good" / f"{number}.png", image)
    flawmap.train(tmp_path / "good", tmp_path / "m.flawmap", config())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "roc.png").write_bytes(b"of an earlier evaluation")
    found = flawmap.evaluate_model(tmp_path / "m.flawmap", tmp_path / "good", tmp_path / "out")
    assert found.held_out is not None
    assert found.pixel.result.measures["auroc"] == Measure(None, reason="no pixels")
    assert (found.image, found.image_reason) == (None, "no images")
    assert not (tmp_path / "out" / "roc.png").exists()
    assert "<figure" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_nothing_to_evaluate(root: Path, model: Path, tmp_path: Path) -> None:
    """A folder of good images that the model never saw counts with `last` alone, and the error says so."""
    for number, image in enumerate(cloth(2, 9)):
        put(tmp_path / "fresh" / f"{number}.png", image)
    with pytest.raises(InputError) as error:
        flawmap.evaluate_model(model, tmp_path / "fresh", tmp_path / "out")
    assert str(error.value) == (
        "no image could be evaluated: the set has neither test images nor good ones that the model's split held out; "
        "good images that the model never saw are counted with --last N"
    )
    found = flawmap.evaluate_model(model, tmp_path / "fresh", tmp_path / "out", last=2)
    assert [row.label for row in found.per_image] == ["good", "good"]


def test_manifest(root: Path, model: Path, metrics: dict[str, Any], tmp_path: Path) -> None:
    """A CSV manifest of the same images gives the same figures, with paths relative to the manifest."""
    lines = ["image,split,label,mask"]
    for path in sorted((root / "train").rglob("*.png")):
        lines.append(f"{path.relative_to(root)},train,good,")
    for path in sorted((root / "test").rglob("*.png")):
        kind = path.parent.name
        truth = f"ground_truth/{kind}/000_mask.png" if kind in MASKS or kind == "other_size" else ""
        label = "good" if kind == "good" else "defective"
        lines.append(f"{path.relative_to(root)},test,{label},{truth}")
    (root / "set.csv").write_text("\n".join(lines), encoding="utf-8")
    found = flawmap.evaluate_model(model, root / "set.csv", tmp_path / "out")
    assert found.pixel.to_dict() == metrics["pixel"]
    assert {row.path for row in found.per_image} == {row["path"] for row in metrics["per_image"]}


def test_without_a_threshold(root: Path, model: Path, tmp_path: Path) -> None:
    """A model without a threshold is measured all the same; what needs a decision is null."""
    artifact = load_artifact(model)
    bare = Artifact(artifact.config, artifact.weights, {}, {}, artifact.provenance)
    save_artifact(bare, tmp_path / "bare.flawmap")
    found = flawmap.evaluate_model(tmp_path / "bare.flawmap", root, tmp_path / "out")
    whole = flawmap.evaluate_model(model, root, tmp_path / "out 2")
    assert found.pixel == whole.pixel
    assert found.image is not None
    assert whole.image is not None
    assert found.image == replace(whole.image, found=None, false_positives=None)
    assert found.held_out is None
    for row, other in zip(found.per_image, whole.per_image, strict=True):
        assert row.score == other.score
        undecided = ["verdict", "regions", "flawed_pixels", "hit_pixels", "false_pixels", "overlap"]
        assert all(row.to_dict().get(name) is None for name in undecided)
    assert "(None)" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_defective_images_have_no_say(root: Path, model: Path, tmp_path: Path) -> None:
    """The threshold is the same whether the data set has defective images or not: good ones alone decide."""
    bare = tmp_path / "bare"
    for path in (root / "train" / "good").iterdir():
        put(bare / "train" / "good" / path.name, np.asarray(read_grey(path)))
    for path in (root / "test" / "good").iterdir():
        put(bare / "test" / "good" / path.name, np.asarray(read_grey(path)))
    settings = config(images={"roi": {"box": BOX}}, threshold={"false_positive_rate": 0.01})
    report = flawmap.train(bare, tmp_path / "m.flawmap", settings)
    assert report.artifact.threshold == load_artifact(model).threshold


def read_grey(path: Path) -> NDArray[np.uint8]:
    from flawmap.core.settings import ImageSettings
    from flawmap.imaging.reading import read_image

    return np.rint(read_image(path, ImageSettings()).pixels[:, :, 0] * 255).astype(np.uint8)


def test_masks_are_as_painted(root: Path) -> None:
    """The masks that these tests compare with are those in the files."""
    for kind, truth in MASKS.items():
        assert np.array_equal(read_mask(root / "ground_truth" / kind / "000_mask.png"), truth)


# --------------------------------------------------------------------------------------------------------------- bands


class Banded:
    """A detector whose residual map is given, and cut into bands at given rows."""

    def __init__(self, residual: NDArray[np.float32], inside: NDArray[np.bool_], cuts: list[int]) -> None:
        self.residual, self.inside, self.cuts = residual, inside, cuts

    def scan(self, image: ImageRows, *, box: Box | None = None, reconstruction: bool = False) -> Iterator[Band]:
        for top, bottom in pairwise([0, *self.cuts, len(self.residual)]):
            rows = slice(top, bottom)
            yield Band(top, image.pixels()[rows], self.residual[rows], None, self.inside[rows])


@pytest.mark.parametrize("cuts", [[1], [7, 8, 30], list(range(1, 40))])
def test_any_cut_into_bands_measures_the_same(cuts: list[int]) -> None:
    """Score, regions, pixels found and hit, and every pixel metric are those of the image in one band."""
    rng = np.random.default_rng(0)
    inside = np.indices((40, 30))[1] < 25
    residual = ndimage.gaussian_filter(rng.random((40, 30)), 1).astype(np.float32) * inside
    truth = ndimage.gaussian_filter(rng.random((40, 30)), 2) > 0.52
    image = ImageRows.of(np.zeros((40, 30, 1), np.float32))
    found = []
    for places in ([], cuts):
        scan = scan_image(Banded(residual, inside, places), image, truth, point=OperatingPoint(threshold=0.55))  # type: ignore[arg-type]
        metrics = PixelMetrics()
        metrics.add_image(scan.counts)
        found.append((scan.inspection, scan.hit, metrics.result()))
    assert found[0] == found[1]
    assert found[0][1] == ((residual > 0.55) & inside & truth).sum() > 0
    assert len(found[0][0].regions) > 1
    assert found[0][2].regions > 1

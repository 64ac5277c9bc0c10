"""From folder to figures: sets as people have them, through training, inspection and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import flawmap
from flawmap.core.events import Events
from flawmap.data.synthetic import texture
from flawmap.imaging.writing import write_image
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset

SMALL = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 2, "batch": 4, "minutes": None, "precision": "float32"},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer validation patches and no picture of the loss, which cost more than the trainings here."""
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    monkeypatch.setattr("flawmap.commands.train.loss_figure", lambda *_: None)


def config(**changes: Any) -> Config:
    return override(override(preset("fast"), SMALL), changes)


def cloth(count: int, size: tuple[int, int] = (64, 64)) -> list[NDArray[np.float32]]:
    """(H, W) in [0, 1], all different."""
    return [texture("cloth", size, seed)[:, :, 0] for seed in range(count)]


def grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(image * 255).astype(np.uint8)


def put(folder: Path, images: list[NDArray[Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        if image.dtype == np.uint16:
            tifffile.imwrite(folder / f"{number:03d}.tif", image)
        else:
            write_image(folder / f"{number:03d}.png", image)
    return folder


class Heard(Events):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_grey_stored_as_colour(tmp_path: Path) -> None:
    """A set of both kinds makes a model of one channel, whose scores do not depend on how a file stores its grey."""
    images = [grey(image) for image in cloth(8)]
    as_colour = [np.repeat(image[:, :, None], 3, axis=2) for image in images]
    folder, heard = put(tmp_path / "good", [*images[:4], *as_colour[4:]]), Heard()
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(), events=heard)
    assert report.artifact.config.model.channels == 1
    assert "4 of 8 images hold grey pixels stored as colour: the model has one channel" in heard.said
    plain = flawmap.train(put(tmp_path / "plain", images), tmp_path / "plain.flawmap", config(split={"validation": 0}))
    assert plain.artifact.config.model.channels == 1
    detector = flawmap.Detector.load(report.model)
    put(tmp_path / "both", [images[0], as_colour[0]])
    scores = [detector.inspect(path).score for path in sorted((tmp_path / "both").iterdir())]
    assert scores[0] == scores[1]


def test_twelve_bits(tmp_path: Path) -> None:
    """The depth is found over the training images, said, and kept by the model: it scores as if they had 8 bits."""
    images, heard = cloth(7), Heard()
    twelve = [np.rint(image * 255).astype(np.uint16) * 16 for image in images]
    twelve[0][0, 0] = 4095
    folder = put(tmp_path / "good", twelve)
    report = flawmap.train(folder, tmp_path / "m.flawmap", config(), events=heard)
    assert report.artifact.config.images.white == 4095
    assert (
        heard.said[0]
        == "no value of 7 16-bit images is above 4095: they look like 12 bits, so 4095 is white (images.white)"
    )
    detector = flawmap.Detector.load(report.model)
    np.testing.assert_allclose(detector.read(folder / "001.tif").pixels[:, :, 0], images[1], atol=1 / 200)


def test_small_images_train_with_padding(tmp_path: Path) -> None:
    """Images of many sizes, some smaller than a patch: padded, or left out by name; the threshold counts alike."""
    sizes = [(64, 64)] * 4 + [(24, 70), (70, 24), (20, 20), (30, 31)]
    images = [grey(whole[: size[0], : size[1]]) for whole, size in zip(cloth(8, (70, 70)), sizes, strict=True)]
    folder = put(tmp_path / "good", images)
    padded = flawmap.train(folder, tmp_path / "p.flawmap", config(tiling={"pad": True}, split={"test": 0.0}))
    assert padded.skipped == ()
    assert sum(padded.artifact.provenance["data"]["sizes"].values()) == padded.artifact.provenance["data"]["images"]
    heard = Heard()
    few = flawmap.train(folder, tmp_path / "f.flawmap", config(split={"validation": 0.0, "test": 0.0}), events=heard)
    assert [path.name for path, _ in few.skipped] == ["004.png", "005.png", "006.png", "007.png"]
    assert any("4 of 8 images are smaller than a patch (32 x 32) and are left out: " in said for said in heard.said)


def test_dead_frames_are_left_out(tmp_path: Path) -> None:
    """With `skip_outliers` a training is the one without them."""
    images = [grey(image) for image in cloth(8)]
    put(tmp_path / "good", images)
    put(tmp_path / "dead", [*images, np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8)])
    first = flawmap.train(tmp_path / "good", tmp_path / "a.flawmap", config())
    second = flawmap.train(tmp_path / "dead", tmp_path / "b.flawmap", config(), skip_outliers=True)
    assert [path.name for path, _ in second.skipped] == ["008.png", "009.png"]
    assert second.artifact.threshold == first.artifact.threshold
    assert second.artifact.provenance["data"]["split_sha256"] == first.artifact.provenance["data"]["split_sha256"]


def test_an_added_test_image_does_not_stop_a_resume(tmp_path: Path) -> None:
    """A checkpoint belongs to what is trained on: a further test image leaves it of use."""
    put(tmp_path / "set" / "train" / "good", [grey(image) for image in cloth(7)])
    put(tmp_path / "set" / "test" / "good", [grey(image) for image in cloth(9)[7:]])
    model = tmp_path / "m.flawmap"

    class Stop(Events):
        def training(self, progress: Any, name: str = "training") -> None:
            if progress.row.step >= 4:
                raise KeyboardInterrupt

    settings = config(training={"steps": 10, "checkpoint_minutes": 1e-9})
    with pytest.raises(KeyboardInterrupt):
        flawmap.train(tmp_path / "set", model, settings, events=Stop())
    assert model.with_name("m.checkpoint").exists()
    write_image(tmp_path / "set" / "test" / "good" / "new.png", grey(cloth(10)[-1]))
    assert flawmap.train(tmp_path / "set", model, settings, resume=True).model.exists()


@pytest.mark.parametrize("layout", ["loco", "coco", "labelme", "folders"])
def test_evaluation_of_other_layouts(tmp_path: Path, layout: str) -> None:
    """A defect that is drawn as a mask, as two masks, as a box or as a shape gives the same figures."""
    images, root = [grey(image) for image in cloth(8)], tmp_path / "set"
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 30:45] = 255
    box = {"label": "hole", "shape_type": "rectangle", "points": [[30, 10], [44, 19]]}
    if layout == "loco":
        put(root / "train" / "good", images[:7])
        put(root / "test" / "hole", images[7:])
        halves = [np.where(np.arange(64) < 40, mask, 0).astype(np.uint8), np.where(np.arange(64) >= 40, mask // 3, 0)]
        put(root / "ground_truth" / "hole" / "000", [half.astype(np.uint8) for half in halves])
    elif layout == "coco":
        put(root, images)
        listed = [{"id": n, "file_name": f"{n:03d}.png", "height": 64, "width": 64} for n in range(8)]
        drawn = [{"image_id": 7, "category_id": 0, "bbox": [30, 10, 15, 10]}]
        (root / "set.json").write_text(json.dumps({"images": listed, "annotations": drawn}))
    elif layout == "labelme":
        put(root, images)
        (root / "007.json").write_text(json.dumps({"shapes": [box], "imageHeight": 64, "imageWidth": 64}))
    else:
        put(root / "OK", images[:7])
        put(root / "NG", images[7:])
        put(root / "Mask", [mask])
    model = flawmap.train(root, tmp_path / "m.flawmap", config()).model
    found = flawmap.evaluate_model(model, root, tmp_path / "out")
    (row,) = [row for row in found.per_image if row.label == "defective"]
    assert row.truth is not None
    assert row.truth.defective == 150
    assert row.metrics is not None

"""One detector object: sizes, scales, regions of interest, verdicts, precision, exact error texts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import texture
from flawmap.evaluation.metrics import PixelMetrics
from flawmap.imaging.morphology import opened
from flawmap.imaging.reading import ImageRows
from flawmap.methods.autoencoder import build_network, train_network
from flawmap.methods.overrides import override, parse
from flawmap.methods.reconstruction import comparing
from flawmap.methods.residuals import Decoded
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

PATCH = 32
Pixels = NDArray[np.float32]


CPU = Runtime(device="cpu", precision="float32")


def with_network(detector: Detector, network: Callable[[Tensor], Tensor]) -> Detector:
    """A detector with another function in place of its network."""
    config, own = detector.config, detector.scorer

    def decode(patches: Tensor) -> Decoded:
        return Decoded(network(patches.contiguous(memory_format=torch.channels_last)).float().contiguous())

    return replace(detector, scorer=comparing(config, decode, own.device, own.precision, own.batch))


def image_of(width: int = 96, height: int = 70, seed: int = 0, channels: int = 1) -> Pixels:
    image = texture("fibres", (width, height), seed)
    tones = np.array([1.0, 0.7, 0.4], np.float32)[:channels]
    return image * tones


def settings(**changes: Any) -> dict[str, Any]:
    ssim = {"size": 7, "constants": "wang"}
    return {
        "model": {"patch": PATCH, "channels": 1},
        "method": {"latent": 16, "ssim": {**ssim, "window": "gaussian"}},
        "residual": {"ssim": ssim},
        "tiling": {"stride": 12},
        "training": {"steps": 40, "batch": 16, "precision": "float32"},
        **changes,
    }


@pytest.fixture(scope="module")
def trained() -> Artifact:
    """A model that has seen a little of a fibre texture; its threshold lies among its residuals."""
    config = parse(settings())
    source = PatchSource([TrainingImage(image_of(160, 160, seed)) for seed in range(2)], PATCH)
    return Artifact(
        config, train_network(config, source).network.state_dict(), {DEFAULT: OperatingPoint(threshold=0.25)}
    )


def with_settings(artifact: Artifact, **changes: Any) -> Detector:
    """The model scored in another way."""
    return Detector.of(replace(artifact, config=override(artifact.config, changes)), CPU)


def untrained(channels: int) -> Detector:
    config = parse(settings(model={"patch": PATCH, "channels": channels}))
    return Detector.of(
        Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)}), CPU
    )


def in_bfloat16(detector: Detector) -> Detector:
    return Detector.of(detector.artifact, Runtime(device="cpu", precision="bfloat16"))


def perfect(detector: Detector) -> Detector:
    """A detector whose network reconstructs everything."""
    return with_network(detector, nn.Identity())


def smoothing(detector: Detector) -> Detector:
    """A detector whose network gives every patch without its fine detail."""
    return with_network(detector, nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False))


# --- the map


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7, (64, 48), (96, 35)])
@pytest.mark.parametrize("pad", [False, True])
def test_the_map_has_the_image_s_own_size(trained: Artifact, scale: Any, pad: bool) -> None:
    """Whatever the scale, (H, W) float32 comes back, at least 0, with the reconstruction in (H, W, C)."""
    image = image_of(96, 70)
    explained = with_settings(trained, images={"scale": scale}, tiling={"pad": pad}).explain(image)
    assert explained.residual.shape == (70, 96)
    assert explained.residual.dtype == np.float32
    assert explained.residual.min() >= 0
    assert explained.residual.max() > 0.01
    assert explained.reconstruction is not None
    assert explained.reconstruction.shape == (70, 96, 1)
    assert explained.reconstruction.dtype == np.float32
    assert explained.inside.all()


@pytest.mark.parametrize("scale", [1.0, 0.5, (64, 48)])
def test_a_network_that_reconstructs_everything_finds_nothing(trained: Artifact, scale: Any) -> None:
    """Tiling, scaling and padding add no residual of their own, nor does a size that the stride does not divide."""
    for width, height in ((96, 70), (131, 97), (64, 64)):
        detector = perfect(with_settings(trained, images={"scale": scale}, tiling={"pad": True}))
        explained = detector.explain(image_of(width, height))
        assert np.abs(explained.residual).max() < 1e-4
        if scale == 1.0:
            np.testing.assert_allclose(explained.reconstruction, image_of(width, height), rtol=0, atol=1e-6)


def test_a_score_depends_on_its_image_alone(trained: Artifact) -> None:
    """Bit for bit: scored alone, again, after others, or by a detector loaded anew."""
    detector = with_settings(trained)
    images = [image_of(seed=seed) for seed in range(3)] + [image_of(150, 64, seed=9)]
    first = [detector.score(image) for image in images]
    for image, score in reversed(list(zip(images, first, strict=True))):
        assert np.array_equal(detector.score(image), score)
    assert np.array_equal(with_settings(trained).score(images[0]), first[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_score_repeats_bit_for_bit_in_every_precision(trained: Artifact, precision: str) -> None:
    """A fixed choice of precision gives the same bits every time; the network alone runs in it."""
    detector = Detector.of(with_settings(trained).artifact, Runtime(device="cpu", precision=precision))
    assert detector.scorer.precision == precision
    score = detector.score(image_of())
    assert score.dtype == np.float32
    assert np.array_equal(detector.score(image_of()), score)


def test_the_network_meets_batches_of_one_size_alone(trained: Artifact) -> None:
    """However many patches an image has, its batches are all of one size, channels last: the last one is filled up."""
    shapes: list[tuple[int, ...]] = []

    class Recording(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            assert patches.is_contiguous(memory_format=torch.channels_last)
            shapes.append(tuple(patches.shape))
            return patches

    detector = with_network(with_settings(trained), Recording())
    for (width, height), wanted in {(32, 32): [1], (100, 90): [21, 21], (44, 96): [14], (152, 56): [17, 17]}.items():
        assert np.abs(detector.score(image_of(width, height))).max() < 1e-4
        assert shapes == [(count, 1, PATCH, PATCH) for count in wanted]
        shapes.clear()


def test_what_cannot_be_reconstructed_stands_out_at_its_place(trained: Artifact) -> None:
    """With a network that only knows smooth patches, a spot of noise is the map's largest residual, in its pixels."""
    image = image_of(128, 96, seed=5)
    image[60:76, 40:56] = np.random.default_rng(0).random((16, 16, 1), np.float32).round()
    for scale in (1.0, 2.0):
        score = smoothing(with_settings(trained, images={"scale": scale}, residual={"name": "l2"})).score(image)
        y, x = np.unravel_index(score.argmax(), score.shape)
        assert 60 <= y < 76
        assert 40 <= x < 56
        outside = score.copy()
        outside[54:82, 34:62] = 0
        assert outside.max() < score.max() / 2


def test_images_may_be_read_only_and_double(trained: Artifact) -> None:
    """Neither is changed nor warned of, and float64 scores as its float32."""
    detector, image = with_settings(trained), image_of()
    kept = image.copy()
    image.setflags(write=False)
    score = detector.score(image)
    assert np.array_equal(image, kept)
    assert np.array_equal(detector.score(image.astype(np.float64)), score)  # type: ignore[arg-type]
    assert np.array_equal(detector.score(np.asfortranarray(image)), score)


def test_bfloat16_scores_are_close_to_float32(trained: Artifact) -> None:
    """The network's precision moves a residual by less than 0.03 anywhere and by less than 0.002 on average."""
    detector = with_settings(trained)
    for seed in range(3):
        image = image_of(128, 128, seed)
        difference = np.abs(detector.score(image) - in_bfloat16(detector).score(image))
        assert difference.max() < 0.03
        assert difference.mean() < 0.002


@pytest.mark.parametrize("residual", ["ssim", "l2"])
def test_bfloat16_moves_the_area_under_the_curve_by_less_than_a_thousandth(trained: Artifact, residual: str) -> None:
    """The bound that the documentation states, on images with dark patches, which a short training hardly notices."""
    exact = with_settings(trained, residual={"name": residual})
    metrics = [(detector, PixelMetrics()) for detector in (exact, in_bfloat16(exact))]
    for seed in range(4):
        image, mask = image_of(128, 96, seed), np.zeros((96, 128), np.bool_)
        mask[30:50, 20 + 10 * seed : 45 + 10 * seed] = True
        image[mask] *= 0.4
        for detector, found in metrics:
            found.add(opened(detector.score(image), 4), mask)
    areas = [found.result().measures["auroc"].value for _, found in metrics]
    assert 0.5 < areas[0] < 0.99, "there is something to lose"
    assert abs(areas[0] - areas[1]) < 0.001


def test_padding_reflects_small_images(trained: Artifact) -> None:
    """Images smaller than a patch are scored at their own size; larger ones are not touched by the setting."""
    padding = with_settings(trained, tiling={"pad": True})
    for width, height in ((20, 40), (12, 12), (40, 31)):
        image = np.ascontiguousarray(image_of(64, 64)[:height, :width])
        assert padding.score(image).shape == (height, width)
        assert np.abs(perfect(padding).score(image)).max() < 1e-4
    image = image_of()
    assert np.array_equal(padding.score(image), with_settings(trained).score(image))
    # By hand: 12 pixels are missing below and beside a 20x20 image, six at each end.
    small = np.ascontiguousarray(image_of(64, 64)[:20, :20])
    whole = with_settings(trained).score(np.pad(small, ((6, 6), (6, 6), (0, 0)), mode="reflect"))
    assert np.array_equal(padding.score(small), whole[6:26, 6:26])


# --- the region of interest


@pytest.mark.parametrize("scale", [1.0, 0.5, (160, 128)])
def test_what_lies_outside_a_box_neither_scores_nor_counts(trained: Artifact, scale: Any) -> None:
    """The map is 0 outside the box, and inside it is the same bits whatever the pixels outside are."""
    box = (20, 10, 116, 90)
    detector = with_settings(trained, images={"roi": {"box": box}, "scale": scale})
    image = image_of(160, 128)
    explained = detector.explain(image)
    assert explained.inside.sum() == 96 * 80
    assert explained.inside[10:90, 20:116].all()
    assert not explained.residual[~explained.inside].any()
    assert explained.residual[explained.inside].max() > 0.01
    assert np.array_equal(explained.reconstruction[~explained.inside], image[~explained.inside])
    other = image_of(160, 128, seed=8)
    other[10:90, 20:116] = image[10:90, 20:116]
    again = detector.explain(other)
    assert np.array_equal(again.residual, explained.residual)
    assert np.array_equal(again.reconstruction[10:90, 20:116], explained.reconstruction[10:90, 20:116])


def test_a_box_is_scored_as_the_image_cut_out_of_it(trained: Artifact) -> None:
    """At scale 1 and at a factor, the inside of the map is the map of the part; at a size, of its share of the size."""
    image, part = image_of(160, 128), np.ascontiguousarray(image_of(160, 128)[10:90, 20:116])
    for scale, own in ((1.0, 1.0), (0.5, 0.5), ((80, 64), (48, 40))):
        whole = with_settings(trained, images={"roi": {"box": (20, 10, 116, 90)}, "scale": scale}).score(image)
        assert np.array_equal(whole[10:90, 20:116], with_settings(trained, images={"scale": own}).score(part))


def test_a_part_is_scored_at_its_share_of_a_size(trained: Artifact) -> None:
    """A part cut from a file, its region known, gets the working scale that the whole file would have."""
    image, part = image_of(160, 128), np.ascontiguousarray(image_of(160, 128)[10:90, 20:116])
    box = (20, 10, 116, 90)
    detector = with_settings(trained, images={"scale": (80, 64)})
    found = np.concatenate([band.residual for band in detector.scan(ImageRows.of(image), box=box, opening=False)])
    assert np.array_equal(found, with_settings(trained, images={"scale": 0.5}).score(part))
    left = with_settings(trained, images={"scale": (80, 64), "roi": {"box": (0, 0, 90, 128)}})
    found = np.concatenate([band.residual for band in left.scan(ImageRows.of(image), box=box)])
    assert not found[:, 70:].any()
    assert found[:, :70].any()


def test_an_area_outside_the_region_is_refused(trained: Artifact) -> None:
    """There is nothing to score."""
    detector = with_settings(trained, images={"roi": {"box": (0, 0, 40, 40)}})
    with pytest.raises(InputError, match="lies in the region of interest"):
        list(detector.scan(ImageRows.of(image_of(160, 128)), box=(60, 60, 120, 120)))


def test_no_flaw_is_found_outside_the_region(trained: Artifact) -> None:
    """Score, mask and regions keep inside the box."""
    image = image_of(128, 128)
    image[40:80, 80:120] = np.random.default_rng(0).random((40, 40, 1), np.float32).round()
    found, everywhere = (
        smoothing(with_settings(trained, images={"roi": region}, threshold={"opening": 0})).inspect(image)
        for region in ({"box": (0, 0, 64, 128)}, {})
    )
    consistent(found)
    assert not found.mask[:, 64:].any()
    assert not found.residual[:, 64:].any()
    assert everywhere.mask[:, 64:].any()
    assert everywhere.score > found.score


def test_a_region_of_masks_needs_the_image_s_name(trained: Artifact, tmp_path: Path) -> None:
    """Arrays have no name: path= gives one, and its mask is found."""
    mask = np.zeros((70, 96), np.uint8)
    mask[5:60, 10:50] = 255
    mask[20:30, 40:80] = 255
    Image.fromarray(mask).save(tmp_path / "one.png")
    detector = with_settings(trained, images={"roi": {"masks": str(tmp_path)}})
    with pytest.raises(InputError) as caught:
        detector.score(image_of())
    assert str(caught.value) == (
        "the region of interest is a folder of masks, found by the image's name; pass the image as a file, or its "
        "path= beside it"
    )
    explained = detector.explain(image_of(), path="anywhere/one.tif")
    assert np.array_equal(explained.inside, mask > 0)
    assert not explained.residual[mask == 0].any()
    found = detector.inspect(image_of(), path="anywhere/one.tif", threshold=0.01)
    consistent(found)
    assert found.mask.any()
    assert not found.mask[mask == 0].any()


# --- inspections


def consistent(found: MappedInspection) -> None:
    """What every inspection holds among its own numbers."""
    assert found.score == found.residual.max()
    assert np.array_equal(found.mask, found.residual.astype(np.float64) > found.threshold)
    assert found.verdict == ("flawed" if found.mask.any() else "ok")
    assert sum(region.area for region in found.regions) == found.mask.sum()
    covered = np.zeros_like(found.mask)
    for region in found.regions:
        left, top, width, height = region.box
        part = (slice(top, top + height), slice(left, left + width))
        covered[part] |= found.mask[part]
        assert found.threshold < region.mean <= region.peak <= found.score
    assert np.array_equal(covered, found.mask)
    if found.regions:
        assert max(region.peak for region in found.regions) == found.score


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.2, 0.3, 0.99])
@pytest.mark.parametrize("opening", [0, 4])
def test_an_inspection_agrees_with_itself(trained: Artifact, threshold: float, opening: int) -> None:
    """The score is the largest opened residual, the mask what exceeds the threshold, the regions cover the mask."""
    detector = with_settings(trained, threshold={"opening": opening})
    image = image_of(128, 96, seed=4)
    image[30:50, 30:50] = 0.5
    found = detector.inspect(image, threshold=threshold)
    consistent(found)
    assert found.threshold == threshold
    assert np.array_equal(found.residual, opened(detector.score(image), opening))
    assert (found.residual <= detector.score(image)).all()
    if threshold == 0.99:
        assert found.verdict == "ok"
        assert found.regions == ()
    if threshold == 0.05:
        assert found.verdict == "flawed"


def test_the_model_s_own_threshold_is_used_unless_one_is_given(trained: Artifact) -> None:
    """0 is a threshold like any other."""
    detector, image = with_settings(trained), image_of()
    assert detector.inspect(image).threshold == 0.25
    assert detector.inspect(image, threshold=0.0).threshold == 0.0
    assert detector.inspect(image, threshold=0.0).mask.any()


def test_a_model_without_a_threshold_says_so(trained: Artifact) -> None:
    """It scores, but it does not judge until one is given."""
    detector = Detector.of(replace(trained, points={}), CPU)
    assert detector.score(image_of()).shape == (70, 96)
    with pytest.raises(ConfigError) as caught:
        detector.inspect(image_of())
    assert str(caught.value) == (
        "this model has no threshold; pass one, or train with good images held out (validation > 0)"
    )
    consistent(detector.inspect(image_of(), threshold=0.1))


def test_a_file_is_inspected_as_its_array(trained: Artifact, tmp_path: Path) -> None:
    """inspect(path) and inspect(array, path=path) are one record, and so are the path as a string and its bytes."""
    path = tmp_path / "image.png"
    Image.fromarray((image_of()[:, :, 0] * 255).astype(np.uint8)).save(path)
    detector = with_settings(trained)
    by_path, by_name = detector.inspect(path), detector.inspect(str(path))
    by_array = detector.inspect(detector.read(path).pixels, path=path)
    by_bytes = detector.inspect(path.read_bytes(), path=path)
    for found in (by_name, by_array, by_bytes):
        assert found.to_dict() == by_path.to_dict()
        assert np.array_equal(found.residual, by_path.residual)
        assert np.array_equal(found.mask, by_path.mask)
    assert by_path.path == str(path)
    assert detector.inspect(image_of()).path is None
    assert detector.inspect(path.read_bytes()).path is None


def test_colour_is_scored_in_colour() -> None:
    """A colour model takes (H, W, 3) and maps the mean over channels."""
    explained = untrained(3).explain(image_of(channels=3))
    assert explained.residual.shape == (70, 96)
    assert explained.reconstruction.shape == (70, 96, 3)


def test_a_loaded_detector_scores_as_the_one_in_memory(trained: Artifact, tmp_path: Path) -> None:
    """Saving and loading change no bit of a score."""
    path = tmp_path / "model.flawmap"
    save_artifact(trained, path)
    expected = with_settings(trained).score(image_of())
    for where in (path, str(path)):
        loaded = Detector.load(where, CPU)
        assert np.array_equal(loaded.score(image_of()), expected)
        assert loaded.config == trained.config


def test_detectors_do_not_share_their_weights(trained: Artifact) -> None:
    """A detector holds a copy: the model in memory may change."""
    artifact = replace(trained, weights={name: tensor.clone() for name, tensor in trained.weights.items()})
    detector = with_settings(artifact)
    expected = detector.score(image_of())
    for tensor in artifact.weights.values():
        tensor.zero_()
    assert np.array_equal(detector.score(image_of()), expected)


def test_threads_may_share_a_detector(trained: Artifact) -> None:
    """Bit for bit what one thread gives, whatever the others score meanwhile."""
    detector = with_settings(trained)
    images = [image_of(96 + 8 * seed, 70, seed=seed) for seed in range(8)]
    alone = [detector.score(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.score, images * 2))
    assert all(np.array_equal(found, wanted) for found, wanted in zip(together, alone * 2, strict=True))


# --- what is refused


NAN = image_of()
NAN[3, 4, 0] = np.nan
NAN[5, 5, 0] = np.inf


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            image_of()[:, :, 0],
            "image must be (H, W, 1) or (H, W, 3), got (70, 96); for a grey image pass image[:, :, None]",
        ),
        (image_of()[None], "image must be (H, W, 1) or (H, W, 3), got (1, 70, 96, 1)"),
        (np.zeros((50, 50, 4), np.float32), "image must be (H, W, 1) or (H, W, 3), got (50, 50, 4)"),
        (np.zeros((0, 50, 1), np.float32), "image must have pixels, got (0, 50, 1)"),
        (
            np.zeros((50, 50, 1), np.uint8),
            "image must be floating point in [0, 1], got uint8; divide by the type's range first",
        ),
        (NAN, "image must be finite, got 2 NaN or infinite values of 6720"),
        (
            np.full((50, 50, 1), 128, np.float32),
            "image must lie in [0, 1], got values from 128 to 128; divide by the value that is white",
        ),
        (
            image_of() - 1,
            f"image must lie in [0, 1], got values from {image_of().min() - 1:g} to {image_of().max() - 1:g}; "
            "divide by the value that is white",
        ),
        (
            image_of(channels=3),
            "this model was trained on grey images, got a colour one; convert the image, or train with --mode grey so "
            "that every image is converted",
        ),
        (
            np.zeros((20, 60, 1), np.float32),
            "image must be at least one patch large, 32x32 pixels, got 60x20; use larger images, a smaller patch, a "
            "larger scale, or pad (--set tiling.pad=true)",
        ),
    ],
)
def test_images_that_cannot_be_scored_are_refused(trained: Artifact, image: Pixels, message: str) -> None:
    """The message says what was expected, what came and what to do; NaN is never repaired."""
    detector = with_settings(trained)
    for call in (detector.score, detector.explain, detector.inspect):
        with pytest.raises(InputError) as caught:
            call(image)
        assert str(caught.value) == message


def test_grey_and_its_three_equal_channels_are_one(trained: Artifact) -> None:
    """A grey model takes grey stored as colour, a colour model takes grey; neither score differs by it."""
    grey = image_of()
    as_colour = np.repeat(grey, 3, axis=2)
    for detector in (with_settings(trained), untrained(3)):
        np.testing.assert_array_equal(detector.score(grey), detector.score(as_colour))


def test_an_image_too_small_to_be_padded_is_refused(trained: Artifact) -> None:
    """Reflection reaches less than one side, so a third of a patch is needed: 12 of 32 pixels."""
    with pytest.raises(InputError) as caught:
        with_settings(trained, tiling={"pad": True}).score(np.zeros((11, 40, 1), np.float32))
    assert str(caught.value) == (
        "image must be at least 12x12 pixels to be padded by reflection to a patch of 32, got 40x11; use a smaller "
        "patch or a larger scale"
    )


def test_weights_that_do_not_fit_are_refused(trained: Artifact) -> None:
    """Settings and weights of two models do not make one."""
    weights: dict[str, Tensor] = {**trained.weights}
    weights.pop("encoder.0.weight")
    for artifact in (
        replace(trained, weights=weights),
        replace(trained, config=override(trained.config, {"method": {"latent": 5}})),
    ):
        with pytest.raises(ArtifactError, match="the weights do not fit the settings beside them: "):
            Detector.of(artifact)

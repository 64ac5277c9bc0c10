"""One pipeline: any cut of an image into bands of rows gives the same map, mask, regions and reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from flawmap.core.records import MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import texture
from flawmap.imaging.reading import ImageRows
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override, parse
from flawmap.methods.reconstruction import comparing
from flawmap.methods.residuals import Decoded
from flawmap.scoring.detector import Detector
from flawmap.scoring.inspection import Band, inspected
from flawmap.scoring.model_file import DEFAULT, Artifact
from flawmap.scoring.operating_point import OperatingPoint

PATCH = 32
ROUNDING = 5e-5  # of SSIM in float32, whose variances cancel by the mean of what is seen at once
Pixels = NDArray[np.float32]

CPU = Runtime(device="cpu", precision="float32")
POINT = OperatingPoint(threshold=0.1)


def with_network(detector: Detector, network: Callable[[Tensor], Tensor]) -> Detector:
    """A detector with another function in place of its network."""
    config, own = detector.config, detector.scorer

    def decode(patches: Tensor) -> Decoded:
        return Decoded(network(patches.contiguous(memory_format=torch.channels_last)).float().contiguous())

    return replace(detector, scorer=comparing(config, decode, own.device, own.precision, own.batch))


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows in a band, also where bands are made by the pipeline itself."""
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 700)
    monkeypatch.setattr("flawmap.scoring.tiling.HELD", 20_000)


def pixels(width: int = 96, height: int = 130, seed: int = 0, channels: int = 1) -> Pixels:
    """Fibres with a few spots and a long scratch."""
    image = texture("fibres", (width, height), seed) * np.array([1.0, 0.7, 0.4], np.float32)[:channels]
    random = np.random.default_rng(seed)
    for _ in range(3):
        y, x = random.integers(0, height - 6), random.integers(0, width - 6)
        image[y : y + 6, x : x + 6] = random.random((6, 6, 1)).round()
    image[height // 8 : height * 7 // 8, width // 2 : width // 2 + 5] = random.random((1, 5, 1)).round()
    return np.rint(image * 255).astype(np.float32) / 255


def in_bands(image: Pixels, cuts: list[int]) -> ImageRows:
    """An image whose rows arrive in bands that end at these rows."""
    ends = [0, *sorted({cut for cut in cuts if 0 < cut < len(image)}), len(image)]

    def bands() -> Iterator[Pixels]:
        for top, bottom in pairwise(ends):
            yield image[top:bottom]

    height, width, channels = image.shape
    return ImageRows((height, width, channels), bands)


def detector_of(*, channels: int = 1, border: tuple[float, ...] | None = None, **changes: Any) -> Detector:
    """A detector whose network blurs; one that samples or encodes an image once has weights that are always the
    same."""
    small = {
        "model": {"patch": PATCH, "channels": channels},
        "method": {"latent": 4},
        "residual": {"ssim": {"size": 7, "constants": "wang"}},
        "tiling": {"stride": 12},
        "training": {"steps": 1, "precision": "float32"},
    }
    config = override(parse(small), changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(config)
    detector = Detector.of(
        Artifact(config, network.state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)}, border=border), CPU
    )
    if config.method.name == "vae" or config.tiling.encoder == "image":
        return detector
    return with_network(detector, nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False))


def whole(detector: Detector, image: Pixels, threshold: float = 0.1) -> tuple[MappedInspection, Pixels]:
    """The inspection and the reconstruction with bands so large that one holds all of the image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawmap.imaging.rows.BAND_PIXELS", 10**9)
        bands = list(detector.scan(ImageRows.of(image), reconstruction=True))
        assert len(bands) == 1
        return inspected(bands, OperatingPoint(threshold=threshold)), pictures(bands)


def pictures(bands: list[Band]) -> Pixels:
    return np.concatenate([band.reconstruction for band in bands if band.reconstruction is not None])


def between(values: NDArray[np.float32]) -> float:
    """A threshold that no value is near: the middle of the widest gap in the upper half of them."""
    upper = np.unique(values[values > np.median(values)])
    upper = upper[: max(2, int(len(upper) * 0.98))]
    place = int(np.diff(upper).argmax())
    return float(upper[place : place + 2].astype(np.float64).mean())


def alike(found: MappedInspection, expected: MappedInspection, rounding: float = ROUNDING) -> None:
    """Maps and numbers agree, those of the residual to float32 rounding."""
    np.testing.assert_allclose(found.residual, expected.residual, rtol=0, atol=rounding)
    assert np.array_equal(found.mask, expected.mask)
    assert (found.verdict, found.threshold, found.notes) == (expected.verdict, expected.threshold, expected.notes)
    assert (found.height, found.width, found.flawed_pixels) == (*expected.mask.shape, int(expected.mask.sum()))
    assert found.score == pytest.approx(expected.score, abs=rounding)
    pairs = zip(*(sorted(one.regions, key=lambda region: region.box) for one in (found, expected)), strict=True)
    for ours, theirs in pairs:
        assert (ours.area, ours.box) == (theirs.area, theirs.box)
        assert ours.centroid == pytest.approx(theirs.centroid, abs=1e-9)
        assert (ours.peak, ours.mean) == pytest.approx((theirs.peak, theirs.mean), abs=rounding)


CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "half the size": {"images": {"scale": 0.5}},
    "no whole factor": {"images": {"scale": 0.73}},
    "larger": {"images": {"scale": 1.7}},
    "wider and lower": {"images": {"scale": (120, 60)}},
    "smoothed": {"residual": {"smoothing": 2.5}},
    "smoothed far": {"residual": {"smoothing": 12.0}},
    "not opened": {"threshold": {"opening": 0}},
    "opened by an odd circle": {"threshold": {"opening": 5}},
    "opened by a large circle": {"threshold": {"opening": 12}},
    "border correction": {"border": (4.0, 3.0, 2.5, 1.5, 1.0)},
    "a box": {"images": {"roi": {"box": (10, 21, 90, 99)}}},
    "a box at a size": {"images": {"roi": {"box": (10, 21, 90, 99)}, "scale": (72, 100)}},
    "a box at the bottom, corrected border": {"images": {"roi": {"box": (0, 80, 96, 130)}}, "border": (2.0, 1.0)},
    "weighted": {"tiling": {"weights": "hann", "stride": 13}},
    "without overlap": {"tiling": {"stride": 32}},
    "residuals averaged": {"tiling": {"average": "residuals"}},
    "squared differences": {"residual": {"name": "l2"}},
    "both": {"residual": {"l2_weight": 3.0}},
    "contrast": {"residual": {"name": "contrast"}},
    "variational": {"method": {"name": "vae"}, "residual": {"name": "probability", "samples": 2}},
    "encoded once": {"tiling": {"encoder": "image", "stride": 16}},
    "encoded once, residuals averaged": {"tiling": {"encoder": "image", "stride": 32, "average": "residuals"}},
    "encoded once, a box at a size": {
        "images": {"roi": {"box": (10, 21, 90, 99)}, "scale": (72, 100)},
        "tiling": {"encoder": "image", "stride": 16},
    },
    "all at once": {
        "images": {"scale": 0.6, "roi": {"box": (3, 5, 96, 128)}},
        "residual": {"smoothing": 1.5},
        "border": (2.0, 1.5, 1.0),
    },
}


INNER_LOOP = ("as it is", "a box at a size", "variational", "all at once")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in INNER_LOOP else pytest.mark.slow) for name in CASES]
)
@settings(max_examples=12)
@given(cuts=st.lists(st.integers(1, 129), max_size=8))
def test_any_cut_into_bands_gives_the_same_map(name: str, cuts: list[int]) -> None:
    """Residuals, mask, regions, score, verdict and reconstruction, whatever the settings."""
    detector, image = detector_of(**CASES[name]), pixels()
    threshold = between(whole(detector, image)[0].residual)
    expected, picture = whole(detector, image, threshold)
    assert expected.mask.any()
    bands = list(detector.scan(in_bands(image, cuts), reconstruction=True))
    assert len(bands) > 5
    alike(
        inspected(bands, OperatingPoint(threshold=threshold)), expected, 5e-4 if name == "contrast" else ROUNDING
    )  # roots of variances near 0
    np.testing.assert_allclose(pictures(bands), picture, rtol=0, atol=ROUNDING)
    assert np.array_equal(np.concatenate([band.image for band in bands]), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour(channels: int) -> None:
    """Bands carry as many channels as the image."""
    detector, image = detector_of(channels=channels), pixels(channels=channels)
    expected, picture = whole(detector, image)
    assert picture.shape == image.shape
    alike(inspected(detector.scan(in_bands(image, [5, 60, 61])), POINT), expected)


@pytest.mark.parametrize(("width", "height"), [(20, 150), (150, 20), (25, 24), (32, 32)])
def test_images_smaller_than_a_patch_are_padded(width: int, height: int) -> None:
    """In one direction or both, as in one piece."""
    detector = detector_of(tiling={"pad": True}, border=(2.0, 1.0))
    image = np.ascontiguousarray(pixels(150, 150)[:height, :width])
    expected, _ = whole(detector, image)
    assert expected.residual.shape == (height, width)
    alike(inspected(detector.scan(in_bands(image, [3, 11, 19])), POINT), expected)


@pytest.mark.parametrize("kind", ["masks", "brightness"])
def test_every_region_of_interest_works_by_bands(kind: str, tmp_path: Path) -> None:
    """A mask for each image, and a brightness range, whose window reaches over the bands."""
    image, mask = pixels(), np.zeros((130, 96), np.uint8)
    mask[10:70, 8:60] = mask[60:125, 30:90] = 255
    tifffile.imwrite(tmp_path / "image.tif", mask)
    roi = {"masks": str(tmp_path)} if kind == "masks" else {"brightness": (0.2, 0.55)}
    detector, path = detector_of(images={"roi": roi}), tmp_path / "image.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flawmap.imaging.rows.BAND_PIXELS", 10**9)
        expected = detector.inspect(image, path=path)
    rows = in_bands(image, [1, 40, 41, 99])
    rows.path = path
    bands = list(detector.scan(rows))
    alike(inspected(bands, POINT, path=path), expected)
    inside = np.concatenate([band.inside for band in bands])
    assert 0.05 < inside.mean() < 0.95
    assert not expected.residual[~inside].any()
    assert kind == "brightness" or np.array_equal(inside, mask > 0)


def test_every_patch_is_scored_once() -> None:
    """As many batches as in one piece, however many bands."""
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            seen.append(len(patches))
            return patches

    detector = with_network(detector_of(residual={"smoothing": 2.0}), Counting())
    whole(detector, pixels())
    once = list(seen)
    seen.clear()
    assert sum(len(band.residual) for band in detector.scan(in_bands(pixels(), [7, 30, 31, 90]))) == 130
    assert seen == once


def test_rows_are_read_as_they_are_needed() -> None:
    """When the first band leaves, the last rows of a high image have not been asked for yet: memory stays bounded."""
    detector, image = detector_of(), np.concatenate([pixels(seed=seed) for seed in range(12)])
    asked: list[int] = []

    def bands() -> Iterator[Pixels]:
        for top in range(0, len(image), 10):
            asked.append(top)
            yield image[top : top + 10]

    height, width, channels = image.shape
    scanned = detector.scan(ImageRows((height, width, channels), bands))
    ahead = [asked[-1] - band.top for band in scanned]
    assert len(ahead) > 100
    assert max(ahead) < 300  # rows held: patches, windows, opening and the values that wait to be merged
    assert asked[-1] == len(image) - 10


def test_methods_may_take_gradients_while_they_score() -> None:
    """Scoring runs without gradients, but a method may enable them: nothing is an inference tensor."""
    detector, image = detector_of(), pixels()

    def descended(patches: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        found = torch.full_like(patches, 0.5, requires_grad=True)
        with torch.enable_grad():
            loss = (found - patches).square().sum()
            (gradient,) = torch.autograd.grad(loss, found)
        return (found - 0.5 * gradient).detach()

    bands = list(with_network(detector, descended).scan(ImageRows.of(image)))
    assert max(float(band.residual.max()) for band in bands) < 1e-4


@pytest.mark.parametrize("rows", [[20], [1] * 20, [7, 13]])
def test_masks_grow_below_the_threshold_and_shrink_above_it(rows: list[int]) -> None:
    """A level below the threshold grows what reaches the threshold; one above it shrinks what reaches the level, and
    leaves what does not. The decision is the threshold's alone, and regions are those of the mask."""
    residual = np.zeros((20, 30), np.float32)
    residual[2:10, 2:10], residual[4:8, 4:8] = 2, 6  # a strong flaw with a skirt
    residual[12:16, 15:20] = 4  # one between threshold and a high level
    residual[17:19, 25:28] = 2  # never a flaw
    grown = residual > 1
    grown[17:19, 25:28] = False
    for mask, expected in ((None, residual > 3), (1.0, grown), (5.0, residual > 3)):
        tops = np.cumsum([0, *rows])
        bands = [
            Band(
                top,
                np.zeros((height, 30, 1), np.float32),
                residual[top : top + height],
                None,
                np.ones((height, 30), bool),
            )
            for top, height in zip(tops, rows, strict=False)
        ]
        found = inspected(bands, OperatingPoint(threshold=3, mask=mask))
        assert np.array_equal(found.mask, expected)
        assert found.verdict == "flawed"
        assert found.flawed_pixels == expected.sum() == sum(region.area for region in found.regions)
        assert [region.peak for region in found.regions] == [6, 4]
    assert inspected(bands, OperatingPoint(threshold=7, mask=1.0)).verdict == "ok"
    assert not inspected(bands, OperatingPoint(threshold=7, mask=1.0)).mask.any()

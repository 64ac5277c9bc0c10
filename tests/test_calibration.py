"""Thresholds that good images alone give a detector, and what the model file says of how they were found."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import flawmap
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import sha256_of
from flawmap.core.runtime import Runtime
from flawmap.data.splits import ImageRegion
from flawmap.data.synthetic import good_images
from flawmap.evaluation.calibration import Calibration, CompactHistogram, calibrated, calibration_of, point_of
from flawmap.evaluation.histograms import ScoreHistogram
from flawmap.imaging.reading import opened_image
from flawmap.imaging.writing import write_image
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from flawmap.scoring.operating_point import OperatingPoint

SIZE, BOX = (80, 64), (0, 0, 80, 48)  # width, height of all images; the region of interest
CHANGES: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "tiling": {"stride": 16},
    "training": {"steps": 8, "batch": 8, "device": "cpu", "precision": "float32"},
    "images": {"roi": {"box": BOX}},
    "threshold": {"false_positive_rate": 0.01},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight good images to train on, four others."""
    root = tmp_path_factory.mktemp("calibration")
    for name, count, seed in (("good", 8, 0), ("fresh", 4, 1)):
        (root / name).mkdir()
        for number, image in enumerate(good_images("cloth", count, SIZE, seed)):
            write_image(root / name / f"{number}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    settings = override(preset("fast"), CHANGES)
    return flawmap.train(folder / "good", folder / "model.flawmap", settings).artifact


@pytest.fixture(scope="module")
def areas(folder: Path) -> tuple[ImageRegion, ...]:
    return tuple(ImageRegion(path, sha256_of(path)) for path in sorted((folder / "fresh").iterdir()))


def with_settings(artifact: Artifact, **changes: Any) -> Detector:
    return Detector.of(replace(artifact, config=override(artifact.config, changes)), Runtime(precision="float32"))


def found_by(
    detector: Detector, areas: Sequence[ImageRegion], events: Events = SILENT
) -> tuple[OperatingPoint, Calibration]:
    """The operating point by the detector's settings, and what it was found by."""
    calibration = calibration_of(detector, areas, events)
    return point_of(calibration, detector.config.threshold), calibration


def residuals(detector: Detector, area: ImageRegion) -> NDArray[np.float32]:
    """The opened residuals of an area inside the region of interest, (N,)."""
    with opened_image(area.path, detector.config.images) as image:
        return np.concatenate([band.residual[band.inside] for band in detector.scan(image, box=area.box)])


def pooled(detector: Detector, areas: tuple[ImageRegion, ...]) -> NDArray[np.float32]:
    return np.concatenate([residuals(detector, area) for area in areas])


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 1e-3, 1e-6])
def test_no_more_than_the_rate_lies_above(artifact: Artifact, areas: tuple[ImageRegion, ...], rate: float) -> None:
    """At most the rate of the held-out good pixels lies above the threshold, and below it by a hair more do."""
    detector = with_settings(artifact, threshold={"false_positive_rate": rate})
    point, found = found_by(detector, areas)
    threshold, values = point.threshold, pooled(detector, areas)
    assert found.good_pixels == values.size == 4 * 80 * 48, "inside the region alone"
    assert (values > threshold).mean() <= rate
    assert (values > threshold * (1 - 1e-3)).mean() > rate or rate < 1 / values.size
    assert point.found["rule"] == "quantile"
    assert (point.found["false_positive_rate"], point.found["good_areas"], found.good_areas) == (rate, 4, 4)


def test_largest_has_none_above(artifact: Artifact, areas: tuple[ImageRegion, ...]) -> None:
    """By the rule `largest` no held-out good pixel lies above the threshold, and one lies on it."""
    detector = with_settings(artifact, threshold={"rule": "largest"})
    point, found = found_by(detector, areas)
    threshold, values = point.threshold, pooled(detector, areas)
    assert not (values > threshold).any()
    assert found.image_scores[-1] == values.max() <= threshold <= values.max() * (1 + 2**-11)
    assert point.found["warning"] is None
    for area in areas:
        assert detector.inspect(area.path, threshold=threshold).verdict == "ok"


def test_a_rate_below_one_pixel_is_said_to_be_unresolved(
    artifact: Artifact, areas: tuple[ImageRegion, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A rate of less than one pixel cannot be told from 0: the record and the log say so, and the largest stands."""
    one = 1 / (4 * 80 * 48)
    with caplog.at_level(logging.WARNING, "flawmap"):
        for rate in (one, 1e-3):
            detector = with_settings(artifact, threshold={"false_positive_rate": rate})
            assert found_by(detector, areas)[0].found["warning"] is None
        assert not caplog.records
        detector = with_settings(artifact, threshold={"false_positive_rate": 1e-6})
        point, found = found_by(detector, areas)
    assert point.found["warning"] == caplog.messages[0]
    assert point.found["warning"] == (
        "a false positive rate of 1e-06 cannot be resolved: 15,360 held-out good pixels resolve rates down to 6.5e-05, "
        "so the threshold is their largest residual; hold more good images out, or ask for a higher rate"
    )
    assert found.resolvable_rate == one
    assert found.image_scores[-1] <= point.threshold <= found.image_scores[-1] * (1 + 2**-11)


def test_the_record_holds_what_later_rules_need(artifact: Artifact, areas: tuple[ImageRegion, ...]) -> None:
    """Image scores in order, a histogram of all pixels and the precision, as JSON, whichever order images come in."""
    detector = with_settings(artifact)
    point, found = found_by(detector, areas)
    scores = [float(residuals(detector, area).max()) for area in areas]
    assert found.image_scores == tuple(sorted(scores))
    assert sum(found.to_dict()["scores"]["counts"]) == found.good_pixels
    assert found.precision == "float32"
    record = found.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert found_by(detector, areas[::-1])[1].to_dict() == record
    assert calibrated(detector, (), areas).artifact.calibration == record
    assert calibrated(detector, (), areas).artifact.operating_point == point


def test_images_are_scored_side_by_side(artifact: Artifact, areas: tuple[ImageRegion, ...]) -> None:
    """One thread and two find the same threshold and record; every area is reported."""
    detector, before, found, reports = with_settings(artifact), torch.get_num_threads(), [], []
    events = Events()
    events.progress = lambda *report: reports.append(report)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            point, record = found_by(detector, areas, events)
            found.append((point, record.to_dict()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    assert reports == 2 * [(number, 4, str(area.path)) for number, area in enumerate(areas, start=1)]


def test_images_that_come_by_bands_give_the_same_threshold(
    artifact: Artifact, areas: tuple[ImageRegion, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bands of a few rows hold the same pixels and the same scores as an image in one band."""
    detector = with_settings(artifact)
    whole = found_by(detector, areas)
    monkeypatch.setattr("flawmap.imaging.rows.BAND_PIXELS", 80 * 5)
    banded = found_by(detector, areas)
    assert banded[0].threshold == pytest.approx(whole[0].threshold, rel=2**-11)
    assert banded[1].good_pixels == whole[1].good_pixels
    assert banded[1].image_scores == pytest.approx(whole[1].image_scores, rel=1e-5)


@pytest.mark.parametrize("count", [1, 1000, 200_000])
def test_a_compact_histogram_is_small_and_says_how_far_it_is_off(count: int) -> None:
    """At an edge the fraction above is exact; anywhere else it is off by the stated error at most."""
    scores = np.random.default_rng(count).lognormal(-3, 1, count).astype(np.float32)
    compact = CompactHistogram.of(ScoreHistogram.of(scores))
    assert len(compact.edges) == len(compact.counts) <= 1024
    above = np.append(np.cumsum(compact.counts[::-1])[::-1][1:], 0) / count
    for edge, expected in zip(
        compact.edges[:: len(compact.edges) // 50 + 1], above[:: len(above) // 50 + 1], strict=True
    ):
        assert (scores > edge).mean() == expected
    assert compact.error == compact.counts.max() / count <= max(0.01, 1 / count)


def test_an_area_is_scored_by_itself(artifact: Artifact, areas: tuple[ImageRegion, ...]) -> None:
    """The residuals of an area are those of the part cut out: nothing beside it has a say."""
    detector = with_settings(artifact, images={"roi": {"box": (0, 0, *SIZE)}}, threshold={"rule": "largest"})
    part = ImageRegion(areas[0].path, areas[0].sha256, (8, 16, 60, 56))
    cut = with_settings(artifact, images={"roi": {"box": (0, 0, 52, 40)}})
    image = np.ascontiguousarray(detector.read(part.path).pixels[16:56, 8:60])
    expected = cut.inspect(image, threshold=1.0).residual
    assert np.array_equal(residuals(detector, part), expected.ravel())
    assert found_by(detector, [part])[1].image_scores == (expected.max(),)


def test_an_area_outside_the_region_has_no_say(artifact: Artifact, areas: tuple[ImageRegion, ...]) -> None:
    """An area of which nothing lies in the region is passed over; if there is no other, there is no threshold."""
    detector = with_settings(artifact)
    below = ImageRegion(areas[0].path, areas[0].sha256, (0, 50, 80, 64))
    assert found_by(detector, [*areas, below])[1].good_areas == 4
    with pytest.raises(ConfigError) as error:
        found_by(detector, [below])
    assert str(error.value) == (
        "a threshold is found on good images that were held out, but none were; hold a share out for validation "
        "(--set split.validation=0.1)"
    )


def test_an_unreadable_image_stops_calibration(
    artifact: Artifact, areas: tuple[ImageRegion, ...], tmp_path: Path
) -> None:
    """A threshold of fewer images than were held out would mislead: the error names the file."""
    (tmp_path / "broken.png").write_bytes(areas[0].path.read_bytes()[:200])
    broken = ImageRegion(tmp_path / "broken.png", "0")
    with pytest.raises(InputError, match=r"broken\.png"):
        found_by(with_settings(artifact), [areas[0], broken, areas[1]])

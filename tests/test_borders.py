"""What good images leave at their border: a slow reference, laws, and a model that corrects it, up to its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import flawmap
from flawmap.core.errors import ArtifactError
from flawmap.core.runtime import Runtime
from flawmap.data.splits import ImageRegion
from flawmap.data.synthetic import texture
from flawmap.evaluation.calibration import BORDER_IMAGES, border_from_good
from flawmap.evaluation.scans import evenly
from flawmap.imaging.writing import write_image
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import override, parse
from flawmap.methods.reconstruction import comparing
from flawmap.methods.residuals import Decoded
from flawmap.scoring.borders import border_corrected, border_profile, distances
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_distance(row: int, column: int, height: int, width: int) -> int:
    """Pixels that one may step outwards before the image ends."""
    return min(row, column, height - 1 - row, width - 1 - column)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 7), (7, 2), (9, 9), (12, 31)])
@pytest.mark.parametrize("reach", [1, 3, 100])
def test_distances(height: int, width: int, reach: int) -> None:
    """Against stepping outwards pixel by pixel."""
    found = distances(height, width, reach)
    slow = [[min(slow_distance(r, c, height, width), reach - 1) for c in range(width)] for r in range(height)]
    assert found.tolist() == slow


def test_profile_against_a_slow_reference() -> None:
    """Means over all pixels of all maps at a distance, where the region of interest says so, by that of the middle."""
    maps = [rand(20, 31, seed=1) + 0.5, rand(13, 40, seed=2) + 0.5]
    maps[0][:3] *= 4
    inside = (rand(13, 40, seed=3) > 0.3).numpy()
    reach, values = 5, [[] for _ in range(5)]  # type: tuple[int, list[list[float]]]
    for residual, mask in zip(maps, (None, inside), strict=True):
        for row in range(residual.shape[0]):
            for column in range(residual.shape[1]):
                if mask is None or mask[row, column]:
                    distance = min(slow_distance(row, column, *residual.shape), reach - 1)
                    values[distance].append(float(residual[row, column]))
    means = [np.mean(found) for found in values]
    wanted = [max(1.0, float(mean / means[-1])) for mean in means]
    assert max(wanted) > 1.2
    assert border_profile(zip(maps, (None, inside), strict=True), reach) == pytest.approx(wanted, rel=1e-6)


def test_correction_is_the_inverse() -> None:
    """A map that is its border's profile becomes flat, and its middle keeps its value."""
    profile = (6.0, 3.0, 2.0, 1.5, 1.0)
    residual = 0.25 * torch.tensor(profile)[distances(30, 17, len(profile))]
    found = border_profile([(residual, None)], len(profile))
    assert found == pytest.approx(profile)
    torch.testing.assert_close(border_corrected(residual, found), torch.full((30, 17), 0.25))


def test_correction_raises_nothing() -> None:
    """A border that is better than the middle stays as it is: what is faint there is not blown up."""
    residual = torch.ones(20, 20)
    residual[:4] = 0.01
    profile = border_profile([(residual, None)], 8)
    assert min(profile) == 1
    assert (border_corrected(residual, profile) <= residual).all()


@pytest.mark.parametrize(
    ("residual", "inside"), [(torch.zeros(9, 9), None), (torch.ones(9, 9), np.zeros((9, 9), np.bool_))]
)
def test_nothing_to_measure(residual: Tensor, inside: Any) -> None:
    """Nothing left anywhere, or nothing inside the region: a profile that changes nothing."""
    assert border_profile([(residual, inside)], 4) == (1.0,)
    assert border_profile([], 4) == (1.0,)
    assert torch.equal(border_corrected(rand(5, 6), (1.0,)), rand(5, 6))


def test_distances_that_no_pixel_has() -> None:
    """A region that leaves out some distances gets them from their neighbours; small maps give short profiles."""
    residual = torch.full((11, 11), 2.0)
    residual[distances(11, 11, 9) == 0] = 6.0
    inside = distances(11, 11, 9) != 1
    assert border_profile([(residual, inside)], 9) == (3.0, 2.0, 1.0, 1.0, 1.0, 1.0)


# ------------------------------------------------------------------------------------------------------ with a network


SETTINGS: dict[str, Any] = {
    "model": {"patch": 32, "channels": 1},
    "method": {"latent": 4},
    "residual": {"name": "l2", "border_correction": True},
    "tiling": {"stride": 12},
    "training": {"steps": 3, "batch": 4, "precision": "float32"},
}


class WorseAtTheEdge(nn.Module):
    """Leaves an error of 0.1 in the middle of each patch, 0.3 at its edge."""

    def forward(self, batch: Tensor) -> Tensor:
        error = torch.full(batch.shape[-2:], 0.1)
        error[distances(*error.shape, 32) < 4] = 0.3
        return batch + error


CPU = Runtime(device="cpu", precision="float32")


def with_network(detector: Detector, network: Callable[[Tensor], Tensor]) -> Detector:
    """A detector with another function in place of its network."""
    config, own = detector.config, detector.scorer

    def decode(patches: Tensor) -> Decoded:
        return Decoded(network(patches.contiguous(memory_format=torch.channels_last)).float().contiguous())

    return replace(detector, scorer=comparing(config, decode, own.device, own.precision, own.batch))


def region_of(image: NDArray[np.float32], folder: Path) -> ImageRegion:
    """The image as a file of float32, which changes no value."""
    tifffile.imwrite(folder / "image.tif", image[:, :, 0])
    return ImageRegion(folder / "image.tif", "")


def worse_at_the_edge() -> Detector:
    config = parse(SETTINGS)
    artifact = Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)})
    return with_network(Detector.of(artifact, CPU), WorseAtTheEdge())


def test_a_border_measured_on_good_images(tmp_path: Path) -> None:
    """What a patch's edge costs the image's border is found, and taken away from another image of another size."""
    detector = worse_at_the_edge()
    image = texture("fibres", (90, 80), 0)
    profile = border_from_good(detector, [region_of(image, tmp_path)] * 3)
    assert len(profile) == 16
    assert profile[0] > 2
    other = texture("fibres", (131, 75), 1)
    before = detector.score(other)
    after = replace(detector, artifact=detector.artifact.with_border(profile)).score(other)
    assert before[:2].mean() > 2 * before[20:-20, 20:-20].mean()
    assert after[:2].mean() < 1.2 * after[20:-20, 20:-20].mean()
    np.testing.assert_array_equal(after[16:-16, 16:-16], before[16:-16, 16:-16])


@pytest.mark.parametrize(("count", "most", "wanted"), [(3, 20, [0, 1, 2]), (5, 3, [0, 2, 4]), (1, 2, [0]), (7, 1, [0])])
def test_some_images_will_do(count: int, most: int, wanted: list[int]) -> None:
    """From the first to the last at even distances."""
    areas = [ImageRegion(Path(str(number)), "") for number in range(count)]
    assert [int(area.path.name) for area in evenly(areas, most)] == wanted
    thousand = evenly(areas * 1000, BORDER_IMAGES)
    assert len(thousand) == BORDER_IMAGES
    assert (thousand[0], thousand[-1]) == (areas[0], areas[-1])


def test_a_border_at_another_scale_and_in_a_region(tmp_path: Path) -> None:
    """Distances count in pixels of the worked image, from the border of the region of interest."""
    detector = worse_at_the_edge()
    profile = border_from_good(detector, [region_of(texture("fibres", (90, 80), 0), tmp_path)])
    changes = {"images": {"scale": 0.5, "roi": {"box": (10, 20, 190, 200)}}}
    config = override(detector.config, changes)
    correcting = replace(detector, artifact=replace(detector.artifact, config=config, border=profile))
    found = correcting.score(texture("fibres", (200, 210), 2))
    assert not found[:20].any()
    region = found[20:200, 10:190]
    assert region[:4].mean() < 1.2 * region[40:-40, 40:-40].mean()


def test_from_training_to_a_file(tmp_path: Path) -> None:
    """`train` measures the border before the threshold, the file holds it, and scores are the same from there."""
    (tmp_path / "set").mkdir()
    for seed in range(6):
        write_image(tmp_path / "set" / f"{seed}.png", (texture("fibres", (64, 64), seed) * 255).astype(np.uint8))
    config = override(parse(SETTINGS), {"model": {"channels": None}})
    report = flawmap.train(tmp_path / "set", tmp_path / "m.flawmap", config)
    found = load_artifact(tmp_path / "m.flawmap")
    assert found.border == report.artifact.border
    assert found.border is not None
    assert len(found.border) == 16
    image = texture("fibres", (70, 64), 3)
    scores = [Detector.of(one, CPU).score(image) for one in (found, report.artifact)]
    np.testing.assert_array_equal(*scores)
    plain = Detector.of(replace(found, border=None), CPU).score(image)
    assert plain.max() >= scores[0].max()


def test_a_file_without_the_border_that_it_asks_for(tmp_path: Path) -> None:
    """It is damaged: scored without it, its threshold would mean something else."""
    config = parse(SETTINGS)
    path = tmp_path / "m.flawmap"
    save_artifact(Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)}), path)
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    assert str(caught.value) == (
        f"{path} is damaged: its header does not hold a model's settings "
        "(border_correction is set, but no border was measured)"
    )


@pytest.mark.parametrize("border", [[1.0, "x"], [0.5], [None], "abc", 3])
def test_a_file_with_a_border_of_something_else(tmp_path: Path, border: Any) -> None:
    """Numbers of at least 1, or the file is damaged."""
    config = parse(SETTINGS)
    path = tmp_path / "m.flawmap"
    artifact = Artifact(
        config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)}, border=border
    )
    save_artifact(artifact, path)
    with pytest.raises(ArtifactError, match="is damaged: its header does not hold a model's settings"):
        load_artifact(path)

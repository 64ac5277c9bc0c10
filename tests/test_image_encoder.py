"""`tiling.encoder = "image"`: the encoder sees an image once, the decoder patch by patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import TilingSettings
from flawmap.data.synthetic import texture
from flawmap.imaging.padding import with_rim
from flawmap.methods.autoencoder import build_network, restored
from flawmap.methods.config import Config
from flawmap.methods.overrides import override, parse
from flawmap.methods.table import METHODS
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.layer_table import NetworkShape, reach, spacing
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact

PATCH = 32
CPU = Runtime("cpu", "float32")
ROUNDING = 1e-5  # convolutions of another size sum in another order


def config_of(**changes: Any) -> Config:
    settings = {
        "model": {"patch": PATCH, "channels": 1},
        "method": {"latent": 4},
        "residual": {"name": "l2"},
        "tiling": {"stride": 16, "encoder": "image"},
        "training": {"steps": 1, "precision": "float32"},
    }
    return override(parse(settings), changes)


def detector_of(config: Config) -> Detector:
    """With weights that are always the same, and large enough for each layer to pass on what it sees."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = build_network(config)
        for parameter in network.parameters():
            parameter.mul_(2.4 if parameter.ndim > 1 else 1)
    return Detector.of(Artifact(config, network.state_dict()), CPU)


def pixels(width: int = 70, height: int = 90) -> NDArray[np.float32]:
    return texture("fibres", (width, height), 0)


# ------------------------------------------------------------------------------------------------------------ the maps


def test_an_image_of_one_patch_is_that_patch() -> None:
    """To the bit: both see the same pixels, and zeros around them."""
    image = pixels(PATCH, PATCH)
    once, alone = (detector_of(config_of(tiling={"encoder": name})).explain(image) for name in ("image", "patches"))
    assert once.reconstruction is not None
    assert alone.reconstruction is not None
    assert np.array_equal(once.reconstruction, alone.reconstruction)
    assert np.array_equal(once.residual, alone.residual)


def test_a_map_equals_a_slow_loop_over_patches() -> None:
    """An image whose sides are no multiples is reflected to multiples; patches are decoded one by one, and averaged."""
    detector, image = detector_of(config_of(method={"name": "ssim"})), pixels()
    network = restored(detector.config, detector.artifact.weights)
    wide = np.pad(image[:, :, 0], ((0, 6), (0, 10)), mode="reflect")
    total, count = np.zeros((96, 80)), np.zeros((96, 80))
    with torch.no_grad():
        features = network.features(torch.from_numpy(wide)[None, None])
        assert features.shape[-2:] == (6, 5)
        for y in range(0, 65, 16):
            for x in range(0, 49, 16):
                part = features[:, :, y // 16 : y // 16 + 2, x // 16 : x // 16 + 2]
                total[y : y + PATCH, x : x + PATCH] += network.decoded(part)[0, 0].numpy()
                count[y : y + PATCH, x : x + PATCH] += 1
    expected = (total / count)[:90, :70]
    found = detector.explain(image)
    assert found.reconstruction is not None
    np.testing.assert_allclose(found.reconstruction[:, :, 0], expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.residual, (expected - image[:, :, 0]) ** 2, rtol=0, atol=ROUNDING)


def test_neighbours_are_seen() -> None:
    """A patch's reconstruction depends on pixels beyond it, which is the difference to patches by themselves."""
    detector, image = detector_of(config_of(tiling={"stride": 32})), pixels(96, 96)
    changed = image.copy()
    changed[:, 64:] = 1 - changed[:, 64:]
    first, second = (detector.explain(one).reconstruction for one in (image, changed))
    assert first is not None
    assert second is not None
    assert not np.array_equal(first[:, 32:64], second[:, 32:64])


@pytest.mark.parametrize(
    ("method", "residual"),
    [
        ("ssim", "ssim"),
        ("l2", "l2"),
        ("fm", "l2"),
        ("vae", "probability"),
        ("vae", "kl"),
        ("bigan", "features"),
        ("l1-adversarial", "l1"),
    ],
)
def test_every_method_with_an_encoder(method: str, residual: str) -> None:
    """In the middle of an image maps differ from those of patches by themselves, and at one patch they agree."""
    changes: dict[str, Any] = {"method": {"name": method, "latent": 4}, "residual": {"name": residual, "samples": 2}}
    changes["residual"]["ssim"] = {"size": 7}
    once = detector_of(config_of(**changes))
    alone = detector_of(config_of(**changes, tiling={"encoder": "patches"}))
    small, image = pixels(PATCH, PATCH), pixels(80, 96)
    np.testing.assert_allclose(once.score(small), alone.score(small), rtol=1e-4, atol=ROUNDING)
    assert not np.allclose(once.score(image), alone.score(image), rtol=1e-4, atol=ROUNDING)


# ---------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("patch", [32, 64, 128, 256])
def test_the_spacing_of_the_settings_is_the_network_s(patch: int) -> None:
    """Settings are read where no network is built."""
    for name, row in METHODS.items():
        own = row.settings.model_validate({"name": name}).spacing(patch)
        assert own in (None, spacing(NetworkShape(patch)))
    network = Autoencoder(NetworkShape(patch, 1, 2))
    apart = spacing(network.shape)
    with torch.no_grad():
        assert network.features(torch.zeros(1, 1, 3 * apart, 5 * apart)).shape[-2:] == (3, 5)


def test_features_reach_as_far_as_is_said() -> None:
    """The pixel at that distance counts, the one beyond it does not."""
    network = Autoencoder(NetworkShape(32, 1, 2)).double()
    far, apart = reach(network.shape), spacing(network.shape)
    image = torch.zeros(1, 1, 16 * apart, 16 * apart, dtype=torch.float64, requires_grad=True)
    features = network.features(image)
    features[0, :, 8, 8].abs().sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    seen = image.grad[0, 0].abs().sum(0).nonzero().flatten()
    first, last = 8 * apart - far, 9 * apart - 1 + far
    assert first <= int(seen.min())
    assert int(seen.max()) <= last
    assert first == int(seen.min()) or last == int(seen.max())


# -------------------------------------------------------------------------------------------------------------- the rim


@given(
    cuts=st.lists(st.integers(1, 22), max_size=5),
    down=st.integers(0, 15),
    across=st.integers(0, 15),
)
def test_a_rim_reflects(cuts: list[int], down: int, across: int) -> None:
    """As NumPy has it, however the rows come."""
    image = np.random.default_rng(0).random((23, 20, 2), np.float32)
    found = np.concatenate(list(with_rim(np.split(image, sorted(cuts)), down, across)))
    assert np.array_equal(found, np.pad(image, ((0, down), (0, across), (0, 0)), mode="reflect"))


# ---------------------------------------------------------------------------------------------------------- the refusal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tiling": {"stride": 30}},
            "where an image is encoded once, the stride is a multiple of 16 pixels, got 30; set tiling.stride=32, or "
            "tiling.encoder=patches",
        ),
        (
            {"model": {"patch": 256}, "tiling": {"stride": 48}},
            "where an image is encoded once, the stride is a multiple of 32 pixels, got 48; set tiling.stride=64, or "
            "tiling.encoder=patches",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    """With what to set instead."""
    with pytest.raises(ConfigError) as caught:
        config_of(**changes)
    assert message in str(caught.value)


def test_patches_by_themselves_are_the_default() -> None:
    """As the paper has it."""
    assert TilingSettings().encoder == "patches"

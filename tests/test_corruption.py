"""Stains over good patches: laws, and a training that takes them away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from flawmap.core.errors import ConfigError, InputError
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.methods import gradient
from flawmap.methods.autoencoder import train_network
from flawmap.methods.config import Config
from flawmap.methods.corruption import AREA, corrupted
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset


def patches(count: int = 16, channels: int = 1, side: int = 32) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def stained(share: float, seed: int = 0, **size: int) -> Tensor:
    return corrupted(patches(**size), share, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_stay_patches(channels: int) -> None:
    """Same shape and type, within [0, 1], and the argument is left alone."""
    clean = patches(channels=channels)
    before = clean.clone()
    found = corrupted(clean, 1.0, torch.Generator().manual_seed(0))
    assert found.shape == clean.shape
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(clean, before)


def test_a_share_of_the_patches_is_stained() -> None:
    """None at 0, all at 1, and about the share between; a patch without a stain keeps its bits."""
    clean = patches(200)
    assert torch.equal(stained(0.0, count=200), clean)
    changed = {share: (stained(share, count=200) != clean).flatten(1).any(1).float().mean() for share in (0.3, 1.0)}
    assert changed[1.0] == 1
    assert 0.2 < changed[0.3] < 0.4


def test_a_stain_covers_a_part_of_the_patch() -> None:
    """Most of every patch is left as it was, or the network would have nothing to go by."""
    covered = (stained(1.0, count=100, side=64) != patches(100, side=64)).float().mean(dim=(1, 2, 3))
    assert covered.max() < AREA[1] + 0.05
    assert covered.min() > 0.5 * AREA[0]
    assert covered.std() > 0.03


def test_the_generator_decides() -> None:
    """The same seed gives the same stains, another one others."""
    assert torch.equal(stained(0.7, 3), stained(0.7, 3))
    assert not torch.equal(stained(0.7, 3), stained(0.7, 4))


def test_other_shapes_are_refused() -> None:
    """One patch alone, without its batch, is no batch."""
    with pytest.raises(InputError):
        corrupted(patches()[0], 0.5, torch.Generator())


def config_of(**changes: float) -> Config:
    training = {"steps": 60, "batch": 16, **changes}
    small = {"model": {"patch": 32, "channels": 1}, "method": {"latent": 16}, "training": training}
    return override(override(preset("fast", "l2"), {"residual": {"ssim": {"size": 7}}}), small)


def test_training_shows_the_corrupted_and_compares_with_the_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """With inversion for a stain, the network learns to give back the clean patch, not what it was shown."""
    shares = []

    def inverted(clean: Tensor, share: float, generator: torch.Generator) -> Tensor:
        shares.append(share)
        return 1 - clean

    cloth = [image**2 for image in good_images("cloth", 3, (96, 96), seed=0)]  # its inversion has another mean
    source = PatchSource(map(TrainingImage, cloth), 32)
    monkeypatch.setattr(gradient, "corrupted", inverted)
    network = train_network(config_of(corrupt=0.7), source).network
    clean = torch.from_numpy(source.sample(64, np.random.default_rng(5)))
    with torch.inference_mode():
        found = network(1 - clean)
    assert set(shares) == {0.7}
    assert float((found - clean).square().mean()) < 0.2 * float((found - (1 - clean)).square().mean())


def test_stains_are_a_function_of_seed_and_step() -> None:
    """The same training twice gives the same weights, and other ones than without stains."""
    cloth = list(good_images("cloth", 1, (64, 64), seed=0))
    source = PatchSource(map(TrainingImage, cloth), 32)
    weights = [
        train_network(config_of(corrupt=share, steps=3), source).network.encoder[0].weight for share in (0.7, 0.7, 0.0)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_settings() -> None:
    """A fraction lies in [0, 1]; a VAE's noise floor would be that of stains."""
    with pytest.raises(ConfigError, match=r"training\.corrupt"):
        config_of(corrupt=1.5)
    training = {"steps": 1, "corrupt": 0.5}
    with pytest.raises(ConfigError, match="corrupt is not for a vae, whose noise floor is the error on good patches"):
        parse({"method": {"name": "vae"}, "residual": {"name": "probability"}, "training": training})

"""Losses, residuals, and how an image is scored by patches: by hand, by slow loops, with stand-ins for a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from flawmap.core.errors import InputError
from flawmap.core.settings import ResidualName, ResidualSettings, SSIMSettings
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.losses import l2_loss, loss_of, ssim_loss
from flawmap.methods.overrides import parse
from flawmap.methods.reconstruction import comparing
from flawmap.methods.residuals import RESIDUALS, Decoded, l2_residual, residual_of, ssim_residual
from flawmap.methods.settings import L2Settings, StructuralSettings
from flawmap.methods.table import METHODS
from flawmap.nets.autoencoder import Autoencoder
from flawmap.scoring.pipeline import score_rows
from flawmap.scoring.tiling import Grid, Merger, patch_batches


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def config_of(**tiling: Any) -> Config:
    """Patches of 32 every 12 pixels, SSIM in windows of 7."""
    ssim = {"size": 7, "constants": "wang"}
    return parse(
        {
            "model": {"patch": 32},
            "method": {"latent": 4, "ssim": ssim},
            "residual": {"name": tiling.pop("residual", "ssim"), "ssim": ssim},
            "tiling": {"stride": 12, **tiling},
        }
    )


def residual_function(settings: ResidualSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """The residual of an image and its reconstruction."""
    function = residual_of(settings)
    return lambda image, reconstruction: function(image, Decoded(reconstruction))


def score_image(image: Tensor, reconstruct: Callable[[Tensor], Tensor], config: Config) -> tuple[Tensor, Tensor]:
    """The whole map and reconstruction of an image (C, H, W), with a function in place of a network."""
    scorer = comparing(config, lambda patches: Decoded(reconstruct(patches)), torch.device("cpu"), "float32", 32)
    size = image.shape[1], image.shape[2]
    grid = Grid(config.model.patch, config.tiling.stride)
    whole = torch.cat(list(score_rows([image], size, scorer, grid, config.tiling, reconstruction=True)), dim=1)
    return whole[0], whole[1:]


METHOD = {"l2": L2Settings(), "ssim": StructuralSettings(ssim=SSIMSettings(constants="wang"))}

# --- losses


def test_the_l2_loss_sums_over_pixels_and_averages_over_patches() -> None:
    """By hand: patches with squared differences 1 + 4 and 9 give (5 + 9) / 2."""
    patches = torch.zeros(2, 1, 2, 2)
    reconstructions = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, -3.0]]]])
    assert l2_loss(patches, reconstructions).item() == 7


@pytest.mark.parametrize("name", METHOD)  # features: tests/test_features.py
def test_a_perfect_reconstruction_costs_nothing(name: str) -> None:
    """Both losses are 0 for identical patches, and larger for every other reconstruction."""
    loss, patches = loss_of(METHOD[name]), rand(3, 3, 32, 32)
    assert abs(loss(patches, patches).item()) < 1e-6
    for other in (patches + 0.1, 1 - patches, rand(3, 3, 32, 32, seed=1), torch.zeros_like(patches)):
        assert loss(patches, other).item() > 1e-3


@pytest.mark.parametrize("name", METHOD)  # features: tests/test_features.py
def test_losses_are_float32_scalars_for_half_reconstructions(name: str) -> None:
    """What autocast gives is compared in single precision, and gradients reach it."""
    patches = rand(2, 1, 32, 32)
    reconstructions = rand(2, 1, 32, 32, seed=1).bfloat16().requires_grad_()
    loss = loss_of(METHOD[name])(patches, reconstructions)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    loss.backward()
    assert reconstructions.grad is not None
    assert reconstructions.grad.abs().max() > 0


def test_the_ssim_loss_of_an_inverted_texture_exceeds_that_of_a_flat_one() -> None:
    """1 - SSIM: about 1 where nothing is in common, above 1 where structure is inverted."""
    settings, patches = SSIMSettings(constants="wang"), rand(2, 1, 32, 32)
    flat = ssim_loss(patches, torch.full_like(patches, 0.5), settings).item()
    inverted = ssim_loss(patches, 1 - patches, settings).item()
    assert 0.9 < flat < 1.01 < inverted < 2


# --- residuals


def test_the_l2_residual_is_the_squared_difference_averaged_over_channels() -> None:
    """By hand: differences 0, 1 and 2 in three channels give 5 / 3."""
    image = torch.zeros(1, 3, 4, 5)
    reconstruction = torch.stack([torch.full((4, 5), level) for level in (0.0, 1.0, 2.0)])[None]
    found = l2_residual(image, reconstruction, ResidualSettings(name="l2"))
    torch.testing.assert_close(found, torch.full((1, 4, 5), 5 / 3))


def test_an_l2_weight_adds_squared_differences_to_ssim() -> None:
    """The sum of both residuals, so many times the second; a change of brightness that SSIM forgives then counts."""
    patches = 0.5 * rand(2, 1, 40, 40)
    lighter = patches + 0.1
    plain = ResidualSettings(ssim=SSIMSettings(size=7, constants="wang"))
    weighted = plain.model_copy(update={"l2_weight": 5.0})
    found = ssim_residual(patches, lighter, weighted)
    expected = ssim_residual(patches, lighter, plain) + 5 * l2_residual(patches, lighter, plain)
    torch.testing.assert_close(found, expected)
    assert found.mean() > ssim_residual(patches, lighter, plain).mean() + 0.04


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("channels", [1, 3])
def test_residuals_are_0_for_the_same_and_positive_for_flaws(name: str, channels: int) -> None:
    """(N, H, W), 0 for a perfect reconstruction, above 0 around a changed pixel, and never negative."""
    residual = residual_function(ResidualSettings(name="l2" if name == "l2" else "ssim", ssim=SSIMSettings(size=7)))
    image = rand(2, channels, 20, 30)
    assert residual(image, image).shape == (2, 20, 30)
    assert residual(image, image).abs().max() < 1e-6
    flawed = image.clone()
    flawed[0, :, 10, 10] = 1 - flawed[0, :, 10, 10].round()
    found = residual(image, flawed)
    assert found[0, 10, 10] > 1e-3
    assert found[0, 0, 0] < 1e-6
    assert found[1].max() < 1e-6
    assert found.min() >= 0


@pytest.mark.parametrize("part", ["luminance", "contrast", "structure"])
def test_each_part_of_ssim_sees_its_own(part: str) -> None:
    """Brighter, flatter, inverted: each changes one part's residual by far the most; all are 0 for the same image."""
    pattern = torch.from_numpy(np.indices((24, 24)).sum(axis=0) % 2).float()[None, None] - 0.5  # mean 0, a fine check
    image = 0.5 + 0.2 * pattern
    others = {"luminance": image + 0.3, "contrast": 0.5 + 0.05 * pattern, "structure": 1 - image}
    residuals = {name: residual_function(ResidualSettings(name=name, ssim=SSIMSettings(size=7))) for name in others}
    found = {name: float(residual(image, others[part])[..., 4:-4, 4:-4].mean()) for name, residual in residuals.items()}
    assert found[part] > 0.05
    assert all(value < 0.1 * found[part] for name, value in found.items() if name != part)
    assert float(residuals[part](image, image).max()) < 1e-6


@pytest.mark.parametrize("named", ["paper", "wang"])
def test_the_ssim_residual_lies_between_0_and_1(named: Any) -> None:
    """0 = same structure, 1 = inverted structure, nothing beyond either, saturated images included."""
    settings = ResidualSettings(ssim=SSIMSettings(size=5, constants=named))
    image = rand(1, 1, 24, 24)
    for first in (image, image.round(), torch.zeros_like(image), torch.ones_like(image)):
        for second in (image, image.round(), 1 - image, 1 - image.round(), image * 0, image * 0 + 1, image + 0.3):
            found = ssim_residual(first, second, settings)
            assert found.min() >= 0
            assert found.max() <= 1
    inverted = ssim_residual(image.round(), 1 - image.round(), settings)
    assert inverted.max() > 0.9


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (l2_loss, "patches and reconstructions"),
        (l2_residual, "image and reconstruction"),
        (ssim_loss, "p and q"),
        (ssim_residual, "p and q"),
    ],
)
def test_shapes_that_differ_are_refused_instead_of_broadcast(function: Callable[..., Tensor], names: str) -> None:
    """A colour batch is not compared with a grey one."""
    settings = () if function is l2_loss else (SSIMSettings() if function is ssim_loss else ResidualSettings(),)
    with pytest.raises(InputError) as caught:
        function(rand(2, 3, 16, 16), rand(2, 1, 16, 16), *settings)
    assert str(caught.value) == f"{names} must have one shape, got (2, 3, 16, 16) and (2, 1, 16, 16)"


# --- methods


def test_the_tables_name_what_the_settings_accept() -> None:
    """Each method's settings have the row's name; each residual has a function; some average residuals."""
    assert {row.settings.model_fields["name"].default for row in METHODS.values()} == set(METHODS)
    assert set(RESIDUALS) == set(get_args(ResidualName))
    assert all(set(row.settings.residuals) <= set(RESIDUALS) for row in METHODS.values())
    averaged = [name for name, row in METHODS.items() if row.settings.average == "residuals"]
    assert averaged == ["vae", "gmm", "cnn-dictionary", "sparse-dictionary", "anogan", "bigan", "l1-adversarial"]
    assert isinstance(build_network(config_of()), Autoencoder)


@pytest.mark.parametrize("average", ["reconstructions", "residuals"])
@pytest.mark.parametrize("weights", ["uniform", "hann"])
@pytest.mark.parametrize("residual", ["l2", "ssim"])
def test_a_perfect_reconstruction_leaves_no_residual(average: str, weights: str, residual: str) -> None:
    """With `lambda p: p` for a network the map is 0 everywhere and the reconstruction is the image."""
    image = rand(1, 50, 71)
    residual_map, rebuilt = score_image(
        image, lambda p: p, config_of(average=average, weights=weights, residual=residual)
    )
    assert residual_map.shape == (50, 71)
    assert residual_map.abs().max() < 1e-5
    torch.testing.assert_close(rebuilt, image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("average", ["reconstructions", "residuals"])
def test_a_shifted_reconstruction_leaves_its_square(average: str) -> None:
    """A network that adds 0.25 leaves an l2 residual of 0.0625 at every pixel, whatever is averaged."""
    config = config_of(average=average, residual="l2", weights="hann")
    residual_map, _ = score_image(rand(3, 40, 45), lambda p: p + 0.25, config)
    torch.testing.assert_close(residual_map, torch.full((40, 45), 0.0625), rtol=0, atol=1e-5)


def by_patch(patches: Tensor) -> Tensor:
    """A stand-in whose error is a property of the patch: the first one is brighter, the second darker, and so on."""
    signs = torch.tensor([0.3 if number % 2 else -0.3 for number in range(len(patches))])
    return patches + signs[:, None, None, None]


@pytest.mark.parametrize("residual", ["l2", "ssim"])
@pytest.mark.parametrize("weights", ["uniform", "hann"])
def test_the_two_averages_differ_and_each_equals_a_slow_loop(residual: str, weights: str) -> None:
    """Errors of opposite sign cancel between averaged reconstructions, and do not between averaged residuals."""
    image = rand(1, 44, 56)
    grid, size = Grid(32, 12), (44, 56)
    found = {}
    for average in ("reconstructions", "residuals"):
        config = config_of(average=average, residual=residual, weights=weights)
        found[average] = score_image(image, by_patch, config)[0].numpy()
        compare = residual_function(config.mapped)
    outputs = by_patch(next(patch_batches([image], grid, size, 100)))
    line = np.ones(32) if weights == "uniform" else np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2
    total, cover, merged = np.zeros(size), np.zeros(size), np.zeros(size)
    for number, (top, left) in enumerate(grid.positions(size)):
        place = (slice(top, top + 32), slice(left, left + 32))
        patch = image[:, *place][None]
        total[place] += np.outer(line, line) * compare(patch, outputs[number][None])[0].numpy()
        merged[place] += np.outer(line, line) * outputs[number, 0].numpy()
        cover[place] += np.outer(line, line)
    np.testing.assert_allclose(found["residuals"], total / cover, rtol=0, atol=1e-5)
    rebuilt = torch.from_numpy((merged / cover).astype(np.float32))[None, None]
    np.testing.assert_allclose(found["reconstructions"], compare(image[None], rebuilt)[0].numpy(), rtol=0, atol=1e-4)
    assert np.abs(found["residuals"] - found["reconstructions"]).max() > 0.01


def test_the_method_decides_what_is_averaged_unless_told() -> None:
    """Without `average` the paper's way is taken: reconstructions are averaged, then compared."""
    image = rand(1, 44, 56)
    default = score_image(image, by_patch, config_of())[0]
    assert torch.equal(default, score_image(image, by_patch, config_of(average="reconstructions"))[0])
    assert not torch.equal(default, score_image(image, by_patch, config_of(average="residuals"))[0])


def test_many_patches_are_compared_piece_by_piece_with_the_same_result() -> None:
    """More patches than are compared at once give the map of all at once."""
    image = rand(1, 100, 120)
    config = config_of(average="residuals")
    patches = next(patch_batches([image], Grid(32, 12), (100, 120), 100))
    assert len(patches) == 63
    whole = residual_function(config.mapped)(patches, by_patch(patches))
    expected = Merger(Grid(32, 12), (100, 120)).add(whole[:, None])[0]
    torch.testing.assert_close(score_image(image, by_patch, config)[0], expected)


def test_an_image_smaller_than_a_patch_is_refused() -> None:
    """The error of the tiling comes through."""
    with pytest.raises(InputError, match="at least one patch large, 32x32 pixels, got 40x31"):
        score_image(rand(1, 31, 40), lambda p: p, config_of())

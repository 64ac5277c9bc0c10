"""Structural similarity: laws, a slow reference, two other libraries, gradients, hard inputs, exact error texts."""

from __future__ import annotations

import itertools
import warnings
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawmap.core.errors import InputError
from flawmap.core.settings import SSIMSettings
from flawmap.nets import window_means as module
from flawmap.nets.filters import blur, blur_adjoint, gaussian_weights
from flawmap.nets.similarity import constants
from flawmap.nets.ssim import mean_ssim, ssim, ssim_parts, window_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages warn of at import is not ours
    import pytorch_msssim
    from skimage.metrics import structural_similarity

Border = Literal["valid", "reflect"]
Planes = NDArray[np.float64]
EXPONENTS = ((1, 1, 1), (0.5, 2, 3), (1, 0, 0.5), (0, 1, 2), (2, 0.7, 1))
SETTINGS = (
    SSIMSettings(size=5),
    SSIMSettings(size=3, constants="wang"),
    SSIMSettings(size=7, window="gaussian", constants="wang"),
    SSIMSettings(size=5, window="gaussian", sigma=0.8, constants=(0.02, 1e-3)),
)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def textures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A pair that is alike but not the same, as images and reconstructions are."""
    p = rand(*shape, seed=seed)
    q = (0.2 + 0.6 * p + 0.2 * rand(*shape, seed=seed + 1000)).clamp(0, 1)
    return p.to(dtype), q.to(dtype)


def weights_2d(settings: SSIMSettings) -> Planes:
    """The window by its definition, not by the code under test."""
    half = settings.size // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    raw = np.ones_like(y, float) if settings.window == "uniform" else np.exp(-(x**2 + y**2) / (2 * settings.sigma**2))
    return raw / raw.sum()


def slow_parts(p: Planes, q: Planes, settings: SSIMSettings, border: Border) -> tuple[Planes, Planes, Planes]:
    """Eq. 5 to 7, window by window, for (C, H, W)."""
    c1, c2 = {"paper": (0.01, 0.03), "wang": (1e-4, 9e-4)}.get(str(settings.constants), settings.constants)
    size, half = settings.size, settings.size // 2
    if border == "reflect":
        p, q = (np.pad(plane, ((0, 0), (half, half), (half, half)), mode="reflect") for plane in (p, q))
    weights = weights_2d(settings)
    channels, height, width = p.shape[0], p.shape[1] - size + 1, p.shape[2] - size + 1
    luminance, contrast, structure = (np.empty((channels, height, width)) for _ in range(3))
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                a, b = p[c, y : y + size, x : x + size], q[c, y : y + size, x : x + size]
                mu_p, mu_q = (weights * a).sum(), (weights * b).sum()
                sigma_p = np.sqrt((weights * (a - mu_p) ** 2).sum())
                sigma_q = np.sqrt((weights * (b - mu_q) ** 2).sum())
                sigma_pq = (weights * (a - mu_p) * (b - mu_q)).sum()
                luminance[c, y, x] = (2 * mu_p * mu_q + c1) / (mu_p**2 + mu_q**2 + c1)
                contrast[c, y, x] = (2 * sigma_p * sigma_q + c2) / (sigma_p**2 + sigma_q**2 + c2)
                structure[c, y, x] = (2 * sigma_pq + c2) / (2 * sigma_p * sigma_q + c2)
    return luminance, contrast, structure


# --- laws


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_wholly_similar_to_itself(settings: SSIMSettings, dtype: torch.dtype) -> None:
    """SSIM of identical images is 1 everywhere, and so is each part."""
    p = rand(2, 3, 16, 20, dtype=dtype)
    rounding = 1e-5 if dtype == torch.float32 else 1e-12
    for value in (ssim(p, p, settings), *ssim_parts(p, p, settings)):
        assert (value - 1).abs().max() < rounding


@pytest.mark.parametrize("settings", SETTINGS)
def test_only_identical_windows_are_wholly_similar(settings: SSIMSettings) -> None:
    """One changed pixel lowers SSIM in every window that holds it, and in no other."""
    p = rand(1, 1, 21, 21)
    q = p.clone()
    q[..., 10, 10] = (q[..., 10, 10] + 0.5) % 1
    similarity = ssim(p, q, settings)[0, 0]
    half = settings.size // 2
    touched = torch.zeros(21, 21, dtype=torch.bool)
    touched[10 - half : 11 + half, 10 - half : 11 + half] = True
    # The far corners of a Gaussian window weigh little, so the margin is small, but it is there.
    assert (similarity[touched] < 1 - 1e-9).all()
    torch.testing.assert_close(similarity[~touched], torch.ones_like(similarity[~touched]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("exponents", EXPONENTS)
def test_similarity_lies_between_minus_one_and_one(settings: SSIMSettings, exponents: tuple[float, ...]) -> None:
    """SSIM never leaves [-1, 1] by more than rounding, for alike, unlike and inverted images."""
    settings = settings.model_copy(update=dict(zip(("alpha", "beta", "gamma"), exponents, strict=True)))
    p = rand(1, 1, 24, 24)
    others = [p, 1 - p, p.round(), 1 - p.round(), rand(1, 1, 24, 24, seed=5), p * 0, p * 0 + 1]
    for q in (*others, p + 0.2, -0.1 * p):  # reconstructions may leave [0, 1]
        for first in (p, p.round()):
            assert ssim(first, q, settings).abs().max() <= 1 + 1e-9
            # Flat windows of a saturated image: a covariance of one rounding error beside Wang's small c2.
            assert ssim(first.float(), q.float(), settings).abs().max() <= 1 + 1e-3


@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("window", ["uniform", "gaussian"])
def test_equal_images_are_exactly_alike(window: Literal["uniform", "gaussian"], border: Border) -> None:
    """1 at every pixel, to the last bit: what is reproduced perfectly leaves no residual at all."""
    p = rand(2, 1, 40, 53, dtype=torch.float32)
    found = ssim(p, p.clone(), SSIMSettings(window=window, constants="wang"), border)
    assert torch.equal(found, torch.ones_like(found))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_similarity_is_symmetric(settings: SSIMSettings, dtype: torch.dtype) -> None:
    """ssim(p, q) and ssim(q, p) are the same bits, parts included."""
    p, q = textures(2, 1, 19, 23, dtype=dtype)
    assert torch.equal(ssim(p, q, settings), ssim(q, p, settings))
    for one, other in zip(ssim_parts(p, q, settings), ssim_parts(q, p, settings), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("settings", SETTINGS)
def test_turning_and_mirroring_both_images_turns_and_mirrors_the_map(settings: SSIMSettings) -> None:
    """SSIM commutes with flips and transposition."""
    p, q = textures(1, 1, 17, 22)
    whole = ssim(p, q, settings)
    torch.testing.assert_close(ssim(p.flip(2), q.flip(2), settings), whole.flip(2))
    torch.testing.assert_close(ssim(p.flip(3), q.flip(3), settings), whole.flip(3))
    torch.testing.assert_close(ssim(p.mT, q.mT, settings), whole.mT)


def test_brightness_changes_luminance_alone() -> None:
    """Adding a constant leaves contrast and structure at 1, and lowers luminance."""
    p = 0.7 * rand(1, 1, 20, 20)
    parts = ssim_parts(p, p + 0.25, SSIMSettings(size=5))
    assert parts.luminance.max() < 0.98
    assert (parts.contrast - 1).abs().max() < 1e-9
    assert (parts.structure - 1).abs().max() < 1e-9


def test_stretching_changes_contrast_and_inversion_changes_structure() -> None:
    """q = a + k p keeps structure at 1 for k > 0 and gives (c2 - 2 sigma^2) / (c2 + 2 sigma^2) for k = -1."""
    settings = SSIMSettings(size=5)
    p = rand(1, 1, 20, 20)
    stretched = ssim_parts(p, 0.25 + 0.5 * p, settings)
    assert (stretched.structure - 1).abs().max() < 1e-9
    assert stretched.contrast.max() < 0.99
    inverted = ssim_parts(p, 1 - p, settings)
    assert (inverted.contrast - 1).abs().max() < 1e-9
    c2 = 0.03
    variance = torch.from_numpy(np.stack([_variances(p[0, 0].numpy(), 5)]))[None]
    valid = ssim_parts(p, 1 - p, settings, "valid").structure
    torch.testing.assert_close(valid, (c2 - 2 * variance) / (c2 + 2 * variance))


def _variances(plane: Planes, size: int) -> Planes:
    return np.lib.stride_tricks.sliding_window_view(plane, (size, size)).var(axis=(2, 3))


def test_inverting_both_images_keeps_contrast_and_structure() -> None:
    """1 - p against 1 - q has the contrast and structure of p against q."""
    p, q = textures(1, 1, 20, 20)
    one, other = (ssim_parts(a, b, SSIMSettings(size=7, window="gaussian")) for a, b in ((p, q), (1 - p, 1 - q)))
    torch.testing.assert_close(one.contrast, other.contrast)
    torch.testing.assert_close(one.structure, other.structure)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("exponents", EXPONENTS)
def test_the_product_is_the_product_of_the_parts(
    settings: SSIMSettings, border: Border, exponents: tuple[float, float, float]
) -> None:
    """SSIM = l^alpha c^beta s^gamma (sign kept), the closed form of eq. 8 included."""
    alpha, beta, gamma = exponents
    settings = settings.model_copy(update={"alpha": alpha, "beta": beta, "gamma": gamma})
    p, q = rand(2, 1, 15, 18), rand(2, 1, 15, 18, seed=1)
    luminance, contrast, structure = ssim_parts(p, q, settings, border)
    expected = luminance**alpha * contrast**beta * structure.sign() * structure.abs() ** gamma
    if gamma == 0:
        expected = luminance**alpha * contrast**beta
    torch.testing.assert_close(ssim(p, q, settings, border), expected, rtol=1e-9, atol=1e-9)


def test_colour_is_compared_channel_by_channel() -> None:
    """The map of a colour image is the three maps of its channels; images of a batch do not meet."""
    p, q = textures(3, 3, 14, 17)
    whole = ssim(p, q, SSIMSettings(size=5))
    for n, c in itertools.product(range(3), range(3)):
        alone = ssim(p[n : n + 1, c : c + 1], q[n : n + 1, c : c + 1], SSIMSettings(size=5))
        torch.testing.assert_close(whole[n, c], alone[0, 0])


# --- a slow reference


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("border", ["valid", "reflect"])
def test_parts_equal_the_definition_window_by_window(settings: SSIMSettings, border: Border) -> None:
    """l, c and s equal a triple loop over eq. 5 to 7, with numpy's reflection at the border."""
    p, q = textures(1, 2, 9, 12, seed=3)
    found = ssim_parts(p, q, settings, border)
    expected = slow_parts(p[0].numpy(), q[0].numpy(), settings, border)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[0].numpy(), other, rtol=0, atol=1e-12)
    product = ssim(p, q, settings, border)[0].numpy()
    np.testing.assert_allclose(product, np.prod(np.stack(expected), axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_an_image_may_be_as_small_as_the_window(size: int) -> None:
    """At side K the reflecting border still equals numpy's, and `valid` leaves one pixel."""
    settings = SSIMSettings(size=size, window="gaussian")
    p, q = textures(1, 1, size, size + 1)
    expected = np.prod(np.stack(slow_parts(p[0].numpy(), q[0].numpy(), settings, "reflect")), axis=0)
    np.testing.assert_allclose(ssim(p, q, settings)[0].numpy(), expected, rtol=0, atol=1e-12)
    assert ssim(p, q, settings, "valid").shape == (1, 1, 1, 2)


def test_float32_equals_the_definition_to_rounding() -> None:
    """Single precision loses no more than 2e-5 on noise, with either constants."""
    p, q = textures(1, 1, 40, 40, seed=8)
    for settings in (SSIMSettings(), SSIMSettings(window="gaussian", constants="wang")):
        exact = ssim(p, q, settings)
        assert (ssim(p.float(), q.float(), settings) - exact).abs().max() < 2e-5


# --- published values and independent libraries


def test_the_constants_decide_the_score() -> None:
    """0.01 and 0.03 as printed in the paper, or Wang et al.'s 0.01^2 and 0.03^2: one pair, two scores, by hand."""
    assert constants(SSIMSettings(constants="paper")) == (0.01, 0.03)
    assert constants(SSIMSettings(constants="wang")) == (0.01**2, 0.03**2)
    assert constants(SSIMSettings(constants=(0.5, 0.25))) == (0.5, 0.25)
    stripes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)[None, None]
    faint = 0.2 + 0.2 * stripes
    # mu: 1/3 and 4/15; sigma^2: 2/9 and 0.04 * 2/9; sigma_pq: 0.2 * 2/9.
    for name, c1, c2 in (("paper", 0.01, 0.03), ("wang", 1e-4, 9e-4)):
        by_hand = (2 * 4 / 45 + c1) * (2 * 0.2 * 2 / 9 + c2) / ((1 / 9 + 16 / 225 + c1) * (1.04 * 2 / 9 + c2))
        found = ssim(stripes, faint, SSIMSettings(size=3, constants=name), "valid").item()
        assert found == pytest.approx(by_hand, abs=1e-12)
        assert found == pytest.approx({"paper": 0.4448, "wang": 0.3776}[name], abs=1e-4)


def test_flat_images_by_hand() -> None:
    """Of flat images luminance alone is left: (2 * 0.2 * 0.8 + c1) / (0.04 + 0.64 + c1)."""
    p, q = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.8)
    assert ssim(p, q, SSIMSettings()).mean().item() == pytest.approx(0.33 / 0.69, abs=1e-6)
    assert ssim(p, q, SSIMSettings(constants="wang")).mean().item() == pytest.approx(0.3201 / 0.6801, abs=1e-6)


@pytest.mark.parametrize("window", ["uniform", "gaussian"])
@pytest.mark.parametrize("named", ["paper", "wang"])
def test_scikit_image_agrees(window: Literal["uniform", "gaussian"], named: Literal["paper", "wang"]) -> None:
    """scikit-image's map, population covariance, equals ours wherever the window lies inside."""
    settings = SSIMSettings(window=window, size=11, constants=named)
    c1, c2 = constants(settings)
    p, q = textures(1, 1, 40, 33, seed=4)
    _, full = structural_similarity(
        p[0, 0].numpy(),
        q[0, 0].numpy(),
        win_size=11,
        data_range=1,
        gaussian_weights=window == "gaussian",
        sigma=1.5,
        use_sample_covariance=False,
        K1=c1**0.5,
        K2=c2**0.5,
        full=True,
    )
    np.testing.assert_allclose(ssim(p, q, settings, "valid")[0, 0].numpy(), full[5:-5, 5:-5], rtol=0, atol=1e-10)
    np.testing.assert_allclose(ssim(p, q, settings)[0, 0, 5:-5, 5:-5].numpy(), full[5:-5, 5:-5], rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("named", ["paper", "wang"])
def test_pytorch_msssim_agrees_in_value_and_gradient(channels: int, named: Literal["paper", "wang"]) -> None:
    """The mean over valid windows and its gradient equal those of pytorch_msssim."""
    settings = SSIMSettings(window="gaussian", size=11, constants=named)
    c1, c2 = constants(settings)
    p, q = textures(2, channels, 24, 30, seed=6)
    q.requires_grad_()
    ours = ssim(p, q, settings, "valid").mean()
    theirs = pytorch_msssim.ssim(p, q, data_range=1, win_size=11, win_sigma=1.5, K=(c1**0.5, c2**0.5))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-7)
    (our_gradient,), (their_gradient,) = torch.autograd.grad(ours, q), torch.autograd.grad(theirs, q)
    # Its window is float32, and so are the seven digits that agree.
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-6 * float(their_gradient.abs().max()))


def test_the_window_sums_to_one_and_is_separable() -> None:
    """The outer product of the one-dimensional weights is the window by its definition."""
    for settings in SETTINGS:
        weights = window_weights(settings)
        assert weights.dtype == torch.float64
        assert weights.sum().item() == pytest.approx(1, abs=1e-15)
        np.testing.assert_allclose(torch.outer(weights, weights).numpy(), weights_2d(settings), rtol=1e-12)


# --- gradients


@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.5, 2, 3), (1.5, 0.5, 0.5), (0, 0, 1)])
def test_the_gradient_of_the_product_is_right(border: Border, exponents: tuple[float, float, float]) -> None:
    """autograd equals finite differences in both images, for the closed form and for odd exponents."""
    alpha, beta, gamma = exponents
    settings = SSIMSettings(size=3, window="gaussian", constants="wang", alpha=alpha, beta=beta, gamma=gamma)
    p, q = textures(1, 1, 4, 4, seed=2)
    p.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ssim(a, b, settings, border), (p, q))


@pytest.mark.parametrize("border", ["valid", "reflect"])
def test_the_gradients_of_the_parts_are_right(border: Border) -> None:
    """autograd equals finite differences for luminance, contrast and structure."""
    p, q = textures(1, 1, 4, 4, seed=9)
    p.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: tuple(ssim_parts(a, b, SSIMSettings(size=3), border)), (p, q))


# --- precision


def test_precision_is_kept_or_raised() -> None:
    """float64 stays float64, float32 stays float32, half and bfloat16 are computed and given as float32."""
    p, q = textures(1, 1, 16, 16)
    settings = SSIMSettings(size=5)
    for given, result in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        a, b = p.to(given), q.to(given)
        similarity = ssim(a, b, settings)
        assert similarity.dtype == result
        assert torch.equal(similarity, ssim(a.to(result), b.to(result), settings))
        assert ssim_parts(a, b, settings).structure.dtype == result
    assert ssim(p.float(), q, settings).dtype == torch.float64
    assert ssim(p.bfloat16(), q.float(), settings).dtype == torch.float32


@pytest.mark.parametrize("gamma", [1, 2])
def test_autocast_does_not_reach_inside(gamma: float) -> None:
    """Within torch.autocast the values and gradients are the same bits as without."""
    settings = SSIMSettings(constants="wang", gamma=gamma)
    p, q = textures(2, 1, 40, 40, dtype=torch.float32)
    q.requires_grad_()
    plain = ssim(p, q, settings)
    (plain_gradient,) = torch.autograd.grad(plain.mean(), q)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(p, q, settings)
        parts = ssim_parts(p, q, settings)
    (inside_gradient,) = torch.autograd.grad(inside.mean(), q)
    assert torch.equal(plain, inside)
    assert torch.equal(plain_gradient, inside_gradient)
    assert all(torch.equal(a, b) for a, b in zip(parts, ssim_parts(p, q, settings), strict=True))


@pytest.mark.parametrize("settings", [SSIMSettings(), SSIMSettings(window="gaussian", constants="wang")])
@pytest.mark.parametrize("levels", [(0.999, 0.999), (0.999, 0.05), (0.0, 0.999)])
def test_faint_texture_on_a_bright_ground_keeps_its_digits(settings: SSIMSettings, levels: tuple[float, float]) -> None:
    """E[x^2] - E[x]^2 would cancel: noise of 1e-4 at 0.999 still equals double precision to 1e-6."""
    p, q = ((level + 1e-4 * rand(1, 1, 64, 64, seed=seed)).float() for seed, level in enumerate(levels))
    for found, exact in zip(
        (ssim(p, q, settings), *ssim_parts(p, q, settings)),
        (ssim(p.double(), q.double(), settings), *ssim_parts(p.double(), q.double(), settings)),
        strict=True,
    ):
        assert (found - exact).abs().max() < 1e-6


def test_an_image_of_two_grounds_keeps_its_digits() -> None:
    """Where one image holds black and white areas its mean helps neither; the error stays below 5e-4."""
    p = 1e-4 * rand(1, 1, 64, 64)
    p[..., 32:] += 0.999
    q = p + 1e-4 * rand(1, 1, 64, 64, seed=1)
    settings = SSIMSettings(constants="wang")
    for found, exact in zip(
        ssim_parts(p.float(), q.float(), settings),
        ssim_parts(p.float().double(), q.float().double(), settings),
        strict=True,
    ):
        assert (found - exact).abs().max() < 5e-4


def test_no_variance_is_negative() -> None:
    """With constants as small as float32's own error, a variance rounded below 0 would blow up; it counts as 0."""
    settings = SSIMSettings(size=7, constants=(1e-4, 3e-8))
    for seed in range(5):
        p = 1e-5 * rand(1, 1, 64, 64, seed=seed, dtype=torch.float32)
        p[..., 32:] += 0.9
        q = p + 1e-5 * rand(1, 1, 64, 64, seed=seed + 50, dtype=torch.float32)
        assert ssim(p, q, settings).abs().max() < 20
        assert ssim_parts(p, q, settings).contrast.min() >= 0


# --- large maps


@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("shape", [(20, 300), (260, 37), (33, 33)])
def test_large_maps_by_tiles_equal_one_matrix(
    shape: tuple[int, int], border: Border, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides above the limit are blurred tile by tile: the values are those of one matrix, at every seam."""
    p, q = textures(1, 2, *shape, seed=11)
    settings = SSIMSettings(window="gaussian")
    found = ssim(p, q, settings, border)
    for tile in (1000, 11, 13, 96):
        with_tiles(monkeypatch, tile)
        torch.testing.assert_close(ssim(p, q, settings, border), found, rtol=0, atol=1e-12)
    assert found.shape[-2:] == (shape if border == "reflect" else (shape[0] - 10, shape[1] - 10))


def test_the_gradient_passes_through_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tile by tile or by one matrix, the gradient is the same."""
    p, q = textures(1, 1, 30, 41)
    q.requires_grad_()
    found = []
    for tile in (1000, 12):
        with_tiles(monkeypatch, tile)
        found += torch.autograd.grad(ssim(p, q, SSIMSettings()).square().mean(), q)
    torch.testing.assert_close(found[1], found[0])


def with_tiles(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setitem(module.TILES, "cpu", tile)
    module._tiles.cache_clear()


@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("size", [1, 3, 11])
@pytest.mark.parametrize("shape", [(11, 12), (40, 71)])
def test_the_adjoint_is_the_transpose(shape: tuple[int, int], size: int, border: Border) -> None:
    """<blur(x), y> = <x, blur_adjoint(y)> for all x and y."""
    weights = gaussian_weights(size, 1.5)
    x = rand(shape[0], 2, 3, shape[1])
    blurred = blur(x, weights, border)
    y = rand(*blurred.shape, seed=1)
    spread = blur_adjoint(y, weights, border)
    assert spread.shape == x.shape
    torch.testing.assert_close((blurred * y).sum(), (x * spread).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("border", ["valid", "reflect"])
def test_one_gradient_or_both(border: Border) -> None:
    """What is asked for of one image does not depend on whether the other's is wanted too."""
    p, q = (image.requires_grad_() for image in textures(2, 1, 24, 30))
    both = torch.autograd.grad(ssim(p, q, SSIMSettings(), border).sum(), (p, q))
    (first,) = torch.autograd.grad(ssim(p, q.detach(), SSIMSettings(), border).sum(), p)
    (second,) = torch.autograd.grad(ssim(p.detach(), q, SSIMSettings(), border).sum(), q)
    torch.testing.assert_close(first, both[0])
    torch.testing.assert_close(second, both[1])


@pytest.mark.parametrize("border", ["valid", "reflect"])
@pytest.mark.parametrize("exponents", [(1, 1, 1), (1, 0.5, 2)])
@pytest.mark.parametrize("chunk", [1, 2 * 24 * 30, 10**6])
def test_the_mean_is_that_of_the_map(
    monkeypatch: pytest.MonkeyPatch, chunk: int, exponents: tuple[float, float, float], border: Border
) -> None:
    """Value and gradients of `mean_ssim` are those of the map's mean, however many planes are taken at once."""
    monkeypatch.setattr("flawmap.nets.similarity.CHUNK", chunk)
    alpha, beta, gamma = exponents
    settings = SSIMSettings(alpha=alpha, beta=beta, gamma=gamma)
    p, q = (image.requires_grad_() for image in textures(3, 3, 24, 30))
    expected, found = ssim(p, q, settings, border).mean(), mean_ssim(p, q, settings, border)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert found.requires_grad
    for one, other in zip(
        torch.autograd.grad(3 * found, (p, q)), torch.autograd.grad(3 * expected, (p, q)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    (alone,) = torch.autograd.grad(mean_ssim(p.detach(), q, settings, border), q)
    torch.testing.assert_close(alone, torch.autograd.grad(mean_ssim(p, q, settings, border), q)[0])
    assert not mean_ssim(p.detach(), q.detach(), settings, border).requires_grad


# --- hard inputs

HARD = {
    "black": torch.zeros(1, 1, 16, 16),
    "white": torch.ones(1, 1, 16, 16),
    "grey": torch.full((1, 1, 16, 16), 0.3),
    "texture": rand(1, 1, 16, 16, dtype=torch.float32),
    "inverted": 1 - rand(1, 1, 16, 16, dtype=torch.float32),
    "half": torch.cat((torch.zeros(1, 1, 16, 8), torch.ones(1, 1, 16, 8)), dim=3),
    "spot": torch.zeros(1, 1, 16, 16).index_fill(3, torch.tensor([8]), 1e-20),
    "faint": torch.full((1, 1, 16, 16), 0.5) + 1e-7 * rand(1, 1, 16, 16, dtype=torch.float32),
}


@pytest.mark.parametrize("first", HARD)
@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.5, 0.5, 0.5), (2, 1.5, 0.3), (1, 1, 0)])
@pytest.mark.parametrize("named", ["paper", "wang"])
def test_flat_and_saturated_images_stay_finite(
    first: str, exponents: tuple[float, float, float], named: Literal["paper", "wang"]
) -> None:
    """No NaN and no infinity, in values and in gradients, for flat, saturated and faint images in float32."""
    alpha, beta, gamma = exponents
    settings = SSIMSettings(size=5, constants=named, alpha=alpha, beta=beta, gamma=gamma)
    for second, image in HARD.items():
        p, q = HARD[first].clone().requires_grad_(), image.clone().requires_grad_()
        maps = (ssim(p, q, settings), *ssim_parts(p, q, settings))
        for values in maps:
            assert values.isfinite().all(), f"{first}, {second}"
            for gradient in torch.autograd.grad(values.mean(), (p, q), retain_graph=True):
                assert gradient.isfinite().all(), f"{first}, {second}"


# --- errors


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        (
            torch.zeros(3, 8, 8),
            torch.zeros(3, 8, 8),
            "p must be (N, C, H, W), got (3, 8, 8); for one image pass p[None]",
        ),
        (torch.zeros(8, 8), torch.zeros(8, 8), "p must be (N, C, H, W), got (8, 8)"),
        (
            torch.zeros(1, 1, 16, 16),
            torch.zeros(1, 16, 16),
            "q must be (N, C, H, W), got (1, 16, 16); for one image pass q[None]",
        ),
        (
            torch.zeros(1, 1, 16, 16, dtype=torch.uint8),
            torch.zeros(1, 1, 16, 16),
            "p must be floating point in [0, 1], got torch.uint8; divide by the type's range first",
        ),
        (
            torch.zeros(1, 1, 16, 16),
            torch.zeros(1, 3, 16, 16),
            "p and q must have one shape, got (1, 1, 16, 16) and (1, 3, 16, 16)",
        ),
        (
            torch.zeros(1, 1, 20, 10),
            torch.zeros(1, 1, 20, 10),
            "image must be at least as large as the 11x11 window, got 10x20; use a smaller window or a larger image",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(p: Tensor, q: Tensor, message: str) -> None:
    """The message says what was expected, what came and what to do, for the product and for the parts."""
    for function in (ssim, ssim_parts):
        with pytest.raises(InputError) as caught:
            function(p, q, SSIMSettings())
        assert str(caught.value) == message

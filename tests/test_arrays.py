"""The pipeline around a network: tensors and NumPy's arrays give the same, to rounding, and each its own kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flawmap.core import arrays
from flawmap.core.settings import ResidualName, ResidualSettings, SSIMSettings
from flawmap.methods.residuals import Decoded, residual_of
from flawmap.methods.settings import AutoencoderSettings
from flawmap.nets.similarity import similarity, similarity_parts
from flawmap.nets.window_means import Border, gaussian_window, window_means
from flawmap.scoring.borders import border_corrected
from flawmap.scoring.evidence import EvidenceProfile, Layer, Tail
from flawmap.scoring.pipeline import smoothed
from flawmap.scoring.tiling import Grid, Merger, Weights, patch_batches

SIDES = st.integers(12, 40)
SEEDS = st.integers(0, 1000)


def texture(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def agree(found: Any, expected: Any, atol: float = 2e-6) -> None:
    """found: by NumPy. expected: by torch."""
    assert isinstance(found, np.ndarray)
    assert isinstance(expected, torch.Tensor)
    assert found.dtype == np.float32
    assert expected.dtype == torch.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5, atol=atol)


@given(
    height=SIDES,
    width=SIDES,
    seed=SEEDS,
    size=st.sampled_from([3, 7, 11]),
    border=st.sampled_from(["valid", "reflect"]),
)
def test_window_means(height: int, width: int, seed: int, size: int, border: Border) -> None:
    """And their transpose, at either border."""
    stack, weights = texture(height, 3, width, seed=seed), gaussian_window(size, 1.5)
    for adjoint in (False, True):
        expected = window_means(torch.from_numpy(stack), weights, border, adjoint)
        agree(window_means(stack, weights, border, adjoint), expected)


@given(height=SIDES, width=SIDES, seed=SEEDS, gamma=st.sampled_from([0, 0.5, 1, 2]))
def test_similarity(height: int, width: int, seed: int, gamma: float) -> None:
    """SSIM and its parts; equal images have a similarity of exactly 1 in both."""
    settings = SSIMSettings(window="gaussian", constants="wang", gamma=gamma)
    p, q = (texture(2, 3, height, width, seed=seed + number) for number in range(2))
    tensors = torch.from_numpy(p), torch.from_numpy(q)
    agree(similarity(p, q, settings), similarity(*tensors, settings), 2e-4)
    for part, expected in zip(similarity_parts(p, q, settings), similarity_parts(*tensors, settings), strict=True):
        agree(part, expected, 2e-4)
    if gamma == 1:
        assert np.array_equal(similarity(p, p, settings), np.ones_like(p))


@pytest.mark.parametrize("name", AutoencoderSettings.residuals)
@given(seed=SEEDS, weight=st.sampled_from([0.0, 2.0]))
def test_residuals(name: ResidualName, seed: int, weight: float) -> None:
    """All that an exported model may map."""
    residual = residual_of(ResidualSettings(name=name, l2_weight=weight if name == "ssim" else 0.0))
    image, made = (texture(2, 3, 20, 24, seed=seed + number) for number in range(2))
    expected = residual(torch.from_numpy(image), Decoded(torch.from_numpy(made)))
    agree(residual(image, Decoded(made)), expected, 2e-5)


@given(
    height=st.integers(16, 60),
    width=st.integers(16, 60),
    stride=st.integers(1, 16),
    count=st.integers(1, 9),
    weights=st.sampled_from(["uniform", "hann"]),
)
def test_cutting_and_merging(height: int, width: int, stride: int, count: int, weights: Weights) -> None:
    """Patches are the same bits, and averages agree."""
    image, grid = texture(2, height, width, seed=height), Grid(16, stride)
    pairs = zip(
        patch_batches([image], grid, (height, width), count),
        patch_batches([torch.from_numpy(image)], grid, (height, width), count),
        strict=True,
    )
    merger, other = (Merger(grid, (height, width), weights) for _ in range(2))
    for patches, tensors in pairs:
        assert np.array_equal(patches, tensors.numpy())
        agree(merger.add(patches), other.add(tensors))


def profile_of(seed: int) -> EvidenceProfile:
    random = np.random.default_rng(seed)

    def tail() -> Tail:
        values = np.sort(random.exponential(size=2000))
        return Tail.fitted(values, np.ones(len(values), np.int64))

    def layer(part: int) -> Layer:
        mean, spread = (tuple(random.uniform(0.1, 0.5, 5).tolist()) for _ in range(2))
        return Layer(part=part, scale=0.0, mean=mean, spread=spread, tail=tail(), weight=random.uniform(0.5, 2))

    return EvidenceProfile(layers=(layer(0), layer(1)), total=tail())


@given(seed=SEEDS, top=st.integers(0, 10), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_evidence_and_border(seed: int, top: int, scale: float) -> None:
    """Inside the table of a tail and far beyond, for any band of rows."""
    layers, profile = scale * texture(2, 15, 20, seed=seed), profile_of(seed)
    place = {"top": top, "height": 30}
    agree(profile.evidence(layers, **place), profile.evidence(torch.from_numpy(layers), **place), 1e-5)
    ratios = (2.0, 1.5, 1.0)
    expected = border_corrected(torch.from_numpy(layers[0]), ratios, **place)
    assert np.array_equal(border_corrected(layers[0], ratios, **place), expected.numpy())


@given(height=SIDES, width=SIDES, seed=SEEDS, sigma=st.sampled_from([0.0, 0.7, 2.0, 9.0]))
def test_smoothing(height: int, width: int, seed: int, sigma: float) -> None:
    """Also by a Gaussian that is wider than the image."""
    residual = texture(height, width, seed=seed)
    agree(smoothed(residual, sigma), smoothed(torch.from_numpy(residual), sigma))


def test_without_gradients() -> None:
    """While a generator works torch records nothing; whoever reads it is not disturbed."""
    weight, seen = torch.ones(1, requires_grad=True), []

    @arrays.without_gradients
    def doubled() -> Any:
        for _ in range(2):
            yield weight * 2

    for value in doubled():
        seen.append((value.requires_grad, (weight * 2).requires_grad))
    assert seen == [(False, True)] * 2

"""Gaussian mixtures of windows: scikit-learn as an oracle, exact errors, and a run from folder to verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

import flawmap
from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.runtime import Runtime
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import good_images
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.writing import write_image
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, State
from flawmap.methods.mixture import Level, fit, scorer, smooth, surprise, windows
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset

CPU = Runtime(device="cpu", precision="float32")
SMALL: dict[str, Any] = {"name": "gmm", "levels": [1, 2], "dimensions": 6, "components": 3, "samples": 2000}


def config_of(**method: Any) -> Config:
    return parse({"model": {"patch": 32, "channels": 1}, "method": SMALL | method, "training": {"steps": 1}})


def fitted(config: Config) -> State:
    images = [TrainingImage(ImageRows.of(image)) for image in good_images("cloth", 3, (64, 64), 0)]
    return fit(config, PatchSource(images, 32), FitContext())


def test_the_density_is_scikit_learns() -> None:
    """At every pixel: a mixture of main components, and a Gaussian of one spread for what they leave."""
    config = config_of()
    state = fitted(config)
    patches = torch.from_numpy(
        np.stack([image[:32, :32].transpose(2, 0, 1) for image in good_images("cloth", 2, (64, 64), 5)])
    )
    for level in (1, 2):
        mixture = Level(*(state.tensors[f"{level}.{name}"] for name in Level._fields))
        found = surprise(patches, level, mixture, 5).double().numpy()
        flat = windows(smooth(patches, level), 5, level).movedim(1, -1).double().numpy().reshape(-1, 25)
        centred = flat - mixture.mean.double().numpy()
        main = centred @ mixture.basis.double().numpy().T
        count, size = len(mixture.heights), main.shape[1]
        roots = mixture.filters.double().numpy().reshape(count, size, size).transpose(0, 2, 1)
        oracle = GaussianMixture(count)
        oracle.precisions_cholesky_ = roots
        oracle.means_ = np.stack(
            [
                -np.linalg.solve(root.T, shift)
                for root, shift in zip(roots, mixture.shifts.double().numpy().reshape(count, size), strict=True)
            ]
        )
        whole = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1) - size / 2 * np.log(2 * np.pi)
        oracle.weights_ = np.exp(mixture.heights.double().numpy() - whole)
        assert oracle.weights_.sum() == pytest.approx(1, abs=1e-4)
        rest = mixture.spread.item() * ((centred**2).sum(1) - (main**2).sum(1))
        expected = rest - oracle.score_samples(main)
        assert found.ravel() == pytest.approx(expected, rel=2e-3, abs=0.05)


def test_it_needs_no_training_and_finds_flaws(tmp_path: Path) -> None:
    """From a folder to a verdict: no steps, no history, one part for each level, and the same model twice."""
    (tmp_path / "good").mkdir()
    images = list(good_images("cloth", 9, (96, 96), 0))
    for number, image in enumerate(images):
        write_image(tmp_path / "good" / f"{number}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    changes = {"model": {"patch": 32}, "method": SMALL, "tiling": {"stride": 16}, "training": {"steps": 1}}
    config = override(preset("fast", "gmm"), changes | {"evidence": {"enabled": True, "scales": [1.0]}})
    report = flawmap.train(tmp_path / "good", tmp_path / "m.flawmap", config)
    assert report.history == ()
    detector = flawmap.Detector.load(tmp_path / "m.flawmap", CPU)
    assert detector.scorer.parts == 2
    image = images[0].copy()
    good = detector.inspect(image)
    image[40:60, 40:60] = image.mean()
    flawed = detector.inspect(image)
    assert flawed.score > 2 * good.score
    assert flawed.residual[38:62, 38:62].max() == flawed.score


def test_refusals() -> None:
    """Levels twice, windows larger than a patch, another engine, and tensors of other settings."""
    with pytest.raises(ConfigError, match="levels must be different whole numbers from 1 to 16, got \\(2, 2\\)"):
        config_of(levels=[2, 2])
    with pytest.raises(ConfigError, match="windows reach 48 pixels, which must be less than the patch, 32"):
        config_of(levels=[16], side=7)
    state = fitted(config_of())
    with pytest.raises(ConfigError, match="the method gmm has no network that openvino could run"):
        scorer(config_of(), state, Runtime(engine="openvino"))
    with pytest.raises(ArtifactError, match=r"the model lacks a part of its mixtures: '4\.mean'"):
        scorer(config_of(levels=[1, 4]), state, CPU)

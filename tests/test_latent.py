"""Measures of a patch's latent distribution: their values, what a fit keeps for them, and the maps they give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

import flawmap
from flawmap.commands.cli import main
from flawmap.commands.export import export
from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import LATENT, LatentName, ResidualSettings
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import texture
from flawmap.methods import latent
from flawmap.methods.autoencoder import build_network, fit, restored
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, State
from flawmap.methods.latent import COMPARED, MEASURES, Latent, nearest_distribution, nearest_mean
from flawmap.methods.overrides import override, parse
from flawmap.methods.residuals import Decoded, residual_of
from flawmap.nets.variational import LOG_VARIANCE, Posterior, VariationalAutoencoder, bhattacharyya
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint

PATCH, D, KEPT = 32, 5, 40
CPU = Runtime("cpu", "float32")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit keeps few distributions: more than one batch, and a batch that is not full."""
    monkeypatch.setattr(latent, "GOOD_PATCHES", KEPT)
    monkeypatch.setattr("flawmap.methods.gradient.INIT_PATCHES", 16)


def config_of(residual: str | None = "kl", channels: int = 1, **changes: Any) -> Config:
    """Small and quick: patches of 32, 5 latent dimensions, 3 steps of 4 patches."""
    settings = {
        "model": {"patch": PATCH, "channels": channels},
        "method": {"name": "vae", "latent": D},
        "residual": {"name": residual},
        "tiling": {"stride": 16},
        "training": {"batch": 4, "precision": "float32", "steps": 3},
    }
    return override(parse(settings), changes)


def source_of(channels: int = 1) -> PatchSource:
    images = [texture("cloth", (96, 96), seed) for seed in range(2)]
    return PatchSource([TrainingImage(np.repeat(image, channels, axis=2)) for image in images], PATCH)


def fitted(channels: int = 1, **changes: Any) -> State:
    return fit(config_of(channels=channels, **changes), source_of(channels), FitContext())


def detector_of(state: State, residual: str | None, channels: int = 1, **changes: Any) -> Detector:
    config = config_of(residual, channels, **changes)
    return Detector.of(Artifact(config, state.tensors, {DEFAULT: OperatingPoint(threshold=1.0)}), CPU)


def image_of(channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """(64, 80, C), not like any training image."""
    return np.repeat(texture("cloth", (80, 64), seed + 7), channels, axis=2)


def posterior_of(count: int, seed: int = 0, dimensions: int = D) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = 2 * torch.randn(2, count, dimensions, 1, 1, generator=generator)
    return Posterior(mean, log_variance)


def distribution(posterior: Posterior) -> Independent:
    """As torch.distributions has it, in double precision."""
    mean, log_variance = (part.double().flatten(1) for part in posterior)
    return Independent(Normal(mean, (log_variance / 2).exp()), 1)


def measured(name: LatentName, posterior: Posterior, good: Posterior | None) -> NDArray[np.float64]:
    """The measure by torch.distributions, SciPy and loops."""
    q = distribution(posterior)
    means = q.mean.numpy()
    if name == "kl":
        prior = Independent(Normal(torch.zeros(means.shape[1]).double(), torch.ones(means.shape[1]).double()), 1)
        return kl_divergence(q, prior).numpy()
    if name == "relative_kl":
        assert good is not None
        ours, theirs = measured("kl", posterior, None), measured("kl", good, None)
        return np.abs(ours - theirs.mean()) / theirs.std(ddof=1)
    if name == "norm":
        return np.linalg.norm(means, axis=1)
    assert good is not None
    others = distribution(good)
    if name == "euclidean":
        return np.array([min(np.linalg.norm(mean - other) for other in others.mean.numpy()) for mean in means])
    ours, theirs = (list(zip(one.mean.numpy(), one.stddev.numpy(), strict=True)) for one in (q, others))
    return np.array([min(integrated(one, other) for other in theirs) for one in ours])


def integrated(p: tuple[Any, Any], q: tuple[Any, Any]) -> float:
    """The Bhattacharyya distance by its definition, -log of the integral of sqrt(p q), dimension by dimension."""
    total = 0.0
    for m, s, n, t in zip(*p, *q, strict=True):
        reach = 12 * max(s, t)
        x = np.linspace(min(m, n) - reach, max(m, n) + reach, 20_001)
        total -= logsumexp((norm.logpdf(x, m, s) + norm.logpdf(x, n, t)) / 2) + np.log(x[1] - x[0])
    return float(total)


# --- the measures


@pytest.mark.parametrize("name", LATENT)
def test_a_measure_is_that_of_torch_s_distributions_and_a_slow_loop(name: LatentName) -> None:
    """For each patch by itself, to rounding."""
    posterior, good = posterior_of(6), posterior_of(4, seed=1)
    found = MEASURES[name](Latent(posterior, good))
    np.testing.assert_allclose(found.numpy(), measured(name, posterior, good), rtol=1e-4, atol=1e-5)


@given(values=st.lists(st.tuples(*[st.floats(-50, 50, width=32), st.floats(*LOG_VARIANCE, width=32)] * 2), min_size=1))
def test_the_bhattacharyya_distance_is_symmetric_and_0_for_the_same_alone(values: list[tuple[float, ...]]) -> None:
    """For all means, and all variances that a network gives; finite, and at least that of the means by themselves."""
    parts = torch.tensor(values).T[:, None, :, None, None]
    p, q = Posterior(parts[0], parts[1]), Posterior(parts[2], parts[3])
    found = bhattacharyya(p, q)
    assert torch.equal(found, bhattacharyya(q, p))
    assert bhattacharyya(p, p).item() == 0
    assert found.isfinite().all()
    widest = torch.tensor(LOG_VARIANCE[1]).exp()
    assert found.item() >= float((p.mean - q.mean).square().sum() / (8 * widest)) * (1 - 1e-5)


def test_a_small_difference_of_spreads_counts() -> None:
    """Variances that differ by a thousandth are 6e-8 apart, which single precision alone would lose."""
    zero = torch.zeros(1, 1, 1, 1)
    found = bhattacharyya(Posterior(zero, zero), Posterior(zero, zero + 1e-3)).item()
    assert found == pytest.approx(1e-6 / 16, rel=1e-3)


@pytest.mark.parametrize("measure", [nearest_mean, nearest_distribution])
def test_a_patch_that_is_kept_has_the_distance_0_and_one_more_patch_never_adds_to_it(measure: Any) -> None:
    """The nearest one counts, whichever it is."""
    posterior, good = posterior_of(9), posterior_of(20, seed=1)
    joined = Posterior(*(torch.cat(parts) for parts in zip(good, posterior, strict=True)))
    assert torch.equal(measure(Latent(posterior, joined)), torch.zeros(9))
    fewer = Posterior(good.mean[:10], good.log_variance[:10])
    assert (measure(Latent(posterior, good)) <= measure(Latent(posterior, fewer))).all()
    assert (measure(Latent(posterior, good)) > 0).all()


def test_a_divergence_below_that_of_good_patches_is_as_unusual_as_one_above() -> None:
    """A patch at the prior itself has the least KL divergence, and a large relative one; all good alike: finite."""
    good = posterior_of(50)
    zero = torch.zeros(1, D, 1, 1)
    plain, usual = Latent(Posterior(zero, zero), good), MEASURES["kl"](Latent(good))
    assert MEASURES["kl"](plain).item() == 0
    assert MEASURES["relative_kl"](plain).item() == pytest.approx(float(usual.mean() / usual.std()), rel=1e-5)
    alike = Latent(posterior_of(3), Posterior(zero.expand(4, -1, -1, -1), zero.expand(4, -1, -1, -1)))
    assert MEASURES["relative_kl"](alike).isfinite().all()


# --- what a fit keeps


def test_a_fit_keeps_the_distributions_of_good_patches() -> None:
    """Those of training patches that the seed draws, as the trained network encodes them; and nothing for l2."""
    state = fitted()
    network = restored(config_of(), state.tensors)
    assert isinstance(network, VariationalAutoencoder)
    source = source_of()
    drawn = torch.from_numpy(source.cut(source.draw(KEPT, np.random.default_rng(0))))
    with torch.no_grad():
        mean, log_variance = (part.flatten(1) for part in network.encode(drawn))
    torch.testing.assert_close(state.tensors["good.mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.tensors["good.log_variance"], log_variance, rtol=1e-4, atol=1e-5)
    again = fitted().tensors
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.tensors.items())
    plain = fit(parse({**config_of(None).model_dump(), "method": {"name": "l2"}}), source, FitContext()).tensors
    assert not [name for name in plain if name.startswith("good.")]


def test_every_state_that_is_compared_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier state of a training is scored by the distributions of its own network."""
    monkeypatch.setattr("flawmap.methods.gradient.ROW_STEPS", 2)
    seen: list[dict[str, Tensor]] = []
    config = config_of(training={"steps": 4})
    context = FitContext(looks=2, on_look=lambda step, tensors: seen.append({k: v.clone() for k, v in tensors.items()}))
    last = fit(config, source_of(), context).tensors
    (first,) = seen
    assert first.keys() == last.keys()
    assert not torch.equal(first["good.mean"], last["good.mean"])
    half = fit(override(config, {"training": {"steps": 2, "warmup": 0}}), source_of(), FitContext()).tensors
    torch.testing.assert_close(first["good.mean"], half["good.mean"], rtol=1e-4, atol=1e-5)


def test_a_model_without_them_maps_the_measures_that_need_none(tmp_path: Path) -> None:
    """A file of an older version, and the exact text for a measure that needs them."""
    state = fitted()
    older = replace(state, tensors={name: t for name, t in state.tensors.items() if not name.startswith("good.")})
    image = image_of()
    for name in ("kl", "norm", "l2", "probability"):
        assert np.array_equal(detector_of(older, name).score(image), detector_of(state, name).score(image))
    for name in COMPARED:
        with pytest.raises(ArtifactError) as caught:
            detector_of(older, name)
        assert str(caught.value) == (
            f"the residual {name} needs the latent distributions of good patches, which this model does not hold; "
            "train anew, or map kl"
        )


# --- maps


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LATENT)
def test_a_map_is_the_average_of_the_patches_that_cover_a_pixel(name: LatentName, channels: int) -> None:
    """Every patch encoded by itself, one value for all its pixels."""
    state, image = fitted(channels), image_of(channels)
    network = restored(config_of(channels=channels), state.tensors)
    assert isinstance(network, VariationalAutoencoder)
    good = Posterior(*(state.tensors[f"good.{part}"][..., None, None] for part in Posterior._fields))
    total, cover = np.zeros((64, 80)), np.zeros((64, 80))
    for top in (0, 16, 32):
        for left in (0, 16, 32, 48):
            place = (slice(top, top + PATCH), slice(left, left + PATCH))
            patch = torch.from_numpy(image[place]).permute(2, 0, 1)[None]
            with torch.no_grad():
                total[place] += measured(name, network.encode(patch), good)
            cover[place] += 1
    found = detector_of(state, name, channels).score(image)
    np.testing.assert_allclose(found, total / cover, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LATENT)
def test_a_map_is_the_same_whatever_else_is_scored_and_needs_no_decoder(name: LatentName, tmp_path: Path) -> None:
    """Bit for bit: again, from the file, and with a decoder that gives nonsense; no reconstruction is shown."""
    state, image = fitted(), image_of()
    detector = detector_of(state, name)
    first = detector.score(image)
    detector.score(image_of(seed=1))
    assert np.array_equal(detector.score(image), first)
    assert first.max() > first.min() >= 0
    save_artifact(detector.artifact, tmp_path / "m.flawmap")
    assert np.array_equal(Detector.of(load_artifact(tmp_path / "m.flawmap"), CPU).score(image), first)
    nonsense = {key: t * float("nan") if key.startswith("decoder") else t for key, t in state.tensors.items()}
    explained = detector_of(replace(state, tensors=nonsense), name).explain(image)
    assert np.array_equal(explained.residual, first)
    assert explained.reconstruction is None


@pytest.mark.parametrize("name", LATENT)
def test_a_patch_has_the_same_value_whatever_shares_its_batch(name: LatentName) -> None:
    """Bit for bit, among others and in another place; batches are of one size."""
    score = detector_of(fitted(), name).scorer.score
    patches = torch.from_numpy(source_of().sample(32, np.random.default_rng(1)))
    others = torch.rand(27, 1, PATCH, PATCH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, mixed, moved = (
            score(batch).residual for batch in (patches, torch.cat((patches[:5], others)), patches.roll(9, 0))
        )
    assert whole is not None
    assert mixed is not None
    assert moved is not None
    assert whole.shape == (32, 1, PATCH, PATCH)
    assert torch.equal(mixed[:5], whole[:5])
    assert torch.equal(moved[9:14], whole[:5])


def test_evidence_takes_measures_of_patches_beside_those_of_pixels() -> None:
    """Each part is what it is by itself: of the latent distribution, of samples, of the decoded mean."""
    state, image = fitted(), torch.from_numpy(image_of()[:PATCH, :PATCH]).permute(2, 0, 1)[None]
    for parts in (("kl", "l2"), ("bhattacharyya", "probability", "euclidean")):
        both = detector_of(state, None, evidence={"enabled": True, "parts": parts}).scorer
        assert both.parts == len(parts)
        with torch.no_grad():
            found = both.score(image).residual
            for number, name in enumerate(parts):
                alone = detector_of(state, name).scorer.score(image).residual
                assert found is not None
                assert alone is not None
                torch.testing.assert_close(found[:, number], alone[:, 0])


# --- what is refused


def test_settings_that_cannot_be_mapped_are_refused() -> None:
    """A measure needs a latent distribution, and belongs to a patch; also as a part of evidence."""
    with pytest.raises(ConfigError) as caught:
        parse({"method": {"name": "ssim"}, "residual": {"name": "euclidean"}})
    assert str(caught.value) == (
        "residual euclidean needs a network with a latent distribution, method vae, got method ssim; train with "
        "--method vae, or map ssim or l2"
    )
    message = (
        "residual {} belongs to a patch, so average must be residuals, got reconstructions; leave it unset, or map l2"
    )
    with pytest.raises(ConfigError) as caught:
        config_of("kl", tiling={"average": "reconstructions"})
    assert str(caught.value) == message.format("kl")
    evidence = {"enabled": True, "parts": ("l2", "norm")}
    with pytest.raises(ConfigError) as caught:
        config_of(None, evidence=evidence, tiling={"average": "reconstructions"})
    assert str(caught.value) == message.format("norm")


def test_a_reconstruction_alone_is_refused() -> None:
    """The exact text."""
    image = torch.zeros(1, 1, 4, 4)
    with pytest.raises(InputError) as caught:
        residual_of(ResidualSettings(name="kl"))(image, Decoded(image))
    assert str(caught.value) == (
        "the residual kl needs the latent distribution, got a reconstruction alone; use a network that has one (vae), "
        "or map l2"
    )


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_another_engine_is_refused(engine: str) -> None:
    """Before any package is looked for; also where the measure is a part of evidence."""
    message = "the residual {} reads the latent distribution, which the engine {} does not; use --engine torch"
    evidence = {"enabled": True, "parts": ("l2", "norm")}
    for config, name in ((config_of("kl"), "kl"), (config_of(None, evidence=evidence), "norm")):
        with pytest.raises(ConfigError) as caught:
            Detector.of(Artifact(config, build_network(config).state_dict()), Runtime(engine=engine))
        assert str(caught.value) == message.format(name, engine)


def test_an_export_is_refused_for_a_measure_and_leaves_the_good_patches_out(tmp_path: Path) -> None:
    """The network of a model that maps l2 is exported without them."""
    pytest.importorskip("onnxruntime")
    state = fitted()
    flawmap.synth(tmp_path / "cloth", "cloth", good=1, bad=0, size=(64, 64), seed=1)
    images = [tmp_path / "cloth" / "train" / "good"]
    for name in ("kl", "l2"):
        save_artifact(detector_of(state, name).artifact, tmp_path / f"{name}.flawmap")
    with pytest.raises(ConfigError, match="the residual kl reads the latent distribution, which the engine onnxrun"):
        export(tmp_path / "kl.flawmap", images, "onnx")
    assert not (tmp_path / "kl.onnx").exists()
    assert export(tmp_path / "l2.flawmap", images, "onnx").largest < 1e-3


# --- from folder to figures


@pytest.mark.parametrize(("mode", "residual"), [("grey", "bhattacharyya"), ("colour", "kl")])
def test_the_command_line_trains_calibrates_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, residual: str
) -> None:
    """A measure is a residual like any other: with evidence, a calibrated threshold and the reports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    changes = ["model.patch=32", "method.latent=4", "tiling.stride=16", "training.batch=4", f"residual.name={residual}"]
    if mode == "grey":
        changes += ["evidence.enabled=true"]
    settings = [part for change in changes for part in ("--set", change)]
    assert main(["synth", "cloth", "--good", "6", "--bad", "2", "--size", "96x96", "--seed", "1", "--quiet"]) == 0
    made = ["train", "cloth", "-o", "m.flawmap", "--method", "vae", "--preset", "fast", "--mode", mode, "--steps", "3"]
    assert main([*made, *settings, "--quiet"]) == 0
    assert load_artifact(tmp_path / "m.flawmap").threshold is not None
    assert main(["synth", "fresh", "--good", "4", "--bad", "0", "--size", "96x96", "--seed", "2", "--quiet"]) == 0
    assert main(["calibrate", "m.flawmap", "fresh", "--alpha", "0.3", "--quiet"]) == 0
    assert main(["inspect", "m.flawmap", "cloth/test", "-o", "found", "--quiet"]) == 0
    assert main(["evaluate", "m.flawmap", "cloth", "-o", "measured", "--quiet"]) == 0
    assert (tmp_path / "measured" / "report.html").is_file()
    other = ["--set", "residual.name=norm", "--set", "evidence.enabled=false"]
    assert main(["evaluate", "m.flawmap", "cloth", "-o", "other", *other, "--quiet"]) == 0
    found = json.loads((tmp_path / "other" / "metrics.json").read_text())["model"]
    assert (found["residual"]["name"], found["threshold"], found["evidence"]) == ("norm", None, None)


# --- a fitted model that scores in another way


def measured_model(residual: str) -> Artifact:
    """With everything that is measured by a model's own settings."""
    artifact = detector_of(fitted(), residual).artifact
    return replace(artifact, border=(2.0, 1.0), check={"sizes": []}, calibrations={DEFAULT: {"image_scores": [1.0]}})


def test_a_model_scores_as_if_it_had_been_fitted_with_the_other_settings() -> None:
    """The same weights, and nothing that the old settings measured; without changes it is the same model."""
    artifact = measured_model("probability")
    assert artifact.rescored({}) is artifact
    rescored = artifact.rescored({"residual": {"name": "bhattacharyya"}, "tiling": {"stride": 8}})
    expected = detector_of(fitted(), "bhattacharyya", tiling={"stride": 8})
    assert np.array_equal(Detector.of(rescored, CPU).score(image_of()), expected.score(image_of()))
    assert (rescored.points, rescored.calibrations, rescored.border, rescored.check) == ({}, {}, None, None)
    assert rescored.provenance == artifact.provenance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"residual": {"name": "kl"}, "method": {"latent": 7}},
            "a fitted model takes other settings of residual, tiling, evidence, threshold, got method.latent; train "
            "anew with it",
        ),
        (
            {"evidence": {"enabled": True}},
            "evidence.enabled is measured in training, by the settings of then; with other ones add --set "
            "evidence.enabled=false",
        ),
        (
            {"residual": {"border_correction": True}},
            "residual.border_correction is measured in training, by the settings of then; with other ones add --set "
            "residual.border_correction=false",
        ),
        ({"residual": {"nme": "kl"}}, "unknown setting residual.nme; did you mean residual.name?"),
    ],
)
def test_what_only_training_can_change_is_refused(changes: dict[str, Any], message: str) -> None:
    """The exact texts."""
    with pytest.raises(ConfigError) as caught:
        measured_model("kl").rescored(changes).complete()
    assert str(caught.value) == message

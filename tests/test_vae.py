"""The variational autoencoder: its divergence, its samples, and what a pixel's probability is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from flawmap.commands.cli import main
from flawmap.core.errors import ArtifactError, ConfigError, InputError, TrainingError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import ResidualSettings
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import texture
from flawmap.methods import gradient
from flawmap.methods.autoencoder import build_network, sampled, train_network
from flawmap.methods.checkpoint import load_checkpoint
from flawmap.methods.config import Config
from flawmap.methods.gradient import Trained
from flawmap.methods.interface import FitContext, Patches, Progress
from flawmap.methods.losses import l2_loss
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset
from flawmap.methods.reconstruction import comparing
from flawmap.methods.residuals import LEAST_NOISE, Decoded, l2_residual, probability_residual, residual_of
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.initialisation import LOG_VARIANCE as INITIAL_LOG_VARIANCE
from flawmap.nets.initialisation import initialise
from flawmap.nets.layer_table import NetworkShape
from flawmap.nets.variational import LOG_VARIANCE, MEMORY, Posterior, VariationalAutoencoder, fixed_noise, kl_to_prior
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact, load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.pipeline import score_rows
from flawmap.scoring.tiling import Grid

PATCH, LATENT = 32, 5


def fit(
    config: Config,
    source: Patches,
    validation: NDArray[np.float32] | None = None,
    *,
    observe: Callable[[Progress], None] = lambda progress: None,
    **context: Any,
) -> Trained:
    """The network of a training, with what a FitContext holds by keyword."""
    return train_network(config, source, FitContext(validation, on_progress=observe, **context))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def config_of(**changes: Any) -> Config:
    """Small and quick: patches of 32, 5 latent dimensions, 4 patches a step."""
    return parse(
        {
            "model": {"patch": PATCH, "channels": 1},
            "method": {"latent": LATENT, "name": "vae", **changes.pop("method", {})},
            "residual": {"name": "probability", **changes.pop("residual", {})},
            "tiling": {"stride": 16, **changes.pop("tiling", {})},
            "training": {"batch": 4, "precision": "float32", **({"steps": 10} | changes)},
        }
    )


def source_of() -> PatchSource:
    return PatchSource([TrainingImage(texture("cloth", (96, 96), seed)) for seed in range(2)], PATCH)


def cloth(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(source_of().sample(count, np.random.default_rng(seed)))


def initialised(seed: int = 0) -> VariationalAutoencoder:
    """A network as training begins with, its log-variances told apart: at first they are all the same."""
    network = build_network(config_of())
    assert isinstance(network, VariationalAutoencoder)
    initialise(network, cloth(16), seed)
    with torch.no_grad():
        torch.nn.init.normal_(network.log_variance.weight, std=0.02, generator=generator(seed))
    return network.eval()


def detector_of(network: VariationalAutoencoder, **changes: Any) -> Detector:
    artifact = Artifact(
        override(config_of(), changes), network.state_dict(), {DEFAULT: OperatingPoint(threshold=1.0)}, {}, {}
    )
    return Detector.of(artifact, Runtime("cpu", "float32"))


def posterior_of(count: int, seed: int = 0) -> Posterior:
    mean, log_variance = torch.randn(2, count, LATENT, 1, 1, generator=generator(seed)) * 2
    return Posterior(mean, log_variance)


# --- divergence


def test_the_divergence_is_that_of_torch_s_distributions() -> None:
    """KL(Q || N(0, I)) summed over dimensions, for each patch, to rounding."""
    posterior = posterior_of(7)
    mean, deviation = posterior.mean.double().flatten(1), (posterior.log_variance.double().flatten(1) / 2).exp()
    expected = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_prior(posterior).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_divergence_is_0_for_the_prior_alone_and_never_negative() -> None:
    """0 at mean 0 and log-variance 0, and above it however little the distribution departs."""
    zero = torch.zeros(1, LATENT, 1, 1)
    assert kl_to_prior(Posterior(zero, zero)).item() == 0
    for small in (1e-3, -1e-3, 1e-2):
        assert kl_to_prior(Posterior(zero, zero + small)).item() == pytest.approx(LATENT * small**2 / 4, rel=0.01)
        assert kl_to_prior(Posterior(zero + small, zero)).item() == pytest.approx(LATENT * small**2 / 2, rel=0.01)
    assert kl_to_prior(posterior_of(200)).min() > 0


def test_the_divergence_s_gradient_is_by_hand() -> None:
    """d/dmean = mean, d/dlog-variance = (variance - 1) / 2."""
    mean, log_variance = (part.clone().requires_grad_() for part in posterior_of(3))
    kl_to_prior(Posterior(mean, log_variance)).sum().backward()
    assert mean.grad is not None
    assert log_variance.grad is not None
    torch.testing.assert_close(mean.grad, mean.detach())
    torch.testing.assert_close(log_variance.grad, (log_variance.detach().exp() - 1) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", [-1e6, 1e6])
def test_log_variances_are_held_in_a_range(level: float) -> None:
    """Whatever the layer gives, deviation and divergence stay finite."""
    network = initialised()
    with torch.no_grad():
        network.log_variance.bias.fill_(level)  # type: ignore[union-attr]
        posterior = network.encode(cloth(2))
    assert set(posterior.log_variance.flatten().tolist()) == {LOG_VARIANCE[0 if level < 0 else 1]}
    assert kl_to_prior(posterior).isfinite().all()


def test_the_divergence_is_single_precision_under_autocast() -> None:
    """bfloat16 in the convolutions, float32 in mean, log-variance and divergence."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network = initialised()
        posterior = network.encode(cloth(3))
        drawn = network.draw(cloth(3), generator())
        assert network.encoder[0](cloth(3)).dtype == torch.bfloat16
    assert drawn.kl is not None
    assert {part.dtype for part in (*posterior, drawn.kl)} == {torch.float32}
    torch.testing.assert_close(drawn.kl, kl_to_prior(posterior).mean())


# --- initialisation and network


def test_it_starts_as_the_plain_network_that_decodes_means() -> None:
    """The same weights for the same seed, one small log-variance for everything, and the noise of its own error."""
    plain, patches = Autoencoder(NetworkShape(PATCH, 1, LATENT)), cloth(16)
    network = build_network(config_of())
    assert isinstance(network, VariationalAutoencoder)
    for each in (plain, network):
        initialise(each, patches, 3)
    own = network.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())
    with torch.no_grad():
        assert torch.equal(network(patches), plain(patches))
        assert set(network.encode(patches).log_variance.flatten().tolist()) == {INITIAL_LOG_VARIANCE}
        torch.testing.assert_close(network.noise, (network(patches) - patches).square().mean())


def test_both_heads_are_one_convolution_of_twice_the_channels() -> None:
    """Mean and log-variance are the halves of what a last layer with 2D channels would give."""
    network, patches = initialised(), cloth(3)
    heads = (network.encoder[-1], network.log_variance)
    weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
    with torch.no_grad():
        both = torch.nn.functional.conv2d(network.encoder[:-1](patches), weight, bias)
        posterior = network.encode(patches)
    assert both.shape == (3, 2 * LATENT, 1, 1)
    torch.testing.assert_close(torch.cat(posterior, dim=1), both, rtol=1e-4, atol=1e-5)


# --- samples


def test_a_drawn_sample_is_the_decoded_reparameterisation() -> None:
    """The same generator the same bits, another another; and mean + deviation * noise by hand."""
    network, patches = initialised(), cloth(3)
    with torch.no_grad():
        first, again, other = (network.draw(patches, generator(seed)).reconstructions for seed in (1, 1, 2))
        noise = torch.randn(3, LATENT, 1, 1, generator=generator(1))
        mean, log_variance = network.encode(patches)
        torch.testing.assert_close(first, network.decoder(mean + log_variance.exp().sqrt() * noise))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradients_reach_every_parameter_through_the_sample() -> None:
    """The loss of a draw moves both heads, and the log-variance by the sample, not by the KL alone."""
    network, patches = initialised(), cloth(4)
    drawn = network.draw(patches, generator())
    l2_loss(patches, drawn.reconstructions).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_samples_are_decoded_one_for_each_row_of_noise() -> None:
    """(N, S, C, P, P); zero noise gives the plain reconstruction, and each row what it gives by itself."""
    network, patches = initialised(), cloth(3)
    noise = torch.cat((torch.zeros(1, LATENT), fixed_noise(3, LATENT)))
    with torch.no_grad():
        samples = network.samples(network.encode(patches), noise)
        assert samples.shape == (3, 4, 1, PATCH, PATCH)
        assert torch.equal(samples[:, 0], network(patches))
        for row in range(4):
            assert torch.equal(
                samples[:, row : row + 1], network.samples(network.encode(patches), noise[row : row + 1])
            )
    assert samples.var(dim=1).max() > 0


def test_the_fixed_noise_is_the_same_at_every_call_and_standard_normal() -> None:
    """It neither reads nor moves torch's own generator."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    noise = fixed_noise(200, 100)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noise, fixed_noise(200, 100))
    assert abs(noise.mean().item()) < 0.03
    assert noise.std().item() == pytest.approx(1, abs=0.02)


# --- the reconstruction probability


def decoded_of(*shape: int, noise: float = 0.01) -> Decoded:
    samples = rand(6, *shape, seed=2)
    return Decoded(samples.mean(0), samples.var(0, correction=0), torch.tensor(noise))


@pytest.mark.parametrize("noise", [1e-4, 0.01, 3.0])
def test_the_residual_is_scipy_s_log_density_up_to_the_shift(noise: float) -> None:
    """-log p(x) of the Gaussian, less that of a pixel met exactly by samples that agree; mean over channels."""
    image, decoded = rand(2, 3, 8, 9), decoded_of(2, 3, 8, 9, noise=noise)
    found = probability_residual(image, decoded, ResidualSettings())
    assert decoded.variance is not None
    deviation = np.sqrt(decoded.variance.double().numpy() + noise)
    log_p = norm.logpdf(image.double().numpy(), decoded.reconstruction.double().numpy(), deviation)
    shift = norm.logpdf(0, 0, math.sqrt(noise))
    np.testing.assert_allclose(found.numpy(), (shift - log_p).mean(axis=1), rtol=2e-4, atol=1e-5)


def test_the_residual_is_0_where_all_is_met_and_grows_with_distance_and_spread() -> None:
    """Never negative, and strictly monotone: nothing is clamped, far away or near."""
    image, flat = torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 1, 8)
    noise, settings = torch.tensor(1e-3), ResidualSettings()
    steps = torch.tensor([0, 1e-3, 1e-2, 0.1, 1, 10, 1e3, 1e4]).view(1, 1, 1, 8)
    for decoded in (Decoded(steps, flat, noise), Decoded(flat, steps, noise), Decoded(steps, flat + 0.1, noise)):
        found = probability_residual(image, decoded, settings).flatten()
        assert found[0] == (0 if decoded.variance is not None and decoded.variance.flatten()[0] == 0 else found[0])
        assert found.isfinite().all()
        assert (found[1:] > found[:-1]).all()
        assert found.min() >= 0


def test_a_distance_counts_less_where_samples_disagree() -> None:
    """A pixel that is 0.5 off is less of a flaw where the decoder hesitates, and disagreement alone is one too."""
    image, off = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)
    noise, zero, wide = torch.tensor(0.01), torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.1)
    sure, hesitant, apart = (
        probability_residual(image, decoded, ResidualSettings()).item()
        for decoded in (Decoded(off, zero, noise), Decoded(off, wide, noise), Decoded(image, wide, noise))
    )
    assert sure == pytest.approx(0.25 / 0.01 / 2)
    assert 0 < apart == pytest.approx(math.log(11) / 2)
    assert apart < hesitant < sure


def test_a_network_without_error_is_held_to_the_least_noise() -> None:
    """A noise of 0 is read as that of rounding to 8 bits, so nothing is divided by 0."""
    image, decoded = rand(1, 1, 4, 4), decoded_of(1, 1, 4, 4, noise=0.0)
    least = decoded._replace(noise=torch.tensor(LEAST_NOISE))
    found = [probability_residual(image, each, ResidualSettings()) for each in (decoded, least)]
    assert found[0].isfinite().all()
    assert torch.equal(*found)


def test_residuals_that_lack_samples_or_differ_in_shape_are_refused() -> None:
    """The exact texts."""
    with pytest.raises(InputError) as caught:
        residual_of(ResidualSettings(name="probability"))(rand(1, 1, 4, 4), Decoded(rand(1, 1, 4, 4)))
    assert str(caught.value) == (
        "the reconstruction probability needs the variance of samples and the noise, got a reconstruction alone; "
        "use a network that samples (vae), or map l2"
    )
    with pytest.raises(InputError) as caught:
        probability_residual(rand(1, 3, 4, 4), decoded_of(1, 1, 4, 4), ResidualSettings())
    assert str(caught.value) == "image and reconstruction must have one shape, got (1, 3, 4, 4) and (1, 1, 4, 4)"


# --- settings


def test_settings_that_cannot_be_scored_are_refused() -> None:
    """A probability needs samples, and belongs to a patch."""
    with pytest.raises(ConfigError) as caught:
        parse({"method": {"name": "l2"}, "residual": {"name": "probability"}})
    assert str(caught.value) == (
        "residual probability needs a network that samples, method vae, got method l2; train with --method vae, or "
        "map l2 or ssim"
    )
    with pytest.raises(ConfigError) as caught:
        config_of(tiling={"average": "reconstructions"})
    assert str(caught.value) == (
        "residual probability belongs to a patch, so average must be residuals, got reconstructions; leave it unset, "
        "or map l2"
    )


def test_the_presets_take_six_samples_and_weight_1() -> None:
    """N = 6 and an unweighted divergence, and the method brings its residual."""
    for name in ("paper", "fast"):
        config = preset(name, "vae")  # type: ignore[arg-type]
        assert (config.mapped.name, config.residual.samples, config.method.kl_weight) == ("probability", 6, 1)
        assert config.averages_residuals
    assert override(preset("fast"), {"method": {"name": "vae"}}).mapped.name == "probability"


# --- scoring


def image_of(seed: int = 0, width: int = 80, height: int = 64) -> NDArray[np.float32]:
    return texture("cloth", (width, height), seed)


def test_a_map_equals_a_slow_loop_over_patches() -> None:
    """Every patch sampled by itself, compared by itself, and averaged where patches overlap."""
    network, image = initialised(), image_of()
    explained = detector_of(network, residual={"samples": 3}).explain(image)
    total, rebuilt, cover = (np.zeros((64, 80)) for _ in range(3))
    for top in (0, 16, 32):
        for left in (0, 16, 32, 48):
            place = (slice(top, top + PATCH), slice(left, left + PATCH))
            patch = torch.from_numpy(image[*place, 0])[None, None]
            with torch.no_grad():
                samples = network.samples(network.encode(patch), fixed_noise(3, LATENT))[0].double()
            deviation = (samples.var(0, correction=0) + network.noise).sqrt().numpy()
            log_p = norm.logpdf(patch[0].numpy(), samples.mean(0).numpy(), deviation)[0]
            total[place] += norm.logpdf(0, 0, math.sqrt(float(network.noise))) - log_p
            rebuilt[place] += samples.mean(0)[0].numpy()
            cover[place] += 1
    np.testing.assert_allclose(explained.residual, total / cover, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(explained.reconstruction[..., 0], rebuilt / cover, rtol=0, atol=1e-4)


def test_an_image_scores_the_same_whatever_else_is_scored() -> None:
    """Bit for bit: again, after others, by a detector made anew, and with torch's generator moved."""
    network = initialised()
    detector = detector_of(network)
    first = detector.score(image_of())
    detector.score(image_of(1))
    torch.manual_seed(3)
    assert np.array_equal(detector.score(image_of()), first)
    assert np.array_equal(detector_of(network).score(image_of()), first)


def test_a_patch_is_sampled_the_same_whatever_shares_its_batch() -> None:
    """Mean and spread of a patch, bit for bit, with others and in another place; batches are of one size."""
    network, patches, others = initialised(), cloth(32), rand(27, 1, PATCH, PATCH, seed=4)
    decode = sampled(config_of(), network, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        whole, mixed, moved = (
            decode(batch) for batch in (patches, torch.cat((patches[:5], others)), patches.roll(9, 0))
        )
    assert whole.variance is not None
    for ours, theirs in ((mixed, slice(5)), (moved, slice(9, 14))):
        assert ours.variance is not None
        assert torch.equal(ours.reconstruction[theirs], whole.reconstruction[:5])
        assert torch.equal(ours.variance[theirs], whole.variance[:5])
    assert whole.variance.max() > 0


def test_samples_of_one_batch_alone_are_held_in_memory() -> None:
    """What decodes is given at most 32 patches at a time, and its residuals are taken before the next."""
    config, seen = config_of(), []

    def decode(patches: Tensor) -> Decoded:
        seen.append(len(patches))
        return Decoded(patches + 0.1, torch.zeros_like(patches), torch.tensor(0.005))

    scorer = comparing(config, decode, torch.device("cpu"), "float32", 32)
    grid = Grid(PATCH, config.tiling.stride)
    bands = list(score_rows([rand(1, 120, 120)], (120, 120), scorer, grid, config.tiling))
    assert seen == [25, 25]
    torch.testing.assert_close(torch.cat(bands, dim=1)[0], torch.ones(120, 120), rtol=1e-4, atol=1e-4)


def test_l2_of_a_variational_network_compares_with_the_decoded_mean() -> None:
    """The distance alone: no samples are drawn."""
    network, image = initialised(), image_of(0, PATCH, PATCH)
    patch = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = l2_residual(patch, network(patch), ResidualSettings())[0]
    found = detector_of(network, residual={"name": "l2"}).score(image)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


# --- training


def test_the_noise_is_a_running_mean_of_the_error_and_moves_in_training_alone() -> None:
    """By hand for one draw; not in evaluation, and no gradient is kept."""
    network, patches = initialised(), cloth(4)
    before = network.noise.clone()
    network.draw(patches, generator(1))
    assert torch.equal(network.noise, before)
    reconstructions = network.train().draw(patches, generator(1)).reconstructions
    error = (reconstructions.detach() - patches).square().mean()
    torch.testing.assert_close(network.noise, MEMORY * before + (1 - MEMORY) * error)
    assert not network.noise.requires_grad
    assert "noise" in network.state_dict()
    assert "noise" not in dict(network.named_parameters())


def test_held_out_patches_leave_the_noise_alone() -> None:
    """A training that looks at held-out patches ends with the bits of one that does not."""
    straight = fit(config_of(steps=3), source_of())
    looking = fit(config_of(steps=3), source_of(), 1 - cloth(6).numpy())
    assert looking.history[-1].validation is not None
    own = looking.network.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in straight.network.state_dict().items())


def test_training_weighs_the_divergence() -> None:
    """The first loss is that of the pixels plus the weight times the divergence, for any weight."""
    losses = [
        fit(config_of(steps=1, method={"kl_weight": weight}), source_of()).history[0].loss for weight in (0, 1, 3)
    ]
    assert losses[1] > losses[0] + 1
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)


def test_training_learns_cloth_and_the_noise_follows() -> None:
    """Loss and noise of a few dozen steps fall below the initial ones, and the loss of held-out patches below what the
    program calls the plateau of a constant reconstruction."""
    config = config_of(steps=60, method={"kl_weight": 0.01}, learning_rate=2e-3)
    trained = fit(config, source_of(), cloth(16, seed=7).numpy())
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.history[-1].validation is not None
    assert trained.history[-1].validation < gradient.PLATEAU * trained.constant_loss
    assert isinstance(trained.network, VariationalAutoencoder)
    patches, initial = cloth(16), initialised()
    with torch.no_grad():
        error, before = ((network(patches) - patches).square().mean() for network in (trained.network, initial))
    assert error < trained.network.noise < initial.noise, "a running mean of errors lies between the first and the last"
    assert error < before
    assert not trained.network.training


def test_a_plateau_names_the_weight_of_the_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the divergence outweighs the texture, the error says which weight to lower."""
    monkeypatch.setattr(gradient, "ROW_STEPS", 2)
    with pytest.raises(
        TrainingError, match=r"nothing is learnt; lower the weight of the KL divergence, 1000 \(method\.kl_w"
    ):
        fit(config_of(steps=4, plateau_steps=2, method={"kl_weight": 1000.0}), source_of())


class StoppedError(Exception):
    """Stands for whatever ends a training in the middle."""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_ends_at_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Weights, noise and losses equal those of a training that was never stopped."""
    monkeypatch.setattr(gradient, "ROW_STEPS", 2)
    config, path = config_of(steps=7, checkpoint_minutes=1e-9, precision=precision), tmp_path / "state"

    def stop(progress: Progress) -> None:
        if progress.row.step >= 6:
            raise StoppedError

    straight = fit(config, source_of())
    with pytest.raises(StoppedError):
        fit(config, source_of(), checkpoint=path, observe=stop)
    saved = load_checkpoint(path, config, "", precision)
    assert saved is not None
    assert saved.step == 4
    resumed = fit(config, source_of(), checkpoint=path, resume=True)
    own = resumed.network.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in straight.network.state_dict().items())
    assert [row.loss for row in resumed.history] == [row.loss for row in straight.history]
    assert not torch.equal(saved.tensors["network.noise"], own["noise"])


def test_a_model_file_keeps_the_noise(tmp_path: Path) -> None:
    """Saved and loaded, the detector maps the same bits; without the noise, the file is refused."""
    network = initialised()
    network.noise.fill_(0.0123)
    detector = detector_of(network)
    save_artifact(detector.artifact, tmp_path / "v.flawmap")
    loaded = Detector.of(load_artifact(tmp_path / "v.flawmap"), Runtime("cpu", "float32"))
    assert loaded.artifact.weights["noise"] == torch.tensor(0.0123)
    assert np.array_equal(loaded.score(image_of()), detector.score(image_of()))
    weights = {name: tensor for name, tensor in detector.artifact.weights.items() if name != "noise"}
    with pytest.raises(ArtifactError, match="the weights do not fit the settings beside them"):
        Detector.of(replace(detector.artifact, weights=weights))


def test_the_command_line_trains_inspects_and_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--method vae` from folder to figures; info names the method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flawmap.commands.train.VALIDATION_PATCHES", 8)
    monkeypatch.setattr("flawmap.methods.gradient.INIT_PATCHES", 16)
    small = [
        "--preset",
        "fast",
        "--set",
        "model.patch=32",
        "--set",
        "method.latent=4",
        "--set",
        "tiling.stride=32",
        "--set",
        "training.batch=4",
        "--steps",
        "3",
        "--quiet",
    ]
    assert main(["synth", "cloth", "--good", "4", "--bad", "2", "--size", "96x96", "--seed", "1", "--quiet"]) == 0
    assert (
        main(["train", "cloth", "-o", "v.flawmap", "--method", "vae", "--set", "training.precision=float32", *small])
        == 0
    )
    capsys.readouterr()
    assert main(["info", "v.flawmap"]) == 0
    assert "vae, residual of the method" in capsys.readouterr().out
    assert main(["inspect", "v.flawmap", "cloth/test", "-o", "found", "--quiet"]) == 0
    assert main(["evaluate", "v.flawmap", "cloth", "-o", "measured", "--quiet"]) == 0
    assert (tmp_path / "measured" / "metrics.json").is_file()

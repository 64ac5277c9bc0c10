"""Adversarial methods: whose gradients go where, resume bit by bit, the search, refusals, and runs from end to end."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flawmap
from flawmap.commands.cli import main
from flawmap.commands.export import export
from flawmap.core.errors import ArtifactError, ConfigError, InputError, TrainingError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import ResidualSettings
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import texture
from flawmap.methods import gradient
from flawmap.methods.adversarial import (
    build_pair,
    deceiving,
    discriminating,
    fit,
    latent_noise,
    objective_of,
    squared_gradient,
)
from flawmap.methods.autoencoder import build_network, restored
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Progress, State
from flawmap.methods.overrides import override, parse
from flawmap.methods.presets import preset
from flawmap.methods.residuals import Decoded, l1_residual, residual_of
from flawmap.methods.search import scorer, search_losses, searched
from flawmap.methods.settings import AnoGANSettings
from flawmap.methods.table import METHODS
from flawmap.nets.adversarial import AdversarialAutoencoder, Discriminator, GenerativePair, feature_distance
from flawmap.nets.initialisation import initialise, initialise_pair
from flawmap.nets.layer_table import NetworkShape
from flawmap.scoring.detector import Detector

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("anogan", "bigan", "l1-adversarial")
CPU = Runtime("cpu", "float32")
PATCH = 32


def config_of(name: str, *, method: dict[str, Any] | None = None, **training: Any) -> Config:
    """Small and quick: patches of 32, 6 latent dimensions, 4 patches a step."""
    quick = {"steps": 4, "batch": 4, "precision": "float32", "learning_rate": 1e-3}
    return parse(
        {
            "model": {"patch": PATCH, "channels": 1},
            "method": {"name": name, "latent": 6} | (method or {}),
            "residual": {"ssim": {"size": 7}},
            "tiling": {"stride": 16},
            "training": quick | training,
        }
    )


def source_of(side: int = 96) -> PatchSource:
    return PatchSource([TrainingImage(texture("fibres", (side, side), seed)) for seed in range(2)], PATCH)


def patches_of(count: int = 8) -> Tensor:
    return torch.from_numpy(source_of().sample(count, np.random.default_rng(0)))


def network_of(name: str) -> GenerativePair | AdversarialAutoencoder:
    """Initialised, with a discriminator that already has an opinion."""
    config = config_of(name)
    network = build_pair(config) if name == "anogan" else build_network(config)
    objective_of(config).initialise(network, patches_of(), 0)
    assert isinstance(network, GenerativePair | AdversarialAutoencoder)
    with torch.no_grad():
        network.discriminator.verdict.weight *= 50
    return network


def loss_of(name: str, network: nn.Module, patches: Tensor, seed: int = 0) -> Tensor:
    return objective_of(config_of(name)).loss(network, patches, patches, torch.Generator().manual_seed(seed))


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: part.grad.clone() for name, part in network.named_parameters() if part.grad is not None}


# --- networks


@pytest.mark.parametrize("patch", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_side_and_colour_has_its_networks(patch: int, channels: int) -> None:
    """The generator makes patches, the discriminators give one logit each, their features are square."""
    shape = NetworkShape(patch, channels, 5)
    pair, noise = GenerativePair(shape), torch.randn(2, 5, 1, 1)
    made = pair(noise)
    assert made.shape == (2, channels, patch, patch)
    assert pair.discriminator(made).shape == (2,)
    joint = Discriminator(shape, joint=True)
    assert joint(made, noise).shape == (2,)
    features = joint.features(made, noise)
    assert features.shape[:2] == (2, 64)
    assert features.shape[2] == features.shape[3]
    assert patch % features.shape[2] == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_scaled_and_unbiased(name: str) -> None:
    """Features have variance 1 on real patches, nothing is judged yet, and generated patches vary a little."""
    config, patches = config_of(name), patches_of(48)
    network = build_pair(config) if name == "anogan" else build_network(config)
    objective_of(config).initialise(network, patches, 0)
    assert isinstance(network, GenerativePair | AdversarialAutoencoder)
    noise = torch.randn(48, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    discriminator, known = network.discriminator, noise if name == "bigan" else None
    with torch.no_grad():
        mixed = discriminator.mix(discriminator.seen(patches, known))
        assert mixed.std().item() == pytest.approx(1, abs=0.1)
        assert discriminator(patches, known).abs().max() < 0.1
        made = network.decoder(noise)
    assert made.mean().item() == pytest.approx(patches.mean().item(), abs=0.05)
    assert 0.001 < made.std() < 0.1


def test_flat_patches_are_refused() -> None:
    """As by the autoencoder's initialisation."""
    with pytest.raises(InputError, match="training patches must vary, but all of them are flat"):
        initialise_pair(build_pair(config_of("anogan")), torch.full((8, 1, PATCH, PATCH), 0.5), 0)


def test_an_adversarial_autoencoder_begins_as_the_plain_one() -> None:
    """Encoder and decoder get the same weights; the discriminator's are drawn after theirs."""
    plain, ours = build_network(config_of("l2", method={"latent": 6})), build_network(config_of("l1-adversarial"))
    for network in (plain, ours):
        initialise(network, patches_of(), 3)
    theirs = ours.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in plain.state_dict().items())


# --- losses


def test_a_discriminator_without_opinion_loses_2_log_2() -> None:
    """And the generator log 2."""
    network = network_of("anogan")
    with torch.no_grad():
        network.discriminator.verdict.weight.zero_()
        network.discriminator.verdict.bias.zero_()
    patches = patches_of()
    judged = discriminating(network.discriminator, (patches,), (patches + 0.1,), 0.0)
    assert judged.item() == pytest.approx(2 * math.log(2))
    assert deceiving(network.discriminator, (patches,)).item() == pytest.approx(math.log(2))


def test_gradients_reach_their_own_network_alone() -> None:
    """The discriminator's loss moves nothing of the generator, and the other way round."""
    network = network_of("anogan")
    assert isinstance(network, GenerativePair)
    made = (network(latent_noise(8, network.shape, torch.Generator().manual_seed(0))),)
    discriminating(network.discriminator, (patches_of(),), made, 10.0).backward()
    # The bias of the logit has no part in the penalty, but one in the cross-entropy.
    assert set(gradients(network)) == {name for name, _ in network.named_parameters() if "discriminator" in name}
    network.zero_grad(set_to_none=True)
    deceiving(network.discriminator, made).backward()
    assert set(gradients(network)) == {name for name, _ in network.named_parameters() if "decoder" in name}


def alternatives(name: str, network: Any, patches: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The losses of the generating part and of the discriminator, each by itself and nothing cut off."""
    discriminator, noise = network.discriminator, torch.Generator().manual_seed(0)
    if name == "anogan":
        real, made = (patches,), (network(latent_noise(len(patches), network.shape, noise)),)
    elif name == "bigan":
        drawn = latent_noise(len(patches), network.shape, noise)
        real, made = (patches, network.encoder(patches)), (network.decoder(drawn), drawn)
    else:
        real, made = (patches,), (network(patches),)
    for_real, for_made = discriminator(*real), discriminator(*made)
    judged = -torch.sigmoid(for_real).log().mean() - torch.sigmoid(-for_made).log().mean()
    judged = judged + penalty / 2 * squared_gradient(discriminator, tuple(part.detach() for part in real))
    generating = -torch.sigmoid(for_made).log().mean()
    if name == "bigan":
        generating = generating - torch.sigmoid(-for_real).log().mean()
    if name == "l1-adversarial":
        generating = (made[0] - patches).abs().mean() + 0.01 * generating
    return generating, judged


@pytest.mark.parametrize("name", NAMES)
def test_one_loss_equals_two_optimisers(name: str) -> None:
    """Gradient by gradient: of the generating part by its own loss, of the discriminator by its own."""
    network, patches = network_of(name), patches_of()
    loss_of(name, network, patches).backward()
    found = gradients(network)
    assert set(found) == {parameter for parameter, _ in network.named_parameters()}
    for part, wanted in enumerate((False, True)):
        network.zero_grad(set_to_none=True)
        alternatives(name, network, patches, 10.0)[part].backward()
        own = {key: value for key, value in gradients(network).items() if ("discriminator" in key) == wanted}
        for key, value in own.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["anogan", "bigan"])
def test_the_penalty_equals_a_slow_loop(name: str) -> None:
    """The squared gradient of the logit by pixels, and by codes, of the first quarter of the patches, one by one."""
    network, real = network_of(name), (patches_of(9), torch.randn(9, 6, 1, 1))[: 2 if name == "bigan" else 1]
    lengths = []
    for number in range(2):
        single = [part[number][None].clone().requires_grad_() for part in real]
        network.discriminator(*single).sum().backward()
        lengths.append(sum(float(part.grad.square().sum()) for part in single if part.grad is not None))
    assert squared_gradient(network.discriminator, real).item() == pytest.approx(np.mean(lengths), rel=1e-4)


def test_the_penalty_is_weighted_and_left_out_where_nothing_is_learnt() -> None:
    """Half the weight in training, nothing without gradients."""
    network, patches = network_of("anogan"), patches_of()
    found = squared_gradient(network.discriminator, (patches,))
    alone = discriminating(network.discriminator, (patches,), (patches,), 0.0)
    with_penalty = discriminating(network.discriminator, (patches,), (patches,), 4.0)
    assert (with_penalty - alone).item() == pytest.approx(2 * found.item(), rel=1e-4)
    with torch.no_grad():
        assert torch.equal(discriminating(network.discriminator, (patches,), (patches,), 4.0), alone)


def test_the_patches_shown_are_reconstructed_and_the_clean_ones_compared() -> None:
    """`training.corrupt` belongs to l1-adversarial; the others have nothing to restore."""
    network, patches = network_of("l1-adversarial"), patches_of()
    objective = objective_of(config_of("l1-adversarial", corrupt=0.5))
    generator = torch.Generator()
    assert objective.loss(network, patches, 1 - patches, generator) != objective.loss(
        network, patches, patches, generator
    )
    for name in ("anogan", "bigan"):
        with pytest.raises(ConfigError) as caught:
            config_of(name, corrupt=0.5)
        assert str(caught.value) == (
            f"corrupt is for methods that are trained to reconstruct, not for {name}; set it to 0"
        )


# --- training


class StoppedError(Exception):
    """Stands for whatever ends a training in the middle."""


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_ends_at_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks, losses and held-out losses equal those of a training that was never stopped."""
    monkeypatch.setattr(gradient, "ROW_STEPS", 3)
    config, held_out = config_of(name, steps=8, checkpoint_minutes=1e-9), patches_of(6).numpy()

    def stop(progress: Progress) -> None:
        if progress.row.step == 6:
            raise StoppedError

    context = FitContext(held_out, tmp_path / "state")
    straight = fit(config, source_of(), FitContext(held_out))
    with pytest.raises(StoppedError):
        fit(config, source_of(), replace(context, on_progress=stop))
    resumed = fit(config, source_of(), replace(context, resume=True))
    assert straight.tensors.keys() == resumed.tensors.keys()
    assert all(torch.equal(tensor, resumed.tensors[key]) for key, tensor in straight.tensors.items())
    assert [row.loss for row in straight.history] == [row.loss for row in resumed.history]
    assert straight.history[-1].validation == resumed.history[-1].validation is not None
    with pytest.raises(ConfigError, match=r"was written with other settings: method\.beta1 was 0\.5, is 0\.9"):
        fit(override(config, {"method": {"beta1": 0.9}}), source_of(), replace(context, resume=True))


def test_adam_keeps_what_the_settings_say() -> None:
    """Another beta1 gives other weights from the second step on, the same after the first."""
    for steps, same in ((1, True), (2, False)):
        found = [
            fit(config_of("anogan", method={"beta1": beta1}, steps=steps), source_of(), FitContext()).tensors
            for beta1 in (0.0, 0.9)
        ]
        assert all(torch.allclose(found[0][key], found[1][key], atol=1e-7) for key in found[0]) == same


def test_no_constant_reconstruction_is_asked_for() -> None:
    """The plateau of a reconstruction has no meaning here; a loss that grows a thousandfold still ends the training."""
    state = fit(config_of("anogan", steps=40, plateau_steps=1), source_of(), FitContext())
    assert "constant_loss" not in state.provenance["training"]
    run = gradient._Run(nn.Identity(), torch.optim.Adam([torch.zeros(1)]), 100, constant_loss=None, step=20)
    for loss in (2.0, 2001.0):
        run.history.append(gradient.Row(20, loss, None, 1e-3, 1.0))
        if loss > 1000 * run.history[0].loss:
            with pytest.raises(TrainingError) as caught:
                gradient._check_loss(run, config_of("anogan").training, "")
            assert str(caught.value) == (
                "the loss rose to 2e+03 before step 20: the training diverges; lower the learning rate "
                "(--set training.learning_rate=3e-04)"
            )
        else:
            gradient._check_loss(run, config_of("anogan").training, "")


def test_patches_of_another_shape_are_refused() -> None:
    """The exact text, as for autoencoders."""
    with pytest.raises(ConfigError, match=r"patches must be \(64, 3, 32, 32\) for these settings"):
        fit(override(config_of("anogan"), {"model": {"channels": 3}}), source_of(), FitContext())


def test_an_autoencoder_comes_closer_to_its_patches() -> None:
    """The absolute difference of new patches falls by a fifth, with a discriminator at work."""
    config, patches = config_of("l1-adversarial", method={"latent": 30}, batch=8), patches_of(16)
    errors = []
    for steps in (1, 80):
        state = fit(override(config, {"training": {"steps": steps}}), source_of(), FitContext())
        with torch.no_grad():
            errors.append(float((restored(config, state.tensors)(patches) - patches).abs().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_a_discriminator_learns_to_tell_patches_apart() -> None:
    """Against a generator that is slower, real patches look more real than generated ones after a few steps."""
    config = config_of("anogan", method={"gradient_penalty": 0.0}, steps=20, batch=8)
    network = build_pair(config)
    network.load_state_dict(fit(config, source_of(), FitContext()).tensors)
    with torch.no_grad():
        made = network(latent_noise(16, network.shape, torch.Generator().manual_seed(3)))
        assert network.discriminator(patches_of(16)).mean() > network.discriminator(made).mean() + 0.5


# --- the search


def trained_pair() -> tuple[GenerativePair, AnoGANSettings]:
    network = network_of("anogan")
    assert isinstance(network, GenerativePair)
    with torch.no_grad():
        network.decoder[-1].weight *= 20  # so that there is something to find
    settings = config_of("anogan", method={"search_steps": 25}).method
    assert isinstance(settings, AnoGANSettings)
    return network.eval().requires_grad_(False), settings


def test_the_search_lowers_the_loss_of_every_patch() -> None:
    """From the prior's mean, further with more steps; without steps it stays there."""
    network, settings = trained_pair()
    patches = patches_of(5)
    wanted = network.discriminator.features(patches)
    found = [
        search_losses(network, patches, wanted, searched(network, patches, settings.model_copy(update=steps)), 0.1)
        for steps in ({"search_steps": 0}, {"search_steps": 10}, {"search_steps": 60})
    ]
    assert (found[1] < found[0]).all()
    assert (found[2] < found[1]).all()
    assert not searched(network, patches, settings.model_copy(update={"search_steps": 0})).any()


def test_a_generated_patch_is_found_again() -> None:
    """The generator made it, so the search comes close."""
    network, settings = trained_pair()
    patches = network(0.5 * latent_noise(3, network.shape, torch.Generator().manual_seed(5)))
    longer = settings.model_copy(update={"search_steps": 200})
    error = (network(searched(network, patches, longer)) - patches).abs().mean()
    assert error < 0.1 * (network(torch.zeros(3, 6, 1, 1)) - patches).abs().mean()


def test_each_patch_is_searched_by_itself() -> None:
    """A patch's vector is the same bits among other patches, and a second time; nothing global moves."""
    network, settings = trained_pair()
    patches = patches_of(4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    together = searched(network, patches, settings)
    assert torch.equal(together, searched(network, patches, settings))
    assert torch.equal(torch.get_rng_state(), before)
    among_others = searched(network, torch.cat((patches[:1], 1 - patches[1:])), settings)
    assert torch.equal(together[0], among_others[0])
    assert not torch.equal(together[1:], among_others[1:])
    assert not together.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_the_score_of_a_patch_is_the_papers() -> None:
    """(1 - lambda) R + lambda D by hand; the parts l1 and features are R and D up to their counts."""
    network, _ = trained_pair()
    patches, latent = patches_of(3), torch.randn(3, 6, 1, 1)
    wanted, made = network.discriminator.features(patches), network(latent)
    ours = network.discriminator.features(made)
    by_hand = [
        0.7 * float((made[n] - patches[n]).abs().sum()) + 0.3 * float((ours[n] - wanted[n]).abs().sum())
        for n in range(3)
    ]
    assert search_losses(network, patches, wanted, latent, 0.3).tolist() == pytest.approx(by_hand, rel=1e-5)
    maps = feature_distance(wanted, ours, PATCH)
    assert maps.shape == (3, PATCH, PATCH)
    torch.testing.assert_close(maps.mean((1, 2)), (ours - wanted).abs().flatten(1).mean(1))
    residual = l1_residual(patches, made, ResidualSettings())
    torch.testing.assert_close(residual.mean((1, 2)), (made - patches).abs().flatten(1).mean(1))


# --- scoring


def state_of(config: Config) -> State:
    return fit(config, source_of(), FitContext())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("residual", ["l1", "features", "l2", "ssim"])
def test_each_residual_can_be_mapped(name: str, residual: str) -> None:
    """With its reconstruction, patch by patch; parts of evidence come side by side."""
    quick = {"search_steps": 2} if name == "anogan" else {}
    config = override(config_of(name, method=quick, steps=1), {"residual": {"name": residual}})
    scored = METHODS[name].scorer(config, state_of(config), CPU)
    patches = patches_of(3)
    with torch.no_grad():
        found = scored.score(patches)
    assert found.residual is not None
    assert found.reconstruction is not None
    assert found.residual.shape == (3, 1, PATCH, PATCH)
    assert found.reconstruction.shape == patches.shape
    if residual != "features":
        decoded = Decoded(found.reconstruction)
        expected = residual_of(config.mapped)(patches, decoded)
        torch.testing.assert_close(found.residual[:, 0], expected)
    else:
        assert found.residual.min() >= 0
        assert found.residual.max() > 0


def test_reconstructions_are_those_without_features() -> None:
    """Whether the discriminator looks on changes no reconstruction."""
    config = config_of("bigan", steps=1)
    state, patches = state_of(config), patches_of(3)
    both = [
        METHODS["bigan"].scorer(override(config, {"residual": {"name": name}}), state, CPU)
        for name in ("l1", "features")
    ]
    with torch.no_grad():
        first, second = (scored.score(patches).reconstruction for scored in both)
    torch.testing.assert_close(first, second)


def test_refusals() -> None:
    """The exact texts: engines, weights of other settings, features without a discriminator."""
    config = config_of("anogan")
    with pytest.raises(ConfigError) as caught:
        scorer(config, State({}), Runtime(engine="openvino"))
    assert str(caught.value) == (
        "the method anogan needs gradients to score, which the engine openvino lacks; leave --engine out"
    )
    with pytest.raises(ArtifactError, match="the weights do not fit the settings beside them"):
        scorer(config, State({}), CPU)
    featured = override(config_of("bigan", steps=1), {"residual": {"name": "features"}})
    with pytest.raises(ConfigError) as caught:
        METHODS["bigan"].scorer(featured, State({}), Runtime(engine="openvino"))
    assert str(caught.value) == (
        "the residual features compares a discriminator's features, which the engine openvino does not; use --engine "
        "torch"
    )
    with pytest.raises(InputError) as caught:
        residual_of(ResidualSettings(name="features"))(patches_of(1), Decoded(patches_of(1)))
    assert str(caught.value) == (
        "the residual features needs a discriminator's features, got a reconstruction alone; use a method that has one "
        "(anogan, bigan, l1-adversarial), or map l1"
    )
    with pytest.raises(ConfigError) as caught:
        parse({"method": {"name": "l2"}, "residual": {"name": "features"}})
    assert str(caught.value) == (
        "residual features needs a discriminator, method anogan or bigan or l1-adversarial, got method l2; train with "
        "--method anogan, or map l2 or ssim"
    )
    parts = override(config_of("bigan"), {"evidence": {"enabled": True, "parts": ["l1", "features"]}})
    for by_patch in (featured, parts):
        with pytest.raises(ConfigError) as caught:
            override(by_patch, {"tiling": {"average": "reconstructions"}})
        assert str(caught.value) == (
            "residual features belongs to a patch, so average must be residuals, got reconstructions; leave it unset, "
            "or map l2"
        )


@pytest.mark.parametrize("name", NAMES)
def test_presets_give_the_usual_patch_and_rate(name: str) -> None:
    """Whatever comes after a preset still overrides them."""
    usual = preset("fast", name)
    assert (usual.model.patch, usual.training.learning_rate, usual.training.warmup) == (64, 1e-3, 50)
    assert override(usual, {"model": {"patch": 32}}).model.patch == 32
    assert preset("fast", "l2").model.patch == 128


# --- end to end


@pytest.fixture(scope="module")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adversarial") / "cloth"
    flawmap.synth(folder, "cloth", good=8, bad=2, size=(80, 64), seed=0)
    flawmap.synth(folder.with_name("new"), "cloth", good=5, bad=0, size=(80, 64), seed=1)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_from_training_to_the_reports(
    name: str, cloth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train, inspect, calibrate, evaluate and info, with evidence; the score repeats bit for bit from the file."""
    model = tmp_path / "m.flawmap"
    options = ["--set", "model.patch=32", "--set", "tiling.stride=32", "--set", "training.batch=4"]
    options += ["--set", "evidence.enabled=true", "--set", 'evidence.parts=["l1", "features"]']
    if name == "anogan":
        options += ["--set", "method.search_steps=1"]
    assert (
        main(["train", str(cloth), "-o", str(model), "--preset", "fast", "--method", name, "--steps", "4", *options])
        == 0
    )
    detector = Detector.load(model, CPU)
    assert detector.scorer.parts == 2
    image = np.random.default_rng(0).random((50, 70, 1), np.float32)
    assert np.array_equal(detector.score(image), Detector.load(model, CPU).score(image))
    explained = detector.explain(image)
    assert explained.reconstruction is not None
    assert explained.reconstruction.shape == image.shape
    assert {row.verdict for row in flawmap.inspect(model, [cloth / "test"], tmp_path / "out")} <= {"ok", "flawed"}
    new = cloth.with_name("new") / "train" / "good"
    assert main(["calibrate", str(model), str(new), "--alpha", "0.4"]) == 0
    evaluation = flawmap.evaluate_model(model, cloth, tmp_path / "evaluation")
    assert evaluation.curve is not None
    found = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert found["model"]["method"] == name
    assert "reconstruction" in (tmp_path / "evaluation" / "report.html").read_text()
    capsys.readouterr()
    assert main(["info", str(model)]) == 0
    told = capsys.readouterr().out
    assert name in told
    assert "constant reconstruction" not in told


@pytest.mark.parametrize("name", ["bigan", "l1-adversarial"])
def test_what_encodes_can_be_exported(name: str, cloth: Path, tmp_path: Path) -> None:
    """As any autoencoder; the discriminator stays behind. A search cannot be."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    config = override(config_of(name), {"threshold": {"opening": 0}})
    report = flawmap.train(cloth, tmp_path / "m.flawmap", config)
    exported = export(report.model, [cloth / "test"], "onnx", most=1)
    assert exported.changed == ()


def test_a_search_cannot_be_exported(cloth: Path, tmp_path: Path) -> None:
    """The exact text."""
    config = config_of("anogan", method={"search_steps": 1}, steps=1)
    report = flawmap.train(cloth, tmp_path / "m.flawmap", config)
    with pytest.raises(ConfigError) as caught:
        export(report.model, [cloth / "test"], "onnx")
    assert str(caught.value) == "the method anogan has no network to export; use its .flawmap file"

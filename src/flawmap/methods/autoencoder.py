"""Autoencoders as a method: l2, ssim, vae and fm differ in their network, loss and residual alone; bigan and
l1-adversarial, which `flawmap.methods.adversarial` trains, score as they do.

How a reconstruction is compared with its patch: `flawmap.methods.reconstruction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flawmap.core.checks import shape_text
from flawmap.core.device import autocast, choose_device, choose_precision, name_of
from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import LATENT
from flawmap.methods.config import Config
from flawmap.methods.gradient import Objective, Trained, train
from flawmap.methods.interface import FitContext, ImageEncoder, Patches, PatchScorer, State
from flawmap.methods.latent import COMPARED, Latent, encoded, good_posterior, without_good
from flawmap.methods.losses import loss_of
from flawmap.methods.reconstruction import Decode, beyond_engines, comparing, network_shape
from flawmap.methods.residuals import Decoded
from flawmap.methods.settings import (
    AdversarialSettings,
    AutoencoderSettings,
    BiGANSettings,
    FeatureMatchingSettings,
    VariationalSettings,
)
from flawmap.nets.adversarial import AdversarialAutoencoder
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.engines import ENGINES, Run, engine_for, engine_precision, start_engine
from flawmap.nets.initialisation import initialise
from flawmap.nets.layer_table import reach, spacing
from flawmap.nets.layers import Layers, Ranges, all_layers, half_layers
from flawmap.nets.variational import VariationalAutoencoder, fixed_noise
from flawmap.nets.weights import weights_summary

BATCH_ELSEWHERE = 256  # patches at once on a GPU: fewer leave it waiting for the host

Initialise = Callable[[Autoencoder, Tensor, int], None]
Network = TypeVar("Network", bound=nn.Module)


def build_network(config: Config) -> Autoencoder:
    """The method's network, with weights that are not initialised yet. The caller's random state stays as it is."""
    method, shape = _settings(config), network_shape(config)
    with torch.random.fork_rng(devices=()):
        if isinstance(method, AdversarialSettings):
            return AdversarialAutoencoder(shape, joint=isinstance(method, BiGANSettings))
        return VariationalAutoencoder(shape) if isinstance(method, VariationalSettings) else Autoencoder(shape)


def fit(config: Config, patches: Patches, context: FitContext) -> State:
    """Train the network of the settings.

    Raises:
        TrainingError: the loss turned NaN, or stays that of a constant reconstruction.
        ConfigError: patches of another shape; resume from a checkpoint of other settings or other data.
    """

    def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return tensors | _good_latents(config, patches, tensors)

    watched = replace(context, on_look=lambda step, tensors: context.on_look(step, kept(tensors)))
    trained = train_network(config, patches, watched)
    provenance: dict[str, Any] = {"training": trained.record(config.training.batch)}
    if isinstance(config.method, FeatureMatchingSettings):  # every reader has to know whose features these were
        provenance["features"] = weights_summary(config.method.features)
    return State(kept(trained.network.state_dict()), {}, provenance, trained.history)


def _good_latents(config: Config, patches: Patches, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What latent measures compare with; nothing for a network without a latent distribution."""
    if not isinstance(config.method, VariationalSettings):
        return {}
    network = restored(config, tensors).to(next(iter(tensors.values())).device)
    assert isinstance(network, VariationalAutoencoder)
    return encoded(network, patches, config.training.seed)


def train_network(
    config: Config, patches: Patches, context: FitContext | None = None, initialise: Initialise = initialise
) -> Trained:
    """`fit` that returns the network itself. initialise: sets its weights from a few patches and the seed."""
    return train(build_network(config), objective_of(config, initialise), patches, config, context or FitContext())


def objective_of(config: Config, initialise: Initialise = initialise) -> Objective:
    """What a training of these settings minimises, and how its network begins."""
    method = _settings(config)
    compare = loss_of(method)
    kl_weight = method.kl_weight if isinstance(method, VariationalSettings) else 0.0

    def loss(network: nn.Module, patches: Tensor, shown: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(network, Autoencoder)
        reconstructions, kl = network.draw(shown, generator)
        found = compare(patches, reconstructions)
        return found if kl is None else found + kl_weight * kl

    def constant(patches: Tensor) -> Tensor:
        return compare(patches, patches.mean(dim=(2, 3), keepdim=True).expand_as(patches))

    def begin(network: nn.Module, patches: Tensor, seed: int) -> None:
        assert isinstance(network, Autoencoder)
        check_patches(config, patches)
        initialise(network, patches, seed)

    advice = f"lower the weight of the KL divergence, {kl_weight:g} (method.kl_weight), or " if kl_weight else ""
    return Objective(loss, constant, begin, advice)


def check_patches(config: Config, patches: Tensor) -> None:
    """Raise ConfigError where patches (N, C, P, P) have another shape than the settings say."""
    wanted = (config.model.channels or 1, config.model.patch, config.model.patch)
    if patches.shape[1:] != wanted:
        raise ConfigError(
            f"patches must be {shape_text((len(patches), *wanted))} for these settings, "
            f"got {shape_text(tuple(patches.shape))}; set channels and patch of [model] to those of the images"
        )


def scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    """What scores patches with a trained network.

    Raises:
        ArtifactError: the weights are those of other settings, or lack what a residual needs. ConfigError: the engine
            cannot run this model, there, or in that precision. InputError: its package, of the extra `export`, is not
            installed.
    """
    names = [part.name for part in config.parts]
    engine = engine_for(runtime.engine, None)
    device, precision = _where(replace(runtime, engine=engine), config)
    network = restored(config, state.tensors)
    placed = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers = _layers(config, placed)
    *encoder, rest = _with_ranges(layers, state.ranges) if precision == torch.int8 else layers
    run = start_engine(engine, rest, name_of(precision))
    if "probability" in names or "features" in names:  # of torch alone
        decode = (sampled if "probability" in names else matched)(config, placed, device, precision)
    else:
        # The patches, or their features.
        decode = lambda *given: Decoded(_run(run, given[-1], device, precision))  # noqa: E731
    if any(name in LATENT for name in names):
        decode = measured(config, placed, state.tensors, decode, precision)
    batch = ENGINES[engine].batch if device.type == "cpu" else BATCH_ELSEWHERE
    found = comparing(config, decode, device, name_of(precision), batch)
    if not encoder:
        return found
    encode, shape = start_engine(engine, encoder[0], name_of(precision)), network_shape(config)
    own = ImageEncoder(lambda image: _run(encode, image, device, precision), spacing(shape), reach(shape))
    return replace(found, encoder=own)


def _where(runtime: Runtime, config: Config) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of an engine; `auto` takes what the engine can do. ConfigError: it cannot."""
    precision = engine_precision(runtime, beyond=beyond_engines(config))
    if runtime.engine == "torch":
        device = choose_device(runtime.device)
        return device, choose_precision(precision, device)
    return torch.device("cpu"), getattr(torch, precision)


def _layers(config: Config, network: Autoencoder) -> tuple[Layers, ...]:
    """What an engine runs: the network, or its encoder and what follows."""
    return half_layers(network) if config.tiling.encoder == "image" else (all_layers(network),)


def _with_ranges(parts: tuple[Layers, ...], ranges: tuple[Ranges, ...]) -> tuple[Layers, ...]:
    """The same in whole numbers of 8 bits. ConfigError: their ranges were not found."""
    if len(ranges) != len(parts):
        raise ConfigError(
            "this model knows no ranges for whole numbers of 8 bits; find them by `flawmap calibrate MODEL GOOD`, or "
            "use --precision float32"
        )
    return tuple(part._replace(ranges=own) for part, own in zip(parts, ranges, strict=True))


def restored(config: Config, tensors: dict[str, Tensor]) -> Autoencoder:
    """The trained network, in evaluation mode. ArtifactError: the weights are those of other settings."""
    return filled(build_network(config), without_good(tensors))


def filled(network: Network, tensors: dict[str, Tensor]) -> Network:
    """A network with a model's weights, in evaluation mode. ArtifactError: they are those of other settings."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArtifactError(f"the weights do not fit the settings beside them: {error}") from None
    return network.eval()


def sampled(config: Config, network: Autoencoder, device: torch.device, precision: torch.dtype) -> Decode:
    """The mean and the variance of samples of a patch's reconstruction."""
    assert isinstance(network, VariationalAutoencoder)  # the settings refuse other networks
    noise = fixed_noise(config.residual.samples, _settings(config).latent).to(device)

    def decode(patches: Tensor, *features: Tensor) -> Decoded:
        with autocast(device, precision):
            posterior = network.posterior(_features(network, patches, *features))
            samples = network.samples(posterior, noise).contiguous()
        variance, mean = torch.var_mean(samples, dim=1, correction=0)
        return Decoded(mean, variance, network.noise)

    return decode


def measured(
    config: Config, network: Autoencoder, tensors: dict[str, Tensor], decode: Decode, precision: torch.dtype
) -> Decode:
    """The latent distributions of patches, and what `decode` makes of them if a residual compares patches with it.

    tensors: of the model, which hold the distributions of good patches.

    Raises:
        ArtifactError: they do not, and a residual compares with them.
    """
    assert isinstance(network, VariationalAutoencoder)  # the settings refuse other networks
    names, device = [part.name for part in config.parts], network.noise.device
    needing = next((name for name in COMPARED if name in names), None)
    good = None if needing is None else good_posterior(tensors, needing, device)
    decodes = any(name not in LATENT for name in names)

    def both(patches: Tensor, *features: Tensor) -> Decoded:
        with autocast(device, precision):
            posterior = network.posterior(_features(network, patches, *features))
        decoded = decode(patches, *features) if decodes else Decoded(None)
        return decoded._replace(latent=Latent(posterior, good))

    return both


def matched(config: Config, network: Autoencoder, device: torch.device, precision: torch.dtype) -> Decode:
    """A patch's reconstruction, and how far the discriminator's features of both differ."""
    assert isinstance(network, AdversarialAutoencoder)  # the settings refuse other networks

    def decode(patches: Tensor, *features: Tensor) -> Decoded:
        with autocast(device, precision):
            latent = network.encoder[-1](_features(network, patches, *features))
            reconstruction, distance = network.matched(patches.contiguous(memory_format=torch.channels_last), latent)
        return Decoded(reconstruction.float().contiguous(), features=distance)

    return decode


def _run(run: Run, given: Tensor, device: torch.device, precision: torch.dtype) -> Tensor:
    with autocast(device, precision):
        found: Tensor = run(given.contiguous(memory_format=torch.channels_last))
    return found.float().contiguous()


def _features(network: Autoencoder, patches: Tensor, features: Tensor | None = None) -> Tensor:
    """The features that were cut from those of an image, or else those of the patches by themselves."""
    return network.features(patches.contiguous(memory_format=torch.channels_last)) if features is None else features


def _settings(config: Config) -> AutoencoderSettings:
    assert isinstance(config.method, AutoencoderSettings)  # the table gives these functions no other method
    return config.method

"""Adversarial training as a method: a generator and a discriminator, trained by one loss.

The loss is the sum of what both minimise, arranged so that each part's gradients reach its own parameters alone: the
discriminator judges patches that are cut off from the generator, and the generator is judged by a discriminator with
frozen parameters. So one optimiser takes simultaneous steps for both (Mescheder et al. 2018, arXiv:1801.04406, section
2), and a training has checkpoints and resumes as any other.

- `anogan`: the generator alone. `flawmap.methods.search` finds the latent vector of a patch.
- `bigan`: an encoder beside it; the discriminator judges pairs of a patch and its latent vector.
- `l1-adversarial`: an autoencoder whose reconstructions have to be close, and to pass for real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from flawmap.methods.autoencoder import build_network, check_patches
from flawmap.methods.config import Config
from flawmap.methods.gradient import Objective, train
from flawmap.methods.interface import FitContext, Patches, State
from flawmap.methods.settings import AdversarialSettings, AnoGANSettings, L1AdversarialSettings
from flawmap.nets.adversarial import AdversarialAutoencoder, Discriminator, GenerativePair
from flawmap.nets.initialisation import initialise, initialise_pair
from flawmap.nets.layer_table import NetworkShape

Judged = tuple[Tensor, ...]
"""What a discriminator judges: patches (N, C, P, P), and latent vectors (N, D, 1, 1) if it is joint."""


def fit(config: Config, patches: Patches, context: FitContext) -> State:
    """Train the networks of the settings, all of which the state keeps.

    Raises:
        TrainingError: the loss turned NaN, or grew a thousandfold.
        ConfigError: patches of another shape; resume from a checkpoint of other settings or other data.
    """
    network = build_pair(config) if isinstance(config.method, AnoGANSettings) else build_network(config)
    trained = train(network, objective_of(config), patches, config, context)
    provenance = {"training": trained.record(config.training.batch)}
    return State(trained.network.state_dict(), {}, provenance, trained.history)


def build_pair(config: Config) -> GenerativePair:
    """The networks of `anogan`, not initialised yet. The caller's random state stays as it is."""
    assert isinstance(config.method, AnoGANSettings)  # the table gives this function no other method
    with torch.random.fork_rng(devices=()):
        return GenerativePair(NetworkShape(config.model.patch, config.model.channels or 1, config.method.latent))


def objective_of(config: Config) -> Objective:
    """What a training of these settings minimises. A constant patch's loss is no measure for it: how well one network
    does depends on the other."""
    method = config.method
    assert isinstance(method, AdversarialSettings)  # the table gives this function no other method

    def loss(network: nn.Module, patches: Tensor, shown: Tensor, generator: torch.Generator) -> Tensor:
        if isinstance(network, GenerativePair):
            return generative_loss(network, patches, generator, method)
        assert isinstance(network, AdversarialAutoencoder)
        if isinstance(method, L1AdversarialSettings):
            return reconstructing_loss(network, patches, shown, method)
        return bidirectional_loss(network, patches, generator, method)

    def begin(network: nn.Module, patches: Tensor, seed: int) -> None:
        check_patches(config, patches)
        if isinstance(network, GenerativePair):
            initialise_pair(network, patches, seed)
        else:
            assert isinstance(network, AdversarialAutoencoder)
            initialise(network, patches, seed)

    return Objective(loss, None, begin, betas=(method.beta1, 0.999))


def generative_loss(
    network: GenerativePair, patches: Tensor, generator: torch.Generator, method: AdversarialSettings
) -> Tensor:
    """Generator and discriminator: generated patches against real ones (N, C, P, P).

    References:
        Goodfellow et al. 2014, arXiv:1406.2661; Schlegl et al. 2017, arXiv:1703.05921, eq. 1.
    """
    made = (network(latent_noise(len(patches), network.shape, generator)),)
    told = discriminating(network.discriminator, (patches,), made, method.gradient_penalty)
    return told + deceiving(network.discriminator, made)


def bidirectional_loss(
    network: AdversarialAutoencoder, patches: Tensor, generator: torch.Generator, method: AdversarialSettings
) -> Tensor:
    """Encoder, generator and discriminator: pairs of a real patch and its code against those of a generated patch and
    what it was made from. The encoder's pairs shall pass for generated ones, the generator's for real ones.

    References:
        Donahue et al. 2017, arXiv:1605.09782, eq. 2 and section 3.4; Zenati et al. 2018, arXiv:1802.06222.
    """
    noise = latent_noise(len(patches), network.shape, generator)
    real, made = (patches, network.encoder(patches)), (network.decoder(noise), noise)
    told = discriminating(network.discriminator, real, made, method.gradient_penalty)
    encoded = functional.softplus(_frozen(network.discriminator, real)).mean()
    return told + deceiving(network.discriminator, made) + encoded


def reconstructing_loss(
    network: AdversarialAutoencoder, patches: Tensor, shown: Tensor, method: L1AdversarialSettings
) -> Tensor:
    """Autoencoder and discriminator: the absolute difference of a pixel, and reconstructions against real patches.

    shown: the patches that are reconstructed.

    References:
        Baur et al. 2018, arXiv:1804.04488, whose variational autoencoder keeps the latent vector's place in the image;
        Isola et al. 2017, arXiv:1611.07004, for the usual weight of passing for real, 1 : 100.
    """
    made = (network(shown),)
    difference = (made[0].float() - patches).abs().mean()
    told = discriminating(network.discriminator, (patches,), made, method.gradient_penalty)
    loss: Tensor = difference + method.adversarial_weight * deceiving(network.discriminator, made) + told
    return loss


def discriminating(discriminator: Discriminator, real: Judged, made: Judged, penalty: float) -> Tensor:
    """The discriminator's loss, a scalar of at least 0: the cross-entropy of telling both apart, 2 log 2 if it cannot,
    and half the penalty times `squared_gradient`. Only its own parameters get gradients.

    The penalty lets both networks settle, where the game without it need not converge. Where nothing is learnt, as on
    held-out patches, it is left out.

    References:
        Mescheder et al. 2018, arXiv:1801.04406, eq. 9.
    """
    real, made = (tuple(one.detach().float() for one in judged) for judged in (real, made))
    for_real, for_made = discriminator(*map(torch.cat, zip(real, made, strict=True))).chunk(2)
    loss = functional.softplus(-for_real).mean() + functional.softplus(for_made).mean()
    if not penalty or not torch.is_grad_enabled():
        return loss
    return loss + penalty / 2 * squared_gradient(discriminator, real)


def squared_gradient(discriminator: Discriminator, real: Judged) -> Tensor:
    """The squared length of the logit's gradient by a real patch, and its code, mean over a quarter of the batch, a
    scalar: the quarter has the same mean and costs less."""
    some = tuple(part[: max(1, len(part) // 4)].requires_grad_() for part in real)
    slopes = torch.autograd.grad(discriminator(*some).sum(), some, create_graph=True)
    found: Tensor = sum((slope.float().square().flatten(1).sum(1).mean() for slope in slopes), torch.zeros(()))
    return found


def deceiving(discriminator: Discriminator, made: Judged) -> Tensor:
    """The generator's loss, a scalar of at least 0: that what it made passes for real, in the form that does not
    saturate (Goodfellow et al. 2014, section 3). Only what was made gets gradients."""
    return functional.softplus(-_frozen(discriminator, made)).mean()


def latent_noise(count: int, shape: NetworkShape, generator: torch.Generator) -> Tensor:
    """(count, D, 1, 1): latent vectors from the prior, standard normal."""
    return torch.randn(count, shape.latent, 1, 1, generator=generator, device=generator.device)


def _frozen(discriminator: Discriminator, judged: Judged) -> Tensor:
    """The logits (N,) by a discriminator whose parameters get no gradients."""
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    logits: Tensor = functional_call(discriminator, fixed, judged)
    return logits

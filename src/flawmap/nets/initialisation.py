"""How the autoencoder is initialised, so that SSIM training starts at all.

A constant reconstruction is a saddle of the SSIM loss: its value there is close to 1 (about 0.915 on fibres), and every
part of a reconstruction that is uncorrelated with the image lowers SSIM further. With random weights the network's
output is such noise. So training first learns to output a constant, which shrinks the very weights that the signal
needs, and it leaves the plateau late or never. Two things avoid that:

- The decoder starts as the adjoint of the encoder: every transposed convolution gets the weights of the convolution
  that it mirrors. Reconstruction and image are then positively correlated from the first step on (for linear layers
  x . A^T A x >= 0), so the gradient strengthens the output instead of weakening it.
- Every layer is scaled and shifted on real patches to mean 0 and variance 1, so that the latent vector distinguishes
  patches instead of carrying their common mean; the last layer to a faint variation around the mean intensity.

A variational autoencoder starts as the plain one that decodes the means. Its standard deviation is small beside their
unit variance and the same for every patch, so samples hide nothing that the encoder found.

Encoder weights are orthogonal (Saxe et al. 2014, arXiv:1312.6120); scaling on data is LSUV's idea (Mishkin and Matas
2016, arXiv:1511.06422). `benchmarks/plateau.py` compares this initialisation with He's and PyTorch's own, seed by seed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flawmap.core.errors import InputError
from flawmap.nets.adversarial import AdversarialAutoencoder, Discriminator, GenerativePair
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.variational import VariationalAutoencoder

OUTPUT_STD = 0.01  # standard deviation of the initial reconstruction around its mean, intensity in [0, 1]
LOG_VARIANCE = -5.0  # initial one of a latent dimension: a standard deviation of 0.08, where the means have 1
SMALLEST_STD = 1e-6  # below it patches are flat, and there is nothing to scale on

FLAT = (
    "training patches must vary, but all of them are flat; check the images, their region of interest, "
    "and the value that becomes white (images.white)"
)


@torch.no_grad()
def initialise(network: Autoencoder, patches: Tensor, seed: int) -> None:
    """Set all weights and biases of a network, in place, from a seed and a few dozen training patches.

    Args:
        patches: (N, C, P, P) float32 in [0, 1], good patches; 32 are enough.
    Raises:
        InputError: all patches are flat.
    """
    _varied(patches)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    convolutions = [layer for layer in network.encoder if isinstance(layer, nn.Conv2d)]
    transposed = [layer for layer in network.decoder if isinstance(layer, nn.ConvTranspose2d)]
    _orthogonal(convolutions, generator)
    for layer, mirrored in zip(transposed, reversed(convolutions), strict=True):
        layer.weight.copy_(mirrored.weight)
    signal = _scaled(network.decoder, _scaled(network.encoder, patches), patches)
    if isinstance(network, VariationalAutoencoder):
        network.log_variance.weight.zero_()
        assert network.log_variance.bias is not None
        network.log_variance.bias.fill_(LOG_VARIANCE)
        network.noise.copy_((signal - patches).square().mean())
    if isinstance(network, AdversarialAutoencoder):
        _begin_discriminator(network.discriminator, patches, network.shape.latent, generator)


@torch.no_grad()
def initialise_pair(network: GenerativePair, patches: Tensor, seed: int) -> None:
    """`initialise` for a generator and its discriminator: the former is scaled on latent vectors from the prior."""
    _varied(patches)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    _orthogonal([layer for layer in network.decoder if isinstance(layer, nn.ConvTranspose2d)], generator)
    noise = torch.randn(len(patches), network.shape.latent, 1, 1, generator=generator)
    _scaled(network.decoder, noise, patches)
    _begin_discriminator(network.discriminator, patches, network.shape.latent, generator)


def _begin_discriminator(
    discriminator: Discriminator, patches: Tensor, latent: int, generator: torch.Generator
) -> None:
    """Every layer to variance 1 on real patches, with latent vectors from the prior where they count; the last one to a
    faint variation around 0, so that nothing is judged yet."""
    _orthogonal([*discriminator.trunk, discriminator.mix, discriminator.verdict], generator)
    _scaled(discriminator.trunk, patches)
    noise = torch.randn(len(patches), latent, 1, 1, generator=generator)
    known = noise if discriminator.joint else None
    _scale_to(discriminator.mix, discriminator.seen(patches, known), 1.0)
    _scale_to(discriminator.verdict, discriminator.features(patches, known), OUTPUT_STD)


def _varied(patches: Tensor) -> None:
    if float((patches - patches.mean(dim=(2, 3), keepdim=True)).std()) < SMALLEST_STD:
        raise InputError(FLAT)


def _orthogonal(layers: Iterable[nn.Module], generator: torch.Generator) -> None:
    """Orthogonal weights for the convolutions among the layers; as matrices of an output, or, transposed, an input."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            weight = torch.empty(layer.weight.shape)
            nn.init.orthogonal_(weight.flatten(1), generator=generator)
            layer.weight.copy_(weight)


def _scaled(modules: nn.Sequential, signal: Tensor, output: Tensor | None = None) -> Tensor:
    """What layers make of a signal after each of their convolutions was scaled to variance 1 on it.

    output: patches that the last one begins close to: a faint variation around their mean intensity.
    """
    last = modules[-1] if output is not None else None
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            _scale_to(module, signal, OUTPUT_STD if module is last else 1.0)
            if module is last and output is not None and module.bias is not None:
                module.bias += output.mean(dim=(0, 2, 3))
        signal = module(signal)
    return signal


def _scale_to(layer: nn.Conv2d | nn.ConvTranspose2d, signal: Tensor, std: float) -> None:
    """One factor for the layer (which keeps it an adjoint up to scale) and a bias that centres each channel."""
    assert layer.bias is not None  # the networks of table 1 all have biases
    layer.bias.zero_()
    output = layer(signal)
    mean = output.mean(dim=(0, 2, 3))
    found = float((output - mean[:, None, None]).square().mean().sqrt())
    if found < SMALLEST_STD:
        raise InputError(FLAT)
    factor = std / found
    layer.weight *= factor
    layer.bias.copy_(-mean * factor)

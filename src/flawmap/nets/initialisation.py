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

import torch
from torch import Tensor, nn

from flawmap.core.errors import InputError
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
    if float((patches - patches.mean(dim=(2, 3), keepdim=True)).std()) < SMALLEST_STD:
        raise InputError(FLAT)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    convolutions = [layer for layer in network.encoder if isinstance(layer, nn.Conv2d)]
    transposed = [layer for layer in network.decoder if isinstance(layer, nn.ConvTranspose2d)]
    for convolution in convolutions:
        weight = torch.empty(convolution.weight.shape)
        nn.init.orthogonal_(weight.flatten(1), generator=generator)
        convolution.weight.copy_(weight)
    for layer, mirrored in zip(transposed, reversed(convolutions), strict=True):
        layer.weight.copy_(mirrored.weight)

    signal = patches
    for module in (*network.encoder, *network.decoder):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            last = module is transposed[-1]
            _scale_to(module, signal, OUTPUT_STD if last else 1.0)
            if last and module.bias is not None:
                module.bias += patches.mean(dim=(0, 2, 3))
        signal = module(signal)
    if isinstance(network, VariationalAutoencoder):
        network.log_variance.weight.zero_()
        assert network.log_variance.bias is not None
        network.log_variance.bias.fill_(LOG_VARIANCE)
        network.noise.copy_((signal - patches).square().mean())


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

"""The network of table 1, and how it is initialised."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from flawmap.core.errors import InputError
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import KINDS, texture
from flawmap.nets.autoencoder import SLOPE, Autoencoder
from flawmap.nets.convolution import Convolution
from flawmap.nets.initialisation import initialise
from flawmap.nets.layer_table import NetworkShape, encoder_layers
from flawmap.nets.transposed import TransposedConvolution

TABLE_1 = [  # channels and side of each layer's output, for patches of 128 pixels
    (32, 64),
    (32, 32),
    (32, 32),
    (64, 16),
    (64, 16),
    (128, 8),
    (64, 8),
    (32, 8),
]


def convolutions(part: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [layer for layer in part.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def outputs_of(network: Autoencoder, patches: Tensor) -> dict[nn.Module, Tensor]:
    """What every convolution gives for some patches, activations not yet applied."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: found.__setitem__(layer, output.clone()))
        for layer in convolutions(network)
    ]
    with torch.no_grad():
        network(patches)
    for hook in hooks:
        hook.remove()
    return found


def patches_of(kind: str, patch: int, count: int = 32, seed: int = 0, channels: int = 1) -> Tensor:
    images = [np.repeat(texture(kind, (256, 256), number), channels, axis=2) for number in range(2)]
    drawn = PatchSource(map(TrainingImage, images), patch).sample(count, np.random.default_rng(seed))
    if channels == 3:  # colours that differ
        drawn = drawn * np.array([1.0, 0.6, 0.3], np.float32)[:, None, None]
    return torch.from_numpy(drawn)


def initialised(
    patch: int = 32, latent: int = 12, channels: int = 1, seed: int = 0, kind: str = "fibres"
) -> Autoencoder:
    network = Autoencoder(NetworkShape(patch=patch, latent=latent, channels=3 if channels == 3 else 1))
    initialise(network, patches_of(kind, patch, channels=channels), seed)
    return network


# --- table 1


def test_the_paper_s_network_has_as_many_parameters_as_derived() -> None:
    """1,048,549 parameters for d = 100 and one channel."""
    network = Autoencoder(NetworkShape(patch=128, latent=100))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_048_549


def test_every_layer_has_the_shape_of_table_1() -> None:
    """Each output of the encoder, and of the decoder read backwards, is as the table prints it."""
    network = Autoencoder(NetworkShape(patch=128, latent=100))
    shapes = {layer: tuple(output.shape) for layer, output in outputs_of(network, torch.rand(2, 1, 128, 128)).items()}
    encoder = [shapes[layer] for layer in convolutions(network.encoder)]
    assert encoder == [(2, channels, side, side) for channels, side in TABLE_1] + [(2, 100, 1, 1)]
    decoder = [shapes[layer] for layer in convolutions(network.decoder)]
    backwards = [(2, channels, side, side) for channels, side in reversed(TABLE_1)]
    assert decoder == [*backwards, (2, 1, 128, 128)]
    kernels = [(layer.kernel_size[0], layer.stride[0], layer.padding[0]) for layer in convolutions(network.encoder)]
    wide, narrow = (4, 2, 1), (3, 1, 1)
    assert kernels == [wide, wide, narrow, wide, narrow, wide, narrow, narrow, (8, 1, 0)]


@pytest.mark.parametrize("patch", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_of_every_side_come_back_as_they_went_in(patch: int, channels: int) -> None:
    """The latent vector is (N, D, 1, 1) and the reconstruction has the patch's shape, grey or colour."""
    settings = NetworkShape(patch=patch, latent=7, channels=3 if channels == 3 else 1)
    network = Autoencoder(settings)
    patches = torch.rand(2, channels, patch, patch)
    with torch.no_grad():
        assert network.encoder(patches).shape == (2, 7, 1, 1)
        assert network(patches).shape == patches.shape
    layers = encoder_layers(settings)
    assert len(layers) == (10 if patch == 256 else 9)
    assert layers[-1].kernel == {32: 2, 64: 4, 128: 8, 256: 8}[patch]


@pytest.mark.parametrize("patch", [32, 128, 256])
def test_the_decoder_mirrors_the_encoder(patch: int) -> None:
    """Layer for layer from the other end: kernel, stride, padding, and channels the other way round."""
    network = Autoencoder(NetworkShape(patch=patch, latent=9, channels=3))
    for forth, back in zip(convolutions(network.encoder), reversed(convolutions(network.decoder)), strict=True):
        assert isinstance(forth, nn.Conv2d)
        assert isinstance(back, nn.ConvTranspose2d)
        assert (forth.kernel_size, forth.stride, forth.padding) == (back.kernel_size, back.stride, back.padding)
        assert (forth.in_channels, forth.out_channels) == (back.out_channels, back.in_channels)
        assert forth.weight.shape == back.weight.shape


def test_leaky_relu_follows_every_layer_but_the_two_last() -> None:
    """Slope 0.2 everywhere, and linear outputs of encoder and decoder."""
    network = Autoencoder(NetworkShape(patch=128, latent=100))
    assert SLOPE == 0.2
    for part in (network.encoder, network.decoder):
        kinds = [type(layer) for layer in part]
        convolution = Convolution if part is network.encoder else TransposedConvolution
        assert kinds == [convolution, nn.LeakyReLU] * 8 + [convolution]
        assert all(layer.negative_slope == 0.2 for layer in part if isinstance(layer, nn.LeakyReLU))


def test_a_reconstruction_does_not_depend_on_its_batch() -> None:
    """Nothing in the network joins the patches of a batch."""
    network, patches = initialised(), patches_of("cloth", 32, count=6)
    with torch.no_grad():
        whole = network(patches)
        for n in range(6):
            torch.testing.assert_close(network(patches[n : n + 1])[0], whole[n], rtol=1e-5, atol=1e-6)


# --- initialisation


@pytest.mark.parametrize("channels", [1, 3])
def test_every_layer_starts_with_mean_0_and_variance_1(channels: int) -> None:
    """On the given patches each convolution's output is centred per channel and has unit variance over all."""
    patches = patches_of("fibres", 32, channels=channels)
    network = initialised(channels=channels)
    *hidden, last = outputs_of(network, patches).values()
    for output in hidden:
        assert output.mean(dim=(0, 2, 3)).abs().max() < 1e-4
        assert output.var(correction=0).item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(last.mean(dim=(0, 2, 3)), patches.mean(dim=(0, 2, 3)), rtol=0, atol=1e-5)
    spread = (last - last.mean(dim=(0, 2, 3), keepdim=True)).square().mean().sqrt()
    assert spread.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_decoder_layer_starts_as_the_adjoint_of_its_mirror(channels: int) -> None:
    """<A x, y> = <x, A^T y> for each pair of layers, biases aside, up to one positive factor a pair."""
    network = initialised(channels=channels)
    generator = torch.Generator().manual_seed(0)
    sides = [32, 16, 8, 8, 4, 4, 2, 2, 2]
    for side, forth, back in zip(
        sides, convolutions(network.encoder), reversed(convolutions(network.decoder)), strict=True
    ):
        factor = float(back.weight.detach().norm() / forth.weight.detach().norm())
        x = torch.randn(1, forth.in_channels, side, side, generator=generator, dtype=torch.float64)
        forwards = functional.conv2d(x, forth.weight.detach().double(), None, forth.stride, forth.padding)
        y = torch.randn(forwards.shape, generator=generator, dtype=torch.float64)
        backwards = functional.conv_transpose2d(y, back.weight.detach().double(), None, back.stride, back.padding)
        assert backwards.shape == x.shape
        size = float(forwards.norm() * y.norm())
        assert abs(float((forwards * y).sum()) * factor - float((x * backwards).sum())) < 1e-5 * factor * size


def test_one_seed_gives_the_same_bits_and_another_gives_others() -> None:
    """Initialisation is a function of the seed and the patches alone."""
    first, again, other = initialised(seed=3), initialised(seed=3), initialised(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_initialisation_leaves_the_global_generator_alone() -> None:
    """Neither reads nor moves the state of torch's own random numbers."""
    network, patches = Autoencoder(NetworkShape(patch=32, latent=5)), patches_of("twill", 32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    initialise(network, patches, 0)
    assert torch.equal(torch.get_rng_state(), before)
    one = [parameter.clone() for parameter in network.parameters()]
    torch.manual_seed(2)
    initialise(network, patches, 0)
    assert all(torch.equal(a, b) for a, b in zip(one, network.parameters(), strict=True))


def test_initialisation_takes_no_gradients_and_leaves_parameters_trainable() -> None:
    """Parameters still require gradients and hold none."""
    for parameter in initialised().parameters():
        assert parameter.requires_grad
        assert parameter.is_leaf
        assert parameter.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_reconstructions_start_similar_to_their_patches(kind: str) -> None:
    """On every material the mean correlation of patch and reconstruction is positive before any training."""
    for seed in range(2):
        network = Autoencoder(NetworkShape(patch=64, latent=50))
        patches = patches_of(kind, 64, seed=seed)
        initialise(network, patches, seed)
        with torch.no_grad():
            pairs = (patches, network(patches))
        x, y = (values.flatten(1) - values.flatten(1).mean(1, keepdim=True) for values in pairs)
        correlation = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
        assert correlation.mean() > 0.005


@pytest.mark.parametrize("patches", [torch.full((8, 1, 32, 32), 0.5), torch.rand(8, 1, 1, 1).expand(8, 1, 32, 32)])
def test_flat_patches_are_refused(patches: Tensor) -> None:
    """Patches without any structure, of one level or of several, cannot be trained on."""
    with pytest.raises(InputError) as caught:
        initialise(Autoencoder(NetworkShape(patch=32, latent=5)), patches, 0)
    assert str(caught.value) == (
        "training patches must vary, but all of them are flat; check the images, their region of interest, "
        "and the value that becomes white (images.white)"
    )


# ------------------------------------------------------------------------------------------ transposed convolutions


GEOMETRIES = [(6, 1, 4, 2, 1), (6, 3, 4, 2, 1), (5, 8, 4, 2, 1), (5, 2, 3, 1, 1), (7, 4, 8, 1, 0), (3, 2, 2, 1, 0)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (6, 8)])
def test_transposed_convolutions_equal_pytorch_s(
    geometry: tuple[int, int, int, int, int], size: tuple[int, int]
) -> None:
    """Values and all three gradients, in double precision, from the same state."""
    ours = TransposedConvolution(*geometry).double()
    theirs = nn.ConvTranspose2d(*geometry).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(3, geometry[0], *size, dtype=torch.float64)
    found = []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_()
        output = layer(given)
        output.sin().sum().backward()
        assert layer.bias is not None
        found.append((output.detach(), given.grad, layer.weight.grad, layer.bias.grad))
    for mine, other in zip(*found, strict=True):
        assert mine is not None
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_transposed_convolutions_under_autocast(geometry: tuple[int, int, int, int, int]) -> None:
    """In bfloat16 no value is farther from the exact one than four roundings of every product and the sum allow, and
    gradients arrive in single precision."""
    generator = torch.Generator().manual_seed(0)
    layer = TransposedConvolution(*geometry).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -1, 1, generator=generator)
    x = torch.rand(3, geometry[0], 6, 6, generator=generator).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    double = copy.deepcopy(layer).double()
    exact = double(x.double())
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.abs_()
    roundings = 4 * torch.finfo(torch.bfloat16).eps / 2  # of input, weight, product and sum, each by half a step
    assert ((half.double() - exact).abs() <= roundings * double(x.double())).all()
    half.float().square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_a_transposed_convolution_refuses_what_it_would_ignore() -> None:
    """Groups, dilation, output padding, no bias, and the size of an output."""
    layer = TransposedConvolution(2, 2, 4, 2, 1)
    with pytest.raises(TypeError):
        layer(torch.rand(1, 2, 5, 5), output_size=[11, 11])
    for option in ("groups", "dilation", "output_padding", "bias"):
        with pytest.raises(TypeError):
            TransposedConvolution(2, 2, 4, 2, 1, **{option: 2})

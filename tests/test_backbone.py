"""Layers of pretrained networks: their places and names, ResNet-18 by other means, and borders without bias."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.signal import correlate
from torch import Tensor, nn

from flawmap.core.errors import InputError
from flawmap.core.settings import FeatureName, FeatureSettings
from flawmap.nets.backbone import WHOLE, Backbone, load_backbone
from flawmap.nets.pretrained import load_features
from flawmap.nets.resnet import Block, FrozenNorm, resnet18_layers
from flawmap.nets.taps import TAPS, USUAL_TAPS
from flawmap.nets.weights import PINNED

NETWORKS: tuple[FeatureName, ...] = get_args(FeatureName)


def generated(network: FeatureName, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a whole network under torchvision's names, of a size that keeps signals alive."""
    generator = torch.Generator().manual_seed(seed)
    prefix, layers = WHOLE[network]
    state = {}
    for key, like in layers().state_dict().items():
        fan = max(1, like[0].numel()) if like.ndim > 1 else 100
        drawn = torch.randn(like.shape, generator=generator) * (2 / fan) ** 0.5
        state[prefix + key] = drawn.abs() + 0.5 if key.endswith(("running_var", "bn1.weight")) else drawn
    return state


def saved(network: FeatureName, folder: Path) -> FeatureSettings:
    path = folder / f"{network}.pth"
    torch.save(generated(network), path)
    return FeatureSettings(network=network, weights=path)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_table_says_where_places_are(network: FeatureName) -> None:
    """A place's receptive field is centred where the table says, and a layer has as many maps.

    With positive weights, and means in place of maxima, the gradient of a place reaches all pixels that it sees.
    """
    backbone = Backbone(network, list(TAPS[network]))
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(3, 2, padding=child.padding, ceil_mode=child.ceil_mode))
    with torch.no_grad():
        for tensor in (*backbone.parameters(), *backbone.buffers()):
            tensor.fill_(0.01)
    image = torch.ones(1, 1, 512, 512, requires_grad=True)
    for tap, maps in zip(TAPS[network].values(), backbone(image), strict=True):
        middle = maps.shape[-1] // 2
        (gradient,) = torch.autograd.grad(maps[0, :, middle, middle].sum(), image, retain_graph=True)
        for axis in (0, 1):
            seen = gradient[0, 0].abs().sum(axis).nonzero().flatten()
            assert 0 < seen[0] < seen[-1] < 511, "the field lies inside, or its middle is not its centre"
            assert (seen[0] + seen[-1] + 1) / 2 == tap.first + tap.spacing * middle
        assert maps.shape[1] == tap.maps


def test_the_tables_name_the_same_networks() -> None:
    """Each network has layers, usual ones among them, and a published file."""
    assert set(TAPS) == set(USUAL_TAPS) == set(WHOLE) == set(PINNED) == set(NETWORKS)
    assert all(set(USUAL_TAPS[network]) <= set(TAPS[network]) for network in NETWORKS)


@pytest.mark.parametrize(
    ("network", "published", "classifier"),
    [
        ("alexnet", 61_100_840, (9216 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000),
        ("squeezenet", 1_248_424, (512 + 1) * 1000),
        ("resnet18", 11_689_512, (512 + 1) * 1000),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(
    network: FeatureName, published: int, classifier: int
) -> None:
    """As torchvision's documentation gives them, less the classifier; statistics of normalisation are no parameters."""
    state = WHOLE[network][1]().state_dict()
    count = sum(tensor.numel() for key, tensor in state.items() if "running" not in key)
    assert count == published - classifier


def test_resnet18_has_torchvisions_names() -> None:
    """Those of its published file, but for the classifier and the counts of batches, which nothing needs."""
    norms = ["weight", "bias", "running_mean", "running_var"]
    names = ["conv1.weight", *(f"bn1.{norm}" for norm in norms)]
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            for number in (1, 2):
                names += [f"{at}.conv{number}.weight", *(f"{at}.bn{number}.{norm}" for norm in norms)]
            if stage > 1 and block == 0:
                names += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{norm}" for norm in norms)]
    assert set(resnet18_layers().state_dict()) == set(names)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(3, 3, 1), (3, 5, 2)])
def test_a_block_equals_a_slow_one(inputs: int, outputs: int, stride: int) -> None:
    """Correlations of SciPy, each normalised by hand, and the sum with the shortcut, cut at 0."""
    generator = torch.Generator().manual_seed(0)
    block = Block(inputs, outputs, stride)
    with torch.no_grad():
        for key, tensor in block.state_dict().items():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if key.endswith("running_var"):
                tensor.abs_()
    state = {key: tensor.double().numpy() for key, tensor in block.state_dict().items()}

    def layer(maps: np.ndarray, conv: str, norm: str, stride: int) -> np.ndarray:
        weight = state[f"{conv}.weight"]
        pad = weight.shape[-1] // 2
        padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)))
        found = np.stack([correlate(padded, kernel, mode="valid")[0] for kernel in weight])[:, ::stride, ::stride]
        gain, shift, mean, var = (
            state[f"{norm}.{name}"][:, None, None] for name in ("weight", "bias", "running_mean", "running_var")
        )
        return gain * (found - mean) / np.sqrt(var + 1e-5) + shift

    maps = torch.randn(inputs, 6, 6, generator=generator)
    image = maps.double().numpy()
    inner = np.maximum(layer(image, "conv1", "bn1", stride), 0)
    shortcut = image if stride == 1 else layer(image, "downsample.0", "downsample.1", stride)
    expected = np.maximum(layer(inner, "conv2", "bn2", 1) + shortcut, 0)
    np.testing.assert_allclose(block(maps[None])[0].detach().numpy(), expected, rtol=1e-4, atol=1e-3)


def test_normalisation_does_not_learn() -> None:
    """Neither in training mode nor by gradients."""
    norm = FrozenNorm(2).train()
    norm(torch.randn(3, 2, 4, 4))
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert list(norm.parameters()) == []


@pytest.mark.parametrize("network", NETWORKS)
def test_a_flat_patch_has_the_same_features_everywhere(network: FeatureName, tmp_path: Path) -> None:
    """Borders are no feature: beside zeros they would be."""
    backbone = load_backbone(saved(network, tmp_path), list(TAPS[network]))
    for maps in backbone(torch.full((1, 3, 128, 128), 0.4)):
        assert maps.max() > 0
        torch.testing.assert_close(maps, maps[:, :, :1, :1].expand_as(maps), rtol=1e-4, atol=1e-4 * float(maps.max()))


@pytest.mark.parametrize("network", ["alexnet", "squeezenet"])
def test_inside_a_patch_features_are_those_of_feature_matching(network: FeatureName, tmp_path: Path) -> None:
    """What a border reaches differs, and nothing else."""
    settings = saved(network, tmp_path)
    layer, border = {"alexnet": ("features.7", 3), "squeezenet": ("features.5", 3)}[network]
    patches = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    (maps,) = load_backbone(settings, [layer])(patches)
    matched = load_features(settings)(patches)
    inner = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(maps[inner], matched[inner], rtol=1e-4, atol=1e-4 * float(matched.max()))
    assert not torch.allclose(maps, matched, rtol=1e-2)


def test_layers_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    """And nothing behind the last of them is read from the file, which may lack it."""
    state = {key: value for key, value in generated("resnet18").items() if not key.startswith(("layer3", "layer4"))}
    torch.save(state, tmp_path / "part.pth")
    settings = FeatureSettings(network="resnet18", weights=tmp_path / "part.pth")
    deep, shallow = load_backbone(settings, ["layer2", "layer1"])(torch.rand(1, 1, 64, 64))
    assert (deep.shape, shallow.shape) == ((1, 128, 8, 8), (1, 64, 16, 16))
    with pytest.raises(InputError, match=r"expected 75 tensors under torchvision's names, 25 are missing, layer3\.0"):
        load_backbone(settings, ["layer3"])


def test_loading_leaves_random_numbers_alone_and_freezes(tmp_path: Path) -> None:
    """No parameter takes gradients, and torch's generator stays where it was. Counts of batches are left alone."""
    path = tmp_path / "full.pth"
    torch.save(generated("resnet18") | {"bn1.num_batches_tracked": torch.tensor(7)}, path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    backbone = load_backbone(FeatureSettings(network="resnet18", weights=path), ["layer1"])
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())

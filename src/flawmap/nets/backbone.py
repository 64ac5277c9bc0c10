"""Activations of several layers of a frozen pretrained network, which one pass over a patch gives.

AlexNet and SqueezeNet go on from the layers that `flawmap.nets.pretrained` has; ResNet-18 is in `flawmap.nets.resnet`.
`flawmap.nets.taps` lists the layers that can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flawmap.core.settings import FeatureName, FeatureSettings
from flawmap.nets.pretrained import Fire, alexnet_layers, fill_weights, normalised, squeezenet_layers
from flawmap.nets.resnet import resnet18_layers


def whole_alexnet() -> nn.Sequential:
    """AlexNet's `features`: five convolutions."""
    fourth, fifth = nn.Conv2d(384, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)
    rest = (fourth, nn.ReLU(inplace=True), fifth, nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2))
    return alexnet_layers().extend(rest)


def whole_squeezenet() -> nn.Sequential:
    """SqueezeNet 1.0's `features`: eight fire modules."""
    middle = (Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256))
    pools = [nn.MaxPool2d(3, stride=2, ceil_mode=True) for _ in range(2)]
    return squeezenet_layers().extend((pools[0], *middle, pools[1], Fire(512, 64, 256)))


WHOLE: dict[FeatureName, tuple[str, Callable[[], nn.Sequential]]] = {
    "alexnet": ("features.", whole_alexnet),
    "squeezenet": ("features.", whole_squeezenet),
    "resnet18": ("", resnet18_layers),
}
"""What torchvision writes before the names of a network's layers, and the layers."""


class Backbone(nn.Module):
    """Patches (N, 1 or 3, P, P) in [0, 1], P at least 32, to the activations (N, K, h, w) of each layer, at least 0.

    Convolutions repeat the value at a border where the network was trained with zeros: beside zeros, features of good
    material are unlike those of the same material elsewhere.

    layers: torchvision's names, as in `TAPS`; nothing behind the last of them is built.
    """

    def __init__(self, network: FeatureName, layers: Sequence[str]) -> None:
        super().__init__()
        self.prefix, build = WHOLE[network]
        self.read = tuple(name.removeprefix(self.prefix) for name in layers)
        steps = build()
        names = [name for name, _ in steps.named_children()]
        self.steps = steps[: max(map(names.index, self.read)) + 1]
        for module in self.steps.modules():
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "replicate"

    def forward(self, patches: Tensor) -> list[Tensor]:
        maps, found = normalised(patches), {}
        for name, step in self.steps.named_children():
            maps = step(maps)
            if name in self.read:
                found[name] = maps
        return [found[name] for name in self.read]


def empty_backbone(network: FeatureName, layers: Sequence[str]) -> Backbone:
    """A backbone whose weights are still to come: no random ones, which would advance the caller's generator."""
    with torch.device("meta"):
        return Backbone(network, layers)


def load_backbone(settings: FeatureSettings, layers: Sequence[str]) -> Backbone:
    """The backbone with the weights of the settings' file, frozen, in evaluation mode.

    Raises:
        InputError: the file is missing, is no file of weights, or holds those of another network.
    """
    backbone = empty_backbone(settings.network, layers)
    fill_weights(backbone.steps, settings, backbone.prefix)
    return backbone.eval()

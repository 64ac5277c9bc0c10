"""ResNet-18 without its classifier (He et al. 2016, arXiv:1512.03385), with torchvision's layers and names.

Kernel / stride / padding:

    conv1    Conv 7/2/3  64, normalised, ReLU
    maxpool  3/2/1
    layer1   two blocks,  64 maps             layer3   two blocks, 256 maps, the first with stride 2
    layer2   two blocks, 128 maps, stride 2   layer4   two blocks, 512 maps, stride 2
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


class FrozenNorm(nn.Module):
    """Batch normalisation by the mean and variance of the network's own training, which never change."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, maps: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((maps,), value))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size or the maps change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = FrozenNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = FrozenNorm(outputs)
        self.downsample = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), FrozenNorm(outputs))
        )

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(maps)).relu_()
        changed: Tensor = self.bn2(self.conv2(inner)) + self.downsample(maps)
        return changed.relu_()


def resnet18_layers() -> nn.Sequential:
    """All of ResNet-18 before the average over places."""
    stem = {
        "conv1": nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        "bn1": FrozenNorm(64),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }
    stages = {
        f"layer{number}": nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1))
        for number, inputs, outputs, stride in ((1, 64, 64, 1), (2, 64, 128, 2), (3, 128, 256, 2), (4, 256, 512, 2))
    }
    return nn.Sequential(OrderedDict(stem | stages))

"""Frozen feature networks: the first layers of ImageNet classifiers, read from a file of pretrained weights.

Layer sizes and names are torchvision's, so that its files fit. Kernel / stride / padding, then ReLU after each:

    AlexNet (Krizhevsky 2014, arXiv:1404.5997)       SqueezeNet 1.0 (Iandola et al. 2016, arXiv:1602.07360)
      features.0  Conv 11/4/2   64                     features.0        Conv 7/2/0  96
      features.2  MaxPool 3/2                          features.2        MaxPool 3/2, sides rounded up
      features.3  Conv  5/1/2  192                     features.3, 4     Fire 16, 64 + 64
      features.5  MaxPool 3/2                          features.5        Fire 32, 128 + 128
      features.6  Conv  3/1/1  384

Features for matching are the activations, after the ReLU, of AlexNet's third convolution (Bergmann et al. 2019 name
the first three convolutional layers, not the ReLU), and of SqueezeNet's third fire module: for the grey patch of 128
pixels that is (384, 7, 7) and (256, 30, 30).

Shapes: N batch, P patch side, K feature maps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flawmap.core.checks import image_batch, shape_text
from flawmap.core.errors import InputError
from flawmap.core.settings import FeatureName, FeatureSettings
from flawmap.nets.weights import weights_file

# Mean and standard deviation of ImageNet's images, red, green, blue, for intensities in [0, 1]. Both networks were
# trained on images normalised by them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

SMALLEST = 32  # patch side, pixels: AlexNet's second pooling needs 31


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 convolutions to a few maps, then 1x1 and 3x3 ones side by side, each with a ReLU."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        few = self.squeeze(maps).relu_()
        return torch.cat([self.expand1x1(few).relu_(), self.expand3x3(few).relu_()], dim=1)


def alexnet_layers() -> nn.Sequential:
    """AlexNet through its third convolution and the ReLU after it."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def squeezenet_layers() -> nn.Sequential:
    """SqueezeNet 1.0 through its third fire module; fewer layers would save little, as the first costs most."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(96, 16, 64),
        Fire(128, 16, 64),
        Fire(128, 32, 128),
    )


LAYERS: dict[FeatureName, Callable[[], nn.Sequential]] = {
    "alexnet": alexnet_layers,
    "squeezenet": squeezenet_layers,
}


class Features(nn.Module):
    """Patches (N, 1 or 3, P, P) in [0, 1], P at least 32, to feature maps (N, K, h, w), 0 or more."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.features = layers

    def forward(self, patches: Tensor) -> Tensor:
        maps: Tensor = self.features(normalised(patches))
        return maps


def normalised(images: Tensor) -> Tensor:
    """Images (N, 1 or 3, H, W) in [0, 1] to (N, 3, H, W) float32, normalised as ImageNet's; grey is repeated.

    Raises:
        InputError: another shape, or a side below 32.
    """
    image_batch(images, "patches")
    if images.shape[1] not in (1, 3):
        raise InputError(f"feature networks see grey or colour, (N, 1 or 3, P, P), got {shape_text(images.shape)}")
    if min(images.shape[2:]) < SMALLEST:
        raise InputError(
            f"feature networks need patches of at least {SMALLEST}x{SMALLEST} pixels, got {shape_text(images.shape)}; "
            "take larger patches (--set model.patch=64), or another method"
        )
    mean, std = (images.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (MEAN, STD))
    return (images.float() - mean) / std


def load_features(settings: FeatureSettings) -> Features:
    """The feature network of the settings: weights read from its file, frozen, in evaluation mode.

    The file holds at least these weights. It is a `.safetensors`, or a `.pth` or `.pt` as torch saves a state. Of the
    latter only tensors are read; a pickle that would run code is refused.

    Raises:
        InputError: the file is missing, is no file of weights, or holds those of another network.
    """
    with torch.device("meta"):  # no random weights, which would advance the caller's generator
        network = Features(LAYERS[settings.network]())
    fill_weights(network, settings)
    return network.eval()


def fill_weights(network: nn.Module, settings: FeatureSettings, prefix: str = "") -> None:
    """Give a network without weights those of the settings' file, and freeze it.

    prefix: what stands in the file before the network's own names. Raises InputError as `load_features`.
    """
    name, path = settings.network, weights_file(settings)
    found = _tensors(path)
    wanted = {prefix + key: tensor for key, tensor in network.state_dict().items()}
    missing = [key for key in wanted if key not in found]
    if missing:
        raise InputError(
            f"{path} does not hold the weights of {name}: expected {len(wanted)} tensors under torchvision's names, "
            f"{len(missing)} are missing, {missing[0]} for one; name {name}'s file with method.features.weights, or "
            "the file's network with method.features.network"
        )
    for key, tensor in wanted.items():
        if found[key].shape != tensor.shape:
            raise InputError(
                f"{path} does not hold the weights of {name}: expected {key} of shape {shape_text(tensor.shape)}, got "
                f"{shape_text(found[key].shape)}; name {name}'s file with method.features.weights"
            )
        if not bool(found[key].float().isfinite().all()):
            raise InputError(f"{path} is damaged: {key} holds NaN or infinite values; fetch it again")
    network.load_state_dict({key.removeprefix(prefix): found[key].float() for key in wanted}, assign=True)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.requires_grad_(requires_grad=False)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names. Raises InputError."""
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"weights are read from .pth, .pt and .safetensors files, got {path}; convert it")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}; name another with method.features.weights"
        ) from error
    except Exception as error:  # unpickling a foreign file raises nearly anything
        raise InputError(
            f"{path} is damaged, or no file of weights: expected tensors by their names, and nothing else "
            f"({_first_sentence(error)}); fetch it again, or name another with method.features.weights"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(
            f"{path} is no file of weights: expected tensors by their names, as torch.save(network.state_dict(), FILE) "
            f"writes them, got {type(state).__name__}; name another with method.features.weights"
        )
    return {str(key): tensor for key, tensor in state.items()}


def _first_sentence(error: Exception) -> str:
    """Torch's messages have paragraphs."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")

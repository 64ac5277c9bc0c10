"""Layers of pretrained networks whose activations are read, by torchvision's names. Imports neither torch nor NumPy."""

from __future__ import annotations

from typing import NamedTuple

from flawmap.core.settings import FeatureName


class Tap(NamedTuple):
    """A layer's activations after its ReLU.

    maps: how many there are. first, spacing: where the receptive fields of its places are centred, in pixels of the
    patch: at first, first + spacing, ... The top left pixel reaches from 0 to 1, so its centre is 0.5.
    """

    maps: int
    first: float
    spacing: int


TAPS: dict[FeatureName, dict[str, Tap]] = {
    "alexnet": {
        "features.1": Tap(64, 3.5, 4),
        "features.4": Tap(192, 7.5, 8),
        "features.7": Tap(384, 15.5, 16),
        "features.9": Tap(256, 15.5, 16),
        "features.11": Tap(256, 15.5, 16),
    },
    "squeezenet": {
        "features.3": Tap(128, 5.5, 4),
        "features.4": Tap(128, 5.5, 4),
        "features.5": Tap(256, 5.5, 4),
        "features.7": Tap(256, 9.5, 8),
        "features.8": Tap(384, 9.5, 8),
        "features.9": Tap(384, 9.5, 8),
        "features.10": Tap(512, 9.5, 8),
        "features.12": Tap(512, 17.5, 16),
    },
    "resnet18": {
        "layer1": Tap(64, 0.5, 4),
        "layer2": Tap(128, 0.5, 8),
        "layer3": Tap(256, 0.5, 16),
        "layer4": Tap(512, 0.5, 32),
    },
}

USUAL_TAPS: dict[FeatureName, tuple[str, ...]] = {
    "alexnet": ("features.4", "features.7"),
    "squeezenet": ("features.4", "features.7"),
    "resnet18": ("layer2", "layer3"),
}
"""Two layers of middle depth: PatchCore (Roth et al. 2022) takes the second and third stage of a residual network."""

"""The methods: one row each. To add one, write its settings, its fit and its scorer, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from flawmap.methods.interface import Method
from flawmap.methods.settings import (
    AnoGANSettings,
    BiGANSettings,
    FeatureMatchingSettings,
    L1AdversarialSettings,
    L2Settings,
    MixtureSettings,
    StructuralSettings,
    VariationalSettings,
)


def when_called(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported at the first call: settings and help need no torch."""

    def call(*args: Any, **named: Any) -> Any:
        return getattr(import_module(module), name)(*args, **named)

    return call


_AUTOENCODER = (
    when_called("flawmap.methods.autoencoder", "fit"),
    when_called("flawmap.methods.autoencoder", "scorer"),
)
_ADVERSARIAL = when_called("flawmap.methods.adversarial", "fit")

METHODS: dict[str, Method] = {
    "ssim": Method(StructuralSettings, *_AUTOENCODER),
    "l2": Method(L2Settings, *_AUTOENCODER),
    "vae": Method(VariationalSettings, *_AUTOENCODER),
    "fm": Method(FeatureMatchingSettings, *_AUTOENCODER),
    "gmm": Method(
        MixtureSettings, when_called("flawmap.methods.mixture", "fit"), when_called("flawmap.methods.mixture", "scorer")
    ),
    "anogan": Method(AnoGANSettings, _ADVERSARIAL, when_called("flawmap.methods.search", "scorer")),
    "bigan": Method(BiGANSettings, _ADVERSARIAL, _AUTOENCODER[1]),
    "l1-adversarial": Method(L1AdversarialSettings, _ADVERSARIAL, _AUTOENCODER[1]),
}

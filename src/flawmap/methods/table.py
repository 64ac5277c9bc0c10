"""The methods: one row each. To add one, write its settings, its fit and its scorer, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from flawmap.methods.interface import Method
from flawmap.methods.settings import (
    FeatureDictionarySettings,
    FeatureMatchingSettings,
    L2Settings,
    MixtureSettings,
    SparseDictionarySettings,
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

METHODS: dict[str, Method] = {
    "ssim": Method(StructuralSettings, *_AUTOENCODER),
    "l2": Method(L2Settings, *_AUTOENCODER),
    "vae": Method(VariationalSettings, *_AUTOENCODER),
    "fm": Method(FeatureMatchingSettings, *_AUTOENCODER),
    "gmm": Method(
        MixtureSettings, when_called("flawmap.methods.mixture", "fit"), when_called("flawmap.methods.mixture", "scorer")
    ),
    "cnn-dictionary": Method(
        FeatureDictionarySettings,
        when_called("flawmap.methods.feature_dictionary", "fit"),
        when_called("flawmap.methods.feature_dictionary", "scorer"),
    ),
    "sparse-dictionary": Method(
        SparseDictionarySettings,
        when_called("flawmap.methods.sparse_dictionary", "fit"),
        when_called("flawmap.methods.sparse_dictionary", "scorer"),
    ),
}

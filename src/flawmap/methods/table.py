"""The methods: one row each. To add one, write its settings, its fit and its scorer, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flawmap.core.runtime import Runtime
from flawmap.core.settings import MethodSettings
from flawmap.methods.interface import Method, PatchScorer, State
from flawmap.methods.settings import (
    AnoGANSettings,
    BiGANSettings,
    FeatureDictionarySettings,
    FeatureMatchingSettings,
    L1AdversarialSettings,
    L2Settings,
    MixtureSettings,
    SparseDictionarySettings,
    StructuralSettings,
    VariationalSettings,
)

if TYPE_CHECKING:
    from flawmap.methods.config import Config


def when_called(module: str, name: str) -> Callable[..., Any]:
    """A function of a module of this room, which is imported at the first call: settings and help need no torch."""

    def call(*args: Any, **named: Any) -> Any:
        return getattr(import_module(f"flawmap.methods.{module}"), name)(*args, **named)

    return call


def row(settings: type[MethodSettings], fitting: str, scoring: str | None = None) -> Method:
    """A line of the table. fitting, scoring: the modules of `fit` and of `scorer`; None: the same one.

    All exported networks reconstruct patches, so they share one scorer, which needs no torch.
    """
    trained, exported = when_called(scoring or fitting, "scorer"), when_called("reconstruction", "exported_scorer")

    def scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
        found: PatchScorer = (trained if state.graph is None else exported)(config, state, runtime)
        return found

    return Method(settings, when_called(fitting, "fit"), scorer)


METHODS: dict[str, Method] = {
    "ssim": row(StructuralSettings, "autoencoder"),
    "l2": row(L2Settings, "autoencoder"),
    "vae": row(VariationalSettings, "autoencoder"),
    "fm": row(FeatureMatchingSettings, "autoencoder"),
    "gmm": row(MixtureSettings, "mixture"),
    "cnn-dictionary": row(FeatureDictionarySettings, "feature_dictionary"),
    "sparse-dictionary": row(SparseDictionarySettings, "sparse_dictionary"),
    "anogan": row(AnoGANSettings, "adversarial", "search"),
    "bigan": row(BiGANSettings, "adversarial", "autoencoder"),
    "l1-adversarial": row(L1AdversarialSettings, "adversarial", "autoencoder"),
}

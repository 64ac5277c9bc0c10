"""The two presets: `paper` follows Bergmann et al. 2019 to the letter, `fast` is the extended recipe."""

from __future__ import annotations

from flawmap.core.errors import ConfigError
from flawmap.core.settings import (
    MethodSettings,
    Preset,
    ResidualSettings,
    SSIMSettings,
    TilingSettings,
    TrainingSettings,
)
from flawmap.methods.config import USUAL, Config, method_type


def preset(name: Preset, method: str = USUAL) -> Config:
    """The settings of a preset for a method. Raises ConfigError for an unknown preset or method."""
    build = {"paper": _paper, "fast": _fast}.get(name)
    if build is None:
        raise ConfigError(f"preset must be paper or fast, got {name!r}")
    return build(method)


def _paper(method: str) -> Config:
    ssim = SSIMSettings(window="uniform", size=11, constants="paper")
    return Config(
        method=_method(method, ssim),
        residual=ResidualSettings(ssim=ssim),
        tiling=TilingSettings(stride=30),
        training=TrainingSettings(
            epochs=200, pool=10_000, batch=32, learning_rate=2e-4, weight_decay=1e-5, schedule="constant"
        ),
    )


def _fast(method: str) -> Config:
    return Config(
        method=_method(method, SSIMSettings(window="gaussian", size=11, constants="wang")),
        residual=ResidualSettings(ssim=SSIMSettings(window="uniform", size=15, constants="wang")),
        tiling=TilingSettings(stride=30, weights="hann"),
        training=TrainingSettings(minutes=10, batch=32, learning_rate=2e-3, warmup=50, schedule="cosine"),
    )


def _method(name: str, ssim: SSIMSettings) -> MethodSettings:
    """A method's settings, with the preset's SSIM where the method has one."""
    try:
        settings = method_type(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    given = {"name": name} | ({"ssim": ssim} if "ssim" in settings.model_fields else {})
    return settings.model_validate(given)

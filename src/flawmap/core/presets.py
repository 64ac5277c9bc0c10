"""The two presets: `paper` follows Bergmann et al. 2019 to the letter, `fast` is the extended recipe."""

from __future__ import annotations

from flawmap.core.errors import ConfigError
from flawmap.core.settings import (
    RESIDUAL_OF,
    Config,
    LossSettings,
    MethodName,
    Preset,
    ResidualSettings,
    SSIMSettings,
    TilingSettings,
    TrainingSettings,
)


def preset(name: Preset, loss: MethodName = "ssim") -> Config:
    """The settings of a preset: `paper` follows Bergmann et al. 2019 to the letter, `fast` is our own recipe."""
    build = {"paper": _paper, "fast": _fast}.get(name)
    if build is None:
        raise ConfigError(f"preset must be paper or fast, got {name!r}")
    return build(loss)


def _paper(loss: MethodName) -> Config:
    ssim = SSIMSettings(window="uniform", size=11, constants="paper")
    return Config(
        loss=LossSettings(name=loss, ssim=ssim),
        residual=ResidualSettings(name=RESIDUAL_OF[loss], ssim=ssim),
        tiling=TilingSettings(stride=30),
        training=TrainingSettings(
            epochs=200, pool=10_000, batch=32, learning_rate=2e-4, weight_decay=1e-5, schedule="constant"
        ),
    )


def _fast(loss: MethodName) -> Config:
    return Config(
        loss=LossSettings(name=loss, ssim=SSIMSettings(window="gaussian", size=11, constants="wang")),
        residual=ResidualSettings(
            name=RESIDUAL_OF[loss], ssim=SSIMSettings(window="uniform", size=15, constants="wang")
        ),
        tiling=TilingSettings(stride=30, weights="hann"),
        training=TrainingSettings(minutes=10, batch=32, learning_rate=2e-3, warmup=50, schedule="cosine"),
    )

"""The settings of each method: what it minimises or fits, and what it maps. They stand here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from flawmap.core.settings import FeatureSettings, MethodSettings, ResidualName, SSIMSettings
from flawmap.nets.weights import weights_file


class AutoencoderSettings(MethodSettings):
    """What all autoencoders share."""

    residuals: ClassVar[tuple[ResidualName, ...]] = ("l2", "ssim", "luminance", "contrast", "structure")
    average: ClassVar[Literal["reconstructions", "residuals"]] = "reconstructions"

    latent: int = Field(100, gt=0, le=100_000)  # d, dimensions of the latent vector


class L2Settings(AutoencoderSettings):
    """The loss is the squared difference."""

    name: Literal["l2"] = "l2"


class StructuralSettings(AutoencoderSettings):
    """The loss is 1 - SSIM (Bergmann et al. 2019, eq. 4-9)."""

    residuals: ClassVar[tuple[ResidualName, ...]] = ("ssim", "l2", "luminance", "contrast", "structure")

    name: Literal["ssim"] = "ssim"
    ssim: SSIMSettings = SSIMSettings()

    def problem(self, config: Any) -> str | None:
        if self.ssim.size > config.model.patch:
            return f"window size {self.ssim.size} must not exceed the patch, {config.model.patch}"
        return None


class VariationalSettings(AutoencoderSettings):
    """The loss is the squared difference plus a weighted KL divergence; the map is the reconstruction probability."""

    residuals: ClassVar[tuple[ResidualName, ...]] = ("probability", *AutoencoderSettings.residuals)
    average: ClassVar[Literal["reconstructions", "residuals"]] = "residuals"

    name: Literal["vae"] = "vae"
    kl_weight: float = Field(1.0, ge=0)  # beta: weight of the KL divergence

    def problem(self, config: Any) -> str | None:
        if config.training.corrupt:
            return "corrupt is not for a vae, whose noise floor is the error on good patches; set it to 0"
        return None


class FeatureMatchingSettings(AutoencoderSettings):
    """The loss is the squared difference of pixels and of a pretrained network's features."""

    name: Literal["fm"] = "fm"
    features: FeatureSettings = FeatureSettings()
    feature_weight: float = Field(1.0, ge=0)  # lambda: weight of the features' squared distance

    def files(self) -> dict[str, Path]:
        return {"features.weights": weights_file(self.features)}

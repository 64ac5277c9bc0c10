"""The settings of each method: what it minimises or fits, and what it maps. They stand here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flawmap.core.settings import LATENT, FeatureSettings, MethodSettings, ResidualName, SSIMSettings
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

    residuals: ClassVar[tuple[ResidualName, ...]] = ("probability", *AutoencoderSettings.residuals, *LATENT)
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


class MixtureSettings(MethodSettings):
    """Gaussian mixtures of small windows at several levels of detail; nothing is trained by steps."""

    gradual: ClassVar[bool] = False

    name: Literal["gmm"] = "gmm"
    levels: tuple[int, ...] = Field((1, 2, 4), min_length=1, strict=False)  # pixels between a window's pixels
    side: Literal[3, 5, 7] = 5  # of a window, in its own pixels
    dimensions: int = Field(12, gt=0)  # main components of windows
    components: int = Field(8, gt=0)  # Gaussians of a mixture
    samples: int = Field(20_000, ge=1000)  # windows that a mixture is fitted to

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if len(set(self.levels)) < len(self.levels) or not all(1 <= level <= 16 for level in self.levels):
            raise ValueError(f"levels must be different whole numbers from 1 to 16, got {self.levels}")
        return self

    def problem(self, config: Any) -> str | None:
        reach = self.side // 2 * max(self.levels)
        if reach >= config.model.patch:
            return f"windows reach {reach} pixels, which must be less than the patch, {config.model.patch}"
        return None


class SparseDictionarySettings(MethodSettings):
    """Sparse codes of windows in a learnt dictionary; nothing is trained by steps.

    Side, step, atoms (1.5 for each value of a grey window) and penalty are those of the authors' example for
    NanoTWICE, whose `darkest` is 0.15.
    """

    gradual: ClassVar[bool] = False

    name: Literal["sparse-dictionary"] = "sparse-dictionary"
    window: int = Field(15, ge=3, le=31)  # side, pixels
    step: int = Field(4, gt=0)  # between windows, pixels
    atoms: int = Field(338, gt=0)  # of the dictionary
    penalty: float = Field(0.1, gt=0)  # lambda: weight of a code's l1 norm, for intensities in [0, 1]
    density: Literal["kernel", "gaussian"] = "kernel"  # of the indicators
    samples: int = Field(10_000, ge=1000)  # windows that the dictionary is learnt from, and again for the density
    darkest: float = Field(0.0, ge=0, lt=1)  # windows with a lower mean are left out and count as good

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.step > self.window:
            raise ValueError(
                f"step must not exceed the window, or pixels between windows go unseen, got step {self.step} with "
                f"window {self.window}"
            )
        if self.atoms > self.samples:
            raise ValueError(f"atoms must not outnumber the samples, {self.samples}, got {self.atoms}")
        return self

    def problem(self, config: Any) -> str | None:
        if self.window > config.model.patch:
            return f"window {self.window} must not exceed the patch, {config.model.patch}"
        return None

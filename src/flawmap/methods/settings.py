"""The settings of each method: what it minimises or fits, and what it maps. They stand here alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flawmap.core.settings import (
    LATENT,
    FeatureName,
    FeatureSettings,
    MethodSettings,
    ResidualName,
    SSIMSettings,
)
from flawmap.nets.taps import TAPS, USUAL_TAPS
from flawmap.nets.weights import weights_file

RECONSTRUCTED: tuple[ResidualName, ...] = ("l2", "ssim", "luminance", "contrast", "structure")
"""Residuals of whatever reconstructs."""


class AutoencoderSettings(MethodSettings):
    """What all autoencoders share."""

    residuals: ClassVar[tuple[ResidualName, ...]] = (*RECONSTRUCTED, "l1")
    average: ClassVar[Literal["reconstructions", "residuals"]] = "reconstructions"

    latent: int = Field(100, gt=0, le=100_000)  # d, dimensions of the latent vector

    def spacing(self, patch: int) -> int | None:
        return 32 if patch == 256 else 16  # there it has one layer more


class L2Settings(AutoencoderSettings):
    """The loss is the squared difference."""

    name: Literal["l2"] = "l2"


class StructuralSettings(AutoencoderSettings):
    """The loss is 1 - SSIM (Bergmann et al. 2019, eq. 4-9)."""

    residuals: ClassVar[tuple[ResidualName, ...]] = ("ssim", "l2", "luminance", "contrast", "structure", "l1")

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

    def problem(self, config: Any) -> str | None:
        if self.features.network == "resnet18":
            return "features of resnet18 are not matched; set method.features.network to alexnet or squeezenet"
        return None

    def files(self) -> dict[str, Path]:
        return {"features.weights": weights_file(self.features)}


class AdversarialSettings(MethodSettings):
    """What adversarial methods share: a generator and a discriminator that train each other. Patches are compared one
    by one, as in the papers. Their side and Adam's betas are those of Radford et al. 2016 (arXiv:1511.06434)."""

    residuals: ClassVar[tuple[ResidualName, ...]] = ("l1", "features", *RECONSTRUCTED)
    average: ClassVar[Literal["reconstructions", "residuals"]] = "residuals"
    usual: ClassVar[Mapping[str, Any]] = {
        "model": {"patch": 64},
        "training": {"learning_rate": 1e-3},
    }

    latent: int = Field(100, gt=0, le=100_000)  # d, dimensions of the latent vector
    beta1: float = Field(0.5, ge=0, lt=1)  # of the gradient's mean, what Adam keeps at a step
    gradient_penalty: float = Field(10.0, ge=0)  # gamma: of the discriminator's squared gradient at real patches

    def problem(self, config: Any) -> str | None:
        if config.training.corrupt:
            return f"corrupt is for methods that are trained to reconstruct, not for {self.name}; set it to 0"
        return None


class AnoGANSettings(AdversarialSettings):
    """A generator alone: a patch's latent vector is searched by gradient descent (Schlegl et al. 2017)."""

    name: Literal["anogan"] = "anogan"
    search_steps: int = Field(500, ge=0)  # of Adam, for each patch
    search_rate: float = Field(0.05, gt=0)  # Adam's, in the search
    feature_share: float = Field(0.1, ge=0, le=1)  # lambda: of the features' difference in what the search lowers


class BiGANSettings(AdversarialSettings, AutoencoderSettings):
    """A generator, an encoder and a discriminator of pairs (Donahue et al. 2017; Zenati et al. 2018)."""

    name: Literal["bigan"] = "bigan"


class L1AdversarialSettings(AdversarialSettings, AutoencoderSettings):
    """The loss is the absolute difference plus a weighted adversarial loss (Baur et al. 2018)."""

    name: Literal["l1-adversarial"] = "l1-adversarial"
    adversarial_weight: float = Field(0.01, ge=0)  # of passing for real, beside a pixel's absolute difference

    def problem(self, config: Any) -> str | None:
        return None


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


class BackboneSettings(FeatureSettings):
    """The network that sees the regions; the smallest one unless another is named."""

    network: FeatureName = "squeezenet"


class FeatureDictionarySettings(MethodSettings):
    """Pretrained features of regions, compared with those of good regions; nothing is trained by steps."""

    gradual: ClassVar[bool] = False

    name: Literal["cnn-dictionary"] = "cnn-dictionary"
    features: BackboneSettings = BackboneSettings()
    layers: tuple[str, ...] = Field((), strict=False)  # torchvision's names; none: two of middle depth
    region: Literal[16, 32, 64, 128] = 16  # side over which features are averaged, pixels
    measure: Literal["dictionary", "nearest", "gaussian"] = "dictionary"
    variance: float = Field(0.95, gt=0, lt=1)  # share that the main components keep; not for gaussian
    words: int = Field(1000, gt=0)  # of the dictionary
    coreset: int = Field(4000, gt=0)  # words for nearest, where there are as many samples
    neighbours: int = Field(5, gt=0)  # m: nearest words whose distances are averaged; for dictionary
    samples: int = Field(20_000, ge=1000)  # regions that it is fitted to

    @model_validator(mode="after")
    def _sane(self) -> Self:
        known = TAPS[self.features.network]
        unknown = [name for name in self.layers if name not in known]
        if unknown:
            raise ValueError(f"{self.features.network} has the layers {', '.join(known)}, got {unknown[0]}")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers must name each layer once, got {', '.join(self.layers)}")
        if not self.neighbours <= self.words <= self.samples:
            raise ValueError(
                "neighbours must not exceed words, nor words the samples, got "
                f"{self.neighbours}, {self.words} and {self.samples}"
            )
        return self

    @property
    def read_layers(self) -> tuple[str, ...]:
        """The layers whose activations are read."""
        return self.layers or USUAL_TAPS[self.features.network]

    def files(self) -> dict[str, Path]:
        return {"features.weights": weights_file(self.features)}

    def problem(self, config: Any) -> str | None:
        if self.region > config.model.patch:
            return f"region must not exceed the patch, {config.model.patch}, got {self.region}"
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

"""The whole configuration: the sections of `flawmap.core.settings` and the settings of one method."""

from __future__ import annotations

from typing import Any, Self

from pydantic import SerializeAsAny, field_validator, model_validator

from flawmap.core.errors import ConfigError
from flawmap.core.settings import (
    BY_PATCH,
    WINDOWED,
    CheckSettings,
    ChoiceSettings,
    EvidenceSettings,
    ImageSettings,
    MethodSettings,
    ModelSettings,
    ResidualSettings,
    Settings,
    SplitSettings,
    ThresholdSettings,
    TilingSettings,
    TrainingSettings,
)
from flawmap.methods.settings import StructuralSettings
from flawmap.methods.table import METHODS

USUAL = "ssim"
"""The method unless another one is named."""


class Config(Settings):
    """Everything that decides what a training does and what its detector says.

    method: the settings of one method, told apart by their `name`; a dictionary becomes the type of its name.
    """

    model: ModelSettings = ModelSettings()
    method: SerializeAsAny[MethodSettings] = StructuralSettings()
    residual: ResidualSettings = ResidualSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    tiling: TilingSettings = TilingSettings()
    images: ImageSettings = ImageSettings()
    split: SplitSettings = SplitSettings()
    training: TrainingSettings = TrainingSettings(minutes=10)
    threshold: ThresholdSettings = ThresholdSettings()
    choice: ChoiceSettings = ChoiceSettings()
    check: CheckSettings = CheckSettings()

    @field_validator("method", mode="before")
    @classmethod
    def _of_its_name(cls, value: Any) -> MethodSettings:
        if isinstance(value, MethodSettings):
            return value
        name = value.get("name", USUAL) if isinstance(value, dict) else USUAL
        return method_type(name).model_validate(value)

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.tiling.stride > self.model.patch:
            raise ValueError(
                f"stride must not exceed the patch, or pixels between patches go unseen, "
                f"got stride {self.tiling.stride} with patch {self.model.patch}"
            )
        problem = (
            self.method.problem(self) or self._encoder_problem() or self._residual_problem() or self._evidence_problem()
        )
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def mapped(self) -> ResidualSettings:
        """The residual's settings with its name, which is the method's own where none is given."""
        if self.residual.name is not None or not self.method.residuals:
            return self.residual
        return self.residual.model_copy(update={"name": self.method.residuals[0]})

    @property
    def parts(self) -> tuple[ResidualSettings, ...]:
        """The residuals that are mapped: one, or, for evidence, those of its parts that the method has."""
        if not self.evidence.enabled or self.residual.name is not None:
            return (self.mapped,)
        names = [name for name in self.evidence.parts if name in self.method.residuals]
        return tuple(self.residual.model_copy(update={"name": name}) for name in names) or (self.mapped,)

    @property
    def scales(self) -> tuple[float, ...]:
        """Sigmas of the Gaussians over every residual map, pixels at the working scale; 0: none."""
        return self.evidence.scales if self.evidence.enabled else (self.residual.smoothing,)

    @property
    def averages_residuals(self) -> bool:
        """Whether patches are compared by themselves and their residuals averaged, or the other way round."""
        return (self.tiling.average or self.method.average) == "residuals"

    def _encoder_problem(self) -> str | None:
        apart = self.method.spacing(self.model.patch)
        if self.tiling.encoder == "image" and apart is not None and self.tiling.stride % apart:
            return (
                f"where an image is encoded once, the stride is a multiple of {apart} pixels, got "
                f"{self.tiling.stride}; set tiling.stride={-(-self.tiling.stride // apart) * apart}, or "
                "tiling.encoder=patches"
            )
        return None

    def _evidence_problem(self) -> str | None:
        if self.evidence.enabled and (self.residual.smoothing or self.residual.border_correction):
            return (
                "evidence has scales and a border correction of its own, got residual.smoothing = "
                f"{self.residual.smoothing:g} and border_correction = {str(self.residual.border_correction).lower()}; "
                "leave both, or set evidence.enabled = false"
            )
        return None

    def _residual_problem(self) -> str | None:
        name = self.mapped.name
        if name is not None and name not in self.method.residuals:
            if name in BY_PATCH:
                able = [method for method, row in METHODS.items() if name in row.settings.residuals]
                what = {"probability": "network that samples", "features": "discriminator"}
                need = what.get(name, "network with a latent distribution")
                return (
                    f"residual {name} needs a {need}, method {' or '.join(able)}, got method {self.method.name}; train "
                    f"with --method {able[0]}, or map {' or '.join(self.method.residuals[:2]) or 'nothing'}"
                )
            return f"the method {self.method.name} maps by itself, got residual {name}; leave residual.name unset"
        if name in WINDOWED and self.residual.ssim.size > self.model.patch:
            return f"window size {self.residual.ssim.size} must not exceed the patch, {self.model.patch}"
        alone = next((part.name for part in self.parts if part.name in BY_PATCH), None)
        if alone is not None and self.tiling.average == "reconstructions":
            return (
                f"residual {alone} belongs to a patch, so average must be residuals, got reconstructions; leave it "
                "unset, or map l2"
            )
        if not self.method.residuals and self.tiling.average == "reconstructions":
            return (
                f"the method {self.method.name} maps patches by itself, so average must be residuals, got "
                "reconstructions; leave it unset"
            )
        return None


def method_type(name: Any) -> type[MethodSettings]:
    """The settings' type of a method. Raises ConfigError for a name that no method has."""
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"method.name must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name].settings

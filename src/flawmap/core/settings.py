"""The sections of the settings: frozen models that refuse nonsense when they are made.

Every unit stands beside its field. A configuration is written and read as TOML or as a plain dictionary;
unknown keys fail and name the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

PATCH_SIDES = (32, 64, 128, 256)

Preset = Literal["paper", "fast", "auto"]
LatentName = Literal["kl", "relative_kl", "norm", "euclidean", "bhattacharyya"]
ResidualName = Literal["l2", "ssim", "luminance", "contrast", "structure", "probability", "l1", "features", LatentName]
FeatureName = Literal["alexnet", "squeezenet", "resnet18"]

WINDOWED = ("ssim", "luminance", "contrast", "structure")
"""Residuals that compare windows."""
LATENT: tuple[LatentName, ...] = get_args(LatentName)
"""Residuals that measure a patch's latent distribution: one value for all of its pixels."""
BY_PATCH = ("probability", "features", *LATENT)
"""Residuals that need more of a patch than its reconstruction, so that patches are compared one by one."""
# TOML and JSON have no tuples and no paths: lists and strings stand for them.
Numbers = Annotated[tuple[float, float], Field(strict=False)]
Size = Annotated[tuple[int, int], Field(strict=False)]
Box = Annotated[tuple[int, int, int, int], Field(strict=False)]
Folder = Annotated[Path, Field(strict=False)]


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no silent conversions of strings to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class SSIMSettings(Settings):
    """Structural similarity: window, constants, exponents."""

    window: Literal["uniform", "gaussian"] = "uniform"
    size: int = Field(11, ge=3, le=101)  # K, pixels, odd
    sigma: float = Field(1.5, gt=0)  # of the Gaussian window, pixels
    constants: Literal["paper", "wang"] | Numbers = "paper"  # (c1, c2) for intensities in [0, 1]
    alpha: float = Field(1.0, ge=0)  # exponent of luminance
    beta: float = Field(1.0, ge=0)  # exponent of contrast
    gamma: float = Field(1.0, ge=0)  # exponent of structure

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.size % 2 == 0:
            raise ValueError(f"window size must be odd, so that it has a centre, got {self.size}")
        if not isinstance(self.constants, str) and min(self.constants) <= 0:
            raise ValueError(f"constants must be positive (they keep flat patches finite), got {self.constants}")
        if self.alpha == self.beta == self.gamma == 0:
            raise ValueError("alpha, beta and gamma must not all be 0, or every two images are alike")
        return self


class ModelSettings(Settings):
    """What every method looks at: square patches of images."""

    patch: int = 128  # side, pixels
    channels: Literal[1, 3] | None = None  # None: taken from the training images

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.patch not in PATCH_SIDES:
            raise ValueError(f"patch must be one of {', '.join(map(str, PATCH_SIDES))} pixels, got {self.patch}")
        return self


class MethodSettings(Settings):
    """Base of the settings of a method; `flawmap.methods.table` lists those there are.

    residuals: what a scored image may be mapped by, the method's own choice first; none: the method maps by itself.
    average: which overlapping things are averaged when an image is scored, unless `tiling.average` says otherwise.
    gradual: whether a longer training improves it.
    usual: other sections' settings that presets give this method, instead of their own.
    """

    residuals: ClassVar[tuple[ResidualName, ...]] = ()
    average: ClassVar[Literal["reconstructions", "residuals"]] = "residuals"
    gradual: ClassVar[bool] = True
    usual: ClassVar[Mapping[str, Any]] = {}

    name: str

    def files(self) -> dict[str, Path]:
        """The files that the fit reads, by the settings of this section that name them; asked before any image is read.

        Raises:
            InputError: one is missing.
        """
        return {}

    def spacing(self, patch: int) -> int | None:
        """Pixels between the features of an encoder that could see a whole image; None: there is no encoder."""
        return None

    def problem(self, config: Any) -> str | None:
        """What does not fit between these settings and the others of a Config, in a sentence; None: all fits."""
        return None


class FeatureSettings(Settings):
    """A pretrained network whose features are used. Its file is read to train, and never again."""

    network: FeatureName = "alexnet"
    weights: Folder | None = None  # a file, .pth or .safetensors; None: where `flawmap weights fetch` puts it


class ResidualSettings(Settings):
    """What is mapped when an image is scored."""

    name: ResidualName | None = None  # None: the method's own
    ssim: SSIMSettings = SSIMSettings()
    l2_weight: float = Field(0.0, ge=0)  # weight of the squared difference, added to the residual ssim
    samples: int = Field(6, ge=1, le=1000)  # decoded for each patch, for the residual probability
    smoothing: float = Field(0.0, ge=0, le=100)  # sigma of a Gaussian over the map, pixels at the working scale
    border_correction: bool = False  # divide by the mean of good images at this distance from the border


class EvidenceSettings(Settings):
    """How rare a residual is among good images, mapped instead of the residual itself."""

    enabled: bool = False  # off: the residual is mapped as it is
    parts: tuple[ResidualName, ...] = Field(("ssim", "l2"), min_length=1, strict=False)  # unless residual.name is set
    scales: tuple[float, ...] = Field((1.0, 2.0, 4.0, 8.0), min_length=1, strict=False)  # sigmas, pixels; 0: as it is

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts must name each residual once, got {', '.join(self.parts)}")
        if len(set(self.scales)) < len(self.scales) or not all(0 <= scale <= 100 for scale in self.scales):
            raise ValueError(f"scales must be different numbers of pixels from 0 to 100, got {self.scales}")
        return self


class TilingSettings(Settings):
    """How patches cover an image and are merged again."""

    stride: int = Field(30, gt=0)  # pixels at the working scale
    average: Literal["reconstructions", "residuals"] | None = None  # None: what the method asks for
    weights: Literal["uniform", "hann"] = "uniform"  # of a patch's pixels in the average
    encoder: Literal["patches", "image"] = (
        "patches"  # what an encoder, if there is one, sees: patch by patch, or the image once
    )
    pad: bool = False  # reflect images that are smaller than a patch, to train on and to score


class RegionOfInterest(Settings):
    """The part of an image that is trained on and scored. At most one of the three; none: everywhere."""

    box: Box | None = None  # left, top, right, bottom; right and bottom are outside; pixels
    masks: Folder | None = None  # folder of masks with the images' names; their rule is that of ground truth
    brightness: Numbers | None = None  # lowest and highest intensity inside, of [0, 1], after a 31 px mean

    @model_validator(mode="after")
    def _sane(self) -> Self:
        named = [name for name in ("box", "masks", "brightness") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"a region of interest is given in one way, got {' and '.join(named)}")
        if self.box is not None:
            left, top, right, bottom = self.box
            if left < 0 or top < 0 or right <= left or bottom <= top:
                raise ValueError(
                    f"box must be left,top,right,bottom with left < right and top < bottom, got {self.box}"
                )
        if self.brightness is not None and not 0 <= self.brightness[0] < self.brightness[1] <= 1:
            raise ValueError(
                f"brightness must be lowest,highest with 0 <= lowest < highest <= 1, got {self.brightness}"
            )
        return self

    @property
    def everywhere(self) -> bool:
        return self.box is None and self.masks is None and self.brightness is None


class ImageSettings(Settings):
    """How image files become arrays."""

    mode: Literal["auto", "grey", "colour"] = "auto"  # auto: as they are, all alike; grey, colour: converted
    scale: float | Size = 1.0  # the working scale: a factor, or (width, height) in pixels
    white: float | None = Field(None, gt=0)  # the stored value that becomes 1; None: the integer type's largest, or 1
    pixel_limit: int = Field(400_000_000, gt=0)  # pixels; larger images are refused (decompression bombs)
    roi: RegionOfInterest = RegionOfInterest()

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if isinstance(self.scale, tuple):
            if min(self.scale) < 1:
                raise ValueError(f"scale must be a factor or width,height in pixels, got {self.scale}")
        elif not 0.01 <= self.scale <= 16:
            raise ValueError(f"scale must lie between 0.01 and 16, got {self.scale}")
        return self


class SplitSettings(Settings):
    """How the good images are split into training, validation and held-out good test images."""

    validation: float | None = Field(None, ge=0, lt=1)  # fraction of the good images; None: 0.1, or up to 0.6 for alpha
    test: float = Field(0.1, ge=0, lt=1)  # fraction of the good images, never trained on
    last: int | None = Field(None, ge=0)  # keep the last N good images by name as test images, instead of a fraction
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if (self.validation or 0) + (0 if self.last is not None else self.test) >= 1:
            raise ValueError(
                f"validation and test must leave images to train on, got {self.validation} + {self.test} of 1"
            )
        return self


class TrainingSettings(Settings):
    """The budget and the loop of gradient training. Exactly one of steps, epochs and minutes is set."""

    steps: int | None = Field(None, gt=0)  # parameter updates
    epochs: int | None = Field(None, gt=0)  # passes over the fixed pool
    minutes: float | None = Field(None, gt=0)  # measured once at the start and turned into steps
    batch: int = Field(32, gt=0)  # patches
    pool: int | None = Field(None, gt=0)  # size of a fixed set of patches; None: fresh patches at every step
    learning_rate: float = Field(1e-3, gt=0)  # Adam's, at its highest
    warmup: int = Field(0, ge=0)  # steps
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.0, ge=0)  # Adam's l2 penalty
    augment: Literal["none", "flips", "turns"] = "none"  # flips: mirror both ways; turns: also by quarter turns
    corrupt: float = Field(0.0, ge=0, le=1)  # fraction of the patches that get a synthetic stain to remove
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    memory_gb: float | None = Field(None, ge=0)  # for images, 10^9 bytes; None: half of what the machine has free
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(0, ge=0)
    checkpoint_minutes: float = Field(1.0, gt=0)  # between checkpoints
    plateau_steps: int = Field(1000, ge=0)  # stop if the loss is still that of a constant reconstruction; 0: never

    @model_validator(mode="after")
    def _sane(self) -> Self:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of steps, epochs and minutes is needed, got {' and '.join(given) or 'none'}")
        if self.epochs is not None and self.pool is None:
            raise ValueError("epochs need a fixed pool of patches; set training.pool, or give steps or minutes")
        return self


class ChoiceSettings(Settings):
    """What is tried before a training, and what is kept of it: both judged on good images alone."""

    candidates: tuple[str, ...] = Field(
        (), strict=False
    )  # each "section.key=value ..."; none: the settings as they are
    share: float = Field(0.04, gt=0, le=1)  # of the training's budget, for the trial of each candidate
    looks: int = Field(1, ge=1, le=20)  # states of the training that are compared, at even distances; 1: its end
    quicker: tuple[str, ...] = Field(
        (), strict=False
    )  # each "tiling.key=value ...", tried after the training, the quickest first; the first that costs little is kept


class CheckSettings(Settings):
    """Whether a training ends with a self-check: which defects the model finds, and what it tolerates."""

    enabled: bool = False


class ThresholdSettings(Settings):
    """The residual above which a pixel is a flaw: taken from held-out good images alone."""

    rule: Literal["quantile", "largest", "conformal"] = "quantile"
    alpha: float = Field(0.05, gt=0, lt=1)  # share of good images that may be rejected, for the rule conformal
    false_positive_rate: float = Field(1e-4, gt=0, lt=1)  # fraction of good pixels above the threshold
    opening: int = Field(4, ge=0, le=101)  # diameter of the opening's circle, pixels of the image; 0: none
    mask: Literal["threshold", "pasted"] = "threshold"  # the level of masks: the threshold's, or by pasted defects
    area: int = Field(1, ge=1)  # pixels of the image; smaller regions are no flaws

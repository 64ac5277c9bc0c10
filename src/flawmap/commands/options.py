"""Options that several commands share, and how their text becomes settings. Defaults are those of the settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flawmap.core.errors import ConfigError
from flawmap.methods.config import Config
from flawmap.methods.overrides import default_text
from flawmap.methods.table import METHODS

USUAL = Config()
LARGEST_FACTOR = 16  # of --scale; the settings refuse larger ones, but a number of pixels may have been meant


def help_of(text: str, setting: str = "", otherwise: str = "") -> str:
    """An option's help with the default of its setting, or with what applies where nothing is set."""
    default = default_text(USUAL, setting) if setting else ""
    return f"{text} [default: {default or otherwise}]" if default or otherwise else text


def switch(name: str, text: str, short: str = "") -> Any:
    """A switch with its `--no-` form, so that an option can say either."""
    return typer.Option(*([short] if short else []), f"--{name}/--no-{name}", help=text)


# ------------------------------------------------------------------------------------------------- of several commands

AsJson = Annotated[bool, switch("json", "Print one JSON document for machines, nothing else.")]
Quiet = Annotated[bool, switch("quiet", "Print errors only.", "-q")]
Verbose = Annotated[bool, switch("verbose", "Show the library's log, and tracebacks of our faults.", "-v")]
Model = Annotated[Path, typer.Argument(help="Model file.")]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int8"],
    typer.Option(help="Arithmetic of the network; auto: bfloat16 where it is native, or see --engine."),
]
Engine = Annotated[
    Literal["auto", "torch", "onnxruntime", "openvino"],
    typer.Option(
        help="Runs the network; all but torch need flawmap[export] and the CPU. auto: the fastest that keeps the "
        "model's verdicts (`flawmap info`), or the export's."
    ),
]
Preset = Annotated[
    Literal["auto", "fast", "paper"],
    typer.Option(help="auto: chosen on your good images; fast: SSIM, trained by minutes; paper: as published."),
]
PaperPreset = Annotated[
    Literal["paper", "fast"], typer.Option(help="paper: as published; fast: the extended recipe, trained by minutes.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting, as often as needed. [default: none]"),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file of settings; --set and options win over it. [default: none]")
]
Mode = Annotated[
    Literal["auto", "grey", "colour"] | None,
    typer.Option(help=help_of("Convert every image; auto: as they are.", "images.mode")),
]
RoiBox = Annotated[
    str | None,
    typer.Option("--roi-box", help=help_of("Region of interest: left,top,right,bottom in pixels.", otherwise="all")),
]
RoiMasks = Annotated[
    Path | None,
    typer.Option(
        "--roi-masks", help=help_of("Region of interest: folder of masks with the images' names.", otherwise="all")
    ),
]
RoiMasksHere = Annotated[
    Path | None,
    typer.Option("--roi-masks", help=help_of("Folder of ROI masks, for a model that has them.", otherwise="none")),
]
FeatureNetwork = Annotated[
    Literal["alexnet", "squeezenet"] | None,
    typer.Option(help=help_of("The network in that file.", otherwise="alexnet")),
]

# ---------------------------------------------------------------------------------------------------------- of training

Method = Annotated[str | None, typer.Option(help=help_of(f"How to train: {', '.join(METHODS)}.", "method.name"))]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help=help_of("Length of the training, in minutes.", "training.minutes"))
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help=help_of("Length of the training, in parameter updates.", otherwise="by minutes")),
]
Scale = Annotated[str | None, typer.Option(help=help_of("Working scale: a factor, or WxH in pixels.", "images.scale"))]
Pace = Annotated[
    bool | None,
    typer.Option(
        "--fast/--thorough",
        help=help_of(
            "Score by the widest stride, or none but the settings' own.", otherwise="chosen by pasted defects"
        ),
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help=help_of("Seed of the training.", "training.seed"))]
TrainingDevice = Annotated[
    str | None, typer.Option("--device", help=help_of("auto, cpu, cuda, cuda:N or mps.", "training.device"))
]
ShowConfig = Annotated[bool, switch("show-config", "Print the resolved settings and stop.")]
ResumeTraining = Annotated[bool, switch("resume", "Go on from the checkpoint beside the model.")]
SkipUnreadable = Annotated[bool, switch("skip-unreadable", "Leave out training images that cannot be read.")]
SkipOutliers = Annotated[bool, switch("skip-outliers", "Leave out training images that are unlike the others.")]
TensorBoard = Annotated[
    Path | None, typer.Option("--tensorboard", help=help_of("Folder for TensorBoard's event files.", otherwise="none"))
]

# ------------------------------------------------------------------------------------------- of inspection, evaluation

Threshold = Annotated[
    float | None, typer.Option(help=help_of("Residual above which a pixel is a flaw.", otherwise="the model's own"))
]
Point = Annotated[
    str | None, typer.Option(help=help_of("Operating point of the model to decide by.", otherwise="the model's own"))
]
Residuals = Annotated[bool, switch("residuals", "Also write residual maps, float32 TIFF.")]
Overlays = Annotated[bool, switch("overlays", "Write overlays.")]
Report = Annotated[bool, switch("report", "Write pages to look at, as `flawmap report` does.")]
FailOnFlaw = Annotated[bool, switch("fail-on-flaw", "Exit with 3 if any flaw is found.")]
ResumeInspection = Annotated[
    bool, switch("resume", "Keep what an earlier run did; inspect the other images. With --ray: always.")
]
Page = Annotated[
    int | None,
    typer.Option(min=1, help=help_of("Page of files with several, counted from 1.", otherwise="files have one page")),
]
Pages = Annotated[bool, switch("pages", "Inspect every page of files with several.")]
Ray = Annotated[
    str | None,
    typer.Option(
        help=help_of("Score on Ray: local, auto (this machine's cluster) or HOST:PORT.", otherwise="this process")
    ),
]
Actors = Annotated[
    int | None, typer.Option(min=1, help=help_of("With --ray: detectors.", otherwise="as many as there is room for"))
]
ActorCpus = Annotated[int, typer.Option(min=1, help="With --ray: CPUs of each detector, and torch's threads.")]
ActorGpus = Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each detector; may be a fraction.")]
ReadTimeout = Annotated[float, typer.Option(min=0.001, help="With --ray: seconds that reading an image may take.")]
Masks = Annotated[bool, switch("masks", "With --ray: also write masks, PNG.")]
SkipDuplicates = Annotated[bool, switch("skip-duplicates", "With --ray: score images with equal bytes once.")]
DryRun = Annotated[bool, switch("dry-run", "With --ray: say what is to be done, and stop.")]
SetScoring = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Score by another setting, as residual.name=l2. [default: none]"
    ),
]
Last = Annotated[
    int | None,
    typer.Option(
        min=0,
        help=help_of(
            "Count the last N good training images by name as test images.", otherwise="those that were held out"
        ),
    ),
]


def image_changes(
    *, mode: str | None = None, roi_box: str | None = None, roi_masks: Path | None = None, scale: str | None = None
) -> dict[str, Any]:
    """The settings of images that were given as options."""
    return given(
        {
            "mode": mode,
            "scale": None if scale is None else scale_of(scale),
            "roi": {"box": None if roi_box is None else box_of(roi_box), "masks": roi_masks and roi_masks.absolute()},
        }
    )


def given(changes: dict[str, Any]) -> dict[str, Any]:
    """Without the options that were not given, so that presets and files decide."""
    kept = {key: given(value) if isinstance(value, dict) else value for key, value in changes.items()}
    return {key: value for key, value in kept.items() if value is not None and value != {}}


def scale_of(text: str) -> float | tuple[int, int]:
    """A factor, or (width, height)."""
    try:
        factor = float(text)
    except ValueError:
        return size_of(text, "--scale")
    return factor if math.isfinite(factor) and factor <= LARGEST_FACTOR else size_of(text, "--scale")


def size_of(text: str, option: str) -> tuple[int, int]:
    """(width, height) of a text such as 256x256."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        example = f"a factor up to {LARGEST_FACTOR} such as 0.5, or " if option == "--scale" else ""
        raise ConfigError(f"{option} must be {example}width x height in pixels such as 256x256, got {text}")
    return int(parts[0]), int(parts[1])


def box_of(text: str) -> tuple[int, ...]:
    """(left, top, right, bottom) of a text such as 10,20,500,400."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise ConfigError(f"--roi-box must be left,top,right,bottom such as 10,20,500,400, got {text}")
    return numbers


def names_of(text: str) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())

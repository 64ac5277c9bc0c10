"""The command line: parse, one call of `flawmap.jobs`, print, exit code. Nothing heavy is imported before it is needed.

Exit codes: 0 done; 1 our fault; 2 wrong use or bad input; 3 flaws found (only with --fail-on-flaw); 4 some images
could not be read or some trainings failed, the rest is done (wins over 3); 130 interrupted. A disk without room or
rights counts as 2.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flawmap.commands.console import (
    Output,
    end_log,
    show_data,
    show_demo,
    show_evaluation,
    show_info,
    show_inspections,
    show_plan,
    show_reproduction,
    show_training,
    show_weights,
)
from flawmap.core.errors import ConfigError, FlawmapError

if TYPE_CHECKING:
    from flawmap.core.settings import Config, ImageSettings

OUR_FAULT, BAD_INPUT, FLAWS_FOUND, SOME_UNREADABLE, INTERRUPTED = 1, 2, 3, 4, 130
LARGEST_FACTOR = 16  # of --scale; the settings refuse larger ones, but a number of pixels may have been meant


class PresetName(StrEnum):
    paper = "paper"
    fast = "fast"


class MethodName(StrEnum):
    l2 = "l2"
    ssim = "ssim"
    vae = "vae"
    fm = "fm"


class FeatureName(StrEnum):
    alexnet = "alexnet"
    squeezenet = "squeezenet"


class WeightsAction(StrEnum):
    list = "list"
    fetch = "fetch"


class ExperimentName(StrEnum):
    figure1 = "figure1"
    figure2 = "figure2"
    figure3 = "figure3"
    figure5 = "figure5"
    figure6 = "figure6"
    figure7 = "figure7"
    table2 = "table2"
    ours = "ours"
    timing = "timing"
    all = "all"


class KindName(StrEnum):
    cloth = "cloth"
    twill = "twill"
    fibres = "fibres"
    checkerboard = "checkerboard"


class ModeName(StrEnum):
    auto = "auto"
    grey = "grey"
    colour = "colour"


class AugmentName(StrEnum):
    none = "none"
    flips = "flips"
    turns = "turns"


class PrecisionName(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class EngineName(StrEnum):
    torch = "torch"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


class AverageName(StrEnum):
    reconstructions = "reconstructions"
    residuals = "residuals"


class RuleName(StrEnum):
    quantile = "quantile"
    largest = "largest"


app = typer.Typer(
    name="flawmap",
    help="Train on good images, get a map of the flaws in any other.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Options that several commands share.
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the library's log, and tracebacks of our faults.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[PrecisionName, typer.Option(help="Of the network; auto: bfloat16 where it is native.")]
Engine = Annotated[
    EngineName, typer.Option(help="What runs the network; all but torch: on the CPU, from flawmap[export].")
]
Scale = Annotated[
    str | None, typer.Option(help="Factor (0.5), or WxH in pixels (256x256), that images are worked at. [default: 1]")
]
Mode = Annotated[ModeName | None, typer.Option(help="Convert every image to this mode. [default: auto, as they are]")]
White = Annotated[
    float | None, typer.Option(help="Stored value that becomes 1. [default: the integer type's largest, or 1]")
]
PixelLimit = Annotated[
    int | None, typer.Option(min=1, help="Largest image accepted, in pixels. [default: 400 million]")
]
Box = Annotated[
    str | None, typer.Option(help="Region of interest: left,top,right,bottom in the image's own pixels. [default: all]")
]
RegionMasks = Annotated[
    Path | None,
    typer.Option("--roi-masks", help="Region of interest: a folder of masks with the images' names. [default: all]"),
]
Brightness = Annotated[
    str | None,
    typer.Option(
        help="Region of interest: lowest,highest mean intensity inside, each from 0 to 1, where 1 is white. "
        "[default: all]"
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flawmap {metadata.version('flawmap')}")
        raise typer.Exit


@app.callback()
def flawmap(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train on good images, get a map of the flaws in any other."""


@app.command(short_help="Train l2 and SSIM on synthetic cloth and compare them.")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("flawmap-demo"),
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Training time of each of the two methods, in minutes.")
    ] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Of images and training.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Weave synthetic cloth, train l2 and SSIM on it, compare both, and write a page to look at."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.demo import demo as run

    with out.progress() as progress:
        result = run(output, minutes=minutes, seed=seed, observe=progress.training, done=progress.count, say=out.say)
    out.result(result, show_demo)


@app.command(short_help="Write a synthetic data set with exact masks.")
def synth(
    output: Annotated[Path, typer.Argument(help="Folder to write, in the layout of MVTec AD.")],
    kind: Annotated[KindName, typer.Option(help="Material.")] = KindName.cloth,
    good: Annotated[
        int, typer.Option(min=1, help="Number of good images to train on; a quarter as many go to test/good.")
    ] = 20,
    bad: Annotated[int, typer.Option(min=0, help="Number of images with a flaw.")] = 10,
    size: Annotated[str, typer.Option(help="Width x height of an image, in pixels.")] = "256x256",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a synthetic data set: good images, flawed images, and exact masks."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.synth import synth as run

    counts = run(output, kind.value, good=good, bad=bad, size=_size(size, "--size"), seed=seed)
    out.result({"folder": str(output), "images": counts}, lambda console, result: _show_counts(console, output, counts))


@app.command(short_help="List what a data set is understood to hold.")
def data(
    path: Annotated[Path, typer.Argument(help="Folder of images, or a CSV manifest.")],
    roi_box: Box = None,
    roi_masks: RegionMasks = None,
    roi_brightness: Brightness = None,
    mode: Mode = None,
    white: White = None,
    pixel_limit: PixelLimit = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List what a data set is understood to hold, before anyone trains: counts, sizes, masks, what is ignored."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.data import data as run
    from flawmap.core.overrides import override
    from flawmap.core.settings import Config

    images = _image_changes(
        mode=mode, white=white, pixel_limit=pixel_limit, box=roi_box, region=roi_masks, brightness=roi_brightness
    )
    settings: ImageSettings = override(Config(), {"images": images}).images
    out.result(run(path, settings).to_dict(), show_data)


@app.command()
def train(
    path: Annotated[Path | None, typer.Argument(metavar="DATA", help="Folder of good images, or a data set.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")] = Path("model.flawmap"),
    preset: Annotated[PresetName, typer.Option(help="paper: as published; fast: our recipe.")] = PresetName.fast,
    loss: Annotated[MethodName | None, typer.Option(help="What is minimised and mapped. [default: ssim]")] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="With --loss fm: file of the feature network's pretrained weights, .pth or .safetensors. [default: "
            "where `flawmap weights fetch` puts it]"
        ),
    ] = None,
    feature_network: Annotated[
        FeatureName | None, typer.Option(help="With --loss fm: whose first layers are matched. [default: alexnet]")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Budget, in minutes of training. [default with fast: 10]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Budget, in parameter updates. [default: by minutes or epochs]")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Budget, in passes over a fixed pool of patches. [default with paper: 200]"),
    ] = None,
    latent: Annotated[int | None, typer.Option(min=1, help="Latent dimensions d. [default: 100]")] = None,
    patch: Annotated[int | None, typer.Option(help="Patch side, 32, 64, 128 or 256 pixels. [default: 128]")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Pixels from patch to patch in scoring. [default: 30]")
    ] = None,
    average: Annotated[
        AverageName | None,
        typer.Option(help="What is averaged where patches overlap. [default: reconstructions; of vae residuals]"),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of the SSIM window, odd, pixels; loss and residual. [default: by preset]")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Patches a step. [default: 32]")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's rate at its highest. [default: by preset]")
    ] = None,
    corrupt: Annotated[
        float | None,
        typer.Option(help="Share of the patches that get a stain to be taken away, 0 to 1. [default: 0]"),
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option(help="Deviation of a Gaussian over the residual map, pixels. [default: 0]")
    ] = None,
    border_correction: Annotated[
        bool, typer.Option("--border-correction", help="Divide residuals by what good images leave at their border.")
    ] = False,
    augment: Annotated[
        AugmentName | None,
        typer.Option(help="flips: mirror patches; turns: also by quarter turns. [default: by preset]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of training. [default: 0]")] = None,
    scale: Scale = None,
    mode: Mode = None,
    white: White = None,
    pixel_limit: PixelLimit = None,
    roi_box: Box = None,
    roi_masks: RegionMasks = None,
    roi_brightness: Brightness = None,
    pad: Annotated[bool, typer.Option("--pad", help="Reflect images smaller than a patch when scoring.")] = False,
    validation: Annotated[
        float | None, typer.Option(help="Share of the good images kept for the threshold, 0 to 1. [default: 0.1]")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(min=0, help="Keep the last N good images by name as test images. [default: a tenth, by seed]"),
    ] = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="Of the split. [default: 0]")] = None,
    false_positive_rate: Annotated[
        float | None, typer.Option(help="Share of good pixels above the threshold, 0 to 1. [default: 0.0001]")
    ] = None,
    threshold_rule: Annotated[
        RuleName | None,
        typer.Option(help="quantile: by the false positive rate; largest: above all good pixels. [default: quantile]"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps. [default: auto]")] = None,
    precision: Annotated[
        PrecisionName | None,
        typer.Option(help="Of the network; auto: bfloat16 where it is native. [default: auto]"),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="For training images, GB; of more, patches are read from a file beside the model. [default: half of "
            "what is free]",
        ),
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML file with any setting; options win. [default: none]")
    ] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside the model.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out training images that cannot be read.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's event files. [default: none]")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train on good images and write a model with its threshold."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.core.overrides import override, to_toml

    windows = {"ssim": {"size": window}}
    changes = {
        "model": {"latent": latent, "patch": patch},
        "loss": {
            "name": loss and loss.value,
            "features": {"network": feature_network and feature_network.value, "weights": features},
            **windows,
        },
        "residual": {
            **windows,
            "smoothing": smoothing,
            "border_correction": border_correction or None,
        },  # its name follows the loss
        "tiling": {"stride": stride, "average": average and average.value, "pad": pad or None},
        "images": _image_changes(
            mode=mode,
            white=white,
            pixel_limit=pixel_limit,
            box=roi_box,
            region=roi_masks,
            brightness=roi_brightness,
            scale=scale,
        ),
        "split": {"validation": validation, "last": last, "seed": split_seed},
        "training": {
            "minutes": minutes,
            "steps": steps,
            "epochs": epochs,
            "batch": batch,
            "learning_rate": learning_rate,
            "augment": augment and augment.value,
            "corrupt": corrupt,
            "seed": seed,
            "device": device,
            "precision": precision and precision.value,
            "memory_gb": memory,
        },
        "threshold": {"false_positive_rate": false_positive_rate, "rule": threshold_rule and threshold_rule.value},
    }
    config = override(_base_config(preset, loss, config_file), _given(changes))
    for option, value in (("--features", features), ("--feature-network", feature_network)):
        if value is not None and config.loss.name != "fm":
            raise ConfigError(f"{option} is for --loss fm, got the loss {config.loss.name}; leave it out")
    if show_config:
        out.text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n" if as_json else to_toml(config))
        return
    if path is None:
        raise typer.BadParameter("the folder of good images to train on is missing", param_hint="DATA")
    from flawmap.commands.train import train as run

    with out.progress() as progress:
        report = run(
            path,
            output,
            config,
            resume=resume,
            skip_unreadable=skip_unreadable,
            tensorboard=tensorboard,
            observe=progress.training,
            say=out.say,
        )
    out.result({"model": str(report.model), **_header_without_split(report.artifact.header())}, show_training)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders (with all below), or globs in quotes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("inspections"),
    threshold: Annotated[
        float | None, typer.Option(help="Residual above which a pixel is a flaw. [default: the model's own]")
    ] = None,
    residuals: Annotated[bool, typer.Option("--residuals", help="Also write residual maps, float32 TIFF.")] = False,
    overlays: Annotated[bool, typer.Option(help="Write overlays.")] = True,
    fail_on_flaw: Annotated[bool, typer.Option("--fail-on-flaw", help="Exit with 3 if any flaw is found.")] = False,
    device: Device = "auto",
    precision: Precision = PrecisionName.auto,
    engine: Engine = EngineName.torch,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Inspect images: mask, overlay, regions and verdict of each."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from dataclasses import asdict

    from flawmap.commands.inspect import inspect as run

    with out.progress() as progress:
        rows = run(
            model,
            images,
            output,
            threshold=threshold,
            residuals=residuals,
            overlays=overlays,
            device=device,
            precision=precision.value,
            engine=engine.value,
            done=progress.count,
        )
    out.result({"folder": str(output), "images": [asdict(row) for row in rows]}, show_inspections)
    if any(row.error is not None for row in rows):
        raise typer.Exit(SOME_UNREADABLE)
    if fail_on_flaw and any(row.verdict == "flawed" for row in rows):
        raise typer.Exit(FLAWS_FOUND)


@app.command(short_help="Measure a model on labelled images.")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    dataset: Annotated[Path, typer.Argument(help="Labelled data set: a folder in a known layout, or a CSV manifest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("evaluation"),
    last: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Count the last N good training images by name as test images. [default: those that the model's "
            "split held out]",
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.auto,
    engine: Engine = EngineName.torch,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model on labelled images: metrics, ROC curve, and a page of its best and worst cases."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.evaluate import evaluate_model as run

    with out.progress() as progress:
        evaluation = run(
            model,
            dataset,
            output,
            last=last,
            device=device,
            precision=precision.value,
            engine=engine.value,
            done=progress.count,
        )
    out.result({"folder": str(output), **evaluation.to_dict()}, show_evaluation)
    if evaluation.unreadable:
        raise typer.Exit(SOME_UNREADABLE)


@app.command(short_help="Make the figures and tables of the paper again.")
def reproduce(
    what: Annotated[ExperimentName, typer.Argument(help="Figure or table of the paper, timing, or all.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the data sets' folders. [default: data]")] = Path(
        "data"
    ),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write and to go on in.")] = Path(
        "reproduction"
    ),
    preset: Annotated[PresetName, typer.Option(help="paper: as published; fast: our recipe.")] = PresetName.fast,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Budget of each training, in minutes. [default with fast: 30 on NanoTWICE, 10 elsewhere, 6 for a cell "
            "of table 2]",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Budget of each, in parameter updates. [default: by minutes or epochs]")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Budget of each, in passes over a fixed pool. [default with paper: 200]"),
    ] = None,
    sets: Annotated[
        str, typer.Option(help="Data sets, by comma: nanotwice, grid, fabric03, fabric04. [default: all]")
    ] = "",
    methods: Annotated[str, typer.Option(help="Methods, by comma: l2, vae, fm, ssim. [default: all]")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of SSIM on NanoTWICE for figures 6 and 7.")] = 3,
    features: Annotated[
        Path | None, typer.Option(help="File of the pretrained network for fm. [default: the one that was fetched]")
    ] = None,
    feature_network: Annotated[
        FeatureName | None, typer.Option(help="What that file holds. [default: alexnet]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once, each with its share of the cores.")] = 1,
    listing: Annotated[bool, typer.Option("--list", help="Print the plan and stop.")] = False,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep every model, not only those of figures 1 and 5.")
    ] = False,
    device: Device = "auto",
    precision: Precision = PrecisionName.auto,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train what a figure or table of the paper needs, measure it, and set it beside the paper's own.

    Goes on where it was stopped: what is recorded in the output folder is not trained again.
    """
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from importlib import import_module

    Budget, ExperimentRequest = import_module("paper.plan").Budget, import_module("paper.reproduce").ExperimentRequest
    run = import_module("paper.reproduce").reproduce

    request = ExperimentRequest(
        what.value,
        preset.value,
        Budget(minutes, steps, epochs),
        _names(sets),
        _names(methods),
        seeds,
        features,
        None if feature_network is None else feature_network.value,
        device,
        precision.value,
        jobs,
        keep_models,
    )
    with out.progress() as progress:
        result = run(
            request, data, output, listing=listing, observe=progress.training, done=progress.count, say=out.say
        )
    out.result(result, show_plan if listing else show_reproduction)
    if result["failed"]:
        raise typer.Exit(SOME_UNREADABLE)


@app.command(short_help="Print what a model file says of itself.")
def info(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Print what a model file says of itself: settings, threshold, training, versions."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.info import info as run

    out.result(run(model), show_info)


@app.command(short_help="List or fetch pretrained weights for --loss fm.")
def weights(
    action: Annotated[WeightsAction, typer.Argument(help="list: what is there; fetch: get one from the network.")],
    network: Annotated[FeatureName | None, typer.Argument(help="With fetch: whose weights.")] = None,
    url: Annotated[
        str | None,
        typer.Option(help="With fetch: where a copy of the same file lies. [default: where it was published]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="With fetch: file to write. [default: where `flawmap train` looks for it]"),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List or fetch pretrained weights for --loss fm. To fetch is the only thing for which flawmap uses the network."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.nets.weights import fetch_weights, known_weights

    fetched = None
    if action is WeightsAction.fetch:
        if network is None:
            raise typer.BadParameter("name the network: fetch alexnet, or fetch squeezenet", param_hint="NETWORK")
        with out.progress() as progress:
            fetched = fetch_weights(network.value, url=url, out=output, done=progress.count, say=out.say)
    elif network is not None or url is not None or output is not None:
        raise typer.BadParameter("list takes no network, --url or --output", param_hint="ACTION")
    out.result({"fetched": fetched and str(fetched), **known_weights()}, show_weights)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    errors = Console(stderr=True, markup=False, highlight=False, emoji=False)
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(given, prog_name="flawmap", standalone_mode=False)
    except typer.TyperException as error:
        _complain(errors, _usage(error, given))
        return BAD_INPUT
    except FlawmapError as error:
        _complain(errors, str(error))
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        _log_traceback(given)
        reason = error.strerror or str(error)
        said = f"the disk refuses: {reason}" if error.filename is None else f"{error.filename} cannot be used: {reason}"
        _complain(errors, f"{said}; check the path, its rights and the disk")
        return BAD_INPUT
    except Exception as error:
        _log_traceback(given)
        _complain(
            errors, f"flawmap failed, and should not have: {type(error).__name__}: {error}; -v shows the traceback"
        )
        return OUR_FAULT
    finally:
        end_log()
    if code == INTERRUPTED:  # also typer's own answer to Ctrl-C
        errors.print("interrupted; what was finished is kept")
    return int(code or 0)


def _complain(errors: Console, text: str) -> None:
    errors.print(f"error: {text}", style="red", soft_wrap=True)


def _log_traceback(given: Sequence[str]) -> None:
    if {"-v", "--verbose"} & set(given):
        logging.getLogger("flawmap").exception("unexpected")


def _usage(error: typer.TyperException, given: Sequence[str]) -> str:
    """What is wrong with the arguments, what came, and where to read on."""
    said = error.format_message().rstrip(".").replace("Value error, ", "")
    for name in getattr(getattr(error, "param", None), "opts", ()):
        values = [value for option, value in pairwise(given) if option == name]
        values += [text.removeprefix(f"{name}=") for text in given if text.startswith(f"{name}=")]
        if values and values[-1] not in said:
            said += f", got {values[-1]}"
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback is not None}
    return f"{said}; see `{' '.join(['flawmap', *commands.intersection(given[:1])])} --help`"


def _base_config(preset: PresetName, loss: MethodName | None, file: Path | None) -> Config:
    from flawmap.core.overrides import read_config
    from flawmap.core.presets import preset as settings_of

    base = settings_of(preset.value, (loss or MethodName.ssim).value)
    return base if file is None else read_config(file, base)


def _image_changes(
    *,
    mode: ModeName | None,
    white: float | None,
    pixel_limit: int | None,
    box: str | None,
    region: Path | None,
    brightness: str | None,
    scale: str | None = None,
) -> dict[str, Any]:
    changes = {
        "mode": mode and mode.value,
        "white": white,
        "pixel_limit": pixel_limit,
        "scale": None if scale is None else _scale(scale),
        "roi": {
            "box": None if box is None else _numbers(box, 4, int, "--roi-box", "left,top,right,bottom"),
            "masks": region and region.absolute(),
            "brightness": None
            if brightness is None
            else _numbers(brightness, 2, float, "--roi-brightness", "lowest,highest"),
        },
    }
    return _given(changes)


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    """Without what was not said, so that presets and files keep their say."""
    kept = {key: _given(value) if isinstance(value, dict) else value for key, value in changes.items()}
    return {key: value for key, value in kept.items() if value is not None and value != {}}


def _scale(text: str) -> float | tuple[int, int]:
    try:
        factor = float(text)
    except ValueError:
        return _size(text, "--scale")
    return factor if math.isfinite(factor) and factor <= LARGEST_FACTOR else _size(text, "--scale")


def _size(text: str, option: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        example = f"a factor up to {LARGEST_FACTOR} such as 0.5, or " if option == "--scale" else ""
        raise ConfigError(f"{option} must be {example}width x height in pixels such as 256x256, got {text}")
    return int(parts[0]), int(parts[1])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str, count: int, kind: type[int] | type[float], option: str, shape: str) -> tuple[float, ...]:
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        example = "10,20,500,400" if kind is int else "0.2,0.9"
        raise ConfigError(f"{option} must be {shape} such as {example}, got {text}")
    return numbers


def _header_without_split(header: dict[str, Any]) -> dict[str, Any]:
    """A model's header, the list of its training images left to `flawmap info --json`."""
    provenance = dict(header["provenance"])
    provenance["data"] = {key: value for key, value in provenance["data"].items() if key != "split"}
    return {**header, "provenance": provenance}


def _show_counts(console: Console, folder: Path, counts: dict[str, int]) -> None:
    for place, count in counts.items():
        console.print(f"{folder / place}: {count} image{'s' if count > 1 else ''}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

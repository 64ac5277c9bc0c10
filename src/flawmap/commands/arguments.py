"""The arguments of each command: parse, one call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.console import Output
from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from flawmap.methods.table import METHODS

if TYPE_CHECKING:
    from flawmap.methods.config import Config

FLAWS_FOUND, SOME_UNREADABLE = 3, 4

app = typer.Typer(
    name="flawmap",
    help="Train on good images, get a map of the flaws in any other.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    seed: Annotated[int, typer.Option(min=0, help="Seed of images and training.")] = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Make images of synthetic cloth, train l2 and SSIM on them, compare both, and write a page to look at."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.demo import demo as run

    with out.events() as events:
        result = run(output, minutes=minutes, seed=seed, events=events)
    out.result(result, tables.show_demo)


@app.command(short_help="Write a synthetic data set with exact masks.")
def synth(
    output: Annotated[Path, typer.Argument(help="Folder to write, in the layout of MVTec AD.")],
    kind: Annotated[Literal["cloth", "twill", "fibres", "checkerboard"], typer.Option(help="Material.")] = "cloth",
    good: Annotated[
        int, typer.Option(min=1, help="Number of good images to train on; a quarter as many go to test/good.")
    ] = 20,
    bad: Annotated[int, typer.Option(min=0, help="Number of images with a defect.")] = 10,
    size: Annotated[str, typer.Option(help="Width x height of an image, in pixels.")] = "256x256",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Write a synthetic data set: good images, defective images, and exact masks."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.synth import synth as run

    counts = run(output, kind, good=good, bad=bad, size=opt.size_of(size, "--size"), seed=seed)
    out.result({"folder": str(output), "images": counts}, tables.show_counts)


@app.command(short_help="List what a data set is understood to hold.")
def data(
    path: Annotated[Path, typer.Argument(help="Folder of images, or a CSV manifest.")],
    mode: opt.Mode = None,
    roi_box: opt.RoiBox = None,
    roi_masks: opt.RoiMasks = None,
    config: opt.ConfigFile = None,
    changes: opt.Set = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """List what a data set is understood to hold, before any training: counts, sizes, masks, what is ignored."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.data import data as run

    images = opt.image_changes(mode=mode, roi_box=roi_box, roi_masks=roi_masks)
    settings = _resolved("fast", None, config, changes, {"images": images}).images
    out.result(run(path, settings).to_dict(), tables.show_data)


@app.command()
def train(
    path: Annotated[Path | None, typer.Argument(metavar="DATA", help="Folder of good images, or a data set.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")] = Path("model.flawmap"),
    preset: opt.Preset = "fast",
    method: Annotated[
        str | None, typer.Option(help=opt.help_of(f"{', '.join(METHODS)}: what is trained.", "method.name"))
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help=opt.help_of("Budget, in minutes.", "training.minutes"))
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help=opt.help_of("Budget, in parameter updates.", otherwise="by minutes"))
    ] = None,
    latent: Annotated[
        int | None, typer.Option(min=1, help=opt.help_of("Latent dimensions d.", "method.latent"))
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help=opt.help_of("Working scale: a factor, or WxH in pixels.", "images.scale"))
    ] = None,
    mode: opt.Mode = None,
    roi_box: opt.RoiBox = None,
    roi_masks: opt.RoiMasks = None,
    last: Annotated[
        int | None,
        typer.Option(min=0, help=opt.help_of("Keep the last N good images for the test.", otherwise="a tenth")),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help=opt.help_of("Seed of training.", "training.seed"))] = None,
    device: Annotated[
        str | None, typer.Option(help=opt.help_of("auto, cpu, cuda, cuda:N or mps.", "training.device"))
    ] = None,
    config: opt.ConfigFile = None,
    changes: opt.Set = None,
    show_config: Annotated[
        bool, typer.Option("--show-config/--no-show-config", help="Print the resolved settings and stop.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoint beside the model.")
    ] = False,
    skip_unreadable: Annotated[
        bool,
        typer.Option("--skip-unreadable/--no-skip-unreadable", help="Leave out training images that cannot be read."),
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help=opt.help_of("Folder for TensorBoard's event files.", otherwise="none"))
    ] = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train on good images and write a model with its threshold.

    Settings come from the preset, then --config, then --set, then the options above: later ones win.
    """
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    own = {
        "method": {"name": method, "latent": latent},
        "images": opt.image_changes(mode=mode, roi_box=roi_box, roi_masks=roi_masks, scale=scale),
        "split": {"last": last},
        "training": {"minutes": minutes, "steps": steps, "seed": seed, "device": device},
    }
    settings = _resolved(preset, method, config, changes, opt.given(own))
    if show_config:
        out.text(_settings_text(settings, as_json=as_json))
        return
    if path is None:
        raise typer.BadParameter("the folder of good images to train on is missing", param_hint="DATA")
    from flawmap.commands.train import train as run

    with out.events() as events:
        report = run(
            path,
            output,
            settings,
            resume=resume,
            skip_unreadable=skip_unreadable,
            tensorboard=tensorboard,
            events=events,
        )
    header = report.artifact.header()
    del header["provenance"]["data"]["split"]  # the list of training images is left to `flawmap info --json`
    out.result({"model": str(report.model), **header}, tables.show_training)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders (with all below), or globs in quotes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("inspections"),
    threshold: Annotated[
        float | None,
        typer.Option(help=opt.help_of("Residual above which a pixel is a flaw.", otherwise="the model's own")),
    ] = None,
    residuals: Annotated[
        bool, typer.Option("--residuals/--no-residuals", help="Also write residual maps, float32 TIFF.")
    ] = False,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Write overlays.")] = True,
    fail_on_flaw: Annotated[
        bool, typer.Option("--fail-on-flaw/--no-fail-on-flaw", help="Exit with 3 if any flaw is found.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with the images that an earlier run left out.")
    ] = False,
    roi_masks: opt.RoiMasks = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "torch",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Inspect images: mask, overlay, regions and verdict of each."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.inspect import inspect as run
    from flawmap.commands.outputs import InspectionOutputs

    with out.events() as events:
        rows = run(
            model,
            images,
            output,
            outputs=InspectionOutputs(threshold, residuals, overlays),
            runtime=Runtime(device, precision, engine),
            roi_masks=roi_masks,
            resume=resume,
            events=events,
        )
    out.result({"folder": str(output), "images": [asdict(row) for row in rows]}, tables.show_inspections)
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
            help=opt.help_of(
                "Count the last N good training images by name as test images.", otherwise="those that were held out"
            ),
        ),
    ] = None,
    roi_masks: opt.RoiMasks = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "torch",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure a model on labelled images: metrics, ROC curve, and a page of its best and worst cases."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.evaluate import evaluate_model as run

    with out.events() as events:
        runtime = Runtime(device, precision, engine)
        evaluation = run(model, dataset, output, last=last, runtime=runtime, roi_masks=roi_masks, events=events)
    out.result({"folder": str(output), **evaluation.to_dict()}, tables.show_evaluation)
    if evaluation.unreadable:
        raise typer.Exit(SOME_UNREADABLE)


@app.command(short_help="Make the figures and tables of the paper again.")
def reproduce(
    what: Annotated[
        Literal["figure1", "figure2", "figure3", "figure5", "figure6", "figure7", "table2", "ours", "timing", "all"],
        typer.Argument(help="Figure or table of the paper, timing, or all."),
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of the data sets' folders.")] = Path("data"),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write and to go on in.")] = Path(
        "reproduction"
    ),
    preset: opt.Preset = "fast",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help=opt.help_of("Minutes of each training.", otherwise="by the plan"))
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help=opt.help_of("Parameter updates of each.", otherwise="by the plan"))
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help=opt.help_of("Passes over a fixed pool.", otherwise="by the plan"))
    ] = None,
    sets: Annotated[
        str, typer.Option(help=opt.help_of("nanotwice, grid, fabric03, fabric04, by comma.", otherwise="all"))
    ] = "",
    methods: Annotated[str, typer.Option(help=opt.help_of("l2, vae, fm, ssim, by comma.", otherwise="all"))] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of SSIM on NanoTWICE for figures 6 and 7.")] = 3,
    features: Annotated[
        Path | None,
        typer.Option(help=opt.help_of("File of the pretrained network for fm.", otherwise="the one that was fetched")),
    ] = None,
    feature_network: opt.FeatureNetwork = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once, each with its share of the cores.")] = 1,
    listing: Annotated[bool, typer.Option("--list/--no-list", help="Print the plan and stop.")] = False,
    keep_models: Annotated[
        bool,
        typer.Option("--keep-models/--no-keep-models", help="Keep every model, not only those of figures 1 and 5."),
    ] = False,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train what a figure or table of the paper needs, measure it, and set it beside the paper's own.

    Goes on where it was stopped: what is recorded in the output folder is not trained again.
    """
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    paper = _experiments()
    request = paper.ExperimentRequest(
        what=what,
        preset=preset,
        budget=paper.Budget(minutes, steps, epochs),
        sets=opt.names_of(sets),
        methods=opt.names_of(methods),
        seeds=seeds,
        features=features,
        feature_network=feature_network,
        device=device,
        precision=precision,
        jobs=jobs,
        keep_models=keep_models,
    )
    with out.events() as events:
        result = paper.reproduce(request, data, output, listing=listing, events=events)
    out.result(result, tables.show_plan if listing else tables.show_reproduction)
    if result["failed"]:
        raise typer.Exit(SOME_UNREADABLE)


@app.command(short_help="Print what a model file says of itself.")
def info(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print what a model file says of itself: settings, threshold, training, versions."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.info import info as run

    out.result(run(model), tables.show_info)


@app.command(short_help="List or fetch pretrained weights for --method fm.")
def weights(
    action: Annotated[
        Literal["list", "fetch"], typer.Argument(help="list: what is there; fetch: get one from the internet.")
    ],
    network: Annotated[
        Literal["alexnet", "squeezenet"] | None, typer.Argument(help="With fetch: whose weights.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help=opt.help_of("With fetch: where a copy of the same file is.", otherwise="where it was published")
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=opt.help_of("With fetch: file to write.", otherwise="where `flawmap train` looks for it"),
        ),
    ] = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """List or fetch pretrained weights for --method fm. flawmap accesses the internet only for `weights fetch`."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.nets.weights import fetch_weights, known_weights

    fetched = None
    if action == "fetch":
        if network is None:
            raise typer.BadParameter("name the network: fetch alexnet, or fetch squeezenet", param_hint="NETWORK")
        with out.events() as events:
            fetched = fetch_weights(network, url=url, out=output, events=events)
    elif network is not None or url is not None or output is not None:
        raise typer.BadParameter("list takes no network, --url or --output", param_hint="ACTION")
    out.result({"fetched": fetched and str(fetched), **known_weights()}, tables.show_weights)


def _resolved(
    preset: Literal["paper", "fast"],
    method: str | None,
    file: Path | None,
    changes: list[str] | None,
    own: dict[str, Any],
) -> Config:
    """The settings: the preset, then the file, then --set, then the options."""
    from flawmap.methods.config import USUAL
    from flawmap.methods.overrides import override, read_config
    from flawmap.methods.presets import preset as settings_of

    settings = settings_of(preset, method or USUAL)
    if file is not None:
        settings = read_config(file, settings)
    for change in (*opt.set_changes(changes), own):
        settings = override(settings, change)
    return settings


def _settings_text(settings: Config, *, as_json: bool) -> str:
    from flawmap.methods.overrides import to_toml

    return json.dumps(settings.model_dump(mode="json"), indent=2) + "\n" if as_json else to_toml(settings)


def _experiments() -> Any:
    """The paper's experiments, a package beside this one that is not in its wheel."""
    try:
        return import_module("paper.reproduce")
    except ModuleNotFoundError as error:
        if error.name not in ("paper", "paper.reproduce"):
            raise
        raise ConfigError(
            "the paper's experiments are no part of the installed package; run this command in a checkout of flawmap's "
            "source, after `make reproduce` or `pip install -e .`"
        ) from None

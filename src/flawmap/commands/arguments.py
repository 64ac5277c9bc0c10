"""The arguments of each command: parse, one call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.archives import score, workers_of
from flawmap.commands.console import Output
from flawmap.commands.decisions import calibrate, monitor
from flawmap.commands.experiments import reproduce
from flawmap.commands.fetching import weights
from flawmap.commands.fleet_command import fleet
from flawmap.commands.live import export, report, results, retrain, serve, watch
from flawmap.commands.outputs import FLAWS_FOUND, SOME_FAILED, InspectionOutputs
from flawmap.core.errors import InputError
from flawmap.core.group import launched
from flawmap.core.runtime import Runtime

if TYPE_CHECKING:
    from flawmap.methods.config import Config

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
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train on good images, get a map of the flaws in any other."""
    processes = launched()[1]
    if processes > 1 and context.invoked_subcommand != "train":
        raise InputError(
            f"torchrun started {processes} processes, but only `flawmap train` divides its work among processes; call "
            f"`flawmap {context.invoked_subcommand}` without torchrun"
        )


@app.command(short_help="Train l2 and SSIM on synthetic cloth and compare them.")
def demo(
    output: opt.OutputFolder = Path("flawmap-demo"),
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
    out.result("demo", result, tables.show_demo)


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
    out.result("synth", {"folder": str(output), "images": counts}, tables.show_counts)


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
    """List what a data set is understood to hold, before any training: counts, sizes, masks, outliers, problems."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.data import data as run

    images = opt.image_changes(mode=mode, roi_box=roi_box, roi_masks=roi_masks)
    settings = _resolved("fast", None, config, changes, {"images": images}).images
    out.result("data", run(path, settings).to_dict(), tables.show_data)


@app.command()
def train(
    path: Annotated[Path | None, typer.Argument(metavar="DATA", help="Folder of good images, or a data set.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")] = Path("model.flawmap"),
    preset: opt.Preset = "auto",
    method: opt.Method = None,
    minutes: opt.Minutes = None,
    steps: opt.Steps = None,
    scale: opt.Scale = None,
    fast: opt.Pace = None,
    mode: opt.Mode = None,
    roi_box: opt.RoiBox = None,
    roi_masks: opt.RoiMasks = None,
    seed: opt.Seed = None,
    device: opt.TrainingDevice = None,
    config: opt.ConfigFile = None,
    changes: opt.Set = None,
    show_config: opt.ShowConfig = False,
    resume: opt.ResumeTraining = False,
    skip_unreadable: opt.SkipUnreadable = False,
    skip_outliers: opt.SkipOutliers = False,
    tensorboard: opt.TensorBoard = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train on good images and write a model with its threshold.

    Settings come from the preset, then --config, then --set, then the options above: later ones win.
    """
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    own = {
        "method": {"name": method},
        "images": opt.image_changes(mode=mode, roi_box=roi_box, roi_masks=roi_masks, scale=scale),
        "training": {"minutes": minutes, "steps": steps, "seed": seed, "device": device},
    }
    settings = _resolved(preset, method, config, changes, opt.given(own), fast=fast)
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
            skip_outliers=skip_outliers,
            tensorboard=tensorboard,
            events=events,
        )
    out.result("train", report.to_dict(), tables.show_training)


@app.command()
def inspect(
    model: opt.Model,
    images: Annotated[list[str], typer.Argument(help="Image files, folders (with all below), or globs in quotes.")],
    output: opt.OutputFolder = Path("inspections"),
    threshold: opt.Threshold = None,
    point: opt.Point = None,
    residuals: opt.Residuals = False,
    overlays: opt.Overlays = True,
    report: opt.Report = True,
    page: opt.Page = None,
    pages: opt.Pages = False,
    fail_on_flaw: opt.FailOnFlaw = False,
    resume: opt.ResumeInspection = False,
    ray: opt.Ray = None,
    actors: opt.Actors = None,
    actor_cpus: opt.ActorCpus = 1,
    actor_gpus: opt.ActorGpus = 0.0,
    read_timeout: opt.ReadTimeout = 60.0,
    masks: opt.Masks = False,
    skip_duplicates: opt.SkipDuplicates = False,
    dry_run: opt.DryRun = False,
    roi_masks: opt.RoiMasksHere = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "auto",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Inspect images: mask, overlay, regions and verdict of each. With --ray an archive of images, into a table."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    workers = workers_of(ray, actors, actor_cpus, actor_gpus)
    if workers is not None:
        refused = {"--residuals": residuals, "--page": page is not None, "--pages": pages}
        refused |= {"--roi-masks": roi_masks is not None, "--no-overlays": not overlays, "--no-report": not report}
        given: dict[str, Any] = {
            **{"model": model, "inputs": images, "out": output, "point": point, "dry_run": dry_run},
            "workers": replace(workers, read_timeout=read_timeout),
            "outputs": (threshold, masks, skip_duplicates),
            "runtime": Runtime(device, precision, engine),
        }
        score(out, given, refused=refused, fail_on_flaw=fail_on_flaw)
        return
    if masks or skip_duplicates or dry_run or read_timeout != 60:
        raise typer.BadParameter(
            "--masks, --skip-duplicates, --dry-run and --read-timeout need --ray, such as --ray local"
        )
    if pages and page is not None:
        raise typer.BadParameter("--page takes one page and --pages all of them; give one of the two")
    from flawmap.commands.inspect import inspect as run

    with out.events() as events:
        rows = run(
            model,
            images,
            output,
            outputs=InspectionOutputs(threshold, residuals, overlays),
            runtime=Runtime(device, precision, engine),
            point=point,
            pages="all" if pages else page,
            roi_masks=roi_masks,
            resume=resume,
            report=report,
            events=events,
        )
    out.result("inspect", {"folder": str(output), "images": [asdict(row) for row in rows]}, tables.show_inspections)
    if any(row.error is not None for row in rows):
        raise typer.Exit(SOME_FAILED)
    if fail_on_flaw and any(row.verdict == "flawed" for row in rows):
        raise typer.Exit(FLAWS_FOUND)


@app.command(short_help="Measure a model on labelled images.")
def evaluate(
    model: opt.Model,
    dataset: Annotated[Path, typer.Argument(help="Labelled data set: a folder in a known layout, or a CSV manifest.")],
    output: opt.OutputFolder = Path("evaluation"),
    last: opt.Last = None,
    point: opt.Point = None,
    roi_masks: opt.RoiMasksHere = None,
    changes: opt.SetScoring = None,
    ray: opt.Ray = None,
    actors: opt.Actors = None,
    actor_cpus: opt.ActorCpus = 1,
    actor_gpus: opt.ActorGpus = 0.0,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "auto",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure a model on labelled images: metrics, ROC curve, and a report of every image."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.evaluate import evaluate_model as run
    from flawmap.methods.overrides import all_assigned

    with out.events() as events:
        evaluation = run(
            model,
            dataset,
            output,
            last=last,
            point=point,
            runtime=Runtime(device, precision, engine),
            roi_masks=roi_masks,
            changes=all_assigned(changes or ()),
            workers=workers_of(ray, actors, actor_cpus, actor_gpus),
            events=events,
        )
    out.result("evaluate", {"folder": str(output), **evaluation.to_dict()}, tables.show_evaluation)
    if evaluation.unreadable:
        raise typer.Exit(SOME_FAILED)


app.command(short_help="Set the threshold by good images of today.")(calibrate)
app.command(short_help="Compare images of today with the calibration.")(monitor)
app.command(short_help="Make pages of an inspection.")(report)
app.command(short_help="Export a model for another engine.")(export)
app.command(short_help="Serve models over HTTP.")(serve)
app.command(short_help="Inspect what comes to a folder.")(watch)
app.command(short_help="List or export what was inspected.")(results)
app.command(short_help="Train again with accepted images.")(retrain)
app.command(short_help="Train, evaluate or inspect many product types at once.")(fleet)
app.command(short_help="Make the figures and tables of the paper again.")(reproduce)


@app.command(short_help="Print what a model file says of itself.")
def info(
    model: opt.Model,
    measure: Annotated[bool, opt.switch("measure", "Measure the engines that may run it here, if not done.")] = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print what a model file says of itself: settings, threshold, training, versions; and the engine it gets here."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.info import info as run

    with out.events() as events:
        result = run(model, measure=measure, events=events)
    out.result("info", result, tables.show_info)


app.command(short_help="List or fetch pretrained weights for methods that need them.")(weights)


def _resolved(
    preset: Literal["auto", "fast", "paper"],
    method: str | None,
    file: Path | None,
    changes: list[str] | None,
    own: dict[str, Any],
    *,
    fast: bool | None = None,
) -> Config:
    """The settings: the preset, then the file, then --set, then the options."""
    from flawmap.methods.config import USUAL
    from flawmap.methods.overrides import (
        all_assigned,
        assigned,
        override,
        paced,
        read_changes,
        read_config,
        without_set,
    )
    from flawmap.methods.presets import preset as settings_of

    settings = settings_of(preset, method or USUAL)
    if file is not None:
        settings = read_config(file, settings)
    settings = override(override(settings, all_assigned(changes or ())), own)  # --set together: one may need another
    named = [*map(assigned, changes or ()), own]
    settings = without_set(settings, named if file is None else [read_changes(file), *named])
    return settings if fast is None else paced(settings, fast=fast)


def _settings_text(settings: Config, *, as_json: bool) -> str:
    from flawmap.methods.overrides import to_toml

    return json.dumps(settings.model_dump(mode="json"), indent=2) + "\n" if as_json else to_toml(settings)

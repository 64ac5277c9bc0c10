"""The arguments of the commands about a model's decision: `calibrate` and `monitor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.console import Output
from flawmap.commands.outputs import FLAWS_FOUND, SOME_FAILED
from flawmap.core.runtime import Runtime


def calibrate(
    model: opt.Model,
    good: Annotated[
        Path | None, typer.Argument(metavar="GOOD", help="Folder of good images that were not trained on.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=opt.help_of("Model file to write.", otherwise="the model itself")),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=0.9999,
            help=opt.help_of("Share of good images that may be rejected.", otherwise="the model's"),
        ),
    ] = None,
    set_threshold: Annotated[
        float | None,
        typer.Option("--set-threshold", help=opt.help_of("Set by hand, without images.", otherwise="by GOOD")),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help=opt.help_of("Operating point to make, or, with nothing else, to decide by.", otherwise="default")
        ),
    ] = None,
    zone: Annotated[
        Path | None,
        typer.Option(
            help=opt.help_of("Mask file of the images' size: flaws count where it is white.", otherwise="as before")
        ),
    ] = None,
    show: Annotated[bool, opt.switch("list", "Print the operating points and stop.")] = False,
    roi_masks: opt.RoiMasksHere = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Set a model's threshold by good images that it was not trained on, so that few good ones are rejected."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.calibrate import calibrate as run
    from flawmap.commands.calibrate import listed

    if show:
        out.result("points", listed(model), tables.show_points)
        return
    with out.events() as events:
        report = run(
            model,
            good,
            output,
            alpha=alpha,
            threshold=set_threshold,
            name=name,
            zone=zone,
            runtime=Runtime(device, precision),
            roi_masks=roi_masks,
            events=events,
        )
    out.result("calibrate", report, tables.show_calibration)


def monitor(
    model: opt.Model,
    images: Annotated[list[str], typer.Argument(help="Image files, folders (with all below), or globs in quotes.")],
    output: opt.OutputFolder = Path("monitor"),
    fail_on_drift: Annotated[bool, opt.switch("fail-on-drift", "Exit with 3 if there is an alarm.")] = False,
    roi_masks: opt.RoiMasksHere = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "auto",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Compare recent images, in the order of their names, with the good ones that the decision was calibrated on."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.monitor import monitor as run

    with out.events() as events:
        runtime = Runtime(device, precision, engine)
        report = run(model, images, output, runtime=runtime, roi_masks=roi_masks, events=events)
    out.result("monitor", report, tables.show_drift)
    if report["unreadable"]:
        raise typer.Exit(SOME_FAILED)
    if fail_on_drift and report["alarm"] is not None:
        raise typer.Exit(FLAWS_FOUND)

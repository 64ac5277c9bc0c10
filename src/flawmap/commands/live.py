"""The arguments of the commands that take a model to the line: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.console import Output


def export(
    model: opt.Model,
    images: Annotated[
        list[str], typer.Argument(help="Images that both are compared on: files, folders, or globs in quotes.")
    ],
    to: Annotated[Literal["onnx", "openvino"], typer.Option(help="The engine's format.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=opt.help_of("File to write, .onnx or .xml.", otherwise="beside the model")),
    ] = None,
    int8: Annotated[bool, opt.switch("int8", "Compute in whole numbers of 8 bits; OpenVINO alone.")] = False,
    most: Annotated[int, typer.Option(min=1, help="Images to compare, at most.")] = 20,
    roi_masks: opt.RoiMasksHere = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Export a model for another engine; it is written only if it scores the same."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.export import export as run

    with out.events() as events:
        report = run(model, images, to, output, int8=int8, most=most, roi_masks=roi_masks, events=events)
    out.result(report.to_dict(), tables.show_export)

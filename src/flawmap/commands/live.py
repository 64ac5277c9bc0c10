"""The arguments of the commands that take a model to the line: `export` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.console import Output
from flawmap.core.runtime import Runtime


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


def serve(
    models: Annotated[list[Path], typer.Argument(help="Model files; requests call them by name, without ending.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    store: Annotated[Path, typer.Option(help="Folder for results, images and maps.")] = Path("flawmap-results"),
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=opt.help_of("File with the token that requests carry.", otherwise="FLAWMAP_TOKEN, if it is set")
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name in the Host header that is answered, besides this machine's. [default: none]"),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait or be under work; more get 503.")] = 32,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Size of a request.")] = 64.0,
    keep_images: Annotated[bool, opt.switch("keep-images", "Keep images and maps beside the results.")] = True,
    keep_days: Annotated[
        float | None, typer.Option(min=0, help=opt.help_of("Remove results that are older.", otherwise="never"))
    ] = None,
    keep_gigabytes: Annotated[float, typer.Option(min=0, help="Remove the oldest images and maps beyond.")] = 10.0,
    roi_masks: opt.RoiMasksHere = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "auto",
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Serve models over HTTP, with a store of results, until Ctrl-C."""
    out = Output.start(as_json=False, quiet=quiet, verbose=verbose)
    from flawmap.commands.serve import ServeOptions
    from flawmap.commands.serve import serve as run

    options = ServeOptions(
        host=host,
        port=port,
        store=store,
        token_file=token_file,
        allow_hosts=tuple(allow_host or ()),
        queue=queue,
        megabytes=max_megabytes,
        keep_images=keep_images,
        keep_days=keep_days,
        keep_gigabytes=keep_gigabytes,
    )
    with out.events() as events:
        run(models, options, runtime=Runtime(device, precision, engine), roi_masks=roi_masks, events=events)

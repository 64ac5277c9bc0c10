"""The arguments of the commands that take a model to the line: `report`, `export`, `serve`, `watch`,
`results` and `retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flawmap.commands import live_tables as tables
from flawmap.commands import options as opt
from flawmap.commands.console import Output
from flawmap.commands.outputs import SOME_FAILED
from flawmap.core.runtime import Runtime


def output_of(what: str, otherwise: str) -> Any:
    """The option of the file that is written."""
    return typer.Option("--output", "-o", help=opt.help_of(what, otherwise=otherwise))


def folder_of(what: str) -> Any:
    """The option of a folder that files are moved to."""
    return typer.Option(help=opt.help_of(f"Folder that {what} go to.", otherwise="they stay"))


def chosen(text: str, otherwise: str = "any") -> Any:
    """An option that chooses among results."""
    return typer.Option(help=opt.help_of(text, otherwise=otherwise))


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of `flawmap inspect`.")],
    model: Annotated[
        Path | None,
        typer.Argument(
            help=opt.help_of("The model that inspected, for good scores and the guarantee.", otherwise="none")
        ),
    ] = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Pages of an inspection that open without internet: figures, and pictures with the worst image first."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.report import report as run

    with out.events() as events:
        made = run(folder, model, events=events)
    out.result("report", made, tables.show_report)


def export(
    model: opt.Model,
    images: Annotated[
        list[str], typer.Argument(help="Images that both are compared on: files, folders, or globs in quotes.")
    ],
    to: Annotated[Literal["onnx", "openvino"], typer.Option(help="The engine's format.")],
    output: Annotated[Path | None, output_of("File to write, .onnx or .xml.", "beside the model")] = None,
    int8: Annotated[bool, opt.switch("int8", "Compute in whole numbers of 8 bits.")] = False,
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
    out.result("export", report.to_dict(), tables.show_export)


Store = Annotated[Path, typer.Option(help="Folder for results, images and maps.")]
KeepImages = Annotated[bool, opt.switch("keep-images", "Keep images and maps beside the results.")]
KeepDays = Annotated[
    float | None, typer.Option(min=0, help=opt.help_of("Remove results that are older.", otherwise="never"))
]
KeepGigabytes = Annotated[float, typer.Option(min=0, help="Remove the oldest images and maps beyond.")]
Mqtt = Annotated[
    str | None, typer.Option(help="Broker that gets each result: mqtt://HOST/TOPIC, mqtts:// with TLS. [default: none]")
]
Webhook = Annotated[str | None, typer.Option(help="Address that each result is posted to. [default: none]")]


def serve(
    models: Annotated[
        list[Path], typer.Argument(help="Model files, or folders of them; requests call a model by its file's name.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    store: Store = Path("flawmap-results"),
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
    keep_images: KeepImages = True,
    keep_days: KeepDays = None,
    keep_gigabytes: KeepGigabytes = 10.0,
    mqtt: Mqtt = None,
    webhook: Webhook = None,
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
        mqtt=mqtt,
        webhook=webhook,
    )
    with out.events() as events:
        run(models, options, runtime=Runtime(device, precision, engine), roi_masks=roi_masks, events=events)


def watch(
    model: opt.Model,
    folder: Annotated[Path, typer.Argument(help="Folder that images come to, with all below it.")],
    store: Store = Path("flawmap-results"),
    point: opt.Point = None,
    settle: Annotated[float, typer.Option(min=0.05, help="Seconds without a change until a file is complete.")] = 1.0,
    move_ok: Annotated[Path | None, folder_of("good images")] = None,
    move_flawed: Annotated[Path | None, folder_of("flawed images")] = None,
    move_failed: Annotated[Path | None, folder_of("unreadable files")] = None,
    once: Annotated[bool, opt.switch("once", "End when everything that is there was inspected.")] = False,
    keep_images: KeepImages = True,
    keep_days: KeepDays = None,
    keep_gigabytes: KeepGigabytes = 10.0,
    mqtt: Mqtt = None,
    webhook: Webhook = None,
    roi_masks: opt.RoiMasksHere = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    engine: opt.Engine = "auto",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Inspect every image that comes to a folder, once each, until Ctrl-C."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.watch import WatchOptions
    from flawmap.commands.watch import watch as run

    options = WatchOptions(
        store=store,
        point=point,
        settle=settle,
        move_ok=move_ok,
        move_flawed=move_flawed,
        move_failed=move_failed,
        once=once,
        keep_images=keep_images,
        keep_days=keep_days,
        keep_gigabytes=keep_gigabytes,
        mqtt=mqtt,
        webhook=webhook,
    )
    with out.events() as events:
        runtime = Runtime(device, precision, engine)
        counts = run(model, folder, options, runtime=runtime, roi_masks=roi_masks, events=events)
    out.result("watch", counts.to_dict(), tables.show_watch)
    if counts.failed:
        raise typer.Exit(SOME_FAILED)


def results(
    store: Annotated[Path, typer.Argument(help="Folder of `flawmap serve` or `flawmap watch`.")] = Path(
        "flawmap-results"
    ),
    to: Annotated[
        Literal["csv", "jsonl", "coco", "parquet"] | None,
        typer.Option(help="Export instead of listing. [default: none]"),
    ] = None,
    output: Annotated[Path | None, output_of("File of the export.", "results.SUFFIX")] = None,
    model: Annotated[str | None, chosen("Results of this model.", "of all")] = None,
    verdict: Annotated[Literal["ok", "flawed"] | None, chosen("With this verdict.")] = None,
    review: Annotated[Literal["accept", "reject", "none"] | None, chosen("With this review of an operator.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=opt.help_of("The newest ones, at most.", otherwise="20, and all to export")),
    ] = None,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """List or export what was inspected."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.results import results as run
    from flawmap.service.exports import export_results

    rows = run(store, model=model, verdict=verdict, review=review, limit=limit or (20 if to is None else None))
    if to is None:
        out.result("results", {"results": rows}, tables.show_results)
        return
    path = output or Path(f"results.{'json' if to == 'coco' else to}")
    count = export_results(rows, to, path)
    out.result("written", {"written": str(path), "results": count}, tables.show_export_of_results)


def retrain(
    model: opt.Model,
    data: Annotated[Path, typer.Argument(help="The data set that the model was trained on.")],
    store: Store = Path("flawmap-results"),
    output: Annotated[Path | None, output_of("Model file to write.", "the model's, if no worse")] = None,
    minutes: opt.Minutes = None,
    steps: opt.Steps = None,
    resume: opt.ResumeTraining = False,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train a model again with images that operators accepted; the old one stays unless the new one is no worse."""
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.retrain import retrain as run

    with out.events() as events:
        report = run(model, data, store, output, minutes=minutes, steps=steps, resume=resume, events=events)
    out.result("retrain", report.to_dict(), tables.show_retraining)

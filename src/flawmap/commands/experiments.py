"""`flawmap reproduce`: the paper's experiments, which live in a package of their own beside this one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.console import Output
from flawmap.commands.outputs import SOME_FAILED
from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime

What = Literal[
    "figure1", "figure2", "figure3", "figure5", "figure6", "figure7", "table2", "ours", "timing", "literature", "all"
]


def reproduce(
    what: Annotated[What, typer.Argument(help="Figure or table of the paper, timing, all of these; literature.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the data sets' folders.")] = Path("data"),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write and to go on in.")] = Path(
        "reproduction"
    ),
    preset: opt.PaperPreset = "fast",
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
    methods: Annotated[str, typer.Option(help=opt.help_of("Methods by comma, such as l2,ssim.", otherwise="all"))] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of SSIM on NanoTWICE for figures 6 and 7.")] = 3,
    features: Annotated[
        Path | None,
        typer.Option(help=opt.help_of("File of the pretrained network.", otherwise="the one that was fetched")),
    ] = None,
    feature_network: opt.FeatureNetwork = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once; they divide the cores.")] = 1,
    listing: Annotated[bool, opt.switch("list", "Print the plan and stop.")] = False,
    keep_models: Annotated[bool, opt.switch("keep-models", "Keep all models, not only those of figures.")] = False,
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
    paper, plan = _experiments()
    request = plan.ExperimentRequest(
        what=what,
        preset=preset,
        budget=plan.Budget(minutes, steps, epochs),
        sets=opt.names_of(sets),
        methods=opt.names_of(methods),
        seeds=seeds,
        features=features,
        feature_network=feature_network,
        runtime=Runtime(device, precision),
        jobs=jobs,
        keep_models=keep_models,
    )
    with out.events() as events:
        result = paper.reproduce(request, data, output, listing=listing, events=events)
    out.result("reproduce", result, tables.show_plan if listing else tables.show_reproduction)
    if result["failed"]:
        raise typer.Exit(SOME_FAILED)


def _experiments() -> tuple[Any, Any]:
    """Modules of the experiments, whose package is not in flawmap's wheel."""
    try:
        return import_module("paper.reproduce"), import_module("paper.plan")
    except ModuleNotFoundError as error:
        if error.name not in ("paper", "paper.reproduce"):
            raise
        raise ConfigError(
            "the paper's experiments are not part of the installed package; get flawmap's source, install it with "
            "`pip install -e .`, and run this command there"
        ) from None

"""The arguments of `weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flawmap.commands import options as opt
from flawmap.commands import tables
from flawmap.commands.console import Output


def weights(
    action: Annotated[
        Literal["list", "fetch"], typer.Argument(help="list: what is there; fetch: get one from the internet.")
    ],
    network: Annotated[
        Literal["alexnet", "squeezenet", "resnet18"] | None, typer.Argument(help="With fetch: whose weights.")
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
    """List or fetch pretrained weights, for --method fm and cnn-dictionary.

    flawmap accesses the internet only for `weights fetch`.
    """
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.nets.weights import fetch_weights, known_weights

    fetched = None
    if action == "fetch":
        if network is None:
            raise typer.BadParameter("name the network: fetch alexnet, squeezenet or resnet18", param_hint="NETWORK")
        with out.events() as events:
            fetched = fetch_weights(network, url=url, out=output, events=events)
    elif network is not None or url is not None or output is not None:
        raise typer.BadParameter("list takes no network, --url or --output", param_hint="ACTION")
    out.result("weights", {"fetched": fetched and str(fetched), **known_weights()}, tables.show_weights)

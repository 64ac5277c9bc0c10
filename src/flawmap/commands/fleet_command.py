"""The arguments of `fleet`, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from flawmap.commands import options as opt
from flawmap.commands.console import Output, print_line
from flawmap.commands.outputs import SOME_FAILED
from flawmap.commands.tables import table_of
from flawmap.reporting.labels import IMAGE_METRICS, PIXEL_METRICS, share_text


def fleet(
    step: Annotated[
        Literal["train", "calibrate", "evaluate", "inspect"], typer.Argument(help="What to do with each type.")
    ],
    file: Annotated[Path, typer.Argument(help="TOML file of the product types.")],
    output: opt.OutputFolder = Path("fleet"),
    types: Annotated[str, typer.Option(help=opt.help_of("Names of types, by comma.", otherwise="all"))] = "",
    ray: Annotated[str, typer.Option(help="local, auto (this machine's cluster) or HOST:PORT.")] = "local",
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train, calibrate, evaluate or inspect many product types at once, on Ray, into one folder with one table.

    Goes on where it was stopped: what was done with the same images and settings is not done again.
    """
    out = Output.start(as_json=as_json, quiet=quiet, verbose=verbose)
    from flawmap.commands.fleet import fleet as run
    from flawmap.reporting.fleets import figures_of

    with out.events() as events:
        table = run(step, file, output, only=opt.names_of(types), address=ray, events=events)
    out.result("fleet", {key: value for key, value in table.items() if key != "schema"}, show_fleet)
    ran = [row for row in table["types"] if row["name"] in table["ran"]]
    if table["failed"] or any(figures_of(row, step).get("unreadable") for row in ran):
        raise typer.Exit(SOME_FAILED)


def show_fleet(console: Console, table: dict[str, Any]) -> None:
    from flawmap.reporting.fleets import figures_of

    figures = ("pixel_auroc", "au_pro_30", "image_auroc")
    labels = (PIXEL_METRICS["auroc"].short, PIXEL_METRICS["au_pro_30"].short, IMAGE_METRICS["auroc"].short)
    shown = table_of("type", ">minutes", *(f">{label}" for label in labels), ">found", ">rejected")
    for row in table["types"]:
        made, measured = (figures_of(row, one) for one in ("train", "evaluate"))
        shares = (share_text(measured or None, name) for name in ("found", "rejected"))
        shown.add_row(row["name"], _text(made, "minutes", 1), *(_text(measured, one, 3) for one in figures), *shares)
    console.print(shown)
    for row in table["types"]:
        if row["name"] in table["failed"]:
            print_line(console, f"{row['name']} failed: {row[table['step']]['error']}", style="red")
    done = len(table["ran"]) - len(table["failed"])
    print_line(console, f"{table['step']}: {done} of {len(table['ran'])} types done; look at {table['page']}")


def _text(figures: dict[str, Any], name: str, digits: int) -> str:
    value = figures.get(name)
    return "" if value is None else f"{value:.{digits}f}"

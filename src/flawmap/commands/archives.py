"""`flawmap inspect --ray`: an archive is scored on a cluster, into Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console

from flawmap.cluster.workers import Workers
from flawmap.commands.console import Output, print_line
from flawmap.commands.outputs import FLAWS_FOUND, SOME_FAILED
from flawmap.core.errors import ConfigError


def workers_of(address: str | None, actors: int | None, cpus: int, gpus: float) -> Workers | None:
    """The detectors that --ray asks for; None: it was not given. BadParameter: the others were given without it."""
    if address is not None:
        return Workers(address, actors, cpus, gpus)
    if actors or cpus != 1 or gpus:
        raise typer.BadParameter("--actors, --actor-cpus and --actor-gpus need --ray, such as --ray local")
    return None


def score(out: Output, given: Mapping[str, Any], *, refused: Mapping[str, bool], fail_on_flaw: bool) -> None:
    """Score an archive and tell how it went.

    Args:
        given: the arguments of `score_archive`, with the fields of `ArchiveOutputs` as a tuple.
        refused: options that a cluster does not know, and whether they were given.
    Raises:
        ConfigError: one was. Exit: with SOME_FAILED or FLAWS_FOUND.
    """
    from flawmap.cluster.archive import ArchiveOutputs, score_archive  # noqa: PLC0415 - loads torch

    wrong = [name for name, was_given in refused.items() if was_given]
    if wrong:
        raise ConfigError(f"--ray writes tables, and masks by --masks; it does not take {', '.join(wrong)}")
    with out.events() as events:
        summary = score_archive(**{**given, "outputs": ArchiveOutputs(*given["outputs"])}, events=events)
    out.result("scoring", asdict(summary) | {"remaining": summary.remaining}, show_scoring)
    if summary.unreadable:
        raise typer.Exit(SOME_FAILED)
    if fail_on_flaw and summary.flawed:
        raise typer.Exit(FLAWS_FOUND)


def show_scoring(console: Console, report: dict[str, Any]) -> None:
    if report["dry_run"]:
        for path in report["waiting"]:
            print_line(console, path)
        print_line(console, f"would score {report['remaining']} of {report['images']} images into {report['folder']}")
        return
    speed = report["scored"] / report["seconds"] if report["seconds"] else 0.0
    counts = ", ".join(f"{report[name]} {name}" for name in ("flawed", "unreadable", "duplicates"))
    print_line(console, f"{report['scored']} images scored, {report['before']} before: {counts}")
    print_line(console, f"{speed:.1f} images/s by {report['actors']} detectors; written to {report['folder']}")

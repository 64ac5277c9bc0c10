"""What the commands that take a model to the line print."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from flawmap.commands.console import print_line
from flawmap.commands.tables import facts, table_of


def show_export(console: Console, report: dict[str, Any]) -> None:
    speed = report["seconds"] / report["seconds_exported"]
    form = f"{report['format']}{', 8 bits' if report['int8'] else ''}"
    allowed = "" if report["bound"] is None else f", {report['bound']:g} is allowed"
    facts(
        console,
        [
            ("written", f"{report['model']} ({form}, {report['size'] / 1e6:.1f} MB)"),
            ("compared", f"{report['images']} images, {report['pasted']} pasted defects: all verdicts the same"),
            ("maps", f"differ by {report['largest']:.2g} of the threshold at most{allowed}"),
            ("speed", f"{report['seconds_exported']:.3g} s an image, {speed:.2f} times as fast as torch in float32"),
        ],
    )


def show_watch(console: Console, report: dict[str, Any]) -> None:
    print_line(console, f"{report['ok']} ok, {report['flawed']} flawed, {report['failed']} could not be read")


def show_results(console: Console, report: dict[str, Any]) -> None:
    table = table_of("id", "image", "model", "verdict", ">score", ">p", ">regions", "review")
    for row in report["results"]:
        p_value = "" if row["p_value"] is None else f"{row['p_value']:.3f}"
        shown = row["name"], row["model"], row["verdict"], f"{row['score']:.4g}", p_value, str(len(row["regions"]))
        table.add_row(row["id"], *shown, row["review"] or "")
    console.print(table)


def show_export_of_results(console: Console, report: dict[str, Any]) -> None:
    print_line(console, f"{report['results']} results written to {report['written']}")


def show_retraining(console: Console, report: dict[str, Any]) -> None:
    facts(
        console,
        [
            ("model", report["model"]),
            ("before", report["before"]),
            ("images", f"{report['accepted']} accepted images joined"),
            ("self-check", f"smaller defects in {report['smaller']} rows, only larger ones in {report['larger']}"),
            ("to calibrate", ", ".join(report["points"]) or None),
        ],
    )


def show_report(console: Console, report: dict[str, Any]) -> None:
    more = f" and {len(report['pages']) - 1} more" if len(report["pages"]) > 1 else ""
    unread = f", {report['unreadable']} could not be read" if report["unreadable"] else ""
    print_line(
        console, f"{report['images']} images, {report['flawed']} flawed{unread}; look at {report['pages'][0]}{more}"
    )

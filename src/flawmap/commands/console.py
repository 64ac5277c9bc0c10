"""How a command talks: tables for people, one JSON document for machines, a progress bar on the way."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from flawmap.methods.gradient import Progress as TrainingProgress

SHOWN = 12  # rows of a list before it is cut


class Bar:
    """A bar on a terminal, a line now and then in a log file, nothing for machines."""

    def __init__(self, bar: Progress | None, console: Console | None) -> None:
        self._bar, self._console, self._tasks = bar, console, {}  # type: ignore[var-annotated]
        self._said = ("", -1)  # what the last line was of, and how many tenths of it were done

    def training(self, progress: TrainingProgress, name: str = "training") -> None:
        row = progress.row
        left = f"{progress.seconds_left / 60:.1f} min left"
        text = f"{name}  loss {row.loss:.4f}  {progress.patches_per_second:.0f} patches/s  {left}"
        self._show(name, row.step, progress.steps, text)

    def count(self, done: int, total: int, what: str) -> None:
        self._show("images", done, total, what if len(what) <= 60 else "..." + what[-57:])

    def _show(self, key: str, done: int, total: int, text: str) -> None:
        if self._bar is not None:
            if key not in self._tasks:
                self._tasks[key] = self._bar.add_task(text, total=total)
            self._bar.update(self._tasks[key], completed=done, total=total, description=text)
        elif self._console is not None and self._said != (key, 10 * done // total):
            self._said = (key, 10 * done // total)
            _line(self._console, f"{done}/{total}  {text}")


@dataclass(frozen=True)
class Output:
    """Where a command's words go: results to stdout, everything else to stderr."""

    as_json: bool
    quiet: bool
    out: Console
    err: Console

    @classmethod
    def start(cls, *, as_json: bool, quiet: bool, verbose: bool) -> Output:
        output = cls(as_json, quiet, _console(), _console(stderr=True))
        end_log()
        logger = logging.getLogger("flawmap")
        handler = _ToTerminal(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
        return output

    def say(self, sentence: str) -> None:
        """A sentence on the way, for people."""
        if not self.quiet:
            _line(self.err, sentence)

    def result(self, data: dict[str, Any], show: Callable[[Console, dict[str, Any]], None]) -> None:
        """The result: one JSON document, a table, or nothing."""
        with _reader_may_leave():
            if self.as_json:
                print(json.dumps(data, indent=2, allow_nan=False, default=str))
            elif not self.quiet:
                show(self.out, data)

    def text(self, text: str) -> None:
        """Text that was asked for, as it is."""
        with _reader_may_leave():
            sys.stdout.write(text)

    @contextmanager
    def progress(self) -> Iterator[Bar]:
        if self.quiet or self.as_json:
            yield Bar(None, None)
        elif not self.err.is_terminal:
            yield Bar(None, self.err)
        else:
            columns = (
                BarColumn(24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
            )
            with Progress(*columns, console=self.err, transient=True) as bar:
                yield Bar(bar, None)


def end_log() -> None:
    """Take the log off the terminal again: the library is silent, as it was before a command began."""
    logger = logging.getLogger("flawmap")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _ToTerminal)]:
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


class _ToTerminal(logging.StreamHandler):  # type: ignore[type-arg]
    """The one handler of the log that belongs to the command line."""


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """A reader that has seen enough (`| head`) is no failure: the exit code stays that of the work."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # rich turns the one into the other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console(*, stderr: bool = False) -> Console:
    """Paths are printed as they are: [brackets] and :colons: in them mean nothing."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _line(console: Console, text: str, style: str | None = None) -> None:
    """A line that is not broken, however long, so that paths in it can be copied."""
    console.print(text, style=style, soft_wrap=True)


def show_training(console: Console, report: dict[str, Any]) -> None:
    training, data = report["provenance"]["training"], report["provenance"]["data"]
    threshold = "none" if report["threshold"] is None else f"{report['threshold']:.4g}"
    facts = [
        ("model", report["model"]),
        ("trained", f"{training['steps']} steps, {training['patches']:,} patches, {training['seconds'] / 60:.1f} min"),
        ("speed", f"{training['patches_per_second']:.0f} patches/s"),
        ("loss", f"{training['loss']:.4f} (a flat reconstruction: {training['flat_loss']:.4f})"),
        ("threshold", f"{threshold}  {_rule(report['calibration'])}"),
        ("images", f"{data['images']} good images or areas{_left_out(data)}, split {data['split_sha256'][:12]}"),
    ]
    _facts(console, facts)


def show_inspections(console: Console, report: dict[str, Any]) -> None:
    rows = report["images"]
    table = _table("image", ">score", "verdict", ">regions", ">pixels")
    for row in rows[: 4 * SHOWN]:
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        table.add_row(row["path"], score, row["verdict"], str(row["regions"]), str(row["flawed_pixels"]))
    console.print(table)
    if len(rows) > 4 * SHOWN:
        _line(console, f"... and {len(rows) - 4 * SHOWN} more, all in inspections.jsonl")
    flawed = sum(row["verdict"] == "flawed" for row in rows)
    unreadable = [row for row in rows if row["error"] is not None]
    tail = f", {len(unreadable)} unreadable" if unreadable else ""
    _line(console, f"{_images(rows)}: {flawed} flawed{tail}; written to {report['folder']}")
    for row in unreadable[:SHOWN]:
        named = row["error"] if row["path"] in row["error"] else f"{row['path']}: {row['error']}"
        _line(console, named, style="red")


IMAGE_FIGURES = (
    ("auroc", "image AUROC"),
    ("average_precision", "image average precision"),
    ("f1_max", "image F1, at the best threshold"),
)


def show_evaluation(console: Console, report: dict[str, Any]) -> None:
    pixel, image = report["pixel"], report["image"]
    table = _table("figure", ">value")
    for name, label in (
        ("auroc", "pixel AUROC"),
        ("average_precision", "pixel average precision"),
        ("au_pro_30", "AU-PRO at 30 %"),
        ("au_pro_05", "AU-PRO at 5 %"),
        ("f1_max", "F1, at the best threshold"),
        ("iou_max", "IoU, at the best threshold"),
        ("aupimo", "AUPIMO"),
    ):
        table.add_row(label, _number(pixel[name], pixel["undefined"].get(name)))
        if pixel["intervals"][name] is not None:
            low, high = (_number(end) for end in pixel["intervals"][name])
            table.add_row(f"  {pixel['intervals']['level']:.0%} interval over images", f"{low} to {high}")
    for name, label in IMAGE_FIGURES:
        table.add_row(label, _number(image[name]) if image else f"none: {report['image_reason']}")
    if report["held_out"]:
        table.add_row("false positive rate at the threshold", f"{report['held_out']['false_positive_rate']:.2e}")
    console.print(table)
    for problem in (*report["unreadable"][:SHOWN], *report["notes"][:SHOWN]):
        _line(console, f"{problem['path']}: {problem['problem']}")
    outside = [row["path"] for row in report["per_image"] if row["label"] == "outside"]
    if outside:
        _line(console, f"counted as neither good nor defective, flaws all outside the region: {', '.join(outside)}")
    lost = f", {len(report['unreadable'])} not counted" if report["unreadable"] else ""
    _line(console, f"{_images(report['per_image'])}{lost}; written to {report['folder']}")


def show_data(console: Console, report: dict[str, Any]) -> None:
    _line(console, f"{report['root']}: {report['layout']} layout")
    table = _table("split", "label", "kind", ">images")
    for row in report["counts"]:
        table.add_row(row["split"], row["label"], row["kind"], str(row["images"]))
    console.print(table)
    sizes = [f"{row['width']} x {row['height']}: {row['images']}" for row in report["sizes"]]
    _facts(
        console,
        [
            ("sizes", _cut(sizes)),
            ("modes", _cut([f"{mode}: {count}" for mode, count in report["modes"].items()])),
            (
                "masks",
                _cut([f"{state}: {n if isinstance(n, int) else len(n)}" for state, n in report["masks"].items() if n]),
            ),
        ],
    )
    for title, entries in (
        ("masks missing", report["masks"].get("missing", [])),
        ("masks without a flaw", report["masks"].get("empty", [])),
        ("masks of another size", report["masks"].get("wrong size", [])),
        ("flaws all outside the region: neither good nor defective", report["outside"]),
        ("the same content", [", ".join(group) for group in report["duplicates"]]),
        ("problems", [f"{entry['path']}: {entry['problem']}" for entry in report["problems"]]),
        ("ignored", [f"{entry['path']}: {entry['reason']}" for entry in report["ignored"]]),
    ):
        if entries:
            _line(console, f"{title} ({len(entries)}):")
            for entry in entries[:SHOWN]:
                _line(console, f"  {entry}")
            if len(entries) > SHOWN:
                _line(console, f"  ... and {len(entries) - SHOWN} more (--json lists all)")


def show_info(console: Console, report: dict[str, Any]) -> None:
    config, made = report["config"], report["provenance"]
    threshold = "none" if report["threshold"] is None else f"{report['threshold']:.6g}"
    model, training, features = config["model"], made["training"], made.get("features")
    _facts(
        console,
        [
            ("file", report["file"]),
            ("version", report["version"]),
            ("format", str(report["format"])),
            ("method", f"{config['loss']['name']} loss, {config['residual']['name']} residual"),
            ("network", f"patch {model['patch']}, d = {model['latent']}, {model['channels']} channel(s)"),
            ("scoring", _scoring(config, report.get("border"))),
            ("threshold", f"{threshold}  {_rule(report['calibration'])}"),
            (
                "trained",
                f"{training['steps']} steps, {training['patches']:,} patches, {training['seconds'] / 60:.1f} min",
            ),
            ("loss", f"{training['loss']:.4f} (a flat reconstruction: {training['flat_loss']:.4f})"),
            (
                "data",
                f"{made['data']['images']} images or areas ({made['data']['layout']}), "
                f"split {made['data']['split_sha256'][:12]}",
            ),
            *([("features", f"{features['network']}, SHA-256 {features['sha256'][:12]}")] if features else []),
            ("seed", str(config["training"]["seed"])),
            ("created", made["created"]),
            ("versions", ", ".join(f"{name} {number}" for name, number in made["versions"].items())),
        ],
    )


def _scoring(config: dict[str, Any], border: list[float] | None) -> str:
    """How an image is scored, in a line."""
    said = [f"stride {config['tiling']['stride']}", f"opening {config['threshold']['opening']}"]
    if smoothing := config["residual"].get("smoothing"):
        said.append(f"smoothed by {smoothing:g} pixels")
    if border is not None:
        said.append(f"border levelled (up to {max(border):.1f} times the middle)")
    return ", ".join(said)


def show_weights(console: Console, report: dict[str, Any]) -> None:
    if report["fetched"] is not None:
        _line(console, report["fetched"])
        return
    table = _table("network", "state", "file")
    for row in report["weights"]:
        table.add_row(row["network"], row["state"], row["file"].removeprefix(report["folder"])[1:])
    console.print(table)
    _line(console, f"in {report['folder']}")


def show_demo(console: Console, report: dict[str, Any]) -> None:
    table = _table("method", ">pixel AUROC", ">AU-PRO at 30 %", ">image AUROC", ">minutes")
    for row in report["methods"]:
        figures = (row["pixel_auroc"], row["au_pro_30"], row["image_auroc"])
        table.add_row(row["name"], *(_number(figure) for figure in figures), f"{row['minutes']:.1f}")
    console.print(table)
    _line(console, f"look at {report['page']}")


def show_plan(console: Console, report: dict[str, Any]) -> None:
    table = _table("state", "training", "data set", "method", ">seed", "budget")
    for row in report["plan"]:
        budget = ", ".join(f"{value:g} {name}" for name, value in row["budget"].items())
        table.add_row(row["state"], row["name"], row["title"], row["method"], str(row["seed"]), budget)
    console.print(table)


def show_reproduction(console: Console, report: dict[str, Any]) -> None:
    ways = list(dict.fromkeys(way for row in report["trainings"] for way in row["ours"]))
    table = _table("training", "data set", *(f">AUROC {way}" for way in ways), ">paper")
    for row in report["trainings"]:
        origin = "" if row["mark"] == "text" else " (second-hand)"
        theirs = "" if row["paper"] is None else f"{row['paper']:.3f}{origin}"
        table.add_row(row["name"], row["title"], *(_number(row["ours"].get(way)) for way in ways), theirs)
    if report["trainings"]:
        console.print(table)
    for claim in report["claims"]:
        verdict = {True: "holds", False: "does not hold", None: "open"}[claim["holds"]]
        _line(console, f"{verdict}: {claim['text']} ({claim['evidence']})")
    if report["timing"] is not None:
        timed = report["timing"]
        patch, image = timed["ms_per_patch"]["1"], timed["image"]["seconds"]["whole"]
        _line(console, f"{patch:.2f} ms a patch (paper, Tesla V100: 2.23), {image:.2f} s an image (3.61)")
    for failure in report["failed"]:
        _line(console, f"{failure['name']} failed: {failure['error']}", style="red")
    _line(console, f"look at {report['page']}")


def _rule(calibration: dict[str, Any]) -> str:
    if calibration.get("rule") not in ("largest", "quantile"):
        return f"({calibration['rule']})" if "rule" in calibration else ""  # set by hand
    areas = f"{calibration['good_areas']} held-out good images or areas"
    if calibration["rule"] == "largest":
        return f"(the largest residual of {areas})"
    return f"(at most {calibration['false_positive_rate']:g} of the pixels of {areas} lie above)"


def _number(value: float | None, reason: str | None = None) -> str:
    return f"{value:.4f}" if value is not None else f"none: {reason}" if reason else "none"


def _images(rows: list[Any]) -> str:
    return f"{len(rows)} image{'' if len(rows) == 1 else 's'}"


def _left_out(data: dict[str, Any]) -> str:
    return f", {data['skipped']} unreadable left out" if data["skipped"] else ""


def _cut(entries: list[str]) -> str:
    more = f", ... and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return ", ".join(entries[:SHOWN]) + more or "none"


def _facts(console: Console, facts: list[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(f"{name}", value)
    console.print(table)


def _table(*columns: str) -> Table:
    """Columns by name; a leading > sets one flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table

"""How a command talks: results to stdout, messages and progress to stderr, one JSON document for machines."""

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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flawmap.core.documents import document
from flawmap.core.events import Events
from flawmap.core.group import launched

if TYPE_CHECKING:
    from flawmap.methods.interface import Progress as TrainingProgress


class TerminalEvents(Events):
    """A bar on a terminal, a line now and then in a log file, nothing for machines."""

    def __init__(self, bar: Progress | None, console: Console | None, messages: Console | None) -> None:
        self._bar, self._console, self._messages = bar, console, messages
        self._tasks: dict[str, TaskID] = {}
        self._said = ("", -1)  # the key of the last line, and how many tenths of it were done

    def message(self, text: str) -> None:
        if self._messages is not None:
            print_line(self._messages, text)

    def training(self, progress: TrainingProgress, name: str = "training") -> None:
        row = progress.row
        left = f"{progress.seconds_left / 60:.1f} min left"
        text = f"{name}  loss {row.loss:.4f}  {progress.patches_per_second:.0f} patches/s  {left}"
        self._show(name, row.step, progress.steps, text)

    def progress(self, done: int, total: int, what: str) -> None:
        self._show("images", done, total, what if len(what) <= 60 else "..." + what[-57:])

    def _show(self, key: str, done: int, total: int, text: str) -> None:
        if self._bar is not None:
            if key not in self._tasks:
                self._tasks[key] = self._bar.add_task(text, total=total)
            self._bar.update(self._tasks[key], completed=done, total=total, description=text)
        elif self._console is not None and self._said != (key, 10 * done // total):
            self._said = (key, 10 * done // total)
            print_line(self._console, f"{done}/{total}  {text}")


@dataclass(frozen=True)
class Output:
    """Where a command's words go: results to stdout, everything else to stderr."""

    as_json: bool
    quiet: bool
    out: Console
    err: Console

    @classmethod
    def start(cls, *, as_json: bool, quiet: bool, verbose: bool) -> Output:
        if launched()[0] > 0:  # of several processes only the first talks
            as_json, quiet = False, True
        output = cls(as_json, quiet, _console(), _console(stderr=True))
        end_log()
        logger = logging.getLogger("flawmap")
        handler = _ToTerminal(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
        return output

    def result(self, kind: str, data: dict[str, Any], show: Callable[[Console, dict[str, Any]], None]) -> None:
        """The result: one JSON document of a kind, see `core.documents`; a table, or nothing."""
        with _reader_may_leave():
            if self.as_json:
                print(json.dumps(document(kind, data), indent=2, allow_nan=False, default=str))
            elif not self.quiet:
                show(self.out, data)

    def text(self, text: str) -> None:
        """Text that was asked for, as it is."""
        with _reader_may_leave():
            sys.stdout.write(text)

    @contextmanager
    def events(self) -> Iterator[TerminalEvents]:
        """Where a command's messages and progress go while it runs."""
        messages = None if self.quiet else self.err
        if self.quiet or self.as_json:
            yield TerminalEvents(None, None, messages)
        elif not self.err.is_terminal:
            yield TerminalEvents(None, self.err, messages)
        else:
            columns = (
                BarColumn(24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
            )
            with Progress(*columns, console=self.err, transient=True) as bar:
                yield TerminalEvents(bar, None, messages)


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


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """A line that is not broken, however long, so that paths in it can be copied."""
    console.print(text, style=style, soft_wrap=True)

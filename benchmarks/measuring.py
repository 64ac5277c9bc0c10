"""Durations by CUDA events or the host's clock, and the rows of a table that they make; for the benchmarks."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flawmap.core.device import describe_machine

MOST = 200  # repeats of one row

Work = Callable[[], object]


class Backends(NamedTuple):
    """Switches of torch. tuned: cuDNN tries its algorithms and keeps the fastest."""

    tf32_products: bool
    tf32_convolutions: bool
    tuned: bool


class Absent(Exception):
    """What a row needs is not on this machine."""


class Measured(NamedTuple):
    milliseconds: float
    figures: dict[str, float]


@dataclass
class Row:
    """One line of the table. times: how many times as fast as the first row of the case. note: what went wrong."""

    section: str
    case: str
    variant: str
    milliseconds: float | None = None
    times: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""


STRICT = Backends(False, False, False)
DEFAULT = Backends(False, True, False)  # torch's, and so flawmap's
TUNED = Backends(False, True, True)
LOOSE = Backends(True, True, True)


@contextmanager
def switched(backends: Backends) -> Iterator[None]:
    """Torch's switches for as long as the context lasts."""
    before = switches()
    _switch(backends)
    try:
        yield
    finally:
        _switch(before)


def switches() -> Backends:
    with warnings.catch_warnings():  # some versions of torch warn of these names, and compile by them all the same
        warnings.simplefilter("ignore")
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return Backends(*tf32, torch.backends.cudnn.benchmark)


def _switch(backends: Backends) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cuda.matmul.allow_tf32 = backends.tf32_products
        torch.backends.cudnn.allow_tf32 = backends.tf32_convolutions
        torch.backends.cudnn.benchmark = backends.tuned


def synchronize(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def durations(
    work: Work, where: torch.device, *, warm: int, fewest: int, seconds: float, by_host: bool = False
) -> list[float]:
    """Milliseconds of repeats, after some that do not count: on the device, or as the host waits for them.

    warm: repeats that do not count. fewest: those that do, at least; as many as fit into the seconds, up to MOST.
    """
    for _ in range(warm):
        work()
    synchronize(where)
    repeats = fewest
    if seconds > 0:
        started = time.perf_counter()
        work()
        synchronize(where)
        repeats = min(MOST, max(repeats, int(seconds / (time.perf_counter() - started))))
    if where.type == "cuda" and not by_host:
        return _by_events(work, repeats)
    found = []
    for _ in range(repeats):
        synchronize(where)
        started = time.perf_counter()
        work()
        synchronize(where)
        found.append(1e3 * (time.perf_counter() - started))
    return found


def _by_events(work: Work, repeats: int) -> list[float]:
    """Between events, without waiting in between: launches overlap with the work before, as they do in earnest."""
    marks = [event() for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in itertools.pairwise(marks)]


def event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def medians(
    section: str, case: str, works: Mapping[str, Work], repeats: int, *, warm: int = 2, processor: bool = False
) -> list[Row]:
    """A row for each work: the median of its milliseconds on a CPU. Repeats take turns: noise comes over all alike.

    warm: repeats of each that do not count. processor: time of the processor, summed over threads, not of the clock.
    """
    clock = time.process_time if processor else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(warm + repeats):
        for name, work in works.items():
            started = clock()
            work()
            if repeat >= warm:
                taken[name].append(1e3 * (clock() - started))
    return [Row(section, case, name, statistics.median(found)) for name, found in taken.items()]


def parser(doc: str | None, repeats: int = 15) -> argparse.ArgumentParser:
    """Options that every benchmark of a CPU has."""
    options = argparse.ArgumentParser(description=(doc or "").split("\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument("--threads", type=int, help="of torch; all cores unless told otherwise")
    options.add_argument("--json", type=Path)
    options.add_argument(
        "--processor-time", action="store_true", help="instead of the clock's: for one thread, where others compute too"
    )
    return options


def parsed(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was given; torch computes on the threads that were asked for."""
    given = options.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    return given


def report(rows: Sequence[Row], given: argparse.Namespace, more: Mapping[str, Any] | None = None, **about: Any) -> None:
    """Print the table, below what machine this is, and keep both as JSON if asked to.

    more: for the JSON alone. about: what else to say.
    """
    compare(rows)
    kept = {"machine": describe_machine(), **about}
    print("; ".join(f"{name}: {value}" for name, value in kept.items()))
    print(table(rows))
    if given.json is not None:
        text = json.dumps({**kept, "rows": [asdict(row) for row in rows], **(more or {})}, indent=1)
        given.json.write_text(text + "\n", encoding="utf-8")


class Watched(NamedTuple):
    seconds: float
    peak: int  # bytes, resident


def watched(*arguments: str) -> Watched:
    """A command of flawmap in a child of its own: how long it took, and the most memory it had.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    watcher = (  # small itself, and with no other child: the system tells of all of them together
        "import resource, subprocess, sys; "
        "code = subprocess.call([sys.executable, '-m', 'flawmap', *sys.argv[1:]]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", watcher, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return Watched(time.perf_counter() - started, int(done.stdout.split()[-1]) * unit)


def nothing_told(milliseconds: float, result: object) -> dict[str, float]:
    return {}


def compare(rows: Sequence[Row]) -> None:
    """Set `times` of every row: the duration of the first row of its case, over its own."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        base = first.setdefault((row.section, row.case), row).milliseconds
        if base is not None and row.milliseconds:
            row.times = base / row.milliseconds


def table(rows: Sequence[Row]) -> str:
    """The rows of a section, aligned, cases together."""
    cases = list(dict.fromkeys(row.case for row in rows))
    cells = [("case", "variant", "ms", "times", "")]
    for row in sorted(rows, key=lambda row: cases.index(row.case)):
        figures = [f"{name} {value:.4g}" for name, value in row.figures.items()]
        cells.append(
            (
                row.case,
                row.variant,
                "-" if row.milliseconds is None else f"{row.milliseconds:.3f}",
                "-" if row.times is None else f"{row.times:.2f}",
                ", ".join([*figures, *([row.note] if row.note else [])]),
            )
        )
    wide = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        f"{case:{wide[0]}}  {variant:{wide[1]}}  {ms:>{wide[2]}}  {times:>{wide[3]}}  {more}".rstrip()
        for case, variant, ms, times, more in cells
    )

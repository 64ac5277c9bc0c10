"""`flawmap fleet`: many product types at once. Each leaves a model, its records, and a row of one table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flawmap.cluster.jobs import Outcome, most_at_once, run_jobs
from flawmap.cluster.workers import check_installed, started
from flawmap.commands.fleet_file import Fleet, read_fleet
from flawmap.commands.fleet_steps import STEPS, Step, Work, note_failure, read_record
from flawmap.core.documents import document
from flawmap.core.errors import ConfigError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import clean_stale_parts, writable_folder
from flawmap.reporting.fleets import fleet_page
from flawmap.reporting.logs import write_json
from flawmap.reporting.pages import write_page

TABLE, PAGE, LOCK = "fleet.json", "fleet.html", ".lock"
DONE = {"train": "trained", "calibrate": "calibrated", "evaluate": "evaluated", "inspect": "inspected"}


def fleet(
    step: Step, file: Path, out: Path, *, only: Collection[str] = (), address: str = "local", events: Events = SILENT
) -> dict[str, Any]:
    """Train, calibrate, evaluate or inspect the types of a fleet, as many at once as the cluster has room for.

    In the folder: `NAME.flawmap` of each type and what `train` leaves beside it; `NAME/` with a record of each step,
    the evaluation and the inspections; `fleet.json` and `fleet.html`, the table over all types, which is written anew
    whenever a type is done. A type that fails stops no other. What was done before with the same images and settings
    is not done again, and a training goes on from its checkpoint.

    Args:
        only: names of types; none: all. address: of Ray, see `cluster.archive.Workers`.
    Returns:
        The table, as `fleet.json` holds it.
    Raises:
        InputError: Ray is not installed. ConfigError: the fleet's file, an unknown name, no machine with room for a
            job, or another process that writes to the folder.
    """
    check_installed()
    known = read_fleet(file)
    names = _chosen(known, only)
    with _alone(writable_folder(out.absolute())) as folder, started(address):
        at_once = min(len(names), most_at_once(known.resources))
        jobs = {name: Work(step, known.types[name], folder, known.resources, at_once) for name in names}
        table = _Table(folder, step, list(known.types))
        begun: list[str] = []

        def tell() -> None:
            running = [name for name in begun if name not in table.ran]
            failed = f"; {len(table.failed)} failed" if table.failed else ""
            events.progress(len(table.ran), len(names), f"{step}: {', '.join(running) or 'nothing runs'}{failed}")

        def begin(name: str) -> None:
            begun.append(name)
            tell()

        try:
            with closing(run_jobs(jobs, known.resources, on_begin=begin)) as outcomes:
                for outcome in outcomes:
                    table.add(outcome)
                    events.message(_said(step, outcome))
                    tell()
        except KeyboardInterrupt:
            events.message(
                f"{len(table.ran)} of {len(names)} types have ended; the same command goes on with the others"
            )
            raise
        return table.write()


class _Table:
    """The rows of a fleet's types, and what this run did to them.

    types: those of the fleet's file, in its order; types that earlier runs left in the folder follow.
    """

    def __init__(self, folder: Path, step: Step, types: Sequence[str]) -> None:
        before = sorted({place.parent.name for one in STEPS for place in folder.glob(f"*/{one}.json")} - set(types))
        self._folder, self._step = folder, step
        self._records = {name: {one: read_record(folder, name, one) for one in STEPS} for name in (*types, *before)}
        self.ran: list[str] = []
        self.failed: list[str] = []

    def add(self, outcome: Outcome[tuple[dict[str, Any], bool]]) -> None:
        """Note how a type's step ended, and write the table."""
        self.ran.append(outcome.name)
        if outcome.result is None:
            self.failed.append(outcome.name)
            record = note_failure(self._folder, outcome.name, self._step, str(outcome.error))
        else:
            record = outcome.result[0]
        self._records[outcome.name][self._step] = record
        self.write()

    def write(self) -> dict[str, Any]:
        """Write table and page; returns the table."""
        page = self._folder / PAGE
        now = {"step": self._step, "ran": sorted(self.ran), "failed": sorted(self.failed), "page": str(page)}
        rows = [_row(self._folder, name, records) for name, records in self._records.items()]
        table = document("fleet", {**now, "types": rows})
        write_json(self._folder / TABLE, table)
        write_page(fleet_page(table), page)
        return table


def _row(folder: Path, name: str, records: Mapping[Step, dict[str, Any] | None]) -> dict[str, Any]:
    """A type's model and records. stale: steps whose figures are of an earlier model."""
    done = {step: record for step, record in records.items() if record and record["at"]}
    made = max((done[step] for step in ("train", "calibrate") if step in done), key=_ended, default=None)
    model = f"{name}.flawmap"
    return {
        "name": name,
        "model": model if "train" in done or (folder / model).is_file() else None,
        **{str(step): record for step, record in records.items()},
        "stale": [
            step
            for step in ("calibrate", "evaluate", "inspect")
            if made and step in done and done[step]["model_sha256"] != made["model_sha256"]
        ],
    }


def _ended(record: Mapping[str, Any]) -> str:
    return str(record["at"])


def _chosen(known: Fleet, only: Collection[str]) -> list[str]:
    for name in only:
        if name not in known.types:
            raise ConfigError(f"no type {name} in the fleet; it has {', '.join(known.types)}")
    return [name for name in known.types if name in only or not only]


def _said(step: Step, outcome: Outcome[tuple[dict[str, Any], bool]]) -> str:
    """A sentence on how a type's step ended."""
    if outcome.result is None:
        return f"{outcome.name} failed after {outcome.seconds:.0f} s: {outcome.error}"
    if outcome.result[1]:
        return f"{outcome.name} was {DONE[step]} before, with the same images and settings"
    return f"{outcome.name} {DONE[step]} in {outcome.seconds:.0f} s"


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder, to which this process alone writes a table. ConfigError: another one does."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            clean_stale_parts(folder)
            yield folder
    except Timeout:
        raise ConfigError(f"another fleet is at work in {folder}; name another folder with -o") from None

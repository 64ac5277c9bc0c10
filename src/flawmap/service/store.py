"""Results of inspections: one row each in SQLite, with the image and its map beside it. A row survives a crash.

The database is `results.sqlite` (write-ahead log, synchronised to the disk before a result is acknowledged). Images, as
they came, and maps lie in `files/`. Both go when they are too old or too many.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from flawmap.core.documents import document
from flawmap.core.errors import InputError, OutputError
from flawmap.core.files import atomic, unwritable

VERSION = 1  # of the database's tables
Review = Literal["accept", "reject"]

_TABLE = """
CREATE TABLE results (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    name TEXT NOT NULL,
    image_sha256 TEXT NOT NULL,
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    point TEXT NOT NULL,
    verdict TEXT NOT NULL,
    score REAL NOT NULL,
    threshold REAL NOT NULL,
    p_value REAL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    flawed_pixels INTEGER NOT NULL,
    regions TEXT NOT NULL,
    notes TEXT NOT NULL,
    timings TEXT NOT NULL,
    review TEXT,
    note TEXT,
    reviewed_at REAL,
    bytes INTEGER NOT NULL
);
CREATE INDEX results_at ON results (at);
CREATE INDEX results_image ON results (image_sha256);
CREATE TABLE deliveries (destination TEXT PRIMARY KEY, last INTEGER NOT NULL);
"""
Kind = Literal["image", "map"]
KINDS: tuple[Kind, ...] = ("image", "map")
_JSON = ("regions", "notes", "timings")


@dataclass(frozen=True)
class Result:
    """One inspection, as JSON's types.

    id: sorts by time. at: seconds since 1970, UTC. name: what the sender called the image. point: the operating point.
    regions: see `records.Region`, with a polygon each. timings: seconds. review, note: of an operator; None: not yet.
    bytes: of the files kept beside it.
    """

    id: str
    at: float
    name: str
    image_sha256: str
    model: str
    model_sha256: str
    point: str
    verdict: str
    score: float
    threshold: float
    p_value: float | None
    width: int
    height: int
    flawed_pixels: int
    regions: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    review: str | None = None
    note: str | None = None
    reviewed_at: float | None = None
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types: a document of the kind `result`."""
        fields = asdict(self) | {"regions": list(self.regions), "notes": list(self.notes)}
        return document("result", fields)


COLUMNS = tuple(Result.__dataclass_fields__)


def new_id() -> str:
    """Sixteen digits and letters that sort by time, in milliseconds, and cannot be guessed."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Retention:
    """How long results are kept. days, gigabytes (10^9, of the files): None: for ever, as many as there are."""

    days: float | None = None
    gigabytes: float | None = 10.0


class Store:
    """The results of one service. Threads may share it.

    Args:
        folder: made if it is missing. retention: applied by `prune`.
    Raises:
        OutputError: the folder cannot be written to. InputError: another flawmap's tables, or no database at all.
    """

    def __init__(self, folder: Path, retention: Retention | None = None) -> None:
        self.folder, self.retention = folder, retention or Retention()
        self._lock = Lock()
        try:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / "results.sqlite", check_same_thread=False, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._prepare()
        except OSError as error:
            raise unwritable(folder, error) from error
        except sqlite3.DatabaseError as error:
            raise InputError(f"{folder / 'results.sqlite'} cannot be used as a store of results: {error}") from None

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA busy_timeout = 10000")
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._database.executescript(f"BEGIN;{_TABLE}PRAGMA user_version = {VERSION};COMMIT;")
        elif version != VERSION:
            raise InputError(
                f"{self.folder / 'results.sqlite'} has tables of version {version}, this flawmap knows {VERSION}; "
                "update flawmap, or name another folder"
            )

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # ------------------------------------------------------------------------------------------------------------ rows

    def add(self, result: Result) -> None:
        """One row, on the disk when this returns. OutputError: the disk is full."""
        row = result.to_dict()
        row |= {name: json.dumps(row[name], allow_nan=False) for name in _JSON}
        names = ", ".join(COLUMNS)
        try:
            with self._lock:
                marks = ", ".join("?" * len(COLUMNS))
                values = [row[name] for name in COLUMNS]
                self._database.execute(f"INSERT INTO results ({names}) VALUES ({marks})", values)
        except sqlite3.OperationalError as error:
            raise OutputError(f"the result cannot be stored in {self.folder}: {error}; make room") from error

    def get(self, number: str) -> Result | None:
        with self._lock:
            row = self._database.execute("SELECT * FROM results WHERE id = ?", [number]).fetchone()
        return None if row is None else _result(row)

    def newest(
        self,
        *,
        before: str | None = None,
        model: str | None = None,
        verdict: str | None = None,
        review: str | None = None,
        limit: int | None = 100,
    ) -> list[Result]:
        """The newest first. before: the id of the last one of the page before. review: accept, reject or none."""
        where, values = ["1"], list[Any]()
        for column, wanted in (("model", model), ("verdict", verdict), ("review", review)):
            if wanted == "none":
                where.append(f"{column} IS NULL")
            elif wanted is not None:
                where.append(f"{column} = ?")
                values.append(wanted)
        if before is not None:
            where.append("id < ?")
            values.append(before)
        query = f"SELECT * FROM results WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
        with self._lock:
            rows = self._database.execute(query, [*values, -1 if limit is None else limit]).fetchall()
        return [_result(row) for row in rows]

    def review(self, number: str, review: Review | None, note: str | None) -> Result | None:
        """What an operator says of a result; None: there is no such result."""
        with self._lock:
            self._database.execute(
                "UPDATE results SET review = ?, note = ?, reviewed_at = ? WHERE id = ?",
                [review, note, time.time(), number],
            )
        return self.get(number)

    def seen(self, name: str, image_sha256: str, model_sha256: str) -> bool:
        """Whether the same image of this name was inspected by the same model."""
        query = "SELECT 1 FROM results WHERE image_sha256 = ? AND name = ? AND model_sha256 = ? LIMIT 1"
        with self._lock:
            return self._database.execute(query, [image_sha256, name, model_sha256]).fetchone() is not None

    # ------------------------------------------------------------------------------------------------------ deliveries

    def undelivered(self, destination: str, limit: int = 100) -> list[tuple[int, Result]]:
        """Results that a destination has not got yet, the oldest first. A new destination begins with what comes."""
        with self._lock:
            run = self._database.execute
            run(
                "INSERT OR IGNORE INTO deliveries SELECT ?, coalesce(max(number), 0) FROM results",
                [destination],
            )
            query = (
                "SELECT * FROM results WHERE number > (SELECT last FROM deliveries WHERE destination = ?) "
                "ORDER BY number LIMIT ?"
            )
            rows = run(query, [destination, limit]).fetchall()
        return [(row["number"], _result(row)) for row in rows]

    def delivered(self, destination: str, number: int) -> None:
        """Everything up to this number has arrived."""
        with self._lock:
            self._database.execute("UPDATE deliveries SET last = ? WHERE destination = ?", [number, destination])

    # ----------------------------------------------------------------------------------------------------------- files

    def file(self, number: str, kind: Kind) -> Path:
        """Where a result's image, or its map as gzip of float32, lies if it was kept."""
        return self.folder / "files" / f"{number}.{kind}"

    def keep(self, number: str, kind: Kind, content: bytes) -> int:
        """Write a file of a result that is not stored yet; its bytes."""
        with atomic(self.file(number, kind)) as part:
            part.write_bytes(content)
        return len(content)

    def prune(self) -> int:
        """Remove what is too old, then the oldest files until they fit; the number of results that lost something."""
        gone = 0
        if self.retention.days is not None:
            gone += self._drop("at < ?", [time.time() - 86_400 * self.retention.days], rows=True)
        if self.retention.gigabytes is not None:
            with self._lock:
                total = self._database.execute("SELECT coalesce(sum(bytes), 0) FROM results").fetchone()[0]
            excess = total - 1e9 * self.retention.gigabytes
            if excess > 0:
                old = list(self._oldest(excess))
                gone += self._drop(f"id IN ({', '.join('?' * len(old))})", old, rows=False)
        return gone

    def _oldest(self, excess: float) -> Iterator[str]:
        with self._lock:
            rows = self._database.execute(
                "SELECT id, bytes FROM results WHERE bytes > 0 ORDER BY id LIMIT 500"
            ).fetchall()
        for row in rows:
            if excess <= 0:
                return
            excess -= row["bytes"]
            yield row["id"]

    def _drop(self, where: str, values: Sequence[Any], *, rows: bool) -> int:
        with self._lock:
            found = [row["id"] for row in self._database.execute(f"SELECT id FROM results WHERE {where}", values)]
            change = "DELETE FROM results" if rows else "UPDATE results SET bytes = 0"
            self._database.execute(f"{change} WHERE {where}", values)
        for number in found:
            for kind in KINDS:
                self.file(number, kind).unlink(missing_ok=True)
        return len(found)


def _result(row: sqlite3.Row) -> Result:
    values = {name: row[name] for name in COLUMNS}
    values |= {name: json.loads(values[name]) for name in _JSON}
    return Result(**values | {"regions": tuple(values["regions"]), "notes": tuple(values["notes"])})

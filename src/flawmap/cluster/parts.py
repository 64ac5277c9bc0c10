"""The folder of an archive's results: Parquet files, its parts, each whole or absent, and what decided them.

A part is its own record of what is done: the images of the parts are done, all others are not. So there is no second
list that a crash could part from the first.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
from filelock import FileLock, Timeout
from pyarrow import parquet

from flawmap.core.documents import document, schema
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.files import atomic, clean_stale_parts

RUN, LOCK = "run.json", ".lock"
ROWS, SECONDS = 1000, 30.0
"""A part is written after so many rows, or so long after its first row: what a crash can cost."""

REGION = pyarrow.struct(
    [
        ("area", pyarrow.int64()),
        ("box", pyarrow.list_(pyarrow.int64())),
        ("centroid", pyarrow.list_(pyarrow.float64())),
        ("peak", pyarrow.float64()),
        ("mean", pyarrow.float64()),
    ]
)
COLUMNS = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("image_sha256", pyarrow.string()),
        ("verdict", pyarrow.string()),
        ("p_value", pyarrow.float64()),
        ("score", pyarrow.float64()),
        ("threshold", pyarrow.float64()),
        ("regions", pyarrow.list_(REGION)),
        ("width", pyarrow.int64()),
        ("height", pyarrow.int64()),
        ("flawed_pixels", pyarrow.int64()),
        ("model_sha256", pyarrow.string()),
        ("seconds", pyarrow.float64()),
        ("error", pyarrow.string()),
        ("duplicate_of", pyarrow.string()),
    ],
    metadata={"schema": schema("scores")},
)


class Parts:
    """Takes rows and writes them as parts. folder: made already."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._rows, self._since = folder, list[Mapping[str, Any]](), 0.0
        self._next = max((_number(path) for path in part_files(folder)), default=-1) + 1

    def add(self, row: Mapping[str, Any]) -> None:
        """A row with the fields of COLUMNS; it is on the disk once its part is written. OutputError: a full disk."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append(row)
        if len(self._rows) >= ROWS or time.monotonic() - self._since >= SECONDS:
            self.write()

    def write(self) -> None:
        """Write the rows that wait as a part, beside and then renamed."""
        if self._rows:
            with atomic(self._folder / f"part-{self._next:06d}.parquet", durable=True) as file:
                parquet.write_table(pyarrow.Table.from_pylist(self._rows, COLUMNS), file)
            self._rows, self._next = [], self._next + 1


def part_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"), key=_number)


def read_scores(folder: Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """All rows of a folder, by path; columns: None: all. InputError: a part is damaged."""
    wanted = COLUMNS if columns is None else pyarrow.schema([COLUMNS.field(name) for name in columns])
    tables = [wanted.empty_table()]
    for path in part_files(folder):
        try:
            tables.append(parquet.ParquetFile(path).read(columns=columns).cast(wanted))
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path} is damaged: {error}; remove it, and its images are scored again") from error
    table = pyarrow.concat_tables(tables)
    return table.sort_by("path") if "path" in table.column_names else table


@contextmanager
def opened_folder(folder: Path, run: Mapping[str, Any]) -> Iterator[Parts]:
    """The parts of a folder that one process alone adds to. What waits is written when the block ends, however.

    Raises:
        ConfigError: another process writes there. See `check_run`, too.
    """
    try:
        with FileLock(folder / LOCK, timeout=0):
            check_run(folder, run)
            clean_stale_parts(folder)
            with atomic(folder / RUN, durable=True) as file:
                file.write_text(json.dumps(document("archive", run), indent=2) + "\n", encoding="utf-8")
            parts = Parts(folder)
            try:
                yield parts
            finally:
                parts.write()
    except Timeout:
        raise ConfigError(f"another process is writing to {folder}; name another folder with -o") from None


def check_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Refuse a folder whose parts another model, other images or other settings gave, with a ConfigError."""
    try:
        before = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not part_files(folder):
            return
        before = {}
    except ValueError:
        before = {}
    changed = [f"{key} was {before.get(key)}, is {value}" for key, value in run.items() if before.get(key) != value]
    if changed:
        raise ConfigError(
            f"{folder} holds scores by another model or other settings: {'; '.join(changed)}; "
            "name another folder with -o"
        )


def _number(path: Path) -> int:
    found = re.fullmatch(r"part-(\d+)", path.stem)
    return int(found[1]) if found else -1

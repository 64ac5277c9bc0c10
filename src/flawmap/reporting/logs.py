"""Lists for programs: what an inspection found as JSON lines and CSV, histories of trainings, and JSON files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

from filelock import FileLock, Timeout

from flawmap.core.documents import document
from flawmap.core.errors import ConfigError, InputError, OutputError
from flawmap.core.files import atomic, unwritable
from flawmap.core.records import Inspection

INSPECTIONS, REGIONS, RUN, LOCK = "inspections.jsonl", "regions.csv", ".run.json", ".lock"
REGION_COLUMNS = (
    "path",
    "region",
    "area",
    "left",
    "top",
    "width",
    "height",
    "centroid_x",
    "centroid_y",
    "peak",
    "mean",
    "page",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins with one of these is run by spreadsheets."""


class InspectionLog:
    """What inspecting many images found: `inspections.jsonl` and, when the block ends, `regions.csv` in a folder.

    Each line of the JSON is complete and out of this process before the next image is listed, so a killed run leaves
    the lines of the images that were done. They stay in the file alone: memory does not grow with their number. `kept`
    holds the lines of an earlier run that this one goes on with.

    Args:
        run: what decides the results, as JSON's types. resume: go on with the lines that are there.
    Raises:
        ConfigError: the lines there belong to another model or other settings, or another process writes to the folder.
        OutputError: the folder cannot be written to, or is full. InputError: a score that is not finite.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], *, resume: bool = False) -> None:
        self._folder, self._run, self._resume = folder, dict(run), resume
        self._lock = FileLock(folder / LOCK)
        self._file: BinaryIO
        self.kept: tuple[dict[str, Any], ...] = ()

    def __enter__(self) -> Self:
        path = self._folder / INSPECTIONS
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"another inspection is writing to {self._folder}; name another folder with -o") from None
        except OSError as error:
            raise unwritable(self._folder / LOCK, error) from error
        try:
            if self._resume and path.exists():
                self._check_run()
                self.kept = tuple(line for line in read_lines(path) if "error" not in line)
            with atomic(path) as part:  # a torn last line and images that could not be read are left out
                part.write_bytes(b"".join(map(_line, self.kept)))
            write_json(self._folder / RUN, self._run)  # after the lines: never beside those of another run
            self._write_regions()
            self._file = path.open("ab", buffering=0)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise unwritable(path, error) from error
            raise
        return self

    def add(self, inspection: Inspection, page: int | None = None, pictures: Path | None = None) -> dict[str, Any]:
        """One line for an image, or for a page of it; returns the line. pictures: their path without endings."""
        where = {} if pictures is None else {"pictures": pictures.as_posix()}
        return self._append(inspection.to_dict() | where, page)

    def fail(self, path: Path | str, message: str, page: int | None = None) -> dict[str, Any]:
        """One line for an image that could not be read: its path and why; returns the line."""
        return self._append({"path": str(path), "error": message}, page)

    def __exit__(self, *error: object) -> None:
        try:
            self._file.close()
            self._write_regions()
            path = self._folder / INSPECTIONS
            if path.stat().st_size == 0:
                path.unlink()
        finally:
            self._lock.release()

    def _write_regions(self) -> None:
        """The regions of the images listed so far; no file where none is listed."""
        path, lines = self._folder / REGIONS, self._folder / INSPECTIONS
        if lines.stat().st_size:
            write_csv(path, REGION_COLUMNS, (row for line in read_lines(lines) for row in _regions(line)))
        else:
            path.unlink(missing_ok=True)

    def _append(self, line: dict[str, Any], page: int | None) -> dict[str, Any]:
        if page is not None:
            line = {"path": line["path"], "page": page} | line
        line = document("inspection", line)
        content, path = _line(line), self._folder / INSPECTIONS
        try:
            end = os.fstat(self._file.fileno()).st_size
            if self._file.write(content) < len(content):  # no room for all of it
                self._file.truncate(end)
                raise OutputError(f"{path} cannot be written: no space left; make room, and go on with --resume")
        except OSError as error:
            raise unwritable(path, error) from error
        return line

    def _check_run(self) -> None:
        """Refuse lines that another model or other settings gave."""
        place = self._folder / RUN
        try:
            before = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        changed = [
            f"{key} was {before.get(key)}, is {value}" for key, value in self._run.items() if before.get(key) != value
        ]
        if changed:
            raise ConfigError(
                f"{self._folder} holds an inspection by another model or other settings: {'; '.join(changed)}; name "
                "another folder with -o, or inspect without --resume to replace it"
            )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a file of JSON lines, one after the other; a last one that was torn is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.strip():
                yield json.loads(line)


def write_history(history: Iterable[Any], path: Path) -> None:
    """A training's history as CSV: step, loss, validation, rate, seconds."""
    columns = ("step", "loss", "validation", "rate", "seconds")
    write_csv(path, columns, [tuple(asdict(row)[name] for name in columns) for row in history])


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file in UTF-8, whole or not at all; None is an empty cell, and no text cell is a formula."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)


def write_json(path: Path, data: Any) -> None:
    """A JSON file, indented by 2, keys in their given order, whole or not at all.

    Raises:
        InputError: a number that is not finite (JSON has none; say None), or the file cannot be written.
    """
    content = utf8(_json(data, str(path), 2) + "\n")
    with atomic(path) as part:
        part.write_bytes(content)


def utf8(text: str) -> bytes:
    """UTF-8. A file name's bytes that are none come as lone surrogates and leave as \\udcff, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def _regions(line: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    """The rows of an image's regions, numbered from 1."""
    for place, region in enumerate(line.get("regions", ()), start=1):
        where = (*region["box"], *region["centroid"])
        yield (line["path"], place, region["area"], *where, region["peak"], region["mean"], line.get("page"))


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else "" if value is None else value


def _line(record: Mapping[str, Any]) -> bytes:
    return utf8(_json(record, str(record["path"])) + "\n")


def _json(data: Any, name: str, indent: int | None = None) -> str:
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise InputError(f"{name}: JSON holds finite numbers only, got NaN or infinity; write None: {error}") from error

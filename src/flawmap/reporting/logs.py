"""Lists for programs: what an inspection found as JSON lines and CSV, and JSON files that are whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flawmap.core.errors import InputError
from flawmap.core.files import atomic, writable_folder
from flawmap.core.records import Findings, Inspection

INSPECTIONS, REGIONS = "inspections.jsonl", "regions.csv"
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
)


class InspectionLog:
    """What inspecting many images found, written while it runs: `inspections.jsonl` and `regions.csv` in a folder.

    Both grow under hidden names and take their own when the block ends, also by an exception: then they hold the
    images that were finished, in whole lines. An exception before the first image leaves older files as they were.

    Raises:
        InputError: the folder cannot be written to, no room, or a score that is not finite.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        writable_folder(self.folder)
        self._targets = [self.folder / name for name in (INSPECTIONS, REGIONS)]
        self._parts = [target.with_name(f".{target.name}.part-{os.getpid()}") for target in self._targets]
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.unlink, missing_ok=True)
            # Unbuffered: nothing waits in memory that a later error or a full disk could lose or repeat.
            self._files = [stack.enter_context(part.open("wb", buffering=0)) for part in self._parts]
            self._whole = [0, 0]
            self._append("", _csv_lines([REGION_COLUMNS]))
            self._begun = self._whole
            self._stack = stack.pop_all()
        return self

    def add(self, findings: Findings | Inspection) -> None:
        """One line for the image, and one for each of its regions, numbered from 1."""
        record, rows = findings.to_dict(), []
        for place, region in enumerate(record["regions"], start=1):
            where = (*region["box"], *region["centroid"])
            rows.append((record["path"], place, region["area"], *where, region["peak"], region["mean"]))
        self._append(_json(record, findings.path or "an image") + "\n", _csv_lines(rows))

    def fail(self, path: Path | str, message: str) -> None:
        """One line for an image that could not be read: its path and why."""
        self._append(json.dumps({"path": str(path), "error": message}, ensure_ascii=False) + "\n", "")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._stack:
                for file, size in zip(self._files, self._whole, strict=True):
                    file.truncate(size)
                    file.close()
                if kind is None or self._whole != self._begun:
                    for part, target in zip(self._parts, self._targets, strict=True):
                        part.replace(target)
        except OSError as problem:
            raise InputError(
                f"the lists in {self.folder} cannot be written: {problem.strerror or problem}"
            ) from problem

    def _append(self, *texts: str) -> None:
        """Both files or neither: what an interrupted call left after `_whole` is overwritten or cut off."""
        try:
            for file, size, text in zip(self._files, self._whole, texts, strict=True):
                file.seek(size)
                rest = memoryview(utf8(text))
                while rest:
                    rest = rest[file.write(rest) :]
        except OSError as error:
            raise InputError(f"the lists in {self.folder} cannot be written: {error.strerror or error}") from error
        self._whole = [file.tell() for file in self._files]


def write_json(path: Path, data: Any) -> None:
    """A JSON file, indented by 2, lists of numbers on one line, keys in their given order, whole or not at all.

    Raises:
        InputError: a number that is not finite (JSON has none; say None), or the file cannot be written.
    """
    # A line break stands between values only: within a string it is escaped.
    text = re.sub(r'\[\n[^\[\]{}"]*\]', lambda found: _one_line(found[0]), _json(data, str(path), indent=2))
    content = utf8(text + "\n")
    with atomic(path) as part:
        part.write_bytes(content)


def _one_line(numbers: str) -> str:
    return "[" + ", ".join(number.strip() for number in numbers[1:-1].split(",")) + "]"


def _json(data: Any, name: str, indent: int | None = None) -> str:
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise InputError(f"{name}: JSON holds finite numbers only, got NaN or infinity; write None: {error}") from error


def _csv_lines(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def utf8(text: str) -> bytes:
    """UTF-8. A file name's bytes that are none come as lone surrogates and leave as \\udcff, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")

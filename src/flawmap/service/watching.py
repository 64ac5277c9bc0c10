"""A folder that a camera writes to: each image is inspected once, when it is complete, and again never."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from flawmap.core.errors import FlawmapError, InputError, OutputError
from flawmap.core.files import sha256_of
from flawmap.imaging.formats import IMAGE_SUFFIXES
from flawmap.service.incoming import Incoming
from flawmap.service.inspector import Busy, Inspector, Job, Model
from flawmap.service.store import Result

log = logging.getLogger(__name__)

Seen = tuple[int, int]
"""Size and time of the last change, in nanoseconds: another pair is another file."""


@dataclass(frozen=True)
class Destinations:
    """Where files go after their inspection; None: they stay. failed: what could not be read."""

    ok: Path | None = None
    flawed: Path | None = None
    failed: Path | None = None

    def of(self, verdict: str) -> Path | None:
        return {"ok": self.ok, "flawed": self.flawed}.get(verdict, self.failed)


@dataclass
class FolderWatch:
    """Looks at a folder again and again. Changes are noticed by size and time, so any file system will do.

    settle: seconds without a change after which a file is complete. patience: seconds after which one that still
    cannot be read is given up. on_done: told of each file with its result, or with what was wrong.
    """

    folder: Path
    inspector: Inspector
    incoming: Incoming
    model: Model
    point: str | None = None
    settle: float = 1.0
    patience: float = 30.0
    moved: Destinations = field(default_factory=Destinations)
    on_done: Callable[[Path, Result | FlawmapError], None] = lambda path, found: None

    def __post_init__(self) -> None:
        self._done: dict[Path, Seen] = {}
        self._changed: dict[Path, tuple[Seen, float]] = {}
        self._working: dict[Path, tuple[Seen, Future[Result]]] = {}

    def run(self, stop: Event, *, once: bool = False) -> None:
        """Until `stop` is set; with `once` until every image that is there was inspected.

        Raises:
            InputError: the folder is not there, or goes away.
        """
        while not stop.is_set():
            if not self.folder.is_dir():
                raise InputError(f"the folder {self.folder} is not there; make it, or name another one")
            begun = time.monotonic()
            waiting = self._look()
            self._finish()
            if once and not waiting and not self._working:
                return
            # A folder of many files is looked at less often: a fifth of the time at most.
            stop.wait(max(min(0.2, self.settle / 2), 4 * (time.monotonic() - begun)))
        for path in list(self._working):
            self._end(path)

    def _look(self) -> bool:
        """Submit what is complete; whether something is not yet."""
        now, waiting, there = time.monotonic(), False, dict(self._files())
        self._done = {path: seen for path, seen in self._done.items() if path in there}
        self._changed = {path: seen for path, seen in self._changed.items() if path in there}
        for path, seen in there.items():
            if path in self._working or self._done.get(path) == seen:
                continue
            before, since = self._changed.get(path, (None, now))
            if before != seen:
                self._changed[path] = (seen, now)
                waiting = True
            elif now - since < self.settle or not self._submit(path, seen):
                waiting = True
        return waiting

    def _files(self) -> Iterator[tuple[Path, Seen]]:
        """Images below the folder with what is known of them; hidden ones and those that were moved are left out."""
        left_out = {place.resolve() for place in (self.moved.ok, self.moved.flawed, self.moved.failed) if place}
        for folder, folders, names in _walk(self.folder):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and (folder / name).resolve() not in left_out
            )
            for name in sorted(names):
                path = folder / name
                if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                    try:
                        status = path.stat()
                    except OSError:  # gone again
                        continue
                    yield path, (status.st_size, status.st_mtime_ns)

    def _submit(self, path: Path, seen: Seen) -> bool:
        """Whether the file is under work now, or done before."""
        name = path.relative_to(self.folder).as_posix()
        try:
            if self.inspector.store.seen(name, sha256_of(path), self.model.sha256):
                self._done[path] = seen
                return True
            future = self.inspector.submit(Job(self.incoming.of_file(path), name, self.model, self.point))
        except Busy:
            return False
        except FlawmapError as error:  # as if its inspection had ended so
            if not path.exists():  # gone again
                return True
            future = Future()
            future.set_exception(error)
        self._working[path] = (seen, future)
        return True

    def _finish(self) -> None:
        for path in [path for path, (_, future) in self._working.items() if future.done()]:
            self._end(path)

    def _end(self, path: Path) -> None:
        seen, future = self._working.pop(path)
        found: Result | FlawmapError
        try:
            found = future.result()
        except OutputError as error:  # a full disk: the image is tried again
            log.warning("%s", error)
            self._changed[path] = (seen, time.monotonic())
            return
        except FlawmapError as error:
            if time.time() - seen[1] / 1e9 < self.patience:  # perhaps it is still being written
                self._changed[path] = (seen, time.monotonic())
                return
            found = error
        self._done[path] = seen
        self._changed.pop(path, None)
        target = self.moved.of(found.verdict if isinstance(found, Result) else "failed")
        if target is not None:
            self._move(path, target)
        self.on_done(path, found)

    def _move(self, path: Path, target: Path) -> None:
        """Into a folder, under a name that is free."""
        place = target / path.relative_to(self.folder)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while place.exists():
                place = place.with_name(f"{path.stem}_{number}{path.suffix}")
                number += 1
            shutil.move(path, place)
        except OSError as error:
            log.warning("%s stays where it is: %s", path, error)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As Path.walk of newer Pythons."""

    for place, folders, names in os.walk(folder):
        yield Path(place), folders, names

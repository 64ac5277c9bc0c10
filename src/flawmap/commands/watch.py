"""`flawmap watch`: every image that a camera writes to a folder, inspected once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from flawmap.commands.serve import StoreOptions, missing
from flawmap.core.errors import ConfigError, FlawmapError
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.imaging.threads import one_opencv_thread


@dataclass(frozen=True, kw_only=True)
class WatchOptions(StoreOptions):
    """point: None: the model's. settle: seconds without a change after which a file is complete. patience: seconds
    after which a file that cannot be read is given up. move_ok, move_flawed, move_failed: folders that files go to;
    None: they stay. once: end when all that is there was inspected."""

    point: str | None = None
    settle: float = 1.0
    patience: float = 30.0
    move_ok: Path | None = None
    move_flawed: Path | None = None
    move_failed: Path | None = None
    once: bool = False


@dataclass
class WatchCounts:
    """What was found so far, by verdict, and what could not be read."""

    ok: int = 0
    flawed: int = 0
    failed: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return dict(vars(self))


def watch(
    model: Path,
    folder: Path,
    options: WatchOptions | None = None,
    *,
    runtime: Runtime | None = None,
    roi_masks: Path | None = None,
    events: Events = SILENT,
) -> WatchCounts:
    """Inspect what comes to a folder, until Ctrl-C or SIGTERM; what is under work is finished first.

    Results go to a store, see `service.store`, and from there to a broker or a webhook. An image that was inspected by
    this model before, under this name and with this content, is not inspected again, whatever happened in between.

    Raises:
        InputError: the folder is not there, or a package of the extra `serve` is missing. ConfigError: an unknown
            operating point, an address that is none, or a store in the folder. OutputError: the store.
    """
    options = options or WatchOptions()
    try:
        from flawmap.service.inspector import loaded_models  # noqa: PLC0415 - an extra
        from flawmap.service.publish import destinations_of  # noqa: PLC0415
        from flawmap.service.state import Limits, Service  # noqa: PLC0415
        from flawmap.service.store import Result, Retention, Store  # noqa: PLC0415
        from flawmap.service.watching import Destinations, FolderWatch  # noqa: PLC0415

        destinations = destinations_of(options.mqtt, options.webhook)
    except ModuleNotFoundError as error:
        raise missing(error) from None
    known = loaded_models([model], runtime or Runtime(), roi_masks)[model.stem]
    known.detector(options.point)
    inside, watched = options.store.resolve(), folder.resolve()
    if inside == watched or watched in inside.parents:
        raise ConfigError(f"the store {options.store} lies in the watched folder {folder}; name another one (--store)")
    store = Store(options.store, Retention(options.keep_days, options.keep_gigabytes))
    counts = WatchCounts()

    def done(path: Path, found: Result | FlawmapError) -> None:
        if isinstance(found, Result):
            setattr(counts, found.verdict, getattr(counts, found.verdict) + 1)
            events.message(f"{found.name}: {found.verdict}, score {found.score:.4g}, {len(found.regions)} regions")
        else:
            counts.failed += 1
            counts.problems.append({"path": str(path), "problem": str(found)})
            events.message(str(found))
        store.prune()

    service = Service.of({known.name: known}, store, Limits(), keep=options.keep_images, destinations=destinations)
    watching = FolderWatch(
        folder,
        service.inspector,
        service.incoming,
        known,
        options.point,
        settle=options.settle,
        patience=options.patience,
        moved=Destinations(options.move_ok, options.move_flawed, options.move_failed),
        on_done=done,
    )
    with closing(service), _until_told() as stop, one_opencv_thread():
        if not options.once:
            events.message(f"watching {folder} with {known.name}, results in {options.store}; Ctrl-C ends it")
        watching.run(stop, once=options.once)
    return counts


@contextmanager
def _until_told() -> Iterator[Event]:
    """An event that SIGTERM and Ctrl-C set; on the main thread alone, as signals are."""
    stop, before = Event(), {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda *_: stop.set())
    except ValueError:  # another thread: whoever started it ends it
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

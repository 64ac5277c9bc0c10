"""The parts of a running service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flawmap.service.incoming import Incoming
from flawmap.service.inspector import Inspector, Model
from flawmap.service.live import Live
from flawmap.service.measures import Measures
from flawmap.service.publish import Destination, Publisher
from flawmap.service.store import Result, Store


@dataclass(frozen=True)
class Limits:
    """queue: images that wait or are under work. megabytes: of a request (10^6 bytes). batch: images of a batch."""

    queue: int = 32
    megabytes: float = 64.0
    batch: int = 100


@dataclass(frozen=True)
class Service:
    """models: by name, the first one is taken where a request names none."""

    models: dict[str, Model]
    store: Store
    limits: Limits
    inspector: Inspector
    live: Live
    measures: Measures
    incoming: Incoming

    publishers: tuple[Publisher, ...] = ()

    @classmethod
    def of(
        cls,
        models: dict[str, Model],
        store: Store,
        limits: Limits | None = None,
        *,
        keep: bool = True,
        destinations: Sequence[Destination] = (),
    ) -> Service:
        """keep: whether images and maps are kept. destinations: where results are published."""
        limits, live = limits or Limits(), Live()
        publishers = tuple(Publisher(store, destination) for destination in destinations)

        def tell(result: Result) -> None:
            live.tell(result)
            for publisher in publishers:
                publisher.tell()

        inspector = Inspector(store, queue=limits.queue, keep=keep, on_result=tell)
        incoming = Incoming(store.folder / "incoming")
        return cls(models, store, limits, inspector, live, Measures(), incoming, publishers)

    def close(self) -> None:
        """Wait for what is under work; what waits is cancelled."""
        self.live.close()
        self.inspector.close()
        for publisher in self.publishers:
            publisher.close()
        self.store.close()

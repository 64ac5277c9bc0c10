"""Results as they come, for whoever listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from flawmap.service.store import Result

WAITING = 100  # results that a listener may be behind; then the oldest are left out
ALIVE_SECONDS = 15.0


class Live:
    """Hands results from the pool's threads to listeners on the loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[asyncio.Queue[Result | None]] = set()
        self._closed = False

    def tell(self, result: Result) -> None:
        """From any thread."""
        if self.loop is not None and not self._closed:
            self.loop.call_soon_threadsafe(self._spread, result)

    def _spread(self, result: Result | None) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(result)

    async def listen(self) -> AsyncIterator[Result | None]:
        """Results from now on; None now and then, so that a lost connection is noticed. Ends with the service."""
        queue: asyncio.Queue[Result | None] = asyncio.Queue(WAITING)
        self._listeners.add(queue)
        try:
            while not self._closed:
                try:
                    yield await asyncio.wait_for(queue.get(), ALIVE_SECONDS)
                except TimeoutError:
                    yield None
        finally:
            self._listeners.discard(queue)

    def close(self) -> None:
        self._closed = True
        self._spread(None)

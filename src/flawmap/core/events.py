"""What long work tells its caller on the way. The base class says nothing; a terminal or a service overrides it."""

from __future__ import annotations

from typing import Any


class Events:
    """Receives messages and progress, in order and never concurrently."""

    def message(self, text: str) -> None:
        """A sentence for people: what was understood, found or left out."""

    def progress(self, done: int, total: int, what: str) -> None:
        """`done` of `total` items are finished; `what` names the last one."""

    def training(self, progress: Any, name: str = "training") -> None:
        """A training has one more row of its history. progress: `flawmap.methods.gradient.Progress`."""


SILENT = Events()


class Named(Events):
    """The same events with a name for the training, where several follow one another."""

    def __init__(self, events: Events, name: str) -> None:
        self._events, self._name = events, name

    def message(self, text: str) -> None:
        self._events.message(text)

    def progress(self, done: int, total: int, what: str) -> None:
        self._events.progress(done, total, what)

    def training(self, progress: Any, name: str = "training") -> None:
        self._events.training(progress, self._name)

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

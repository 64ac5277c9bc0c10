"""What several commands share: output folders, and being told how far work has come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flawmap.core.files import enough_space, writable_folder

Done = Callable[[int, int, str], None]
"""Told (done, of how many, what) as work goes on."""


def _silent(done: int, total: int, what: str) -> None:
    return None


def _usable(folder: Path, needed: int) -> None:
    """Refuse an output folder, made already or not, that cannot take what will be written; make it otherwise."""
    enough_space(folder, needed)
    writable_folder(folder)

"""`flawmap results`: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flawmap.core.errors import InputError


def results(
    folder: Path,
    *,
    model: str | None = None,
    verdict: str | None = None,
    review: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The results of a store, the newest first, as JSON's types.

    Args:
        model, verdict, review: those alone; review: accept, reject or none. limit: at most so many.
    Raises:
        InputError: there is no store.
    """
    from flawmap.service.store import Store  # noqa: PLC0415 - after the command line's --help

    if not (folder / "results.sqlite").is_file():
        raise InputError(f"no results in {folder}; `flawmap serve` and `flawmap watch` write them (--store)")
    store = Store(folder)
    try:
        found = store.newest(model=model, verdict=verdict, review=review, limit=limit)
        return [row.to_dict() for row in found]
    finally:
        store.close()

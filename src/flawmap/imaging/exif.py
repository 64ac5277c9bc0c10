"""The orientation that cameras write into EXIF, and Pillow kept from warning about damaged EXIF."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from PIL import Image

_ORIENTATION = 0x0112
_warnings = Lock()


@contextmanager
def no_warnings() -> Iterator[None]:
    """Pillow's warnings about a file's header are ignored; one thread at a time, as Python's filters are global."""
    with _warnings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def orientation_of(block: bytes | None, notes: list[str]) -> int:
    """The orientation in an EXIF block, 1 to 8 (1: upright). A block that cannot be read is noted and ignored."""
    if not block:
        return 1
    exif = Image.Exif()
    try:
        with no_warnings():
            warnings.simplefilter("error")
            exif.load(block)
            value = exif.get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many types over damaged blocks, and warns
        notes.append("damaged EXIF ignored")
        return 1
    return int(value) if value in range(1, 9) else 1

"""How many cores the calling thread may use: torch's number where it is imported, or else one of our own."""

from __future__ import annotations

import os
import sys
from threading import local
from typing import Any

_given = local()  # `number`: what the thread was given while torch was not imported


def own_cores() -> int:
    """Cores that the calling thread may use. A new thread has the default of the process."""
    torch, number = _imported_torch(), getattr(_given, "number", None)
    if torch is None:
        return number or default_cores()
    if number is not None:
        use_cores(number)
    return int(torch.get_num_threads())


def default_cores() -> int:
    """What OMP_NUM_THREADS says, which torch goes by, too; or else all cores that this process may run on."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores(number: int) -> None:
    """The calling thread's number from now on."""
    torch = _imported_torch()
    if torch is None:
        _given.number = number
        return
    _given.number = None
    torch.get_num_threads()  # a new thread takes over the default at its first use, whatever was set before
    torch.set_num_threads(number)


def _imported_torch() -> Any:
    """Torch, or None where it is not imported, or not to its end."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_num_threads") else None

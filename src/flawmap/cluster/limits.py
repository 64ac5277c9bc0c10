"""Limits of what one image may take on a machine of a cluster: time to read it, and memory to score it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from threading import BoundedSemaphore, Thread
from typing import TypeVar

import torch

from flawmap.core.errors import InputError
from flawmap.scoring.detector import Detector

Result = TypeVar("Result")

HANGING = 16
"""Reads of a process that may hang at once. Nothing can end a thread that waits for a dead network drive."""
_free = BoundedSemaphore(HANGING)


def within(seconds: float, read: Callable[[], Result]) -> Result:
    """What `read` returns or raises, if it does so in time; otherwise it is left behind in a thread of its own.

    Raises:
        InputError: it did not end in time, or HANGING others left no room to begin.
    """
    end = time.monotonic() + seconds
    late = InputError(
        f"not read within {seconds:g} s; see whether its drive or server answers, or allow more by --read-timeout"
    )
    if not _free.acquire(timeout=seconds):
        raise late
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(read())
        except BaseException as error:  # whatever it is, the caller raises it
            future.set_exception(error)
        finally:
            _free.release()

    Thread(target=work, daemon=True, name="flawmap-read").start()
    wait([future], max(0.0, end - time.monotonic()))
    if not future.done():
        raise late
    return future.result()


def in_memory(detector: Detector, work: Callable[[Detector], Result]) -> Result:
    """What `work` returns of a detector; where the memory does not suffice, of the same one with half as many patches
    at once, and so on down to one. Scores may then differ by rounding. Raises what `work` raises with one patch."""
    while True:
        try:
            return work(detector)
        except (MemoryError, RuntimeError) as error:
            batch = detector.scorer.batch
            if batch == 1 or not is_out_of_memory(error):
                raise
        # Below the block, for there the error holds the tensors of the attempt.
        torch.cuda.empty_cache()
        detector = replace(detector, scorer=replace(detector.scorer, batch=batch // 2))


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, a GPU, or torch on a CPU, which raises RuntimeError, found no room.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "not enough memory" in said)

"""Images side by side: each on a core of its own, handed back in order.

Cores that share a network's small layers wait for each other hundreds of times in an image. Cores with an image each
wait for nobody, and one reads, judges and writes while another is in the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock
from typing import TypeVar

import torch

MOST = 8  # images at once, for the sake of memory
LARGE_PIXELS = 2**22  # of an image; those above take turns, with all cores for one

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """What the function makes of each item, in the items' order, by as many threads as torch has cores here.

    They part the cores among them. One item more than there are threads is taken ahead, however slow the caller.
    An error arrives in the place of its result and ends the work.
    """
    cores = torch.get_num_threads()
    threads = max(1, min(cores, len(items), MOST))
    waiting: deque[Future[Result]] = deque()
    with _pool(threads, max(1, cores // threads)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _pool(threads: int, cores: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for each of which torch computes on so many cores; the caller's own number stays what it is."""
    before, all_there = torch.get_num_threads(), Barrier(threads)
    with ThreadPoolExecutor(threads, "images", initializer=_compute_on, initargs=(cores,)) as pool:
        list(pool.map(lambda _: all_there.wait(), range(threads)))
        torch.set_num_threads(before)  # other threads to come do as was said last
        yield pool


def _compute_on(cores: int) -> None:
    torch.get_num_threads()  # a new thread takes over the number at its first use, whatever was set before
    torch.set_num_threads(cores)


_ONE_LARGE = Lock()


@contextmanager
def exclusive_slot(pixels: int, cores: int) -> Iterator[None]:
    """Around the work on an image of so many pixels: large ones wait for each other, and then get so many cores."""
    if pixels <= LARGE_PIXELS:
        yield
        return
    with _ONE_LARGE:
        before = torch.get_num_threads()
        torch.set_num_threads(cores)
        try:
            yield
        finally:
            torch.set_num_threads(before)

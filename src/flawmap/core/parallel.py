"""Images side by side: each on cores of its own, results handed back in order.

Cores that share a network's small layers wait for each other hundreds of times in an image. Cores with an image each
do not, and one reads, labels and writes while another is in the network. Torch is imported with the first thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from flawmap.core.errors import InputError

AT_ONCE = 8  # images, for the sake of memory
LARGE_PIXELS = 2**22  # of an image; those above are computed one at a time, on all cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, pixels: Callable[[Item], int] = lambda _: 0
) -> Generator[Result, None, None]:
    """The function's result for each item, in the items' order, computed by up to as many threads as torch has cores.

    The cores are divided evenly among the threads; one more has all of them, for large images. No thread changes its
    number of cores after its start, so none disturbs another. At most threads + 1 items are in progress, even if the
    caller consumes slowly. An error arrives in the place of its result and ends the work.

    Args:
        pixels: how many an item has; large ones wait for each other, and then get all cores. An item for which this
            raises an InputError counts as small.
    """
    import torch  # noqa: PLC0415 - the command line imports this module for --help

    cores = torch.get_num_threads()
    threads = max(1, min(cores, len(items), AT_ONCE))
    even, whole = _pool(threads, max(1, cores // threads)), _pool(1, cores)

    def run(item: Item) -> Result:
        try:
            large = pixels(item) > LARGE_PIXELS
        except InputError:
            large = False  # the function meets the same error, and handles it
        return whole.submit(function, item).result() if large else function(item)

    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(even.submit(run, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # what has not begun is cancelled, the rest waited for
        even.shutdown(cancel_futures=True)
        whole.shutdown()


def _pool(threads: int, cores: int) -> ThreadPoolExecutor:
    """Threads for each of which torch computes on so many cores; the caller's own number stays what it is."""
    import torch  # noqa: PLC0415 - as above

    def start() -> None:
        torch.get_num_threads()  # a new thread takes over the default at its first use, whatever was set before
        torch.set_num_threads(cores)

    default, all_started = torch.get_num_threads(), Barrier(threads)
    pool = ThreadPoolExecutor(threads, "images", initializer=start)
    list(pool.map(lambda _: all_started.wait(), range(threads)))
    torch.set_num_threads(default)  # for threads that are started later
    return pool

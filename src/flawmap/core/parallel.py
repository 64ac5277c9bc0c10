"""Images, or parts of one, side by side: each on cores of its own, results handed back in order.

Cores that share a network's small layers wait for each other hundreds of times in an image. Cores with an image each
do not, and one reads, labels and writes while another is in the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from typing import TypeVar

from flawmap.core.cores import own_cores, use_cores
from flawmap.core.errors import InputError

AT_ONCE = 8  # images, for the sake of memory
LARGE_PIXELS = 2**22  # of an image; those above are computed one at a time, on all cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Last = TypeVar("Last")


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    pixels: Callable[[Item], int] = lambda _: 0,
    spare: int = 1,
) -> Generator[Result, None, None]:
    """The function's result for each item, in the items' order, computed by up to as many threads as the caller has
    cores.

    The cores are divided evenly among the threads; one more has all of them, for large images. No thread changes its
    number of cores after its start, so none disturbs another. At most threads + spare items are in progress, even if
    the caller consumes slowly. An error arrives in the place of its result and ends the work.

    Args:
        pixels: how many an item has; large ones wait for each other, and then get all cores. An item for which this
            raises an InputError counts as small.
        spare: items that are done or wait while each thread has one.
    """
    pool = ImagePool(len(items))

    def large(item: Item) -> bool:
        try:
            return pixels(item) > LARGE_PIXELS
        except InputError:
            return False  # the function meets the same error, and handles it

    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item, large))
            if len(waiting) >= pool.threads + spare:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.close()


def pipelined_map(
    first: Callable[[Item], Result],
    last: Callable[[Result], Last],
    items: Sequence[Item],
    *,
    pixels: Callable[[Item], int] = lambda _: 0,
) -> Generator[Last, None, None]:
    """`parallel_map` of two steps. One more thread takes the last step, item after item, while the others take the
    first one with the next items: what the last step waits for, a disk or a library's compression, costs them no time.

    Results come in the items' order. At most threads + 2 items are in progress, in both steps together. An error of
    either step arrives in the place of its result and ends the work; a step that has begun is ended.
    """
    thread = ThreadPoolExecutor(1, "last step")
    try:
        results = parallel_map(lambda item: thread.submit(last, first(item)), items, pixels=pixels, spare=2)
        with closing(results):
            for result in results:
                yield result.result()
    finally:
        thread.shutdown(cancel_futures=True)


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The function's results for parts of one image, in order, by as many threads as the caller has cores.

    For arithmetic in many steps on arrays, which a library divides among cores step by step, or not at all. Not for
    what needs gradients: a thread does not know whether its caller wants them.
    """
    parts = list(items)
    threads = min(own_cores(), len(parts))
    if threads < 2:
        return [function(part) for part in parts]
    with _pool(threads, 1) as pool:
        return list(pool.map(function, parts))


class ImagePool:
    """Threads with an even share of the cores each, and one with all of them. threads: at most so many images at once;
    fewer where the caller has fewer cores."""

    def __init__(self, threads: int = AT_ONCE) -> None:
        cores = own_cores()
        self.threads = max(1, min(cores, threads, AT_ONCE))
        self._even, self._whole = _pool(self.threads, max(1, cores // self.threads)), _pool(1, cores)

    def submit(
        self, function: Callable[[Item], Result], item: Item, large: Callable[[Item], bool] = lambda _: False
    ) -> Future[Result]:
        """The function's result for an item, in time. large: whether the item wants all cores; asked on a thread."""

        def run() -> Result:
            return self._whole.submit(function, item).result() if large(item) else function(item)

        return self._even.submit(run)

    def close(self) -> None:
        """What has not begun is cancelled, the rest waited for."""
        self._even.shutdown(cancel_futures=True)
        self._whole.shutdown()


def _pool(threads: int, cores: int) -> ThreadPoolExecutor:
    """Threads with so many cores each; the caller's own number stays what it is."""
    default, all_started = own_cores(), Barrier(threads)
    pool = ThreadPoolExecutor(threads, "images", initializer=use_cores, initargs=(cores,))
    list(pool.map(lambda _: all_started.wait(), range(threads)))
    use_cores(default)  # for threads that are started later
    return pool


def on_one_core(function: Callable[[], Result]) -> Result:
    """The function's result, computed by torch on one core, as a thread of an `ImagePool` with many images has it."""
    with _pool(1, 1) as pool:
        return pool.submit(function).result()

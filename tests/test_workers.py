"""Images side by side: the same as one after another, whatever happens in between."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from flawmap.core.parallel import LARGE_PIXELS, exclusive_slot, parallel_map


@pytest.fixture(params=[1, 3])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """A machine of so many cores, as far as torch knows."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(cores: int) -> None:
    """However long each takes."""
    waits = [0.03, 0.0, 0.02, 0.0, 0.01]

    def late(place: int) -> int:
        time.sleep(waits[place])
        return place

    assert list(parallel_map(late, range(5))) == [0, 1, 2, 3, 4]
    assert list(parallel_map(late, [])) == []


def test_no_more_items_are_taken_than_said(cores: int) -> None:
    """So that memory holds a few of them, however many there are."""
    begun: list[int] = []
    for place, _ in enumerate(parallel_map(begun.append, range(20))):
        time.sleep(0.005)
        assert len(begun) <= place + 1 + cores


def test_an_error_arrives_where_its_result_would_and_ends_the_work(cores: int) -> None:
    """What came before is handed back, what waits is not begun."""
    begun: list[int] = []

    def fails(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    results = parallel_map(fails, range(50))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(begun) <= 3 + cores


def test_a_caller_that_has_enough_ends_the_work() -> None:
    """Closing waits for what is under way and begins nothing more."""
    begun: list[int] = []
    results = parallel_map(begun.append, range(50))
    next(results)
    results.close()
    there = len(begun)
    time.sleep(0.02)
    assert len(begun) == there < 50


@pytest.mark.parametrize(("items", "each"), [(1, 3), (2, 1), (3, 1), (7, 1)])
def test_threads_part_the_cores_among_them(items: int, each: int) -> None:
    """A single image has all of them; the caller's own number and that of threads to come stay what they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert set(parallel_map(lambda _: torch.get_num_threads(), range(items))) == {each}
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_large_images_take_turns_with_all_cores() -> None:
    """Never two of them at once; small ones go on beside them."""
    at_work, most, cores = 0, 0, []
    lock = threading.Lock()

    def large(_: int) -> None:
        nonlocal at_work, most
        with exclusive_slot(LARGE_PIXELS + 1, 5):
            with lock:
                at_work += 1
                most = max(most, at_work)
            cores.append(torch.get_num_threads())
            time.sleep(0.005)
            with lock:
                at_work -= 1
        cores.append(-torch.get_num_threads())

    with ThreadPoolExecutor(4) as pool:
        before = pool.submit(torch.get_num_threads).result()
        list(pool.map(large, range(6)))
    assert most == 1
    assert sorted(cores) == sorted([5] * 6 + [-before] * 6)
    here = torch.get_num_threads()
    with exclusive_slot(LARGE_PIXELS, here + 1):
        assert torch.get_num_threads() == here, "a small one computes on what its thread has"

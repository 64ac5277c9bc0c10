"""Images side by side: the same as one after another, whatever happens in between."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import cv2
import numpy as np
import pytest
import torch

from flawmap.core.errors import InputError
from flawmap.core.parallel import LARGE_PIXELS, parallel_map, pipelined_map, side_by_side
from flawmap.core.runtime import Runtime
from flawmap.data.synthetic import texture
from flawmap.imaging.threads import one_opencv_thread
from flawmap.methods.autoencoder import build_network
from flawmap.methods.overrides import parse
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import DEFAULT, Artifact
from flawmap.scoring.operating_point import OperatingPoint

PATIENCE = 60.0  # seconds until a test that waits for another thread fails instead of hanging


@pytest.fixture(params=[1, 3])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """A machine of so many cores, as far as torch knows."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(cores: int) -> None:
    """Whichever is ready first: here the first item waits for the second, where there are threads for both."""
    second_is_done = threading.Event()

    def late(place: int) -> int:
        if place == 0 and cores > 1:
            assert second_is_done.wait(PATIENCE)
        if place == 1:
            second_is_done.set()
        return place

    assert list(parallel_map(late, range(5))) == [0, 1, 2, 3, 4]
    assert list(parallel_map(late, [])) == []


def test_no_more_items_are_taken_than_said(cores: int) -> None:
    """So that memory holds a few of them, however many there are: the next is submitted when one is consumed."""
    begun: list[int] = []
    for place, _ in enumerate(parallel_map(begun.append, range(20))):
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
    ended: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        ended.append(item)

    results = parallel_map(work, range(50))
    next(results)
    results.close()
    assert begun == ended, "nothing is under way"
    assert len(begun) < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")], "nor can be"


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


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_of_an_image_have_a_core_each(parts: int, cores: int) -> None:
    """Results come in order; the caller's own number of cores stays, and an error arrives."""
    seen: set[tuple[int, int]] = set()
    together = threading.Barrier(min(cores, parts))

    def half(part: int) -> float:
        if part < together.parties:
            together.wait(PATIENCE)  # those that can be are computed at once
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return part / 2

    assert side_by_side(half, iter(range(parts))) == [part / 2 for part in range(parts)]
    assert 1 <= len(seen) <= min(cores, parts)
    assert {number for _, number in seen} == {cores if min(cores, parts) == 1 else 1}
    assert torch.get_num_threads() == cores
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 / (part - parts + 1), range(parts))


def test_large_images_take_turns_with_all_cores(cores: int) -> None:
    """One thread, which has all cores, computes all of them."""

    def work(item: int) -> tuple[int, int]:
        return threading.get_ident(), torch.get_num_threads()

    found = list(parallel_map(work, [LARGE_PIXELS + 1] * 6, pixels=lambda item: item))
    assert found == [(found[0][0], cores)] * 6
    assert {each for _, each in parallel_map(work, [LARGE_PIXELS] * 6, pixels=lambda item: item)} == {1}


def test_small_images_go_on_beside_a_large_one() -> None:
    """A large one that waits for a small one comes to its end."""
    meeting = threading.Barrier(2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = parallel_map(lambda _: meeting.wait(PATIENCE), [LARGE_PIXELS + 1, 1], pixels=lambda item: item)
        assert sorted(results) == [0, 1]
    finally:
        torch.set_num_threads(before)


def test_opencv_computes_on_the_calling_thread_meanwhile() -> None:
    """And on as many threads as before afterwards."""
    before = cv2.getNumThreads()
    with one_opencv_thread():
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == before


def test_an_item_whose_size_cannot_be_read_is_left_to_the_function() -> None:
    """It meets the same error, and handles it or not."""

    def unreadable(item: int) -> int:
        raise InputError("no header")

    assert list(parallel_map(str, [1, 2], pixels=unreadable)) == ["1", "2"]


def test_a_detector_gives_the_same_bits_side_by_side_and_alone(cores: int) -> None:
    """On one core or on all of them, whatever other threads score meanwhile."""
    config = parse({"model": {"patch": 32, "channels": 1}, "method": {"latent": 4}, "tiling": {"stride": 16}})
    artifact = Artifact(config, build_network(config).state_dict(), {DEFAULT: OperatingPoint(threshold=0.1)})
    detector = Detector.of(artifact, Runtime(device="cpu", precision="float32"))
    images = [texture("cloth", (70 + 10 * seed, 90), seed) for seed in range(6)]
    alone = [detector.score(image) for image in images]
    found = list(parallel_map(detector.score, images, pixels=lambda image: LARGE_PIXELS + (image.shape[1] % 20 > 0)))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, alone, strict=True))


# ---------------------------------------------------------------------------------------------------------- two steps


def test_the_first_step_goes_on_while_the_last_one_works(cores: int) -> None:
    """The last step of an item waits for the first one of the next item, and results keep the items' order."""
    begun = [threading.Event() for _ in range(7)]
    begun[6].set()  # there is none behind the last one

    def first(item: int) -> int:
        begun[item].set()
        return 10 * item

    def last(value: int) -> int:
        assert begun[value // 10 + 1].wait(PATIENCE)
        return value + 1

    assert list(pipelined_map(first, last, range(6))) == [1, 11, 21, 31, 41, 51]
    assert list(pipelined_map(first, last, [])) == []


def test_the_last_steps_share_a_thread_that_has_no_first_one(cores: int) -> None:
    """So no two of them run at once."""
    threads = list(
        pipelined_map(lambda _: threading.get_ident(), lambda first: (first, threading.get_ident()), range(9))
    )
    assert len({last for _, last in threads}) == 1
    assert not {first for first, _ in threads} & {last for _, last in threads}


def test_no_more_items_are_in_either_step_than_said(cores: int) -> None:
    """However long the last step takes: memory holds threads + 2 of them."""
    begun: list[int] = []
    done: list[int] = []

    def last(item: int) -> None:
        time.sleep(0.005)  # the first step could run far ahead
        assert len(begun) - len(done) <= cores + 2
        done.append(item)

    def first(item: int) -> int:
        begun.append(item)
        return item

    for place, _ in enumerate(pipelined_map(first, last, range(20))):
        assert len(begun) <= place + 2 + cores
    assert sorted(done) == list(range(20))


@pytest.mark.parametrize("step", ["first", "last"])
def test_an_error_of_either_step_arrives_where_its_result_would(step: str, cores: int) -> None:
    """What came before is handed back, what waits is not begun."""
    begun: list[int] = []

    def passes(own: str) -> Callable[[int], int]:
        def work(item: int) -> int:
            begun.append(item)
            if own == step and item == 2:
                raise ValueError("two")
            return item

        return work

    results = pipelined_map(passes("first"), passes("last"), range(50))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert max(begun) <= 3 + cores
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("images", "last step"))]


def test_an_interruption_ends_the_last_step_that_has_begun() -> None:
    """Ctrl-C in the caller's loop: nothing is under way afterwards, nothing is left half done, nothing more begins."""
    begun: list[int] = []
    ended: list[int] = []

    def last(item: int) -> None:
        begun.append(item)
        time.sleep(0.005)
        ended.append(item)

    def loop() -> None:
        with closing(pipelined_map(lambda item: item, last, range(50))) as results:
            for _ in results:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert begun == ended
    assert len(begun) < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("images", "last step"))]

"""Ctrl-C that waits: the first is noted, the second interrupts, none is lost, and no handler of others is touched."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from flawmap.core.interrupts import deferred_interrupt


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_first_ctrl_c_is_noted() -> None:
    """The block goes on, may look whether one came, and ends by itself."""
    seen = []

    def work() -> None:
        with deferred_interrupt() as interrupted:
            seen.append(interrupted())
            press()
            seen.append(interrupted())
            raise KeyboardInterrupt("the work at hand is done")

    with pytest.raises(KeyboardInterrupt, match="at hand"):
        work()
    assert seen == [False, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    """As usual: nobody waits for a step that hangs."""

    def work() -> None:
        with deferred_interrupt():
            press()
            press()
            pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_ctrl_c_is_lost() -> None:
    """One that came after the block last looked interrupts at its end."""
    done = []

    def work() -> None:
        with deferred_interrupt():
            press()
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]


def test_an_error_in_the_block_comes_first() -> None:
    """What went wrong is told, even where Ctrl-C was pressed."""

    def work() -> None:
        with deferred_interrupt():
            press()
            raise ValueError("went wrong")

    with pytest.raises(ValueError, match="went wrong"):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_caller_s_own_handler_stays() -> None:
    """A program that handles the signal itself goes on doing so."""
    came = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with deferred_interrupt() as interrupted:
            press()
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [signal.SIGINT]


def test_other_threads_change_no_handler() -> None:
    """Only the main thread may set one."""

    def handler() -> object:
        with deferred_interrupt() as interrupted:
            assert not interrupted()
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(handler).result() is signal.default_int_handler

"""Freed memory that stays in the process, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from flawmap.core.allocation import keep_freed_memory

PAGES_TOUCHED = """
import resource, sys
import numpy as np
from flawmap.core.allocation import keep_freed_memory

assert sys.argv[1] == "as it is" or keep_freed_memory()

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(3 << 20) for _ in range(4)]  # of 24 MiB
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touched()
print(sum(touched() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_freed_is_used_again() -> None:
    """The system hands out no page a second time; as it is, it hands out almost all of them."""
    as_it_is, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", PAGES_TOUCHED, how], check=True, capture_output=True, text=True
            ).stdout
        )
        for how in ("as it is", "kept")
    )
    assert kept < as_it_is / 20


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl, macOS and Windows have no such switch."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()

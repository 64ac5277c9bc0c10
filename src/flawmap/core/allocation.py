"""What the C library does with memory that tensors free."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 32 << 20  # bytes that glibc takes from its heap at most
KEPT = (1 << 31) - 1  # bytes free at the heap's end


def keep_freed_memory() -> bool:
    """Keep it in this process from now on, up to 2 GiB, for the next tensors. False where the library is not glibc.

    A training step frees what the next one needs again, in pieces of up to 16 MiB. glibc gives them back to the system,
    which has to clear every page anew: a tenth of a step's time. The most memory in use stays what it is.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST) and library.mallopt(TRIM_THRESHOLD, KEPT))

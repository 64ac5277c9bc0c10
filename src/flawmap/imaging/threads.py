"""OpenCV's own threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV computes on the thread that calls it while the block runs: threads that have an image each divide the
    cores already. The number holds for the whole process; afterwards it is what it was.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)

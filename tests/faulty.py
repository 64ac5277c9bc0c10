"""Detectors of a cluster that fail on purpose, and a driver of slow ones: ADDRESS MODEL IMAGES OUT."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from flawmap.cluster import archive, parts, stages
from flawmap.core.errors import LostProcessError
from flawmap.core.runtime import Runtime
from flawmap.scoring.detector import Detector

BEYOND = 2**50
"""Bytes that no machine has."""


class Fragile(stages.ScoreImages):
    """Images fail as their names say."""

    def _found(self, detector: Detector, place: Path, folder: Path) -> dict[str, Any]:
        if "killer" in place.name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hungry" in place.name and detector.scorer.batch > 4:
            torch.empty(BEYOND, dtype=torch.uint8)
        if "starving" in place.name:
            np.empty(BEYOND, np.uint8)
        if "full" in place.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        return super()._found(detector, place, folder)


class Refusing:
    """Suspects that let nobody start."""

    def started(self, detector: str) -> None:
        raise LostProcessError(f"{detector} must not start")


class Doomed:
    """A detector that asks them."""

    def __init__(self, suspects: Any) -> None:
        ray.get(suspects.started.remote("it"))


class Slow(stages.ScoreImages):
    """Some time for each image, so that a test can interfere."""

    def _found(self, detector: Detector, place: Path, folder: Path) -> dict[str, Any]:
        time.sleep(0.15)
        return super()._found(detector, place, folder)


if __name__ == "__main__":
    address, model, images, out = sys.argv[1:]
    stages.ScoreImages, parts.ROWS = Slow, 4  # type: ignore[misc]
    archive.score_archive(
        Path(model), [images], Path(out), workers=archive.Workers(address), runtime=Runtime("cpu", "float32")
    )

"""Where the time of an inspection goes: functions of flawmap are wrapped by their names, and each tells what it took.

A stage is what its functions take themselves, without the wrapped ones that they call; what no stage has is "rest". So
the stages of a thread add up to the whole. Functions that hand out bands are timed while they make them.
"""

from __future__ import annotations

import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from typing import Any
from unittest.mock import patch

STAGES = {
    "decoding": ("imaging.codecs:_file", "imaging.codecs:_source", "imaging.raster:_values"),
    "to [0, 1]": ("imaging.reading:_converted", "scoring.detector:Detector.checked"),
    "transfer": ("scoring.detector:Detector._layers", "scoring.detector:_pixels"),
    "cutting": ("scoring.pipeline:patch_batches",),
    "network": ("methods.autoencoder:_run",),
    "merging": ("scoring.tiling:Merger.add", "scoring.pipeline:_merged"),
    "residual": ("scoring.pipeline:_compared",),
    "smoothing": ("scoring.detector:score_rows",),
    "evidence": ("scoring.model_file:Artifact.mapped",),
    "opening": ("scoring.detector:_opened",),
    "bands": ("scoring.detector:Detector._bands", "scoring.detector:Detector._maps"),
    "regions": ("scoring.inspection:InspectionBuilder.add", "scoring.inspection:InspectionBuilder.masks"),
    "overlay": ("commands.inspection_files:overlay",),
    "writing": ("commands.inspection_files:write_image", "commands.inspection_files:writable_folder"),
    "headers": ("commands.inspect:bytes_needed", "commands.inspect:pixels_of"),
    "listing": ("reporting.logs:InspectionLog.add", "reporting.logs:InspectionLog.__exit__"),
    "report": ("commands.report:report", "commands.report:_overlay"),
}
REST = "rest"


class Stages:
    """Seconds by stage, of all threads together. clock: of the calling thread's time, or of time as it passes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._own, self._lock = clock, threading.local(), threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block belongs to this stage, but for the stages within it."""
        own = self._own.__dict__
        outer, start = own.get("name"), self._clock()
        if outer is not None:
            self._add(outer, start - own["since"])
        own["name"], own["since"] = name, self._clock()
        try:
            yield
        finally:
            self._add(name, self._clock() - own["since"])
            own["name"], own["since"] = outer, self._clock()

    def _add(self, name: str, seconds: float) -> None:
        with self._lock:
            self.seconds[name] += seconds


@contextmanager
def staged(clock: Callable[[], float]) -> Iterator[Stages]:
    """Stages are told apart while the block runs."""
    stages = Stages(clock)
    with ExitStack() as patches:
        for stage, names in STAGES.items():
            for name in names:
                patches.enter_context(_wrapped(stages, stage, name))
        yield stages


def _wrapped(stages: Stages, stage: str, name: str) -> Any:
    module, _, path = name.partition(":")
    *outer, last = path.split(".")
    place: Any = import_module(f"flawmap.{module}")
    for part in outer:
        place = getattr(place, part)
    function = getattr(place, last)

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        with stages.stage(stage):
            return function(*given, **named)

    @wraps(function)
    def pull(*given: Any, **named: Any) -> Iterator[Any]:
        made = function(*given, **named)
        while True:
            with stages.stage(stage):
                band = next(made, stages)  # nobody else hands the stages out
            if band is stages:
                return
            yield band

    plain = inspect.unwrap(function)
    return patch.object(place, last, pull if inspect.isgeneratorfunction(plain) else call)

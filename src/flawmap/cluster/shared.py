"""What all machines of a run ask: actors that live beside the process that started it. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from flawmap.core.errors import LostProcessError

DEATHS = 2  # that an image was seen to cause; one more, the first of a detector, is not seen
KILLERS = 100  # images; beyond, the images are not to blame


class FirstSeen:
    """Which path came first with some bytes. Asked again by the same path it answers the same, so a task may be
    repeated."""

    def __init__(self, before: Mapping[str, str]) -> None:
        self._first = dict(before)

    def claim(self, digest: str, path: str) -> str:
        """The path that came first with the bytes of this SHA-256."""
        return self._first.setdefault(digest, path)


class Suspects:
    """Which images kill detectors. Ray starts a dead detector again and repeats its images, for ever.

    So a detector that was started again says which image it begins, and the one at which it dies DEATHS times is not
    begun any more. Detectors that never died say nothing, which would cost time.
    """

    def __init__(self) -> None:
        self._last, self._deaths = dict[str, str | None](), Counter[str]()

    def started(self, detector: str) -> tuple[bool, list[str]]:
        """Whether a detector has died before, and the images that it must not begin. LostProcessError: too many."""
        again, last = detector in self._last, self._last.get(detector)
        if last is not None:
            self._deaths[last] += 1
        self._last[detector] = None
        killers = [path for path, deaths in self._deaths.items() if deaths >= DEATHS]
        if len(killers) > KILLERS:
            raise LostProcessError(
                f"more than {KILLERS} images killed their detectors, so the images are not to blame; give detectors "
                "more memory (fewer of them, by --actors), or see Ray's logs"
            )
        return again, killers

    def begun(self, detector: str, path: str) -> None:
        """A detector begins an image, and has ended the one before."""
        self._last[detector] = path


def beside(cls: type, *given: Any) -> Any:
    """An actor of a class on this machine, so that it lives as long as the run does."""
    import ray  # noqa: PLC0415 - of the extra
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(cls).options(scheduling_strategy=here).remote(*given)

"""Images of a labelled set by detectors on Ray: what `evaluation.scans` does on threads, on many machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

import flawmap
from flawmap.cluster.workers import Workers, actors_of, check_version, started
from flawmap.core.errors import InputError, LostProcessError
from flawmap.core.runtime import Runtime
from flawmap.evaluation.scans import Item, Mapper, Pairs, Result
from flawmap.imaging.threads import one_opencv_thread
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact

AHEAD = 8
"""Images for each detector that may be begun before the next one in order is done: their results wait in memory."""
LIVES = 2  # times that a detector is started again, and an image of its repeated, where its process or machine dies


class Resident(NamedTuple):
    """What a detector of a cluster is made of. threads: of torch."""

    artifact: Artifact
    runtime: Runtime
    threads: int


class ResidentDetector:
    """A detector that stays on a machine of the cluster."""

    def __init__(self, resident: Resident, version: str) -> None:
        """version: of the flawmap that made the resident. ConfigError: this machine has another one."""
        check_version(version)
        torch.set_num_threads(resident.threads)
        self._detector = Detector.of(resident.artifact, resident.runtime)

    def call(
        self, function: Callable[[Detector, Item], Result], place: int, item: Item
    ) -> tuple[int, Result | InputError]:
        """The place of an image, and what the function gives of it."""
        try:
            with one_opencv_thread():
                return place, function(self._detector, item)
        except InputError as error:
            return place, error


@contextmanager
def resident_detectors(artifact: Artifact, runtime: Runtime, workers: Workers) -> Iterator[Mapper]:
    """Gives images to detectors on Ray, as long as the block. Their paths are the same on all machines.

    Args:
        runtime: see `Workers.placed`.
    Raises:
        ConfigError: the cluster has no room for so many detectors.
    """
    import ray  # noqa: PLC0415 - of the extra

    with started(workers.address):
        number = actors_of(workers)
        model = ray.put(Resident(artifact, runtime, workers.threads))
        made = ray.remote(ResidentDetector).options(
            num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=LIVES, max_task_retries=LIVES
        )
        actors: list[Any] = [made.remote(model, flawmap.__version__) for _ in range(number)]
        try:
            yield partial(_mapped, actors)
        finally:
            for actor in actors:
                ray.kill(actor)


def _mapped(
    actors: Sequence[Any], function: Callable[[Detector, Item], Result], items: Sequence[Item]
) -> Pairs[Item, Result]:
    """Each image with its result in order, although detectors take the next one as they are free."""
    import ray  # noqa: PLC0415 - of the extra
    from ray.exceptions import RayActorError, RayTaskError  # noqa: PLC0415
    from ray.util import ActorPool  # noqa: PLC0415

    pool: Any = ActorPool(list(actors))
    shared, todo, found = ray.put(function), deque(range(len(items))), dict[int, Result | InputError]()
    for turn, item in enumerate(items):
        while turn not in found:
            while todo and todo[0] < turn + AHEAD * len(actors) and pool.has_free():
                pool.submit(lambda actor, place: actor.call.remote(shared, place, items[place]), todo.popleft())
            try:
                place, result = pool.get_next_unordered()
            except RayTaskError as error:  # what the function raised; of no use to another image
                raise error.cause from None
            except RayActorError as error:
                raise LostProcessError(
                    f"a detector of the cluster does not start, or dies again and again: {str(error).splitlines()[-1]}"
                ) from error
            found[place] = result
        yield item, found.pop(turn)

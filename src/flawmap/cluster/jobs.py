"""Jobs on Ray: as many at once as the cluster has CPUs and GPUs for. One that fails stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from flawmap.cluster.workers import machines, room
from flawmap.core.errors import ConfigError, FlawmapError

Result = TypeVar("Result")

WAIT = 0.5  # seconds between two looks, so that Ctrl-C is heard
REMEDY = "If memory ran out, let fewer jobs run at once, with more CPUs for each"
LAST_WORDS = 120.0  # seconds that interrupted jobs get to write their checkpoints


@dataclass(frozen=True)
class Resources:
    """What each job gets. cpus: as many threads of torch, too. gpus: a whole number, or a fraction of one."""

    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """How a job ended. error: why there is no result; None: there is one. seconds: that it took, 0 if unknown."""

    name: str
    result: Result | None
    error: str | None
    seconds: float = 0.0


def run_jobs(
    jobs: Mapping[str, Callable[[], Result]], resources: Resources, *, on_begin: Callable[[str], None]
) -> Generator[Outcome[Result], None, None]:
    """The outcomes of jobs by their names, as they end. Ray has to be started.

    A job whose process or machine is lost begins once more, so it must bear that. If the iterator is closed before its
    end, or the caller is interrupted, jobs that run get a KeyboardInterrupt and time to end well.

    Args:
        jobs: each can be pickled, and so can its result. on_begin: told of each job that begins.
    """
    import ray  # noqa: PLC0415 - of the extra

    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, num_returns="streaming", max_retries=0)(_job)
    running = {task.remote(work, resources.cpus): name for name, work in jobs.items()}
    lost: set[str] = set()
    try:
        while running:
            for stream in ray.wait(list(running), timeout=WAIT)[0]:
                name = running[stream]
                said = _heard(stream)
                if said is None:
                    on_begin(name)
                    continue
                del running[stream]
                if isinstance(said, Exception) and name not in lost:
                    lost.add(name)
                    running[task.remote(jobs[name], resources.cpus)] = name
                elif isinstance(said, Exception):
                    yield Outcome(name, None, f"its process was lost twice: {_first_line(said)} {REMEDY}")
                else:
                    yield Outcome(name, *said)
    finally:
        _end(list(running))


def most_at_once(resources: Resources) -> int:
    """How many jobs the machine with the most room has at once. ConfigError: no machine has room for one."""
    known = machines()
    most = max((room(has, resources.cpus, resources.gpus) for has in known), default=0)
    if most < 1:
        cpus, gpus = (max((has.get(kind, 0) for has in known), default=0) for kind in ("CPU", "GPU"))
        raise ConfigError(
            f"a job asks for {resources.cpus} CPUs and {resources.gpus:g} GPUs, which no machine of the cluster has "
            f"(at most {cpus:g} and {gpus:g}); ask for less"
        )
    return most


def _job(work: Callable[[], Any], threads: int) -> Iterator[Any]:
    """None when it begins, then the result, the error and the seconds; in a process of Ray's."""
    yield None
    torch.set_num_threads(threads)
    start, result, error = time.monotonic(), None, None
    try:
        result = work()
    except FlawmapError as problem:
        error = str(problem)
    except Exception as problem:  # whatever it is: the other jobs go on
        error = f"{type(problem).__name__}: {problem}"
    yield result, error, time.monotonic() - start


def _heard(stream: Any) -> Any:
    """The next words of a job; an exception where its process was lost."""
    import ray  # noqa: PLC0415 - of the extra

    try:
        return ray.get(next(stream))
    except ray.exceptions.RayTaskError as error:  # before or after the work: a module is missing, say
        return None, _last_line(error), 0.0
    except (ray.exceptions.RayError, StopIteration) as error:
        return error


def _end(streams: list[Any]) -> None:
    """Interrupt jobs, and wait for those that had begun."""
    import ray  # noqa: PLC0415 - of the extra

    for stream in streams:
        ray.cancel(stream)
    until = time.monotonic() + LAST_WORDS
    while streams and time.monotonic() < until:
        ready, streams = ray.wait(streams, timeout=WAIT)
        streams += [stream for stream in ready if _heard(stream) is None]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1]

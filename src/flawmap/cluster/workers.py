"""Who does the work of a run on Ray: which cluster, how many detectors, and where each of them computes."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import flawmap
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.runtime import Runtime


@dataclass(frozen=True)
class Workers:
    """Who does the work. address: local (a Ray of this process), auto (the cluster of this machine) or HOST:PORT.

    actors: detectors; None: as many as the cluster has CPUs, or GPUs, for. cpus, gpus: of each; its torch has as many
    threads as CPUs, one at least. gpus may be a fraction. read_timeout: seconds that reading an image of an archive may
    take.
    """

    address: str = "local"
    actors: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    read_timeout: float = 60.0

    @property
    def threads(self) -> int:
        """Of torch, for each detector."""
        return max(1, self.cpus)

    def placed(self, runtime: Runtime) -> Runtime:
        """Where the detectors run: on the GPUs that each has, or else on its CPUs.

        Raises:
            ConfigError: another device was asked for, or GPUs with no precision that all of them share.
        """
        if runtime.device == "cuda" and not self.gpus:
            raise ConfigError("--device cuda with --ray needs --actor-gpus, the GPUs of each detector: 1, or 0.5")
        device = "cuda" if self.gpus else "cpu"
        if runtime.device not in ("auto", device):
            raise ConfigError(
                f"--device {runtime.device} does not go with --ray: by --actor-gpus {self.gpus:g} detectors run on "
                f"{device}; leave --device out"
            )
        if self.gpus and runtime.precision == "auto":
            raise ConfigError("GPUs of a cluster may differ; say --precision float32 or --precision bfloat16")
        return replace(runtime, device=device)


def check_installed() -> None:
    """InputError with the command that installs Ray, where it is absent."""
    try:
        import ray.data  # noqa: F401, PLC0415 - of the extra
    except ModuleNotFoundError as error:
        raise InputError(
            f"--ray needs the package {error.name}, which is not installed; pip install 'flawmap[ray]'"
        ) from None


@contextmanager
def started(address: str) -> Iterator[None]:
    """Ray, as long as the block. One that this process has started already is used, and stays."""
    import ray  # noqa: PLC0415 - of the extra

    if ray.is_initialized():
        yield
        return
    try:
        if address == "local":
            cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            given: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        else:
            given = {"address": address}
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"no Ray cluster at {address}: {reason}; start one, or use --ray local") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_version(version: str) -> None:
    """ConfigError unless this machine has that version of flawmap, the one of the process that started the run."""
    if flawmap.__version__ != version:
        raise ConfigError(
            f"{platform.node()} has flawmap {flawmap.__version__}, and this run is by {version}; "
            "install the same version on every machine"
        )


def actors_of(workers: Workers) -> int:
    """How many detectors a run has: as many as were asked for, or as there is room for. ConfigError: no such room."""
    most = most_actors(workers)
    if most < (workers.actors or 1):
        raise ConfigError(
            f"the cluster has room for {most} detectors with {workers.cpus} CPUs and {workers.gpus:g} GPUs each, not "
            f"for {workers.actors or 1}; see --actors, --actor-cpus and --actor-gpus"
        )
    return workers.actors or most


def most_actors(workers: Workers) -> int:
    """How many detectors the machines of the cluster have room for. Each lies on one machine."""
    return sum(room(has, workers.cpus, workers.gpus) for has in machines())


def machines() -> list[dict[str, float]]:
    """What each machine of the cluster has, by Ray's names of resources. Ray has to be started."""
    import ray  # noqa: PLC0415 - of the extra

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def room(machine: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many detectors, or jobs, with so many CPUs and GPUs each a machine has room for.

    >>> big, small = {"CPU": 16, "GPU": 2}, {"CPU": 2}
    >>> room(big, 3, 0), room(big, 3, 0.5), room(small, 4, 0)
    (5, 4, 0)
    """
    needs = {"CPU": cpus, "GPU": gpus}
    return int(min((machine.get(name, 0) / need for name, need in needs.items() if need), default=1))

"""The processes that torchrun started, joined by torch.distributed: the only module that knows it.

On the CPU they talk by gloo, on CUDA by NCCL. What is short and frequent (gradients, flags) goes through collectives,
which end with an error after `STEP_LIMIT`. Where one process may work for hours while others wait, they look at
torchrun's store now and then. So Ctrl-C reaches a process that waits, and no limit is needed: torchrun ends all
processes as soon as one of them fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flawmap.core.errors import ConfigError, LostProcessError
from flawmap.core.group import ALONE, Group, launched

STEP_LIMIT = timedelta(minutes=10)  # for what other processes have to answer at once
LOOK = 0.05  # seconds between two looks at the store

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[Group]:
    """Context manager: yields the group of the processes that torchrun started, or of this one alone.

    Raises:
        LostProcessError: another process ended, or does not answer; also by every method of the group.
    """
    if launched()[1] == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415 - not in every build of torch

    with _contact():
        store, rank, size = next(rendezvous("env://"))
        on_cuda = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo", store=store, rank=rank, world_size=size, timeout=STEP_LIMIT
        )
    group = _Launched(store, rank, size)
    yield group
    group.any(False)  # whoever left earlier would look like one that died
    dist.destroy_process_group()


class _Launched(Group):
    """One of several processes."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        self._store, self._meetings = store, 0

    def device(self, chosen: torch.device) -> torch.device:
        if chosen.type == "cpu":
            return chosen
        if chosen.type != "cuda" or chosen.index is not None:
            raise ConfigError(
                f"{self.size} processes cannot share the device {chosen}; use --device cuda, which gives each process "
                "a GPU of its own, or --device cpu"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"{self.local_size} processes on this machine need a GPU each, it has {torch.cuda.device_count()}; "
                "start fewer with --nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def from_first(self, make: Callable[[], T]) -> T:
        found: list[Any] = [None, None]  # the result, the error
        if self.first:
            try:
                found[0] = make()
            except Exception as error:
                found[1] = error
        self.meet()
        with _contact():
            dist.broadcast_object_list(found, src=0)
        if found[1] is not None:
            raise found[1]
        result: T = found[0]
        return result

    def any(self, flag: bool) -> bool:
        flags = torch.tensor([float(flag)])
        with _contact():
            dist.all_reduce(flags)
        return bool(flags.item() > 0)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        parts = list(tensors)
        flat = torch.cat([part.reshape(-1).float() for part in parts])
        with _contact():
            dist.all_reduce(flat)
        for part, summed in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
            part.copy_(summed.view(part.shape))

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        with _contact():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def meet(self) -> None:
        """Wait until every process is here, however long that takes."""
        self._meetings += 1
        name = f"flawmap/{self._meetings}"
        with _contact():
            here = self._store.add(name, 1)
            while here < self.size:
                time.sleep(LOOK)
                here = self._store.add(name, 0)


@contextmanager
def _contact() -> Iterator[None]:
    """Whatever torch.distributed raises means that another process is out of reach."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise LostProcessError(
            f"another process of this training ended or does not answer ({said}); see what it said, then give the same "
            "command with --resume"
        ) from error

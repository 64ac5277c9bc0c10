"""The processes that share one training, as one of them sees them. No torch here: `flawmap.core.distributed` has them
talk to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


class Group:
    """The group of one process, which has all the work to itself. A larger group overrides every method.

    rank: this process's number, from 0 to size - 1. local_size: how many of the processes share this machine. Every
    process has to call the same methods in the same order, but `share` and `device`, which concern it alone.
    """

    rank, size, local_size = 0, 1, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """What of a step's batch this process computes: each process takes the items in turn."""
        return slice(self.rank, None, self.size)

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process, where `chosen` is that of the settings. ConfigError: a group cannot share it."""
        return chosen

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns or raises in the first process, for all of them. The others wait, however long."""
        return make()

    def any(self, flag: bool) -> bool:
        """Whether the flag of any process is set."""
        return flag

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each floating-point tensor, in place, by its sum over the processes."""

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each contiguous tensor, in place, by that of the first process."""


ALONE = Group()


def launched() -> tuple[int, int]:
    """(rank, size): this process among those that torchrun started; (0, 1) without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

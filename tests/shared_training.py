"""What each of two processes does for tests/test_torchrun.py. `main` is their entry."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flawmap.core.distributed import joined
from flawmap.core.errors import FlawmapError, InputError, LostProcessError
from flawmap.core.group import ALONE, Group
from flawmap.methods.config import Config
from flawmap.methods.gradient import Trained
from flawmap.methods.interface import Progress
from test_training import config_of, fit, source_of

STOP = 40  # the step after which something happens to the second process
INTERRUPTED, LOST = 130, 99  # exit codes


def configuration(loss: str = "ssim", **settings: Any) -> Config:
    """Five patches a step, which two processes cannot halve, and a low rate: Adam makes much of rounding otherwise."""
    return config_of(**{"loss": loss, "batch": 5, "steps": 2 * STOP, "learning_rate": 1e-4, **settings})


def trained(config: Config, group: Group = ALONE, **context: Any) -> Trained:
    return fit(config, source_of(), group=group, data_digest="x", **context)


def weights_of(found: Trained) -> str:
    """A digest of the weights."""
    digest = hashlib.sha256()
    for tensor in found.network.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def losses_of(found: Trained) -> list[float]:
    return [row.loss for row in found.history]


def refusal(work: Callable[[], object]) -> str:
    """What an error says, with its type."""
    try:
        work()
    except FlawmapError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def unreadable() -> None:
    raise InputError("the first process cannot read it")


def everything(folder: Path, group: Group) -> dict[str, Any]:
    """Trainings and refusals, one after the other."""
    runs = {
        "ssim": trained(configuration(), group),
        "l2": trained(configuration("l2", corrupt=0.5, augment="turns", pool=23), group),
        "resumed": trained(configuration(), group, checkpoint=folder / "alone.checkpoint", resume=True),
    }
    minutes = trained(config_of(minutes=0.002), group)
    return {
        "losses": {name: losses_of(run) for name, run in runs.items()},
        "weights": {name: weights_of(run) for name, run in runs.items()},
        "steps": minutes.steps,
        "first": group.from_first(lambda: group.rank),
        "any": [group.any(False), group.any(group.rank == 1)],
        "refused": [
            refusal(lambda: group.from_first(unreadable)),
            refusal(lambda: trained(configuration(batch=1), group)),
            refusal(lambda: group.device(torch.device("cuda", 1))),
        ],
    }


def struck(number: int, group: Group) -> Callable[[Progress], None]:
    """Sends the second process a signal in the middle of its training."""

    def observe(progress: Progress) -> None:
        if group.rank == 1 and progress.row.step == STOP:
            os.kill(os.getpid(), number)

    return observe


def main(what: str, folder: Path, rank: int, port: int) -> None:
    """Process `rank` of two, on this machine, with what torchrun would tell it.

    what: "everything", whose results go to `folder`/RANK.json, or the signal that strikes the second process.
    """
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
    try:
        with joined() as group:
            if what == "everything":
                found = everything(folder, group)
                (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
            else:
                observe = struck(signal.Signals[what], group)
                trained(configuration(), group, checkpoint=folder / "shared.checkpoint", observe=observe)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except LostProcessError:
        sys.exit(LOST)

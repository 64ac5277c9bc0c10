"""One training by two processes: the loss curve of one process, one writer, resume with more or fewer, and every end.

Rounding differs: a sum of two halves is not bit for bit the sum of all. At the low learning rate of these trainings the
curves of one and of two processes stay within `CLOSE` of each other.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flawmap
import shared_training
from flawmap.commands import train
from flawmap.commands.cli import BAD_INPUT, main
from flawmap.core.errors import ConfigError
from flawmap.core.group import ALONE, Group
from flawmap.data.synthetic import good_images
from flawmap.imaging.writing import write_image
from flawmap.methods.checkpoint import Checkpoint, load_checkpoint
from flawmap.methods.presets import preset
from shared_training import INTERRUPTED, LOST, STOP, configuration, losses_of, trained
from test_training import StoppedError, stop_after

pytestmark = pytest.mark.cluster

CLOSE = 1e-3  # relative difference of losses; patches of another draw differ by several times as much
LIMIT = 60  # seconds in which both processes have to end
START = get_context("forkserver")  # which imports once for all processes
START.set_forkserver_preload(["shared_training"])
SMALL = """
[model]
patch = 32
[method]
latent = 8
ssim = {size = 7, window = "gaussian", constants = "wang"}
[choice]
candidates = ["method.latent=8", "method.latent=6"]
[training]
steps = 20
batch = 4
precision = "float32"
"""


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine, by the program itself."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*start, *command], capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The server of processes finds what these tests find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


def together(what: str, folder: Path) -> list[int | None]:
    """The exit codes of two processes that do it without torchrun, so that nobody ends the one if the other dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [START.Process(target=shared_training.main, args=(what, folder, rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
        process.kill()  # nothing, if it ended
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def alone() -> list[float]:
    """The losses of one process that never stopped."""
    return losses_of(trained(configuration()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found. A process by itself began one of their trainings."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.raises(StoppedError):
        trained(configuration(), checkpoint=folder / "alone.checkpoint", observe=stop_after(STOP + 20))
    assert together("everything", folder) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


# ------------------------------------------------------------------------------------------------------- the training


def test_two_processes_follow_the_loss_curve_of_one(shared: list[dict[str, Any]], alone: list[float]) -> None:
    """They divide the same batches, also an odd one, one of a pool, and one with stains."""
    pooled = losses_of(trained(configuration("l2", corrupt=0.5, augment="turns", pool=23)))
    assert shared[0]["losses"]["ssim"] == pytest.approx(alone, rel=CLOSE)
    assert shared[0]["losses"]["l2"] == pytest.approx(pooled, rel=CLOSE)


def test_other_patches_would_not_pass_for_the_same(alone: list[float]) -> None:
    """What the comparison above is worth: the losses of another seed are further away."""
    other = losses_of(trained(configuration(seed=1)))
    assert max(abs(a - b) / b for a, b in zip(other, alone, strict=True)) > 3 * CLOSE


def test_all_processes_end_with_the_same_weights(shared: list[dict[str, Any]]) -> None:
    """To the bit, and with the same losses in their histories."""
    assert shared[0]["weights"] == shared[1]["weights"]
    assert shared[0]["losses"] == shared[1]["losses"]


def test_minutes_are_the_same_number_of_steps_everywhere(shared: list[dict[str, Any]]) -> None:
    """Each measures its own; that of the first counts."""
    assert shared[0]["steps"] == shared[1]["steps"]


def test_two_processes_go_on_where_one_stopped(shared: list[dict[str, Any]], alone: list[float]) -> None:
    """The curve is that of one process to its end."""
    assert shared[0]["losses"]["resumed"] == pytest.approx(alone, rel=CLOSE)
    assert shared[0]["losses"]["resumed"][:2] == alone[:2], "rows from the checkpoint"


def test_what_the_first_process_finds_and_refuses_holds_for_all(shared: list[dict[str, Any]]) -> None:
    """Results and errors reach the others, and a flag that one of them sets reaches all."""
    for found in shared:
        assert found["first"] == 0
        assert found["any"] == [False, True]
        assert found["refused"] == [
            "InputError: the first process cannot read it",
            "ConfigError: each of 2 processes needs a patch of every step, which has 1; start fewer processes, or use "
            "larger steps (--set training.batch=2)",
            "ConfigError: 2 processes cannot share the device cuda:1; use --device cuda, which gives each process a "
            "GPU of its own, or --device cpu",
        ]


# --------------------------------------------------------------------------------------------------------------- ends


def left(folder: Path) -> Checkpoint:
    """The checkpoint that two processes left, and nothing else."""
    assert [path.name for path in folder.iterdir()] == ["shared.checkpoint"]
    saved = load_checkpoint(folder / "shared.checkpoint", configuration(), "x", "float32")
    assert saved is not None
    return saved


def test_ctrl_c_on_the_second_process_ends_both(tmp_path: Path, alone: list[float]) -> None:
    """The first one saves the step at hand, and one process goes on from there to the same curve."""
    assert together("SIGINT", tmp_path) == [INTERRUPTED, INTERRUPTED]
    assert left(tmp_path).step == STOP
    resumed = trained(configuration(), checkpoint=tmp_path / "shared.checkpoint", resume=True)
    assert losses_of(resumed) == pytest.approx(alone, rel=CLOSE)


def test_a_killed_process_ends_both(tmp_path: Path) -> None:
    """The first one notices by itself, where torchrun does not tell it, and its checkpoint is whole."""
    assert together("SIGKILL", tmp_path) == [LOST, -signal.SIGKILL]
    assert left(tmp_path).step in (STOP - 20, STOP)


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_one_model(tmp_path: Path) -> None:
    """One document, one model and its history, which inspects; the trials before it are those of one process."""
    good = tmp_path / "good"
    good.mkdir()
    for number, image in enumerate(good_images("cloth", 8, (96, 80), seed=0)):
        write_image(good / f"{number}.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    settings, model = tmp_path / "small.toml", tmp_path / "out" / "model.flawmap"
    settings.write_text(SMALL, encoding="utf-8")
    options = ["--preset", "fast", "--config", str(settings), "--json", "--device", "cpu"]
    ended = torchrun("-m", "flawmap", "train", str(good), "-o", str(model), *options)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["model"] == str(model)
    assert sorted(path.name for path in model.parent.iterdir()) == [
        "model.flawmap",
        "model.history.csv",
        "model.history.png",
    ]
    detector = flawmap.Detector.load(model)
    assert detector.artifact.provenance["training"]["steps"] == 20
    assert len(detector.artifact.provenance["choice"]["trials"]) == 2
    assert detector.inspect(good / "0.png").score > 0


def test_other_commands_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before each process does the whole work and writes the same files."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(["info", "model.flawmap"]) == BAD_INPUT
    assert capsys.readouterr().err == (
        "error: torchrun started 2 processes, but only `flawmap train` divides its work among processes; call `flawmap "
        "info` without torchrun\n"
    )


class Two(Group):
    """The first of two processes, the other one silent."""

    size = 2


def test_a_method_without_gradients_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no steps that could be divided."""

    @contextmanager
    def two() -> Iterator[Group]:
        yield Two()

    monkeypatch.setattr(train, "joined", two)
    (image,) = good_images("cloth", 1, (96, 80), seed=0)
    write_image(tmp_path / "0.png", np.rint(image[:, :, 0] * 255).astype(np.uint8))
    with pytest.raises(ConfigError) as caught:
        flawmap.train(tmp_path, tmp_path / "model.flawmap", preset("fast", "gmm"))
    assert str(caught.value) == (
        "2 processes were started, but gmm is not trained by gradients, which they could share; train it without "
        "torchrun"
    )


def test_one_process_has_all_to_itself() -> None:
    """Nothing is exchanged, nothing is changed."""
    tensor = torch.arange(3.0)
    ALONE.add_up([tensor])
    ALONE.copy_first([tensor])
    assert tensor.tolist() == [0, 1, 2]
    assert list(range(5))[ALONE.share] == [0, 1, 2, 3, 4]
    assert ALONE.from_first(lambda: 7) == 7
    assert [ALONE.any(False), ALONE.any(True)] == [False, True]
    assert ALONE.device(torch.device("cuda", 1)) == torch.device("cuda", 1)

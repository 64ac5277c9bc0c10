"""The loop: determinism, resume bit by bit, budgets, schedule, pool, history, checkpoints, exact error texts."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawmap.core.device import has_bfloat16
from flawmap.core.errors import ArtifactError, ConfigError, InputError, TrainingError
from flawmap.core.settings import TrainingSettings
from flawmap.core.tensor_file import DIGEST, load_tensors, save_tensors
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.synthetic import texture
from flawmap.methods import gradient
from flawmap.methods.autoencoder import build_network, train_network
from flawmap.methods.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flawmap.methods.config import Config
from flawmap.methods.gradient import Objective, Trained, learning_rate
from flawmap.methods.interface import FitContext, Patches, Progress, Row
from flawmap.methods.losses import loss_of
from flawmap.methods.overrides import override, parse
from flawmap.reporting.logs import write_history

pytestmark = pytest.mark.usefixtures("one_thread")

PATCH = 32
NATIVE = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="bfloat16 would be emulated, and slow")
ALWAYS = 1e-9  # minutes between checkpoints: one after every row


def fit(
    config: Config,
    source: Patches,
    validation: NDArray[np.float32] | None = None,
    *,
    observe: Callable[[Progress], None] = lambda progress: None,
    **context: Any,
) -> Trained:
    """The network of a training, with what a FitContext holds by keyword."""
    return train_network(config, source, FitContext(validation, on_progress=observe, **context))


def config_of(**settings: Any) -> Config:
    """Small and quick: patches of 32, 8 latent dimensions, 4 patches a step."""
    ssim = {"size": 7, "window": "gaussian", "constants": "wang"}
    budget = {} if {"steps", "epochs", "minutes"} & settings.keys() else {"steps": 60}
    quick = {"batch": 4, "precision": "float32", "checkpoint_minutes": ALWAYS, **budget}
    loss = settings.pop("loss", "ssim")
    return parse(
        {
            "model": {"patch": PATCH},
            "method": {"latent": 8, "name": loss} | ({"ssim": ssim} if loss == "ssim" else {}),
            "residual": {"ssim": ssim},
            "tiling": {"stride": 16},
            "training": {**quick, **settings},
        }
    )


class Recorded(PatchSource):
    """A source that remembers which patches were cut, batch by batch."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.cuts: list[list[int]] = []

    def cut(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        self.cuts.append([int(number) for number in numbers])
        return super().cut(numbers)


def source_of(kind: str = "fibres", side: int = 128) -> Recorded:
    return Recorded([TrainingImage(texture(kind, (side, side), seed)) for seed in range(2)], PATCH)


class Noise:
    """Patches in which there is nothing to learn."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.integers(0, 2**32, size=count)

    def cut(self, drawn: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([np.random.default_rng(seed).random((1, PATCH, PATCH), np.float32) for seed in drawn])


class StoppedError(Exception):
    """Stands for whatever ends a training in the middle."""


def stop_after(step: int) -> Callable[[Progress], None]:
    def observe(progress: Progress) -> None:
        if progress.row.step >= step:
            raise StoppedError

    return observe


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def without_time(trained: Trained) -> list[tuple[int, float, float | None, float]]:
    return [(row.step, row.loss, row.validation, row.rate) for row in trained.history]


# --- determinism and resume


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_seed_trains_to_the_same_bits(precision: str) -> None:
    """Weights and losses are a function of settings, seed and images; another seed gives others."""
    steps = 21 if precision == "float32" or has_bfloat16(torch.device("cpu")) else 2  # emulation is slow
    config = config_of(steps=steps, precision=precision, augment="turns")
    first, again = fit(config, source_of()), fit(config, source_of())
    assert same_weights(first.network, again.network)
    assert without_time(first) == without_time(again)
    assert all(parameter.dtype == torch.float32 for parameter in first.network.parameters())
    other = fit(override(config, {"training": {"seed": 1}}), source_of())
    assert not same_weights(first.network, other.network)


def test_training_leaves_the_global_generators_alone() -> None:
    """Neither torch's nor NumPy's global random numbers are read or moved."""
    config = config_of(steps=3)
    torch.manual_seed(5)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the very state at stake
    fit(config, source_of())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == legacy  # noqa: NPY002


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 16, "augment": "turns", "warmup": 7, "schedule": "cosine"},
        {"steps": 16, "pool": 10},
        {"epochs": 5, "pool": 13, "augment": "flips", "weight_decay": 1e-2},
        {"steps": 16, "loss": "l2", "learning_rate": 1e-4},
        pytest.param({"steps": 16, "precision": "bfloat16"}, marks=NATIVE),
    ],
    ids=["fresh", "pool", "epochs", "l2", "bfloat16"],
)
def test_a_resumed_training_ends_at_the_same_bits(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice and resumed, weights, losses and rates equal those of a training that was never stopped."""
    monkeypatch.setattr(gradient, "ROW_STEPS", 5)
    config, path = config_of(**settings), tmp_path / "state"
    held_out = source_of().sample(6, np.random.default_rng(9))
    straight = fit(config, source_of(), held_out)
    with pytest.raises(StoppedError):
        fit(config, source_of(), held_out, checkpoint=path, observe=stop_after(10))
    saved = load_checkpoint(path, config, "", settings.get("precision", "float32"))
    assert saved is not None
    assert saved.step == 5, "the stop came before the row at 10 was saved"
    with pytest.raises(StoppedError):
        fit(config, source_of(), held_out, checkpoint=path, resume=True, observe=stop_after(16))
    resumed = fit(config, source_of(), held_out, checkpoint=path, resume=True)
    assert same_weights(straight.network, resumed.network)
    assert without_time(straight) == without_time(resumed)
    assert [row.step for row in resumed.history] == [5, 10, 15, 16]
    assert (straight.steps, straight.constant_loss) == (resumed.steps, resumed.constant_loss)
    again = fit(config, source_of(), held_out, checkpoint=path, resume=True)
    assert same_weights(straight.network, again.network), "resuming a finished training changes nothing"
    assert without_time(straight) == without_time(again)


def test_a_restored_state_lies_in_memory_as_it_did(tmp_path: Path) -> None:
    """Weights and Adam's moments come back channels last, Adam's groups and step count with them, and no alias."""
    config, path = config_of(steps=20, weight_decay=0.125), tmp_path / "state"
    network = build_network(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.5, weight_decay=0.125)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.rand(2, 1, PATCH, PATCH)).square().mean().backward()
        optimizer.step()
    where = {"config": config, "data_digest": "d", "step": 3, "steps": 20, "seconds": 1.5, "history": []}
    where |= {"precision": "float32", "files": {}, "pending": [0.5]}
    save_checkpoint(Checkpoint.of(network, optimizer, **where), path)
    saved = load_checkpoint(path, config, "d", "float32")
    assert saved is not None
    assert (saved.step, saved.steps, saved.seconds, saved.data_digest) == (3, 20, 1.5, "d")
    kept = {name: tensor.clone() for name, tensor in saved.tensors.items()}

    fresh = build_network(config).to(memory_format=torch.channels_last)
    other = torch.optim.Adam(fresh.parameters(), lr=0.5, weight_decay=0.125)
    saved.restore(fresh, other)
    assert same_weights(network, fresh)
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for (name, old), new in zip(network.named_parameters(), fresh.parameters(), strict=True):
        assert old.stride() == new.stride(), name
        before, after = optimizer.state[old], other.state[new]
        assert before.keys() == after.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key in before:
            assert torch.equal(before[key], after[key]), (name, key)
            assert before[key].stride() == after[key].stride(), (name, key)
            assert not after[key].requires_grad
    for model, adam in ((network, optimizer), (fresh, other)):
        adam.zero_grad()
        model(torch.full((2, 1, PATCH, PATCH), 0.3)).square().mean().backward()
        adam.step()
    assert same_weights(network, fresh)
    assert all(torch.equal(kept[name], tensor) for name, tensor in saved.tensors.items()), "still what was saved"


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_training import config_of, fit, source_of

def tell(progress):
    print(progress.row.step, flush=True)

fit(config_of(steps=4000), source_of(), checkpoint=Path({path!r}), data_digest="x", observe=tell)
"""


@pytest.mark.slow
def test_a_killed_training_leaves_a_checkpoint_that_goes_on(tmp_path: Path) -> None:
    """kill -9 at any moment leaves a whole checkpoint."""
    path = tmp_path / "state"
    script = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        steps = [int(line) for line in itertools.islice(process.stdout, 4)]
        process.send_signal(signal.SIGKILL)
    assert steps == [20, 40, 60, 80]
    config = config_of(steps=4000)
    saved = load_checkpoint(path, config, "x", "float32")
    assert saved is not None
    assert saved.step >= 60
    assert [row["step"] for row in saved.history] == list(range(20, saved.step + 1, 20))
    with pytest.raises(StoppedError):
        fit(config, source_of(), checkpoint=path, data_digest="x", resume=True, observe=stop_after(saved.step + 20))


def test_without_resume_a_training_starts_anew(tmp_path: Path) -> None:
    """An old checkpoint is overwritten; with resume but no file yet, training starts at step 0."""
    config, path = config_of(steps=20), tmp_path / "state"
    first = fit(config, source_of(), checkpoint=path, resume=True)
    other = override(config, {"training": {"seed": 7}})
    fit(other, source_of(), checkpoint=path)
    saved = load_checkpoint(path, other, "", "float32")
    assert saved is not None
    assert saved.step == 20
    assert len(first.history) == 1


def test_no_checkpoint_is_written_before_its_time(tmp_path: Path) -> None:
    """Checkpoints come every `checkpoint_minutes`, not every row."""
    fit(config_of(steps=20, checkpoint_minutes=60.0), source_of(), checkpoint=tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


# --- budget


class Clock:
    """A machine on which every look at the clock costs a fixed time."""

    def __init__(self, tick: float) -> None:
        self.tick, self.now = tick, 0.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def test_minutes_are_turned_into_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.1 minutes at 0.25 s a step are 24 steps; a resume on a slower machine keeps them, and so the same bits."""
    config, path = config_of(minutes=0.1, schedule="cosine"), tmp_path / "state"
    monkeypatch.setattr(gradient, "time", Clock(0.25))
    with pytest.raises(StoppedError):
        fit(config, source_of(), checkpoint=path, observe=stop_after(24))
    saved = load_checkpoint(path, config, "", "float32")
    assert saved is not None
    assert (saved.step, saved.steps) == (20, 24)
    monkeypatch.setattr(gradient, "time", Clock(3.0))
    resumed = fit(config, source_of(), checkpoint=path, resume=True)
    assert resumed.steps == 24
    by_steps = fit(config_of(steps=24, schedule="cosine"), source_of())
    assert same_weights(resumed.network, by_steps.network), "the timed steps leave no trace in the network"


def test_minutes_buy_at_least_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a very slow machine one step is made, not none."""
    monkeypatch.setattr(gradient, "time", Clock(1000.0))
    assert fit(config_of(minutes=0.1), source_of()).steps == 1


@pytest.mark.parametrize(
    ("epochs", "pool", "batch", "steps"), [(3, 10, 4, 7), (4, 8, 4, 8), (1, 3, 4, 1), (2, 9, 6, 3)]
)
def test_epochs_are_passes_over_the_pool(epochs: int, pool: int, batch: int, steps: int) -> None:
    """Epochs times pool patches, in whole batches, at least one."""
    assert fit(config_of(epochs=epochs, pool=pool, batch=batch), source_of()).steps == steps


def test_a_pool_is_all_that_is_ever_seen_and_each_patch_once_an_epoch() -> None:
    """10 patches, 6 epochs: every pass is another order of the same 10, batches straddling the passes."""
    source = source_of()
    fit(config_of(epochs=6, pool=10, batch=4), source)
    _, *batches = source.cuts  # the first cut is for the initialisation
    assert [len(batch) for batch in batches] == [4] * 15
    seen = list(itertools.chain(*batches))
    passes = [seen[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    assert len({tuple(one) for one in passes}) == 6


def test_without_a_pool_every_batch_is_fresh() -> None:
    """Batches differ from step to step."""
    source = source_of()
    fit(config_of(steps=10), source)
    batches = {tuple(batch) for batch in source.cuts[1:]}
    assert len(batches) == 10


# --- learning rate


def test_the_rate_warms_up_in_a_line_and_stays() -> None:
    """Step n of W warm-up steps has (n + 1) / W of the rate; then it is constant."""
    settings = TrainingSettings(steps=100, learning_rate=0.5, warmup=10)
    assert [learning_rate(step, 100, settings) for step in range(10)] == pytest.approx([0.05 * n for n in range(1, 11)])
    assert {learning_rate(step, 100, settings) for step in range(10, 100)} == {0.5}
    assert learning_rate(0, 100, TrainingSettings(steps=100, learning_rate=0.5)) == 0.5


def test_the_cosine_falls_from_the_rate_to_a_hundredth() -> None:
    """After the warm-up the rate starts at its highest, is half-way in the middle, never rises, ends near 1 %."""
    settings = TrainingSettings(steps=1000, learning_rate=0.2, warmup=100, schedule="cosine")
    rates = [learning_rate(step, 1000, settings) for step in range(1000)]
    assert max(rates) == rates[99] == rates[100] == 0.2
    assert rates[550] == pytest.approx(0.2 * (0.01 + 0.99 / 2))
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[100:]))
    assert rates[-1] == pytest.approx(0.002, rel=0.01)
    assert min(rates) > 0


def test_a_warm_up_takes_at_most_half_of_the_steps() -> None:
    """With 100 warm-up steps and 20 steps in all, the highest rate is reached at step 10."""
    settings = TrainingSettings(steps=20, learning_rate=1.0, warmup=100, schedule="cosine")
    rates = [learning_rate(step, 20, settings) for step in range(20)]
    assert rates.index(max(rates)) == 9
    assert learning_rate(0, 1, settings) == 1.0


def test_the_optimizer_gets_the_rate_of_the_schedule() -> None:
    """The history's rate is that of its last step; Adam's first step moves a weight by the rate of step 0."""
    settings = {"steps": 25, "learning_rate": 0.01, "warmup": 5, "schedule": "cosine"}
    config = config_of(**settings)
    rows = fit(config, source_of()).history
    assert [row.rate for row in rows] == [learning_rate(step - 1, 25, config.training) for step in (20, 25)]
    initialised = fit(override(config, {"training": {"steps": 1, "warmup": 0, "learning_rate": 1e-30}}), source_of())
    moved = fit(override(config, {"training": {"steps": 1, "warmup": 0, "learning_rate": 1e-3}}), source_of())
    largest = max(
        float((a - b).detach().abs().max())
        for a, b in zip(initialised.network.parameters(), moved.network.parameters(), strict=True)
    )
    assert largest == pytest.approx(1e-3, rel=0.01)


# --- history


def test_the_history_has_a_row_every_20_steps_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows hold the mean loss since the one before; validation is looked at now and then, and at the end."""
    monkeypatch.setattr(gradient, "VALIDATION_ROWS", 2)
    config = config_of(steps=65)
    held_out = source_of("fibres", 160).sample(10, np.random.default_rng(3))
    told: list[Progress] = []
    trained = fit(config, source_of(), held_out, observe=told.append)
    assert [row.step for row in trained.history] == [20, 40, 60, 65]
    assert [row.validation is not None for row in trained.history] == [False, True, False, True]
    with torch.no_grad():
        patches = torch.from_numpy(held_out)
        exact = loss_of(config.method)(patches, trained.network(patches)).item()
    assert trained.history[-1].validation == pytest.approx(exact, rel=1e-5)
    assert [progress.row for progress in told] == list(trained.history)
    assert all(progress.steps == 65 and progress.patches_per_second > 0 for progress in told)
    assert told[0].seconds_left > told[-1].seconds_left == 0
    seconds = [row.seconds for row in trained.history]
    assert seconds == sorted(seconds)
    assert trained.seconds == seconds[-1] > 0
    assert trained.patches_per_second == pytest.approx(65 * 4 / trained.seconds)


@pytest.mark.parametrize("held_out", [None, np.empty((0, 1, PATCH, PATCH), np.float32)])
def test_without_validation_patches_the_column_is_empty(held_out: NDArray[np.float32] | None) -> None:
    """No held-out patches: the history says nothing of them."""
    assert [row.validation for row in fit(config_of(steps=20), source_of(), held_out).history] == [None]


def test_a_history_is_written_as_csv_and_read_back(tmp_path: Path) -> None:
    """Every number comes back exactly; a missing validation is an empty field."""
    rows = [Row(20, 0.1 + 0.2, None, 1e-3, 1.5), Row(40, 1 / 3, 2 / 3, 9.5e-4, 3.25)]
    write_history(rows, tmp_path / "history.csv")
    text = (tmp_path / "history.csv").read_text()
    assert text.splitlines()[0] == "step,loss,validation,rate,seconds"
    with (tmp_path / "history.csv").open(newline="") as file:
        found = [
            Row(
                int(row["step"]),
                float(row["loss"]),
                float(row["validation"]) if row["validation"] else None,
                float(row["rate"]),
                float(row["seconds"]),
            )
            for row in csv.DictReader(file)
        ]
    assert found == rows


def test_the_constant_loss_is_that_of_every_patch_s_mean() -> None:
    """For l2 it is the patches' variance summed over pixels, by hand."""
    source = source_of()
    trained = fit(config_of(loss="l2", steps=1, learning_rate=1e-5), source)
    patches = PatchSource.cut(source, np.array(source.cuts[0]))
    assert trained.constant_loss == pytest.approx(patches.var(axis=(2, 3)).sum(1).mean() * PATCH**2, rel=1e-4)


# --- learning


def test_ssim_training_leaves_the_plateau() -> None:
    """80 steps on a fibre texture are enough by the program's own measure, which would end the training otherwise."""
    settings = {"steps": 80, "batch": 32, "learning_rate": 1e-3, "plateau_steps": 80}
    config = override(config_of(**settings), {"method": {"latent": 32, "ssim": {"size": 11}}})
    trained = fit(config, source_of(side=256))
    assert trained.history[-1].loss < gradient.PLATEAU * trained.constant_loss


def test_l2_training_lowers_its_loss() -> None:
    """The loss of steps 21 to 40 is below that of steps 1 to 20 and of a constant reconstruction."""
    trained = fit(config_of(loss="l2", steps=40, batch=16), source_of())
    first, last = trained.history
    assert last.loss < min(first.loss, trained.constant_loss)
    assert not trained.network.training, "ready to score"


# --- what cannot come to anything


def test_a_loss_that_turns_nan_ends_the_training(tmp_path: Path) -> None:
    """The error names the step and what to lower, and no checkpoint holds the broken weights."""
    config = config_of(learning_rate=1e30)
    with pytest.raises(TrainingError) as caught:
        fit(config, source_of(), checkpoint=tmp_path / "state")
    assert str(caught.value) == (
        "the loss turned nan before step 20; lower the learning rate (--set training.learning_rate=3e+29) or train in "
        "float32 (--set training.precision=float32)"
    )
    assert not (tmp_path / "state").exists()


def test_a_loss_that_stays_on_the_plateau_ends_the_training() -> None:
    """On noise nothing is learnt: after `plateau_steps` the error says so, with both losses."""
    with pytest.raises(TrainingError) as caught:
        fit(config_of(plateau_steps=30), Noise())
    number = r"\d\.\d{4}"
    assert re.fullmatch(
        rf"after 40 steps the loss, {number}, is still that of a constant reconstruction, {number}: nothing is "
        r"learnt; check that the images show a texture at this scale \(--scale\), try another seed \(--seed\) or "
        r"learning rate \(training\.learning_rate\), or go on all the same \(--set training\.plateau_steps=0\)",
        str(caught.value),
    )


def test_the_plateau_may_be_ignored_and_is_not_met_twice() -> None:
    """plateau_steps = 0 trains on noise to the end; a loss that once left the plateau may come back."""
    assert fit(config_of(plateau_steps=0, steps=40), Noise()).steps == 40
    run = gradient._Run(nn.Identity(), torch.optim.Adam([torch.zeros(1)]), 100, constant_loss=1.0, step=60)
    run.history = [Row(20, 1.0, None, 0.1, 1.0), Row(40, 0.9, None, 0.1, 2.0), Row(60, 0.999, None, 0.1, 3.0)]
    gradient._check_loss(run, TrainingSettings(steps=100, plateau_steps=50), "")
    run.history[1] = Row(40, 0.99, None, 0.1, 2.0)
    with pytest.raises(TrainingError, match=r"after 60 steps the loss, 0\.9990, is still that"):
        gradient._check_loss(run, TrainingSettings(steps=100, plateau_steps=50), "")
    gradient._check_loss(run, TrainingSettings(steps=100, plateau_steps=61), "")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_no_infinite_loss_passes(loss: float) -> None:
    """NaN and both infinities end a training."""
    run = gradient._Run(nn.Identity(), torch.optim.Adam([torch.zeros(1)]), 100, constant_loss=1.0, step=20)
    run.history = [Row(20, loss, None, 0.1, 1.0)]
    with pytest.raises(TrainingError, match=f"the loss turned {loss} before step 20"):
        gradient._check_loss(run, TrainingSettings(steps=100), "")


def test_a_loss_that_explodes_ends_the_training() -> None:
    """A finite one too: a network that far off would be written, and used."""
    run = gradient._Run(nn.Identity(), torch.optim.Adam([torch.zeros(1)]), 100, constant_loss=70.0, step=20)
    first = Row(20, 240.0, None, 0.1, 1.0)
    for losses in ([first, Row(40, 239_000.0, None, 0.1, 2.0)], [Row(20, 1e6, None, 0.1, 1.0)]):
        run.history = losses
        gradient._check_loss(run, TrainingSettings(steps=100, learning_rate=2e-3), "")
    run.history = [first, Row(40, 3.3e8, None, 0.1, 2.0)]
    with pytest.raises(TrainingError) as caught:
        gradient._check_loss(run, TrainingSettings(steps=100, learning_rate=2e-3), "")
    assert str(caught.value) == (
        "the loss rose to 3.3e+08 before step 40, that of a constant reconstruction is 70: the training diverges; "
        "lower the learning rate (--set training.learning_rate=7e-04)"
    )


def test_patches_that_do_not_fit_the_network_are_refused() -> None:
    """Colour patches for a grey network, or another side, name both shapes."""
    source = PatchSource([TrainingImage(np.repeat(texture("cloth", (64, 64), 0), 3, axis=2))], PATCH)
    with pytest.raises(ConfigError) as caught:
        fit(config_of(), source)
    assert str(caught.value) == (
        "patches must be (64, 1, 32, 32) for these settings, got (64, 3, 32, 32); set channels and patch of [model] "
        "to those of the images"
    )


def test_flat_images_are_refused() -> None:
    """Images without any structure are an error before the first step."""
    with pytest.raises(InputError, match="training patches must vary, but all of them are flat"):
        fit(config_of(), PatchSource([TrainingImage(np.full((64, 64, 1), 0.5, np.float32))], PATCH))


# --- checkpoints that do not belong


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, bytes]:
    """A checkpoint's settings and its bytes."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("saved") / "state"
    config = config_of(steps=20)
    fit(config, source_of(), checkpoint=path, data_digest="these")
    return config, path.read_bytes()


def test_a_missing_checkpoint_is_none(tmp_path: Path) -> None:
    """Nothing to continue from is not an error."""
    assert load_checkpoint(tmp_path / "none", config_of(), "", "float32") is None


def test_a_checkpoint_of_other_settings_is_refused(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """The message lists what differs: at most three settings, old value and new."""
    config, blob = saved
    path = tmp_path / "state"
    path.write_bytes(blob)
    other = override(config, {"training": {"batch": 8}, "method": {"latent": 9}})
    with pytest.raises(ConfigError) as caught:
        fit(other, source_of(), checkpoint=path, resume=True, data_digest="these")
    assert str(caught.value) == (
        f"{path} was written with other settings: method.latent was 8, is 9; training.batch was 4, is 8; resume with "
        "the same ones, or remove the checkpoint to start anew"
    )
    many = override(other, {"tiling": {"stride": 8}, "method": {"ssim": {"size": 5, "constants": "paper"}}})
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(path, many, "these", "float32")
    assert str(caught.value).count(" was ") == 4, "was written, and three settings"
    freed = override(config, {"training": {"device": "cpu", "memory_gb": 1.0, "checkpoint_minutes": 5.0}})
    assert load_checkpoint(path, freed, "these", "float32") is not None, "where it runs may change"


def test_a_checkpoint_of_other_images_is_refused(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """The digest of the training data must be the same."""
    config, blob = saved
    path = tmp_path / "state"
    path.write_bytes(blob)
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(path, config, "those", "float32")
    assert str(caught.value) == f"{path} was written while training on other images; remove it to start anew"


def test_a_damaged_checkpoint_is_refused(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """Empty, cut short, foreign, or with a header that is not ours: the file is named and how to go on."""
    config, blob = saved
    path = tmp_path / "state"
    tensors = safetensors.torch.load(blob)
    strange = json.dumps({"step": 1, "whatever": 2})
    for bad in (
        b"",
        blob[: len(blob) // 2],
        b"this is a text, and not a checkpoint at all\n",
        safetensors.torch.save(tensors),
        safetensors.torch.save(tensors, metadata={"flawmap-checkpoint": "{"}),
        safetensors.torch.save(tensors, metadata={"flawmap-checkpoint": "[1]"}),
        safetensors.torch.save(tensors, metadata={"flawmap-checkpoint": strange}),
    ):
        path.write_bytes(bad)
        with pytest.raises(ArtifactError) as caught:
            load_checkpoint(path, config, "these", "float32")
        assert re.fullmatch(
            rf"{re.escape(str(path))} is (not a readable checkpoint \(.+\)|damaged: .+); remove it to start anew",
            str(caught.value),
        )


def test_a_checkpoint_without_some_weights_is_refused(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """A file whose header is whole but whose tensors are not is damaged, too."""
    config, blob = saved
    path = tmp_path / "state"
    path.write_bytes(blob)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    for missing in ("network.encoder.0.weight", "optimizer.exp_avg.encoder.0.bias"):
        tensors = safetensors.torch.load(blob)
        del tensors[missing]
        header = json.loads(metadata["flawmap-checkpoint"])
        del header[DIGEST]
        save_tensors(path, "flawmap-checkpoint", header, tensors)
        with pytest.raises(ArtifactError, match="the checkpoint does not hold the state of this network"):
            fit(config, source_of(), checkpoint=path, resume=True, data_digest="these")


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A checkpoint whose header was changed, with the digest that belongs to it."""
    header, tensors = load_tensors(path, "flawmap-checkpoint", "")
    change(header)
    save_tensors(path, "flawmap-checkpoint", header, tensors)


def test_a_checkpoint_of_a_newer_release_is_refused(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """Its format is named."""
    config, blob = saved
    path = tmp_path / "state"
    path.write_bytes(blob)
    rewritten(path, lambda header: header.update(format=2))
    with pytest.raises(ArtifactError, match="has format 2, this flawmap reads up to 1; update flawmap"):
        load_checkpoint(path, config, "these", "float32")


def test_settings_newer_than_a_checkpoint_get_their_default(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """A release that adds a setting does not refuse the checkpoints of the release before."""
    config, blob = saved
    path = tmp_path / "state"
    path.write_bytes(blob)
    rewritten(path, lambda header: header["config"]["training"].pop("weight_decay"))
    assert load_checkpoint(path, config, "these", "float32") is not None
    other = override(config, {"training": {"weight_decay": 0.5}})
    with pytest.raises(ConfigError, match=r"other settings: training\.weight_decay was 0\.0, is 0\.5;"):
        load_checkpoint(path, other, "these", "float32")


def test_another_precision_is_refused(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """A resume on another machine does not change the arithmetic without a word."""
    config, blob = saved
    path = tmp_path / "state"
    path.write_bytes(blob)
    rewritten(path, lambda header: header.update(precision="bfloat16"))
    with pytest.raises(ConfigError) as caught:
        fit(config, source_of(), checkpoint=path, resume=True, data_digest="these")
    assert str(caught.value) == (
        f"{path} was written while training in bfloat16, this machine would go on in float32; resume with --set "
        "training.precision=bfloat16, or remove the checkpoint to start anew"
    )


def test_every_flipped_byte_of_a_checkpoint_is_noticed(saved: tuple[Config, bytes], tmp_path: Path) -> None:
    """Of the header and of the tensors."""
    config, blob = saved
    path, rng = tmp_path / "state", np.random.default_rng(0)
    for place in rng.integers(8, len(blob), 40):
        damaged = bytearray(blob)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        with pytest.raises(ArtifactError):
            load_checkpoint(path, config, "these", "float32")


# --- Ctrl-C


class Interrupting(Noise):
    """Patches that raise Ctrl-C's signal while those of a step are cut."""

    def __init__(self, step: int) -> None:
        self.left = step + 1  # the first patches are those of the initialisation

    def cut(self, drawn: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        self.left -= 1
        return super().cut(drawn)


@pytest.mark.parametrize("step", [0, 7, 19, 20, 40])
def test_ctrl_c_ends_with_the_step_at_hand(step: int, tmp_path: Path) -> None:
    """In a row, at its end, or in the last step: the resumed training ends at the bits of one that never stopped."""
    config, path = config_of(steps=41, plateau_steps=0, checkpoint_minutes=60.0), tmp_path / "state"
    straight = fit(config, Noise())
    with pytest.raises(KeyboardInterrupt):
        fit(config, Interrupting(step), checkpoint=path)
    saved = load_checkpoint(path, config, "", "float32")
    assert saved is not None
    assert saved.step == step + 1
    resumed = fit(config, Noise(), checkpoint=path, resume=True)
    assert same_weights(straight.network, resumed.network)
    assert without_time(straight) == without_time(resumed)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_leaves_a_checkpoint_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while a row is measured, between two steps: the checkpoint has the whole row, or nothing of it."""
    monkeypatch.setattr(gradient, "VALIDATION_ROWS", 2)
    config, path = config_of(steps=45, plateau_steps=0), tmp_path / "state"
    held_out = source_of().sample(6, np.random.default_rng(9))
    straight = fit(config, Noise(), held_out)

    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gradient._Stepper, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(config, Noise(), held_out, checkpoint=path)
    saved = load_checkpoint(path, config, "", "float32")
    assert saved is not None
    assert saved.step == 20
    resumed = fit(config, Noise(), held_out, checkpoint=path, resume=True)
    assert same_weights(straight.network, resumed.network)
    assert without_time(straight) == without_time(resumed)


def test_ctrl_c_of_a_training_that_turned_nan_saves_nothing(tmp_path: Path) -> None:
    """Weights that are lost do not replace a checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        fit(config_of(learning_rate=1e30), Interrupting(9), checkpoint=tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


# --- any network


def test_the_loop_knows_no_method() -> None:
    """It trains any module by any objective."""

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.zeros(()))

    def loss(network: nn.Module, patches: Tensor, shown: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(network, Level)
        return (shown - network.level).square().mean()

    def initialise(network: nn.Module, patches: Tensor, seed: int) -> None:
        assert patches.shape[1:] == (1, PATCH, PATCH)

    objective = Objective(loss, lambda patches: torch.tensor(1e9), initialise)
    trained = gradient.train(Level(), objective, Noise(), config_of(steps=200, learning_rate=0.05), FitContext())
    assert isinstance(trained.network, Level)
    assert trained.network.level.item() == pytest.approx(0.5, abs=0.02)

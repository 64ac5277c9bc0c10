"""Gradient training: a loop with checkpoints and exact resume. It takes network and objective, and knows no method.

Everything random is a function of (seed, step): a batch, its augmentation, the initialisation. So a resumed training
needs no saved generator, and several processes divide one step's batch among them: each computes its share, and losses
and gradients are added up. They follow the same loss curve as one process, up to rounding. Only a network's own noise
(that of `vae`, `anogan` and `bigan`) is drawn by each process for itself.
"""

from __future__ import annotations

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flawmap.core.allocation import keep_freed_memory
from flawmap.core.device import autocast, choose_device, choose_precision
from flawmap.core.errors import ConfigError, TrainingError
from flawmap.core.group import ALONE, Group
from flawmap.core.interrupts import deferred_interrupt
from flawmap.core.settings import TrainingSettings
from flawmap.methods.checkpoint import Checkpoint, file_digests, load_checkpoint, save_checkpoint
from flawmap.methods.config import Config
from flawmap.methods.corruption import augment, corrupted
from flawmap.methods.interface import FitContext, Patches, Progress, Row

log = logging.getLogger(__name__)

ROW_STEPS = 20  # steps between two rows of the history
VALIDATION_ROWS = 10  # rows between two looks at the validation patches
INIT_PATCHES = 64  # for the initialisation and for the loss of a constant reconstruction
DIVERGED = 1000  # times the first row's loss, or the constant reconstruction's: no training recovers from there
PLATEAU = 0.98  # of the constant reconstruction's loss: above it nothing has been learnt
FUSED = ("cpu", "cuda")  # devices whose Adam updates all parameters in one pass
TIMED_STEPS = (4, 10)  # warm-up, then measured, to turn minutes into steps

# Streams of one seed, so that no two uses of it see the same numbers.
_BATCH, _POOL, _EPOCH, _INITIAL, _NOISE, _STAINS = range(6)
_HELD_OUT = 2**32 - 1  # in place of a step, for the noise of held-out patches


@dataclass(frozen=True)
class Objective:
    """What a training minimises.

    loss: network, clean patches (N, C, P, P), the patches shown to the network, and a generator for noise, to a scalar.
    constant: patches to the loss of the best reconstruction without structure, below which a training has to come;
    None: the loss does not tell how much is learnt, as where two networks compete. initialise: sets the network's
    weights from a few patches and a seed. advice: what else to try when nothing is learnt, ending in ", or "; or "".
    betas: Adam's, how much of the gradient's mean and of its square a step keeps.
    """

    loss: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
    constant: Callable[[Tensor], Tensor] | None
    initialise: Callable[[nn.Module, Tensor, int], None]
    advice: str = ""
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Trained:
    """The end of a training. constant_loss: that of a constant reconstruction, or None: see `Objective`."""

    network: nn.Module
    history: tuple[Row, ...]
    steps: int
    seconds: float
    patches_per_second: float
    constant_loss: float | None

    def record(self, batch: int) -> dict[str, Any]:
        """How it went, as JSON's types. batch: patches of a step."""
        last = self.history[-1]
        return {
            "steps": self.steps,
            "patches": self.steps * batch,
            "seconds": round(self.seconds, 1),
            "patches_per_second": round(self.patches_per_second, 1),
            "loss": last.loss,
            "validation_loss": last.validation,
            **({} if self.constant_loss is None else {"constant_loss": self.constant_loss}),
        }


@dataclass
class _Run:
    """What changes while training goes on. files: `file_digests`. pending: losses of the steps since the last row.

    busy: within a step, or within the row that ends with it. Nothing can go on from there.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    constant_loss: float | None
    files: dict[str, str] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)
    pending: list[Tensor] = field(default_factory=list)
    busy: bool = False


def train(network: nn.Module, objective: Objective, patches: Patches, config: Config, context: FitContext) -> Trained:
    """Train a network on patches of good images.

    A first Ctrl-C, in whichever process of the group, ends the training after the step at hand, with its checkpoint
    written, and then interrupts.

    Args:
        network: not initialised yet; it is moved to the device of the settings.
    Raises:
        TrainingError: the loss turned NaN, or never left the plateau.
        ConfigError: resume from a checkpoint of other settings or other data; fewer patches a step than processes.
    """
    keep_freed_memory()
    group = context.group
    stepper = _Stepper(config.training, objective, patches, group)
    run = _begin(network, config, stepper, context)
    held_out = (
        None if context.validation is None or not len(context.validation) else torch.from_numpy(context.validation)
    )
    saved = time.monotonic()
    with deferred_interrupt() as pressed:

        def interrupted() -> bool:
            return group.any(pressed())

        try:
            while run.step < run.steps:
                before = run.step
                _row(run, stepper, held_out, context, interrupted)
                if any(before < look <= run.step for look in look_steps(run.steps, context.looks)):
                    context.on_look(run.step, run.network.state_dict())
                if group.any(time.monotonic() - saved > 60 * config.training.checkpoint_minutes):
                    _save(run, config, stepper, context)
                    saved = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            if not run.busy:
                _save(run, config, stepper, context)
            raise
    speed = run.steps * config.training.batch / max(run.seconds, 1e-9)
    return Trained(run.network.eval(), tuple(run.history), run.steps, run.seconds, speed, run.constant_loss)


def look_steps(steps: int, looks: int) -> list[int]:
    """After which steps of a training its state is shown, its end left out.

    >>> look_steps(1000, 4)
    [250, 500, 750]
    """
    return [round(steps * look / looks) for look in range(1, looks)]


def _row(
    run: _Run, stepper: _Stepper, held_out: Tensor | None, context: FitContext, interrupted: Callable[[], bool]
) -> None:
    """Train up to the next row of the history and write it, or up to an interruption."""
    started, first, rate = time.monotonic(), run.step, 0.0
    until = min((run.step // ROW_STEPS + 1) * ROW_STEPS, run.steps)
    while run.step < until and not interrupted():
        rate = learning_rate(run.step, run.steps, stepper.settings)
        run.busy = True
        run.pending.append(stepper(run.network, run.optimizer, run.step, rate))
        run.step += 1
        run.busy = run.step == until
    seconds = time.monotonic() - started
    run.seconds += seconds
    if run.step < until:
        return
    loss = float(torch.stack(run.pending).mean())
    run.pending = []
    due = run.step % (ROW_STEPS * VALIDATION_ROWS) == 0 or run.step == run.steps
    validation = stepper.evaluate(run.network, held_out) if held_out is not None and due else None
    run.history.append(Row(run.step, loss, validation, rate, run.seconds))
    run.busy = False
    _check_loss(run, stepper.settings, stepper.objective.advice)
    pace = seconds / max(1, run.step - first)
    speed, left = stepper.settings.batch / max(pace, 1e-9), (run.steps - run.step) * pace
    context.on_progress(Progress(run.history[-1], run.steps, speed, left))


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Adam's rate at a step (from 0): linear warm-up, then constant or a cosine that ends near 0."""
    warmup = min(settings.warmup, steps // 2)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class _Stepper:
    """One update of the parameters, for a given step; holds what stays the same from step to step."""

    def __init__(self, settings: TrainingSettings, objective: Objective, source: Patches, group: Group = ALONE) -> None:
        if settings.batch < group.size:
            raise ConfigError(
                f"each of {group.size} processes needs a patch of every step, which has {settings.batch}; start fewer "
                f"processes, or use larger steps (--set training.batch={group.size})"
            )
        self.settings, self.objective, self.source, self.group = settings, objective, source, group
        self.device = group.device(choose_device(settings.device))
        self.precision = group.from_first(lambda: choose_precision(settings.precision, self.device))
        rng = np.random.default_rng([settings.seed, _POOL])
        self.pool = None if settings.pool is None else source.draw(settings.pool, rng)

    def __call__(self, network: nn.Module, optimizer: torch.optim.Optimizer, step: int, rate: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch, mine = self.batch(step), self.group.share
        patches = shown = self.on_device(batch[mine])
        if self.settings.corrupt:
            stains = self._generator(torch.device("cpu"), _STAINS, step)
            shown = self.on_device(corrupted(batch, self.settings.corrupt, stains)[mine])
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(network, patches, shown, step) * (len(patches) / len(batch))  # a mean over the batch
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        self.group.add_up([total, *gradients])
        optimizer.step()
        return total

    def batch(self, step: int) -> Tensor:
        """The patches of a step (from 0): fresh ones, or the next of a fixed pool that is shuffled for every epoch."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, _BATCH, step])
        if self.pool is None:
            drawn = self.source.draw(settings.batch, rng)
        else:
            count, first = len(self.pool), step * settings.batch
            places = [divmod(index, count) for index in range(first, first + settings.batch)]
            drawn = self.pool[[_order(settings.seed, epoch, count)[place] for epoch, place in places]]
        patches = augment(self.source.cut(drawn), settings.augment, rng)
        return torch.from_numpy(np.ascontiguousarray(patches))

    def evaluate(self, network: nn.Module, patches: Tensor) -> float:
        """Mean loss of patches, without training on them."""
        total = 0.0
        network.eval()
        with torch.no_grad():
            for part in torch.split(patches, self.settings.batch):
                placed = self.on_device(part)
                total += len(part) * float(self._loss(network, placed, placed, _HELD_OUT))
        network.train()
        return total / len(patches)

    def first_patches(self) -> Tensor:
        """Patches for the initialisation."""
        rng = np.random.default_rng([self.settings.seed, _INITIAL])
        return torch.from_numpy(self.source.cut(self.source.draw(INIT_PATCHES, rng)))

    def _loss(self, network: nn.Module, patches: Tensor, shown: Tensor, step: int) -> Tensor:
        """The loss between clean patches and the reconstructions of the patches shown."""
        generator = self._generator(self.device, _NOISE, step, self.group.rank)
        with autocast(self.device, self.precision):
            return self.objective.loss(network, patches, shown, generator)

    def _generator(self, device: torch.device, *stream: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.settings.seed, *stream]).generate_state(1, np.uint64)[0]
        return torch.Generator(device=device).manual_seed(int(seed))

    def on_device(self, patches: Tensor) -> Tensor:
        return patches.to(self.device, memory_format=torch.channels_last)


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """In which order an epoch takes the patches of the pool."""
    return np.random.default_rng([seed, _EPOCH, epoch]).permutation(count)


def _begin(network: nn.Module, config: Config, stepper: _Stepper, context: FitContext) -> _Run:
    """A run at step 0, or where the checkpoint left it."""
    settings, patches, group = config.training, stepper.first_patches(), context.group
    precision = str(stepper.precision).removeprefix("torch.")
    saved, path = None, context.checkpoint
    if context.resume and path is not None:
        saved = group.from_first(lambda: load_checkpoint(path, config, context.data_digest, precision))
    stepper.objective.initialise(network, patches, settings.seed)
    group.copy_first(network.state_dict().values())
    placed = network.to(stepper.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        placed.parameters(),
        lr=settings.learning_rate,
        betas=stepper.objective.betas,
        weight_decay=settings.weight_decay,
        fused=stepper.device.type in FUSED,
    )
    of_constant = stepper.objective.constant
    constant = None if of_constant is None else float(of_constant(stepper.on_device(patches)))
    constant = group.from_first(lambda: constant)
    if saved is None:
        counted = _count_steps(settings, stepper, placed)
        steps = group.from_first(lambda: counted)
        return _Run(placed, optimizer, steps, constant, {} if context.checkpoint is None else file_digests(config))
    saved.restore(placed, optimizer)
    log.info("resuming at step %d of %d", saved.step, saved.steps)
    history = [Row(**row) for row in saved.history]
    pending = [torch.tensor(loss, device=stepper.device) for loss in saved.pending]
    return _Run(placed, optimizer, saved.steps, constant, saved.files, saved.step, saved.seconds, history, pending)


def _count_steps(settings: TrainingSettings, stepper: _Stepper, network: nn.Module) -> int:
    """The number of steps that the budget buys; minutes are measured once, on a copy that is thrown away."""
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is not None:
        assert settings.pool is not None  # the settings refuse epochs without a pool
        return max(1, settings.epochs * settings.pool // settings.batch)
    assert settings.minutes is not None
    trial = copy.deepcopy(network)
    optimizer = torch.optim.Adam(trial.parameters())
    warm, timed = TIMED_STEPS
    durations = []
    for step in range(warm + timed):
        started = time.monotonic()
        float(stepper(trial, optimizer, step, 1e-6))  # float() waits for the device
        durations.append(time.monotonic() - started)
    seconds = statistics.median(durations[warm:])
    steps = max(1, round(60 * settings.minutes / seconds))
    log.info("%.1f ms a step: %g minutes are %d steps", 1e3 * seconds, settings.minutes, steps)
    return steps


def _check_loss(run: _Run, settings: TrainingSettings, advice: str) -> None:
    """Stop a training that cannot succeed. advice: what else to try."""
    row = run.history[-1]
    slower = f"(--set training.learning_rate={settings.learning_rate / 3:.0e})"
    if not math.isfinite(row.loss):
        raise TrainingError(
            f"the loss turned {row.loss} before step {row.step}; lower the learning rate {slower} or train in float32 "
            "(--set training.precision=float32)"
        )
    if row.loss > DIVERGED * max(run.constant_loss or 0.0, run.history[0].loss):
        known = "" if run.constant_loss is None else f", that of a constant reconstruction is {run.constant_loss:.4g}"
        raise TrainingError(
            f"the loss rose to {row.loss:.3g} before step {row.step}{known}: the training diverges; lower the learning "
            f"rate {slower}"
        )
    if run.constant_loss is None:
        return
    stuck = settings.plateau_steps and run.step >= settings.plateau_steps
    if stuck and all(earlier.loss > PLATEAU * run.constant_loss for earlier in run.history):
        raise TrainingError(
            f"after {row.step} steps the loss, {row.loss:.4f}, is still that of a constant reconstruction, "
            f"{run.constant_loss:.4f}: nothing is learnt; {advice}check that the images show a texture at this scale "
            "(--scale), try another seed (--seed) or learning rate (training.learning_rate), or go on all the same "
            "(--set training.plateau_steps=0)"
        )


def _save(run: _Run, config: Config, stepper: _Stepper, context: FitContext) -> None:
    """Write the checkpoint, where one was asked for. A loss that is not finite leaves the one before it."""
    pending, path = [float(loss) for loss in run.pending], context.checkpoint
    if path is None or not all(map(math.isfinite, pending)):
        return

    def write() -> None:
        frozen = Checkpoint.of(
            run.network,
            run.optimizer,
            config=config,
            precision=str(stepper.precision).removeprefix("torch."),
            files=run.files,
            data_digest=context.data_digest,
            step=run.step,
            steps=run.steps,
            seconds=run.seconds,
            history=[asdict(row) for row in run.history],
            pending=pending,
        )
        save_checkpoint(frozen, path)

    context.group.from_first(write)

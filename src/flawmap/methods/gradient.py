"""fit(): the training loop, its checkpoints and its resume. Plain PyTorch.

Everything random is a function of (seed, step): a batch, its augmentation, the network's birth. So a resumed training
needs no saved generator, and a later run on several processes can part one step's batch among them.
"""

from __future__ import annotations

import copy
import csv
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawmap.core.checks import shape_text
from flawmap.core.device import autocast, choose_device, choose_precision, kept_memory
from flawmap.core.errors import ConfigError, TrainingError
from flawmap.core.files import atomic
from flawmap.core.settings import Config, LossSettings, TrainingSettings
from flawmap.methods.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from flawmap.methods.corruption import augment, corrupted
from flawmap.methods.table import METHODS, build_network
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.initialisation import initialise

log = logging.getLogger(__name__)

ROW_STEPS = 20  # steps between two rows of the history
VALIDATION_ROWS = 10  # rows between two looks at the validation patches
INIT_PATCHES = 64  # for the initialisation and for the loss of a flat reconstruction
DIVERGED = 1000  # times the first row's loss, or the flat reconstruction's: nothing comes back from there
PLATEAU = 0.98  # of the flat reconstruction's loss: above it nothing has been learnt
FUSED = ("cpu", "cuda")  # devices whose Adam updates all parameters in one pass
TIMED_STEPS = (4, 10)  # run in, then measured, to turn minutes into steps

# Streams of one seed, so that no two uses of it see the same numbers.
_BATCH, _POOL, _EPOCH, _BIRTH, _NOISE, _STAINS = range(6)
_HELD_OUT = 2**32 - 1  # in place of a step, for the noise of held-out patches


Initialise = Callable[[Autoencoder, Tensor, int], None]


class Patches(Protocol):
    """Where patches come from; `flawmap.sampling.PatchSource` is one."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(count,) numbers of patches, drawn uniformly from all places where a patch fits."""

    def cut(self, drawn: NDArray[np.int64]) -> NDArray[np.float32]:
        """(count, C, P, P) in [0, 1]: the patches with these numbers."""


@dataclass(frozen=True)
class Row:
    """One line of the history. loss: mean since the row before. rate: Adam's. seconds: of training so far."""

    step: int
    loss: float
    validation: float | None
    rate: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """What an observer is told after every row."""

    row: Row
    steps: int
    patches_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """The end of a training. flat_loss: of a reconstruction that is flat, for comparison."""

    network: Autoencoder
    history: tuple[Row, ...]
    steps: int
    seconds: float
    patches_per_second: float
    constant_loss: float


@dataclass
class _Run:
    """What changes while training goes on."""

    network: Autoencoder
    optimizer: torch.optim.Optimizer
    steps: int
    constant_loss: float
    step: int = 0
    seconds: float = 0.0
    history: list[Row] = field(default_factory=list)


@kept_memory()
def fit(
    config: Config,
    source: Patches,
    validation: NDArray[np.float32] | None = None,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    data_digest: str = "",
    observe: Callable[[Progress], None] = lambda progress: None,
    birth: Initialise = initialise,
) -> Trained:
    """Train a network on patches of good images.

    Args:
        source: where patches come from.
        validation: (N, C, P, P) held-out good patches whose loss goes into the history.
        checkpoint: a file to save the state to every `checkpoint_minutes`, and to continue from with `resume`.
        data_digest: names the training data; a checkpoint of other data is refused.
        observe: called after every row of the history.
        birth: sets the network's weights from a few patches and the seed.
    Raises:
        TrainingError: the loss turned NaN, or never left the plateau.
        ConfigError: resume from a checkpoint of other settings or other data.
    """
    device = choose_device(config.training.device)
    step_once = _Stepper(config, source, device)
    saved = load_checkpoint(checkpoint, config, data_digest) if resume and checkpoint is not None else None
    run = _begin(config, source, step_once, saved, birth)
    held_out = None if validation is None or not len(validation) else torch.from_numpy(validation)
    last_saved = time.monotonic()
    while run.step < run.steps:
        started = time.monotonic()
        losses, rate = [], 0.0
        for _ in range(min(ROW_STEPS - run.step % ROW_STEPS, run.steps - run.step)):
            rate = learning_rate(run.step, run.steps, config.training)
            losses.append(step_once(run.network, run.optimizer, run.step, rate))
            run.step += 1
        loss = float(torch.stack(losses).mean())
        seconds = time.monotonic() - started
        run.seconds += seconds
        due = run.step % (ROW_STEPS * VALIDATION_ROWS) == 0 or run.step == run.steps
        held_out_loss = step_once.evaluate(run.network, held_out) if held_out is not None and due else None
        run.history.append(Row(run.step, loss, held_out_loss, rate, run.seconds))
        _check_loss(run, config.training, _advice(config.loss))
        observe(_progress(run, config.training.batch, seconds / len(losses)))
        if checkpoint is not None and time.monotonic() - last_saved > 60 * config.training.checkpoint_minutes:
            save_checkpoint(_frozen(run, config, data_digest), checkpoint)
            last_saved = time.monotonic()
    speed = run.steps * config.training.batch / max(run.seconds, 1e-9)
    return Trained(run.network.eval(), tuple(run.history), run.steps, run.seconds, speed, run.constant_loss)


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Adam's rate at a step (from 0): linear warm-up, then constant or a cosine that ends near 0."""
    warmup = min(settings.warmup, steps // 2)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def write_history(history: tuple[Row, ...] | list[Row], path: Path) -> None:
    """The history as CSV: step, loss, validation, rate, seconds."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow({name: "" if value is None else value for name, value in asdict(row).items()})


class _Stepper:
    """One update of the parameters, for a given step; holds what stays the same from step to step."""

    def __init__(self, config: Config, source: Patches, device: torch.device) -> None:
        self.config, self.source, self.device = config, source, device
        self.precision = choose_precision(config.training.precision, device)
        self.loss = METHODS[config.loss.name].loss(config.loss)
        pool = config.training.pool
        rng = np.random.default_rng([config.training.seed, _POOL])
        self.pool = None if pool is None else source.draw(pool, rng)

    def __call__(self, network: Autoencoder, optimizer: torch.optim.Optimizer, step: int, rate: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = self.batch(step)
        patches = self._on_device(batch)
        shown = self._on_device(self._spoilt(batch, step)) if self.config.training.corrupt else patches
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(network, patches, shown, step)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def batch(self, step: int) -> Tensor:
        """The patches of a step (from 0): fresh ones, or the next of a fixed pool shuffled anew for every epoch."""
        settings = self.config.training
        rng = np.random.default_rng([settings.seed, _BATCH, step])
        if self.pool is None:
            drawn = self.source.draw(settings.batch, rng)
        else:
            places = [self._place(step * settings.batch + offset) for offset in range(settings.batch)]
            drawn = self.pool[places]
        patches = augment(self.source.cut(drawn), settings.augment, rng)
        return torch.from_numpy(np.ascontiguousarray(patches))

    def _place(self, index: int) -> int:
        """Place in the pool of the index-th patch since the start."""
        assert self.pool is not None
        epoch, offset = divmod(index, len(self.pool))
        if getattr(self, "_order_epoch", None) != epoch:
            rng = np.random.default_rng([self.config.training.seed, _EPOCH, epoch])
            self._order, self._order_epoch = rng.permutation(len(self.pool)), epoch
        return int(self._order[offset])

    def evaluate(self, network: Autoencoder, patches: Tensor) -> float:
        """Mean loss of patches, without training on them."""
        total = 0.0
        network.eval()
        with torch.no_grad():
            for part in torch.split(patches, self.config.training.batch):
                placed = self._on_device(part)
                total += len(part) * float(self._loss(network, placed, placed, _HELD_OUT))
        network.train()
        return total / len(patches)

    def constant_loss(self, patches: Tensor) -> float:
        """Loss of the best reconstruction that has no structure: every patch's mean."""
        flat = patches.mean(dim=(2, 3), keepdim=True).expand_as(patches)
        return float(self.loss(self._on_device(patches), self._on_device(flat)))

    def _loss(self, network: Autoencoder, patches: Tensor, shown: Tensor, step: int) -> Tensor:
        """Of the reconstructions of what the network is shown, compared with the clean patches."""
        generator = self._generator(_NOISE, step, self.device)
        with autocast(self.device, self.precision):
            reconstructions, kl = network.draw(shown, generator)
            loss = self.loss(patches, reconstructions)
        return loss if kl is None else loss + self.config.loss.kl_weight * kl

    def _spoilt(self, patches: Tensor, step: int) -> Tensor:
        return corrupted(patches, self.config.training.corrupt, self._generator(_STAINS, step, torch.device("cpu")))

    def _generator(self, stream: int, step: int, device: torch.device) -> torch.Generator:
        seed = np.random.SeedSequence([self.config.training.seed, stream, step]).generate_state(1, np.uint64)[0]
        return torch.Generator(device=device).manual_seed(int(seed))

    def _on_device(self, patches: Tensor) -> Tensor:
        return patches.to(self.device, memory_format=torch.channels_last, non_blocking=self.device.type == "cuda")


def _begin(config: Config, source: Patches, step_once: _Stepper, saved: Checkpoint | None, birth: Initialise) -> _Run:
    """A run at step 0, or where the checkpoint left it."""
    settings = config.training
    network = build_network(config)
    rng = np.random.default_rng([settings.seed, _BIRTH])
    patches = torch.from_numpy(source.cut(source.draw(INIT_PATCHES, rng)))
    wanted = (config.model.channels or 1, config.model.patch, config.model.patch)
    if patches.shape[1:] != wanted:
        raise ConfigError(
            f"patches must be {shape_text((INIT_PATCHES, *wanted))} for these settings, "
            f"got {shape_text(tuple(patches.shape))}; set channels and patch of [model] to those of the images"
        )
    birth(network, patches, settings.seed)
    placed = network.to(step_once.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        placed.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=step_once.device.type in FUSED,
    )
    flat = step_once.constant_loss(patches)
    if saved is None:
        return _Run(placed, optimizer, _count_steps(settings, step_once, placed), flat)
    saved.restore(placed, optimizer)
    log.info("resuming at step %d of %d", saved.step, saved.steps)
    history = [Row(**row) for row in saved.history]
    return _Run(placed, optimizer, saved.steps, flat, saved.step, saved.seconds, history)


def _count_steps(settings: TrainingSettings, step_once: _Stepper, network: Autoencoder) -> int:
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
        float(step_once(trial, optimizer, step, 1e-6))  # float() waits for the device
        durations.append(time.monotonic() - started)
    seconds = statistics.median(durations[warm:])
    steps = max(1, round(60 * settings.minutes / seconds))
    log.info("%.1f ms a step: %g minutes are %d steps", 1e3 * seconds, settings.minutes, steps)
    return steps


def _check_loss(run: _Run, settings: TrainingSettings, advice: str = "") -> None:
    """Stop a training that cannot come to anything. advice: what else to try."""
    row = run.history[-1]
    if not math.isfinite(row.loss):
        raise TrainingError(
            f"the loss turned {row.loss} before step {row.step}; lower the learning rate "
            f"(--learning-rate {settings.learning_rate / 3:.0e}) or train in float32 (--precision float32)"
        )
    if row.loss > DIVERGED * max(run.constant_loss, run.history[0].loss):
        raise TrainingError(
            f"the loss rose to {row.loss:.3g} before step {row.step}, that of a flat reconstruction is "
            f"{run.constant_loss:.4g}: the training diverges; lower the learning rate "
            f"(--learning-rate {settings.learning_rate / 3:.0e})"
        )
    stuck = settings.plateau_steps and run.step >= settings.plateau_steps and row.loss > PLATEAU * run.constant_loss
    if stuck and all(earlier.loss > PLATEAU * run.constant_loss for earlier in run.history):
        raise TrainingError(
            f"after {row.step} steps the loss, {row.loss:.4f}, is still that of a flat reconstruction, "
            f"{run.constant_loss:.4f}: nothing is learnt; {advice}check that the images show a texture at this scale "
            "(--scale), try another seed (--seed) or rate (--learning-rate), or go on all the same (plateau_steps = 0 "
            "under [training] of --config)"
        )


def _advice(loss: LossSettings) -> str:
    """What a loss may have that keeps a network from learning, for the error that says that it has not learnt."""
    if loss.name != "vae" or loss.kl_weight == 0:
        return ""
    return f"lower the divergence's weight, {loss.kl_weight:g} (divergence under [loss] of --config), or "


def _progress(run: _Run, batch: int, seconds_per_step: float) -> Progress:
    left = (run.steps - run.step) * seconds_per_step
    return Progress(run.history[-1], run.steps, batch / max(seconds_per_step, 1e-9), left)


def _frozen(run: _Run, config: Config, data_digest: str) -> Checkpoint:
    return Checkpoint.of(
        run.network,
        run.optimizer,
        config=config,
        data_digest=data_digest,
        step=run.step,
        steps=run.steps,
        seconds=run.seconds,
        history=[asdict(row) for row in run.history],
    )

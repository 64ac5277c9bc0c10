"""Which trainings an experiment of the paper needs: data sets, methods, seeds, settings. No torch.

Every training is one row with a name of its own; experiments share rows, so that nothing is trained twice.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import FeatureName, Preset
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset as settings_of
from paper.literature import AS_IT_IS, BASE, COLLAPSING, EVIDENCE, LITERATURE, SYSTEMS, System, key_of, systems_for
from paper.sets import FABRICS, SETS, DataSet, chosen_sets

Experiment = Literal[
    "figure1", "figure2", "figure3", "figure5", "figure6", "figure7", "table2", "ours", "timing", "literature"
]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)
OWN = tuple(name for name in EXPERIMENTS if name != LITERATURE)  # those of the paper's own methods
ALL = "all"
"""Every experiment of the paper's own methods."""
METHODS = {"l2": "l2", "vae": "VAE", "fm": "FM", "ssim": "SSIM"}
"""Names for readers by key, in the paper's order."""


class Axis(NamedTuple):
    """A column of table 2, which varies one setting around the optimum.

    key: in the names of its trainings. symbol: as the paper writes it. name: in words. values: all of the column.
    """

    key: str
    symbol: str
    name: str
    optimum: int
    values: tuple[int, ...]


TABLE_2 = (
    Axis("latent", "d", "latent dimension d", 500, (50, 100, 200, 500, 1000)),
    Axis("window", "K", "side K of the SSIM window", 11, (3, 7, 11, 15, 19)),
    Axis("patch", "patch", "side of the patches", 128, (32, 64, 128)),
)
OPTIMUM = tuple(axis.optimum for axis in TABLE_2)  # latent dimensions, side of the SSIM window, side of a patch, pixels
# Parameter updates with the preset fast, so that a busy or a slower machine gives the same networks: on one core they
# are about 30 minutes on NanoTWICE, 10 on another set, 6 for a cell of table 2, 10 for figure 3's network.
LONG_STEPS = {"nanotwice": 6200}
SET_STEPS, CELL_STEPS, BOARDS_STEPS = 2000, 1200, 2000
OURS_STEPS = 6200  # our own recipe is trained as long on every set
STEPS_A_MINUTE = 210  # about, on one core; for the plan's total
MATCHING = {"alexnet": 1.0, "squeezenet": 1e-8}
"""The weight of feature matching by its network: the paper's 1 for AlexNet. The activations of the SqueezeNet at hand
are larger by orders of magnitude: on good patches 1e-8 makes its term about as large as that of the pixels."""
OURS: dict[str, Any] = {"training": {"corrupt": 0.7}}
"""What our own recipe adds to the training; `scorings` says how it is scored."""


@dataclass(frozen=True)
class RunSpec:
    """One training of the plan. name: unique. changes: laid over the data set's own."""

    name: str
    dataset: DataSet
    method: str
    seed: int
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def cell(self) -> bool:
        """Whether it is a cell of table 2, trained for a shorter time."""
        return series_of(self.name) == "table2"

    @property
    def system(self) -> System | None:
        """The system of the literature that is trained; None: a training of the paper's own methods."""
        return SYSTEMS[key_of(self.name, self.dataset.key)] if series_of(self.name) == LITERATURE else None


def series_of(name: str) -> str:
    """What a training of this name belongs to: "table2", "ours", "literature", or "figures" for the four methods as
    they are."""
    before, _, _ = name.partition("-")
    return before if before in ("table2", "ours", LITERATURE) else "figures"


@dataclass(frozen=True)
class Budget:
    """How long each training goes on; at most one is given, none: the preset's usual."""

    minutes: float | None = None
    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if len(self.changes) > 1:
            raise ConfigError(f"a budget is given in one way, got {' and '.join(self.changes)}; keep one of them")

    @property
    def changes(self) -> dict[str, float]:
        """The training's settings that it sets."""
        given = {"minutes": self.minutes, "steps": self.steps, "epochs": self.epochs}
        return {name: value for name, value in given.items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{value:g} {name}" for name, value in self.changes.items()) or "the preset's own"


def trainings(
    what: str,
    *,
    sets: Sequence[DataSet] = SETS,
    methods: Sequence[str] = (),
    seeds: int = 3,
) -> tuple[RunSpec, ...]:
    """The trainings of an experiment, or of `all` of them, each once, in the order in which they are best done.

    Args:
        sets, methods: only these are used; no methods: all.
        seeds: how many, for SSIM on NanoTWICE in figures 6 and 7; everything else has seed 0.
    Raises:
        ConfigError: an unknown experiment or method, or fewer than one seed.
    """
    if what not in (*EXPERIMENTS, ALL):
        raise ConfigError(f"there is no experiment {what!r}; the experiments are {', '.join(EXPERIMENTS)} and {ALL}")
    known = dict.fromkeys(system.method for system in SYSTEMS.values()) if what == LITERATURE else METHODS
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ConfigError(f"there is no method {unknown[0]!r}; the methods are {', '.join(known)}")
    if seeds < 1:
        raise ConfigError(f"seeds counts how often SSIM is trained and must be at least 1, got {seeds}")
    wanted: dict[str, RunSpec] = {}
    for experiment in OWN if what == ALL else (what,):
        for dataset in sets:
            for training in _rows(experiment, dataset, seeds):
                if not methods or training.method in methods:
                    wanted.setdefault(training.name, training)
    order = [dataset.key for dataset in sets]
    return tuple(sorted(wanted.values(), key=lambda one: (one.cell, order.index(one.dataset.key), one.seed)))


def scorings(training: RunSpec) -> dict[str, dict[str, Any]]:
    """Ways to score one training: what is laid over its settings.

    "faithful": as the paper scores. "smoothed": our own for the set, where there is one. A cell of table 2 keeps its
    own window. A system of the literature is scored by its residual as it is, and by evidence, which also decides.
    """
    system = training.system
    if system is not None:
        ways = {"faithful": AS_IT_IS} | ({EVIDENCE: {}} if system.evidence else {}) | dict(system.scorings)
        return {name: dict(changes) for name, changes in ways.items()}
    own = {name: value for name, value in training.dataset.residual.items() if not (training.cell and name == "ssim")}
    return {"faithful": {}} | ({"smoothed": {"residual": own}} if own else {})


def usual_budget(training: RunSpec, preset: Preset) -> Budget:
    """How long a training goes on by default: the paper's 200 epochs, or steps with the preset fast."""
    if preset == "paper":
        return Budget(epochs=200)
    if series_of(training.name) == "ours":
        return Budget(steps=OURS_STEPS)
    if training.system is not None:
        return Budget(steps=training.system.steps)
    return Budget(steps=CELL_STEPS if training.cell else LONG_STEPS.get(training.dataset.key, SET_STEPS))


def config_of(
    training: RunSpec, preset: Preset, budget: Budget | None = None, settings: Mapping[str, Any] | None = None
) -> Config:
    """The whole settings of a training.

    Args:
        budget: None or an empty one: the usual. settings: laid over everything, nested like a configuration file.
    Raises:
        ConfigError: settings that contradict each other.
    """
    given = budget if budget is not None and budget.changes else usual_budget(training, preset)
    config = settings_of(preset, training.method)
    own = {"training": {"seed": training.seed, **given.changes}}
    system = {} if training.system is None else BASE
    for changes in (training.dataset.changes_for(config.method), system, training.changes, own, settings or {}):
        config = override(config, dict(changes))
    return config


def pictured(training: RunSpec) -> bool:
    """Whether figure 1 or 5 shows images of its model, so that the model is kept."""
    return series_of(training.name) == "figures" and training.seed == 0 and training.method in ("l2", "ssim")


@dataclass(frozen=True, kw_only=True)
class ExperimentRequest:
    """What a user asks for.

    what: an experiment or `all`. sets, methods: keys; none: all of them. seeds: of SSIM on NanoTWICE. features: a file
    of weights for feature matching. jobs: trainings at once, each in a process with an equal part of the threads.
    table: the data sets there are. settings: laid over every training's own.
    """

    what: str
    preset: Preset = "fast"
    budget: Budget = field(default_factory=Budget)
    sets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: int = 3
    features: Path | None = None
    feature_network: FeatureName | None = None
    runtime: Runtime = field(default_factory=Runtime)
    jobs: int = 1
    keep_models: bool = False
    table: tuple[DataSet, ...] = SETS
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError(f"jobs counts the trainings at once and must be at least 1, got {self.jobs}")

    @property
    def experiments(self) -> tuple[str, ...]:
        return OWN if self.what == ALL else (self.what,)

    def trainings(self) -> tuple[RunSpec, ...]:
        """Raises ConfigError over an unknown experiment, set or method."""
        sets = chosen_sets(self.sets, self.table)
        return trainings(self.what, sets=sets, methods=self.methods, seeds=self.seeds)

    def command(self) -> str:
        """What a user types to get the same, without the folders and files of this machine."""
        words = ["flawmap", "reproduce", self.what, "--data", "DATA", "-o", "OUT", "--preset", self.preset]
        options = {name: f"{value:g}" for name, value in self.budget.changes.items()} | {
            "sets": ",".join(self.sets),
            "methods": ",".join(self.methods),
            "seeds": str(self.seeds),
            "features": self.features.name if self.features else "",
            "feature-network": self.feature_network or "",
        }
        words += [word for name, value in options.items() if value for word in (f"--{name}", value)]
        return shlex.join(words)


# ---------------------------------------------------------------------------------------------------- rows of the plan


def _rows(experiment: str, dataset: DataSet, seeds: int) -> list[RunSpec]:
    """The trainings of one experiment on one set. Figures 2 and 3 make their own images, timing needs no training."""
    nanotwice = dataset.key == "nanotwice"
    repeats = seeds if nanotwice else 1
    if (experiment == "figure1" and nanotwice) or (experiment == "figure5" and dataset.key in FABRICS):
        return [_run(dataset, method) for method in ("l2", "ssim")]
    if experiment == "figure6" or (experiment == "figure7" and nanotwice):
        first = [_run(dataset, method) for method in METHODS]
        return first + [_run(dataset, "ssim", seed) for seed in range(1, repeats)]
    if experiment == "table2" and nanotwice:
        return [RunSpec(name, dataset, "ssim", 0, _cell_changes(*cell)) for name, cell in _cells().items()]
    if experiment == "ours":
        names = {seed: f"ours-{dataset.key}-seed{seed}" for seed in range(repeats)}
        return [RunSpec(name, dataset, "ssim", seed, OURS) for seed, name in names.items()]
    if experiment == LITERATURE:
        return [
            RunSpec(f"{LITERATURE}-{dataset.key}-{key}-seed0", dataset, system.method, 0, system.changes)
            for key, system in systems_for(dataset.key).items()
        ]
    return []


def _run(dataset: DataSet, method: str, seed: int = 0) -> RunSpec:
    changes = COLLAPSING if method == "vae" and dataset.key in FABRICS else {}
    return RunSpec(f"{dataset.key}-{method}-seed{seed}", dataset, method, seed, changes)


def _cells() -> dict[str, tuple[int, ...]]:
    """The cells of table 2 by name: one setting at a time around the optimum, which the three columns share."""
    cells = {"table2-optimum": OPTIMUM}
    for place, axis in enumerate(TABLE_2):
        for value in axis.values:
            if value != axis.optimum:
                cells[f"table2-{axis.key}{value}"] = (*OPTIMUM[:place], value, *OPTIMUM[place + 1 :])
    return cells


def _cell_changes(latent: int, window: int, patch: int) -> dict[str, Any]:
    """A cell's settings: one window, uniform (a Gaussian hardly feels its side), in loss and residual.

    The stride stays about a quarter of the patch, so that patches of every side overlap alike.
    """
    ssim = {"ssim": {"window": "uniform", "size": window}}
    return {
        "model": {"patch": patch},
        "method": {"latent": latent, **ssim},
        "residual": ssim,
        "tiling": {"stride": min(30, patch // 4)},
    }

"""`flawmap reproduce`: an experiment of the paper from its trainings to its page. It goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flawmap.commands.train import MODEL_BYTES
from flawmap.core.errors import ConfigError, FlawmapError, InputError
from flawmap.core.events import SILENT, Events, named
from flawmap.core.files import enough_space, writable_folder
from flawmap.core.settings import FeatureName, Preset
from flawmap.reporting.logs import write_json
from paper import examples, figure2, figure3, figures, page, statements, timing
from paper.claims import Claim
from paper.plan import (
    ALL,
    BOARDS_STEPS,
    EXPERIMENTS,
    FABRICS,
    METHODS,
    SETS,
    STEPS_A_MINUTE,
    Budget,
    DataSet,
    Training,
    chosen_sets,
    pictured,
    trainings,
    usual_budget,
)
from paper.runs import Record, RunContext, perform, read_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExperimentRequest:
    """What is asked for.

    what: an experiment or `all`. sets, methods: keys; none: all of them. seeds: of SSIM on NanoTWICE. jobs: trainings
    at once, each in a process with its share of the threads. table: the data sets there are. settings: laid over every
    training's own.
    """

    what: str
    preset: Preset = "fast"
    budget: Budget = field(default_factory=Budget)
    sets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: int = 3
    features: Path | None = None
    feature_network: FeatureName | None = None
    device: str = "auto"
    precision: str = "auto"
    jobs: int = 1
    keep_models: bool = False
    table: tuple[DataSet, ...] = SETS
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError(f"jobs counts the trainings at once and must be at least 1, got {self.jobs}")

    @property
    def experiments(self) -> tuple[str, ...]:
        return EXPERIMENTS if self.what == ALL else (self.what,)

    def trainings(self) -> tuple[Training, ...]:
        """Raises ConfigError over an experiment, set or method that is not there."""
        sets = chosen_sets(self.sets, self.table)
        return trainings(self.what, sets=sets, methods=self.methods or METHODS, seeds=self.seeds)

    def command(self) -> str:
        """What a user types to get the same; folders and files are nobody's business."""
        words = ["flawmap", "reproduce", self.what, "--data", "DATA", "-o", "OUT", "--preset", self.preset]
        words += [word for name, value in self.budget.changes.items() for word in (f"--{name}", f"{value:g}")]
        words += ["--sets", ",".join(self.sets)] if self.sets else []
        words += ["--methods", ",".join(self.methods)] if self.methods else []
        words += ["--seeds", str(self.seeds)]
        words += ["--features", self.features.name] if self.features is not None else []
        words += ["--feature-network", self.feature_network] if self.feature_network is not None else []
        return shlex.join(words)

    def recipe(self, data: Path, out: Path) -> RunContext:
        given = {"weights": self.features, "network": self.feature_network}
        return RunContext(
            data,
            out,
            self.preset,
            self.budget,
            self.settings,
            {name: value for name, value in given.items() if value is not None},
            self.device,
            self.precision,
            self.command(),
        )


class Outcome(NamedTuple):
    """One training of the plan: its record, or why there is none."""

    training: Training
    record: Record | None
    error: str | None = None


def reproduce(
    request: ExperimentRequest,
    data: Path,
    out: Path,
    *,
    listing: bool = False,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Print the plan, do what is missing of it, and draw what the records hold: OUT/index.html.

    A training that fails is reported, and the others go on. Data sets that are not there are left out, and said so.

    Args:
        data: the folder of the data sets' folders. out: for records, models, pictures and the page.
        listing: print the plan and stop.
        events: told of every training by its name, and of every image scored.
    Returns:
        "plan", "failed": [{"name", "error"}]; and unless it was a listing "trainings": ours beside the paper's (see
        `paper.comparison`), "claims", "pictures", "timing", "page".
    Raises:
        ConfigError, InputError: before anything is trained: no such experiment, set or method, or no data at all.
    """
    recipe, rows = request.recipe(data, out), request.trainings()
    planned = [plan_row(row, recipe) for row in rows]
    lines = plan_lines(planned, request)
    for line in lines[:1] if listing else lines:
        events.message(line)
    if listing:
        return {"what": request.what, "plan": planned, "failed": []}
    present = [row for row in rows if recipe.folder(row).is_dir() or recipe.record(row).exists()]
    if rows and not present:
        names = ", ".join(dict.fromkeys(row.dataset.folder for row in rows))
        raise InputError(
            f"{data} holds none of the data sets' folders, which are {names}; name their folder with --data"
        )
    enough_space(out, MODEL_BYTES)
    writable_folder(out)
    failed: list[dict[str, str]] = []
    for outcome in perform_all(present, recipe, request.jobs, events):
        if outcome.error is not None:
            events.message(f"{outcome.training.name} failed: {outcome.error}")
            failed.append({"name": outcome.training.name, "error": outcome.error})
        elif not request.keep_models and not pictured(outcome.training):
            recipe.model(outcome.training).unlink(missing_ok=True)
    records = all_records(out)
    claims = [*statements.claims(records)] if records else []
    for name, work in _works(request, recipe, records, events):
        error = _failure(lambda work=work: claims.extend(work()))  # type: ignore[misc]
        if error is not None:
            events.message(f"{name} failed: {error}")
            failed.append({"name": name, "error": error})
    return {
        "what": request.what,
        "plan": [plan_row(row, recipe) for row in rows],
        "failed": failed,
        "trainings": statements.comparison(records),
        "claims": [claim._asdict() for claim in claims],
        **_published(out, records, claims, [row.name for row in rows]),
    }


# ---------------------------------------------------------------------------------------------------------- the plan


def plan_row(training: Training, recipe: RunContext) -> dict[str, Any]:
    """A training of the plan as JSON's types; "state": done, begun, to do, or no data. Raises ConfigError."""
    config = recipe.config(training)
    model = recipe.model(training)
    begun = model.exists() or model.with_suffix(".checkpoint").exists()
    state = "begun" if begun else "to do" if recipe.folder(training).is_dir() else "no data"
    budget = recipe.budget if recipe.budget.changes else usual_budget(training, recipe.preset)
    return {
        "name": training.name,
        "set": training.dataset.key,
        "title": training.dataset.title,
        "method": training.method,
        "seed": training.seed,
        "latent": config.method.model_dump()["latent"],
        "budget": budget.changes,
        "state": "done" if recipe.record(training).exists() else state,
    }


def plan_lines(planned: Sequence[Mapping[str, Any]], request: ExperimentRequest) -> list[str]:
    """The plan in words, its total first."""
    missing = [row for row in planned if row["state"] in ("to do", "begun")]
    budgets = [row["budget"] for row in missing] + _boards_budget(request)
    minutes = sum(budget.get("minutes", 0) for budget in budgets)
    steps = sum(budget.get("steps", 0) for budget in budgets)
    epochs = sorted({f"{budget['epochs']:g}" for budget in budgets if "epochs" in budget})
    total = f"{request.what}: {len(planned)} trainings, {len(missing)} of them to do"
    total += f"; {minutes:g} minutes of training" if minutes else ""
    total += f"; {steps:,g} steps, about {steps / STEPS_A_MINUTE / 60:.1f} hours on one core of a CPU" if steps else ""
    total += f"; each {' or '.join(epochs)} epochs" if epochs else ""
    return [total] + [
        f"  {row['state']:8}{row['name']:28}{row['title']}, {row['method']}, {_budget_text(row['budget'])}"
        for row in planned
    ]


def _boards_budget(request: ExperimentRequest) -> list[dict[str, float]]:
    """What figure 3's network takes, if it is asked for; it has no pool, so epochs do not reach it."""
    if "figure3" not in request.experiments:
        return []
    own = request.budget.changes if request.budget.epochs is None else {}
    return [own or {"steps": BOARDS_STEPS}]


def _budget_text(budget: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} {name}" for name, value in budget.items())


# ---------------------------------------------------------------------------------------------------------- the work


def perform_all(
    rows: Sequence[Training],
    recipe: RunContext,
    jobs: int,
    events: Events = SILENT,
) -> Iterator[Outcome]:
    """The trainings one after another, or several at once in processes of their own; each outcome as it comes."""
    if jobs == 1 or len(rows) < 2:
        for number, row in enumerate(rows, start=1):
            if not recipe.record(row).exists():
                events.message(f"{number} of {len(rows)}: {row.name}")
            yield _outcome(row, lambda row=row: perform(row, recipe, events=events))  # type: ignore[misc]
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and hang
    with ProcessPoolExecutor(jobs, context, _share, (threads,)) as pool:
        running = {pool.submit(perform, row, recipe): row for row in rows}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                events.message(f"{number} of {len(rows)}: {running[future].name}")
                yield _outcome(running[future], future.result)
        finally:
            pool.shutdown(cancel_futures=True)


def all_records(out: Path) -> list[Record]:
    """Every training's record in the folder, in the plan's order, unknown names last; damaged ones are left out."""
    found = []
    for path in sorted((out / "records").glob("*.json")):
        try:
            record = read_record(path)
        except InputError as error:
            log.warning("%s", error)
            continue
        if "scorings" in record:
            found.append(record)
    order = {row.name: place for place, row in enumerate(trainings(ALL))}
    return sorted(found, key=lambda record: order.get(record["name"], len(order)))


def _share(threads: int) -> None:
    torch.set_num_threads(threads)


def _outcome(row: Training, work: Callable[[], Record]) -> Outcome:
    records: list[Record] = []
    error = _failure(lambda: records.append(work()))
    return Outcome(row, records[0] if records else None, error)


def _failure(work: Callable[[], object]) -> str | None:
    """Do it; why it failed, if it did. Whatever it was, the rest of the plan must not be lost."""
    try:
        work()
    except FlawmapError as error:
        return str(error)
    except Exception as error:
        log.exception("unexpected")
        return f"{type(error).__name__}: {error}"
    return None


# ------------------------------------------------------------------------------------------------- what is not a run


def _works(
    request: ExperimentRequest, recipe: RunContext, records: Sequence[Record], events: Events
) -> list[tuple[str, Callable[[], Sequence[Claim]]]]:
    """What is drawn and timed once the trainings are done, by name; each gives the claims that it settles."""
    out = recipe.out
    picture = partial(_picture, out)
    known: dict[str, Callable[[], Sequence[Claim]]] = {
        "figure2": lambda: _figure2(picture("figure2")),
        "figure3": lambda: _figure3(request, out, named(events, "figure3")),
        "figure6": lambda: _draw(records, lambda: figures.roc(records, picture("figure6"))),
        "figure7": lambda: _draw(records, lambda: figures.overlap(records, picture("figure7"))),
        "table2": lambda: _draw(records, lambda: figures.table2(records, picture("table2"), statements.PAPER)),
        "timing": lambda: _timing(request, out),
    }
    works = [(name, known[name]) for name in request.experiments if name in known]
    for dataset in chosen_sets(request.sets, request.table):
        name = "figure1" if dataset.key == "nanotwice" else "figure5" if dataset.key in FABRICS else ""
        if name in request.experiments and recipe.data.joinpath(dataset.folder).is_dir():
            shown = "figure1" if name == "figure1" else f"figure5-{dataset.key}"
            works.append((shown, partial(_examples, dataset, recipe, records, picture(shown))))
    return works


def _picture(out: Path, name: str) -> Path:
    return writable_folder(out / "pictures") / f"{name}.png"


def _draw(records: Sequence[Record], draw: Callable[[], None]) -> Sequence[Claim]:
    if records:
        draw()
    return ()


def _examples(dataset: DataSet, recipe: RunContext, records: Sequence[Record], path: Path) -> Sequence[Claim]:
    """Images, reconstructions and residuals of the models that were kept; nothing where there are none."""
    rows = [row for row in trainings(ALL, sets=(dataset,), seeds=1) if pictured(row) and recipe.model(row).exists()]
    histograms = {record["name"]: record["scorings"]["faithful"]["histogram"] for record in records}
    if rows:
        examples.draw(
            {row.method: recipe.model(row) for row in rows},
            recipe.data / dataset.folder,
            path,
            thresholds={
                row.method: examples.threshold_at(histograms[row.name]) for row in rows if row.name in histograms
            },
            device=recipe.device,
            precision=recipe.precision,
        )
    return ()


def _figure2(path: Path) -> Sequence[Claim]:
    figure2.draw(path)
    return figure2.check(figure2.figures())


def _figure3(request: ExperimentRequest, out: Path, events: Events) -> Sequence[Claim]:
    """Train on checkerboards once; the figures are kept, the network is not."""
    place, path = out / "records" / "figure3.json", _picture(out, "figure3")
    (budget,) = _boards_budget(replace(request, what="figure3"))
    training = {**budget, "device": request.device, "precision": request.precision}
    if place.exists() and path.exists():
        kept = read_record(place)
        if kept["training"] != training:
            raise ConfigError(f"{place} was made with another budget; name another folder with -o, or remove it")
        return figure3.check(kept["figures"])
    checkpoint = writable_folder(out / "models") / "figure3.checkpoint"
    config = figure3.settings(training)
    trained = figure3.train(config, checkpoint=checkpoint, resume=checkpoint.exists(), observe=events.training)
    network = trained.network.to("cpu")
    figure3.draw(network, path, seed=0)
    figures = figure3.figures(network, seed=0)
    write_json(place, {"schema": 1, "training": training, "steps": trained.steps, "figures": figures})
    checkpoint.unlink(missing_ok=True)
    return figure3.check(figures)


def _timing(request: ExperimentRequest, out: Path) -> Sequence[Claim]:
    found = timing.measure(timing.settings(request.preset), device=request.device, precision=request.precision)
    writable_folder(out / "records")
    write_json(out / "records" / "timing.json", found)
    return ()


def _published(out: Path, records: Sequence[Record], claims: Sequence[Claim], planned: Sequence[str]) -> dict[str, Any]:
    """The page of everything in the folder, and what it shows."""
    pictures = {path.stem: path for path in sorted((out / "pictures").glob("*.png"))}
    place = out / "records" / "timing.json"
    timed = json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
    written = page.write(out, records, claims, pictures, timed, statements.PAPER, planned=planned)
    return {
        "pictures": {name: str(path) for name, path in pictures.items()},
        "timing": timed,
        "page": str(written),
    }

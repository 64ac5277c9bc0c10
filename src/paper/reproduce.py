"""`flawmap reproduce`: an experiment of the paper from its trainings to its page. It goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from flawmap.commands.train import MODEL_BYTES
from flawmap.core.errors import ConfigError, FlawmapError, InputError
from flawmap.core.events import SILENT, Events, Named
from flawmap.core.files import enough_space, writable_folder
from flawmap.reporting.logs import write_json
from paper import examples, figure2, figure3, figures, page, timing
from paper.claims import Claim, claims, comparison
from paper.literature import LITERATURE
from paper.literature_claims import literature_claims
from paper.plan import (
    ALL,
    BOARDS_STEPS,
    STEPS_A_MINUTE,
    ExperimentRequest,
    RunSpec,
    pictured,
    trainings,
    usual_budget,
)
from paper.records import FAITHFUL, SCHEMA, Record, divided, read_record
from paper.runs import RunContext, perform
from paper.sets import FABRICS, DataSet, chosen_sets
from paper.stability import stability, stability_claims

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class RunResult(NamedTuple):
    """One training of the plan: its record, or why there is none."""

    training: RunSpec
    record: Record | None
    error: str | None = None


def reproduce(
    request: ExperimentRequest, data: Path, out: Path, *, listing: bool = False, events: Events = SILENT
) -> dict[str, Any]:
    """Print the plan, do what is missing of it, and draw what the records hold: OUT/index.html.

    A training that fails is reported, and the others go on. Missing data sets are named and left out.

    Args:
        data: the folder of the data sets' folders. out: for records, models, pictures and the page.
        listing: print the plan and stop.
        events: receives the rows of every training by its name, and every image scored.
    Returns:
        "plan", "failed": [{"name", "error"}]; and unless it was a listing "trainings": ours beside the paper's (see
        `claims.comparison`), "claims", "pictures", "timing", "page".
    Raises:
        ConfigError, InputError: before anything is trained: no such experiment, set or method, or no data at all.
    """
    context, rows = RunContext(request, data, out), request.trainings()
    planned = [plan_row(row, context) for row in rows]
    lines = plan_lines(planned, request)
    for line in lines[:1] if listing else lines:
        events.message(line)
    if listing:
        return {"what": request.what, "plan": planned, "failed": []}
    present = [row for row in rows if context.folder(row).is_dir() or context.record(row).exists()]
    if rows and not present:
        names = ", ".join(dict.fromkeys(row.dataset.folder for row in rows))
        raise InputError(
            f"{data} holds none of the data sets' folders, which are {names}; name their folder with --data"
        )
    enough_space(out, MODEL_BYTES)
    writable_folder(out)
    failed: dict[str, str] = {}
    for result in perform_all(present, context, request.jobs, events):
        if result.error is not None:
            failed[result.training.name] = result.error
            events.message(f"{result.training.name} failed: {result.error}")
        elif not request.keep_models and not pictured(result.training):
            context.model(result.training).unlink(missing_ok=True)
    records = all_records(out)
    own, literature = divided(records)
    found = [*(claims(own) if own else ()), *(literature_claims(literature) if literature else ())]
    for name, draw in _drawings(context, records, events).items():
        settled, error = _attempt(draw)
        found += settled or ()
        if error is not None:
            failed[name] = error
            events.message(f"{name} failed: {error}")
    return {
        "what": request.what,
        "plan": [plan_row(row, context) for row in rows],
        "failed": [{"name": name, "error": error} for name, error in failed.items()],
        "trainings": comparison(records),
        "claims": [claim._asdict() for claim in found],
        **publish(out, records, found, [row.name for row in rows]),
    }


# ---------------------------------------------------------------------------------------------------------- the plan


def plan_row(training: RunSpec, context: RunContext) -> dict[str, Any]:
    """A training of the plan as JSON's types; "state": done, begun, to do, or no data. Raises ConfigError."""
    config = context.config(training)
    model = context.model(training)
    begun = model.exists() or model.with_suffix(".checkpoint").exists()
    state = "begun" if begun else "to do" if context.folder(training).is_dir() else "no data"
    asked = context.request
    budget = asked.budget if asked.budget.changes else usual_budget(training, asked.preset)
    return {
        "name": training.name,
        "set": training.dataset.key,
        "title": training.dataset.title,
        "method": training.method,
        "seed": training.seed,
        "latent": config.method.model_dump().get("latent"),
        "budget": budget.changes if config.method.gradual else {},
        "state": "done" if context.record(training).exists() else state,
    }


def plan_lines(planned: Sequence[Mapping[str, Any]], request: ExperimentRequest) -> list[str]:
    """The plan in words, its total first."""
    missing = [row for row in planned if row["state"] in ("to do", "begun")]
    budgets = [row["budget"] for row in missing]
    budgets += [_boards_budget(request)] if "figure3" in request.experiments else []
    minutes = sum(budget.get("minutes", 0) for budget in budgets)
    steps = sum(budget.get("steps", 0) for budget in budgets)
    epochs = sorted({f"{budget['epochs']:g}" for budget in budgets if "epochs" in budget})
    total = f"{request.what}: {len(planned)} trainings, {len(missing)} of them to do"
    total += f"; {minutes:g} minutes of training" if minutes else ""
    total += f"; {steps:,g} steps, about {steps / STEPS_A_MINUTE / 60:.1f} hours on one core of a CPU" if steps else ""
    total += f"; each {' or '.join(epochs)} epochs" if epochs else ""
    lines = [total]
    for row in planned:
        budget = ", ".join(f"{value:g} {name}" for name, value in row["budget"].items())
        lines.append(f"  {row['state']:8}{row['name']:28}{row['title']}, {row['method']}, {budget}")
    return lines


def _boards_budget(request: ExperimentRequest) -> dict[str, float]:
    """The budget of figure 3's network; it draws new boards for ever, so epochs do not apply to it."""
    own = request.budget.changes if request.budget.epochs is None else {}
    return own or {"steps": BOARDS_STEPS}


# ---------------------------------------------------------------------------------------------------------- the work


def perform_all(
    rows: Sequence[RunSpec], context: RunContext, jobs: int, events: Events = SILENT
) -> Iterator[RunResult]:
    """The trainings one after another, or several at once in processes of their own; each result when it is ready."""
    if jobs == 1 or len(rows) < 2:
        for number, row in enumerate(rows, start=1):
            if not context.record(row).exists():
                events.message(f"{number} of {len(rows)}: {row.name}")
            yield RunResult(row, *_attempt(partial(perform, row, context, events=events)))
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and hang
    # A process for each training: what one leaves in memory is not counted as the next one's.
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (threads,), max_tasks_per_child=1) as pool:
        running = {pool.submit(perform, row, context): row for row in rows}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                events.message(f"{number} of {len(rows)}: {running[future].name}")
                yield RunResult(running[future], *_attempt(future.result))
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
    order = {row.name: place for place, row in enumerate((*trainings(ALL), *trainings(LITERATURE)))}
    return sorted(found, key=lambda record: order.get(record["name"], len(order)))


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What the work gives, or why it failed. No failure may lose the rest of the plan."""
    try:
        return work(), None
    except FlawmapError as error:
        return None, str(error)
    except Exception as error:
        log.exception("unexpected")
        return None, f"{type(error).__name__}: {error}"


# ------------------------------------------------------------------------------------------------- drawings and page

Draw = Callable[[], Sequence[Claim]]
"""Draws or times something, and gives the claims that it settles."""


def _drawings(context: RunContext, records: Sequence[Record], events: Events) -> dict[str, Draw]:
    """What is drawn and timed once the trainings are done, by name."""
    request, out = context.request, context.out
    known: dict[str, Draw] = {
        "figure2": lambda: _figure2(_picture(out, "figure2")),
        "figure3": lambda: _figure3(request, out, Named(events, "figure3")),
        "timing": lambda: _timing(request, out),
        LITERATURE: lambda: stability_claims(stability(request.trainings(), context, events)),
    }
    if records:
        of_records = {"figure6": figures.roc, "figure7": figures.overlap, "table2": figures.table2}
        known |= {name: partial(_drawn, partial(draw, records), out, name) for name, draw in of_records.items()}
    found = {name: known[name] for name in request.experiments if name in known}
    for dataset in chosen_sets(request.sets, request.table):
        name = "figure1" if dataset.key == "nanotwice" else "figure5" if dataset.key in FABRICS else ""
        if name in request.experiments and context.data.joinpath(dataset.folder).is_dir():
            shown = "figure1" if name == "figure1" else f"figure5-{dataset.key}"
            draw = partial(_examples, dataset, context, records)
            found[shown] = partial(_drawn, draw, out, shown)
    return found


def _picture(out: Path, name: str) -> Path:
    return writable_folder(out / "pictures") / f"{name}.png"


def _drawn(draw: Callable[[Path], None], out: Path, name: str) -> Sequence[Claim]:
    draw(_picture(out, name))
    return ()


def _examples(dataset: DataSet, context: RunContext, records: Sequence[Record], path: Path) -> None:
    """An image, its reconstructions and residuals by the models that were kept; nothing where there are none."""
    histograms = {record["name"]: record["scorings"][FAITHFUL]["histogram"] for record in records}
    known = [row for row in trainings(ALL, sets=(dataset,), seeds=1) if pictured(row) and row.name in histograms]
    rows = [row for row in known if context.model(row).exists()]
    if rows:
        examples.draw(
            {row.method: context.model(row) for row in rows},
            context.data / dataset.folder,
            path,
            thresholds={row.method: examples.threshold_at(histograms[row.name]) for row in rows},
            runtime=context.request.runtime,
        )


def _figure2(path: Path) -> Sequence[Claim]:
    figure2.draw(path)
    return figure2.check(figure2.measure())


def _figure3(request: ExperimentRequest, out: Path, events: Events) -> Sequence[Claim]:
    """Train on checkerboards once; the values are kept, the network is not."""
    place, path = out / "records" / "figure3.json", _picture(out, "figure3")
    runtime = request.runtime
    training = {**_boards_budget(request), "device": runtime.device, "precision": runtime.precision}
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
    measured = figure3.measure(network, seed=0)
    write_json(place, {"schema": SCHEMA, "training": training, "steps": trained.steps, "figures": measured})
    checkpoint.unlink(missing_ok=True)
    return figure3.check(measured)


def _timing(request: ExperimentRequest, out: Path) -> Sequence[Claim]:
    measured = timing.measure(timing.settings(request.preset), runtime=request.runtime)
    write_json(writable_folder(out / "records") / "timing.json", measured)
    return ()


def publish(out: Path, records: Sequence[Record], found: Sequence[Claim], planned: Sequence[str]) -> dict[str, Any]:
    """Write the page of everything in the folder: its "page", "pictures" and "timing"."""
    pictures = {path.stem: path for path in sorted((out / "pictures").glob("*.png"))}
    place = out / "records" / "timing.json"
    timed = json.loads(place.read_text(encoding="utf-8")) if place.exists() else None
    publication = page.Publication(records, found, pictures, timed, planned=planned)
    return {
        "pictures": {name: str(path) for name, path in pictures.items()},
        "timing": timed,
        "page": str(page.write(out, publication)),
    }

"""How far adversarial trainings can be trusted: what a generator covers, by seed and by the moment of stopping.

The paper says that such networks drop modes, and that the end of their training has to be judged by hand.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from flawmap.core.device import describe_machine
from flawmap.core.events import SILENT, Events, Named
from flawmap.core.files import writable_folder
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import open_patches
from flawmap.data.splits import ImageRegion, split_dataset
from flawmap.evaluation.evaluate import unseen_samples
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Patches, State
from flawmap.methods.overrides import override
from flawmap.reporting.logs import write_json
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from paper.adversarial import at_moments, coverage_of
from paper.claims import ALIKE, Claim, all_of, evidence_of
from paper.literature import AS_IT_IS
from paper.plan import RunSpec
from paper.records import FAITHFUL, SCHEMA, read_record
from paper.runs import RunContext, score_all

SET, METHODS, SEEDS, MOMENTS = "nanotwice", ("anogan", "bigan"), 3, 5
SCORED = ("bigan",)  # the other one searches for minutes in each image
LESS = 0.1  # share of patches by which a generator must cover less than real patches do; the paper gives no number
MEMORY = 10**10  # bytes for the training images

Row = Mapping[str, Any]


def stability(trainings: Sequence[RunSpec], context: RunContext, events: Events = SILENT) -> list[Row]:
    """A row for each method, seed and moment of stopping: {"method", "seed", "step", "coverage", "real", "auroc"}.

    coverage, real: see `adversarial.Coverage`. auroc: of the pixels of the defective images, by the method's own
    residual; None: not scored. The rows of a training are kept once it is done, and not made again.

    Args:
        trainings: of a plan; those of the methods above on NanoTWICE are repeated with other seeds.
    """
    place = writable_folder(context.out / "records") / "stability.json"
    rows: list[Row] = read_record(place)["rows"] if place.exists() else []
    for training in trainings:
        if training.dataset.key != SET or training.method not in METHODS:
            continue
        for seed in range(SEEDS):
            if any((row["method"], row["seed"]) == (training.method, seed) for row in rows):
                continue
            config = override(context.config(training), {**AS_IT_IS, "training": {"seed": seed}})
            named = Named(events, f"{training.method}, seed {seed}")
            rows += _of_one(config, context.folder(training), place.parent, named)
            facts = {"machine": describe_machine(), "date": datetime.date.today().isoformat()}
            write_json(place, {"schema": SCHEMA, "command": context.request.command(), **facts, "rows": rows})
    return rows


def _of_one(config: Config, folder: Path, folder_of_patches: Path, events: Events) -> list[Row]:
    """The rows of one training. folder_of_patches: for images that do not fit into memory."""
    dataset = find_dataset(folder)
    config = override(config, {"model": {"channels": 1}})
    split = split_dataset(dataset.samples, config.images, config.split, config.model.patch)
    defective = [sample for sample in unseen_samples(dataset, split) if sample.label == "defective"]

    def measured(state: State) -> dict[str, Any]:
        covered = coverage_of(config, state, training, held_out)
        auroc = None
        if config.method.name in SCORED:
            detector = Detector.of(Artifact(config, state.tensors, facts=state.facts))
            auroc = score_all({FAITHFUL: detector}, defective, events)[FAITHFUL].result()["metrics"]["auroc"]
        return {"coverage": covered.generated, "real": covered.real, "auroc": auroc}

    places = [folder_of_patches / f"{part}.patches" for part in ("training", "held-out")]
    with (
        _opened(split.train, config, places[0]) as training,
        _opened(split.validation, config, places[1]) as held_out,
    ):
        fit = FitContext(on_progress=events.training)
        moments = at_moments(config, training, MOMENTS, measured, fit)
    known = {"method": config.method.name, "seed": config.training.seed}
    return [{**known, "step": step, **found} for step, found in moments.items()]


@contextmanager
def _opened(regions: Sequence[ImageRegion], config: Config, path: Path) -> Iterator[Patches]:
    with open_patches(regions, config.images, config.model.patch, budget=MEMORY, path=path) as (source, _):
        yield source


def stability_claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """What the rows say of the paper's two sentences."""
    return modes_are_dropped(rows), the_end_is_judged_by_hand(rows)


def modes_are_dropped(rows: Sequence[Row]) -> Claim:
    """Generative adversarial networks drop modes."""
    text = f"A generator covers less of the held-out good patches than real ones do, by more than {LESS:g}"
    ends = {method: [_last(rows, method, seed) for seed in _seeds(rows, method)] for method in METHODS}
    known = {method: found for method, found in ends.items() if found}
    gaps = [row["real"] - row["coverage"] for found in known.values() for row in found]
    said = []
    for method, found in known.items():
        shares = ", ".join(f"{row['coverage']:.3f}" for row in found)
        said.append(f"{method}: {shares} by seed, real patches {mean(row['real'] for row in found):.3f}")
    return Claim(text, all_of(gap > LESS for gap in gaps), evidence_of(said))


def the_end_is_judged_by_hand(rows: Sequence[Row]) -> Claim:
    """The end of an adversarial training has to be judged by hand."""
    text = f"BiGAN's pixel AUROC varies by more than {ALIKE:g} over the moments of the second half of a training"
    ranges = {}
    for seed in _seeds(rows, "bigan"):
        end = _last(rows, "bigan", seed)["step"]
        late = [row["auroc"] for row in _of(rows, "bigan", seed) if row["step"] >= end / 2]
        ranges[seed] = max(late) - min(late)
    said = [f"seed {seed}: {width:.3f}" for seed, width in ranges.items()]
    return Claim(text, all_of(width > ALIKE for width in ranges.values()), evidence_of(said))


def _seeds(rows: Sequence[Row], method: str) -> list[int]:
    return sorted({row["seed"] for row in rows if row["method"] == method})


def _of(rows: Sequence[Row], method: str, seed: int) -> list[Row]:
    return [row for row in rows if (row["method"], row["seed"]) == (method, seed)]


def _last(rows: Sequence[Row], method: str, seed: int) -> Row:
    return max(_of(rows, method, seed), key=lambda row: row["step"])

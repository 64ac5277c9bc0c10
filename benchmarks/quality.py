"""Minutes of training to a pixel AUROC on a real data set: flawmap beside a plain PyTorch script. Hours on a CPU.

    python benchmarks/quality.py DATA [--row nanotwice-ssim-seed0] [--steps 6200] [--plain-steps 2000] [--looks 5]
                                 [--threads N] [--json FILE] [--picture FILE]

A row of the plan of `flawmap reproduce` names data set, method and settings; DATA is the folder of the data sets. The
plain script is that of `step.py`: the same network initialised alike, at a constant rate. At some steps, twice as far
apart each time, the network is scored on all unseen images, as the paper scores and as the data set's own settings do.
Minutes are of training alone. The figures say what training longer would buy; they choose nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader

from flawmap.core.runtime import Runtime
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, training_images
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.splits import split_dataset
from flawmap.evaluation.evaluate import unseen_samples
from flawmap.methods.autoencoder import build_network
from flawmap.methods.config import Config
from flawmap.methods.gradient import learning_rate
from flawmap.methods.overrides import override
from flawmap.reporting.charts import COLOURS, blank_figure, dress, save_figure
from flawmap.scoring.model_file import Artifact
from measuring import Row, parsed, parser, report
from paper import plan, runs
from step import Crops, flawmap_step, initialised, plain_copy, plain_step

GOALS = (0.90, 0.95, 0.966)

Advance = Callable[[], object]
Score = Callable[[nn.Module], dict[str, float]]


def looks_of(steps: int, looks: int) -> list[int]:
    """Steps after which the network is scored, the last one among them, each twice as far as the one before."""
    return sorted({max(1, steps >> place) for place in range(looks)})


def trained(advance: Advance, steps: int, looks: int, score: Callable[[], dict[str, float]]) -> Iterator[Row]:
    """A row for each look; the clock stands while the network is scored."""
    seconds, done = 0.0, 0
    for look in looks_of(steps, looks):
        started = time.perf_counter()
        for _ in range(look - done):
            advance()
        seconds, done = seconds + time.perf_counter() - started, look
        figures = {"step": float(look), "minutes": seconds / 60} | score()
        yield Row("quality", f"step {look}", "", figures=figures)


def scoring(data: Path, row: plan.RunSpec, config: Config) -> tuple[list[TrainingImage], Score]:
    """What the row trains on, and what tells a network's AUROC on the set's unseen images for each way of scoring."""
    dataset = find_dataset(data / row.dataset.folder)
    split = split_dataset(dataset.samples, config.images, config.split, config.model.patch)
    good = list(training_images(split.train, config.images, LoadStatistics()))
    samples = unseen_samples(dataset, split)

    def score(network: nn.Module) -> dict[str, float]:
        copied = build_network(config)
        for ours, theirs in zip(copied.parameters(), network.parameters(), strict=True):
            ours.data.copy_(theirs.data)
        artifact = Artifact(config, copied.state_dict())
        areas = {"training": split.train, "held_out": split.validation}
        detectors = runs.detectors_of(artifact, plan.scorings(row), **areas, runtime=Runtime("cpu"))
        pools = runs.score_all(detectors, samples)
        return {name: float(pool.defective.result().to_dict()["auroc"]) for name, pool in pools.items()}

    return good, score


def curves(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(minutes, AUROC) at every look, by variant and way of scoring."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        for way, area in row.figures.items():
            if way not in {"step", "minutes"}:
                found.setdefault(row.variant, {}).setdefault(way, []).append((row.figures["minutes"], area))
    return found


def reached(rows: Sequence[Row]) -> Iterator[str]:
    """When each goal was first seen to be met, for each variant and way of scoring."""
    for variant, ways in curves(rows).items():
        for way, points in ways.items():
            for goal in GOALS:
                met = [minutes for minutes, area in points if area >= goal]
                yield f"{variant}, {way}, {goal}: " + (f"{met[0]:.1f} minutes" if met else "not reached")


def draw(rows: Sequence[Row], path: Path) -> None:
    """AUROC against minutes as PNG: a colour for each variant, a broken line for the set's own scoring."""
    figure = blank_figure(7.2, 4.2)
    axes = figure.subplots()
    for colour, (variant, ways) in zip(COLOURS, curves(rows).items(), strict=False):
        for style, (way, points) in zip(("-", "--"), ways.items(), strict=False):
            axes.plot(*zip(*points, strict=True), style, color=colour, marker="o", label=f"{variant}, {way}")
    for goal in GOALS:
        axes.axhline(goal, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="minutes of training", ylabel="pixel AUROC")
    axes.legend(frameon=False, loc="lower right")
    dress(axes)
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("data", type=Path, help="the folder of the data sets")
    options.add_argument("--row", default="nanotwice-ssim-seed0", help="of the plan")
    options.add_argument("--steps", type=int, default=6200)
    options.add_argument("--plain-steps", type=int, default=2000, help="of the plain script; 0: none")
    options.add_argument("--looks", type=int, default=5)
    options.add_argument("--picture", type=Path, help="PNG file to draw the curves in")
    given = parsed(options, arguments)
    row = next(row for row in plan.trainings("all") if row.name == given.row)
    config = override(
        runs.RunContext(plan.ExperimentRequest(what="all"), given.data, Path()).config(row),
        {"model": {"channels": 1}, "training": {"device": "cpu", "steps": given.steps, "epochs": None}},
    )
    good, score = scoring(given.data, row, config)
    source = PatchSource(good, config.model.patch)
    network = initialised(config, source)
    advance = flawmap_step(network, source, config, lambda step: learning_rate(step, given.steps, config.training))
    rows: list[Row] = []
    for found in trained(advance, given.steps, given.looks, lambda: score(network)):
        rows.append(_told(found, "flawmap"))
    if given.plain_steps:
        plain = plain_copy(initialised(config, source))
        crops = Crops([piece.pixels for piece in good], config.model.patch)
        once = plain_step(plain, cycle(DataLoader(crops, config.training.batch, shuffle=True)))
        for found in trained(once, given.plain_steps, given.looks, lambda: score(plain)):
            rows.append(_told(found, "plain script"))
    goals = list(reached(rows))
    report(rows, given, {"goals": goals}, row=row.name)
    if given.picture is not None:
        draw(rows, given.picture)
    print("\n".join(goals))
    return 0


def _told(row: Row, variant: str) -> Row:
    """The row with its name, told at once: the next one may be an hour away."""
    row.variant = variant
    print(variant, {name: round(value, 4) for name, value in row.figures.items()}, file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())

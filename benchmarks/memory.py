"""The most memory that training, inspecting and evaluating take on the real data sets, each command in its own process.

    python benchmarks/memory.py DATA [--steps 40] [--sets nanotwice,grid] [--json FILE]

DATA is the folder of the data sets of `flawmap reproduce`, whose settings are taken. Trainings are short, which changes
nothing about their memory. Resident, Python and PyTorch included; milliseconds are of the whole command.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flawmap.methods.overrides import override, to_toml
from measuring import Row, parsed, parser, report, watched
from paper import plan, runs
from paper.sets import SETS, DataSet, chosen_sets

MIB = 2**20


def rows_of(dataset: DataSet, data: Path, steps: int, work: Path) -> list[Row]:
    training = next(row for row in plan.trainings("all") if row.name == f"{dataset.key}-ssim-seed0")
    recipe = runs.RunContext(plan.ExperimentRequest(what="all"), data, work)
    config = override(recipe.config(training), {"training": {"steps": steps, "epochs": None}})
    settings, model, folder = work / "settings.toml", work / "model.flawmap", recipe.folder(training)
    settings.write_text(to_toml(config), encoding="utf-8")
    commands = {
        "train": ["train", str(folder), "-o", str(model), "--config", str(settings)],
        "inspect": ["inspect", str(model), str(folder), "-o", str(work / "found")],
        "evaluate": ["evaluate", str(model), str(folder), "-o", str(work / "report")],
    }
    rows = []
    for name, arguments in commands.items():
        seconds, peak = watched(*arguments, "--quiet")
        rows.append(Row("memory", dataset.key, name, 1e3 * seconds, figures={"MiB": peak / MIB}))
        print(dataset.key, name, round(peak / MIB), file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("data", type=Path, help="the folder of the data sets")
    options.add_argument("--steps", type=int, default=40, help="of each training")
    options.add_argument("--sets", default=",".join(dataset.key for dataset in SETS))
    given = parsed(options, arguments)
    rows: list[Row] = []
    for dataset in chosen_sets(given.sets.split(",")):
        with tempfile.TemporaryDirectory() as name:
            rows += rows_of(dataset, given.data, given.steps, Path(name))
    report(rows, given, steps=given.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())

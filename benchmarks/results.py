"""The real runs of docs/results.md: train, evaluate, keep the figures as JSON. `make results` goes on where it stopped.

    python benchmarks/results.py                  what is missing, in order
    python benchmarks/results.py --list           the plan, with what is done
    python benchmarks/results.py --only grid      one set
    python benchmarks/results.py --table          the Markdown tables of docs/results.md from the JSON files

Each run is a pair of the commands that a user would type. Figures go to docs/results/NAME.json, models to
runs/results/ (not committed). Settings were chosen on good images, see docs/results.md; nothing here looks at a score.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "results"
RUNS = ROOT / "runs" / "results"
DATA = Path(os.environ.get("FLAWMAP_DATA", ROOT.parent / "shared" / "data"))

GRID = "--scale 0.5 --last 60"
FABRIC_03 = "--box 1280,0,4050,256 --last 5"
FABRIC_04 = "--box 640,0,4050,256 --last 5"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation. dataset: the folder's name in the data sets'. options: of `flawmap train`."""

    name: str
    dataset: str
    options: str

    def train(self) -> list[str]:
        return ["train", str(DATA / self.dataset), "-o", str(self.model), *shlex.split(self.options)]

    def evaluate(self) -> list[str]:
        return ["evaluate", str(self.model), str(DATA / self.dataset), "-o", str(RUNS / self.name)]

    @property
    def model(self) -> Path:
        return RUNS / f"{self.name}.flawmap"

    @property
    def figures(self) -> Path:
        return FIGURES / f"{self.name}.json"


def plan() -> list[Run]:
    """In the order of their weight; the set that is for reporting only comes last."""
    nano, fast = "--preset fast --latent 500", "--preset fast"
    runs = [
        Run("nanotwice-ssim-seed0", "nanotwice", f"{nano} --loss ssim --minutes 30 --seed 0"),
        Run("nanotwice-l2-seed0", "nanotwice", f"{nano} --loss l2 --steps 3000 --seed 0"),
        *(
            Run(f"nanotwice-ssim-short-seed{seed}", "nanotwice", f"{nano} --loss ssim --steps 3000 --seed {seed}")
            for seed in (0, 1, 2)
        ),
        Run("grid-ssim-seed0", "mvtec_grid_512", f"{fast} --loss ssim --steps 2000 --seed 0 {GRID}"),
        Run("grid-l2-seed0", "mvtec_grid_512", f"{fast} --loss l2 --steps 2000 --seed 0 {GRID}"),
        Run("fabric03-ssim-seed0", "aitex_fabric03", f"{fast} --loss ssim --steps 2000 --seed 0 {FABRIC_03}"),
        Run("fabric03-l2-seed0", "aitex_fabric03", f"{fast} --loss l2 --steps 2000 --seed 0 {FABRIC_03}"),
        Run("fabric04-ssim-seed0", "aitex_fabric04", f"{fast} --loss ssim --steps 2000 --seed 0 {FABRIC_04}"),
        Run("fabric04-l2-seed0", "aitex_fabric04", f"{fast} --loss l2 --steps 2000 --seed 0 {FABRIC_04}"),
    ]
    assert len({run.name for run in runs}) == len(runs)
    return runs


def perform(run: Run) -> None:
    """Train (or go on), evaluate, time, and keep the figures."""
    from flawmap.cli import main as flawmap  # noqa: PLC0415 - `--list` and `--table` need no torch

    RUNS.mkdir(parents=True, exist_ok=True)
    FIGURES.mkdir(parents=True, exist_ok=True)
    if not run.model.exists():
        print(f"\n{run.name}: flawmap {shlex.join(run.train())}", flush=True)
        if flawmap([*run.train(), "--resume"]) != 0:
            raise SystemExit(f"{run.name}: training failed")
    if flawmap(run.evaluate()) != 0:
        raise SystemExit(f"{run.name}: evaluation failed")
    shutil.copy(run.model.with_suffix(".history.csv"), FIGURES / f"{run.name}.history.csv")
    metrics = json.loads((RUNS / run.name / "metrics.json").read_text(encoding="utf-8"))
    from flawmap.jobs import info  # noqa: PLC0415

    kept = {
        "name": run.name,
        "command": f"flawmap train {run.dataset} {run.options}",
        "date": datetime.date.today().isoformat(),
        "machine": info(run.model)["provenance"]["machine"],
        "seconds_per_image": seconds_per_image(run),
        **metrics,
    }
    part = run.figures.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    part.replace(run.figures)


def seconds_per_image(run: Run, images: int = 5) -> dict[str, Any]:
    """From file to mask, one whole image after another, the model loaded: median over some images of the set."""
    from flawmap.datasets import find_dataset  # noqa: PLC0415
    from flawmap.detector import Detector  # noqa: PLC0415

    detector = Detector.load(run.model)
    paths = [sample.path for sample in find_dataset(DATA / run.dataset).select("test", "defective")]
    detector.inspect(paths[0])
    durations = []
    for path in paths[1 : 1 + images]:
        started = time.perf_counter()
        detector.inspect(path)
        durations.append(time.perf_counter() - started)
    durations.sort()
    return {"median": round(durations[len(durations) // 2], 3), "least": round(durations[0], 3), "images": images}


def tables() -> str:
    """The figures as Markdown, a row a run."""
    lines = [
        "| run | minutes | patches | patches/s | pixel AUROC | AP | AU-PRO 30 % | image AUROC | good FPR | s/image |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in plan():
        if not run.figures.exists():
            continue
        kept = json.loads(run.figures.read_text(encoding="utf-8"))
        training, pixel, image = kept["model"]["training"], kept["pixel_defective_images"], kept["image"]
        held_out = kept["held_out"]
        cells = [
            f"[{run.name}](results/{run.name}.json)",
            f"{training['seconds'] / 60:.1f}",
            f"{training['patches']:,}",
            f"{training['patches_per_second']:.0f}",
            f"{pixel['auroc']:.4f}",
            f"{pixel['average_precision']:.3f}",
            f"{pixel['au_pro_30']:.3f}",
            f"{image['auroc']:.3f}" if image else "–",
            f"{held_out['false_positive_rate']:.1e}" if held_out else "–",
            f"{kept['seconds_per_image']['median']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--list", action="store_true", help="print the plan and stop")
    parser.add_argument("--table", action="store_true", help="print the tables from the JSON files and stop")
    parser.add_argument("--only", default="", help="runs whose name begins so")
    arguments = parser.parse_args()
    if arguments.table:
        print(tables())
        return 0
    for run in plan():
        if not run.name.startswith(arguments.only):
            continue
        if arguments.list:
            print(f"{'done' if run.figures.exists() else 'to do':6} {run.name:24} {run.options}")
        elif run.figures.exists():
            print(f"{run.name}: done, {run.figures.relative_to(ROOT)}")
        elif not (DATA / run.dataset).is_dir():
            print(f"{run.name}: skipped, no {DATA / run.dataset}; FLAWMAP_DATA names the folder of the data sets")
        else:
            perform(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The demo: cloth is woven, l2 and SSIM are trained side by side, and a page shows what each of them sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flawmap.commands.evaluate import evaluate_model
from flawmap.commands.outputs import Done
from flawmap.commands.synth import synth
from flawmap.commands.train import MODEL_BYTES, train
from flawmap.core.files import enough_space
from flawmap.core.overrides import override
from flawmap.core.presets import preset
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import Evaluation, unseen_samples
from flawmap.reporting.cases import demo_page
from flawmap.reporting.logs import write_json
from flawmap.reporting.pages import write_page
from flawmap.scoring.detector import Detector

GOOD, BAD, SIZE = 40, 20, (384, 384)  # images to train on, flawed ones, pixels
METHODS = ("l2", "ssim")


def demo(
    folder: Path,
    *,
    minutes: float,
    seed: int,
    good: int = GOOD,
    bad: int = BAD,
    size: tuple[int, int] = SIZE,
    settings: Mapping[str, Any] | None = None,
    observe: Callable[..., None] = lambda progress, name: None,
    done: Done = lambda done, total, what: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Make the cloth, train both methods for `minutes` each, evaluate them, and write `index.html`.

    Args:
        good, bad: images to train on, and flawed ones. size: (width, height), pixels.
        settings: laid over those of both methods, nested like a configuration file.
        observe: called with (progress, name=method) after every row of a method's history.
    Returns:
        {"page": ..., "methods": [{"name", "pixel_auroc", "au_pro_30", "image_auroc", "minutes"}, ...]}.
    """
    enough_space(folder, len(METHODS) * MODEL_BYTES)
    counts = synth(folder / "data", "cloth", good=good, bad=bad, size=size, seed=seed)
    say(f"wove {sum(counts.values())} images of cloth into {folder / 'data'}")
    dataset = find_dataset(folder / "data")
    results: dict[str, tuple[Detector, Evaluation, float]] = {}
    for name in METHODS:
        model = folder / f"{name}.flawmap"
        model.with_suffix(".checkpoint").unlink(missing_ok=True)
        changes = {"training": {"minutes": minutes, "seed": seed}}
        config = override(override(preset("fast", "l2" if name == "l2" else "ssim"), changes), dict(settings or {}))
        say(f"training {name} for {minutes:g} minutes")
        report = train(folder / "data", model, config, observe=partial(observe, name=name))
        evaluation = evaluate_model(model, folder / "data", folder / name, done=done)
        seconds = report.artifact.provenance["training"]["seconds"]
        results[name] = (Detector.of(report.artifact), evaluation, seconds / 60)
    split = Split.from_dict(report.artifact.provenance["data"]["split"])
    command = f"flawmap demo --minutes {minutes:g} --seed {seed}"
    page = demo_page(results, unseen_samples(dataset, split), dataset.root, command)
    write_page(page, folder / "index.html")
    summary = {
        "page": str(folder / "index.html"),
        "command": command,
        "methods": [_row(*item) for item in results.items()],
    }
    write_json(folder / "demo.json", summary)
    return summary


def _row(name: str, result: tuple[Detector, Evaluation, float]) -> dict[str, Any]:
    _, evaluation, minutes = result
    return {
        "name": name,
        "pixel_auroc": evaluation.pixel["auroc"],
        "au_pro_30": evaluation.pixel["au_pro_30"],
        "image_auroc": evaluation.image["auroc"] if evaluation.image else None,
        "minutes": minutes,
    }

"""`flawmap demo`: trains l2 and SSIM on synthetic cloth and compares them on a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flawmap.commands.evaluate import evaluate_model
from flawmap.commands.synth import synth
from flawmap.commands.train import MODEL_BYTES, train
from flawmap.core.documents import document
from flawmap.core.events import SILENT, Events, Named
from flawmap.core.files import enough_space
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import unseen_samples
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.reporting.comparison import demo_page
from flawmap.reporting.logs import write_json
from flawmap.reporting.pages import write_page
from flawmap.scoring.detector import Detector

GOOD, BAD, SIZE = 40, 20, (384, 384)  # images to train on, defective ones, pixels
METHODS = ("l2", "ssim")
ONE: dict[str, Any] = {"choice": {"candidates": ()}, "check": {"enabled": False}}  # each is trained as it is


def demo(
    folder: Path,
    *,
    minutes: float,
    seed: int,
    good: int = GOOD,
    bad: int = BAD,
    size: tuple[int, int] = SIZE,
    settings: Mapping[str, Any] | None = None,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Make the cloth, train both methods for `minutes` each, evaluate them, and write `index.html`.

    Args:
        good, bad: images to train on, and flawed ones. size: (width, height), pixels.
        settings: laid over those of both methods, nested like a configuration file.
        events: told of each method's training under the method's name.
    Returns:
        {"page": ..., "methods": [{"name", "pixel_auroc", "au_pro_30", "image_auroc", "decision", "minutes"}, ...]}.
    """
    enough_space(folder, len(METHODS) * MODEL_BYTES)
    counts = synth(folder / "data", "cloth", good=good, bad=bad, size=size, seed=seed)
    events.message(f"wrote {sum(counts.values())} images of cloth into {folder / 'data'}")
    dataset = find_dataset(folder / "data")
    detectors: dict[str, Detector] = {}
    methods: list[dict[str, Any]] = []
    for name in METHODS:
        model = folder / f"{name}.flawmap"
        model.with_suffix(".checkpoint").unlink(missing_ok=True)
        changes = {"training": {"minutes": minutes, "seed": seed}}
        config = override(override(preset("auto", name), ONE | changes), dict(settings or {}))
        events.message(f"training {name} for {minutes:g} minutes")
        report = train(folder / "data", model, config, events=Named(events, name))
        evaluation = evaluate_model(model, folder / "data", folder / name, events=events)
        detectors[name] = Detector.of(report.artifact)
        methods.append(
            {
                "name": name,
                "pixel_auroc": evaluation.pixel.values["auroc"],
                "au_pro_30": evaluation.pixel.values["au_pro_30"],
                "image_auroc": evaluation.image.values["auroc"] if evaluation.image else None,
                "decision": None if evaluation.decision is None else evaluation.decision.to_dict(),
                "minutes": report.artifact.provenance["training"]["seconds"] / 60,
            }
        )
    split = Split.from_dict(report.artifact.provenance["data"]["split"])
    command = f"flawmap demo --minutes {minutes:g} --seed {seed}"
    write_page(demo_page(detectors, methods, unseen_samples(dataset, split), command), folder / "index.html")
    summary = {"page": str(folder / "index.html"), "command": command, "methods": methods}
    write_json(folder / "demo.json", document("demo", summary))
    return summary

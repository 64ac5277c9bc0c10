"""How the settings of scoring are chosen: on good images alone, with synthetic flaws pasted into those held out.

    python benchmarks/choose.py SET [--steps 1500] [--change TOML] [--model FILE] [--against-truth] [--data DIR]
    python benchmarks/choose.py --rank FILE [FILE ...]

For a set it trains on all good images but the last tenth (NanoTWICE: but the last of the five), with the settings of
`fast` and whatever `--change` lays over them, pastes seeded flaws into the rest, and scores them by each variant of a
table from one and the same network. No defective image is read.

    python benchmarks/choose.py nanotwice --change "training.learning_rate = 1e-3"

`--model` takes a network that was trained already, provided that it has not seen the last tenth (`--last`).

`--against-truth` scores the set's defective images as well, by the same network and variants. That is no way to choose:
it tests whether pasted flaws can choose at all. `--rank` then prints Spearman's correlation of the two orders.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from flawmap.core.records import FloatMap, Mask
from flawmap.core.settings import ResidualSettings
from flawmap.data.defects import FLAWS, add_flaws
from flawmap.data.layouts import find_dataset
from flawmap.data.loading import LoadStatistics, training_images
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.data.splits import ImageRegion
from flawmap.data.truth import truth_of
from flawmap.evaluation.metrics import PixelMetrics
from flawmap.imaging.morphology import opened
from flawmap.imaging.reading import Pixels
from flawmap.imaging.resize import resized, to_size, working_size
from flawmap.imaging.roi import bounding_box
from flawmap.methods.autoencoder import train_network
from flawmap.methods.config import Config
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.methods.residuals import Decoded, residual_of
from flawmap.scoring.borders import border_corrected, border_profile
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, load_artifact, save_artifact
from flawmap.scoring.pipeline import smoothed

DATA = Path(os.environ.get("FLAWMAP_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FLAWED = 10  # images with pasted flaws
SMOOTHINGS = (0, 4, 8, 12)  # pixels of the worked image
L2_WEIGHTS = (2, 5, 10)  # of squared differences beside SSIM
BORDER_IMAGES = 8  # good images that were trained on, which the border is measured on
FIGURES = ("auroc", "average_precision", "au_pro_30")
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "nanotwice": ("nanotwice", {"method": {"latent": 500}}),
    "grid": ("mvtec_grid_512", {"images": {"scale": 0.5}}),
    "fabric03": ("aitex_fabric03", {"images": {"roi": {"box": (1280, 0, 4050, 256)}}}),
}
PROXIES: dict[str, tuple[tuple[str, ...], tuple[int, int]]] = {  # kinds, and how many of them an image gets
    "film": (("film",), (6, 11)),
    "spots": (("spot", "dot", "contamination", "clump"), (6, 11)),
    "lines": (("scratch", "crack", "cut", "stroke"), (6, 11)),
    "threads": (("missing_thread", "double_thread"), (2, 4)),
    "shading": (("dent",), (6, 11)),
    "texture": (("foreign", "rough"), (3, 6)),
    "every": (FLAWS, (6, 11)),
}

Case = tuple[FloatMap, FloatMap, Mask]
"""An image, its reconstruction, both (H, W) as worked, and the flaws' mask."""


def residuals() -> Iterator[tuple[str, ResidualSettings]]:
    """What is compared on one network, each at every smoothing, with its border as it is and corrected."""
    for window, size, constants in (
        ("uniform", 11, "wang"),
        ("uniform", 15, "wang"),
        ("uniform", 21, "wang"),
        ("gaussian", 11, "wang"),
        ("uniform", 11, "paper"),
        ("uniform", 11, (1e-5, 1e-4)),
    ):
        settings = {"name": "ssim", "ssim": {"window": window, "size": size, "constants": constants}}
        yield f"{window} {size}, {constants}", ResidualSettings.model_validate(settings)
    for window in ("uniform", "gaussian"):
        for weight in L2_WEIGHTS:
            mixed = {"name": "ssim", "ssim": {"window": window, "size": 11, "constants": "wang"}, "l2_weight": weight}
            yield f"{window} 11, wang + {weight} l2", ResidualSettings.model_validate(mixed)
    yield "l2", ResidualSettings(name="l2")


def measure(cases: list[Case], good: list[Case], settings: ResidualSettings, reach: int) -> dict[str, dict[str, float]]:
    """The figures by smoothing and border. good: images without flaws, for the border. reach: of its profile."""
    results = {}
    for smoothing in SMOOTHINGS:
        residual = partial(mapped, settings=settings, smoothing=smoothing)
        profile = border_profile(((residual(case), None) for case in good), reach)
        figures = {"": PixelMetrics(), ", border levelled": PixelMetrics()}
        for case in cases:
            found = residual(case)
            for way, one in zip(figures.values(), (found, border_corrected(found, profile)), strict=True):
                way.add(opened(to_size(one.numpy(), case[2].shape), 4), case[2])
        for name, way in figures.items():
            result = way.result().to_dict()
            results[f"{smoothing} px{name}"] = {name: round(float(result[name]), 4) for name in FIGURES}
    return results


def mapped(case: Case, settings: ResidualSettings, smoothing: float) -> Tensor:
    """The residual map (H, W) of a case, as worked."""
    image, rebuilt, _ = case
    residual = residual_of(settings)(
        torch.from_numpy(image)[None, None], Decoded(torch.from_numpy(rebuilt)[None, None])
    )
    found: Tensor = smoothed(residual[0], smoothing)
    return found


def rebuilt(detector: Detector, image: Pixels, mask: Mask) -> Case:
    """A case of a detector whose region and scale were taken off: the image is as worked already."""
    found = detector.explain(image).reconstruction
    assert found is not None  # autoencoders reconstruct
    return image[..., 0].copy(), found[..., 0].copy(), mask


def truth(detector: Detector, data: Path, config: Config) -> list[Case]:
    """The set's own defective images, cut to the region of interest and scaled, with masks of their own size."""
    cases = []
    for sample in find_dataset(data).select("test", "defective"):
        image = detector.read(sample.path).pixels
        mask = truth_of(sample, image.shape[:2])
        if mask is None:
            continue
        if config.images.roi.box is not None:
            inside = np.zeros(mask.shape, np.bool_)
            left, top, right, bottom = config.images.roi.box
            inside[top:bottom, left:right] = True
            left, top, right, bottom = bounding_box(inside)
            image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
        small = resized(image, working_size(image.shape[0], image.shape[1], config.images.scale))
        cases.append(rebuilt(detector, np.ascontiguousarray(small), mask.copy()))
    return cases


def model(name: str, config: Config, good: list[Pixels], file: Path | None) -> Artifact:
    """Trained on these good images; kept in a file, and taken from it the next time."""
    if file is not None and file.exists():
        return plain(load_artifact(file))
    trained = train_network(config, PatchSource(map(TrainingImage, good), config.model.patch))
    print(f"{name}: {trained.steps} steps, {trained.seconds:.0f} s, loss {trained.history[-1].loss:.4f}", flush=True)
    artifact = Artifact(config, trained.network.state_dict())
    if file is not None:
        save_artifact(artifact, file)
    return plain(artifact)


def plain(artifact: Artifact) -> Artifact:
    """Without region and scale, for images at the working scale already."""
    return replace(artifact, config=override(artifact.config, {"images": {"scale": 1.0, "roi": {"box": None}}}))


def rank(files: list[Path]) -> None:
    """Whether pasted flaws put variants in the order that real defects do, over the networks of all files."""
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    for proxy in PROXIES:
        for figure in FIGURES:
            keys = [(row["change"], variant) for row in rows for variant in row["truth"]]
            real = [row["truth"][variant][figure] for row in rows for variant in row["truth"]]
            pasted = [row[proxy][variant][figure] for row in rows for variant in row["truth"]]
            best = int(np.argmax(pasted))
            print(
                f"{proxy:8} {figure:18} {len(real)} variants: Spearman {spearmanr(real, pasted).statistic:.3f}; "
                f"its best, {keys[best][1]} ({keys[best][0]}), has {real[best]:.4f} of {max(real):.4f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("set", choices=SETS, nargs="?")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--change", default="", help="TOML laid over the settings, lines parted by ;")
    parser.add_argument("--model", type=Path, help="file that keeps the trained network for the next call")
    parser.add_argument("--against-truth", action="store_true", help="score the real defects too, to test the proxy")
    parser.add_argument("--json", type=Path, help="file to add the figures to, one JSON object a line")
    parser.add_argument("--rank", type=Path, nargs="+", help="print how well the proxies rank, from such files")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(arguments.rank)
        return 0
    folder, own = SETS[arguments.set]
    config: Config = override(override(preset("fast"), own), {"training": {"steps": arguments.steps}})
    config = override(config, tomllib.loads(arguments.change.replace(";", "\n")))
    good = find_dataset(arguments.data / folder).select("train", "good")
    areas = [ImageRegion(sample.path, "") for sample in good]
    images = [piece.pixels for piece in training_images(areas, config.images, LoadStatistics())]
    held = max(1, len(good) // 10)
    config = override(config, {"model": {"channels": images[0].shape[2]}})
    detector = Detector.of(model(arguments.set, config, images[:-held], arguments.model))
    kept: dict[str, Any] = {"set": arguments.set, "steps": arguments.steps, "change": arguments.change}
    clean = [rebuilt(detector, image, np.zeros(image.shape[:2], np.bool_)) for image in images[:BORDER_IMAGES]]
    reach = config.model.patch // 2
    cases = {}
    for proxy, (kinds, count) in PROXIES.items():
        flawed = [add_flaws(images[-held:][i % held], i, kinds=kinds, count=count)[:2] for i in range(FLAWED)]
        cases[proxy] = [rebuilt(detector, image, mask) for image, mask in flawed]
    if arguments.against_truth:
        cases["truth"] = truth(detector, arguments.data / folder, config)
    for what, ones in cases.items():
        kept[what] = {}
        for name, settings in residuals():
            for way, figures in measure(ones, clean, settings, reach).items():
                kept[what][f"{name}, {way}"] = figures
                values = "  ".join(f"{figure} {value:.4f}" for figure, value in figures.items())
                print(f"  {what:8} {name:28} {way:22}  {values}", flush=True)
    if arguments.json is not None:
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What each engine and precision costs in quality, on real images.

    python benchmarks/engine_quality.py MODEL DATA [--stride 64] [--json FILE]

MODEL was trained on DATA with good images held out. For each variant that this machine has: how many verdicts of the
model change on held-out good images and the same with pasted defects, how far maps differ, and pixel AUROC and AU-PRO
(30 %) over the test images, with the encoder once at the stride that is given and the method's own residual. ONNX
Runtime and OpenVINO in float32 are left out of the latter, as their maps are PyTorch's. No label decides anything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flawmap.core.runtime import Runtime
from flawmap.data.index import ImageIndex
from flawmap.data.layouts import find_dataset
from flawmap.data.samples import Dataset
from flawmap.data.splits import Split
from flawmap.evaluation.agreement import PARTS, SIDE, ranges_on, shown_parts, variants_here, with_variants
from flawmap.evaluation.evaluate import evaluate, located, unseen_samples
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact, load_artifact
from flawmap.scoring.variants import Variant, Variants
from measuring import Row, parsed, parser, report


def verdicts(artifact: Artifact, dataset: Dataset, split: Split) -> list[Row]:
    """A row for each variant that was compared with the reference."""
    started = time.perf_counter()
    good = located(dataset, split.validation)
    record = with_variants(Detector.of(artifact, Runtime("cpu")), good).artifact.variants
    assert record is not None
    seconds = time.perf_counter() - started
    case = f"{record.good} good, {record.flawed} pasted, beside torch {record.reference}, {seconds:.0f} s in all"
    return [
        Row("verdicts", case, str(one.variant), figures={"changed": one.changed, "largest": one.largest})
        for one in record.compared
    ]


def quality(artifact: Artifact, dataset: Dataset, split: Split, stride: int) -> list[Row]:
    """A row for each variant: pixel metrics and the seconds of the whole set."""
    changes = {"tiling": {"encoder": "image", "stride": stride}, "evidence": {"enabled": False}}
    artifact = artifact.rescored(changes | {"residual": {"border_correction": False}})
    plain = Detector.of(artifact, Runtime("cpu", "float32"))
    shown = shown_parts(plain, located(dataset, split.validation), PARTS, SIDE, working=True)
    record = Variants(
        threshold=1, area=1, reference="float32", good=0, flawed=0, compared=(), ranges=ranges_on(plain, shown)
    )
    artifact = replace(artifact, variants=record)
    samples, rows = unseen_samples(dataset, split, index=ImageIndex()), []
    for variant in variants_here():
        if variant.precision == "float32" and variant != Variant("torch", "float32"):
            continue
        detector = Detector.of(artifact, Runtime("cpu", variant.precision, variant.engine))
        started = time.perf_counter()
        pixel = evaluate(detector, samples, (), root=dataset.root, resamples=1).pixel
        seconds = time.perf_counter() - started
        figures = {name: pixel.values[name] or 0.0 for name in ("auroc", "au_pro_30")}
        case = f"encoder once, stride {stride}, {len(samples)} images"
        rows.append(Row("quality", case, str(variant), 1e3 * seconds / len(samples), figures=figures))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("data", type=Path)
    options.add_argument("--stride", type=int, default=64)
    given = parsed(options, arguments)
    artifact, dataset = load_artifact(given.model), find_dataset(given.data)
    split = Split.from_dict(artifact.data["split"])
    rows = verdicts(artifact, dataset, split) + quality(artifact, dataset, split, given.stride)
    report(rows, given, model=given.model.name, data=given.data.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every metric of a set of maps: seconds and memory, beside AUROC and average precision alone by scikit-learn.

    python benchmarks/metrics.py [--maps 40] [--size 1024x696] [--repeats 3] [--json FILE]

Maps are gamma-distributed noise, smoothed, and higher in blobs that are the ground truth; the last few are good ones.
Every metric: ROC, AUROC, average precision, F1, IoU, AU-PRO at 30 and 5 %, overlap quantiles, AUPIMO, the images' own
figures and theirs as a whole, and bootstrap intervals over images: what `flawmap evaluate` computes. Exact: the same by
a sort of all scores; it and scikit-learn run once. MiB: what numpy held at most above the maps. "times" is how many
times as fast as scikit-learn, whose two figures are all that it computes.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from flawmap.core.records import FloatMap, Mask
from flawmap.evaluation.bootstrap import bootstrap
from flawmap.evaluation.histograms import Distinct
from flawmap.evaluation.metrics import PixelMetrics, curve_metrics, image_metrics
from measuring import medians, parsed, parser, report

BLOBS, GOOD, SEED = 14, 5, 0  # in a defective image; good images
MIB = 2**20

Maps = list[tuple[FloatMap, Mask, None]]


def maps_of(count: int, width: int, height: int) -> Maps:
    rng = np.random.default_rng(SEED)
    found: Maps = []
    for number in range(count):
        noise = rng.gamma(2, 0.1, (height, width)).astype(np.float32)
        truth = np.zeros((height, width), np.uint8)
        if number < count - GOOD:
            for x, y, radius in zip(
                rng.integers(0, width, BLOBS), rng.integers(0, height, BLOBS), rng.integers(3, 40, BLOBS), strict=True
            ):
                cv2.circle(truth, (int(x), int(y)), int(radius), 1, -1)
        score = cv2.GaussianBlur(noise + truth * np.float32(0.05), (0, 0), 2)
        found.append((np.clip(score, 0, None), truth.astype(bool), None))
    return found


def every_metric(maps: Maps) -> dict[str, Any]:
    metrics = PixelMetrics()
    own = [curve_metrics(metrics.add(*image).histogram) for image in maps]
    return _results(metrics, maps) | {"own": own}


def exact(maps: Maps) -> dict[str, Any]:
    metrics = PixelMetrics(Distinct.among(score for score, _, _ in maps))
    for image in maps:
        metrics.add(*image)
    return _results(metrics, maps)


def _results(metrics: PixelMetrics, maps: Maps) -> dict[str, Any]:
    flawed = np.array([bool(truth.any()) for _, truth, _ in maps])
    scores = [float(score.max()) for score, _, _ in maps]
    return metrics.result().to_dict() | {
        "intervals": bootstrap(metrics.per_image).to_dict(),
        "aupimo_per_image": metrics.aupimo_per_image(),
        "image": image_metrics(scores, flawed),
    }


def by_sklearn(maps: Maps) -> dict[str, Any]:
    import sklearn.metrics  # noqa: PLC0415 - of the dev extra

    scores = np.concatenate([score.ravel() for score, _, _ in maps])
    flawed = np.concatenate([truth.ravel() for _, truth, _ in maps])
    package: Any = sklearn.metrics  # it says nothing of types
    return {
        "auroc": package.roc_auc_score(flawed, scores),
        "average_precision": package.average_precision_score(flawed, scores),
    }


def peak(work: Callable[[], object]) -> float:
    """MiB that were held at most while this was done, beside what was held before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (most - before) / MIB


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, repeats=3)
    options.add_argument("--maps", type=int, default=40)
    options.add_argument("--size", default="1024x696", help="of a map, WIDTHxHEIGHT, pixels")
    given = parsed(options, arguments)
    width, height = map(int, given.size.split("x"))
    maps = maps_of(given.maps, width, height)
    ours = {"flawmap, every metric": lambda: every_metric(maps)}
    slow = {"scikit-learn, two metrics": lambda: by_sklearn(maps), "flawmap, exact": lambda: exact(maps)}
    case = f"{given.maps} maps"
    first, last = medians("metrics", case, slow, 1, warm=0)
    (row,) = medians("metrics", case, ours, given.repeats, warm=1)
    row.figures["MiB"] = peak(lambda: every_metric(maps))
    rows = [first, row, last]
    megabytes = round(4e-6 * given.maps * width * height)
    report(rows, given, size=given.size, megabytes_of_maps=megabytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

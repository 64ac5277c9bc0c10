"""Check a model without defective images: paste synthetic flaws into good ones that it has not seen.

    python examples/paste_flaws.py cloth.flawmap cloth

For each kind of flaw: how well residuals part flaw from good pixels, and how many flaws the model's own threshold
finds. Train two models with different settings and compare: settings chosen so never see the defects you report on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import flawmap
from flawmap.core.records import MappedInspection, Mask
from flawmap.data.defects import FLAWS, add_flaw
from flawmap.data.layouts import find_dataset
from flawmap.data.splits import Split
from flawmap.evaluation.evaluate import held_out_areas, unseen_samples
from flawmap.evaluation.metrics import PixelMetrics
from flawmap.imaging.reading import ImageRows
from flawmap.imaging.roi import Box, find_roi
from flawmap.scoring.inspection import inspected
from flawmap.scoring.model_file import load_artifact


def held_out(detector: flawmap.Detector, data: Path) -> list[tuple[Path, Box | None]]:
    """Good images that the model never saw, or the strips of them that were held out (where there were few images)."""
    dataset = find_dataset(data)
    split = Split.from_dict(detector.artifact.provenance["data"]["split"])
    whole = [(sample.path, None) for sample in unseen_samples(dataset, split) if sample.label == "good"]
    return [*whole, *((area.path, area.box) for area in held_out_areas(dataset, split))]


def with_flaw(
    detector: flawmap.Detector, path: Path, box: Box | None, kind: str, seed: int
) -> tuple[MappedInspection, Mask, Mask]:
    """The inspection of a good image, or a part of it, with one flaw in it; where the flaw is, and the region."""
    image = detector.read(path).pixels.copy()
    height, width, _ = image.shape
    left, top, right, bottom = box or (0, 0, width, height)
    roi = find_roi(ImageRows.of(image, path=path), detector.config.images.roi)
    inside = roi.rows(0, height, width)[top:bottom, left:right]
    part, truth = add_flaw(image[top:bottom, left:right], kind, seed, inside=inside)
    image[top:bottom, left:right] = part
    bands = detector.scan(ImageRows.of(image, path=path), box=box)
    return inspected(bands, detector.point()), truth, inside


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("data", type=Path, help="the data set it was trained on")
    parser.add_argument("--kinds", default=",".join(FLAWS), help=f"kinds of flaws [{','.join(FLAWS)}]")
    parser.add_argument("--images", type=int, default=10, help="held-out good images to use, at most [10]")
    parser.add_argument("--seed", type=int, default=0, help="of the flaws [0]")
    given = parser.parse_args(arguments)

    detector = flawmap.Detector.of(load_artifact(given.model))
    pieces = list(held_out(detector, given.data))[: given.images]
    if not pieces:
        raise SystemExit(f"the model's split holds no good image of {given.data} out")
    print(f"{len(pieces)} good images or areas that {given.model} has not seen, one flaw in each")
    print(f"{'kind':15} {'pixel AUROC':>12} {'AU-PRO 30 %':>12} {'found':>8}")
    for kind in given.kinds.split(","):
        metrics, found = PixelMetrics(), 0
        for number, (path, box) in enumerate(pieces):
            inspection, truth, inside = with_flaw(detector, path, box, kind, given.seed + number)
            metrics.add(inspection.residual, truth, inside)
            found += bool((inspection.mask & truth).any())
        figures = metrics.result().to_dict()
        print(f"{kind:15} {figures['auroc']:12.4f} {figures['au_pro_30']:12.4f} {found:5}/{len(pieces)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the page of `demo` shows: methods side by side. How it looks is `pages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flawmap.data.samples import Sample
from flawmap.evaluation.evaluate import Case, score_case
from flawmap.reporting.case_pictures import HEAT, SCALE
from flawmap.reporting.labels import IMAGE_METRICS, PIXEL_METRICS, share_text
from flawmap.reporting.pages import Page, PictureRows, Section
from flawmap.reporting.pictures import Levels, heatmap, picture
from flawmap.reporting.tables import Table, number
from flawmap.scoring.detector import Detector

Captioned = tuple[str, Levels]
"""A caption and its picture."""


def demo_page(
    detectors: Mapping[str, Detector], methods: Sequence[Mapping[str, Any]], samples: Sequence[Sample], command: str
) -> Page:
    """Methods side by side: one table, and for every flawed image a row of pictures by each method.

    methods: those of demo.json.
    """
    flawed = [sample for sample in samples if sample.label == "defective"]
    columns = (
        *("method", PIXEL_METRICS["auroc"].short, PIXEL_METRICS["au_pro_30"].short, IMAGE_METRICS["auroc"].short),
        *("defective images found", "good images rejected", "minutes of training"),
    )
    figures = ("pixel_auroc", "au_pro_30", "image_auroc")
    rows = tuple(
        (
            row["name"],
            *(number(row[key]) for key in figures),
            *(share_text(row["decision"], name) for name in ("found", "rejected")),
            number(row["minutes"], 1),
        )
        for row in methods
    )
    return Page(
        title="flawmap demo: woven cloth",
        lead="Two autoencoders of one shape, trained on the same good cloth for the same time. One minimises and maps "
        "squared differences (l2), the other structural similarity (SSIM). Neither has seen a flaw.",
        facts=(("command", command),),
        tables=(Table("On cloth that neither has seen", columns, rows),),
        sections=(Section("Flawed images", tuple(_compared(sample, detectors) for sample in flawed)),),
        heat=SCALE,
        footer="Synthetic images, made by flawmap.",
    )


def _compared(sample: Sample, detectors: Mapping[str, Detector]) -> PictureRows:
    """One flawed image with a row of pictures by each method."""
    pictures: list[Captioned] = []
    for name, detector in detectors.items():
        case = score_case(detector, sample)[0]
        assert case.truth is not None  # woven flaws all have masks
        made = (*_reconstruction(case), ("residual", _heat(detector, case)), ("mask", picture(case.inspection.mask)))
        pictures.append(("image", picture(detector.read(sample.path).pixels)))
        pictures += [(f"{name}: {caption}", shown) for caption, shown in made]
        pictures.append(("ground truth", picture(case.truth)))
    return PictureRows(f"{sample.kind}, {sample.path.name}", "", tuple(pictures), count=len(detectors))


def _reconstruction(case: Case) -> tuple[Captioned, ...]:
    """The reconstruction with its caption, where the method has one."""
    found = case.explained.reconstruction
    return () if found is None else (("reconstruction", picture(found)),)


def _heat(detector: Detector, case: Case) -> Levels:
    threshold = detector.artifact.threshold or float(case.inspection.residual.max()) or 1.0
    return heatmap(case.inspection.residual, 0.0, HEAT * threshold)

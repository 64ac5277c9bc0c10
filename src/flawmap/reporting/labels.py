"""The names of metrics as people read them: one table for pages, the terminal and Markdown. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DECIMALS = 4  # of every metric, wherever it has room


class Metric(NamedTuple):
    """label: beside a value, in a row of its own. short: above a column."""

    label: str
    short: str


PIXEL_METRICS: dict[str, Metric] = {
    "auroc": Metric("pixel AUROC", "pixel AUROC"),
    "average_precision": Metric("pixel average precision", "average precision"),
    "au_pro_30": Metric("AU-PRO at 30 % false positives", "AU-PRO 30 %"),
    "au_pro_05": Metric("AU-PRO at 5 % false positives", "AU-PRO 5 %"),
    "f1_max": Metric("pixel F1 at the best threshold", "best F1"),
    "iou_max": Metric("pixel IoU at the best threshold", "best IoU"),
    "aupimo": Metric("AUPIMO, 1e-5 to 1e-4 of the good images' pixels", "AUPIMO"),
}
"""By their key in the sections `pixel` and `pixel_defective_images` of metrics.json."""

IMAGE_METRICS: dict[str, Metric] = {
    "auroc": Metric("image AUROC", "image AUROC"),
    "average_precision": Metric("image average precision", "image average precision"),
    "f1_max": Metric("image F1 at the best threshold", "image F1"),
}
"""By their key in the section `image` of metrics.json."""

HELD_OUT = "held-out good pixels above the threshold"


def share_text(decision: Mapping[str, Any] | None, name: str) -> str:
    """ "19 of 20": of the section `decision`, the images `found` or `rejected`; nothing where there are none."""
    share = None if decision is None else decision[name]
    return "" if share is None else f"{share['count']} of {share['of']}"


def decision_rows(decision: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What the model decides at its own operating point, label and value; of the section `decision` of metrics.json."""
    if decision is None:
        return []
    rows = []
    for key, label in (("found", "defective images found"), ("rejected", "good images rejected")):
        share = decision[key]
        if share is not None:
            low, high = (f"{100 * end:.1f}" for end in share["interval"])
            rows.append((label, f"{share['count']} of {share['of']} ({low} to {high} %)"))
    for key in ("f1", "precision", "recall"):
        if decision[key] is not None:
            name = "F1" if key == "f1" else key
            rows.append((f"pixel {name} of the masks", f"{decision[key]:.{DECIMALS}f}"))
    return rows


def rule_text(found: Mapping[str, Any]) -> str:
    """How an operating point was found."""
    rule = found.get("rule")
    if rule not in ("largest", "quantile", "conformal"):
        return f"({rule})" if rule else ""
    areas = f"{found['good_areas']} held-out good images or areas"
    warning = f"; {found['warning']}" if found.get("warning") else ""
    if rule == "conformal" and not warning:
        of = f"{found['images']} groups, {areas}" if found["images"] < found["good_areas"] else areas
        return f"(at most {found['alpha']:.3g} of good images are rejected, by {of})"
    if rule != "quantile":
        return f"(the largest residual of {areas}{warning})"
    return f"(at most {found['false_positive_rate']:g} of the pixels of {areas} lie above{warning})"

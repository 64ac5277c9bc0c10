"""The names of metrics as people read them: one table for pages, the terminal and Markdown. No torch here."""

from __future__ import annotations

from typing import NamedTuple

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

"""The names of metrics as people read them: one table for pages, the terminal and Markdown. No torch here."""

from __future__ import annotations

PIXEL_METRICS: dict[str, str] = {
    "auroc": "pixel AUROC",
    "average_precision": "pixel average precision",
    "au_pro_30": "AU-PRO at 30 % false positives",
    "au_pro_05": "AU-PRO at 5 % false positives",
    "f1_max": "pixel F1 at the best threshold",
    "iou_max": "pixel IoU at the best threshold",
    "aupimo": "AUPIMO, 1e-5 to 1e-4 of the good images' pixels",
}
"""By their key in the sections `pixel` and `pixel_defective_images` of metrics.json."""

IMAGE_METRICS: dict[str, str] = {
    "auroc": "image AUROC",
    "average_precision": "image average precision",
    "f1_max": "image F1 at the best threshold",
}
"""By their key in the section `image` of metrics.json."""

HELD_OUT = "held-out good pixels above the threshold"

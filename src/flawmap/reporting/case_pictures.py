"""Pictures of an image that is scored by bands of rows: found and true flaws, reconstruction, residual map."""

from __future__ import annotations

import numpy as np

from flawmap.core.records import Mask
from flawmap.imaging.rows import BlockReduce, block_counts
from flawmap.reporting.pictures import Levels, ReducedOverlay, fitted, heatmap, page_scale, picture, shrunk
from flawmap.reporting.reports import IMAGE_BYTES, Captioned
from flawmap.scoring.inspection import Band

HEAT = 2.5  # the heat map's scale ends at this many thresholds, so the threshold has a fixed, visible colour
SCALE = ("0", f"{HEAT:g} thresholds")


class CasePictures:
    """Sees the bands of an image and then their masks, reduced by a whole factor, so that any image fits in memory.

    Args:
        shape: (H, W, C). truth: (H, W) bool, or None. threshold: of the heat map's scale; None: up to its own maximum.
    """

    def __init__(self, shape: tuple[int, int, int], truth: Mask | None, threshold: float | None) -> None:
        self._shape, self._truth, self._threshold = shape, truth, threshold
        self._factor = max(1, int(1 / page_scale(shape[:2])))
        self._overlay = ReducedOverlay(shape, self._factor)
        self._residual = BlockReduce(shape[:2], self._factor, np.maximum, np.float32)
        self._reconstruction: BlockReduce | None = None

    def add(self, band: Band) -> None:
        self._overlay.add_image(band.image)
        self._residual.add(band.residual)
        if band.reconstruction is not None:
            if self._reconstruction is None:
                self._reconstruction = BlockReduce(self._shape, self._factor, np.add, np.float64)
            self._reconstruction.add(band.reconstruction)

    def add_mask(self, mask: Mask) -> None:
        self._overlay.add_mask(mask)

    def finish(self) -> list[Captioned]:
        """The pictures, after the last band: IMAGE_BYTES together at most."""
        residual = self._residual.values
        bold = max(1, round(max(residual.shape) / 250))  # outlines that show in a picture of some 300 pixels
        drawn: list[tuple[str, Levels]] = [
            ("found in green, truth in red", self._overlay.picture(self._reduced_truth(), width=bold))
        ]
        if self._reconstruction is not None:
            counts = block_counts(self._shape[:2], self._factor)[:, :, None]
            drawn.append(("reconstruction", picture((self._reconstruction.values / counts).astype(np.float32))))
        top = HEAT * self._threshold if self._threshold else float(residual.max())
        drawn.append(("residual, opened", heatmap(residual, 0.0, top if top > 0 else 1.0)))
        most = [IMAGE_BYTES // 2, *(IMAGE_BYTES // 2 // (len(drawn) - 1) for _ in drawn[1:])]
        pairs = zip(drawn, most, strict=True)
        return [(caption, fitted(shrunk(levels), limit)) for (caption, levels), limit in pairs]

    def _reduced_truth(self) -> Mask | None:
        if self._truth is None:
            return None
        reduced = BlockReduce(self._truth.shape, self._factor, np.logical_or, np.bool_)
        reduced.add(self._truth)
        values: Mask = reduced.values
        return values

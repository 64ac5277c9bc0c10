"""What leaves the library: frozen records of numbers and NumPy arrays. No torch here, so reports never import it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatMap = NDArray[np.float32]
"""(H, W) float32; a residual map: larger is worse."""
Mask = NDArray[np.bool_]
"""(H, W) bool; True = flaw (or, for a region of interest, inside)."""

Verdict = Literal["ok", "flawed"]


@dataclass(frozen=True)
class Region:
    """One 8-connected component of a mask, in the image's own pixels.

    area: pixels. box: (left, top, width, height), pixels. centroid: (x, y), pixels, the centre of the top left
    pixel is (0, 0). peak, mean: the largest and the mean opened residual inside.
    """

    area: int
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    peak: float
    mean: float

    def to_dict(self) -> dict[str, Any]:
        centroid = [round(place, 2) for place in self.centroid]
        return {**vars(self), "box": list(self.box), "centroid": centroid}


@dataclass(frozen=True)
class Inspection:
    """What a detector says of one image.

    width, height: pixels. score: the largest opened residual inside the region of interest. threshold: residuals above
    it are flaws. flawed_pixels: the number of pixels above it. notes: sentences about the file. p_value: see
    `scoring.conformal.p_value`; None: the model keeps no scores of held-out good images.
    """

    width: int
    height: int
    score: float
    threshold: float
    verdict: Verdict
    flawed_pixels: int
    regions: tuple[Region, ...]
    path: str | None = None
    notes: tuple[str, ...] = ()
    p_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON's types, without its arrays."""
        plain = {field.name: getattr(self, field.name) for field in fields(Inspection)}
        regions = [region.to_dict() for region in self.regions]
        return {"path": self.path, **plain, "regions": regions, "notes": list(self.notes)}


@dataclass(frozen=True, kw_only=True)
class MappedInspection(Inspection):
    """An inspection with its maps.

    residual: (H, W) float32, opened, 0 outside the region of interest. mask: (H, W) bool.
    """

    residual: FloatMap
    mask: Mask


@dataclass(frozen=True, eq=False)
class Curve:
    """A ROC curve, from (0, 0) to (1, 1).

    thresholds: (P,), falling. false_positive_rate, true_positive_rate: (P,), rising: the shares of the good and of the
    defective pixels (or images) strictly above each threshold.
    """

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the curve by trapezoids: 1 = perfect, 0.5 = chance."""
        x, y = self.false_positive_rate, self.true_positive_rate
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)

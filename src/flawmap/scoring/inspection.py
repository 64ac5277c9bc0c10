"""From the bands of a residual map to an inspection: threshold, regions, score and verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flawmap.core.records import FloatMap, Inspection, MappedInspection, Mask
from flawmap.imaging.morphology import RegionGathering, threshold_mask
from flawmap.imaging.reading import Pixels
from flawmap.scoring.conformal import p_value


class Band(NamedTuple):
    """Rows of an image with what was found there, in the image's own pixels.

    top: the first row. image: (h, W, C) in [0, 1]. residual: (h, W) float32, 0 outside the region of interest.
    reconstruction: (h, W, C), the image itself outside the region's box; None: not asked for, or the method has none.
    inside: (h, W) bool, the region of interest.
    """

    top: int
    image: Pixels
    residual: FloatMap
    reconstruction: Pixels | None
    inside: Mask


def joined(bands: Sequence[Band]) -> Band:
    """All bands of an image as one."""
    pictures = [band.reconstruction for band in bands if band.reconstruction is not None]
    return Band(
        top=0,
        image=np.concatenate([band.image for band in bands]),
        residual=np.concatenate([band.residual for band in bands]),
        reconstruction=np.concatenate(pictures) if pictures else None,
        inside=np.concatenate([band.inside for band in bands]),
    )


class InspectionBuilder:
    """Adds up the bands of one image. threshold: residuals above it are flaws."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._regions = RegionGathering()
        self._score, self._flawed, self._height, self._width = -np.inf, 0, 0, 0

    def add(self, band: Band) -> Mask:
        """The mask (h, W) of the band below the one before."""
        mask = threshold_mask(band.residual, self._threshold, band.inside)
        self._regions.add(mask, band.residual)
        self._score = max(self._score, float(band.residual.max()))
        self._flawed += int(mask.sum())
        self._height, self._width = self._height + len(mask), mask.shape[1]
        return mask

    def inspection(
        self, path: Path | None, notes: tuple[str, ...] = (), good_scores: Sequence[float] = ()
    ) -> Inspection:
        """What was found, after the last band. good_scores: of held-out good images, ascending, for the p-value."""
        return Inspection(
            width=self._width,
            height=self._height,
            score=self._score,
            threshold=self._threshold,
            verdict="flawed" if self._flawed else "ok",
            flawed_pixels=self._flawed,
            regions=self._regions.regions(),
            path=None if path is None else str(path),
            notes=notes,
            p_value=p_value(self._score, good_scores) if good_scores else None,
        )


def inspected(
    bands: Iterable[Band],
    threshold: float,
    *,
    path: Path | None = None,
    notes: Callable[[], tuple[str, ...]] = tuple,
    good_scores: Sequence[float] = (),
) -> MappedInspection:
    """The inspection of an image with its maps. notes: asked for after the last band. good_scores: for the p-value."""
    builder, maps = InspectionBuilder(threshold), []
    for band in bands:
        maps.append((band.residual, builder.add(band)))
    found = vars(builder.inspection(path, notes(), good_scores))
    residual, mask = (np.concatenate(parts) for parts in zip(*maps, strict=True))
    return MappedInspection(**found, residual=residual, mask=mask)

"""From the bands of a residual map to an inspection: threshold, regions, score and verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flawmap.core.records import FloatMap, Inspection, MappedInspection, Mask
from flawmap.imaging.morphology import RegionGathering, threshold_mask
from flawmap.imaging.reading import Pixels
from flawmap.scoring.conformal import p_value
from flawmap.scoring.operating_point import OperatingPoint


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
    """Adds up the bands of one image. point: what is a flaw, and how far it reaches."""

    def __init__(self, point: OperatingPoint) -> None:
        self._point = point
        level, threshold, area = point.threshold if point.mask is None else point.mask, point.threshold, point.area
        # Flaws down to the level; and, where that lies above the threshold, flaws that do not reach it.
        self._layers = {level: RegionGathering(threshold, area)}
        if level > threshold:
            self._layers[threshold] = RegionGathering(threshold, area, level)
        self._score, self._height, self._width = -np.inf, 0, 0

    def add(self, band: Band) -> None:
        """The band below the one before."""
        for level, regions in self._layers.items():
            regions.add(threshold_mask(band.residual, level, band.inside), band.residual)
        self._score = max(self._score, float(band.residual.max()))
        self._height, self._width = self._height + len(band.residual), band.residual.shape[1]

    def masks(self) -> Iterator[Mask]:
        """The mask of each band (h, W), after the last one: only then it is known what belongs to a flaw."""
        for parts in zip(*(regions.masks() for regions in self._layers.values()), strict=True):
            yield np.logical_or.reduce(parts)

    def inspection(
        self, path: Path | None, notes: tuple[str, ...] = (), good_scores: Sequence[float] = ()
    ) -> Inspection:
        """What was found, after the last band. good_scores: of held-out good images, ascending, for the p-value."""
        found = [region for layer in self._layers.values() for region in layer.regions()]
        regions = tuple(sorted(found, key=lambda region: (-region.peak, region.box[1], region.box[0])))
        return Inspection(
            width=self._width,
            height=self._height,
            score=self._score,
            threshold=self._point.threshold,
            verdict="flawed" if regions else "ok",
            flawed_pixels=sum(region.area for region in regions),
            regions=regions,
            path=None if path is None else str(path),
            notes=notes,
            p_value=p_value(self._score, good_scores) if good_scores else None,
        )


def inspected(
    bands: Iterable[Band],
    point: OperatingPoint,
    *,
    path: Path | None = None,
    notes: Callable[[], tuple[str, ...]] = tuple,
    good_scores: Sequence[float] = (),
) -> MappedInspection:
    """The inspection of an image with its maps. notes: asked for after the last band. good_scores: for the p-value."""
    builder, maps = InspectionBuilder(point), []
    for band in bands:
        maps.append(band.residual)
        builder.add(band)
    found = vars(builder.inspection(path, notes(), good_scores))
    return MappedInspection(**found, residual=np.concatenate(maps), mask=np.concatenate(list(builder.masks())))

"""One detector object, used by the Python API, the command line and everything built on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flawmap.core.checks import image_array
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.records import FloatMap, MappedInspection, Mask
from flawmap.core.runtime import Runtime
from flawmap.imaging.morphology import opened
from flawmap.imaging.padding import padding_of
from flawmap.imaging.reading import ImageRows, LoadedImage, Pixels, opened_image, read_image, to_channels
from flawmap.imaging.resize import resized_bands, scale_of_part, working_size
from flawmap.imaging.roi import Box, Roi, find_roi
from flawmap.imaging.rows import RowBuffer, band_rows, map_bands, windows
from flawmap.methods.config import Config
from flawmap.methods.interface import PatchScorer
from flawmap.methods.table import METHODS
from flawmap.scoring.borders import border_corrected
from flawmap.scoring.inspection import Band, inspected
from flawmap.scoring.model_file import Artifact, load_artifact
from flawmap.scoring.pipeline import ScoredRows, score_rows
from flawmap.scoring.tiling import Grid

AUTO = Runtime()


class ScoreMaps(NamedTuple):
    """Everything a picture of one image needs, in the image's own pixels.

    residual: (H, W), 0 outside the region of interest. reconstruction: (H, W, C); None: the method has none. inside:
    (H, W) bool, the region of interest.
    """

    residual: FloatMap
    reconstruction: Pixels | None
    inside: Mask


@dataclass(frozen=True)
class Detector:
    """A fitted model with everything around it: image -> residual map -> inspection.

    Scores do not depend on which images are scored together, nor on the bands in which an image arrives. Threads may
    share a detector.
    """

    artifact: Artifact
    scorer: PatchScorer
    runtime: Runtime = AUTO

    @classmethod
    def load(cls, path: Path | str, runtime: Runtime = AUTO) -> Detector:
        """The detector of a `.flawmap` file. Raises ArtifactError for a damaged, foreign or newer file."""
        return cls.of(load_artifact(Path(path)), runtime)

    @classmethod
    def of(cls, artifact: Artifact, runtime: Runtime = AUTO) -> Detector:
        """The detector of a model in memory.

        Raises:
            ConfigError: the engine cannot run this model, there, or in that precision.
            InputError: its package, of the extra `export`, is not installed.
        """
        method = METHODS[artifact.config.method.name]
        return cls(artifact, method.scorer(artifact.config, artifact.state, runtime), runtime)

    @property
    def config(self) -> Config:
        return self.artifact.config

    def read(self, path: Path | str) -> LoadedImage:
        """An image file as this detector wants it: (H, W, C) float32 in [0, 1] at its own size."""
        return read_image(Path(path), self.config.images)

    def score(self, image: Pixels, *, path: Path | str | None = None) -> FloatMap:
        """The residual map (H, W) float32 of an image (H, W, C) in [0, 1]: larger is worse, 0 outside the region.

        path: names the image where the region of interest is a folder of masks.
        """
        return np.concatenate([band.residual for band in self.scan(_rows(image, path), opening=False)])

    def explain(self, image: Pixels, *, path: Path | str | None = None) -> ScoreMaps:
        """The residual map together with the reconstruction that it comes from."""
        bands = list(self.scan(_rows(image, path), opening=False, reconstruction=True))
        pictures = [band.reconstruction for band in bands if band.reconstruction is not None]
        return ScoreMaps(
            np.concatenate([band.residual for band in bands]),
            np.concatenate(pictures) if pictures else None,
            np.concatenate([band.inside for band in bands]),
        )

    def inspect(
        self, image: Pixels | Path | str, *, path: Path | str | None = None, threshold: float | None = None
    ) -> MappedInspection:
        """Mask, regions, score and verdict of an image, given as a file or as (H, W, C) float32 in [0, 1].

        threshold: instead of the model's own.
        """
        limit = self.threshold(threshold)
        if not isinstance(image, str | Path):
            return self._inspected(_rows(image, path), limit)
        with opened_image(Path(image), self.config.images) as rows:
            return self._inspected(rows, limit)

    def threshold(self, given: float | None = None) -> float:
        """The threshold given, or else the model's own. ConfigError if there is neither."""
        found = self.artifact.threshold if given is None else given
        if found is None:
            raise ConfigError(
                "this model has no threshold; pass one, or train with good images held out (validation > 0)"
            )
        return found

    def scan(
        self, image: ImageRows, *, box: Box | None = None, opening: bool = True, reconstruction: bool = False
    ) -> Iterator[Band]:
        """The bands of an image, or of the part of it in a box, one below the other and all as wide.

        Args:
            opening: whether residuals are opened by the circle of the settings. reconstruction: whether bands carry it.
        Raises:
            InputError: the image cannot be read or scored, or nothing of it lies in its region of interest.
        """
        roi = find_roi(image, self.config.images.roi)
        if box is not None:
            image, within = image.cut(box), roi.cut(box)
            if within is None:
                raise InputError(f"nothing of {image.path}, area {box}, lies in the region of interest")
            roi = within
        return self._bands(image, roi, opening=opening, reconstruction=reconstruction)

    def working_map(self, image: ImageRows, roi: Roi) -> Tensor:
        """(h, w): the residual of a region's box at the working scale, whole and not opened."""
        size, target = self._sizes(image, roi)
        scored = self._scored(_cut(map(self._checked, image.bands()), roi.box), size, target, reconstruction=False)
        return torch.cat([rows.residual for rows in scored])

    def _inspected(self, rows: ImageRows, threshold: float) -> MappedInspection:
        return inspected(self.scan(rows), threshold, path=rows.path, notes=lambda: rows.notes)

    def _bands(self, image: ImageRows, roi: Roi, *, opening: bool, reconstruction: bool) -> Iterator[Band]:
        height, width, _ = image.shape
        size, target = self._sizes(image, roi)
        first, second = tee(map(self._checked, image.bands()))
        residuals, pictures = self._unscaled(_cut(first, roi.box), size, target, reconstruction=reconstruction)
        maps = _cleared(_spread(residuals, roi.box, (height, width)), roi, width)
        diameter = self.config.threshold.opening if opening else 0
        if diameter > 1:
            maps = map_bands(maps, height, band_rows(width), diameter + 1, lambda rows: opened(rows, diameter))
            maps = _cleared(maps, roi, width)
        shown, scored = RowBuffer(second), RowBuffer(maps)
        rebuilt = None if pictures is None else RowBuffer(pictures)
        for window in windows(height, band_rows(width), 0):
            top, bottom = window.first, window.last
            pixels = shown.take(top, bottom)
            picture = None if rebuilt is None else _pasted(pixels, rebuilt, roi.box, top)
            yield Band(top, pixels, scored.take(top, bottom), picture, roi.rows(top, bottom, width))

    def _sizes(self, image: ImageRows, roi: Roi) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of a region's box, in pixels and at the working scale."""
        left, top, right, bottom = roi.box
        size = bottom - top, right - left
        return size, working_size(*size, scale_of_part(self.config.images.scale, image.whole, size))

    def _unscaled(
        self, blocks: Iterator[Pixels], size: tuple[int, int], target: tuple[int, int], *, reconstruction: bool
    ) -> tuple[Iterator[FloatMap], Iterator[Pixels] | None]:
        """Bands of the residual map (h, W) and of the reconstruction (h, W, C) in the pixels of the box."""
        first, second, ahead = tee(self._scored(blocks, size, target, reconstruction=reconstruction), 3)
        maps = (_array(rows.residual)[:, :, None] for rows in first)
        residuals = (np.ascontiguousarray(rows[:, :, 0]) for rows in resized_bands(maps, target, size))
        if not reconstruction or next(ahead).reconstruction is None:
            return residuals, None
        pictures = (_array(rows.reconstruction.permute(1, 2, 0)) for rows in second if rows.reconstruction is not None)
        return residuals, resized_bands(pictures, target, size)

    @torch.no_grad()
    def _scored(
        self, blocks: Iterator[Pixels], size: tuple[int, int], target: tuple[int, int], *, reconstruction: bool
    ) -> Iterator[ScoredRows]:
        """Bands at the working scale, without padding, with the border corrected if the model does that."""
        config, (height, width) = self.config, target
        small = resized_bands(blocks, size, target)
        padding = left, right, top, bottom = padding_of(height, width, config.model.patch, pad=config.tiling.pad)
        if top or bottom:  # lower than a patch: few rows, which reflect each other
            small = iter([np.concatenate(list(small))])
        # A copy, always: torch warns of arrays that must not be written to.
        tensors = (torch.from_numpy(np.array(rows.transpose(2, 0, 1), order="C")) for rows in small)
        placed = (rows.to(self.scorer.device) for rows in tensors)
        padded = (functional.pad(rows[None], padding, mode="reflect")[0] if any(padding) else rows for rows in placed)
        scored = score_rows(
            padded,
            (top + height + bottom, left + width + right),
            self.scorer,
            Grid(config.model.patch, config.tiling.stride),
            config.tiling,
            smoothing=config.residual.smoothing,
            reconstruction=reconstruction,
        )
        start = -top
        for rows in scored:
            window = slice(max(0, -start), max(0, height - start))
            residual = rows.residual[window, left : left + width]
            picture = None if rows.reconstruction is None else rows.reconstruction[:, window, left : left + width]
            if len(residual):
                yield ScoredRows(self._corrected(residual, max(0, start), height), picture)
            start += len(rows.residual)

    def _corrected(self, residual: Tensor, top: int, height: int) -> Tensor:
        """A band of the map, from row `top` of `height`, with the border correction of the model, if it has one."""
        border = self.artifact.border
        return residual if border is None else border_corrected(residual, border, top=top, height=height)

    def _checked(self, image: Pixels) -> Pixels:
        image_array(image)
        image = to_channels(image, self.config.model.channels or 1)
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            raise InputError(
                f"image must lie in [0, 1], got values from {low:g} to {high:g}; divide by the value that is white"
            )
        return np.asarray(image, dtype=np.float32)


def _rows(image: Pixels, path: Path | str | None) -> ImageRows:
    image_array(image)
    return ImageRows.of(image, path=None if path is None else Path(path))


def _array(tensor: Tensor) -> Pixels:
    return np.ascontiguousarray(tensor.float().cpu().numpy())


def _cut(bands: Iterable[Pixels], box: Box) -> Iterator[Pixels]:
    """The part of an image in a box, by rows; the image is read to its end."""
    left, top, right, bottom = box
    start = 0
    for band in bands:
        inside = band[max(0, top - start) : max(0, bottom - start), left:right]
        start += len(band)
        if len(inside):
            yield inside


def _spread(scored: Iterable[FloatMap], box: Box, shape: tuple[int, int]) -> Iterator[FloatMap]:
    """The map of a box within that of its image, 0 outside."""
    (left, top, right, bottom), (height, width) = box, shape
    yield from _zeros(top, width)
    for rows in scored:
        yield np.pad(rows, ((0, 0), (left, width - right)))
    yield from _zeros(height - bottom, width)


def _zeros(rows: int, width: int) -> Iterator[FloatMap]:
    step = band_rows(width)
    for start in range(0, rows, step):
        yield np.zeros((min(step, rows - start), width), np.float32)


def _cleared(maps: Iterable[FloatMap], roi: Roi, width: int) -> Iterator[FloatMap]:
    """Bands of a map, 0 outside the region of interest."""
    top = 0
    for rows in maps:
        yield np.where(roi.rows(top, top + len(rows), width), rows, np.float32(0))
        top += len(rows)


def _pasted(pixels: Pixels, rebuilt: RowBuffer[NDArray[Any]], box: Box, top: int) -> Pixels:
    """Rows of an image, from row `top`, with the reconstruction in place of the box."""
    left, first, right, last = box
    start, stop = max(first, top), min(last, top + len(pixels))
    picture = pixels.copy()
    if start < stop:
        picture[start - top : stop - top, left:right] = rebuilt.take(start - first, stop - first)
    return picture

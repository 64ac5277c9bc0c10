"""One detector object, used by the Python API, the command line and everything built on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, tee
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flawmap.core.arrays import Array, as_numpy, namespace_of, on_device, without_gradients
from flawmap.core.checks import image_array
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.records import FloatMap, MappedInspection
from flawmap.core.runtime import Runtime
from flawmap.imaging.morphology import opened
from flawmap.imaging.padding import padding_of, reflected, rim_of, with_rim
from flawmap.imaging.reading import ImageRows, LoadedImage, Pixels, opened_image, read_image, to_channels
from flawmap.imaging.resize import resized_bands, scale_of_part, working_size
from flawmap.imaging.roi import Box, Roi, find_roi
from flawmap.imaging.rows import RowBuffer, band_rows, map_bands, windows
from flawmap.methods.config import Config
from flawmap.methods.interface import PatchScorer
from flawmap.methods.table import METHODS
from flawmap.nets.engines import engine_for
from flawmap.scoring.inspection import Band, inspected, joined
from flawmap.scoring.model_file import Artifact, load_artifact
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.pipeline import score_rows
from flawmap.scoring.tiling import Grid
from flawmap.scoring.variants import Variant

AUTO = Runtime()


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
        """The detector of a `.flawmap` file or an exported one. ArtifactError for a damaged, foreign or newer file."""
        return cls.of(load_artifact(Path(path)), runtime)

    @classmethod
    def of(cls, artifact: Artifact, runtime: Runtime = AUTO) -> Detector:
        """The detector of a model in memory.

        Raises:
            ConfigError: the engine cannot run this model, there, or in that precision.
            InputError: its package, of the extra `export`, is not installed.
        """
        method = METHODS[artifact.config.method.name]
        runtime = replace(runtime, engine=engine_for(runtime.engine, artifact.graph))
        return cls(artifact, method.scorer(artifact.config, artifact.state, runtime), runtime)

    @property
    def config(self) -> Config:
        return self.artifact.config

    @property
    def precision_name(self) -> str:
        """The precision of the network's arithmetic: "float32" or "bfloat16"."""
        return self.scorer.precision

    @property
    def keeps_verdicts(self) -> bool:
        """Whether this engine and precision are known to keep the model's verdicts."""
        record, own = self.artifact.variants, Variant(self.runtime.engine, self.precision_name)
        return record is not None and own in record.kept

    def read(self, path: Path | str) -> LoadedImage:
        """An image file as this detector wants it: (H, W, C) float32 in [0, 1] at its own size."""
        return read_image(Path(path), self.config.images)

    def score(self, image: Pixels, *, path: Path | str | None = None) -> FloatMap:
        """The residual map (H, W) float32 of an image (H, W, C) in [0, 1]: larger is worse, 0 outside the region.

        path: names the image where the region of interest is a folder of masks.
        """
        return np.concatenate([band.residual for band in self.scan(_rows(image, path), opening=False)])

    def explain(self, image: Pixels, *, path: Path | str | None = None) -> Band:
        """The residual map as `score` gives it, with the reconstruction that it comes from, in one band."""
        return joined(list(self.scan(_rows(image, path), opening=False, reconstruction=True)))

    def inspect(
        self, image: Pixels | Path | str | bytes, *, path: Path | str | None = None, threshold: float | None = None
    ) -> MappedInspection:
        """Mask, regions, score and verdict of an image: a file, a file's bytes, or (H, W, C) float32 in [0, 1].

        path: names bytes and arrays, in messages and where the region of interest is a folder of masks. threshold:
        instead of the model's own.
        """
        point = self.point(threshold)
        if not isinstance(image, str | Path | bytes):
            return self._inspected(_rows(image, path), point)
        name = None if path is None else Path(path)
        with opened_image(image if isinstance(image, bytes) else Path(image), self.config.images, path=name) as rows:
            return self._inspected(rows, point)

    def point(self, threshold: float | None = None) -> OperatingPoint:
        """Where the model decides, with the threshold given, or else its own. ConfigError if there is neither."""
        own = self.artifact.operating_point
        if threshold is not None:
            return OperatingPoint(threshold=threshold) if own is None else own.at(threshold)
        if own is None:
            raise ConfigError(
                "this model has no threshold; pass one, or train with good images held out (validation > 0)"
            )
        return own

    def scan(
        self,
        image: ImageRows,
        *,
        box: Box | None = None,
        roi: Roi | None = None,
        opening: bool = True,
        reconstruction: bool = False,
    ) -> Iterator[Band]:
        """The bands of an image, or of the part of it in a box, one below the other and all as wide.

        Args:
            roi: the region of interest of the image; None: see `region`.
            opening: whether residuals are opened by the circle of the settings. reconstruction: whether bands carry it.
        Raises:
            InputError: the image cannot be read or scored, or nothing of it lies in its region of interest.
        """
        roi = roi or self.region(image)
        if box is not None:
            image, within = image.cut(box), roi.cut(box)
            if within is None:
                raise InputError(f"nothing of {image.path}, area {box}, lies in the region of interest")
            roi = within
        return self._bands(image, roi, opening=opening, reconstruction=reconstruction)

    def region(self, image: ImageRows) -> Roi:
        """Where an image is looked at: its region of interest by the settings, within the zone of the operating point.

        Raises:
            InputError: the region cannot be found, see `find_roi`, or nothing of it lies in the zone.
        """
        roi, point = find_roi(image, self.config.images.roi), self.artifact.operating_point
        return roi if point is None or point.zone is None else point.zone.within(roi, image)

    def working_size(self, image: ImageRows, roi: Roi) -> tuple[int, int]:
        """(h, w) of a region's box at the working scale."""
        return self._sizes(image, roi)[1]

    def working_layers(self, image: ImageRows, roi: Roi) -> Iterator[Array]:
        """Bands (L, h, w) of a region's box at the working scale: each residual at each scale, neither corrected nor
        opened."""
        size, target = self._sizes(image, roi)
        return self._layers(_cut(map(self.checked, image.bands()), roi.box), size, target, reconstruction=False)

    def _inspected(self, rows: ImageRows, point: OperatingPoint) -> MappedInspection:
        good = self.artifact.good_scores
        return inspected(self.scan(rows), point, path=rows.path, notes=lambda: rows.notes, good_scores=good)

    def _bands(self, image: ImageRows, roi: Roi, *, opening: bool, reconstruction: bool) -> Iterator[Band]:
        height, width, _ = image.shape
        first, second = tee(map(self.checked, image.bands()))
        maps = self._maps(first, image, roi, reconstruction=reconstruction)
        diameter = self.config.threshold.opening if opening else 0
        if diameter > 1:
            maps = map_bands(maps, height, band_rows(width), diameter + 1, lambda rows: _opened(rows, diameter))
        shown, scored, box = RowBuffer(second), RowBuffer(maps), Roi(roi.box)
        for window in windows(height, band_rows(width), 0):
            place = window.first, window.last
            pixels, rows, inside = shown.take(*place), scored.take(*place), roi.rows(*place, width)
            residual, rebuilt = np.where(inside, rows[:, :, 0], np.float32(0)), rows[:, :, 1:]
            picture = np.where(box.rows(*place, width)[:, :, None], rebuilt, pixels) if rebuilt.size else None
            yield Band(window.first, pixels, residual, picture, inside)

    def _sizes(self, image: ImageRows, roi: Roi) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of a region's box, in pixels and at the working scale."""
        left, top, right, bottom = roi.box
        size = bottom - top, right - left
        return size, working_size(*size, scale_of_part(self.config.images.scale, image.whole, size))

    def _maps(
        self, pixels: Iterator[Pixels], image: ImageRows, roi: Roi, *, reconstruction: bool
    ) -> Iterator[NDArray[np.float32]]:
        """Bands (h, W, 1 + C) as large as the image: the residual, 0 outside the region, and the reconstruction, 0
        outside its box; (h, W, 1) without the latter."""
        (height, width, _), (left, top, right, bottom) = image.shape, roi.box
        size, target = self._sizes(image, roi)
        scored = self._scored(_cut(pixels, roi.box), size, target, reconstruction=reconstruction)
        blocks: Iterator[FloatMap] = map(_pixels, scored)
        depth = 1
        if reconstruction:
            first = next(blocks)
            blocks, depth = chain((first,), blocks), first.shape[2]
        yield from _zeros(top, width, depth)
        for rows in _resized(blocks, depth, target, size):
            placed = np.pad(rows, ((0, 0), (left, width - right), (0, 0)))
            placed[~roi.rows(top, top + len(rows), width), 0] = 0
            top += len(rows)
            yield placed
        yield from _zeros(height - bottom, width, depth)

    @without_gradients
    def _scored(
        self, blocks: Iterator[Pixels], size: tuple[int, int], target: tuple[int, int], *, reconstruction: bool
    ) -> Iterator[Array]:
        """Bands (1 + C, h, w) at the working scale: what is mapped, and the reconstruction or nothing."""
        top, number = 0, self.scorer.parts * len(self.config.scales)
        for rows in self._layers(blocks, size, target, reconstruction=reconstruction):
            mapped = self.artifact.mapped(rows[:number], top=top, height=target[0])
            yield namespace_of(rows).concat((mapped[None], rows[number:]))
            top += rows.shape[1]

    @without_gradients
    def _layers(
        self, blocks: Iterator[Pixels], size: tuple[int, int], target: tuple[int, int], *, reconstruction: bool
    ) -> Iterator[Array]:
        """Bands of `score_rows` at the working scale, without padding."""
        config, (height, width) = self.config, target
        small = resized_bands(blocks, size, target)
        padding = left, right, top, bottom = padding_of(height, width, config.model.patch, pad=config.tiling.pad)
        if top or bottom:  # lower than a patch: few rows, which reflect each other
            small = iter([np.concatenate(list(small))])
        padded = (reflected(rows, padding) for rows in small)
        full = top + height + bottom, left + width + right
        multiple = 1 if self.scorer.encoder is None else self.scorer.encoder.spacing
        down, across = (rim_of(side, multiple) for side in full)
        rimmed = with_rim(padded, down, across) if down or across else padded
        # A copy, always: torch warns of arrays that must not be written to.
        copies = (np.array(rows.transpose(2, 0, 1), order="C") for rows in rimmed)
        scored = score_rows(
            (on_device(rows, self.scorer.device) for rows in copies),
            (full[0] + down, full[1] + across),
            self.scorer,
            Grid(config.model.patch, config.tiling.stride),
            config.tiling,
            scales=config.scales,
            reconstruction=reconstruction,
        )
        start = -top
        for rows in scored:
            band = rows[:, max(0, -start) : max(0, height - start), left : left + width]
            if band.shape[1]:
                yield band
            start += rows.shape[1]

    def checked(self, image: Pixels) -> Pixels:
        """An image with the channels of the model. InputError unless it is (H, W, C) in [0, 1]."""
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


def _pixels(rows: Array) -> Pixels:
    """Rows (C, h, W) as (h, W, C)."""
    return np.ascontiguousarray(as_numpy(rows).transpose(1, 2, 0), np.float32)


def _cut(bands: Iterable[Pixels], box: Box) -> Iterator[Pixels]:
    """The part of an image in a box, by rows; the image is read to its end."""
    left, top, right, bottom = box
    start = 0
    for band in bands:
        inside = band[max(0, top - start) : max(0, bottom - start), left:right]
        start += len(band)
        if len(inside):
            yield inside


def _resized(
    blocks: Iterator[FloatMap], depth: int, size: tuple[int, int], target: tuple[int, int]
) -> Iterator[FloatMap]:
    """Bands (h, W, depth) at another size: the residual and the reconstruction each within its own range."""
    if depth == 1:
        return resized_bands(blocks, size, target)
    first, second = tee(blocks)
    residuals = resized_bands((rows[:, :, :1] for rows in first), size, target)
    pictures = resized_bands((rows[:, :, 1:] for rows in second), size, target)
    return map(np.dstack, zip(residuals, pictures, strict=True))


def _zeros(rows: int, width: int, depth: int) -> Iterator[FloatMap]:
    for window in windows(rows, band_rows(width), 0):
        yield np.zeros((window.last - window.first, width, depth), np.float32)


def _opened(rows: FloatMap, diameter: int) -> FloatMap:
    """Rows (h, W, 1 + C) with the residual opened."""
    return np.dstack((opened(rows[:, :, 0], diameter), rows[:, :, 1:]))

"""One detector object, used by the Python API, the command line and everything built on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flawmap.core.checks import image_array
from flawmap.core.device import autocast
from flawmap.core.errors import ArtifactError, ConfigError, InputError
from flawmap.core.records import FloatMap, Inspection, Mask
from flawmap.core.settings import Config
from flawmap.imaging.morphology import find_regions, opened, threshold_mask
from flawmap.imaging.reading import LoadedImage, Pixels, read_image
from flawmap.imaging.resize import resized_bands, scale_of_part, to_size, to_working_size, working_size
from flawmap.imaging.roi import bounding_box, roi_mask
from flawmap.imaging.rows import RowBuffer, band_rows, windows
from flawmap.methods.residuals import Decoded
from flawmap.methods.table import build_network
from flawmap.nets.variational import VariationalAutoencoder, fixed_noise
from flawmap.scoring.borders import border_corrected
from flawmap.scoring.engines import ENGINES, choose_engine, start_engine
from flawmap.scoring.model_file import Artifact, load_artifact
from flawmap.scoring.pipeline import BATCH_ELSEWHERE, Reconstruct, Scored, score_bands, score_image

COLOUR_NAMES = {1: "grey", 3: "colour"}


class ScoreMaps(NamedTuple):
    """Everything a picture of one image needs, in the image's own pixels.

    residual: (H, W), not opened. reconstruction: (H, W, C). inside: the region of interest, None = everywhere.
    """

    residual: FloatMap
    reconstruction: Pixels
    inside: Mask | None


@dataclass(frozen=True)
class Detector:
    """A trained network with everything around it: image -> residual map -> inspection.

    Scores do not depend on which images are scored together: the patches of an image run in batches of one size.

    network: the module itself, or what an engine made of it; the engine is no part of the model.
    """

    artifact: Artifact
    network: Reconstruct
    device: torch.device
    precision: torch.dtype
    engine: str = "torch"

    @classmethod
    def load(
        cls, path: Path | str, *, device: str = "auto", precision: str = "auto", engine: str = "torch"
    ) -> Detector:
        """The detector of a `.flawmap` file. Raises ArtifactError for a damaged, foreign or newer file."""
        return cls.of(load_artifact(Path(path)), device=device, precision=precision, engine=engine)

    @classmethod
    def of(
        cls, artifact: Artifact, *, device: str = "auto", precision: str = "auto", engine: str = "torch"
    ) -> Detector:
        """The detector of a model in memory.

        engine: torch, onnxruntime or openvino; what else than torch runs the network does so on the CPU.
        Raises:
            ConfigError: the engine cannot run this model, there, or in that precision.
            InputError: its package, of the extra `export`, is not installed.
        """
        where, how = choose_engine(engine, device, precision, artifact.config)
        network = build_network(artifact.config)
        try:
            network.load_state_dict(artifact.weights)
        except RuntimeError as error:
            raise ArtifactError(f"the weights do not fit the settings beside them: {error}") from None
        placed = network.to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return cls(artifact, start_engine(engine, placed, how), where, how, engine)

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
        return self.explain(image, path=path).residual

    def explain(self, image: Pixels, *, path: Path | str | None = None) -> ScoreMaps:
        """The residual map together with the reconstruction it comes from."""
        image = self._checked(image)
        return self.explain_inside(image, self.region(image, path), image.shape[:2])

    def explain_inside(self, image: Pixels, inside: Mask | None, whole: tuple[int, int]) -> ScoreMaps:
        """`explain` for an image, or a part of one, whose region of interest is known.

        whole: (height, width) of the file the image was cut from; a scale given as a size refers to it.
        """
        image = self._checked(image)
        left, top, right, bottom = (0, 0, image.shape[1], image.shape[0]) if inside is None else bounding_box(inside)
        part = image[top:bottom, left:right]
        residual, reconstruction = self._score_part(
            part, scale_of_part(self.config.images.scale, whole, part.shape[:2])
        )
        if inside is None:
            return ScoreMaps(residual, reconstruction, None)
        spread = np.zeros(image.shape[:2], np.float32)
        spread[top:bottom, left:right] = residual
        spread[~inside] = 0
        rebuilt = image.copy()
        rebuilt[top:bottom, left:right] = reconstruction
        return ScoreMaps(spread, rebuilt, inside)

    def region(self, image: Pixels, path: Path | str | None = None) -> Mask | None:
        """Where this image counts: (H, W) bool; None = everywhere."""
        region = self.config.images.roi
        if region.masks is not None and path is None:
            raise InputError(
                "this detector's region of interest is a folder of masks, found by the image's name; pass path="
            )
        return roi_mask(Path(path or "image"), image, region)

    def opened(self, residual: FloatMap) -> FloatMap:
        """The residual map without peaks that are smaller than the opening's circle."""
        return opened(residual, self.config.threshold.opening)

    def inspect(
        self, image: Pixels | Path | str, *, path: Path | str | None = None, threshold: float | None = None
    ) -> Inspection:
        """Mask, regions, score and verdict of an image, given as a file or as (H, W, C) float32 in [0, 1].

        threshold: instead of the model's own.
        """
        notes: tuple[str, ...] = ()
        if isinstance(image, str | Path):
            path = image
            loaded = self.read(image)
            image, notes = loaded.pixels, loaded.notes
        return self.judge(self.explain(image, path=path), path=path, notes=notes, threshold=threshold)

    def judge(
        self,
        explained: ScoreMaps,
        *,
        path: Path | str | None = None,
        notes: tuple[str, ...] = (),
        threshold: float | None = None,
    ) -> Inspection:
        """The inspection that follows from a residual map: opening, threshold, regions. Nothing is rescaled."""
        limit = self.limit(threshold)
        residual = self.opened(explained.residual)
        if explained.inside is not None:
            residual = np.where(explained.inside, residual, np.float32(0))
        mask = threshold_mask(residual, limit, explained.inside)
        return Inspection(
            score=float(residual.max()),
            threshold=limit,
            verdict="flawed" if mask.any() else "ok",
            regions=find_regions(mask, residual),
            residual=residual,
            mask=mask,
            path=None if path is None else str(path),
            notes=notes,
        )

    def limit(self, threshold: float | None = None) -> float:
        """The threshold given, or else the model's own. ConfigError if there is neither."""
        limit = self.artifact.threshold if threshold is None else threshold
        if limit is None:
            raise ConfigError(
                "this model has no threshold; pass one, or train with good images held out (validation > 0)"
            )
        return limit

    def _checked(self, image: Pixels) -> Pixels:
        image_array(image)
        channels = self.config.model.channels or 1
        if image.shape[2] != channels:
            raise InputError(
                f"this model was trained on {COLOUR_NAMES[channels]} images, got a {COLOUR_NAMES[image.shape[2]]} one; "
                f"convert the image, or train with --mode {COLOUR_NAMES[channels]} so that every image is converted"
            )
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            raise InputError(
                f"image must lie in [0, 1], got values from {low:g} to {high:g}; divide by the value that is white"
            )
        return np.asarray(image, dtype=np.float32)

    def score_worked(self, small: Pixels) -> Scored:
        """Pad, stride and level the border of an image (h, w, C) that is as worked, cut and scaled already."""
        # A copy, always: torch warns of arrays that must not be written to.
        tensor = torch.from_numpy(np.array(small.transpose(2, 0, 1), order="C")).to(self.device)
        padded, (top, left) = self._padded(tensor)
        height, width = small.shape[:2]
        window = (slice(top, top + height), slice(left, left + width))
        with torch.inference_mode():
            scored = score_image(padded, self._decode, self.config, self._most)
            residual = self._levelled(scored.residual[window], 0, height)
            return Scored(residual, scored.reconstruction[(slice(None), *window)])

    @torch.inference_mode()
    def score_bands(
        self, blocks: Iterable[Pixels], size: tuple[int, int], whole: tuple[int, int]
    ) -> Iterator[FloatMap]:
        """The residual map of an image, or a part of one, that comes by rows: that of `explain`, to float32 rounding.

        Args:
            blocks: (h, W, C) in [0, 1], one below the other. size: (H, W) of all of them.
            whole: (height, width) of the file; a scale given as a size refers to it.
        Returns:
            Bands (h, W) of the map, in the pixels of the image; memory does not grow with its height.
        """
        height, width = working_size(*size, scale_of_part(self.config.images.scale, whole, size))
        small = resized_bands((self._checked(block) for block in blocks), size, (height, width))
        left, right, top, bottom = padding = self._padding(height, width)
        if top or bottom:  # lower than a patch: few rows, which reflect each other
            small = iter([np.concatenate(list(small))])
        tensors = (torch.from_numpy(np.array(rows.transpose(2, 0, 1), order="C")).to(self.device) for rows in small)
        padded = (functional.pad(rows[None], padding, mode="reflect")[0] if any(padding) else rows for rows in tensors)
        room = (top + height + bottom, left + width + right)
        scored = RowBuffer(
            score_bands(padded, room, self._decode, self.config, rows=band_rows(room[1]), most=self._most)
        )
        maps = (
            self._levelled(
                scored.take(top + window.first, top + window.last)[:, left : left + width], window.first, height
            )
            for window in windows(height, band_rows(width), 0)
        )
        for residual in resized_bands((rows.float().cpu().numpy()[:, :, None] for rows in maps), (height, width), size):
            yield np.ascontiguousarray(residual[:, :, 0])

    def _levelled(self, residual: Tensor, top: int, height: int) -> Tensor:
        """A band of the map, from row `top` of `height`, with its border levelled if the model does that."""
        border = self.artifact.border
        return residual if border is None else border_corrected(residual, border, top=top, height=height)

    def _score_part(self, image: Pixels, scale: float | tuple[int, int]) -> tuple[FloatMap, Pixels]:
        """The residual and the reconstruction in the image's own pixels."""
        scored, shape = self.score_worked(to_working_size(image, scale)), image.shape[:2]
        residual = np.ascontiguousarray(scored.residual.float().cpu().numpy())
        channels = np.ascontiguousarray(scored.reconstruction.float().cpu().numpy())
        return to_size(residual, shape), np.stack([to_size(channel, shape) for channel in channels], axis=2)

    def _padded(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The image reflected to at least one patch, if that was asked for, and where it begins in it."""
        height, width = image.shape[-2:]
        left, right, top, bottom = self._padding(height, width)
        if not any((left, right, top, bottom)):
            return image, (0, 0)
        return functional.pad(image[None], (left, right, top, bottom), mode="reflect")[0], (top, left)

    def _padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels that an image lacks of a patch at its left, right, top and bottom, if it is to be padded."""
        missing = [max(0, self.config.model.patch - side) for side in (height, width)]
        if not self.config.tiling.pad:
            return 0, 0, 0, 0
        if any(lack > 2 * (side - 1) for lack, side in zip(missing, (height, width), strict=True)):
            least = -(-(self.config.model.patch + 2) // 3)  # each end mirrors at most one pixel less than the side
            raise InputError(
                f"image must be at least {least}x{least} pixels to be padded by reflection to a patch of "
                f"{self.config.model.patch}, got {width}x{height}; use a smaller patch or a larger scale"
            )
        top, left = missing[0] // 2, missing[1] // 2
        return left, missing[1] - left, top, missing[0] - top

    def _decode(self, patches: Tensor) -> Tensor | Decoded:
        """What the residual compares patches with: their reconstructions, or the mean and spread of samples of them."""
        settings = self.config.residual
        if settings.name != "probability":
            return self._reconstruct(patches)
        network = self.network
        assert isinstance(network, VariationalAutoencoder)  # the settings refuse other networks
        noise = fixed_noise(settings.samples, self.config.model.latent).to(self.device)
        samples = self._forward(patches, lambda batch: network.samples(batch, noise))
        spread, mean = torch.var_mean(samples, dim=1, correction=0)
        return Decoded(mean, spread, network.noise)

    def _reconstruct(self, patches: Tensor) -> Tensor:
        return self._forward(patches, self.network)

    def _forward(self, patches: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with autocast(self.device, self.precision):
            return function(patches.contiguous(memory_format=torch.channels_last)).float().contiguous()

    @property
    def _most(self) -> int:
        """Patches at once."""
        return ENGINES[self.engine].batch if self.device.type == "cpu" else BATCH_ELSEWHERE

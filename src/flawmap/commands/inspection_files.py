"""The pictures of one inspected image, written while its bands arrive: mask, overlay and residual map."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.files import writable_folder
from flawmap.core.records import Mask
from flawmap.imaging.writing import tiled_tiff, write_image
from flawmap.reporting.pictures import ReducedOverlay, overlay
from flawmap.scoring.inspection import Band

ENDINGS = ("_mask", "_overlay", "_residual")
"""What the names of an inspection's pictures end in."""


class WholeFiles(AbstractContextManager["WholeFiles"]):
    """An image that is held whole: `NAME_mask.png`, `NAME_overlay.png`, `NAME_residual.tif`, written at the end."""

    def __init__(self, target: Path, outputs: InspectionOutputs) -> None:
        self._target, self._outputs = target, outputs
        self._bands: list[tuple[Band, Mask]] = []

    def add(self, band: Band, mask: Mask) -> None:
        self._bands.append((band, mask))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            return
        folder, name = writable_folder(self._target.parent), self._target.name
        mask = np.concatenate([mask for _, mask in self._bands])
        write_image(folder / f"{name}_mask.png", mask)
        if self._outputs.overlays:
            pixels = np.concatenate([band.image for band, _ in self._bands])
            write_image(folder / f"{name}_overlay.png", overlay(pixels, mask))
        if self._outputs.residuals:
            write_image(folder / f"{name}_residual.tif", np.concatenate([band.residual for band, _ in self._bands]))


class BandFiles(AbstractContextManager["BandFiles"]):
    """A large image: mask and residual map are BigTIFF in tiles, written as bands arrive, the overlay is reduced.

    Files take their names when the block ends well; an exception leaves nothing of them.
    """

    def __init__(self, target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs) -> None:
        self._target, self._shape, self._outputs = target, shape, outputs
        self._files = ExitStack()
        self._overlay = ReducedOverlay(shape) if outputs.overlays else None
        self._mask: Callable[[NDArray[Any]], None]
        self._residual: Callable[[NDArray[Any]], None] | None = None

    def __enter__(self) -> Self:
        folder, name, size = writable_folder(self._target.parent), self._target.name, self._shape[:2]
        with ExitStack() as files:
            self._mask = files.enter_context(tiled_tiff(folder / f"{name}_mask.tif", size, np.uint8))
            if self._outputs.residuals:
                self._residual = files.enter_context(tiled_tiff(folder / f"{name}_residual.tif", size, np.float32))
            self._files = files.pop_all()
        return self

    def add(self, band: Band, mask: Mask) -> None:
        self._mask(mask.astype(np.uint8) * np.uint8(255))
        if self._residual is not None:
            self._residual(band.residual)
        if self._overlay is not None:
            self._overlay.add(band.image, mask)

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)
        if error[0] is None and self._overlay is not None:
            write_image(self._target.with_name(f"{self._target.name}_overlay.png"), self._overlay.picture())


def inspection_files(
    target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs, *, large: bool
) -> WholeFiles | BandFiles:
    """Where the bands of an image (H, W, C) go. target: the path of its pictures, without their endings."""
    return BandFiles(target, shape, outputs) if large else WholeFiles(target, outputs)

"""The pictures of one inspected image: mask, overlay and residual map.

Those of an image that is held whole are written after its last band, by any thread. A large image's are written while
its bands arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

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


Writing = Callable[[], None]
"""What is left to be written. OutputError: the disk is full or refuses it. InputError: the values cannot be written."""


class Files(Protocol):
    """Takes the bands of an image one below the other, and after the last one their masks."""

    def add(self, band: Band) -> None: ...
    def finish(self, masks: Iterable[Mask]) -> Writing: ...


class _WholeFiles:
    """An image that is held whole: `NAME_mask.png`, `NAME_overlay.png`, `NAME_residual.tif`, left to be written."""

    def __init__(self, target: Path, outputs: InspectionOutputs) -> None:
        self._target, self._outputs = target, outputs
        self._bands: list[Band] = []

    def add(self, band: Band) -> None:
        self._bands.append(band)

    def finish(self, masks: Iterable[Mask]) -> Writing:
        whole = np.concatenate(list(masks))
        pictures: dict[str, NDArray[Any]] = {"mask.png": whole}
        if self._outputs.overlays:
            pictures["overlay.png"] = overlay(np.concatenate([band.image for band in self._bands]), whole)
        if self._outputs.residuals:
            pictures["residual.tif"] = np.concatenate([band.residual for band in self._bands])
        return partial(_write, self._target, pictures)


def _write(target: Path, pictures: Mapping[str, NDArray[Any]]) -> None:
    folder = writable_folder(target.parent)
    for ending, values in pictures.items():
        write_image(folder / f"{target.name}_{ending}", values, quick=True)


class _BandFiles:
    """A large image: mask and residual map are BigTIFF in tiles, the overlay is reduced."""

    def __init__(self, target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs, files: ExitStack) -> None:
        folder, self._name = writable_folder(target.parent), target.name
        self._folder, self._files, self._size = folder, files, shape[:2]
        self._reduced = ReducedOverlay(shape) if outputs.overlays else None
        self._add_residual = None
        if outputs.residuals:
            self._add_residual = files.enter_context(
                tiled_tiff(folder / f"{self._name}_residual.tif", self._size, np.float32)
            )

    def add(self, band: Band) -> None:
        if self._add_residual is not None:
            self._add_residual(band.residual)
        if self._reduced is not None:
            self._reduced.add_image(band.image)

    def finish(self, masks: Iterable[Mask]) -> Writing:
        add_mask = self._files.enter_context(tiled_tiff(self._folder / f"{self._name}_mask.tif", self._size, np.uint8))
        for mask in masks:
            add_mask(mask.astype(np.uint8) * np.uint8(255))
            if self._reduced is not None:
                self._reduced.add_mask(mask)
        if self._reduced is not None:
            write_image(self._folder / f"{self._name}_overlay.png", self._reduced.picture(), quick=True)
        return lambda: None


@contextmanager
def _band_files(target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs) -> Iterator[Files]:
    """Files take their names when the block ends well; an exception leaves nothing of them."""
    with ExitStack() as files:
        yield _BandFiles(target, shape, outputs, files)


def inspection_files(
    target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs, *, large: bool
) -> AbstractContextManager[Files]:
    """What takes the bands of an image (H, W, C). target: the path of its pictures, without their endings."""
    return _band_files(target, shape, outputs) if large else nullcontext(_WholeFiles(target, outputs))

"""The pictures of one inspected image, written while its bands arrive: mask, overlay and residual map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np

from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.files import writable_folder
from flawmap.core.records import Mask
from flawmap.imaging.writing import tiled_tiff, write_image
from flawmap.reporting.pictures import ReducedOverlay, overlay
from flawmap.scoring.inspection import Band

ENDINGS = ("_mask", "_overlay", "_residual")
"""What the names of an inspection's pictures end in."""

Add = Callable[[Band, Mask], None]
"""Takes the band below the last one, and its mask."""


@contextmanager
def _whole_files(target: Path, outputs: InspectionOutputs) -> Iterator[Add]:
    """An image that is held whole: `NAME_mask.png`, `NAME_overlay.png`, `NAME_residual.tif`, written at the end."""
    bands: list[tuple[Band, Mask]] = []
    yield lambda band, mask: bands.append((band, mask))
    folder, name = writable_folder(target.parent), target.name
    whole = np.concatenate([mask for _, mask in bands])
    write_image(folder / f"{name}_mask.png", whole)
    if outputs.overlays:
        pixels = np.concatenate([band.image for band, _ in bands])
        write_image(folder / f"{name}_overlay.png", overlay(pixels, whole))
    if outputs.residuals:
        write_image(folder / f"{name}_residual.tif", np.concatenate([band.residual for band, _ in bands]))


@contextmanager
def _band_files(target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs) -> Iterator[Add]:
    """A large image: mask and residual map are BigTIFF in tiles, written as bands arrive, the overlay is reduced.

    Files take their names when the block ends well; an exception leaves nothing of them.
    """
    folder, name, size = writable_folder(target.parent), target.name, shape[:2]
    reduced = ReducedOverlay(shape) if outputs.overlays else None
    with ExitStack() as files:
        add_mask = files.enter_context(tiled_tiff(folder / f"{name}_mask.tif", size, np.uint8))
        add_residual = None
        if outputs.residuals:
            add_residual = files.enter_context(tiled_tiff(folder / f"{name}_residual.tif", size, np.float32))

        def add(band: Band, mask: Mask) -> None:
            add_mask(mask.astype(np.uint8) * np.uint8(255))
            if add_residual is not None:
                add_residual(band.residual)
            if reduced is not None:
                reduced.add(band.image, mask)

        yield add
    if reduced is not None:
        write_image(folder / f"{name}_overlay.png", reduced.picture())


def inspection_files(
    target: Path, shape: tuple[int, int, int], outputs: InspectionOutputs, *, large: bool
) -> AbstractContextManager[Add]:
    """What takes the bands of an image (H, W, C). target: the path of its pictures, without their endings."""
    return _band_files(target, shape, outputs) if large else _whole_files(target, outputs)

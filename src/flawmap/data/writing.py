"""Writing a synthetic data set in the layout of MVTec AD."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import shape_text
from flawmap.core.errors import InputError
from flawmap.core.files import writable_folder
from flawmap.core.records import Mask
from flawmap.data.finding import files_below
from flawmap.data.samples import MARKER
from flawmap.imaging.formats import is_image
from flawmap.imaging.writing import write_image


def write_mvtec(
    folder: Path,
    good_train: Iterable[NDArray[Any]],
    good_test: Iterable[NDArray[Any]],
    bad: Iterable[tuple[str, NDArray[Any], Mask]],
) -> dict[str, int]:
    """Write a data set in the layout of MVTec AD, as 8-bit PNG. An older one by flawmap in that folder is replaced.

    Args:
        good_train, good_test: (H, W), (H, W, 1) or (H, W, 3), uint8 or floating point in [0, 1]. bad: the kind of
            flaw (a folder's name), the image, and its mask, (H, W) bool.
    Returns:
        Images written, by folder: {"train/good": 20, "test/good": 5, "test/hole": 3}.
    Raises:
        InputError: the folder holds files that flawmap did not write, or cannot be written to.
    """
    _clear(folder)
    counts: Counter[str] = Counter()
    for place, images in (("train/good", good_train), ("test/good", good_test)):
        for image in images:
            _write_numbered(folder / place, counts[place], image)
            counts[place] += 1
    for kind, image, mask in bad:
        if not kind or kind == "good" or kind.startswith(".") or Path(kind).name != kind:
            raise InputError(f"a kind of flaw must be usable as a folder's name and not be good, got {kind!r}")
        if mask.shape != image.shape[:2]:
            raise InputError(
                f"a mask has its image's shape, {shape_text(image.shape[:2])}, got {shape_text(mask.shape)}"
            )
        place = f"test/{kind}"
        _write_numbered(folder / place, counts[place], image)
        truth = writable_folder(folder / "ground_truth" / kind)
        write_image(truth / f"{counts[place]:03d}_mask.png", mask)
        counts[place] += 1
    return dict(counts)


def _write_numbered(folder: Path, number: int, image: NDArray[Any]) -> None:
    if image.dtype.kind == "f":
        if not (image.min() >= 0 and image.max() <= 1):  # also true of NaN
            raise InputError(f"floating-point images must lie in [0, 1], got {image.min():g} to {image.max():g}")
        image = np.rint(image * 255).astype(np.uint8)
    write_image(writable_folder(folder) / f"{number:03d}.png", image)


def _clear(folder: Path) -> None:
    """An empty folder with the marker in it: made, or emptied of an older data set that has the marker."""
    files = list(files_below(folder, hidden=True)) if folder.is_dir() else []
    marked = (folder / MARKER).is_file()
    foreign = [file for file in files if not _written_here(file.relative_to(folder))] if marked else files
    if foreign:
        raise InputError(
            f"the folder {folder} holds files that flawmap did not write ({foreign[0].relative_to(folder)}); "
            "name an empty or a new folder"
        )
    for part in ("train", "test", "ground_truth"):
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
    writable_folder(folder)
    (folder / MARKER).write_text("written by flawmap; writing again replaces this folder's images\n", encoding="utf-8")


def _written_here(relative: Path) -> bool:
    """Whether a file has a place and name that `write_mvtec` gives."""
    if relative.parts == (MARKER,):
        return True
    numbered = relative.stem.removesuffix("_mask").isdigit() and is_image(relative)
    return len(relative.parts) == 3 and relative.parts[0] in ("train", "test", "ground_truth") and numbered

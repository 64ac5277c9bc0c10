"""Data sets as a whole: what they hold, what is trained on, and writing a synthetic one.

Finding files is `layouts`, parting them `splits`, patches `sampling`, regions `interest`; their public names are
here too.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawmap.checks import shape_text
from flawmap.config import ImageSettings, SplitSettings
from flawmap.errors import InputError
from flawmap.files import sha256_of, writable_folder
from flawmap.images import (
    LoadedImage,
    Pixels,
    files_below,
    is_image,
    part_scale,
    read_header,
    read_image,
    read_mask,
    to_size,
    worked,
    worked_size,
    write_image,
)
from flawmap.interest import bounding_box, judged, region_mask, region_of_shape
from flawmap.layouts import MARKER, Dataset, Sample, find_dataset
from flawmap.records import Mask
from flawmap.sampling import PatchSource, Piece, augment
from flawmap.splits import Area, Box, Split, refuse_trained, split_good

__all__ = [
    "Area",
    "Dataset",
    "DatasetSummary",
    "PatchSource",
    "Sample",
    "Split",
    "Tally",
    "augment",
    "describe",
    "find_dataset",
    "judged",
    "load_area",
    "pieces",
    "refuse_mixed",
    "refuse_trained",
    "region_mask",
    "split_dataset",
    "split_good",
    "write_mvtec",
]


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set holds; paths are as found.

    counts: images per (split, label, kind). sizes: images per (width, height), pixels. modes: images per sentence
    such as "grey, uint8". masks: "matched", "missing" (a defective image has none), "empty" (a mask without a flaw),
    "wrong size" and "unreadable", each with its images. outside: defective images whose defects all lie outside the
    region of interest: neither good nor defective there. duplicates: groups of files of one content.
    problems: images that cannot be read or do not fit the region, and why.
    """

    root: Path
    layout: str
    counts: Mapping[tuple[str, str, str], int]
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    masks: Mapping[str, tuple[Path, ...]]
    outside: tuple[Path, ...]
    duplicates: tuple[tuple[Path, ...], ...]
    problems: tuple[tuple[Path, str], ...]
    ignored: tuple[tuple[Path, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON's types."""
        return {
            "root": str(self.root),
            "layout": self.layout,
            "counts": [
                {"split": split, "label": label, "kind": kind, "images": count}
                for (split, label, kind), count in self.counts.items()
            ],
            "sizes": [{"width": width, "height": height, "images": n} for (width, height), n in self.sizes.items()],
            "modes": dict(self.modes),
            "masks": {
                state: len(paths) if state == "matched" else [str(path) for path in paths]
                for state, paths in self.masks.items()
            },
            "outside": [str(path) for path in self.outside],
            "duplicates": [[str(path) for path in group] for group in self.duplicates],
            "problems": [{"path": str(path), "problem": problem} for path, problem in self.problems],
            "ignored": [{"path": str(path), "reason": reason} for path, reason in self.ignored],
        }


def describe(dataset: Dataset, settings: ImageSettings) -> DatasetSummary:
    """Look a data set over: headers of its images, all of its masks, and what the region of interest does to it.

    Nothing raises over a single file: it is listed under problems. Pixels are read only for a brightness region, and
    file contents compared only among files of one length.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    masks: dict[str, list[Path]] = {state: [] for state in ("matched", "missing", "empty", "wrong size", "unreadable")}
    outside: list[Path] = []
    problems: list[tuple[Path, str]] = []
    for sample in dataset.samples:
        try:
            header = read_header(sample.path)
            sizes[header.width, header.height] += 1
            modes[f"{'grey' if header.channels == 1 else 'colour'}, {header.stored}"] += 1
            shape = (header.height, header.width)
            mask = _look_at_mask(sample, shape, masks, problems)
            if judged(sample.label, mask, _inside(sample, shape, mask, settings)) == "outside":
                outside.append(sample.path)
        except InputError as error:
            problems.append((sample.path, str(error)))
    return DatasetSummary(
        root=dataset.root,
        layout=dataset.layout,
        counts=dict(Counter((sample.split, sample.label, sample.kind) for sample in dataset.samples)),
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
        masks={state: tuple(paths) for state, paths in masks.items()},
        outside=tuple(outside),
        duplicates=_duplicates([sample.path for sample in dataset.samples]),
        problems=tuple(problems),
        ignored=dataset.ignored,
    )


def _look_at_mask(
    sample: Sample, shape: tuple[int, int], masks: dict[str, list[Path]], problems: list[tuple[Path, str]]
) -> Mask | None:
    """Put a defective image under the state of its mask; the mask if it is of use."""
    if sample.label == "good":
        return None
    if sample.mask is None:
        masks["missing"].append(sample.path)
        return None
    try:
        mask = read_mask(sample.mask)
    except InputError as error:
        masks["unreadable"].append(sample.path)
        problems.append((sample.path, str(error)))
        return None
    state = "wrong size" if mask.shape != shape else "matched" if mask.any() else "empty"
    masks[state].append(sample.path)
    return mask if state == "matched" else None


def _inside(sample: Sample, shape: tuple[int, int], mask: Mask | None, settings: ImageSettings) -> Mask | None:
    """The region of interest; by brightness only where there is a mask for it to cut."""
    region = settings.region
    if region.brightness is None:
        return region_of_shape(sample.path, shape, region)
    return region_mask(sample.path, read_image(sample.path, settings).pixels, region) if mask is not None else None


def _duplicates(paths: Sequence[Path]) -> tuple[tuple[Path, ...], ...]:
    by_length: dict[int, list[Path]] = {}
    for path in paths:
        if path.is_file():
            by_length.setdefault(path.stat().st_size, []).append(path)
    by_content: dict[str, list[Path]] = {}
    for group in by_length.values():
        for path in group if len(group) > 1 else ():
            by_content.setdefault(sha256_of(path), []).append(path)
    return tuple(tuple(group) for group in by_content.values() if len(group) > 1)


def split_dataset(samples: Sequence[Sample], images: ImageSettings, split: SplitSettings, patch: int) -> Split:
    """`split_good` with what the image settings say: a patch's side in the image's own pixels, and the region.

    Args:
        patch: P, pixels of the worked image.
    """
    good = [sample.path for sample in samples if (sample.split, sample.label) == ("train", "good")]
    factors = [min(_factors(path, images)) for path in good] if isinstance(images.scale, tuple) else [images.scale]
    side = math.ceil(patch / min(factors)) if factors else patch

    def bounds(path: Path) -> Box:
        inside = region_mask(path, read_image(path, images).pixels, images.region)
        assert inside is not None
        return bounding_box(inside)

    return split_good(samples, split, side, None if images.region.everywhere else bounds)


def _factors(path: Path, images: ImageSettings) -> tuple[float, float]:
    header = read_header(path)
    height, width = worked_size(header.height, header.width, images.scale)
    return height / header.height, width / header.width


def load_area(area: Area, settings: ImageSettings) -> tuple[Pixels, Mask | None]:
    """An area as it is worked: cut out, cut down to the region of interest's bounding box, then scaled.

    Returns:
        (H, W, C) float32 in [0, 1], and (H, W) bool, True = inside, or None where all of it is.
    Raises:
        InputError: unreadable, a box or region that does not fit, or nothing of the area inside the region.
    """
    return _prepared(area, read_image(area.path, settings), settings)


@dataclass(frozen=True)
class Tally:
    """What is said of images that come one by one, and of how many; complete once the last has come.

    notes: in what was done to them. stored: in their type of values. sizes: in the size they are worked at, "WxH".
    """

    notes: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)


def pieces(areas: Iterable[Area], settings: ImageSettings, tally: Tally) -> Iterator[Piece]:
    """The areas as they are worked, read one by one.

    Args:
        tally: is added to as they come.
    Raises:
        InputError: an unreadable file, or what `load_area` raises.
    """
    for area in areas:
        try:
            image = read_image(area.path, settings)
        except InputError as error:
            raise InputError(f"{error}; remove it, or leave such files out with --skip-unreadable") from error
        pixels, inside = _prepared(area, image, settings)
        tally.notes.update(image.notes)
        tally.stored[image.stored] += 1
        tally.sizes[f"{pixels.shape[1]}x{pixels.shape[0]}"] += 1
        yield Piece(pixels, inside, str(area.path))


def refuse_mixed(channels: Iterable[int]) -> None:
    """Raise InputError unless all images have one number of channels."""
    counts = Counter(channels)
    if len(counts) > 1:
        raise InputError(
            f"the images are mixed: {counts[1]} grey and {counts[3]} in colour; make them alike with "
            "--mode grey or --mode colour"
        )


def _prepared(area: Area, image: LoadedImage, settings: ImageSettings) -> tuple[Pixels, Mask | None]:
    pixels, inside = image.pixels, region_mask(area.path, image.pixels, settings.region)
    height, width = pixels.shape[:2]
    if area.box is not None:
        left, top, right, bottom = area.box
        if right > width or bottom > height:
            raise InputError(
                f"the area {area.box} does not lie in {area.path}, {width} x {height}; has the file changed?"
            )
        pixels = pixels[top:bottom, left:right]
        inside = inside[top:bottom, left:right] if inside is not None else None
    if inside is not None:
        if not inside.any():
            raise InputError(f"nothing of {area.path}, area {area.box}, lies in the region of interest")
        left, top, right, bottom = bounding_box(inside)
        pixels, inside = pixels[top:bottom, left:right], inside[top:bottom, left:right]
        inside = None if inside.all() else inside
    sized = worked(pixels, part_scale(settings.scale, (height, width), pixels.shape[:2]))
    # Memory as (C, H, W), which patches are cut from: no second copy is made there.
    sized = np.ascontiguousarray(sized.transpose(2, 0, 1)).transpose(1, 2, 0)
    if inside is not None and sized.shape[:2] != inside.shape:
        # Inside is what has no share of anything outside.
        inside = to_size(inside.astype(np.float32), sized.shape[:2]) > 1 - 1e-4
    return sized, inside


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

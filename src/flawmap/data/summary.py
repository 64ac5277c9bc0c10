"""What a data set is understood to hold: counts, sizes, masks, duplicates, problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawmap.core.errors import InputError
from flawmap.core.files import sha256_of
from flawmap.core.records import Mask
from flawmap.core.settings import ImageSettings
from flawmap.data.layouts import Dataset, Sample
from flawmap.imaging.codecs import read_header
from flawmap.imaging.reading import read_image, read_mask
from flawmap.imaging.roi import label_in_roi, roi_mask, roi_mask_of_shape


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
            if label_in_roi(sample.label, mask, _inside(sample, shape, mask, settings)) == "outside":
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
    region = settings.roi
    if region.brightness is None:
        return roi_mask_of_shape(sample.path, shape, region)
    return roi_mask(sample.path, read_image(sample.path, settings).pixels, region) if mask is not None else None


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

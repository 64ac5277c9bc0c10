"""What a data set is understood to hold: counts, sizes, masks, groups, duplicates, outliers, problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.core.settings import ImageSettings
from flawmap.data.facts import ImageStatistics, all_statistics, image_facts, outliers
from flawmap.data.index import ImageIndex
from flawmap.data.samples import Dataset, Sample
from flawmap.data.truth import distinct_values, truth_of
from flawmap.imaging.reading import opened_image
from flawmap.imaging.roi import find_roi, label_in_roi, roi_mask_of_shape


@dataclass(frozen=True)
class DatasetSummary:
    """What a data set holds; paths are as found.

    counts: images per (split, label, kind). sizes: images per (width, height), pixels. modes: images per sentence
    such as "grey, uint8". masks: "matched", "missing" (a defective image has none), "empty" (a mask without a flaw),
    "wrong size" and "unreadable", each with its images. mask_values: mask files per number of different values in them.
    groups: images to train on per group. facts: sentences on channels and bit depth of the images to train on.
    outliers: images to train on that are unlike the others, and why. outside: defective images whose defects all lie
    outside the region of interest: neither good nor defective there. duplicates: groups of files of one content.
    problems: images that cannot be read or do not fit the region, and why.
    """

    root: Path
    layout: str
    counts: Mapping[tuple[str, str, str], int]
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    masks: Mapping[str, tuple[Path, ...]]
    mask_values: Mapping[int, int]
    groups: Mapping[str, int]
    facts: tuple[str, ...]
    outliers: tuple[tuple[Path, str], ...]
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
            "mask_values": {str(values): count for values, count in self.mask_values.items()},
            "groups": dict(self.groups),
            "facts": list(self.facts),
            "outliers": _reasons(self.outliers, "reason"),
            "outside": [str(path) for path in self.outside],
            "duplicates": [[str(path) for path in group] for group in self.duplicates],
            "problems": _reasons(self.problems, "problem"),
            "ignored": _reasons(self.ignored, "reason"),
        }


def _reasons(entries: Sequence[tuple[Path, str]], name: str) -> list[dict[str, str]]:
    return [{"path": str(path), name: reason} for path, reason in entries]


@dataclass
class _Look:
    """A summary in the making."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    masks: dict[str, list[Path]] = field(
        default_factory=lambda: {state: [] for state in ("matched", "missing", "empty", "wrong size", "unreadable")}
    )
    mask_values: Counter[int] = field(default_factory=Counter)
    outside: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)


def describe(dataset: Dataset, settings: ImageSettings) -> DatasetSummary:
    """Look a data set over: headers of its images, all pixels of those to train on, all masks, the region of interest.

    Nothing raises over a single file: it is listed under problems. File contents are compared only among files of one
    length.
    """
    look, index = _Look(), ImageIndex()
    for sample in dataset.samples:
        try:
            header = index.header(sample.path)
            look.sizes[header.width, header.height] += 1
            look.modes[f"{'grey' if header.channels == 1 else 'colour'}, {header.stored}"] += 1
            shape = (header.height, header.width)
            mask = _look_at_mask(sample, shape, look, settings)
            if label_in_roi(sample.label, mask, _inside(sample, shape, mask, settings)) == "outside":
                look.outside.append(sample.path)
        except InputError as error:
            look.problems.setdefault(sample.path, str(error))
    trained = [sample for sample in dataset.samples if sample.split != "test"]
    facts, strange = _look_at_pixels([sample.path for sample in trained], settings, look)
    return DatasetSummary(
        root=dataset.root,
        layout=dataset.layout,
        counts=dict(Counter((sample.split, sample.label, sample.kind) for sample in dataset.samples)),
        sizes=dict(look.sizes.most_common()),
        modes=dict(look.modes.most_common()),
        masks={state: tuple(paths) for state, paths in look.masks.items()},
        mask_values=dict(sorted(look.mask_values.items())),
        groups=dict(Counter(sample.group for sample in trained if sample.group)),
        facts=facts,
        outliers=strange,
        outside=tuple(look.outside),
        duplicates=_duplicates([sample.path for sample in dataset.samples], index),
        problems=tuple(look.problems.items()),
        ignored=dataset.ignored,
    )


def _look_at_pixels(
    paths: Sequence[Path], settings: ImageSettings, look: _Look
) -> tuple[tuple[str, ...], tuple[tuple[Path, str], ...]]:
    """Sentences about the images together, and those that are unlike the others."""
    found = list(all_statistics(paths, settings))
    for path, image in zip(paths, found, strict=True):
        if isinstance(image, InputError):
            look.problems.setdefault(path, str(image))
    images = [image for image in found if isinstance(image, ImageStatistics)]
    try:
        facts = image_facts(images, settings).sentences
    except InputError as error:
        facts = (str(error),)
    return facts, outliers(images)


def _look_at_mask(sample: Sample, shape: tuple[int, int], look: _Look, settings: ImageSettings) -> Mask | None:
    """Put a defective image under the state of its mask; the mask if it is of use."""
    if sample.label == "good":
        return None
    try:
        mask = truth_of(sample, shape)
    except InputError as error:
        readable = _readable(sample, settings)
        look.masks["wrong size" if readable else "unreadable"].append(sample.path)
        if not readable:
            look.problems[sample.path] = str(error)
        return None
    look.mask_values.update(distinct_values(path, settings.pixel_limit) for path in sample.masks)
    state = "missing" if mask is None else "matched" if mask.any() else "empty"
    look.masks[state].append(sample.path)
    return mask if state == "matched" else None


def _readable(sample: Sample, settings: ImageSettings) -> bool:
    try:
        return all(distinct_values(path, settings.pixel_limit) for path in sample.masks)
    except InputError:
        return False


def _inside(sample: Sample, shape: tuple[int, int], mask: Mask | None, settings: ImageSettings) -> Mask | None:
    """The region of interest; by brightness only where there is a mask for it to cut."""
    region = settings.roi
    if region.brightness is None:
        return roi_mask_of_shape(sample.path, shape, region)
    if mask is None:
        return None
    with opened_image(sample.path, settings) as image:
        return find_roi(image, region).rows(0, *shape)


def _duplicates(paths: Sequence[Path], index: ImageIndex) -> tuple[tuple[Path, ...], ...]:
    by_length: dict[int, list[Path]] = {}
    for path in paths:
        if path.is_file():
            by_length.setdefault(path.stat().st_size, []).append(path)
    by_content: dict[str, list[Path]] = {}
    for group in by_length.values():
        for path in group if len(group) > 1 else ():
            by_content.setdefault(index.sha256(path), []).append(path)
    return tuple(tuple(group) for group in by_content.values() if len(group) > 1)

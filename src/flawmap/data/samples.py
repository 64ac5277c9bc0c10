"""What a data set consists of: samples with their ground truth, and what was ignored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flawmap.core.files import natural_key
from flawmap.data.annotations import Drawing
from flawmap.data.finding import files_below
from flawmap.imaging.formats import is_image, why_ignored

SplitName = Literal["train", "validation", "test"]
Label = Literal["good", "defective"]
Layout = Literal["mvtec", "textures", "loco", "nanotwice", "folders", "labelme", "coco", "manifest", "plain"]

MARKER = ".flawmap-dataset"
"""Name of the hidden file in a folder that flawmap wrote; it belongs to every layout."""

_ORDER = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Sample:
    """One image.

    kind: "good", or the kind of defect by the layout's names. masks: files that show its defects, images or labelme's
    JSON; their union counts. drawing: its defects by COCO's annotations. group: images of one group (a roll, a lot, a
    camera) share a role in training; empty: the image has no group.
    """

    path: Path
    split: SplitName
    label: Label
    kind: str
    masks: tuple[Path, ...] = ()
    drawing: Drawing | None = None
    group: str = ""

    @property
    def annotated(self) -> bool:
        """Whether there is a ground truth of its defects."""
        return bool(self.masks or self.drawing)


@dataclass(frozen=True)
class Dataset:
    """What was found. samples: train, validation, test, each in natural order. ignored: each path, and why."""

    root: Path
    layout: Layout
    samples: tuple[Sample, ...]
    ignored: tuple[tuple[Path, str], ...]

    def select(self, split: SplitName, label: Label) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split and sample.label == label)


@dataclass
class Finding:
    """A data set in the making."""

    root: Path
    samples: list[Sample] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)

    def files(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The images below a folder, and the JSON files that may be annotations; the rest is ignored."""
        images, drawings = [], []
        for file in sorted(files_below(folder, hidden=True), key=natural_key):
            if any(part.startswith(".") for part in file.relative_to(folder).parts):
                self.ignore(file, "hidden")
            elif is_image(file):
                images.append(file)
            elif file.suffix.lower() == ".json":
                drawings.append(file)
            else:
                self.ignore(file, why_ignored(file))
        return images, drawings

    def add_good(self, folder: Path, split: SplitName) -> None:
        """All images below a folder are good."""
        images, drawings = self.files(folder)
        self.samples += [Sample(image, split, "good", "good") for image in images]
        stems = {image.with_suffix("") for image in images}
        for file in drawings:
            self.ignore(file, "annotations of a good image" if file.with_suffix("") in stems else "not an image")

    def ignore(self, path: Path, reason: str) -> None:
        if path.name != MARKER:
            self.ignored.append((path, reason))

    def ignore_others(self, folder: Path, used: Iterable[Path], reason: str) -> None:
        """List a folder's own entries that the layout has no name for."""
        known = set(used)
        for entry in sorted(folder.iterdir(), key=natural_key):
            if entry not in known:
                hidden, foreign = entry.name.startswith("."), entry.is_file() and not is_image(entry)
                self.ignore(entry, "hidden" if hidden else why_ignored(entry) if foreign else reason)

    def dataset(self, layout: Layout) -> Dataset:
        samples = sorted(self.samples, key=lambda sample: (_ORDER[sample.split], natural_key(sample.path)))
        return Dataset(self.root, layout, tuple(samples), tuple(dict.fromkeys(self.ignored)))

"""Which files of a folder are good, which are defective, and which mask belongs to which image.

Five layouts: MVTec AD (train/good, test/<kind>, ground_truth/<kind>), the textures of Bergmann et al. 2019 (the same
with the one kind "defective"), NanoTWICE (Normal, Anomalous/images, Anomalous/gt), a CSV manifest, and a plain
folder of good images. No image is opened here; whatever a layout has no use for is listed with the reason.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flawmap.core.errors import InputError
from flawmap.core.files import natural_key
from flawmap.data.finding import files_below
from flawmap.imaging.codecs import IMAGE_SUFFIXES, is_image

SplitName = Literal["train", "test"]
Label = Literal["good", "defective"]
Layout = Literal["mvtec", "textures", "nanotwice", "manifest", "plain"]

MARKER = ".flawmap-dataset"
"""Name of the hidden file in a folder that flawmap wrote; it belongs to every layout."""

_COLUMNS = ("image", "split", "label", "mask", "kind")
# Folders whose names say that not all below them is good: a plain folder must not hold them.
_NOT_GOOD = {
    "abnormal", "anomalous", "anomaly", "anomalies", "bad", "defect", "defective", "defects", "flawed", "ground_truth",
    "gt", "mask", "masks", "ng", "nok",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One image. kind: "good", or the kind of defect by the layout's names. mask: None for good, or where it lacks."""

    path: Path
    split: SplitName
    label: Label
    mask: Path | None
    kind: str


@dataclass(frozen=True)
class Dataset:
    """What was found. samples: train before test, in natural order. ignored: each path and why it has no part."""

    root: Path
    layout: Layout
    samples: tuple[Sample, ...]
    ignored: tuple[tuple[Path, str], ...]

    def select(self, split: SplitName, label: Label) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split and sample.label == label)


@dataclass
class _Finding:
    """A data set in the making."""

    root: Path
    samples: list[Sample] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)

    def images(self, folder: Path) -> list[Path]:
        """The images below a folder; the rest goes to `ignored`."""
        images = []
        for file in sorted(files_below(folder, hidden=True), key=natural_key):
            if any(part.startswith(".") for part in file.relative_to(folder).parts):
                self.ignore(file, "hidden")
            elif is_image(file):
                images.append(file)
            else:
                self.ignore(file, "not an image")
        return images

    def ignore(self, path: Path, reason: str) -> None:
        if path.name != MARKER:
            self.ignored.append((path, reason))

    def ignore_others(self, folder: Path, used: Iterable[str], reason: str) -> None:
        """List a folder's own entries that the layout has no name for."""
        for entry in sorted(folder.iterdir(), key=natural_key):
            if entry.name not in used:
                hidden, foreign = entry.name.startswith("."), entry.is_file() and not is_image(entry)
                self.ignore(entry, "hidden" if hidden else "not an image" if foreign else reason)

    def dataset(self, layout: Layout) -> Dataset:
        order = {"train": 0, "test": 1}
        samples = sorted(self.samples, key=lambda sample: (order[sample.split], natural_key(sample.path)))
        return Dataset(self.root, layout, tuple(samples), tuple(self.ignored))


def find_dataset(path: Path) -> Dataset:
    """The images and masks of a folder or a CSV manifest, by whichever of the five layouts it has.

    Raises:
        InputError: nothing there, no image in it, no good images to train on, a layout that mixes good and bad
            in ways unknown here, or a manifest with wrong lines.
    """
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _manifest(path)
        raise InputError(f"{path} is a file; a data set is a folder of images or a CSV manifest")
    if not path.is_dir():
        raise InputError(f"no such folder: {path}")
    if not any(path.iterdir()):
        raise InputError(f"the folder {path} is empty")
    if (path / "train").is_dir() or (path / "test").is_dir():
        return _mvtec(path)
    if (path / "Normal").is_dir() or (path / "Anomalous").is_dir():
        return _nanotwice(path)
    return _plain(path)


def _mvtec(root: Path) -> Dataset:
    good, test, truth = root / "train" / "good", root / "test", root / "ground_truth"
    if not good.is_dir():
        raise InputError(f"{root} has no folder train/good; put the good images to train on there")
    finding = _Finding(root)
    finding.samples += [Sample(image, "train", "good", None, "good") for image in finding.images(good)]
    if not finding.samples:
        raise InputError(f"no image in {good}; images end in {', '.join(IMAGE_SUFFIXES)}")
    finding.ignore_others(root, ("train", "test", "ground_truth"), "not part of this layout")
    finding.ignore_others(good.parent, ("good",), "only train/good is trained on")
    kinds = sorted((entry.name for entry in test.iterdir() if entry.is_dir()), key=_by_name) if test.is_dir() else []
    kinds = [kind for kind in kinds if not kind.startswith(".")]
    for kind in kinds:
        images = finding.images(test / kind)
        masks = finding.images(truth / kind) if (truth / kind).is_dir() else []
        if kind == "good":
            finding.samples += [Sample(image, "test", "good", None, "good") for image in images]
            finding.ignored += [(mask, "a mask of a good image") for mask in masks]
        else:
            _pair(finding, images, masks, kind, ("_mask", ""))
    if test.is_dir():
        finding.ignore_others(test, kinds, "not in a folder test/<kind>")
    if truth.is_dir():
        finding.ignore_others(truth, kinds, "masks without images" if test.is_dir() else "no folder test beside it")
    return finding.dataset("textures" if "defective" in kinds and set(kinds) <= {"good", "defective"} else "mvtec")


def _nanotwice(root: Path) -> Dataset:
    good, images, masks = root / "Normal", root / "Anomalous" / "images", root / "Anomalous" / "gt"
    if not good.is_dir():
        raise InputError(f"{root} has a folder Anomalous but none named Normal; put the good images there")
    finding = _Finding(root)
    finding.samples += [Sample(image, "train", "good", None, "good") for image in finding.images(good)]
    if not finding.samples:
        raise InputError(f"no image in {good}; images end in {', '.join(IMAGE_SUFFIXES)}")
    finding.ignore_others(root, ("Normal", "Anomalous"), "not part of this layout")
    if images.parent.is_dir():
        finding.ignore_others(images.parent, ("images", "gt"), "not part of this layout")
    found = finding.images(images) if images.is_dir() else []
    _pair(finding, found, finding.images(masks) if masks.is_dir() else [], "anomalous", ("_gt", ""))
    return finding.dataset("nanotwice")


def _pair(finding: _Finding, images: list[Path], masks: list[Path], kind: str, endings: tuple[str, ...]) -> None:
    """Defective images with the mask of the same name plus one of the endings; the first ending wins."""
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(mask.stem, []).append(mask)
    used: set[Path] = set()
    for image in images:
        fitting = [mask for ending in endings for mask in by_stem.get(image.stem + ending, [])]
        own = next((mask for mask in fitting if mask not in used), None)
        if own is not None:
            used.add(own)
        finding.samples.append(Sample(image, "test", "defective", own, kind))
    stems = {image.stem + ending for image in images for ending in endings}
    for mask in masks:
        if mask not in used:
            finding.ignore(mask, "another mask of the same image" if mask.stem in stems else "a mask without an image")


def _plain(root: Path) -> Dataset:
    folders = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=natural_key)
    whole = [folder.name for folder in folders if (folder / "train" / "good").is_dir() or (folder / "Normal").is_dir()]
    if whole:
        raise InputError(f"{root} holds data sets of their own ({', '.join(whole[:5])}); name one of them")
    doubtful = [folder.name for folder in folders if folder.name.casefold() in _NOT_GOOD]
    if doubtful:
        raise InputError(
            f"{root} has a folder {doubtful[0]}, but all images of a plain folder are taken as good; name the folder "
            "of good images alone, or lay it out as train/good, test/<kind> and ground_truth/<kind>"
        )
    for above in root.resolve().parents[:2]:
        if (above / "train" / "good").is_dir() and root.resolve().relative_to(above).parts[0] != "train":
            raise InputError(f"{root} is a part of the data set {above}; name that, or its train/good")
    finding = _Finding(root)
    finding.samples += [Sample(image, "train", "good", None, "good") for image in finding.images(root)]
    if not finding.samples:
        some = ", ".join(str(path.relative_to(root)) for path, _ in finding.ignored[:3])
        more = ", ..." if len(finding.ignored) > 3 else ""
        found = f", only {some}{more}" if some else ""
        raise InputError(f"no image in the folder {root}{found}; images end in {', '.join(IMAGE_SUFFIXES)}")
    return finding.dataset("plain")


def _manifest(path: Path) -> Dataset:
    """A CSV file with the columns image, split, label and, if wished, mask and kind; paths relative to the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            finding = _Finding(path)
            _check_columns(path, header, finding)
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None
    wrong: list[str] = []
    seen: dict[Path, int] = {}
    for number, cells in lines:
        try:
            sample = _row(path.parent, header, cells)
            if sample.path in seen:
                raise InputError(f"{sample.path} stands on line {seen[sample.path]} already")
            seen[sample.path] = number
            finding.samples.append(sample)
        except InputError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"{path}: {'; '.join(wrong[:5])}{more}")
    if not any(sample.split == "train" for sample in finding.samples):
        raise InputError(f"{path} names no image with split train and label good; there is nothing to train on")
    return finding.dataset("manifest")


def _check_columns(path: Path, header: list[str], finding: _Finding) -> None:
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"{path} separates its columns by semicolons; separate them by commas")
    missing = [name for name in ("image", "split", "label") if name not in header]
    if missing:
        got = ", ".join(header) or "nothing"
        raise InputError(f"{path}, line 1: the columns image, split, label and mask are needed, got {got}")
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}, line 1: the column {name} stands there twice")
        if name not in _COLUMNS:
            near = difflib.get_close_matches(name.casefold(), [known for known in _COLUMNS if known not in header], n=1)
            if near:
                raise InputError(f"{path}, line 1: unknown column {name}; did you mean {near[0]}?")
            finding.ignore(path, f"column {name}: unknown")


def _row(base: Path, header: list[str], cells: list[str]) -> Sample:
    if len(cells) > len(header):
        raise InputError(f"{len(header)} columns are announced, got {len(cells)}")
    row = dict.fromkeys(_COLUMNS, "") | {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
    split, label = row["split"], row["label"]
    if split not in ("train", "test") or label not in ("good", "defective"):
        raise InputError(f"split must be train or test and label good or defective, got {split!r} and {label!r}")
    if (split, label) == ("train", "defective"):
        raise InputError("training images are good, got train and defective")
    if label == "good" and row["mask"]:
        raise InputError(f"a good image has no mask, got {row['mask']}")
    if not row["image"]:
        raise InputError("the image is missing")
    files = [base / row[name] if row[name] else None for name in ("image", "mask")]
    for file in files:
        if file is not None and not file.is_file():
            raise InputError(f"no such file: {file}")
    image, mask = files
    assert image is not None, "its cell is not empty"
    kind = row["kind"] or label
    return Sample(
        image, "train" if split == "train" else "test", "good" if label == "good" else "defective", mask, kind
    )


def _by_name(name: str) -> tuple[object, ...]:
    return natural_key(Path(name))

"""A data set as a CSV manifest: a line for each image."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import get_args

from flawmap.core.errors import InputError
from flawmap.data.samples import Dataset, Finding, Label, Sample, SplitName

_COLUMNS = ("image", "split", "label", "mask", "kind", "group")


def read_manifest(path: Path) -> Dataset:
    """The data set of a CSV file with the columns image, split, label and, if wished, mask, kind and group.

    Paths are relative to the file. Several masks of one image are separated by "|".

    Raises:
        InputError: no CSV file, wrong columns or lines, or no good image to train on.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            finding = Finding(path)
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


def _check_columns(path: Path, header: list[str], finding: Finding) -> None:
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
    split = next((name for name in get_args(SplitName) if name == row["split"]), None)
    label = next((name for name in get_args(Label) if name == row["label"]), None)
    if split is None or label is None:
        raise InputError(
            "split must be train, validation or test and label good or defective, "
            f"got {row['split']!r} and {row['label']!r}"
        )
    if split != "test" and label == "defective":
        raise InputError(f"images to train on and to validate are good, got {split} and defective")
    masks = [name.strip() for name in row["mask"].split("|") if name.strip()]
    if label == "good" and masks:
        raise InputError(f"a good image has no mask, got {row['mask']}")
    if not row["image"]:
        raise InputError("the image is missing")
    image, *drawn = (base / name for name in (row["image"], *masks))
    for file in (image, *drawn):
        if not file.is_file():
            raise InputError(f"no such file: {file}")
    return Sample(image, split, label, row["kind"] or label, masks=tuple(drawn), group=row["group"])

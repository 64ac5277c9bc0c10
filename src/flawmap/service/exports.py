"""Results as files for other programs: CSV, JSON lines, COCO and Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from flawmap.core.documents import document, schema
from flawmap.core.errors import InputError
from flawmap.core.files import atomic
from flawmap.reporting.logs import utf8, write_csv, write_json

Form = Literal["csv", "jsonl", "coco", "parquet"]

FLAW = {"id": 1, "name": "flaw", "supercategory": "flaw"}
FLAT = (
    "id",
    "at",
    "name",
    "model",
    "point",
    "verdict",
    "score",
    "threshold",
    "p_value",
    "width",
    "height",
    "flawed_pixels",
    "regions",
    "review",
    "note",
    "reviewed_at",
    "image_sha256",
    "model_sha256",
)
"""Columns of CSV and Parquet; `regions` is their number."""


def export_results(rows: Iterable[dict[str, Any]], form: Form, path: Path) -> int:
    """Write results to a file, whole or not at all; how many.

    `csv` and `parquet` have one row for each image, `jsonl` everything, `coco` the images with the regions' outlines.

    Raises:
        InputError: pyarrow is missing. OutputError: the file cannot be written.
    """
    found = list(rows)
    WRITERS[form](found, path)
    return len(found)


def _flat(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(len(row[name]) if name == "regions" else row[name] for name in FLAT)


def _csv(rows: list[dict[str, Any]], path: Path) -> None:
    write_csv(path, FLAT, map(_flat, rows))


def _jsonl(rows: list[dict[str, Any]], path: Path) -> None:
    with atomic(path) as part:
        part.write_bytes(b"".join(utf8(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n") for row in rows))


def _parquet(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow  # noqa: PLC0415 - of whoever wants Parquet
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError:
        raise InputError(
            "Parquet needs pyarrow, which is not installed; pip install 'flawmap[parquet]', or take csv"
        ) from None
    texts = {"id", "name", "model", "point", "verdict", "review", "note", "image_sha256", "model_sha256"}
    whole = {"width", "height", "flawed_pixels", "regions"}
    kinds = [
        (name, pyarrow.string() if name in texts else pyarrow.int64() if name in whole else pyarrow.float64())
        for name in FLAT
    ]
    flat = [_flat(row) for row in rows]
    columns: dict[str, list[Any]] = {name: [row[place] for row in flat] for place, name in enumerate(FLAT)}
    table = pyarrow.table(columns, schema=pyarrow.schema(kinds, metadata={"schema": schema("result")}))
    with atomic(path) as part:
        parquet.write_table(table, part)


def _coco(rows: list[dict[str, Any]], path: Path) -> None:
    write_json(path, coco(rows))


def coco(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Results as COCO's detections: every flaw is an annotation of the one category, with its outline and its peak."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        images.append(
            {
                "id": number,
                "file_name": row["name"],
                "width": row["width"],
                "height": row["height"],
                "result": row["id"],
            }
        )
        for region in row["regions"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": FLAW["id"],
                    "bbox": list(region["box"]),
                    "area": region["area"],
                    "segmentation": [_polygon(region)],
                    "iscrowd": 0,
                    "score": region["peak"],
                }
            )
    return document("coco", {"images": images, "annotations": annotations, "categories": [FLAW]})


def _polygon(region: Mapping[str, Any]) -> list[float]:
    """The outline as COCO's x, y, x, y; of fewer than three points the box, as polygons have at least three."""
    points = [float(place) for point in region.get("polygon", ()) for place in point]
    left, top, width, height = map(float, region["box"])
    box = [left, top, left + width, top, left + width, top + height, left, top + height]
    return points if len(points) >= 6 else box


WRITERS: dict[Form, Callable[[list[dict[str, Any]], Path], None]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "coco": _coco,
    "parquet": _parquet,
}

"""Documents for other programs: their kinds, versions, fields and columns are those that docs/formats.md tells."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from documented import TEXT, columns_after, fields_of
from flawmap.commands.export import ExportReport
from flawmap.commands.retrain import RetrainReport
from flawmap.commands.watch import WatchCounts
from flawmap.core.documents import VERSIONS, document, schema
from flawmap.core.records import Inspection, Region
from flawmap.reporting.logs import REGION_COLUMNS, InspectionLog, read_lines
from flawmap.service.exports import FLAT, coco, export_results
from flawmap.service.store import Result, new_id

REGION = {"area": 4, "box": [1, 2, 2, 2], "centroid": [1.5, 2.5], "peak": 2.0, "mean": 1.0}
RESULT = Result(new_id(), 1.0, "a.png", "b", "cloth", "d", "default", "flawed", 3.0, 2.0, None, 9, 8, 4, (REGION,))


def test_every_kind_is_told_with_its_version() -> None:
    """And no other one."""
    assert set(re.findall(r"flawmap\.\w+/\d+", TEXT)) == set(map(schema, VERSIONS))
    assert all("schema" in fields_of(schema(kind)) for kind in VERSIONS if kind != "coco")


def test_a_document_names_itself_first() -> None:
    """Its own fields follow; a kind that nobody told is an error."""
    assert list(document("metrics", {"a": 1}).items()) == [("schema", "flawmap.metrics/1"), ("a", 1)]
    with pytest.raises(KeyError):
        document("unknown", {})


def test_inspections(tmp_path: Path) -> None:
    """Lines of inspected, unreadable and paged files, and the columns of the regions."""
    region = Region(4, (1, 2, 2, 2), (1.5, 2.5), 2.0, 1.0)
    with InspectionLog(tmp_path, {}) as log:
        log.add(Inspection(9, 8, 3.0, 2.0, "flawed", 4, (region,), "a.tif"), 2, Path("a_p002"))
        log.fail("b.png", "no image")
    first, second = read_lines(tmp_path / "inspections.jsonl")
    assert set(first) == fields_of("flawmap.inspection/1") | {"page"}
    assert next(iter(first)) == "schema"
    assert set(second) == {"schema", "path", "error"}
    assert set(REGION) == set(re.findall(r"`(\w+)`", TEXT.partition("by falling peak:")[2].partition(" |")[0]))
    header = (tmp_path / "regions.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header == columns_after("one row for each region, with the columns") == list(REGION_COLUMNS)


def test_results() -> None:
    """A result, and what its exports hold."""
    assert list(RESULT.to_dict()) == ["schema", *(field.name for field in fields(Result))]
    assert set(RESULT.to_dict()) == fields_of("flawmap.result/1")
    assert list(FLAT) == columns_after("`GET /v1/export`) have one row for each image, with the columns")
    made: dict[str, Any] = coco([RESULT.to_dict()])
    assert set(made) == {"schema", "images", "annotations", "categories"}
    assert set(made["images"][0]) == set(columns_after("An image has")) - {"the"}
    assert set(made["annotations"][0]) == set(columns_after("An annotation is a region:")) - {"flaw"}


def test_parquet_has_the_types_that_are_told(tmp_path: Path) -> None:
    """Of each column, also where all values are missing, and the schema in the file."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    export_results([RESULT.to_dict()], "parquet", tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet")
    section = TEXT.partition("\n## Results\n")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)`(?:, `\w+`)? \| ([\w ]+) \|", section, re.MULTILINE)) | {
        "height": "whole number"
    }
    types = {"text": "string", "number": "double", "whole number": "int64", "list": "int64"}
    assert {name: types[told[name]] for name in FLAT} == {one.name: str(one.type) for one in table.schema}
    assert table.schema.metadata[b"schema"] == b"flawmap.result/1"


@pytest.mark.parametrize(
    ("kind", "record"), [("export", ExportReport), ("retrain", RetrainReport), ("watch", WatchCounts)]
)
def test_what_commands_print(kind: str, record: type) -> None:
    """Those that the walk through the pages and tests/test_cli.py do not run."""
    assert {"schema", *(field.name for field in fields(record))} == fields_of(schema(kind))

"""Stand-ins for the two stages of an archive's pipeline that need no torch: a reader, and detectors that sleep."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow

from flawmap.cluster.parts import COLUMNS

SCORED = COLUMNS.append(pyarrow.field("mask", pyarrow.large_binary()))


def light_reader() -> Any:
    """As `stages.read_files`, of local files. A function of a function: so Ray sends it as it is to its workers."""

    def read(batch: pyarrow.Table, **_: Any) -> Iterator[pyarrow.Table]:
        for source in batch.to_pylist():
            content = Path(os.fsdecode(source["place"])).read_bytes()
            row = {"path": source["path"], "content": content, "image_sha256": hashlib.sha256(content).hexdigest()}
            yield pyarrow.Table.from_pylist([row | {"error": None, "duplicate_of": None}])

    return read


def sleeper(seconds: float) -> type:
    """As `stages.ScoreImages`: takes so long for each image, and no core."""
    scored = SCORED

    class Sleeper:
        def __init__(self, *given: Any) -> None:
            pass

        def __call__(self, batch: pyarrow.Table) -> Iterator[pyarrow.Table]:
            for path in batch["path"].to_pylist():
                time.sleep(seconds)
                row = {"path": path, "verdict": "ok", "score": 0.5, "regions": [], "seconds": seconds}
                yield pyarrow.Table.from_pylist([row], scored)

    return Sleeper

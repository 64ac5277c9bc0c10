"""JSON for other programs: each document names its kind and version in `schema`. docs/formats.md tells its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILES = ("inspection", "metrics", "result", "coco", "scores", "archive", "job")
ANSWERS = ("batch", "model", "error")  # of the service, besides results
COMMANDS = (  # what --json prints, named by the command; monitor, demo and fleet write it to a file, too
    *("calibrate", "data", "demo", "evaluate", "export", "fleet", "info", "inspect", "monitor", "points", "report"),
    *("reproduce", "results", "retrain", "scoring", "synth", "train", "watch", "weights", "written"),
)
VERSIONS = dict.fromkeys((*FILES, *ANSWERS, *COMMANDS), 1)
"""By kind. A version rises where a field goes, or changes its type or meaning; not where one is added."""


def schema(kind: str) -> str:
    """The name of a kind of document with its version.

    >>> schema("metrics")
    'flawmap.metrics/1'
    """
    return f"flawmap.{kind}/{VERSIONS[kind]}"


def document(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A document of a kind: `schema`, then its fields."""
    return {"schema": schema(kind), **fields}

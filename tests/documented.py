"""What docs/formats.md tells of the fields of documents, for tests that compare it with what is written."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROSE = TEXT.replace("\n", " ")
NAME = re.compile(r"`(\w+)`")


def fields_of(schema: str) -> set[str]:
    """The fields of a kind of document, such as flawmap.metrics/1: of its own table, or of its row in one."""
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 3 and cells[1] == f"`{schema}`":
            header = columns_after("The header of a model is") if "header" in cells[2] else []
            return {"schema", *NAME.findall(re.sub(r"\(.*?\)", "", cells[2])), *header}
    table = TEXT.partition(f"is `{schema}`:")[2].partition("|\n\n")[0]
    assert table, f"docs/formats.md tells nothing of {schema}"
    return {name for row in table.splitlines() for name in NAME.findall(row.split("|")[1] if "|" in row else "")}


def columns_after(sentence: str) -> list[str]:
    """Names in backticks from a sentence to its end, in their order."""
    return NAME.findall(PROSE.partition(sentence)[2].partition(". ")[0])

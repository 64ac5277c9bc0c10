"""Tables of values with their reasons and alignment, and the same tables as Markdown. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flawmap.core.errors import InputError
from flawmap.reporting.rendering import rendered

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A value in a table or among the facts. title: shown under a resting pointer; of a missing value the reason.
    link: where the text leads; none: nowhere."""

    text: str
    title: str = ""
    numeric: bool = True
    link: str = ""

    @property
    def reason(self) -> str:
        """Why a value is missing, to be shown beside it: paper and touch screens show no titles."""
        return self.title if self.text == MISSING else ""


def number(value: float | None, digits: int = 3, *, reason: str = "") -> Cell:
    """A metric or a residual with a number of decimals; never rounded up to 1 or down to 0.

    >>> number(0.93149).text, number(0.99996).text, number(4e-5).text, number(None, reason="no good pixels").text
    ('0.931', '> 0.999', '< 0.001', '–')
    """
    return Cell(MISSING, reason) if value is None else Cell(_decimals(value, digits, 1), f"{_finite(value):.10g}")


def percent(fraction: float | None, digits: int = 1, *, reason: str = "") -> Cell:
    """A fraction in per cent; never rounded up to 100 or down to 0.

    >>> percent(0.5).text, percent(1e-4).text, percent(1e-4, 2).text
    ('50.0\\xa0%', '< 0.1\\xa0%', '0.01\\xa0%')
    """
    if fraction is None:
        return Cell(MISSING, reason)
    return Cell(f"{_decimals(100 * fraction, digits, 100)}\xa0%", f"{100 * _finite(fraction):.10g}\xa0%")


def count(value: int | None, *, reason: str = "") -> Cell:
    """A number of things, in groups of three digits."""
    return Cell(MISSING, reason) if value is None else Cell(f"{value:,}")


@dataclass(frozen=True)
class Table:
    """columns: the headings. rows: a cell for each column, the first one names the row. note: a sentence below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"table {self.title!r}: a row needs {len(self.columns)} cells, got {len(row)}")

    @property
    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows, where plain text is a cell that is not numeric."""
        return tuple(tuple(_cell(value) for value in row) for row in self.rows)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column whether it holds only numbers and gaps, so that it is aligned right."""
        columns = zip(*self.cells, strict=True) if self.rows else [()] * len(self.columns)
        return tuple(
            any(cell.numeric for cell in column) and all(cell.numeric or not cell.text for cell in column)
            for column in columns
        )

    @property
    def reasons(self) -> str:
        """The reasons for all missing values, each once."""
        return "; ".join(dict.fromkeys(cell.reason for row in self.cells for cell in row if cell.reason))


def markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown, each under a heading of the second level."""
    return rendered("tables.md", tables=tables, missing=MISSING)


def _cell(value: str | Cell) -> Cell:
    return Cell(value, numeric=False) if isinstance(value, str) else value


def _decimals(value: float, digits: int, top: int) -> str:
    shown, step = f"{_finite(value):.{digits}f}", 10.0**-digits
    if value > 0 and float(shown) == 0:
        return f"< {step:.{digits}f}"
    if value < top and float(shown) >= top:
        return f"> {top - step:.{digits}f}"
    return shown.replace("-", "\N{MINUS SIGN}")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise InputError(f"a number in a table must be finite, got {value}; pass None and the reason")
    return value

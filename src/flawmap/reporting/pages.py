"""Pages of HTML that are one file each: what they hold, and how it looks.

A page holds its pictures, its style and its script, and a Content-Security-Policy in it forbids everything else: it
asks nothing of a network, and a file name cannot smuggle a script into it. No torch here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from flawmap.core.checks import shape_text
from flawmap.core.errors import InputError
from flawmap.core.files import atomic
from flawmap.reporting.logs import utf8
from flawmap.reporting.pictures import DETECTED, TRUTH, Levels, heatmap, shrunk

QUALITY = 88  # of JPEG
SMALL = 256 * 256  # pixels: up to here a PNG, exact and not much larger
FEW = 16  # values: a picture with no more is a mask or a drawing, which JPEG would fray
PROPORTION = 9  # a row of pictures is at most so many times as wide as high
MOST, USUAL = 6, 3  # pictures beside each other: at most, and the room for so many where there are fewer

MISSING = "–"


# -------------------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """A value in a table or among the facts. title: shown under a resting pointer; of a missing one the reason."""

    text: str
    title: str = ""
    numeric: bool = True


def number(value: float | None, digits: int = 3, *, reason: str = "") -> Cell:
    """A metric or a residual with a number of decimals; never rounded up to 1 or down to 0.

    >>> number(0.93149).text, number(0.99996).text, number(4e-5).text, number(None, reason="no good pixels").text
    ('0.931', '> 0.999', '< 0.001', '–')
    """
    return Cell(MISSING, reason) if value is None else Cell(_decimals(value, digits, 1), f"{_finite(value):.10g}")


def percent(share: float | None, digits: int = 1, *, reason: str = "") -> Cell:
    """A share of 1 in per cent; never rounded up to 100 or down to 0.

    >>> percent(0.5).text, percent(1e-4).text, percent(1e-4, 2).text
    ('50.0\\xa0%', '< 0.1\\xa0%', '0.01\\xa0%')
    """
    if share is None:
        return Cell(MISSING, reason)
    return Cell(f"{_decimals(100 * share, digits, 100)}\xa0%", f"{100 * _finite(share):.10g}\xa0%")


def count(value: int | None, *, reason: str = "") -> Cell:
    """A number of things, in groups of three digits."""
    return Cell(MISSING, reason) if value is None else Cell(f"{value:,}")


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


# --------------------------------------------------------------------------------------------------------------- page


@dataclass(frozen=True, eq=False)
class Case:
    """One image: pictures with captions, in one row or in several of one length (one for each method, say).

    pictures: (caption, (H, W) or (H, W, 3) uint8). Rows wrap where the window is narrow or the pictures are wide.
    """

    title: str
    note: str
    pictures: tuple[tuple[str, Levels], ...]
    rows: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or len(self.pictures) % self.rows:
            raise InputError(f"rows must part {len(self.pictures)} pictures evenly, got {self.rows}")
        for caption, values in self.pictures:
            plane = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
            if values.dtype != np.uint8 or not plane or values.size == 0:
                raise InputError(
                    f"picture {caption!r} must be uint8 (H, W) or (H, W, 3), "
                    f"got {values.dtype} {shape_text(values.shape)}; see picture()"
                )


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


@dataclass(frozen=True)
class Figure:
    """A drawing. png: the bytes of a PNG file."""

    caption: str
    png: bytes

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise InputError(f"figure {self.caption!r} must be the bytes of a PNG file, got {self.png[:8]!r}")


@dataclass(frozen=True)
class Page:
    """A report. facts: (name, value). sections: (heading, cases). heat: the ends of the residuals' colours in words."""

    title: str
    lead: str
    facts: tuple[tuple[str, str | Cell], ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    sections: tuple[tuple[str, tuple[Case, ...]], ...] = ()
    footer: str = ""
    heat: tuple[str, str] = ("low", "high")


def write_page(page: Page, path: Path) -> None:
    """The page as one HTML file, whole or not at all. Raises InputError where it cannot be written."""
    content = utf8(render(page))
    with atomic(path) as part:
        part.write_bytes(content)


def render(page: Page) -> str:
    """The page as the text of one HTML file that refers to nothing outside itself."""
    style, script = (_own_text(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_fingerprint(style)}'; "
        f"script-src '{_fingerprint(script)}'; base-uri 'none'; form-action 'none'"
    )
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">',
        f"<title>{escape(page.title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f'<header>\n<h1>{escape(page.title)}</h1>\n<p class="lead">{escape(page.lead)}</p>\n</header>\n<main>',
        *([_contents(page)] if len(page.sections) > 1 else []),
        *([_facts(page)] if page.facts else []),
        *(_table(table) for table in page.tables),
        *(_figure(figure) for figure in page.figures),
        *(_section(place, heading, cases, page.heat) for place, (heading, cases) in enumerate(page.sections)),
        "</main>",
        *([f"<footer>{escape(page.footer)}</footer>"] if page.footer else []),
        f"<dialog></dialog>\n<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _own_text(name: str) -> str:
    return resources.files("flawmap.reporting").joinpath(name).read_text("utf-8")


def _fingerprint(text: str) -> str:
    """What a policy names an inline style or script by: any other one, injected ones too, stays without effect."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _contents(page: Page) -> str:
    links = "".join(
        f'<li><a href="#section-{place}">{escape(heading)}</a></li>' for place, (heading, _) in enumerate(page.sections)
    )
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _facts(page: Page) -> str:
    facts = ""
    for name, value in page.facts:
        why = f" ({escape(_why(value))})" if _why(value) else ""
        facts += f"<div><dt>{escape(name)}</dt><dd>{_value(value)}{why}</dd></div>\n"
    return f'<dl class="facts">\n{facts}</dl>'


def _numeric(value: str | Cell) -> bool:
    return isinstance(value, Cell) and value.numeric


def _why(value: str | Cell) -> str:
    """The reason why a value is missing, to be shown beside it: paper and touch screens show no titles."""
    return value.title if isinstance(value, Cell) and value.text == MISSING else ""


def _value(value: str | Cell) -> str:
    if isinstance(value, str):
        return escape(value)
    if not value.title or value.title == value.text:
        return escape(value.text)
    return f'<span title="{escape(value.title)}">{escape(value.text)}</span>'


def _table(table: Table) -> str:
    """A table that scrolls where the window is narrow, with the reasons for missing values below it."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    numeric = [any(column) and all(not cell or _numeric(cell) for cell in column) for column in columns]
    kinds = [' class="n"' if flag else "" for flag in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(table.columns, kinds, strict=True)
    )
    body = ""
    for row in table.rows:
        cells = "".join(f"<td{kind}>{_value(value)}</td>" for kind, value in zip(kinds[1:], row[1:], strict=True))
        body += f'<tr><th scope="row"{kinds[0]}>{_value(row[0])}</th>{cells}</tr>\n'
    reasons = "; ".join(dict.fromkeys(why for row in table.rows for value in row if (why := _why(value))))
    notes = [table.note, f"{MISSING} {reasons}" if reasons else ""]
    below = "".join(f'<p class="note">{escape(note)}</p>\n' for note in notes if note)
    return (
        f'<section>\n<h2>{escape(table.title)}</h2>\n<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(table.title)}">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n'
        f"</table>\n</div>\n{below}</section>"
    )


def _figure(figure: Figure) -> str:
    width, height = (int.from_bytes(figure.png[start : start + 4], "big") for start in (16, 20))  # of PNG's header
    shown = _shown("image/png", figure.png, width, height, figure.caption)
    return f'<figure class="chart">{shown}<figcaption>{escape(figure.caption)}</figcaption></figure>'


def _section(place: int, heading: str, cases: tuple[Case, ...], heat: tuple[str, str]) -> str:
    inside = "\n".join(_case(case) for case in cases) or '<p class="note">None.</p>'
    legend = _legend(heat) if cases else ""
    return (
        f'<section id="section-{place}">\n<div class="heading"><h2>{escape(heading)}</h2>{legend}</div>\n'
        f"{inside}\n</section>"
    )


def _legend(heat: tuple[str, str]) -> str:
    marks = ""
    for colour, name in ((TRUTH, "ground truth"), (DETECTED, "found")):
        swatch = f'<rect x="2" y="2" width="16" height="10" fill="#777" stroke="rgb{colour}" stroke-width="3"/>'
        marks += f'<li><svg width="20" height="14" aria-hidden="true">{swatch}</svg>{name}</li>'
    ramp = _encoded(heatmap(np.linspace(0, 1, 64, dtype=np.float32)[None], 0, 1))
    bar = f'<img src="{_data_url(*ramp)}" width="64" height="10" alt="to">'
    return f'<ul class="legend">{marks}<li>residual: {escape(heat[0])} {bar} {escape(heat[1])}</li></ul>'


def _case(case: Case) -> str:
    columns, length = _columns(case), len(case.pictures) // case.rows
    figures = []
    for caption, values in case.pictures:
        small = shrunk(values)
        alt = f"{caption}, {case.title}"
        shown = _shown(*_encoded(small), small.shape[1], small.shape[0], alt)
        figures.append(f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>")
    rows = (figures[start : start + length] for start in range(0, len(figures), max(1, length)))
    strips = "\n".join(f'<div class="row n{columns}">{"".join(row)}</div>' for row in rows)
    note = f"<p>{escape(case.note)}</p>" if case.note else ""
    return f'<article class="case">\n<div class="name"><h3>{escape(case.title)}</h3>{note}</div>\n{strips}\n</article>'


def _columns(case: Case) -> int:
    """Pictures beside each other in a wide window: as many as a row has, unless wide pictures would get too low."""
    length = len(case.pictures) // case.rows
    aspect = max((values.shape[1] / values.shape[0] for _, values in case.pictures), default=1.0)
    most = max(1, min(MOST, int(PROPORTION / aspect)))
    lines = max(1, math.ceil(length / most))
    return max(math.ceil(length / lines), min(USUAL, most))


def _shown(kind: str, content: bytes, width: int, height: int, alt: str) -> str:
    """A picture that a click enlarges."""
    source = _data_url(kind, content)
    image = f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
    return f'<button type="button" class="zoom">{image}</button>'


def _encoded(values: Levels) -> tuple[str, bytes]:
    """Type and bytes of a picture: PNG for masks, drawings and small pictures, else JPEG."""
    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(values))
    drawn = np.count_nonzero(np.bincount(values.ravel(), minlength=256)) <= FEW
    if drawn or image.width * image.height <= SMALL:
        image.save(file, "PNG", optimize=True)
        return "image/png", file.getvalue()
    # Colours at full resolution, or outlines one pixel wide would turn grey.
    image.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return "image/jpeg", file.getvalue()


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

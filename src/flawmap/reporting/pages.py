"""Pages of HTML that are one file each: what they hold. How they look is `templates/page.html`.

A page holds its pictures, its style and its script, and a Content-Security-Policy in it forbids everything else: it
asks nothing of a network, and a file name cannot smuggle a script into it. No torch here.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flawmap.core.checks import shape_text
from flawmap.core.errors import InputError
from flawmap.core.files import atomic
from flawmap.reporting.logs import utf8
from flawmap.reporting.pictures import DETECTED, TRUTH, EncodedPicture, Levels, encoded, heatmap, shrunk
from flawmap.reporting.rendering import rendered, source
from flawmap.reporting.tables import Cell, Table

ASPECT = 9  # a row of pictures is at most this many times as wide as high
MOST, USUAL = 6, 3  # pictures in a row: at most, and the room for this many where there are fewer


@dataclass(frozen=True, eq=False)
class PictureRows:
    """One image: pictures with captions, in one row or in several of one length (one for each method, say).

    pictures: (caption, (H, W) or (H, W, 3) uint8, or a file of it). Rows wrap where the window is narrow or the
    pictures are wide. key: what links to it name; none: nothing links to it.
    """

    title: str
    note: str
    pictures: tuple[tuple[str, Levels | EncodedPicture], ...]
    count: int = 1
    key: str = ""

    def __post_init__(self) -> None:
        if self.count < 1 or len(self.pictures) % self.count:
            raise InputError(
                f"count must divide {len(self.pictures)} pictures into rows of one length, got {self.count}"
            )
        for caption, values in self.pictures:
            if isinstance(values, EncodedPicture):
                continue
            plane = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
            if values.dtype != np.uint8 or not plane or values.size == 0:
                raise InputError(
                    f"picture {caption!r} must be uint8 (H, W) or (H, W, 3), "
                    f"got {values.dtype} {shape_text(values.shape)}; see picture()"
                )

    @property
    def rows(self) -> list[list[tuple[str, EncodedPicture]]]:
        """The pictures with their captions, row by row, at the size that a page holds."""
        length = len(self.pictures) // self.count
        shown = [
            (caption, values if isinstance(values, EncodedPicture) else encoded(shrunk(values)))
            for caption, values in self.pictures
        ]
        return [shown[start : start + length] for start in range(0, len(shown), max(1, length))]

    @property
    def columns(self) -> int:
        """Pictures beside each other in a wide window: all of a row, or fewer where wide pictures would be too low."""
        length = len(self.pictures) // self.count
        aspect = max((_aspect(values) for _, values in self.pictures), default=1.0)
        most = max(1, min(MOST, int(ASPECT / aspect)))
        lines = max(1, math.ceil(length / most))
        return max(math.ceil(length / lines), min(USUAL, most))


def _aspect(values: Levels | EncodedPicture) -> float:
    """Width by height."""
    if isinstance(values, EncodedPicture):
        return values.width / values.height
    height, width = values.shape[:2]
    return float(width / height)


@dataclass(frozen=True)
class Figure:
    """A drawing. png: the bytes of a PNG file."""

    caption: str
    png: bytes

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise InputError(f"figure {self.caption!r} must be the bytes of a PNG file, got {self.png[:8]!r}")

    @property
    def picture(self) -> EncodedPicture:
        width, height = (int.from_bytes(self.png[start : start + 4], "big") for start in (16, 20))  # of PNG's header
        return EncodedPicture("image/png", self.png, width, height)


@dataclass(frozen=True)
class Section:
    """A chapter of a page: a note, then figures, tables and images.

    key: what links to it name; none: its number. link: the text of the link to it; none: the heading.
    """

    heading: str
    images: tuple[PictureRows, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    note: str = ""
    key: str = ""
    link: str = ""


@dataclass(frozen=True)
class Page:
    """A report. facts: (name, value). heat: the ends of the residuals' colours in words. links: (text, file beside it)
    of the other pages."""

    title: str
    lead: str
    facts: tuple[tuple[str, str | Cell], ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: str = ""
    links: tuple[tuple[str, str], ...] = ()
    heat: tuple[str, str] = ("low", "high")


def write_page(page: Page, path: Path) -> None:
    """The page as one HTML file, whole or not at all. Raises InputError where it cannot be written."""
    content = utf8(render(page))
    with atomic(path) as part:
        part.write_bytes(content)


def render(page: Page) -> str:
    """The page as the text of one HTML file that refers to nothing outside itself."""
    style, script = source("page.css"), source("page.js")
    return rendered(
        "page.html",
        page=page,
        policy=_policy(style, script),
        style=style,
        script=script,
        colours={"ground truth": TRUTH, "found": DETECTED},
        scale=encoded(heatmap(np.linspace(0, 1, 64, dtype=np.float32)[None], 0, 1)),
    )


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows pictures as data and this style and script, which it names by digest."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )

"""Reports of many images, the worst one first: what each shows, and how they are split into pages that open offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Lock
from typing import IO, Any

from flawmap.core.events import SILENT, Events
from flawmap.core.parallel import parallel_map
from flawmap.reporting.charts import scores_figure
from flawmap.reporting.pages import Figure, Page, PictureRows, Section, write_page
from flawmap.reporting.pictures import EncodedPicture
from flawmap.reporting.tables import Cell, Table

NAME = "report"
PER_PAGE = 40  # images with pictures
IMAGE_BYTES = 135_000
"""Of an image's pictures together, as files. As text they are a third longer: a full page stays below 8 MB, and the
first one, with a table of 4,000 images, below 10 MB."""
ROOM = 2 * IMAGE_BYTES
"""Bytes on the disk for each image: its pictures in a page, and in a temporary file before that."""

Captioned = tuple[str, EncodedPicture]
"""A caption and its picture."""


@dataclass(frozen=True)
class Shown:
    """One image of a report.

    cells: its row in the table of all images, after the name. note: a sentence above its pictures. pictures: gives
    them, IMAGE_BYTES together at most, when its page is written, on any thread; None: it has none.
    """

    name: str
    cells: tuple[str | Cell, ...]
    note: str
    pictures: Callable[[], Sequence[Captioned]] | None


@dataclass(frozen=True)
class Images:
    """The images of a report. columns: headings of their table, that of the name first. shown: the worst one first.
    order: the same in words. unreadable: (name, why)."""

    columns: tuple[str, ...]
    shown: tuple[Shown, ...]
    order: str
    unreadable: tuple[tuple[str, str], ...] = ()


def write_report(
    page: Page, images: Images, folder: Path, *, per_page: int = PER_PAGE, events: Events = SILENT
) -> list[Path]:
    """A report as `report.html`, and `report-2.html` and so on where there are many images.

    The pages lead to each other. The first page holds the given one, a table of all images whose names lead to their
    pictures, and the worst images.
    Pages of a longer report that was there before are removed.

    Args:
        page: what stands at the top of the first page, and sections for its end. per_page: images with pictures.
    Returns:
        The pages' files, the first one first.
    """
    seen = [image for image in images.shown if image.pictures is not None]
    starts = range(0, max(1, len(seen)), per_page)
    names = [_file(number) for number in range(len(starts))]
    links = tuple((f"page {number}", name) for number, name in enumerate(names, start=1)) if len(names) > 1 else ()
    rest = Page(page.title, page.lead, footer=page.footer, heat=page.heat, links=links)
    for number, (start, name) in enumerate(zip(starts, names, strict=True), start=1):
        part = _pictures(seen[start : start + per_page], start, len(seen), images.order)
        if start == 0:
            sections = (_all_images(images, per_page), *part, *page.sections)
            write_page(replace(page, sections=sections, links=links), folder / name)
        else:
            write_page(replace(rest, sections=part), folder / name)
        if len(names) > 1:
            events.progress(number, len(names), name)
    for old in folder.glob(f"{NAME}-*.html"):
        if old.name not in names and old.stem.removeprefix(f"{NAME}-").isdecimal():
            old.unlink()
    return [folder / name for name in names]


@contextmanager
def open_shelf(folder: Path) -> Iterator[Shelf]:
    """A shelf whose file lies on a folder's disk, without a name there, until the block ends."""
    with TemporaryFile(dir=folder) as file:
        yield Shelf(file)


class Shelf:
    """Pictures of many images in a file until pages hold them. Threads may share it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, Lock()
        self._places: dict[str, list[tuple[str, EncodedPicture, int, int]]] = {}

    def put(self, key: str, pictures: Sequence[Captioned]) -> None:
        """The pictures of an image."""
        with self._lock:
            self._file.seek(0, 2)
            for caption, made in pictures:
                start = self._file.tell()
                self._file.write(made.content)
                place = caption, made._replace(content=b""), start, len(made.content)
                self._places.setdefault(key, []).append(place)

    def get(self, key: str) -> list[Captioned]:
        """The pictures of an image; none if there were none."""
        found = []
        with self._lock:
            for caption, empty, start, size in self._places.get(key, ()):
                self._file.seek(start)
                found.append((caption, empty._replace(content=self._file.read(size))))
        return found


def histogram(groups: Mapping[str, Sequence[float]], good_scores: Sequence[float], threshold: float | None) -> Figure:
    """The scores of two groups of images, good and bad, beside those of the calibration; see `charts.scores_figure`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scores.png"
        scores_figure(groups, good_scores, threshold, path)
        names = " and ".join(groups)
        return Figure(f"Scores of these images ({names}), and of the good ones of the calibration", path.read_bytes())


def settings_section(origin: Mapping[str, Any], settings: Mapping[str, Any]) -> Section:
    """Where a report's figures come from. origin: names and hashes, without None. settings: by name; empty: unknown."""
    rows = tuple((name, str(value)) for name, value in origin.items() if value is not None)
    tables = [Table("Origin", ("", "value"), rows)]
    if settings:
        rows = tuple((name, "" if value is None else str(value)) for name, value in settings.items())
        tables.append(Table("Settings of the model", ("setting", "value"), rows))
    return Section("Settings and hashes", tables=tuple(tables), key="settings")


def _file(number: int) -> str:
    """The name of a page, counted from 0."""
    return f"{NAME}.html" if number == 0 else f"{NAME}-{number + 1}.html"


def _key(place: int) -> str:
    """The anchor of the pictures in a place, counted from 0 over all pages."""
    return f"image-{place + 1}"


def _all_images(images: Images, per_page: int) -> Section:
    """The table of all images; a name leads to its pictures."""
    rows: list[tuple[str | Cell, ...]] = []
    place = 0
    for image in images.shown:
        name: str | Cell = image.name
        if image.pictures is not None:
            page = _file(place // per_page) if place >= per_page else ""
            name = Cell(image.name, numeric=False, link=f"{page}#{_key(place)}")
            place += 1
        rows.append((name, *image.cells))
    tables = [Table(f"Figures, {images.order}", images.columns, tuple(rows), "A click on a heading sorts.")]
    if images.unreadable:
        tables.append(Table("Could not be read", ("image", "why"), images.unreadable))
    return Section("All images", tables=tuple(tables), key="all")


def _pictures(part: Sequence[Shown], start: int, total: int, order: str) -> tuple[Section, ...]:
    """The pictures of a page; nothing where there are none."""
    if not part:
        return ()
    made = parallel_map(lambda image: tuple(image.pictures() if image.pictures else ()), part)
    rows = tuple(
        PictureRows(image.name, image.note, pictures, key=_key(place))
        for place, (image, pictures) in enumerate(zip(part, made, strict=True), start=start)
    )
    heading = f"Images {start + 1} to {start + len(part)} of {total}, {order}"
    return (Section(heading, rows, key="images"),)

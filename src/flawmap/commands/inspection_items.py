"""What an inspection looks at: image files or pages of them, and the names that their pictures get."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from flawmap.commands.inspection_files import ENDINGS
from flawmap.commands.outputs import InspectionOutputs
from flawmap.core.errors import InputError
from flawmap.data.finding import FoundImage, find_images
from flawmap.imaging.codecs import page_count, read_header

log = logging.getLogger(__name__)

PICTURE_BYTES, RESIDUAL_BYTES = 2, 4  # for each pixel: mask and overlay, residual map
DENSEST = 8 * 1032  # pixels that a byte of a TIFF can stand for: of one bit each, by Deflate

Pages = int | Literal["all"] | None
"""Which page of a file is inspected, counted from 1, or all of them; None: files must have one page."""


class Item(NamedTuple):
    """An image file, or one page of it. target: the path of its pictures without endings, relative to the output."""

    path: Path
    page: int | None
    target: Path

    @property
    def key(self) -> tuple[str, int | None]:
        return str(self.path), self.page

    def __str__(self) -> str:
        return str(self.path) if self.page is None else f"{self.path}, page {self.page}"


def items_of(inputs: Sequence[Path | str], out: Path, pages: Pages = None) -> list[Item]:
    """The images that files, folders and globs name, without those in the output folder.

    Raises:
        InputError: there is none.
    """
    chosen = [(image, page) for image in _not_in(out, find_images(inputs)) for page in _pages_of(image.path, pages)]
    plain = [_target(image.relative.with_suffix(""), page) for image, page in chosen]
    shared = Counter(plain)
    return [
        Item(image.path, page, name if shared[name] == 1 else _target(image.relative, page))
        for (image, page), name in zip(chosen, plain, strict=True)
    ]


def bytes_needed(items: Iterable[Item], outputs: InspectionOutputs, pixel_limit: int) -> int:
    """About what an inspection writes; images that cannot be read, or that their size rules out, need nothing."""
    pixels = 0
    for item in items:
        with suppress(InputError):
            header = read_header(item.path, page=item.page)
            if header.pixels <= pixel_limit:
                pixels += header.pixels
            elif header.format == "TIFF":  # read by rows; others are refused
                pixels += min(header.pixels, DENSEST * item.path.stat().st_size)
    return pixels * (PICTURE_BYTES * outputs.overlays + RESIDUAL_BYTES * outputs.residuals + 1)


def pixels_of(item: Item) -> int:
    """The size of an image by its header. InputError if it cannot be read."""
    return read_header(item.path, page=item.page).pixels


def _pages_of(path: Path, pages: Pages) -> list[int | None]:
    if pages != "all":
        return [pages]
    try:
        count = page_count(path)
    except InputError:  # it is listed as unreadable when its turn comes
        count = 1
    return [None] if count == 1 else list(range(1, count + 1))


def _target(name: Path, page: int | None) -> Path:
    return name if page is None else name.with_name(f"{name.name}_p{page:03d}")


def _not_in(out: Path, found: Sequence[FoundImage]) -> list[FoundImage]:
    """The images without those in the output folder, so that a second run does not inspect the masks of the first."""
    own = out.resolve()
    kept = [image for image in found if not image.path.resolve().is_relative_to(own)]
    if not kept:
        raise InputError(f"all images found lie in the output folder {out} itself; name another one with -o")
    foreign = [image.path for image in set(found).difference(kept) if not image.path.stem.endswith(ENDINGS)]
    if foreign:
        log.warning(
            "%d images in the output folder %s are left out, %s for one; to inspect them name another folder with -o",
            len(foreign),
            out,
            min(foreign),
        )
    return kept

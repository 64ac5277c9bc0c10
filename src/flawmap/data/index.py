"""Headers and digests of image files, each read once."""

from __future__ import annotations

from pathlib import Path

from flawmap.core.files import sha256_of
from flawmap.imaging.codecs import read_header
from flawmap.imaging.decoded import Header


class ImageIndex:
    """Header and SHA-256 of image files. A file is read for each of them once, however often it is asked for.

    One index serves one command: it does not see that a file changes while it lasts.
    """

    def __init__(self) -> None:
        self._headers: dict[Path, Header] = {}
        self._digests: dict[Path, str] = {}

    def header(self, path: Path) -> Header:
        """Raises InputError if the file is no readable image."""
        if path not in self._headers:
            self._headers[path] = read_header(path)
        return self._headers[path]

    def sha256(self, path: Path) -> str:
        """Raises InputError if the file cannot be read."""
        if path not in self._digests:
            self._digests[path] = sha256_of(path)
        return self._digests[path]

    def box(self, path: Path) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the whole image; right and bottom are outside."""
        header = self.header(path)
        return 0, 0, header.width, header.height

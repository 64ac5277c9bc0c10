"""Which image files a path, a folder or a pattern names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from flawmap.core.errors import InputError
from flawmap.core.files import first_few, natural_key
from flawmap.imaging.formats import IMAGE_SUFFIXES, is_image


class FoundImage(NamedTuple):
    """path: to open. relative: to name outputs by; no two images of one search share it."""

    path: Path
    relative: Path


def find_images(paths: Iterable[Path | str]) -> list[FoundImage]:
    """The image files that files, folders (with all below them) and glob patterns name, in natural order.

    Within folders a file is an image by its suffix; hidden files and folders, pipes, sockets and devices are passed
    over. A file named by itself is taken as it is. Each file is found once.

    Raises:
        InputError: nothing of that name, no regular file, an empty folder, or no image in it.
    """
    named = [str(path) for path in paths]
    if not named:
        raise InputError("no image, folder or pattern was given")
    found: dict[str, FoundImage] = {}
    for name in named:
        for image in _images_of(name):
            found.setdefault(os.path.abspath(image.path), image)  # noqa: PTH100 - resolve() would follow links
    images = list(found.values())
    if len({image.relative for image in images}) < len(images):
        base = os.path.commonpath([str(Path(path).parent) for path in found])
        images = [FoundImage(image.path, Path(path).relative_to(base)) for path, image in found.items()]
    return sorted(images, key=lambda image: (natural_key(image.relative), natural_key(image.path)))


def _images_of(name: str) -> list[FoundImage]:
    path = Path(name)
    if path.is_dir():
        return _images_below(path)
    if path.is_file():
        return [FoundImage(path, Path(path.name))]
    if path.exists():
        raise InputError(f"{path} is not a regular file; pipes, sockets and devices are not read")
    if not glob.has_magic(name):
        raise InputError(f"no such file or folder: {name}")
    matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207 - Path.glob wants a fixed root
    if not matches:
        raise InputError(f"nothing matches the pattern {name}")
    fixed = name[: next(place for place, letter in enumerate(name) if letter in "*?[")]
    base = Path(fixed) if fixed.endswith(("/", os.sep)) else Path(fixed).parent
    files = {file for match in matches for file in ([match] if match.is_file() else files_below(match))}
    images = [FoundImage(file, file.relative_to(base)) for file in files if is_image(file)]
    if not images:
        raise InputError(f"no image among what matches the pattern {name}; images end in {', '.join(IMAGE_SUFFIXES)}")
    return images


def _images_below(folder: Path) -> list[FoundImage]:
    files = list(files_below(folder))
    images = [FoundImage(file, file.relative_to(folder)) for file in files if is_image(file)]
    if images:
        return images
    if not files:
        raise InputError(f"the folder {folder} is empty")
    some = first_few(file.relative_to(folder) for file in sorted(files, key=natural_key))
    raise InputError(f"no image in the folder {folder}, only {some}; images end in {', '.join(IMAGE_SUFFIXES)}")


def files_below(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """All regular files below a folder, links to folders followed once; hidden ones only if asked for."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back to where we were
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if hidden or not name.startswith(".")]
        paths = (Path(place) / name for name in files if hidden or not name.startswith("."))
        yield from (path for path in paths if path.is_file() or not path.exists())  # a broken link is a missing file

"""Which images an archive holds: of folders, globs, manifests and file systems that a URL names."""

from __future__ import annotations

import csv
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from flawmap.core.errors import InputError
from flawmap.core.files import first_few
from flawmap.data.finding import find_images
from flawmap.imaging.formats import IMAGE_SUFFIXES, is_image

MANIFESTS = (".csv", ".parquet")
COLUMN = "path"


class Source(NamedTuple):
    """An image of an archive. path: names its row, relative to what was given. place: a file's bytes or a URL's."""

    path: str
    place: bytes


def sources_of(inputs: Sequence[Path | str]) -> list[Source]:
    """The images that files, folders, globs, manifests (.csv, .parquet) and URLs name, in the order of their paths.

    A manifest has a column `path`, of paths relative to its own folder or of URLs.

    Raises:
        InputError: nothing of that name, no image, a manifest without that column, or two images of one path.
    """
    named = [str(one) for one in inputs]
    plain = [name for name in named if not is_url(name) and not name.lower().endswith(MANIFESTS)]
    found = (
        [Source(_text(one.relative), os.fsencode(one.path.absolute())) for one in find_images(plain)] if plain else []
    )
    for name in named:
        if is_url(name):
            found += _of_url(name)
        elif name.lower().endswith(MANIFESTS):
            found += _of_manifest(Path(name))
    unique = sorted(set(found))
    twice = [path for path, count in Counter(one.path for one in unique).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} images share a path relative to what was given, such as {first_few(sorted(twice))}; "
            "give the folder above them, or score them into different folders"
        )
    if not unique:
        raise InputError("no image, folder, pattern, manifest or URL was given")
    return unique


def is_url(name: str) -> bool:
    """Whether a text names a file system, as s3://bucket/folder does."""
    return "://" in name


def opened_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, in fsspec's interface, and the place in it: pyarrow's where it has one (s3, gs, hdfs,
    abfs, file), else fsspec's. InputError: neither knows it, or the package that it needs is absent."""
    import fsspec  # noqa: PLC0415 - of the extra
    from fsspec.implementations.arrow import ArrowFSWrapper  # noqa: PLC0415
    from pyarrow import fs  # noqa: PLC0415

    try:
        system, place = fs.FileSystem.from_uri(url)
        return ArrowFSWrapper(system), place
    except (ValueError, NotImplementedError):  # pyarrow does not know it, or was built without it
        pass
    except OSError as error:
        raise InputError(f"{without_secrets(url)} cannot be opened: {error}") from error
    try:
        system, place = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{without_secrets(url)} cannot be opened: {error}") from error
    return system, place


def _of_url(url: str) -> Iterator[Source]:
    """All images below a URL, or those that its pattern matches. The query of the URL is kept, for it may name the
    server."""
    start, mark, query = url.partition("?") if _has_query(url) else (url, "", "")
    system, place = opened_system(_fixed(start) + mark + query)
    base = PurePosixPath(place)
    try:
        if glob.has_magic(start):
            names = system.glob(f"{place}/{start.removeprefix(_fixed(start)).lstrip('/')}")
        else:
            names = system.find(place) or [place]
    except OSError as error:
        raise InputError(f"{without_secrets(url)} cannot be listed: {error}") from error
    files = [PurePosixPath(name) for name in names if is_image(Path(name))]
    if not files:
        raise InputError(f"no image at {without_secrets(url)}; images end in {', '.join(IMAGE_SUFFIXES)}")
    for file in files:
        relative = file.relative_to(base).as_posix() if file != base else file.name
        below = "" if file == base else f"/{relative}"
        yield Source(relative, (_fixed(start).rstrip("/") + below + mark + query).encode())


def _fixed(url: str) -> str:
    """The folders of a URL before its first wildcard."""
    return url if not glob.has_magic(url) else url[: url.rindex("/", 0, next(_magic(url)))]


def _magic(url: str) -> Iterator[int]:
    return (place for place, letter in enumerate(url) if letter in "*?[")


def _has_query(url: str) -> bool:
    """Whether what follows a question mark are options, as in ?scheme=http; it may be a pattern, too."""
    return "=" in url.partition("?")[2]


def without_secrets(url: str) -> str:
    """A URL without the key and the secret that may stand in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def _of_manifest(manifest: Path) -> Iterator[Source]:
    for name in _entries(manifest):
        if is_url(name):
            yield Source(without_secrets(name), name.encode())
        else:
            place = manifest.parent.absolute() / name
            yield Source(_text(Path(name)), os.fsencode(place))


def _entries(manifest: Path) -> Iterable[str]:
    try:
        if manifest.suffix.lower() == ".parquet":
            from pyarrow import parquet  # noqa: PLC0415 - of the extra

            columns = parquet.read_schema(manifest).names
            names = parquet.read_table(manifest, columns=[COLUMN])[COLUMN].to_pylist() if COLUMN in columns else []
        else:
            with manifest.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or ())
                names = [row[COLUMN] for row in reader] if COLUMN in columns else []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"the manifest {manifest} cannot be read: {error}") from error
    if COLUMN not in columns:
        raise InputError(f"the manifest {manifest} needs a column {COLUMN}, got {', '.join(columns) or 'none'}")
    if not all(names):
        raise InputError(f"the manifest {manifest} has a row without a {COLUMN}; every row names an image")
    return names


def _text(path: Path) -> str:
    """A path as text in UTF-8; bytes of its name that are none are written as \\udcff."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()

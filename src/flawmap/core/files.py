"""Files and folders: whole writes or none, room on the disk, digests, the order of names. No torch here."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from flawmap.core.errors import InputError, OutputError

_DIGITS = re.compile("([0-9]+)")
_PART = f".part-{zlib.crc32(platform.node().encode()):08x}-"  # of this machine: a folder may be shared with others


def cache_folder() -> Path:
    """Where flawmap keeps what it can get again: flawmap in $XDG_CACHE_HOME, or in ~/.cache where that is no absolute
    path."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path("~/.cache").expanduser()) / "flawmap"


@contextmanager
def atomic(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file in `path`'s folder to write into; it takes `path`'s name once the block ends well, and vanishes otherwise.

    Readers see the old file or the new one, never a part. Several threads and processes may write one path at once:
    each has a part of its own, and the last one to end stays. With `durable` the bytes reach the disk before the name
    changes (model files and checkpoints: a power cut must not leave an empty one).

    Raises:
        OutputError: the file cannot be written: no such folder, no right, no room. An OSError of the block that names
            another file is not changed.
    """
    part = path.with_name(f"{_PART}{os.getpid()}-{os.urandom(8).hex()}")
    try:
        yield part
        if durable:
            with part.open("rb+") as written:
                os.fsync(written.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)).name == part.name:
            raise unwritable(path, error) from error
        raise
    finally:
        with suppress(OSError):  # nothing was begun, or the folder itself is missing
            part.unlink(missing_ok=True)


def clean_stale_parts(folder: Path) -> None:
    """Remove the parts that killed processes of this machine left in a folder and the folders below it."""
    import psutil  # noqa: PLC0415 - not for --help

    for part in folder.rglob(f"{_PART}*"):
        process = part.name.removeprefix(_PART).partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            with suppress(OSError):  # another process removed it, or may alone
                part.unlink()


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error for a file that the system refused to write."""
    return OutputError(f"{path} cannot be written: {_reason(error)}")


def writable_folder(path: Path) -> Path:
    """`path` as a folder that can be written to; made, with its parents, where it is missing.

    Raises:
        OutputError: it cannot be made or written to.
    """
    step = "made"
    try:
        path.mkdir(parents=True, exist_ok=True)
        step = "written to"
        with NamedTemporaryFile(prefix=".probe.part-", dir=path):
            pass
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be {step}: {_reason(error)}; name another one") from error
    return path


def enough_space(folder: Path, needed: int) -> None:
    """Refuse a folder, made already or not, whose disk has less than `needed` bytes free, with an OutputError."""
    present = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(present).free
    if free < needed:
        raise OutputError(
            f"{folder} has {size_text(free)} free, {size_text(needed)} are needed; make room or name a folder on "
            "another disk"
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}") from error


def natural_key(path: Path) -> tuple[tuple[tuple[str | int, ...], ...], tuple[str, ...]]:
    """A sorting key that puts 2.png before 10.png, folder by folder, and is total: no two paths share it.

    >>> sorted((Path("b/10.png"), Path("b/2.png"), Path("a/30.png")), key=natural_key)[1].name
    '2.png'
    """
    # Splitting at digits always alternates text, number, text ..., so that equal places hold equal types.
    parts = tuple(
        tuple(int(piece) if place % 2 else piece.casefold() for place, piece in enumerate(_DIGITS.split(part)))
        for part in path.parts
    )
    return parts, path.parts


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def first_few(names: Iterable[object], shown: int = 3, separator: str = ", ") -> str:
    """Names, as a message lists them: the first ones, and dots where there are more."""
    found = [str(name) for name in names]
    return separator.join([*found[:shown], *(["..."] if len(found) > shown else [])])


def size_text(count: int) -> str:
    """A number of bytes as people read it.

    >>> size_text(2_500_000), size_text(7_168_000_000)
    ('2.5 MB', '7.2 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

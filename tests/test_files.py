"""Whole writes or none, room, digests and the order of names."""

import errno
import hashlib
import itertools
import multiprocessing
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from flawmap.core import files
from flawmap.core.errors import InputError, OutputError
from flawmap.core.files import atomic, clean_stale_parts, enough_space, natural_key, sha256_of, writable_folder


def test_atomic_replaces_whole(tmp_path: Path) -> None:
    """A written file takes the name of the old one, and nothing else is left."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic(target, durable=True) as part:
        part.write_text("new")
        assert target.read_text() == "old"
        assert part.parent == tmp_path
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def test_atomic_keeps_the_old_file_after_an_error(tmp_path: Path) -> None:
    """An error within the block leaves the old file as it was and no part."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(target) as part:
        _write_half(part)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_says_why_it_cannot_write(tmp_path: Path) -> None:
    """A missing folder is an InputError with the path and the reason."""
    target = tmp_path / "missing" / "a.txt"
    with (
        pytest.raises(InputError, match=f"^{target} cannot be written: No such file or directory$"),
        atomic(target) as part,
    ):
        part.write_text("x")


def test_atomic_leaves_errors_about_other_files_alone(tmp_path: Path) -> None:
    """An image that is missing is not a page that cannot be written; a full disk, which names no file, is."""
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "page.html"):
        (tmp_path / "image.png").read_bytes()
    with pytest.raises(OutputError, match=r"page\.html cannot be written: No space"), atomic(tmp_path / "page.html"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_atomic_takes_names_of_any_length(tmp_path: Path) -> None:
    """The part's name does not grow with the file's."""
    target = tmp_path / ("n" * 255)
    with atomic(target) as part:
        part.write_text("x")
    assert target.read_text() == "x"


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_many_may_write_one_path(tmp_path: Path, pool: type[Executor]) -> None:
    """Each writer has a part of its own; the file is always a whole one, and no part stays."""
    target = tmp_path / "a.txt"
    with pool(4, **FRESH if pool is ProcessPoolExecutor else {}) as writers:  # type: ignore[call-arg]
        list(writers.map(_write_often, [target] * 4, "abcd"))
    content = target.read_text()
    assert content == content[0] * LENGTH
    assert list(tmp_path.iterdir()) == [target]


def _write_often(target: Path, letter: str) -> None:
    for _ in range(25):
        with atomic(target) as part:
            part.write_text(letter * (LENGTH // 2))
            with part.open("a") as file:
                file.write(letter * (LENGTH // 2))
            seen = target.read_text() if target.exists() else "xx"
            assert len(set(seen)) == 1


LENGTH = 10_000
FRESH = {"mp_context": multiprocessing.get_context("spawn")}  # forks of a process with threads may hang


def test_parts_of_killed_processes_are_cleaned_up(tmp_path: Path) -> None:
    """Those of running ones, of other machines, and every other file stay."""
    program = (
        "import os, sys; from pathlib import Path; from flawmap.core.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as part: part.write_text('half'); os._exit(1)"
    )
    (tmp_path / "below").mkdir()
    for name in ("a.txt", "below/b.txt"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=False)
    stale = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stale) == 2
    kept = [tmp_path / name for name in (".part-elsewhere-1-abc", ".part-", "c.txt", ".hidden")]
    for path in kept:
        path.touch()
    with atomic(tmp_path / "d.txt") as own:
        own.touch()
        clean_stale_parts(tmp_path)
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*kept, own}


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    """A missing folder is made with its parents; the probe does not stay."""
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_writable_folder_says_why_not(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the folder .*file/sub cannot be made: Not a directory; name another one"):
        writable_folder(tmp_path / "file" / "sub")


def test_enough_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what is free and what is needed."""
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2_500_000_000}))
    enough_space(tmp_path / "not" / "yet", 2_400_000_000)
    with pytest.raises(InputError, match=r"has 2\.5 GB free, 3\.0 GB are needed; make room or name a folder"):
        enough_space(tmp_path, 3_000_000_000)


def test_sha256_of(tmp_path: Path) -> None:
    """The digest is the one of the bytes."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        sha256_of(tmp_path / "b")


def test_natural_key_orders_numbers_and_is_total() -> None:
    """Numbers count as numbers, case does not, and the order never depends on where sorting started."""
    names = ["a/2", "a/10", "B/1", "a", "a/b", "a/b/a1", "a/01", "a/1", "7", "x1y2", "x1y10", "X1y2", "ß", "1a/2", ""]
    paths = [Path(name) for name in names]
    expected = sorted(paths, key=natural_key)
    for shuffled in itertools.islice(itertools.permutations(paths), 0, 5000, 37):
        assert sorted(shuffled, key=natural_key) == expected
    assert expected.index(Path("a/2")) < expected.index(Path("a/10")) < expected.index(Path("B/1"))
    assert len({natural_key(path) for path in paths}) == len(paths)

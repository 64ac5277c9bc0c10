"""Whole writes or none, room, digests and the order of names."""

import hashlib
import itertools
from pathlib import Path

import pytest

from flawmap.core import files
from flawmap.core.errors import InputError
from flawmap.core.files import atomic, enough_space, natural_key, sha256_of, writable_folder


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

"""Which image files paths, folders and patterns name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flawmap.core.errors import InputError
from flawmap.data.finding import find_images
from flawmap.imaging.formats import is_image, why_ignored


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/10.png", "b/2.PNG", "a.tif", "b/c/x.jpeg", ".hidden/y.png", "b/.z.png", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def found(*paths: Path | str) -> list[str]:
    return [image.relative.as_posix() for image in find_images(paths)]


def test_find_images(tree: Path) -> None:
    """Folders are searched through in natural order, hidden and other files passed over; patterns and files work."""
    assert found(tree) == ["a.tif", "b/2.PNG", "b/10.png", "b/c/x.jpeg"]
    assert found(str(tree / "b" / "*.png")) == ["10.png"]
    assert found(str(tree / "**" / "*.*g")) == ["b/10.png", "b/c/x.jpeg"]
    assert found(str(tree / "b" / "*")) == ["2.PNG", "10.png", "c/x.jpeg"]
    assert found(tree / "a.tif") == ["a.tif"]
    assert found(tree, tree / "b") == found(tree)


def test_find_images_keeps_names_apart(tree: Path) -> None:
    """Images of one name in two folders are told apart by their folders; each file is found once."""
    (tree / "d").mkdir()
    (tree / "d" / "10.png").touch()
    assert found(tree / "b", tree / "d", tree / "b") == ["b/2.PNG", "b/10.png", "b/c/x.jpeg", "d/10.png"]


def test_find_images_follows_links_once(tree: Path) -> None:
    """A link to a folder above does not send the search round in circles."""
    (tree / "b" / "loop").symlink_to(tree, target_is_directory=True)
    assert found(tree) == ["a.tif", "b/2.PNG", "b/10.png", "b/c/x.jpeg"]


def test_find_images_takes_a_folder_named_like_a_pattern(tmp_path: Path) -> None:
    """A folder that is there is a folder, brackets or not."""
    (tmp_path / "set[1]").mkdir()
    (tmp_path / "set[1]" / "a.png").touch()
    assert found(tmp_path / "set[1]") == ["a.png"]


def test_find_images_errors(tree: Path) -> None:
    """Each way of finding nothing is said."""
    (tree / "empty").mkdir()
    (tree / "text").mkdir()
    for number in range(5):
        (tree / "text" / f"{number}.txt").touch()
    cases = {
        "none": "^no such file or folder: .*none$",
        "*.gif": r"^nothing matches the pattern .*\*\.gif$",
        "b/*.txt": r"^no image among what matches the pattern .*; images end in \.png",
        "empty": "^the folder .*empty is empty$",
        "text": r"^no image in the folder .*text, only 0\.txt, 1\.txt, 2\.txt, \.\.\.; images end in \.png, \.tif",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            find_images([str(tree / name)])
    with pytest.raises(InputError, match=r"^no image, folder or pattern was given$"):
        find_images([])


def test_only_regular_files_are_found(tree: Path) -> None:
    """Pipes and devices in a folder are passed over, and refused by name; a broken link is a missing file."""
    before = found(tree)
    os.mkfifo(tree / "pipe.png")
    (tree / "null.png").symlink_to("/dev/null")
    assert found(tree) == before
    assert found(str(tree / "*")) == before
    (tree / "z.png").symlink_to("nowhere")
    assert found(tree) == [*before, "z.png"]
    for name in ("pipe.png", "null.png"):
        with pytest.raises(
            InputError, match=rf"{name} is not a regular file; pipes, sockets and devices are not read$"
        ):
            find_images([tree / name])


def test_why_a_file_is_no_image() -> None:
    """Formats that are not read are told from what is no picture."""
    assert why_ignored(Path("a.GIF")) == why_ignored(Path("b.heic")) == "a format that flawmap does not read"
    assert why_ignored(Path("a.txt")) == why_ignored(Path("gif")) == "not an image"
    assert [is_image(Path(name)) for name in ("a.webp", "a.JP2", "a.pgm", "a.ppm", "a.gif")] == [True] * 4 + [False]

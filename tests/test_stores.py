"""Where images lie: a file of tiles gives back what memory gives, bit for bit, and vanishes."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flawmap.core.errors import InputError, OutputError
from flawmap.data.tile_store import (
    FLOAT32,
    STORAGE_DTYPES,
    TILE,
    Corner,
    MemoryStore,
    StorageDtype,
    TileStore,
    lossless_dtype,
)

RNG = np.random.default_rng(0)


def image(channels: int, height: int, width: int, white: int | None = 255) -> NDArray[np.float32]:
    """(C, H, W) of integers divided by white; None: of any float32."""
    if white is None:
        return RNG.random((channels, height, width), dtype=np.float32)
    values = RNG.integers(0, white + 1, (channels, height, width), endpoint=False)
    return values.astype(np.float32) / np.float32(white)


def blocks_of(picture: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The image as blocks of rows of any height."""
    places = np.sort(RNG.integers(0, picture.shape[1], 4))
    return np.split(picture, places, axis=1)


def corners_of(number: int, height: int, width: int, side: int) -> list[Corner]:
    """Every corner of the image, every border, the seams of tiles, and some places in between."""
    tops = {0, height - side, *range(0, height - side, 37), *(TILE - 1, TILE, TILE + 1)}
    lefts = {0, width - side, *range(0, width - side, 41), *(TILE - 1, TILE, TILE + 1)}
    return [
        Corner(number, top, left) for top in tops for left in lefts if top <= height - side and left <= width - side
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 32, 64, 128])
def test_a_file_gives_what_memory_gives(tmp_path: Path, channels: int, side: int) -> None:
    """Patches of images of any size and any values are equal in every bit, at every border and seam."""
    sizes = [(128, 128), (130, 191), (200, 129), (128, 256), (257, 193)]
    whites = [255, 65535, None, 4095, 255]
    stores, corners = (MemoryStore(), TileStore(tmp_path / "tiles")), []
    for number, (size, white) in enumerate(zip(sizes, whites, strict=True)):
        picture = image(channels, *size, white)
        for store in stores:
            store.add(picture.shape, blocks_of(picture))
        corners += corners_of(number, *size, side)
    corners = [corners[place] for place in RNG.permutation(len(corners))]
    found = [np.full((len(corners), channels, side, side), np.nan, np.float32) for _ in stores]
    for store, into in zip(stores, found, strict=True):
        store.read(corners, into)
    np.testing.assert_array_equal(*(patches.view(np.uint32) for patches in found))
    assert isinstance(stores[1], TileStore)
    stores[1].close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (image(1, 20, 30, 1), StorageDtype(np.uint8, 255)),
        (image(1, 20, 30, 15), StorageDtype(np.uint8, 255)),
        (image(3, 20, 30, 255), StorageDtype(np.uint8, 255)),
        *((image(1, 20, 30, form.white), form) for form in STORAGE_DTYPES),
        (image(1, 20, 30, 4095), FLOAT32),
        (image(1, 20, 30, None), FLOAT32),
        (image(1, 20, 30, 255) * 2, FLOAT32),
        (-image(1, 20, 30, 255), FLOAT32),
        (np.full((1, 3, 3), -0.0, np.float32), FLOAT32),
        (np.float32([[[0] * 9, [1e-9] * 9]]), FLOAT32),
    ],
)
def test_the_smallest_form_that_is_exact(values: NDArray[np.float32], form: StorageDtype) -> None:
    """8 and 16 bit are known by their values; whatever does not come back is kept as it is."""
    assert lossless_dtype(values) == form


@pytest.mark.parametrize("form", STORAGE_DTYPES)
def test_every_stored_value_comes_back(form: StorageDtype) -> None:
    """All values of a form, not some of them."""
    assert form.white is not None
    every = (np.arange(form.white + 1, dtype=np.float32) / np.float32(form.white)).reshape(1, -1, 1)
    assert lossless_dtype(every).white == form.white


@pytest.mark.parametrize(
    ("shape", "white", "size"),
    [((1, 100, 128), 255, 12_800), ((1, 100, 129), 65535, 38_400), ((3, 10, 64), None, 7_680)],
)
def test_bytes_of_an_image(tmp_path: Path, shape: tuple[int, int, int], white: int | None, size: int) -> None:
    """The file takes what a form says: 1, 2 or 4 bytes a value, rows filled up to whole tiles."""
    picture = image(*shape, white)
    with closing(TileStore(tmp_path / "tiles")) as store:
        store.add(picture.shape, [picture])
        assert store.path.stat().st_size == size == lossless_dtype(picture).bytes_of(*shape)


def test_without_positioned_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system has none, and takes no advice, patches are the same."""
    picture, into = image(1, 150, 170), np.empty((2, 1, 100, 100), np.float32)
    for name in ("pread", "posix_fadvise"):
        monkeypatch.delattr(os, name, raising=False)
    with closing(TileStore(tmp_path / "tiles")) as store:
        store.add(picture.shape, [picture])
        store.read([Corner(0, 50, 70), Corner(0, 3, 1)], into)
        store.add(picture.shape, [picture + 1])
        store.read([Corner(1, 0, 0)], into[:1])
    np.testing.assert_array_equal(into[0], picture[:, :100, :100] + 1)
    np.testing.assert_array_equal(into[1], picture[:, 3:103, 1:101])


def test_a_file_in_the_way_is_not_touched(tmp_path: Path) -> None:
    """A store makes its own file, and says so where it cannot."""
    path = tmp_path / "tiles"
    path.write_text("mine")
    with pytest.raises(OutputError, match=f"^{path} cannot be written: File exists$"):
        TileStore(path)
    assert path.read_text() == "mine"
    with pytest.raises(OutputError, match="missing/tiles cannot be written: No such file"):
        TileStore(tmp_path / "missing" / "tiles")


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """It is an error that names the file, and leaves nothing."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = TileStore(tmp_path / "tiles")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(OutputError, match=r"tiles cannot be written: File too large$"), closing(store):
            store.add((1, 64, 192), [image(1, 64, 192)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be cut short there")
def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    """Patches that are not there any more are an error, never zeros."""
    with closing(TileStore(tmp_path / "tiles")) as store:
        store.add((1, 128, 128), [image(1, 128, 128)])
        os.truncate(store.path, 9000)
        into = np.empty((1, 1, 64, 64), np.float32)
        store.read([Corner(0, 0, 0)], into)
        with pytest.raises(InputError) as error:
            store.read([Corner(0, 64, 64)], into)
    assert str(error.value) == (f"{store.path} was cut short while patches were read from it; begin the training anew")

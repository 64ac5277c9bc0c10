"""Damaged image files of every format that is read: each gives an image or an InputError, in bounded time and memory.

    python benchmarks/soak.py --minutes 60
    python benchmarks/soak.py --files 400 --seed 7

A child process with a memory limit reads the files one by one. A file that kills it, hangs it or raises anything else
is kept and named, and the next child goes on behind it. File number N of a seed is always the same. The exit code is 1
if there was a fault.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.imaging.codecs import page_count, read_header
from flawmap.imaging.reading import opened_image, read_image, read_mask

PIXEL_LIMIT = 2**22
MEMORY = 2**30
"""Bytes that a child may take beyond what it has once all is imported; the pixel limit keeps honest readers below."""
PATIENCE = 20.0
"""Seconds that one file may take."""
EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


# ---------------------------------------------------------------------------------------------------------------- files


def originals() -> dict[str, bytes]:
    """Small whole files of every format, mode and compression that is read."""
    random = np.random.default_rng(0)
    grey = cv2.GaussianBlur(random.integers(0, 256, (48, 40), dtype=np.uint8), (0, 0), 1.5)
    rgb = np.dstack([grey, np.roll(grey, 3, 0), np.roll(grey, 5, 1)])
    rgba = np.dstack([rgb, grey])
    deep, deep_rgb = grey.astype(np.uint16) * 200, rgb.astype(np.uint16) * 200
    indexed = Image.fromarray(grey)
    indexed.putpalette(random.integers(0, 256, 768, dtype=np.uint8).tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    files: dict[str, bytes | bytearray] = {
        "png grey": _pillow(grey, "PNG"),
        "png rgba": _pillow(rgba, "PNG", exif=exif),
        "png palette": _pillow(indexed, "PNG", transparency=bytes(range(256))),
        "png bits": _pillow(grey > 100, "PNG"),
        "png deep": imagecodecs.png_encode(deep),
        "png deep rgb": imagecodecs.png_encode(deep_rgb),
        "jpeg grey": _pillow(grey, "JPEG"),
        "jpeg rgb": _pillow(rgb, "JPEG", exif=exif),
        "jpeg progressive": _pillow(rgb, "JPEG", progressive=True),
        "jpeg restarts": _pillow(rgb, "JPEG", restart_marker_blocks=3),
        "jpeg cmyk": _pillow(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        "bmp grey": _pillow(grey, "BMP"),
        "bmp rgb": _pillow(rgb, "BMP"),
        "bmp palette": _pillow(indexed, "BMP"),
        "bmp bits": _pillow(grey > 100, "BMP"),
        "webp": _pillow(rgb, "WEBP", exif=exif),
        "webp lossless": _pillow(rgb, "WEBP", lossless=True),
        "webp alpha": _pillow(rgba, "WEBP"),
        "jp2": imagecodecs.jpeg2k_encode(rgb, level=0, reversible=True, codecformat="jp2"),
        "jp2 deep": imagecodecs.jpeg2k_encode(deep, level=0, codecformat="jp2"),
        "j2k": imagecodecs.jpeg2k_encode(grey, level=0, codecformat="j2k"),
        "pgm": _pillow(grey, "PPM"),
        "ppm": _pillow(rgb, "PPM"),
        "pgm deep": b"P5\n# a comment\n40 48\n51000\n" + deep.astype(">u2").tobytes(),
        "pgm text": b"P2 40 48 255\n" + " ".join(map(str, grey.ravel())).encode(),
    }
    pages: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "plain": (deep, {}),
        "big": (grey, {"bigtiff": True}),
        "big endian": (deep_rgb, {"byteorder": ">", "photometric": "rgb"}),
        "strips": (grey, {"rowsperstrip": 7, "compression": "zlib"}),
        "lzw": (deep, {"rowsperstrip": 5, "compression": "lzw", "predictor": 2}),
        "packbits": (grey, {"compression": "packbits"}),
        "zstd": (deep, {"compression": "zstd", "tile": (16, 16)}),
        "tiles": (rgb, {"tile": (16, 32), "photometric": "rgb", "compression": "zlib"}),
        "planes": (np.moveaxis(rgb, 2, 0), {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)}),
        "jpeg tiles": (rgb, {"tile": (16, 16), "compression": "jpeg", "photometric": "ycbcr"}),
        "jpeg strips": (grey, {"rowsperstrip": 16, "compression": "jpeg"}),
        "float": (grey / np.float32(255), {"compression": "zlib", "predictor": 3}),
        "palette": (grey, {"photometric": "palette", "colormap": random.integers(0, 2**16, (3, 256), np.uint16)}),
        "bits": (grey > 100, {"rowsperstrip": 9}),
        "pages": (np.stack([grey, 255 - grey]), {"photometric": "minisblack"}),
        "stack": (np.stack([grey, 255 - grey]), {"imagej": True}),
        "turned": (grey, {"extratags": [(274, 3, 1, 6, True)], "rowsperstrip": 8}),
    }
    files |= {f"tiff {name}": _tiff(array, **how) for name, (array, how) in pages.items()}
    files["tiff fax"] = _pillow(grey > 100, "TIFF", compression="group4")
    return {name: bytes(content) for name, content in files.items()}


def _pillow(picture: NDArray[Any] | Image.Image, name: str, **how: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, name, **how)
    return file.getvalue()


def _tiff(array: NDArray[Any], **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **how)
    return file.getvalue()


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """The same file with one to four things wrong."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        if len(data) < 4:
            break
        _damage(data, random)
    if data[:4] == b"\x89PNG" and random.random() < 0.8:
        _mend_checksums(data)
    return bytes(data)


def _damage(data: bytearray, random: np.random.Generator) -> None:
    # Headers lie in front, a TIFF's may lie at the end.
    span = len(data) if random.random() < 0.4 else min(len(data), 300)
    place = int(random.integers(0, span)) if random.random() < 0.8 else len(data) - 1 - int(random.integers(0, span))
    length = int(random.integers(1, 1 + min(64, len(data) - place)))
    match int(random.integers(0, 8)):
        case 0:
            data[place] ^= 1 << int(random.integers(0, 8))
        case 1:
            data[place] = int(random.integers(0, 256))
        case 2 | 3:  # a field of a header
            size = int(random.choice([1, 2, 4]))
            value = int(random.choice(EXTREMES)) & (2 ** (8 * size) - 1)
            data[place : place + size] = value.to_bytes(size, "big" if random.random() < 0.5 else "little")
        case 4:
            del data[int(random.integers(1, len(data))) :]
        case 5:
            del data[place : place + length]
        case 6:
            data[place:place] = data[place : place + length]
        case _:
            data[place : place + length] = random.integers(0, 256, length, dtype=np.uint8).tobytes()


def _mend_checksums(data: bytearray) -> None:
    """The CRC of every chunk of a PNG, so that damage inside is not seen by it."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4


def case(seed: int, number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """File `number` of a seed: the name of its original, and its bytes."""
    random = np.random.default_rng((seed, number))
    name = list(files)[int(random.integers(len(files)))]
    return name, mutated(files[name], random)


# ---------------------------------------------------------------------------------------------------------------- child


def outcome(path: Path) -> str:
    """ "image" or "refused"; anything else is raised."""
    settings = ImageSettings(pixel_limit=PIXEL_LIMIT)
    try:
        header = read_header(path, page=1)
        for page in range(1, min(3, page_count(path)) + 1):
            image = read_image(path, settings, page=page)
            with opened_image(path, settings, page=page) as rows:
                assert np.array_equal(rows.pixels(), image.pixels), "read by rows it is another image"
            if page == 1:
                assert image.pixels.shape == (header.height, header.width, header.channels), "the header lies"
        read_mask(path)
    except InputError as error:
        if "more memory than" in str(error):
            raise MemoryError(str(error)) from error
        return "refused"
    return "image"


def child(seed: int, first: int, folder: Path) -> None:
    """Read files from number `first` on, for as long as it lives; a line for each."""
    warnings.simplefilter("error")
    files = originals()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    number = first
    while True:
        name, content = case(seed, number, files)
        path = folder / "image"
        path.write_bytes(content)
        try:
            found = outcome(path)
        except BaseException as error:
            found = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        print(f"{number}\t{name}\t{found}", flush=True)
        number += 1


# --------------------------------------------------------------------------------------------------------------- parent


def read_all(seed: int, files: int, seconds: float, folder: Path) -> Iterator[tuple[int, str, str, float]]:
    """(number, original, outcome, seconds) of each file, until so many were read or the time is over."""
    number, end = 0, time.monotonic() + seconds
    while number < files and time.monotonic() < end:
        command = [sys.executable, __file__, "--child", str(number), "--seed", str(seed), "--folder", str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                for line, took in _lines(process):
                    _, name, found = line.split("\t")
                    yield number, name, found, took
                    number += 1
                    if number >= files or time.monotonic() > end:
                        return
            finally:
                process.kill()
        why = "hangs" if process.returncode == -9 else f"kills the process ({process.returncode})"
        yield number, case(seed, number, originals())[0], why, PATIENCE
        number += 1


def _lines(process: subprocess.Popen[bytes]) -> Iterator[tuple[str, float]]:
    """Lines of a child and the seconds that each took, until it ends or is silent for too long."""
    assert process.stdout is not None
    patience = 60.0  # it starts
    while True:
        start = time.monotonic()
        if not select.select([process.stdout], [], [], patience)[0]:
            process.kill()
            return
        line = process.stdout.readline().decode()
        if not line:
            process.wait()
            return
        yield line.rstrip("\n"), time.monotonic() - start
        patience = PATIENCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--files", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/soak-faults"), help="folder for such files")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        child(given.seed, given.child, given.folder)
    counts: Counter[tuple[str, str]] = Counter()
    faults, slowest = 0, (0.0, -1, "")
    with tempfile.TemporaryDirectory() as folder:
        for number, name, found, took in read_all(given.seed, given.files, 60 * given.minutes, Path(folder)):
            kind = found if found in ("image", "refused") else "fault"
            counts[name.split()[0], kind] += 1
            slowest = max(slowest, (took, number, name))
            if kind == "fault":
                faults += 1
                given.keep.mkdir(parents=True, exist_ok=True)
                kept = given.keep / f"{given.seed}-{number}"
                kept.write_bytes(case(given.seed, number, originals())[1])
                print(f"FAULT {kept} ({name}): {found}", flush=True)
    for format_name in sorted({name for name, _ in counts}):
        print(f"{format_name:6}", *(f"{counts[format_name, kind]:8,} {kind}" for kind in ("image", "refused", "fault")))
    took, number, name = slowest
    print(f"{sum(counts.values()):,} files, {faults} faults; the slowest, {number} ({name}), took {took:.2f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

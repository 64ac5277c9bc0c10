"""Damage inside a JPEG, which decoders pass over, is noted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.settings import ImageSettings
from flawmap.imaging.jpeg import frame_of, warnings_of
from flawmap.imaging.reading import opened_image, read_image

RNG = np.random.default_rng(5)
RGB = cv2.GaussianBlur(RNG.integers(0, 256, (200, 240, 3), dtype=np.uint8), (0, 0), 1.5)
KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "colour": (RGB, {}),
    "grey": (RGB[:, :, 0], {}),
    "full colour": (RGB, {"subsampling": 0}),
    "progressive": (RGB, {"progressive": True}),
    "restarts": (RGB, {"restart_marker_blocks": 8}),
    "tiny": (RGB[:1, :1], {}),
}


def jpeg(kind: str) -> bytes:
    picture, how = KINDS[kind]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_have_no_warnings(kind: str) -> None:
    """Nor have those with bytes behind their end, as cameras leave them."""
    assert warnings_of(jpeg(kind)) == []
    assert warnings_of(jpeg(kind) + b"more" * 100) == []
    frame = frame_of(jpeg(kind))
    assert frame is not None
    assert (frame.height, frame.width) == KINDS[kind][0].shape[:2]


@pytest.mark.parametrize("factors", [0x411111, 0x221111, 0x211111, 0x121111, 0x111111])
@pytest.mark.parametrize("shape", [(200, 240), (7, 5), (17, 33)])
def test_files_of_other_writers_have_no_warnings(factors: int, shape: tuple[int, int]) -> None:
    """Colours at any resolution, baseline or progressive, with restart markers or without."""
    picture = np.ascontiguousarray(RGB[: shape[0], : shape[1]])
    for progressive, restarts in ((0, 0), (1, 0), (0, 5)):
        how = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
        _, encoded = cv2.imencode(".jpg", picture, [*how, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts])
        assert warnings_of(encoded.tobytes()) == []


def test_grey_of_odd_factors_and_plain_rgb_have_no_warnings() -> None:
    """A grey file may name any resolution for its only channel; RGB may be stored without a change of colours."""
    grey = bytearray(jpeg("grey"))
    grey[grey.index(b"\xff\xc0") + 11] = 0x22
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", keep_rgb=True)
    assert warnings_of(bytes(grey)) == warnings_of(file.getvalue()) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tiny"])
@pytest.mark.parametrize("damage", ["zeros", "garbage", "missing"])
def test_damage_in_the_middle_is_said(tmp_path: Path, kind: str, damage: str) -> None:
    """A part of the compressed data overwritten or lost is noted wherever the decoder goes on, whole and by rows."""
    content = jpeg(kind)
    start, noted = content.index(b"\xff\xda") + 20, 0
    for place in np.linspace(start, len(content) - 1000, 8).astype(int):
        bad = {"zeros": bytes(900), "garbage": RNG.integers(0, 255, 900, dtype=np.uint8).tobytes(), "missing": b""}[
            damage
        ]
        (tmp_path / "a.jpg").write_bytes(content[:place] + bad + content[place + 900 :])
        try:
            image = read_image(tmp_path / "a.jpg", ImageSettings())
        except InputError:
            continue
        (note,) = image.notes
        assert note.startswith("decoded with warnings: its compressed data ")
        with opened_image(tmp_path / "a.jpg", ImageSettings()) as rows:
            np.testing.assert_array_equal(rows.pixels(), image.pixels)
            assert rows.notes == image.notes
        noted += 1
    assert noted or damage == "garbage"


def test_stray_bytes_are_said() -> None:
    """Bytes between the compressed data and the end belong to no part of the picture."""
    content = jpeg("colour")
    assert warnings_of(content[:-2] + bytes(50) + content[-2:]) == [
        "decoded with warnings: its compressed data hold stray bytes, a part of the picture may be wrong"
    ]

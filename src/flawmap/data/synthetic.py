"""Seeded images of good materials: two woven cloths, nanofibres, checkerboards. Arrays only, no files.

Cloth, twill and fibres are each one product: the images of all seeds share pitch, contrast and noise, and differ as
pieces cut from one bale differ. A checkerboard has a scale and an orientation of its own per image. A seed gives the
same bits every time on one machine and one NumPy; elsewhere the last bits of sines may differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from flawmap.core.errors import InputError

Image = NDArray[np.float32]
"""(H, W, 1) float32 in [0, 1]."""
Plane = NDArray[np.float32]
"""(H, W) float32."""

KINDS = ("cloth", "twill", "fibres", "checkerboard")
FITTING = {
    "cloth": ("cut", "rough", "contamination", "missing_thread"),
    "twill": ("cut", "rough", "contamination", "missing_thread"),
    "fibres": ("clump", "contamination", "rough", "cut"),
    "checkerboard": ("stroke", "dot"),
}
"""The kinds of flaws (see flawmap.flaws) that look true on each kind of material."""
SMALLEST_SIDE = 32  # pixels: a shorter side shows too few threads to be a texture
Stream = Literal["train", "good", "bad"]
_STREAMS: tuple[Stream, ...] = ("train", "good", "bad")


@dataclass(frozen=True)
class _Weave:
    """One fabric. Lengths in pixels, levels in [0, 1]."""

    warp: float  # pitch of the vertical threads
    weft: float  # pitch of the horizontal threads
    over: tuple[tuple[int, ...], ...]  # the repeat; rows: weft, columns: warp; 1: the warp passes over
    warp_level: float
    weft_level: float
    relief: float  # 0 to 1: how much darker a thread is where it dives
    unevenness: float  # relative spread of brightness from thread to thread and from crossing to crossing
    sharpness: float  # how abruptly one thread gives way to the other


_WEAVES = {
    # Plain weave: the bright floats lie 10.8 pixels apart in a row, 8.4 in a column.
    "cloth": _Weave(5.4, 4.2, ((1, 0), (0, 1)), 0.21, 0.60, 0.4, 0.03, 0.6),
    # Steep 2/2 twill: the ribs lie 8.4 pixels apart in a row, 21.6 in a column.
    "twill": _Weave(2.1, 5.4, ((1, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 1), (1, 0, 0, 1)), 0.7, 0.45, 0.25, 0.045, 0.5),
}


def texture(kind: str, size: tuple[int, int], seed: int) -> Image:
    """One image of a good material.

    Args:
        kind: one of KINDS.
        size: (width, height), pixels, each at least 32. It sets how much is seen, not how large the threads are.
        seed: 0 or more. Other seeds give other pieces of the same material.
    Returns:
        (H, W, 1) float32 in [0, 1]; bit-identical for one kind, size and seed.
    Raises:
        InputError: an unknown kind, a side under 32 pixels, a negative seed.
    """
    _checked(kind, size, seed)
    random = Generator(PCG64(SeedSequence((seed, KINDS.index(kind)))))
    if kind in _WEAVES:
        scene = _woven(random, *size, _WEAVES[kind])
    else:
        scene = (_fibres if kind == "fibres" else _checkerboard)(random, *size)
    return np.clip(scene, 0, 1).astype(np.float32)[:, :, None]


def good_images(
    kind: str, count: int, size: tuple[int, int], seed: int, *, stream: Stream = "train"
) -> Iterator[Image]:
    """`count` images of one good material, each (H, W, 1) float32 in [0, 1], made one by one.

    Args:
        kind, size, seed: as for `texture`; `seed` names the whole set.
        stream: "train", "good" (test images without a flaw) or "bad" (images to add flaws to). Streams share no image,
            and the first images of a stream do not depend on `count`.
    Raises:
        InputError: as for `texture`, or an unknown stream, a negative count; before the first image is made.
    """
    _checked(kind, size, seed)
    if stream not in _STREAMS:
        raise InputError(f"stream must be one of {', '.join(_STREAMS)}, got {stream!r}")
    if count < 0:
        raise InputError(f"count must be 0 or more, got {count}")
    return (texture(kind, size, _derived(seed, _STREAMS.index(stream), number)) for number in range(count))


def _checked(kind: str, size: tuple[int, int], seed: int) -> None:
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if min(size) < SMALLEST_SIDE:
        raise InputError(f"size must be (width, height) of at least {SMALLEST_SIDE} pixels each, got {size}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}")


def _derived(*key: int) -> int:
    """A seed for one image of one stream: 64 bits of a hash, so that streams do not meet."""
    return int(SeedSequence(key).generate_state(1, np.uint64)[0])


def _woven(random: Generator, width: int, height: int, weave: _Weave) -> Plane:
    y, x = centred_grid(height, width)
    angle = math.radians(random.uniform(-0.8, 0.8))
    # Positions counted in threads: pitch, turn, phase and a slow sway differ from piece to piece, all a little.
    pitch_x, pitch_y = weave.warp * random.uniform(0.996, 1.004), weave.weft * random.uniform(0.996, 1.004)
    across = (x * math.cos(angle) + y * math.sin(angle) + 0.8 * _wander(random, y, 160)) / pitch_x
    down = (y * math.cos(angle) - x * math.sin(angle) + 0.8 * _wander(random, x, 160)) / pitch_y
    across += 1 + random.uniform(0, 12) - float(across.min())
    down += 1 + random.uniform(0, 12) - float(down.min())
    repeat = np.array(weave.over, np.float32) * 2 - 1
    rows, columns = int(down.max()) + 3, int(across.max()) + 3
    tiles = (rows // repeat.shape[0] + 1, columns // repeat.shape[1] + 1)
    over = np.tile(repeat, tiles)[:rows, :columns]
    warp, warp_height = _threads(random, across, down, over, weave)
    weft, weft_height = _threads(random, down, across, -over.T, weave)
    share = np.clip(0.5 + weave.sharpness * (warp_height - weft_height), 0, 1)
    scene = share * weave.warp_level * warp + (1 - share) * weave.weft_level * weft
    return _noisy(random, _softened(scene * _light(random, x, y)), 0.012)


def _threads(random: Generator, across: Plane, along: Plane, over: Plane, weave: _Weave) -> tuple[Plane, Plane]:
    """(H, W) brightness (about 1 and below) and (H, W) height (about -0.8 to 1.4) of one set of parallel threads.

    across, along: (H, W), the position in threads across them and in crossings along them.
    over: (crossings, threads), 1 where a thread is on top, -1 where it dives.
    """
    crossings, threads = over.shape

    def uneven(per_thread: float, per_crossing: float) -> Plane:
        spread = per_thread * random.standard_normal((1, threads), np.float32)
        return spread + per_crossing * random.standard_normal((crossings, threads), np.float32)

    thread, crossing = np.floor(across), np.floor(along - 0.5)
    part = along - 0.5 - crossing
    part = part * part * (3 - 2 * part)  # a thread bends smoothly from crossing to crossing
    here = crossing.astype(np.intp) * threads + thread.astype(np.intp)

    def follow(table: Plane) -> Plane:
        flat = table.ravel()
        start = flat[here]
        return np.asarray(start + part * (flat[here + threads] - start), np.float32)

    height = follow(over)
    tone = follow(1 + uneven(weave.unevenness, 1.2 * weave.unevenness))
    offset = 2 * (across - thread - 0.5 + follow(uneven(0.04, 0.05))) / follow(1 + uneven(0.05, 0.04))
    dome = np.maximum(1 - offset * offset, 0)  # the thread's round cross-section
    brightness = tone * (0.55 + 0.45 * dome) * (1 + weave.relief * 0.5 * (height - 1))
    return brightness, 0.8 * height + 0.6 * dome


def _fibres(random: Generator, width: int, height: int) -> Plane:
    scene = np.full((height, width), 0.02, np.float32)
    radius = math.hypot(width, height) / 2
    number = round(0.38 * radius)  # random lines per length: as much is covered at any size
    for rank in range(number):  # from behind to the front
        angle = random.uniform(-math.pi / 4, math.pi / 4)
        canvas = scene if random.random() < 0.5 else scene.T  # a steep fibre is a flat one in the transposed image
        _fibre(random, canvas, angle, random.uniform(-radius, radius), (rank + 1) / number)
    y, x = centred_grid(height, width)
    return _noisy(random, scene * _light(random, x, y), 0.012)


def _fibre(random: Generator, canvas: Plane, angle: float, offset: float, depth: float) -> None:
    """Draw one fibre from the left to the right edge into (h, w) `canvas`, over what is there.

    angle: radians, within 45 degrees of level. offset: pixels from the canvas's centre. depth: 0 behind to 1 in front.
    """
    height, width = canvas.shape
    columns = np.arange(width, dtype=np.float32)
    level = 0.05 + 0.95 * (1 - (1 - depth) ** 1.4)
    half = np.clip(random.lognormal(math.log(3.9), 0.25), 1.5, 6) * (1 + 0.05 * _wander(random, columns, 60))
    centre = (height - 1) / 2 + offset / math.cos(angle) + math.tan(angle) * (columns - (width - 1) / 2)
    centre += random.uniform(0.5, 3) * _wander(random, columns, 220) + 0.25 * _wander(random, columns, 25)
    rough, side = 0.03 * _wander(random, columns, 30), random.uniform(-0.08, 0.08)

    reach = int(1.5 * half.max()) + 8
    rows = np.floor(centre).astype(np.intp) + np.arange(-reach, reach + 1)[:, None]
    seen = (rows >= 0) & (rows < height)
    distance = (rows - centre) / np.hypot(1, np.gradient(centre))
    away = (np.abs(distance) - half)[seen]
    surface = distance / half
    # Edges send more electrons to the detector; one flank faces it.
    shine = level * (1 + 0.10 * (np.minimum(surface * surface, 1) - 0.5) + side * surface + rough)
    place = rows[seen], np.broadcast_to(columns.astype(np.intp), rows.shape)[seen]
    behind = canvas[place] * (1 - 0.25 * np.exp(-np.maximum(away, 0) / 2.5))  # a fibre shades those close behind it
    cover = np.clip(0.5 - away, 0, 1)
    canvas[place] = behind + cover * (shine[seen] - behind)


def _checkerboard(random: Generator, width: int, height: int) -> Plane:
    """One scale (cells of 10 to 32 pixels) and one orientation; no noise, edges blended over a pixel."""
    y, x = centred_grid(height, width)
    cell, angle = math.exp(random.uniform(math.log(10), math.log(32))), random.uniform(0, math.pi / 2)
    dark, bright = random.uniform(0.08, 0.2), random.uniform(0.8, 0.92)
    turned = (x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle))
    pattern = np.ones_like(x)
    for position in turned:
        to_edge = 0.5 - np.abs((position / cell + random.uniform(0, 2)) % 2 - 1)  # cells; its sign alternates
        pattern *= np.clip(2 * cell * to_edge, -1, 1)
    return np.asarray((dark + bright) / 2 + (bright - dark) / 2 * pattern, np.float32)


def centred_grid(height: int, width: int) -> tuple[Plane, Plane]:
    """(H, W) y and x in pixels from the image's centre."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return y - np.float32((height - 1) / 2), x - np.float32((width - 1) / 2)


def _wander(random: Generator, along: Plane, period: float) -> Plane:
    """A slow random curve of about unit spread over `along` (pixels): three sinusoids, none faster than `period`."""
    waves = np.zeros_like(along)
    for _ in range(3):
        frequency = 2 * math.pi / (period * random.uniform(1, 2.5))
        waves += np.sin(along * np.float32(frequency) + np.float32(random.uniform(0, 2 * math.pi)))
    return np.asarray(waves * np.float32((2 / 3) ** 0.5), np.float32)


def _light(random: Generator, x: Plane, y: Plane) -> Plane:
    """(H, W) uneven light about 1: a tilted plane with a bow, a few percent from side to side."""
    angle, tilt, bow = random.uniform(0, 2 * math.pi), random.uniform(0.02, 0.05), random.uniform(-0.03, 0.03)
    along = (x * math.cos(angle) + y * math.sin(angle)) / (max(x.shape) / 2)
    return np.asarray(1 + tilt * along + bow * (along * along - 1 / 3), np.float32)


def _softened(scene: Plane) -> Plane:
    """The lens: weights 1-2-1 both ways."""
    padded = np.pad(scene, 1, mode="reflect")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4, np.float32)


def _noisy(random: Generator, scene: Plane, spread: float) -> Plane:
    return np.asarray(scene + np.float32(spread) * random.standard_normal(scene.shape, np.float32), np.float32)

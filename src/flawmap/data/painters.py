"""How each kind of flaw is painted: `paint(random, old, size)` takes a window's pixels and gives how much of each is
covered (0 to 1) and with what. Legend: H, W the window's sides, C its channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from flawmap.data.synthetic import Plane, centred_grid

Pixels = NDArray[np.float32]
"""(H, W, C) float32 in [0, 1]."""
Painted = tuple[Plane, Pixels]
"""(H, W) cover, 0 to 1, and the (H, W, C) pixels that cover."""

PLAIN = 0.02  # of intensities: a standard deviation below it is no texture


def _cut(random: Generator, old: Pixels, size: float) -> Painted:
    along, aside = _line(random, old, size, bend=0.15)
    aside += _ripple(random, along, 4, 0.6)
    taper = np.sqrt(np.maximum(1 - (2 * along / size) ** 2, 0))
    half = np.clip(0.05 * size, 0.9, 3) * (1 + 0.25 * _ripple(random, along, 3, 1)) * taper
    slit = np.clip(half - np.abs(aside) + 0.5, 0, 1) * (taper > 0)
    above, below = (np.abs(_ripple(random, along, 2, min(1.5, size / 10))) + 0.3 for _ in range(2))
    lips = np.clip(half + np.where(aside > 0, above, below) - np.abs(aside) + 0.5, 0, 1) * taper
    ground = _mean(old) * random.uniform(0.1, 0.35)
    bright = old + np.float32(random.uniform(0.15, 0.35))
    cover = np.asarray(np.maximum(slit, 0.8 * lips), np.float32)
    depth = (slit / np.maximum(cover, 0.1))[:, :, None]  # 1 in the slit, 0 on its lips
    return cover, np.asarray(bright + depth * (ground - bright), np.float32)


def _rough(random: Generator, old: Pixels, size: float) -> Painted:
    strength = np.clip(_blob(random, old, size) / (0.15 * size), 0, 1)
    grain = random.uniform(2, 4)
    reach = grain * random.uniform(0.9, 1.4) * strength
    y, x = np.mgrid[: old.shape[0], : old.shape[1]].astype(np.float32)
    down, right = _noise(random, strength.shape, grain), _noise(random, strength.shape, grain)
    torn = _sampled(old, y + reach * down, x + reach * right)
    loose = max(0.06, 0.2 - 2 * float(old.std(axis=(0, 1)).mean()))  # nothing to tear on a plain surface: roughen it
    fuzz = loose * strength * _noise(random, strength.shape, 0.7)
    return np.asarray(strength > 0.2, np.float32), np.asarray(torn + fuzz[:, :, None], np.float32)


def _contamination(random: Generator, old: Pixels, size: float) -> Painted:
    soft = max(random.uniform(0.05, 0.2) * size, 1.5)
    ragged = _blob(random, old, size) + 0.04 * size * _noise(random, old.shape[:2], max(size / 16, 0.7)) - 0.04 * size
    opacity = random.uniform(0.5, 0.85) * (1 + 0.1 * _noise(random, old.shape[:2], max(size / 10, 1)))
    mean = _mean(old)
    faded = mean + 0.6 * (_blur(old, random.uniform(1, 2.5)) - mean)
    tint = random.uniform(0.7, 1, old.shape[2])
    shade = _shifted(random, old, 0.15, 0.4, tint) - mean
    cover = opacity * np.clip(ragged / soft + 0.3, 0, 1)
    return np.asarray(cover, np.float32), np.asarray(faded + shade, np.float32)


def _missing_thread(random: Generator, old: Pixels, size: float) -> Painted:
    thread = _pitch(old.mean(axis=(1, 2)))
    y, x = centred_grid(*old.shape[:2])
    y += _ripple(random, x, 40, 0.5)
    cover = np.clip(thread / 2 - np.abs(y) + 0.5, 0, 1) * np.clip((size / 2 - np.abs(x)) / 2 + 0.5, 0, 1)
    smooth = _blur(old, thread)
    faint = 0.3 * (_blur(old, 1) - smooth)  # what lies behind shows a little
    shade = _shifted(random, old, 0.05, 0.15) - _mean(old)
    return np.asarray(cover, np.float32), np.asarray(smooth + faint + shade, np.float32)


def _clump(random: Generator, old: Pixels, size: float) -> Painted:
    depth = _blob(random, old, size)
    dome = _blur(np.sqrt(np.maximum(depth, 0) * size)[:, :, None], max(size / 12, 1))[:, :, 0]
    grains = _noise(random, depth.shape, max(size / 20, 0.8)) + _noise(random, depth.shape, max(size / 10, 1.5))
    down, right = np.gradient(dome + 0.03 * size * grains)
    angle = random.uniform(0, 2 * math.pi)
    facing = (down * math.sin(angle) + right * math.cos(angle)) / np.sqrt(1 + down**2 + right**2)
    mean = _mean(old)
    level = np.where(mean > 0.7, mean - 0.3, mean + random.uniform(0.2, 0.35))  # a lump on white can only be darker
    shaded = level + (0.22 * facing + 0.02 * random.standard_normal(depth.shape, np.float32))[:, :, None]
    ragged = depth + 0.02 * size * grains
    return np.asarray(np.clip(ragged + 0.5, 0, 1), np.float32), np.asarray(shaded, np.float32)


def _film(random: Generator, old: Pixels, size: float) -> Painted:
    soft = random.uniform(0.5, 3)
    cover = random.uniform(0.75, 1) * np.clip(_blob(random, old, size) / soft + 0.5, 0, 1)
    grain = random.choice((0.01, 0.03, 0.08)) * _noise(random, old.shape[:2], random.uniform(0.7, 3))
    clouds = 0.03 * _noise(random, old.shape[:2], max(size / 5, 1))
    if random.random() < 0.6:  # the uppermost threads lie on it
        lightness = _blur(old, 0.8).mean(axis=2)
        cover = cover * (1 - np.clip((lightness - np.quantile(lightness, random.uniform(0.7, 0.95))) / 0.06, 0, 1))
    level = np.clip(_shifted(random, old, 0, 0.25), 0.05, 0.95)
    return np.asarray(cover, np.float32), np.asarray(level + (grain + clouds)[:, :, None], np.float32)


def _stroke(random: Generator, old: Pixels, size: float) -> Painted:
    along, aside = _line(random, old, size, bend=0.2)
    half = min(random.uniform(1.5, 3.5), size / 4)
    past = np.maximum(np.abs(along) - size / 2 + half, 0)  # round ends
    return np.clip(half - np.hypot(aside, past) + 0.5, 0, 1), _grey(random, old)


def _dot(random: Generator, old: Pixels, size: float) -> Painted:
    y, x = centred_grid(*old.shape[:2])
    return np.clip(size / 2 - np.hypot(y, x) + 0.5, 0, 1), _grey(random, old)


def _scratch(random: Generator, old: Pixels, size: float) -> Painted:
    along, aside = _line(random, old, size, bend=0.08)
    half = random.uniform(0.5, 1.5) * np.clip(0.6 + 0.4 * _ripple(random, along, 8, 1), 0.3, 1)
    cover = np.clip(half - np.abs(aside) + 0.5, 0, 1) * np.clip(size / 2 - np.abs(along) + 0.5, 0, 1)
    shift = random.uniform(0.15, 0.4) * (1 if random.random() < 0.5 else -1)
    return np.asarray(cover, np.float32), _lit(old, shift)


def _crack(random: Generator, old: Pixels, size: float) -> Painted:
    along, aside = _line(random, old, size, bend=0.1)
    wander = _ripple(random, along, 5, 1.0) + _ripple(random, along, max(size / 5, 5), size / 16)
    half = random.uniform(0.5, 1.3) * np.clip(0.7 + 0.3 * _ripple(random, along, 10, 1), 0.3, 1)
    cover = np.clip(half - np.abs(aside - wander) + 0.5, 0, 1) * np.clip(size / 2 - np.abs(along) + 0.5, 0, 1)
    start, slope = random.uniform(-0.3, 0.1) * size, random.uniform(-0.8, 0.8)  # a branch leaves the line there
    past = along - start
    reach = np.clip(past + 0.5, 0, 1) * np.clip(0.3 * size - past + 0.5, 0, 1)
    branch = np.clip(0.7 * half - np.abs(aside - wander - slope * np.maximum(past, 0)) + 0.5, 0, 1) * reach
    deep = random.uniform(0.2, 0.6)
    inner = deep * old if float(old.mean()) > 0.2 else _lit(old, 0.3)  # a crack in black can only be brighter
    return np.asarray(np.maximum(cover, branch), np.float32), np.asarray(inner, np.float32)


def _spot(random: Generator, old: Pixels, size: float) -> Painted:
    y, x = centred_grid(*old.shape[:2])
    far = np.hypot(y, x * random.uniform(0.7, 1.0))
    cover = np.clip((size / 2 - far) / max(size / 6, 1) + 0.5, 0, 1)
    shift = random.uniform(0.12, 0.4) * (1 if random.random() < 0.5 else -1)
    return np.asarray(cover, np.float32), _lit(old, shift)


def _dent(random: Generator, old: Pixels, size: float) -> Painted:
    depth = _blob(random, old, size)
    dome = _blur(np.clip(depth, 0, None)[:, :, None], max(size / 10, 1))[:, :, 0]
    down, right = np.gradient(dome)
    angle = random.uniform(0, 2 * math.pi)
    shade: Plane = np.asarray(down * math.sin(angle) + right * math.cos(angle), np.float32)
    shade *= random.uniform(0.12, 0.3) / max(float(np.abs(shade).max()), 1e-6)
    return np.asarray(np.clip(depth / 2 + 0.5, 0, 1), np.float32), np.asarray(old + shade[:, :, None], np.float32)


def _double_thread(random: Generator, old: Pixels, size: float) -> Painted:
    thread = _pitch(old.mean(axis=(1, 2)))
    y, x = centred_grid(*old.shape[:2])
    middle = (old.shape[0] - 1) / 2 + random.uniform(-0.5, 0.5) * thread
    thick = _sampled(old, np.asarray(middle + y / 2, np.float32), np.asarray(x + (old.shape[1] - 1) / 2, np.float32))
    cover = np.clip(min(thread, size / 2) - np.abs(y) + 0.5, 0, 1) * np.clip((size / 2 - np.abs(x)) / 2 + 0.5, 0, 1)
    shade = random.uniform(-0.12, 0.12)
    return np.asarray(cover, np.float32), np.asarray(thick + shade, np.float32)


def _foreign(random: Generator, old: Pixels, size: float) -> Painted:
    cover = random.uniform(0.85, 1) * np.clip(_blob(random, old, size) / 1.5 + 0.5, 0, 1)
    height, width = old.shape[:2]
    y, x = centred_grid(height, width)
    angle, zoom = random.uniform(math.pi / 6, math.pi / 2), random.choice((0.55, 0.7, 1.4, 1.8))
    down, across = (
        (y * math.cos(angle) - x * math.sin(angle)) / zoom,
        (y * math.sin(angle) + x * math.cos(angle)) / zoom,
    )
    rows, columns = _folded(down + (height - 1) / 2, height), _folded(across + (width - 1) / 2, width)
    texture = _sampled(old, rows, columns)
    if float(old.std()) < PLAIN:  # no texture that could be foreign: another shade
        texture = _lit(texture, random.uniform(0.08, 0.2))
    return np.asarray(cover, np.float32), texture


def _folded(place: Plane, side: int) -> Plane:
    """Positions along a side, mirrored at its ends as often as needed."""
    period = 2.0 * max(side - 1, 1)
    return np.asarray(np.abs((place + period / 2) % period - period / 2), np.float32)


def _lit(old: Pixels, shift: float) -> Pixels:
    """`old` made brighter or darker, turned round where that would leave [0, 1]."""
    level = float(old.mean())
    return np.asarray(old + np.float32(shift if 0.05 <= level + shift <= 0.95 else -shift), np.float32)


def _grey(random: Generator, old: Pixels) -> Pixels:
    return np.full_like(old, random.uniform(0.3, 0.7))


def _mean(old: Pixels) -> NDArray[np.float32]:
    return np.asarray(old.mean(axis=(0, 1)), np.float32)


def _shifted(
    random: Generator, old: Pixels, least: float, most: float, tint: float | NDArray[np.float64] = 1.0
) -> NDArray[np.float32]:
    """(C,) the mean of `old` made darker or brighter by `least` to `most`, turned round where that leaves [0, 1]."""
    mean, shift = _mean(old), random.uniform(least, most) * (1 if random.random() < 0.5 else -1)
    if not 0 <= float(mean.mean()) + shift <= 1:
        shift = -shift
    return np.asarray(mean + shift * tint, np.float32)


def _line(random: Generator, old: Pixels, size: float, bend: float) -> tuple[Plane, Plane]:
    """(H, W) positions in pixels along and aside of a bent line through the window at a random angle."""
    y, x = centred_grid(*old.shape[:2])
    angle = random.uniform(0, math.pi)
    along, aside = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    sag = random.uniform(-bend, bend) * size
    return along, np.asarray(aside + sag * ((2 * along / size) ** 2 - 0.5), np.float32)


def _ripple(random: Generator, along: Plane, step: float, spread: float) -> Plane:
    """A random polygon over `along` with a knot every `step` pixels."""
    reach = float(np.abs(along).max())
    knots = np.arange(-reach - step, reach + 2 * step, step)
    return np.interp(along, knots, spread * random.standard_normal(knots.size)).astype(np.float32)


def _blob(random: Generator, old: Pixels, size: float) -> Plane:
    """(H, W) depth in pixels inside an irregular outline that reaches size / 2 from the centre; negative outside."""
    y, x = centred_grid(*old.shape[:2])
    angle, outline = np.arctan2(y, x), np.ones_like(x)
    for lobes in range(2, 8):
        outline += random.uniform(0, 0.5 / lobes) * np.sin(lobes * angle + random.uniform(0, 2 * math.pi))
    return np.asarray(size / 2 * outline / outline.max() - np.hypot(y, x), np.float32)


def _noise(random: Generator, shape: tuple[int, ...], grain: float) -> Plane:
    """Smooth noise of unit spread; `grain` is its blur's standard deviation, pixels."""
    field = _blur(random.standard_normal((*shape, 1), np.float32), grain)[:, :, 0]
    return np.asarray(field / field.std(), np.float32)


def _blur(field: Pixels, spread: float) -> Pixels:
    """Gaussian blur; borders mirror. spread: standard deviation, pixels."""
    reach = math.ceil(3 * spread)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2).astype(np.float32)
    taps /= taps.sum()
    for _ in range(2):
        length = field.shape[0]
        padded = np.pad(field, ((reach, reach), (0, 0), (0, 0)), mode="symmetric")
        field = sum((tap * padded[i : i + length] for i, tap in enumerate(taps)), np.zeros_like(field))
        field = field.swapaxes(0, 1)
    return field


def _sampled(old: Pixels, y: Plane, x: Plane) -> Pixels:
    """`old` at fractional positions, linearly between pixels; outside, the border's pixel."""
    height, width = old.shape[:2]
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = (y - top)[:, :, None], (x - left)[:, :, None]
    upper = old[top, left] + right * (old[top, left + 1] - old[top, left])
    lower = old[top + 1, left] + right * (old[top + 1, left + 1] - old[top + 1, left])
    return np.asarray(upper + down * (lower - upper), np.float32)


def _pitch(profile: NDArray[np.float32]) -> float:
    """Pixels from thread to thread along a profile, 4 to 10: its strongest self-likeness, or 6 where it has none."""
    centred = profile - profile.mean()
    likeness = np.correlate(centred, centred, "full")[len(centred) - 1 :]
    lags = np.arange(3, min(11, len(likeness) - 1))
    peaks = [lag for lag in lags if likeness[lag] > max(likeness[lag - 1], likeness[lag + 1], 0.2 * likeness[0])]
    return float(np.clip(peaks[0] if peaks else 6, 4, 10))


@dataclass(frozen=True)
class Painter:
    """How a kind is painted, and its usual length."""

    paint: Callable[[Generator, Pixels, float], Painted]
    usual: tuple[float, float]  # pixels from end to end
    level: bool = False  # painted level in a long low window


PAINTERS = {
    "cut": Painter(_cut, (16, 80)),
    "rough": Painter(_rough, (16, 60)),
    "contamination": Painter(_contamination, (10, 60)),
    "missing_thread": Painter(_missing_thread, (40, 200), level=True),
    "clump": Painter(_clump, (10, 50)),
    "stroke": Painter(_stroke, (16, 80)),
    "dot": Painter(_dot, (8, 24)),
    "film": Painter(_film, (8, 90)),
    "scratch": Painter(_scratch, (12, 80)),
    "crack": Painter(_crack, (16, 90)),
    "spot": Painter(_spot, (3, 14)),
    "dent": Painter(_dent, (12, 60)),
    "double_thread": Painter(_double_thread, (40, 200), level=True),
    "foreign": Painter(_foreign, (14, 80)),
}

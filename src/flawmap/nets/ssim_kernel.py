"""The mean of SSIM and its gradient, compiled by numba: one pass over tiles in place of some forty over whole maps.

Formulas and names are those of `similarity.Compared`. A tile's maps stay in a processor's caches. Every row of the sum,
the difference and their squares is blurred along the row as it comes. Then row after row of centres is blurred down the
columns, and what the mean and the gradient need of it follows at once. The transposes of the blurs come last.

A reflecting border needs no special transpose: centres at the border count twice, what lies outside mirrors the inside,
and pixels at the border get half.

Threads are Python's, which compiled functions let run: numba's own take one caller at a time or break after a fork.
A tile's result does not depend on their number, nor does the order in which tiles are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

LARGEST = 33  # window, pixels: its loops are unrolled
TILE = 128  # pixels of a tile along a side
PITCH = TILE + 2 * LARGEST + 14  # from row to row of a tile's maps; no power of 2, or rows would share places in caches
ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0, 0.5, 1, 2))
FAST = {"contract", "nsz", "arcp"}  # liberties of rounding: NaN stays NaN, and exchanged planes give the same


def _compiled(function: Function, *, liberties: set[str] = FAST) -> Function:
    """Compiled at its first call, without the lock of the interpreter. The result is kept on the disk, by processor:
    beside this file or in the user's cache. Where neither can be written, each process compiles anew."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": liberties}
    try:
        return cast(Function, njit(cache=True, **options)(function))
    except RuntimeError:  # of numba: no locator available
        return cast(Function, njit(**options)(function))


Offset = tuple[np.float32, np.float32]
"""What was subtracted from sum and difference of two planes, their means."""


class Comparison(NamedTuple):
    """weights: (K,), K odd, 3 to LARGEST, of the window along each axis. c1, c2: as in b1 and b2, twice the constants.
    reflect: the border; else `valid`. factor: of the gradient; 0 where none is wanted."""

    weights: tuple[np.float32, ...]
    c1: np.float32
    c2: np.float32
    reflect: bool
    factor: np.float32


class Inside(NamedTuple):
    """Of a line of places, `within` that lie inside, after `before` and before `after` that do not. first, last: what
    the outermost ones inside are multiplied by, once the others are filled."""

    before: int
    within: int
    after: int
    first: np.float32
    last: np.float32


class Maps(NamedTuple):
    """Of a tile, to be written over. blurred, spread: (4 or 3, rows x PITCH). line, means, slopes: (4 x PITCH,), rows
    that lie a known number of values apart, so loops over several of them are vectorised."""

    blurred: Floats
    spread: Floats
    line: Floats
    means: Floats
    slopes: Floats


def mean_and_gradient(
    p: Floats,
    q: Floats,
    weights: Sequence[float],
    constants: tuple[float, float],
    *,
    reflect: bool,
    differentiated: bool,
    threads: int,
) -> tuple[float, Floats]:
    """The mean of eq. 8 and, if asked for, its gradient by q, (M, H, W).

    p, q: (M, H, W), contiguous, sides of at least K. weights: (K,), K odd, 3 to LARGEST. constants: c1, c2.
    """
    planes, height, width = p.shape
    lost = 0 if reflect else len(weights) - 1
    count = planes * (height - lost) * (width - lost)
    c1, c2, factor = (np.float32(number) for number in (2 * constants[0], 2 * constants[1], 4 / count))
    kernel = tuple(np.float32(weight) for weight in weights)
    how = Comparison(kernel, c1, c2, reflect, factor if differentiated else ZERO)
    gradient = np.empty_like(q) if differentiated else np.empty((planes, 0, 0), np.float32)
    offsets = np.empty((planes, 2), np.float32)
    totals = np.empty((planes, -(-height // TILE), -(-width // TILE)))
    _side_by_side(lambda first: _offsets(p, q, first, threads, offsets), threads)
    _side_by_side(lambda first: _tiles(p, q, offsets, how, first, threads, totals, gradient), threads)
    return float(totals.sum() / count), gradient


def _side_by_side(work: Callable[[int], None], threads: int) -> None:
    """work(0) in this thread, and work(1) to work(threads - 1) in others.

    Not `parallel.side_by_side`, which takes four times as long to start: it gives each thread a core of torch's. Here
    the work asks for none, and takes a few milliseconds.
    """
    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, number) for number in range(1, threads)]
        work(0)
        for other in others:
            other.result()


@_compiled
def _offsets(p: Floats, q: Floats, first: int, step: int, offsets: Floats) -> None:
    """The means of sum and difference of every step-th pair of planes, (M, 2)."""
    height, width = p.shape[1:]
    for plane in range(first, len(p), step):
        sum_p, sum_q = 0.0, 0.0
        for y in range(height):
            sum_p += float(_sum(p[plane, y], width))
            sum_q += float(_sum(q[plane, y], width))
        offsets[plane, 0] = (sum_p + sum_q) / (height * width)
        offsets[plane, 1] = (sum_p - sum_q) / (height * width)


@_compiled
def _tiles(  # noqa: PLR0917 - numba takes arguments by position
    p: Floats,
    q: Floats,
    offsets: Floats,
    how: Comparison,
    first: int,
    step: int,
    totals: NDArray[np.float64],
    gradient: Floats,
) -> None:
    """Every step-th tile. totals: (M, tiles down, tiles across), the sums of eq. 8."""
    reach = len(how.weights) - 1
    maps = Maps(
        np.empty((4, (TILE + 2 * reach) * PITCH), np.float32),
        np.empty((3, (TILE + reach) * PITCH), np.float32),
        np.empty(4 * PITCH, np.float32),
        np.empty(4 * PITCH, np.float32),
        np.empty(4 * PITCH, np.float32),
    )
    down, across = totals.shape[1:]
    for number in range(first, totals.size, step):
        plane, row, column = number // (down * across), number // across % down, number % across
        a, b, offset = p[plane], q[plane], (offsets[plane, 0], offsets[plane, 1])
        totals[plane, row, column] = _values(a, b, offset, how, row * TILE, column * TILE, maps)
        if how.factor > 0:
            _gradients(a, b, offset, how, row * TILE, column * TILE, maps, gradient[plane])


@_compiled
def _values(p: Floats, q: Floats, offset: Offset, how: Comparison, top: int, left: int, maps: Maps) -> float:  # noqa: PLR0917
    """The sum of eq. 8 over a tile's own centres; into `spread`, slopes of all whose windows reach it, blurred along
    the rows."""
    height, width = p.shape
    half = len(how.weights) // 2
    bottom, right = min(height, top + TILE), min(width, left + TILE)
    y0, y1 = _centres(top, bottom, height, half, how.reflect)
    x0, x1 = _centres(left, right, width, half, how.reflect)
    inside = _inside(left, right, width, half, how.reflect)
    slopes = maps.slopes[inside.before :]
    total = 0.0
    for y in range(y0 - half, y1 + half):
        _line(p, q, offset, y, x0 - half, x1 + half, maps.line)
        at = (y - y0 + half) * PITCH
        for layer in range(4):
            _along(maps.line[layer * PITCH :], how.weights, maps.blurred[layer, at:], x1 - x0)
        centre = y - half  # the one whose window ends here
        if centre < y0:
            continue
        for layer in range(4):
            _down(maps.blurred[layer, (centre - y0) * PITCH :], how.weights, maps.means[layer * PITCH :], x1 - x0)
        _factors(maps.means, offset, how, x1 - x0, slopes)
        if top <= centre < bottom:
            total += float(_sum(slopes[3 * PITCH + max(left, x0) - x0 :], min(right, x1) - max(left, x0)))
        if how.factor > 0:
            at = (centre - top + half) * PITCH
            for layer in range(3):
                row = maps.slopes[layer * PITCH :]
                _fill(row, 1, 1, inside, how.reflect)
                _along(row, how.weights, maps.spread[layer, at:], right - left)
    return total


@_compiled
def _gradients(  # noqa: PLR0917
    p: Floats, q: Floats, offset: Offset, how: Comparison, top: int, left: int, maps: Maps, gradient: Floats
) -> None:
    """The gradient by q of a tile, from its `spread`."""
    height, width = p.shape
    half = len(how.weights) // 2
    bottom, right = min(height, top + TILE), min(width, left + TILE)
    inside = _inside(top, bottom, height, half, how.reflect)
    for layer in range(3):
        _fill(maps.spread[layer], PITCH, right - left, inside, how.reflect)
    for y in range(top, bottom):
        for layer in range(3):
            _down(maps.spread[layer, (y - top) * PITCH :], how.weights, maps.means[layer * PITCH :], right - left)
        halved = how.reflect and (y in (0, height - 1))
        row = gradient[y, left:right]
        _finish(p[y, left:right], q[y, left:right], offset, maps.means, how.factor * (HALF if halved else ONE), row)
        if how.reflect and left == 0:
            row[0] *= HALF
        if how.reflect and right == width:
            row[-1] *= HALF


@_compiled
def _centres(start: int, stop: int, side: int, half: int, reflect: bool) -> tuple[int, int]:
    """The first and last + 1 of the centres along a side whose windows reach pixels start to stop."""
    edge = 0 if reflect else half
    return max(edge, start - half), min(side - edge, stop + half)


@_compiled
def _inside(start: int, stop: int, side: int, half: int, reflect: bool) -> Inside:
    """These centres among all that would be there without borders. Those at a reflecting border count twice."""
    first, last = _centres(start, stop, side, half, reflect)
    twice = TWO if first == 0 else ONE, TWO if last == side else ONE
    return Inside(first - (start - half), last - first, stop + half - last, twice[0], twice[1])


@_compiled
def _line(p: Floats, q: Floats, offset: Offset, y: int, start: int, stop: int, line: Floats) -> None:  # noqa: PLR0917
    """Columns start to stop of row y: sum and difference less their offsets, and their squares; mirrored outside."""
    height, width = p.shape
    y = abs(y)
    y = min(y, 2 * (height - 1) - y)
    first, last = max(0, start), min(width, stop)
    before, count = first - start, last - first
    a, b = p[y, first:last], q[y, first:last]
    offset_t, offset_d = offset
    t, d = line[before:], line[PITCH + before :]
    for x in range(count):
        t[x] = (a[x] + b[x]) - offset_t
        d[x] = (a[x] - b[x]) - offset_d
    for layer in range(2):
        _fill(line[layer * PITCH :], 1, 1, Inside(before, count, stop - last, ONE, ONE), True)
    squares = line[2 * PITCH :]
    for x in range(PITCH + stop - start):
        squares[x] = line[x] * line[x]


@_compiled
def _fill(values: Floats, pitch: int, width: int, inside: Inside, mirrored: bool) -> None:
    """Rows, `pitch` apart, around those of `inside`: 0, or these mirrored, the outermost one not repeated."""
    before, count, after, first, last = inside
    end = before + count - 1
    for x in range(width):
        column = values[x:]
        for place in range(before):
            column[(before - 1 - place) * pitch] = column[(before + 1 + place) * pitch] if mirrored else ZERO
        for place in range(after):
            column[(end + 1 + place) * pitch] = column[(end - 1 - place) * pitch] if mirrored else ZERO
        column[before * pitch] *= first
        column[end * pitch] *= last


@_compiled
def _along(row: Floats, weights: tuple[np.float32, ...], means: Floats, count: int) -> None:
    """Weighted means of the K values from each one on."""
    for x in range(count):
        mean = ZERO
        for k in range(len(weights)):
            mean += weights[k] * row[x + k]
        means[x] = mean


@_compiled
def _down(rows: Floats, weights: tuple[np.float32, ...], means: Floats, count: int) -> None:
    """Weighted means of the first K rows, PITCH apart."""
    for x in range(count):
        mean = ZERO
        for k in range(len(weights)):
            mean += weights[k] * rows[k * PITCH + x]
        means[x] = mean


@_compiled
def _factors(means: Floats, offset: Offset, how: Comparison, count: int, slopes: Floats) -> None:
    """Of a row of centres, from the means of t, d, t^2 and d^2: what is spread to the pixels of their windows (by the
    means of t less d, by t^2, by d^2), and eq. 8."""
    offset_t, offset_d = offset
    c1, c2 = how.c1, how.c2
    mean_t, mean_d, square_t, square_d = means, means[PITCH:], means[2 * PITCH :], means[3 * PITCH :]
    by_mean, by_t, by_d, similarity = slopes, slopes[PITCH:], slopes[2 * PITCH :], slopes[3 * PITCH :]
    for x in range(count):
        t, d = mean_t[x], mean_d[x]
        sigma_t, sigma_d = square_t[x] - t * t, square_d[x] - d * d
        sigma_t = sigma_t if sigma_t > ZERO else ZERO
        sigma_d = sigma_d if sigma_d > ZERO else ZERO
        mu_t, mu_d = t + offset_t, d + offset_d
        over_b1 = ONE / (mu_t * mu_t + mu_d * mu_d + c1)
        over_b2 = ONE / (sigma_t + sigma_d + c2)
        r1, r2 = mu_d * mu_d * over_b1, sigma_d * over_b2
        f1, f2 = ONE - TWO * r1, ONE - TWO * r2
        similarity[x] = f1 * f2
        by_r1, by_r2 = f2 * over_b1, f1 * over_b2
        by_square_t, by_square_d = by_r2 * r2, by_r2 * r2 - by_r2
        by_mean[x] = (by_r1 * r1 * mu_t - t * by_square_t) - ((by_r1 * r1 - by_r1) * mu_d - d * by_square_d)
        by_t[x], by_d[x] = by_square_t, by_square_d


@partial(_compiled, liberties={*FAST, "reassoc"})
def _sum(values: Floats, count: int) -> np.float32:
    """The sum of the first values, in whichever order."""
    total = ZERO
    for x in range(count):
        total += values[x]
    return total


@_compiled
def _finish(p: Floats, q: Floats, offset: Offset, spread: Floats, factor: np.float32, gradient: Floats) -> None:  # noqa: PLR0917
    offset_t, offset_d = offset
    by_mean, by_t, by_d = spread, spread[PITCH:], spread[2 * PITCH :]
    for x in range(len(gradient)):
        t, d = (p[x] + q[x]) - offset_t, (p[x] - q[x]) - offset_d
        gradient[x] = factor * (by_mean[x] + by_t[x] * t - by_d[x] * d)

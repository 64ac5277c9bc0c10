"""Seeded flaws with exact masks, painted on any good image, synthetic or real. Arrays only, no files.

Every flaw is painted in a window that holds it wholly, see `flawmap.data.painters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from flawmap.core.checks import image_array, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.data.painters import PAINTERS, Pixels

FLAWS = tuple(PAINTERS)
SMALLEST = 3.0  # pixels: a flaw under this is lost in the noise
MARGIN = 4  # pixels around a flaw's characteristic length: room for frayed edges
BAND = 48  # pixels: what a missing thread's window shows across it, to take the local mean from
VISIBLE = 0.05  # least mean |new - old| inside the mask, of the range 0 to 1
CONTRAST = 0.4  # and of what it covers: least mean |new - old|, in standard deviations of the old pixels
TRIES = 100
_SEVERAL = 7  # stream of a seed that draws the kinds of several flaws


def add_flaw(
    image: Pixels,
    kind: str,
    seed: int,
    *,
    size: float | None = None,
    contrast: float | None = None,
    inside: Mask | None = None,
) -> tuple[Pixels, Mask]:
    """A copy of `image` with one flaw, and the flaw's mask.

    Outside the mask the copy equals the image bit for bit. The mask is the flaw's whole support: some of its pixels may
    happen to look as before, but their mean |new - old| is at least 0.05, and 0.4 of their standard deviation before.
    With a contrast it is that contrast.

    Args:
        image: (H, W, 1) or (H, W, 3), floating point in [0, 1].
        kind: one of FLAWS. cut: a dark slit with frayed bright lips. rough: a patch whose threads are displaced.
            contamination: a semi-transparent irregular stain, darker or brighter. missing_thread: a horizontal or
            vertical strip one thread wide without structure. clump: a bright shaded lump. stroke, dot: flat grey.
            film: an irregular patch of any size, smooth or grainy, nearly opaque, often under the brightest threads.
            scratch: a straight or slightly bent line 1 to 3 pixels wide. crack: a dark jagged line 1 to 3 pixels wide
            with a branch. spot: a small soft disc. dent: shading alone, a bright and a dark flank. double_thread: a
            thread twice as thick. foreign: a patch of the image's own texture, turned and magnified.
        seed: 0 or more.
        size: pixels from end to end: a stain's, lump's or dot's diameter, the length of a slit, stroke or missing
            thread. None: drawn log-uniformly from the kind's usual range, and smaller where that does not fit.
        contrast: mean |new - old| in the mask, of the range 0 to 1; the flaw is faded to it. None: as it was painted.
        inside: (H, W) bool; the flaw lies wholly within its True pixels. None: anywhere in the image.
    Returns:
        The new image, of the image's own shape and type, and (H, W) bool, True where flawed, never empty.
    Raises:
        InputError: not such an image (or under 11 pixels a side) or region, an unknown kind, a negative seed, a size
            that the image or the region cannot hold, a contrast outside (0, 1) or one that the kind does not reach.
    """
    _checked(image)
    if contrast is not None and not 0 < contrast < 1:
        raise InputError(f"contrast must lie between 0 and 1, got {contrast:g}")
    if kind not in FLAWS:
        raise InputError(f"kind must be one of {', '.join(FLAWS)}, got {kind!r}")
    if inside is not None and (inside.shape != image.shape[:2] or inside.dtype != np.bool_):
        got = f"{inside.dtype} {shape_text(inside.shape)}"
        raise InputError(f"inside must be bool {shape_text(image.shape[:2])} like the image, got {got}")
    largest = min(image.shape[:2]) - 2.0 * MARGIN
    if size is not None and not SMALLEST <= size <= largest:
        sides = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise InputError(f"size must lie between {SMALLEST:g} and {largest:g} for an image of {sides}, got {size:g}")
    return _placed(image, kind, seed, size=size, largest=largest, contrast=contrast, inside=inside)


def add_flaws(
    image: Pixels,
    seed: int,
    *,
    kinds: Sequence[str] = FLAWS,
    count: tuple[int, int] = (1, 3),
    inside: Mask | None = None,
) -> tuple[Pixels, Mask, list[str]]:
    """A copy of `image` with several flaws, the union of their masks, and their kinds in the order painted.

    Args:
        image, seed, inside: as for `add_flaw`.
        kinds: each flaw's kind is drawn from these.
        count: (fewest, most) flaws, both included.
    Raises:
        InputError: as for `add_flaw`, or `kinds` is empty or `count` is no range from 1 up.
    """
    _some(kinds)
    if not 1 <= count[0] <= count[1]:
        raise InputError(f"count must be (fewest, most) with 1 <= fewest <= most, got {count}")
    _checked(image)
    random = _random(seed, _SEVERAL)
    chosen = [kinds[int(random.integers(len(kinds)))] for _ in range(int(random.integers(count[0], count[1] + 1)))]
    new, mask = image, np.zeros(image.shape[:2], np.bool_)
    for kind in chosen:
        new, one = add_flaw(new, kind, int(random.integers(2**62)), inside=inside)
        mask |= one
    return new, mask, chosen


def defective_images(good: Iterable[Pixels], kinds: Sequence[str], seed: int) -> Iterator[tuple[str, Pixels, Mask]]:
    """One flaw on each good image, the kinds in turn: yields (kind, image, mask). Images are drawn one by one.

    Raises:
        InputError: `kinds` is empty, or as for `add_flaw`; when the image's turn comes.
    """
    _some(kinds)
    for number, image in enumerate(good):
        kind = kinds[number % len(kinds)]
        yield kind, *add_flaw(image, kind, int(_random(seed, number).integers(2**62)))


def _some(kinds: Sequence[str]) -> None:
    if not kinds:
        raise InputError(f"kinds must name at least one of {', '.join(FLAWS)}, got none")


def _checked(image: Pixels) -> None:
    image_array(image)
    least = int(SMALLEST) + 2 * MARGIN
    if min(image.shape[:2]) < least:
        sides = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise InputError(f"image must be at least {least} x {least} pixels to hold a flaw, got {sides}")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        raise InputError(f"image must lie in [0, 1], got {low:g} to {high:g}; divide by the type's range first")


def _random(seed: int, *stream: int) -> Generator:
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}")
    return Generator(PCG64(SeedSequence((seed, *stream))))


def _placed(
    image: Pixels,
    kind: str,
    seed: int,
    *,
    size: float | None,
    largest: float,
    contrast: float | None,
    inside: Mask | None,
) -> tuple[Pixels, Mask]:
    """Draw a place and a flaw, each try from a sub-stream of its own, until it fits and shows."""
    painter = PAINTERS[kind]
    low, high = (min(end, largest) for end in painter.usual)
    allowed = None if inside is None else np.flatnonzero(inside)
    if allowed is not None and not allowed.size:
        raise InputError("inside must hold at least one True pixel, got none")
    room = 1.0
    for attempt in range(TRIES):
        random = _random(seed, FLAWS.index(kind), attempt)
        turned = bool(random.integers(2))  # level flaws become upright ones in the transposed image
        drawn = math.exp(random.uniform(math.log(low), math.log(high)))
        length = max(drawn * room, SMALLEST) if size is None else float(size)
        along = math.ceil(length) + 2 * MARGIN
        across = BAND if painter.level else along
        window = _window(random, image.shape, (along, across) if turned else (across, along), allowed)
        old = _turn(image[window], turned)
        cover, pixels = painter.paint(random, old, length)
        support = cover > 0.1  # fainter edges are left as they were
        if inside is not None and not _turn(inside[window], turned)[support].all():
            room *= 0.93
            continue
        new = np.clip(old + cover[:, :, None] * (pixels - old), 0, 1)[support].astype(image.dtype)
        was = old[support]
        found = float(np.abs(new - was).mean()) if was.size else 0.0
        if contrast is not None and found >= contrast:
            new = (was + contrast / found * (new - was)).astype(image.dtype)
        if found > 0 and found >= (contrast or max(VISIBLE, CONTRAST * float(was.std(axis=0).mean()))):
            result, mask = image.copy(), np.zeros(image.shape[:2], np.bool_)
            _turn(result[window], turned)[support] = new
            _turn(mask[window], turned)[support] = True
            return result, mask
    where = "in the image" if inside is None else f"inside the region of {int(inside.sum())} pixels"
    asked = ("" if size is None else f" of {size:g} pixels") + (
        "" if contrast is None else f" and contrast {contrast:g}"
    )
    raise InputError(
        f"found no place for a {kind}{asked} {where} in {TRIES} tries; enlarge the region or ask for a smaller flaw"
    )


def _turn(array: NDArray[Any], turned: bool) -> NDArray[Any]:
    return array.swapaxes(0, 1) if turned else array


def _window(
    random: Generator, shape: tuple[int, ...], sides: tuple[int, int], allowed: NDArray[np.intp] | None
) -> tuple[slice, slice]:
    """Rows and columns of a window with `sides` in the image: anywhere, or about one of the `allowed` flat indices."""
    slack = [max(whole - side, 0) for whole, side in zip(shape[:2], sides, strict=True)]
    if allowed is None:
        top, left = (int(random.integers(most + 1)) for most in slack)
    else:
        centre = divmod(int(allowed[random.integers(allowed.size)]), shape[1])
        top, left = (min(max(c - s // 2, 0), most) for c, s, most in zip(centre, sides, slack, strict=True))
    return slice(top, top + sides[0]), slice(left, left + sides[1])

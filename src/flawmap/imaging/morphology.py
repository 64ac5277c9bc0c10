"""From a residual map to regions: opening, threshold, connected components.

A flat opening commutes with thresholding, so one grey-value opening of the map gives the opened mask at every
threshold: the map is opened once, and thresholds may move afterwards at no cost.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from flawmap.core.checks import finite, shape_text
from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask, Region


def disk(diameter: int) -> NDArray[np.uint8]:
    """The circle of a diameter, at least 1, on the pixel grid: (diameter, diameter) of 0 and 1.

    A pixel belongs to it when its centre lies within diameter / 2 of the circle's centre. The circle's centre is the
    centre of a pixel for odd diameters and a corner between four pixels for even ones; 4 is 4x4 without its corners.
    """
    twice = 2 * np.arange(diameter) - (diameter - 1)  # offsets in half pixels: the test stays in whole numbers
    return (twice[:, None] ** 2 + twice[None, :] ** 2 <= diameter**2).astype(np.uint8)


def opened(residual: FloatMap, diameter: int) -> FloatMap:
    """Grey-value opening of a residual map with a circle: flaws into which the circle does not fit vanish.

    At every pixel the largest value that a circle which covers it holds throughout. Circles may reach over the border
    as long as their centre lies in the image; what lies outside is ignored. Never above the map, the same when
    repeated or done on a turned or mirrored map, and `opened(m, d) > t` is the binary opening of `m > t` at every t.

    Args:
        residual: (H, W) float32, finite.
        diameter: of the circle, pixels; 0 and 1 leave the map as it is (a copy).
    Returns:
        (H, W) float32.
    Raises:
        InputError: not (H, W), not floating point, not finite, or a negative diameter.
    References:
        Steger, Ulrich, Wiedemann 2018, Machine Vision Algorithms and Applications; the circle of diameter 4 is that
        of Bergmann et al. 2019, arXiv:1807.02011.
    """
    _check_map(residual, "residual")
    if diameter < 0:
        raise InputError(f"diameter must be 0 (no opening) or more pixels, got {diameter}")
    image = np.array(residual, dtype=np.float32, order="C")
    if diameter <= 1 or image.size == 0:
        return image
    height, width = image.shape
    circle = disk(diameter)
    # Between n pixels there are n + 1 corners where an even circle's centre may lie, borders included: one more row
    # and column make room for them. OpenCV ignores what lies outside, and so must this padding: it holds infinity.
    even = 1 - diameter % 2
    room = cv2.copyMakeBorder(image, 0, even, 0, even, cv2.BORDER_CONSTANT, value=[np.inf])
    # cv2.MORPH_OPEN dilates with the anchor of the erosion, which for even circles moves the result by a pixel.
    anchor, mirrored = diameter // 2, diameter - 1 - diameter // 2
    eroded = cv2.erode(room, circle, anchor=(anchor, anchor))
    dilated = cv2.dilate(eroded, circle, anchor=(mirrored, mirrored))
    return np.ascontiguousarray(dilated[:height, :width], dtype=np.float32)


def threshold_mask(opened: FloatMap, threshold: float, inside: Mask | None = None) -> Mask:
    """The pixels strictly above a threshold, within a region of interest.

    Strict for every threshold, also for one between two float32 values, so a mask is empty exactly when the largest
    value in it does not exceed the threshold.

    Args:
        opened: (H, W) float32, finite.
        threshold: in the map's unit; infinity gives an empty mask.
        inside: (H, W) bool, True = inspected; None: everywhere.
    Returns:
        (H, W) bool.
    Raises:
        InputError: a shape, a type, or a NaN.
    """
    _check_map(opened, "opened")
    if np.isnan(threshold):
        raise InputError("threshold must be a number, got NaN")
    # A double in an array of one is compared as it is; a mere number would be rounded to float32 first.
    mask: Mask = opened > np.array([threshold], np.float64)
    if inside is not None:
        check_mask(inside, opened.shape, "inside")
        mask &= inside
    return mask


class RegionGathering:
    """The 8-connected components of a mask that comes by bands of rows; those that a seam cuts are put together again.

    Kept are components whose peak lies above `seed` (hysteresis) and not above `most`, with at least `area` pixels.
    Memory grows with the number of components and with the outlines of the mask, which is kept packed, not with the
    number of rows.
    """

    def __init__(self, seed: float = -math.inf, area: int = 1, most: float = math.inf) -> None:
        self._seed, self._area, self._most = seed, area, most
        self._closed: list[_Tally] = []  # components that no later band can touch, if they are kept
        self._open: _Tally = np.zeros(0, _ENTRY)
        self._line: NDArray[np.int64] | None = None  # numbers of the open components in the last row, -1 = none
        self._parents = array("q")  # of every component of a band: one that it belongs to, or itself
        self._bands: list[_PackedBand] = []
        self._top = 0

    def add(self, mask: Mask, opened_residual: FloatMap) -> None:
        """The band below the one before.

        Args:
            mask: (h, W) bool.
            opened_residual: (h, W) float32, finite: where peak and mean are taken.
        Raises:
            InputError: a shape, a type, or a NaN.
        """
        _check_map(opened_residual, "opened_residual")
        check_mask(mask, opened_residual.shape, "mask")
        known = len(self._parents)
        labels, tally = _components(mask, opened_residual, self._top)
        self._bands.append(_PackedBand.of(mask, known, len(tally)))
        if mask.size == 0:
            return
        tally["number"] = np.arange(known, known + len(tally))
        self._parents.extend(range(known, known + len(tally)))
        self._top += len(mask)
        before = len(self._open)
        first, last = (np.where(row > 0, before + row.astype(np.int64) - 1, -1) for row in (labels[0], labels[-1]))
        pairs = [] if self._line is None else _touching(self._line, first)
        group = _joined(before + len(tally), pairs)
        every = np.concatenate((self._open, tally))
        tally = _added(every, group)
        for number, parent in zip(every["number"], tally["number"][group], strict=True):
            self._parents[int(number)] = int(parent)
        ends = np.append(group, -1)[last]  # -1 stays -1
        going_on = np.unique(ends[ends >= 0])
        self._closed.append(self._worth(np.delete(tally, going_on)))
        self._open = tally[going_on]
        self._line = np.where(ends >= 0, np.searchsorted(going_on, ends), -1)

    def regions(self) -> tuple[Region, ...]:
        """The components of all bands, by falling peak; equal peaks from the top, then from the left."""
        found = self._kept()
        order = np.lexsort((found["left"], found["top"], -found["peak"]))
        return tuple(_region(found[place]) for place in order)

    def masks(self) -> Iterator[Mask]:
        """The bands as they came, after the last one, with the components that are kept alone."""
        belongs = np.array(self._parents, np.int64)
        while len(belongs) and (belongs[belongs] != belongs).any():
            belongs = belongs[belongs]
        kept = np.isin(belongs, self._kept()["number"].astype(np.int64))
        for band in self._bands:
            yield band.chosen(kept)

    def _kept(self) -> _Tally:
        return np.concatenate((*self._closed, self._worth(self._open)))

    def _worth(self, tally: _Tally) -> _Tally:
        peak = tally["peak"]
        return tally[(peak > self._seed) & (peak <= self._most) & (tally["area"] >= self._area)]


class _PackedBand(NamedTuple):
    """A mask (h, W) in few bytes. number: of its first component. own: how many it has."""

    shape: tuple[int, int]
    bits: bytes
    number: int
    own: int

    @classmethod
    def of(cls, mask: Mask, number: int, own: int) -> _PackedBand:
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(np.packbits(mask).tobytes(), 1), number, own)

    def chosen(self, kept: Mask) -> Mask:
        """The mask's components that are kept, by their numbers."""
        bits = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        mask = np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(np.bool_)
        chosen = kept[self.number : self.number + self.own]
        if not chosen.all():
            labels, _ = label(mask)
            places = np.flatnonzero(mask)
            mask.reshape(-1)[places] = chosen[labels.ravel()[places] - 1]
        return mask


_Tally = NDArray[np.void]
"""One entry for each component, of what adds up."""

_SUMS, _LEAST, _MOST = ("area", "x", "y", "residual"), ("left", "top", "number"), ("right", "bottom", "peak")
_ENTRY = np.dtype([(name, np.float64) for name in (*_SUMS, *_LEAST, *_MOST)])  # exact for whole numbers up to 2^53


def _components(mask: Mask, residual: FloatMap, top: int) -> tuple[NDArray[np.int32], _Tally]:
    """Labels from 1 of a band whose first row is `top`, and what they add up to."""
    labels, count = label(mask)
    tally = np.zeros(count, _ENTRY)
    if count == 0:
        return labels, tally
    places = np.flatnonzero(mask)
    owner, values = labels.ravel()[places] - 1, residual.ravel()[places]
    y, x = np.divmod(places, mask.shape[1])
    y += top
    for name, weights in (("area", None), ("x", x), ("y", y), ("residual", values)):
        tally[name] = np.bincount(owner, weights)
    short = owner.astype(np.uint16) if count <= np.iinfo(np.uint16).max else owner  # sorted in linear time
    order, starts = np.argsort(short, kind="stable"), (np.cumsum(tally["area"]) - tally["area"]).astype(np.int64)
    for gather, ends in (
        (np.minimum, {"left": x, "top": y}),
        (np.maximum, {"right": x + 1, "bottom": y + 1, "peak": values}),
    ):
        for name, each in ends.items():
            tally[name] = gather.reduceat(each[order], starts)
    return labels, tally


def _touching(above: NDArray[np.int64], below: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of numbers that are 8-neighbours across a seam: rows (W,) of numbers, -1 = none."""
    wide = np.pad(above, 1, constant_values=-1)
    pairs = np.concatenate([np.stack((wide[shift : shift + len(below)], below), axis=1) for shift in (0, 1, 2)])
    return [(int(one), int(other)) for one, other in np.unique(pairs[(pairs >= 0).all(axis=1)], axis=0)]


def _joined(number: int, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """(number,): from 0, alike for those that a chain of pairs connects."""
    parents = list(range(number))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    for one, other in pairs:
        parents[root(one)] = root(other)
    roots = np.array([root(place) for place in range(number)], np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _added(tally: _Tally, group: NDArray[np.int64]) -> _Tally:
    """One entry for each group."""
    order = np.argsort(group, kind="stable")
    starts = np.unique(group[order], return_index=True)[1]
    together = np.zeros(len(starts), _ENTRY)
    for names, gather in ((_SUMS, np.add), (_LEAST, np.minimum), (_MOST, np.maximum)):
        for name in names:
            together[name] = gather.reduceat(tally[name][order], starts)
    return together


def _region(entry: np.void) -> Region:
    area, left, top = int(entry["area"]), int(entry["left"]), int(entry["top"])
    return Region(
        area=area,
        box=(left, top, int(entry["right"]) - left, int(entry["bottom"]) - top),
        centroid=(float(entry["x"] / area), float(entry["y"] / area)),
        peak=float(entry["peak"]),
        mean=float(entry["residual"] / area),
    )


def dilated(mask: Mask, pixels: int) -> Mask:
    """The mask (H, W) and all pixels within a circle of this radius around it."""
    if pixels == 0:
        return mask.astype(np.bool_)
    circle = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), circle), dtype=np.bool_)


def label(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """The 8-connected components of a (H, W) bool mask: (H, W) int32 with 0 outside and 1 to n inside, and n."""
    check_mask(mask, mask.shape, "mask")
    if mask.size == 0:
        return np.zeros(mask.shape, dtype=np.int32), 0
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(labels, dtype=np.int32), count - 1


def outline_of(mask: Mask, box: tuple[int, int, int, int]) -> list[list[int]]:
    """The outer outline of the component of a mask that has this box: [x, y] of its pixels, without those in between on
    straight lines.

    box: (left, top, width, height) of a component, see `records.Region`.
    """
    left, top, width, height = box
    part = np.ascontiguousarray(mask[top : top + height, left : left + width], np.uint8)
    outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
    whole = [outline for outline in outlines if cv2.boundingRect(outline) == (left, top, width, height)]
    return [[int(x), int(y)] for x, y in whole[0][:, 0]] if whole else []


def check_mask(mask: Mask, shape: tuple[int, ...], name: str) -> None:
    """Refuse anything but a bool array of a (H, W) shape."""
    if mask.dtype != np.bool_:
        raise InputError(f"{name} must be bool, got {mask.dtype}; pass {name} > 0 if non-zero means True")
    if mask.ndim != 2 or mask.shape != shape:
        raise InputError(f"{name} must be (H, W) = {shape_text(shape)}, got {shape_text(mask.shape)}")


def _check_map(values: FloatMap, name: str) -> None:
    if values.ndim != 2:
        raise InputError(f"{name} must be (H, W), got {shape_text(values.shape)}")
    if values.dtype != np.float32:
        raise InputError(f"{name} must be float32, got {values.dtype}; pass {name}.astype(np.float32)")
    finite(values, name)

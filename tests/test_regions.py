"""Opening, threshold and components: laws, slow references, SciPy, exact error texts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from flawmap.core.errors import InputError
from flawmap.core.records import Region
from flawmap.imaging.morphology import RegionGathering, disk, label, opened, threshold_mask

DIAMETERS = (2, 3, 4, 5, 7, 8)


def a_map(seed: int, shape: tuple[int, int] = (23, 31)) -> NDArray[np.float32]:
    """Noise of two scales, so that openings leave something and remove something."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) * 3
    return np.asarray(smooth + rng.random(shape), np.float32)


def shapes(highest: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, highest), st.integers(1, highest))


QUARTERS = st.integers(-4, 4).map(lambda quarter: quarter / 4)  # ties are frequent
MAPS = shapes(20).flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=QUARTERS))
PAIRS = shapes(16).flatmap(lambda shape: st.tuples(*[hnp.arrays(np.float32, shape, elements=QUARTERS)] * 2))
MASKS = shapes(20).flatmap(lambda shape: hnp.arrays(np.bool_, shape))
DIAMETER = st.integers(2, 9)


def slow_opening(image: NDArray[np.float32], diameter: int) -> NDArray[np.float32]:
    """The definition, circle by circle: each centre in the image, what lies outside ignored."""
    height, width = image.shape
    result = np.full(image.shape, -np.inf, np.float32)
    rows, columns = np.mgrid[:height, :width]
    half = 0.5 if diameter % 2 == 0 else 0.0  # pixel i spans i - 0.5 to i + 0.5
    for y in np.arange(-half, height - 1 + half + 0.1):
        for x in np.arange(-half, width - 1 + half + 0.1):
            circle = (rows - y) ** 2 + (columns - x) ** 2 <= diameter**2 / 4
            result[circle] = np.maximum(result[circle], image[circle].min())
    return result


def test_the_circle_of_diameter_four_is_a_square_without_its_corners() -> None:
    """Diameter 4 is a diameter, not a radius: 12 pixels."""
    assert disk(4).tolist() == [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
    assert disk(1).tolist() == [[1]]
    assert disk(3).tolist() == [[1, 1, 1]] * 3
    assert disk(5).sum() == 21


def test_circles_are_symmetric_and_as_large_as_circles() -> None:
    """Every circle equals its mirror images and its area tends to pi d^2 / 4."""
    for diameter in range(1, 40):
        circle = disk(diameter)
        assert circle.shape == (diameter, diameter)
        assert circle.dtype == np.uint8
        assert (circle == circle.T).all()
        assert (circle == circle[::-1]).all()
        assert circle[diameter // 2].all(), "it is as wide as its diameter"
        assert abs(circle.sum() - np.pi * diameter**2 / 4) <= 2.5 * diameter**0.67 + 1


@given(image=MAPS, diameter=DIAMETER)
def test_opening_equals_its_definition_everywhere(image: NDArray[np.float32], diameter: int) -> None:
    """The result is that of trying every circle whose centre lies in the image, borders included."""
    assert np.array_equal(opened(image, diameter), slow_opening(image, diameter))


@pytest.mark.parametrize("diameter", DIAMETERS)
def test_opening_equals_scipy_in_the_interior(diameter: int) -> None:
    """SciPy's grey opening with the same circle agrees wherever its border rule has no part."""
    image = a_map(10 + diameter, (40, 50))
    theirs = ndimage.grey_opening(image, footprint=disk(diameter), mode="reflect")
    inner = (slice(2 * diameter, -2 * diameter),) * 2
    assert np.array_equal(opened(image, diameter)[inner], theirs[inner])


@given(maps=PAIRS, diameter=DIAMETER)
def test_opening_is_an_opening(maps: tuple[NDArray[np.float32], NDArray[np.float32]], diameter: int) -> None:
    """It never exceeds the map, keeps the order of maps, and done twice is as done once, borders included."""
    image, other = maps
    once = opened(image, diameter)
    assert (once <= image).all()
    assert np.array_equal(opened(once, diameter), once)
    assert (opened(np.maximum(image, other), diameter) >= once).all()


@given(image=MAPS, diameter=DIAMETER)
def test_opening_commutes_with_thresholding(image: NDArray[np.float32], diameter: int) -> None:
    """The opened map above t is the opened mask of the map above t, at every t."""
    once = opened(image, diameter)
    for threshold in np.unique(image):
        binary = opened((image > threshold).astype(np.float32), diameter) > 0.5
        assert np.array_equal(threshold_mask(once, float(threshold)), binary)


@given(image=MAPS, diameter=DIAMETER)
def test_opening_follows_turns_and_mirrors(image: NDArray[np.float32], diameter: int) -> None:
    """A turned or mirrored map opens to the turned or mirrored result: even circles move nothing."""
    once = opened(image, diameter)
    moves: tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], ...] = (
        np.rot90,
        lambda a: a[::-1, ::-1],
        lambda a: a[:, ::-1],
        np.transpose,
    )
    for move in moves:
        assert np.array_equal(opened(move(image), diameter), move(once))


def test_opening_of_no_size_is_a_copy() -> None:
    """Diameters 0 and 1 change nothing and hand out no view of the input."""
    image = a_map(5)
    for diameter in (0, 1):
        result = opened(image, diameter)
        assert np.array_equal(result, image)
        assert not np.shares_memory(result, image)


def test_opening_of_small_and_negative_maps() -> None:
    """Maps smaller than the circle and maps below zero keep finite values and constants stay constant."""
    for shape in ((1, 1), (1, 6), (3, 2)):
        assert (opened(np.full(shape, -2.5, np.float32), 8) == -2.5).all()
    assert opened(np.zeros((0, 4), np.float32), 4).shape == (0, 4)


def test_opening_removes_what_a_circle_does_not_fit_into() -> None:
    """Of a 3 pixel wide bar nothing is left at diameter 4, a 4 pixel wide bar stays but for its corners."""
    image = np.zeros((20, 40), np.float32)
    image[5:8, 5:30] = 1
    assert not opened(image, 4).any()
    image[5:9, 5:30] = 1
    assert opened(image, 4).sum() == 4 * 25 - 4


def test_threshold_is_strict_between_float32_values_too() -> None:
    """A pixel at the threshold is good, one a step above is a flaw, and a threshold between two floats is kept so."""
    step = np.nextafter(np.float32(0.1), np.float32(1))
    image = np.array([[0.1, step]], np.float32)
    assert threshold_mask(image, float(np.float32(0.1))).tolist() == [[False, True]]
    assert threshold_mask(image, float(step)).tolist() == [[False, False]]
    between = float(step) - 1e-12  # float32 would round it up to `step`
    assert threshold_mask(image, between).tolist() == [[False, True]]
    assert not threshold_mask(image, 1e300).any()
    assert not threshold_mask(image, float("inf")).any()
    assert threshold_mask(image, float("-inf")).all()
    assert threshold_mask(image, 0.0, np.array([[True, False]])).tolist() == [[True, False]]


def find_regions(mask: NDArray[np.bool_], residual: NDArray[np.float32]) -> tuple[Region, ...]:
    gathering = RegionGathering()
    gathering.add(mask, residual)
    return gathering.regions()


def test_regions_by_hand() -> None:
    """Diagonal neighbours are one region; box, centroid, area, peak and mean are those counted by hand."""
    values = np.zeros((5, 7), np.float32)
    values[0, 0], values[1, 1] = 0.5, 0.25
    values[2:4, 4:7] = 0.125
    values[3, 5] = 0.75
    assert find_regions(values > 0, values) == (
        Region(area=6, box=(4, 2, 3, 2), centroid=(5.0, 2.5), peak=0.75, mean=(5 * 0.125 + 0.75) / 6),
        Region(area=2, box=(0, 0, 2, 2), centroid=(0.5, 0.5), peak=0.5, mean=0.375),
    )
    assert find_regions(np.zeros((5, 7), np.bool_), values) == ()


@given(mask=MASKS)
def test_regions_equal_scipy(mask: NDArray[np.bool_]) -> None:
    """Number, areas, peaks, means, boxes and centroids agree with SciPy's labelling of any mask."""
    values = np.random.default_rng(mask.size).random(mask.shape, np.float32)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    regions = find_regions(mask, values)
    assert len(regions) == count == label(mask)[1]
    number = [labels[values == np.float32(region.peak)][0] for region in regions]
    assert [region.peak for region in regions] == sorted(ndimage.maximum(values, labels, number), reverse=True)
    assert [region.area for region in regions] == list(ndimage.sum_labels(mask, labels, number))
    np.testing.assert_allclose([region.mean for region in regions], ndimage.mean(values, labels, number), rtol=1e-6)
    centres = [region.centroid[::-1] for region in regions]
    np.testing.assert_allclose(centres, ndimage.center_of_mass(mask, labels, number), rtol=1e-12)
    for region, place in zip(regions, number, strict=True):
        down, across = ndimage.find_objects(labels)[place - 1]
        assert region.box == (across.start, down.start, across.stop - across.start, down.stop - down.start)


def test_equal_peaks_come_in_reading_order() -> None:
    """Regions of one peak are ordered from the top, then from the left."""
    values = np.zeros((6, 9), np.float32)
    for row, column in ((4, 0), (0, 6), (0, 2), (2, 4)):
        values[row, column] = 1
    assert [region.box[:2] for region in find_regions(values > 0, values)] == [(2, 0), (6, 0), (4, 2), (0, 4)]


def test_many_regions_are_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as SciPy finds, and the image is looked at once, not once for each of a hundred thousand."""
    passes: list[int] = []

    def counting(own: Callable[..., Any]) -> Callable[..., Any]:
        def counted(mask: NDArray[np.bool_], **how: int) -> Any:
            passes.append(mask.size)
            return own(mask, **how)

        return counted

    monkeypatch.setattr(cv2, "connectedComponents", counting(cv2.connectedComponents))
    monkeypatch.setattr(np, "nonzero", counting(np.nonzero))
    values = np.random.default_rng(0).random((2048, 2048)).astype(np.float32)
    regions = find_regions(values > 0.97, values)
    assert sum(passes) == 2 * values.size
    assert len(regions) == ndimage.label(values > 0.97, np.ones((3, 3)))[1] > 100_000


@given(
    shapes(20).flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0, 2.0]))),
    st.lists(st.integers(1, 23), max_size=4),
    st.integers(1, 6),
)
def test_hysteresis_equals_scipy(residual: NDArray[np.float32], cuts: list[int], area: int) -> None:
    """However the map is cut, a component of the lower mask stays if it holds a pixel above the seed and is no smaller
    than the area; without an area that is SciPy's propagation of the seeds."""
    gathering, lowest = RegionGathering(1.5, area), RegionGathering(1.5)
    edges = sorted({0, *(cut for cut in cuts if cut < len(residual)), len(residual)})
    for top, bottom in pairwise(edges):
        for one in (gathering, lowest):
            one.add(residual[top:bottom] > 0.5, residual[top:bottom])
    eight = np.ones((3, 3))
    expected = ndimage.binary_propagation(residual > 1.5, eight, mask=residual > 0.5)
    assert np.array_equal(np.concatenate(list(lowest.masks())), expected)
    labels, count = ndimage.label(expected, eight)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large = expected & (sizes[labels] >= area)
    masks = list(gathering.masks())
    assert [len(mask) for mask in masks] == np.diff(edges).tolist()
    assert np.array_equal(np.concatenate(masks), large)
    assert sum(region.area for region in gathering.regions()) == large.sum()
    assert all(region.peak > 1.5 and region.area >= area for region in gathering.regions())


def test_labels_of_nothing() -> None:
    """Empty arrays and empty masks have no components."""
    assert label(np.zeros((0, 3), np.bool_))[1] == 0
    assert label(np.zeros((4, 3), np.bool_))[1] == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: opened(a_map(0), -1), "diameter must be 0 (no opening) or more pixels, got -1"),
        (lambda: opened(np.zeros((1, 4, 4), np.float32), 4), "residual must be (H, W), got (1, 4, 4)"),
        (
            lambda: opened(np.zeros((4, 4)), 4),  # type: ignore[arg-type]
            "residual must be float32, got float64; pass residual.astype(np.float32)",
        ),
        (
            lambda: opened(np.full((4, 4), np.nan, np.float32), 4),
            "residual must be finite, got 16 NaN or infinite values of 16",
        ),
        (lambda: threshold_mask(a_map(0), float("nan")), "threshold must be a number, got NaN"),
        (
            lambda: find_regions(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.float32)),
            "mask must be bool, got uint8; pass mask > 0 if non-zero means True",
        ),
        (
            lambda: find_regions(np.zeros((4, 5), np.bool_), np.zeros((4, 4), np.float32)),
            "mask must be (H, W) = (4, 4), got (4, 5)",
        ),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call: Callable[[], object], text: str) -> None:
    """Every refused input is named with its expectation."""
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == text

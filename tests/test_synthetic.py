"""Seeded materials and flaws: what a seed promises, what a mask promises, and that the pictures are what they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flawmap.core.errors import InputError
from flawmap.data.defects import FLAWS, MARGIN, add_flaw, add_flaws, defective_images
from flawmap.data.synthetic import FITTING, KINDS, good_images, texture

PAIRS = list(itertools.product(KINDS, FLAWS))


def plain(value: float, channels: int = 1, side: int = 64) -> NDArray[np.float32]:
    return np.full((side, side, channels), value, np.float32)


def spectrum(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Amplitudes; row: cycles per height (signed), column: cycles per width (0 up), the mean removed."""
    plane = image[:, :, 0] - image.mean()
    taper = np.hanning(plane.shape[0])[:, None] * np.hanning(plane.shape[1])
    return np.abs(np.fft.rfft2(plane * taper))


def peak(amplitudes: NDArray[np.float64]) -> tuple[float, float]:
    """The strongest wave: (cycles per pixel downwards, cycles per pixel to the right)."""
    height, half = amplitudes.shape
    row, column = np.unravel_index(int(amplitudes.argmax()), amplitudes.shape)
    return float(np.fft.fftfreq(height)[row]), float(column) / (2 * (half - 1))


# Materials


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_names_one_image(kind: str) -> None:
    """One seed gives the same bits twice, another seed gives another image."""
    first = texture(kind, (96, 64), 5)
    assert np.array_equal(first, texture(kind, (96, 64), 5))
    assert not np.array_equal(first, texture(kind, (96, 64), 6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (97, 64), (33, 300)])
def test_an_image_has_the_asked_size_and_range(kind: str, size: tuple[int, int]) -> None:
    """Images are (height, width, 1) float32 in [0, 1], for any width and height."""
    image = texture(kind, size, 0)
    assert image.shape == (size[1], size[0], 1)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1


@pytest.mark.parametrize(
    ("kind", "mean", "spread"), [("cloth", 0.318, 0.113), ("twill", 0.480, 0.090), ("fibres", 0.571, 0.318)]
)
def test_a_material_keeps_its_look(kind: str, mean: float, spread: float) -> None:
    """Seed 0 keeps its coarse statistics from release to release and from machine to machine."""
    image = texture(kind, (128, 128), 0)
    assert float(image.mean()) == pytest.approx(mean, abs=0.005)
    assert float(image.std()) == pytest.approx(spread, abs=0.005)


@pytest.mark.parametrize(("kind", "wave"), [("cloth", (1 / 8.4, 1 / 10.8)), ("twill", (1 / 21.6, 1 / 8.4))])
def test_all_seeds_show_one_cloth(kind: str, wave: tuple[float, float]) -> None:
    """Every piece has the weave's own pitch and contrast, whatever its seed."""
    pieces = [texture(kind, (256, 256), seed) for seed in range(6)]
    for piece in pieces:
        down, right = peak(spectrum(piece))
        assert abs(down) == pytest.approx(wave[0], abs=1.5 / 256)
        assert right == pytest.approx(wave[1], abs=1.5 / 256)
    spreads = [float(piece.std()) for piece in pieces]
    assert max(spreads) < 1.1 * min(spreads)


def test_twill_has_ribs_one_way_and_cloth_both() -> None:
    """Plain weave is alike in its mirror image; a twill's diagonal leans to one side only."""
    for kind, one_sided in (("cloth", False), ("twill", True)):
        image = texture(kind, (256, 256), 1)
        amplitudes = spectrum(image)
        down, right = peak(amplitudes)
        column = round(right * 256)
        around = slice(column - 3, column + 4)
        rows = [round(sign * down * 256) % 256 for sign in (1, -1)]
        seen, mirrored = (amplitudes[max(row - 3, 0) : row + 4, around].max() for row in rows)
        assert (seen > 4 * mirrored) == one_sided, kind


def test_fibres_cover_as_much_at_any_size() -> None:
    """A larger image shows more fibres, not denser ones; background, middle layers and front are all there."""
    small, large = (np.stack([texture("fibres", (side, side), seed) for seed in range(6)]) for side in (96, 256))
    assert float(small.mean()) == pytest.approx(float(large.mean()), abs=0.08)
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.85), (0.85, 1)):
        assert 0.06 < float(((large >= low) & (large <= high)).mean()) < 0.6, (low, high)


def test_checkerboards_have_two_levels_and_differ_in_scale_and_turn() -> None:
    """A board is about half dark, half bright, with thin blended edges; seeds differ in scale and orientation."""
    waves = set()
    for seed in range(4):
        image = texture("checkerboard", (192, 192), seed)
        dark, bright = float(image.min()), float(image.max())
        flat = [float((np.abs(image - level) < 1e-3).mean()) for level in (dark, bright)]
        assert dark < 0.21
        assert bright > 0.79
        assert all(0.3 < share < 0.55 for share in flat)
        waves.add(peak(spectrum(image)))
    assert len(waves) == 4


def test_streams_share_no_image() -> None:
    """Training, good test and bad images of one seed are all different pieces."""
    seen = {
        image.tobytes()
        for stream in ("train", "good", "bad")
        for image in good_images("cloth", 5, (32, 32), 3, stream=stream)
    }
    assert len(seen) == 15


def test_a_longer_stream_begins_like_a_shorter_one() -> None:
    """The first images do not depend on how many are asked for."""
    short, long = (list(good_images("twill", count, (40, 32), 1)) for count in (2, 4))
    assert len(long) == 4
    assert all(np.array_equal(a, b) for a, b in zip(short, long, strict=False))


# Flaws


@pytest.mark.parametrize(("material", "kind"), PAIRS)
def test_a_flaw_changes_its_mask_and_nothing_else(material: str, kind: str) -> None:
    """Outside the mask every bit is the input's, inside the flaw is visible, and the input itself is untouched."""
    image = texture(material, (128, 96), 2)
    before = image.copy()
    for seed in range(4):
        new, mask = add_flaw(image, kind, seed)
        assert np.array_equal(image, before)
        assert new.shape == image.shape
        assert new.dtype == image.dtype
        assert mask.shape == image.shape[:2]
        assert mask.dtype == np.bool_
        assert mask.any()
        assert np.array_equal(new[~mask], image[~mask])
        assert np.abs(new - image)[mask].mean() >= 0.05
        assert 0 <= new.min() <= new.max() <= 1


@pytest.mark.parametrize("kind", FLAWS)
def test_a_mask_holds_few_pixels_that_look_as_before(kind: str) -> None:
    """The mask is not a box around the flaw: hardly a pixel in it is unchanged."""
    image = texture("cloth", (128, 128), 0)
    for seed in range(5):
        new, mask = add_flaw(image, kind, seed)
        assert (np.abs(new - image)[mask] < 1 / 255).mean() < 0.15


@pytest.mark.parametrize("kind", FLAWS)
def test_a_seed_names_one_flaw(kind: str) -> None:
    """One seed gives the same flaw twice, another seed gives another."""
    image = texture("fibres", (96, 96), 0)
    first, again, other = (add_flaw(image, kind, seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("kind", FLAWS)
def test_a_flaw_stays_inside_the_region(kind: str) -> None:
    """With a region of interest the mask lies wholly within it, whatever the region's shape."""
    y, x = np.mgrid[:96, :128]
    regions = [(y - 40) ** 2 + (x - 100) ** 2 < 20**2, np.abs(y - x) < 14, (y < 30) & (x < 20)]
    image = texture("twill", (128, 96), 0)
    for seed, inside in enumerate(regions):
        mask = add_flaw(image, kind, seed, inside=inside)[1]
        assert mask.any()
        assert not (mask & ~inside).any()


@pytest.mark.parametrize("kind", FLAWS)
@pytest.mark.parametrize("size", [8, 20, 48])
def test_size_is_the_length_from_end_to_end(kind: str, size: int) -> None:
    """The mask's extent follows the size asked for, up to frayed edges."""
    image = texture("cloth", (128, 128), 1)
    for seed in range(4):
        rows, columns = np.nonzero(add_flaw(image, kind, seed, size=size)[1])
        length = float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
        assert 0.5 * size <= length <= 1.5 * size + 2 * MARGIN


@pytest.mark.parametrize("kind", FLAWS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flaws_show_on_plain_surfaces_too(kind: str, value: float) -> None:
    """A black, grey or white surface without any texture takes every flaw."""
    image = plain(value)
    new, mask = add_flaw(image, kind, 0)
    assert np.abs(new - image)[mask].mean() >= 0.05


@pytest.mark.parametrize("kind", FLAWS)
def test_colour_and_double_precision_are_kept(kind: str) -> None:
    """A colour image stays in three channels, and an image keeps its floating-point type."""
    image = np.repeat(texture("cloth", (96, 96), 0), 3, axis=2).astype(np.float64) * [1, 0.7, 0.4]
    new, mask = add_flaw(image, kind, 3)
    assert new.shape == (96, 96, 3)
    assert new.dtype == np.float64
    assert np.array_equal(new[~mask], image[~mask])


@pytest.mark.parametrize("kind", FLAWS)
def test_the_smallest_image_takes_a_flaw(kind: str) -> None:
    """Eleven pixels a side are enough for every kind."""
    assert add_flaw(plain(0.4, side=11), kind, 0)[1].any()


def test_a_missing_thread_is_a_level_or_upright_strip_without_structure() -> None:
    """The strip is long one way and a thread wide the other, both directions occur, and what is left is smoother."""
    image = texture("cloth", (192, 192), 4)
    upright = set()
    for seed in range(8):
        new, mask = add_flaw(image, "missing_thread", seed, size=90)
        rows, columns = np.nonzero(mask)
        extents = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        assert max(extents) in range(86, 95)
        assert min(extents) in range(4, 16)
        upright.add(extents[0] > extents[1])
        assert new[mask].std() < 0.6 * image[mask].std()
    assert upright == {True, False}


def test_strokes_and_dots_are_flat_grey() -> None:
    """Away from its blended edge a stroke or a dot has one grey, whatever lies below."""
    image = texture("checkerboard", (128, 128), 1)
    for kind in ("stroke", "dot"):
        new, mask = add_flaw(image, kind, 0, size=30)
        values, counts = np.unique(new[mask], return_counts=True)
        assert counts.max() > 0.4 * mask.sum()
        assert 0.3 <= values[counts.argmax()] <= 0.7


def test_a_cut_is_darker_and_a_clump_brighter_than_the_cloth() -> None:
    """A cut shows the dark behind the cloth, a clump stands out bright."""
    image = texture("cloth", (128, 128), 0)
    cut, cut_mask = add_flaw(image, "cut", 0, size=60)
    clump, clump_mask = add_flaw(image, "clump", 0, size=40)
    assert np.percentile(cut[cut_mask], 20) < image.min()
    assert clump[clump_mask].mean() > image.mean() + 0.1


def test_several_flaws_have_one_mask() -> None:
    """The mask of several flaws is their union: outside it nothing changed; kinds and number are as asked."""
    image = texture("cloth", (160, 128), 0)
    inside = np.zeros((128, 160), np.bool_)
    inside[20:110, 30:140] = True
    numbers = set()
    for seed in range(10):
        new, mask, kinds = add_flaws(image, seed, kinds=("dot", "stroke"), count=(1, 3), inside=inside)
        assert np.array_equal(new[~mask], image[~mask])
        assert mask.any()
        assert not (mask & ~inside).any()
        assert set(kinds) <= {"dot", "stroke"}
        numbers.add(len(kinds))
    assert numbers == {1, 2, 3}


def test_bad_images_go_through_the_kinds_in_turn() -> None:
    """Every good image gets one flaw, the kinds take turns, and a second run gives the same bits."""
    kinds = FITTING["fibres"]
    good = list(good_images("fibres", 6, (64, 64), 0, stream="bad"))
    bad, again = (list(defective_images(iter(good), kinds, 9)) for _ in range(2))
    assert [kind for kind, _, _ in bad] == [kinds[number % len(kinds)] for number in range(6)]
    for (_, image, mask), (_, same, _), source in zip(bad, again, good, strict=True):
        assert np.array_equal(image, same)
        assert np.array_equal(image[~mask], source[~mask])
    assert len({mask.tobytes() for _, _, mask in bad}) == 6


def test_every_material_has_fitting_flaws() -> None:
    """Each material names kinds of flaws that exist."""
    assert set(FITTING) == set(KINDS)
    assert all(set(kinds) <= set(FLAWS) and kinds for kinds in FITTING.values())


# Refusals

OPEN = np.ones((64, 64), np.bool_)
CORNER = np.zeros((64, 64), np.bool_)
CORNER[:5, :5] = True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: texture("wool", (64, 64), 0), "kind must be one of cloth, twill, fibres, checkerboard, got 'wool'"),
        (
            lambda: texture("cloth", (64, 31), 0),
            "size must be (width, height) of at least 32 pixels each, got (64, 31)",
        ),
        (lambda: texture("cloth", (64, 64), -1), "seed must be 0 or more, got -1"),
        (
            lambda: good_images("wool", 1, (64, 64), 0),
            "kind must be one of cloth, twill, fibres, checkerboard, got 'wool'",
        ),
        (lambda: good_images("cloth", -1, (64, 64), 0), "count must be 0 or more, got -1"),
        (
            lambda: good_images("cloth", 1, (64, 64), 0, stream="test"),  # type: ignore[arg-type]
            "stream must be one of train, good, bad, got 'test'",
        ),
        (
            lambda: add_flaw(plain(0.5), "hole", 0),
            "kind must be one of cut, rough, contamination, missing_thread, clump, stroke, dot, film, "
            "scratch, crack, spot, dent, double_thread, foreign, got 'hole'",
        ),
        (lambda: add_flaw(plain(0.5), "dot", -2), "seed must be 0 or more, got -2"),
        (
            lambda: add_flaw(plain(0.5)[:, :, 0], "dot", 0),
            "image must be (H, W, 1) or (H, W, 3), got (64, 64); for a grey image pass image[:, :, None]",
        ),
        (
            lambda: add_flaw(plain(200.0), "dot", 0),
            "image must lie in [0, 1], got 200 to 200; divide by the type's range first",
        ),
        (
            lambda: add_flaw(plain(0.5, side=10), "dot", 0),
            "image must be at least 11 x 11 pixels to hold a flaw, got 10 x 10 pixels",
        ),
        (
            lambda: add_flaw(plain(0.5), "dot", 0, size=57),
            "size must lie between 3 and 56 for an image of 64 x 64 pixels, got 57",
        ),
        (
            lambda: add_flaw(plain(0.5), "dot", 0, inside=OPEN[:, :60]),
            "inside must be bool (64, 64) like the image, got bool (64, 60)",
        ),
        (
            lambda: add_flaw(plain(0.5), "dot", 0, inside=~OPEN),
            "inside must hold at least one True pixel, got none",
        ),
        (
            lambda: add_flaw(plain(0.5), "dot", 0, size=20, inside=CORNER),
            "found no place for a dot of 20 pixels inside the region of 25 pixels in 100 tries; "
            "enlarge the region or ask for a smaller flaw",
        ),
        (
            lambda: add_flaws(plain(0.5), 0, kinds=()),
            "kinds must name at least one of cut, rough, contamination, missing_thread, clump, stroke, dot, film, "
            "scratch, crack, spot, dent, double_thread, foreign, got none",
        ),
        (
            lambda: add_flaws(plain(0.5), 0, count=(2, 1)),
            "count must be (fewest, most) with 1 <= fewest <= most, got (2, 1)",
        ),
    ],
)
def test_refusals_say_what_was_expected(call: Callable[[], Any], message: str) -> None:
    """What makes no sense is refused at once, with what was expected and what came."""
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", FLAWS)
def test_a_flaw_is_faded_to_a_contrast(kind: str) -> None:
    """The mean change in the mask is the contrast asked for, where the kind reaches it; the rest stays as it was."""
    image = texture("cloth", (128, 128), 1)
    for contrast in (0.02, 0.05):
        new, mask = add_flaw(image, kind, 2, size=24, contrast=contrast)
        assert np.abs(new - image)[mask].mean() == pytest.approx(contrast, abs=1e-4)
        assert np.array_equal(new[~mask], image[~mask])
    with pytest.raises(InputError, match=f"found no place for a {kind} of 24 pixels and contrast 0.95"):
        add_flaw(image, kind, 2, size=24, contrast=0.95)
    with pytest.raises(InputError, match="contrast must lie between 0 and 1, got 0"):
        add_flaw(image, kind, 2, contrast=0)

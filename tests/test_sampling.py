"""Patches: evenly from every place, only from inside, whole."""

import numpy as np
import pytest

from flawmap.core.errors import InputError
from flawmap.data.patches import PatchSource, TrainingImage
from flawmap.methods.corruption import augment


def numbered(height: int, width: int, start: int = 0) -> np.ndarray:
    """An image each of whose pixels holds its own number."""
    return np.arange(start, start + height * width, dtype=np.float32).reshape(height, width, 1)


def test_every_place_is_drawn_evenly() -> None:
    """Corners come from all places of all images, each with the same frequency."""
    images = [numbered(5, 6), numbered(4, 9, 1000)]
    source = PatchSource(map(TrainingImage, images), 3)
    assert source.places == 3 * 4 + 2 * 7
    corners = source.sample(26_000, np.random.default_rng(0))[:, 0, 0, 0]
    expected = {
        float(image[y, x, 0]) for image in images for y in range(image.shape[0] - 2) for x in range(image.shape[1] - 2)
    }
    values, counts = np.unique(corners, return_counts=True)
    assert set(values) == expected
    assert np.abs(counts - 1000).max() < 150  # nearly five standard deviations


def test_patches_are_pieces_of_the_image() -> None:
    """A patch is the image's rows and columns from its corner on, channels first."""
    image = np.random.default_rng(1).random((20, 30, 3), dtype=np.float32)
    source = PatchSource([TrainingImage(image)], 8)
    patches = source.cut(np.arange(source.places))
    assert patches.shape == (13 * 23, 3, 8, 8)
    for number in (0, 1, 22, 23, 298):
        top, left = divmod(number, 23)
        np.testing.assert_array_equal(patches[number], image[top : top + 8, left : left + 8].transpose(2, 0, 1))


@pytest.mark.parametrize("seed", range(5))
def test_masked_places_equal_a_naive_search(seed: int) -> None:
    """Exactly the places whose whole patch is inside the mask are there."""
    rng = np.random.default_rng(seed)
    mask = rng.random((12, 17)) > 0.1
    mask[:5, :5] = True
    image = numbered(12, 17)
    expected = [float(image[y, x, 0]) for y in range(12 - 3) for x in range(17 - 3) if mask[y : y + 4, x : x + 4].all()]
    source = PatchSource([TrainingImage(numbered(9, 9, 500)), TrainingImage(image, mask)], 4)
    corners = source.cut(np.arange(source.places))[:, 0, 0, 0]
    assert corners[:36].min() == 500
    assert corners[36:].tolist() == expected


@pytest.mark.parametrize("share", [0.0, 0.002, 0.02])
def test_places_are_kept_as_runs(share: float) -> None:
    """However many holes a mask has, what is kept of it is at most 8 / P bytes a pixel, and no place is lost."""
    mask = np.random.default_rng(0).random((120, 150)) >= share
    mask[:9, :9] = True
    source = PatchSource([TrainingImage(numbered(120, 150), mask)], 8)
    (field,) = source._fields
    assert field.runs is not None
    assert field.runs.starts.nbytes + field.runs.ends.nbytes <= (8 / 8) * mask.size
    windows = np.lib.stride_tricks.sliding_window_view(mask, (8, 8)).all(axis=(2, 3))
    tops, lefts = np.nonzero(windows)
    corners = source.cut(np.arange(source.places))[:, 0, 0, 0]
    np.testing.assert_array_equal(corners, tops * 150 + lefts)


def test_sampling_is_seeded_and_finite() -> None:
    """The same generator state gives the same patches."""
    source = PatchSource([TrainingImage(numbered(50, 60))], 16)
    first, second = (source.sample(10, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
    assert first.dtype == np.float32


def test_refusals() -> None:
    """What has no patch says so with its sizes."""
    image = numbered(20, 30)
    with pytest.raises(InputError, match=r"^no images to take patches from$"):
        PatchSource([], 8)
    with pytest.raises(
        InputError, match=r"^b\.png is 30 x 20 at the working scale, a patch is 32 x 32; take a smaller patch, a larger"
    ):
        PatchSource([TrainingImage(numbered(40, 40)), TrainingImage(image, None, "b.png")], 32)
    holes = np.ones((20, 30), np.bool_)
    holes[::5] = False
    with pytest.raises(
        InputError, match=r"no patch of 8 x 8 pixels fits into the region .* of image 0 \(30 x 20, 480 pixels inside\)"
    ):
        PatchSource([TrainingImage(image, holes)], 8)
    with pytest.raises(InputError, match="images must have one number of channels, got grey and colour"):
        PatchSource([TrainingImage(image), TrainingImage(np.zeros((20, 30, 3), np.float32))], 8)
    with pytest.raises(InputError, match="image 0 must be finite, got 600 NaN"):
        PatchSource([TrainingImage(image * np.nan)], 8)
    with pytest.raises(InputError, match=r"a mask has its image's shape, \(20, 30\), got \(30, 20\)"):
        PatchSource([TrainingImage(image, holes.T)], 8)


@pytest.mark.parametrize(("how", "positions"), [("none", 1), ("flips", 4), ("turns", 8)])
def test_augmented_positions(how: str, positions: int) -> None:
    """Flips give four, turns eight positions of a patch, equally often; the argument stays as it was."""
    patch = numbered(3, 3).transpose(2, 0, 1)
    patches = np.repeat(patch[None], 4000, axis=0)
    before = patches.copy()
    turned = augment(patches, how, np.random.default_rng(0))
    np.testing.assert_array_equal(patches, before)
    seen, counts = np.unique(turned.reshape(len(turned), -1), axis=0, return_counts=True)
    symmetries = {np.rot90(side, k).tobytes() for side in (patch[0], patch[0].T) for k in range(4)}
    assert {row.astype(np.float32).tobytes() for row in seen} <= symmetries
    assert len(seen) == positions
    assert counts.min() > 0.85 * 4000 / positions


def test_channels_stay_in_place() -> None:
    """Augmentation turns all channels of a patch alike."""
    patches = np.random.default_rng(0).random((50, 1, 6, 6), dtype=np.float32).repeat(3, axis=1)
    patches *= np.float32([1, 2, 4])[:, None, None]
    turned = augment(patches, "turns", np.random.default_rng(0))
    np.testing.assert_array_equal(turned[:, 1], 2 * turned[:, 0])
    np.testing.assert_array_equal(turned[:, 2], 4 * turned[:, 0])


def test_unknown_augmentation() -> None:
    """An unknown name is refused."""
    with pytest.raises(InputError, match="augment must be none, flips or turns, got 'mirror'"):
        augment(np.zeros((1, 1, 2, 2), np.float32), "mirror", np.random.default_rng(0))

"""The region of interest, in the image's own pixels."""

from pathlib import Path

import numpy as np
import pytest

from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.core.settings import RegionOfInterest
from flawmap.imaging.reading import ImageRows, Pixels
from flawmap.imaging.roi import bounding_box, find_roi, label_in_roi
from flawmap.imaging.writing import write_image

PIXELS = np.random.default_rng(0).random((40, 60, 3), dtype=np.float32)
PATH = Path("photo.png")


def roi_mask(path: Path, pixels: Pixels, region: RegionOfInterest) -> Mask:
    height, width = pixels.shape[:2]
    return find_roi(ImageRows.of(pixels, path=path), region).rows(0, height, width)


def test_everywhere() -> None:
    """Without a region there is no mask, and all of the image is inside."""
    assert find_roi(ImageRows.of(PIXELS, path=PATH), RegionOfInterest()).mask is None
    assert roi_mask(PATH, PIXELS, RegionOfInterest()).all()


def test_box() -> None:
    """A box's left and top pixels are inside, its right and bottom ones outside."""
    inside = roi_mask(PATH, PIXELS, RegionOfInterest(box=(10, 5, 60, 20)))
    expected = np.zeros((40, 60), bool)
    expected[5:20, 10:60] = True
    np.testing.assert_array_equal(inside, expected)
    assert bounding_box(inside) == (10, 5, 60, 20)


def test_box_outside_the_image() -> None:
    """The error names the box and the image with its size."""
    message = r"^the box 10,5,61,20 \(left, top, right, bottom\) does not lie in photo\.png, which is 60 x 40$"
    with pytest.raises(InputError, match=message):
        roi_mask(PATH, PIXELS, RegionOfInterest(box=(10, 5, 61, 20)))


def test_masks_by_name(tmp_path: Path) -> None:
    """A mask is found by the image's stem, under a folder of the image's own folder's name first."""
    mask = PIXELS[:, :, 0] > 0.5
    write_image(tmp_path / "photo.png", mask)
    (tmp_path / "bent").mkdir()
    write_image(tmp_path / "bent" / "photo.png", ~mask)
    region = RegionOfInterest(masks=tmp_path)
    for path, expected in (("x/good/photo.tif", mask), ("x/bent/photo.tif", ~mask), ("photo.bmp", mask)):
        inside = roi_mask(Path(path), PIXELS, region)
        np.testing.assert_array_equal(inside, expected)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    """No mask, several, one of another size, and one with nothing inside are told apart."""
    region = RegionOfInterest(masks=tmp_path)
    with pytest.raises(
        InputError, match=r"no mask for photo\.png in .*; a mask has its image's name and one of \.png, "
    ):
        roi_mask(PATH, PIXELS, region)
    write_image(tmp_path / "photo.png", np.zeros((40, 60), bool))
    with pytest.raises(
        InputError, match=r"the mask .*photo\.png leaves nothing of photo\.png; change the region of interest"
    ):
        roi_mask(PATH, PIXELS, region)
    write_image(tmp_path / "photo.png", np.ones((40, 61), bool))
    with pytest.raises(InputError, match=r"photo\.png is 61 x 40, its image 60 x 40"):
        roi_mask(PATH, PIXELS, region)
    write_image(tmp_path / "photo.tif", np.ones((40, 60), np.float32))
    with pytest.raises(InputError, match=r"photo\.png has several masks: .*photo\.png, .*photo\.tif; leave one"):
        roi_mask(PATH, PIXELS, region)
    with pytest.raises(InputError, match=r"no such folder of masks: .*none"):
        roi_mask(PATH, PIXELS, RegionOfInterest(masks=tmp_path / "none"))


def test_brightness() -> None:
    """The mean of 31 pixels around decides: a bright half is inside, to within half a window of its edge."""
    image = np.full((50, 200, 1), 0.1, np.float32)
    image[:, 100:] = 0.9
    inside = roi_mask(PATH, image, RegionOfInterest(brightness=(0.5, 1)))
    np.testing.assert_array_equal(inside, np.broadcast_to(np.arange(200) >= 100, (50, 200)))
    speck = image.copy()
    speck[20:24, 150:154] = 0
    np.testing.assert_array_equal(roi_mask(PATH, speck, RegionOfInterest(brightness=(0.5, 1))), inside)


def test_brightness_at_its_ends() -> None:
    """White is inside (.., 1) and black inside (0, ..), in colour and in images smaller than the window."""
    for value in (0, 1):
        image = np.full((9, 7, 3), value, np.float32)
        inside = roi_mask(PATH, image, RegionOfInterest(brightness=(0, 0.5) if value == 0 else (0.5, 1)))
        assert inside.all()
        with pytest.raises(InputError, match=r"the brightness range leaves nothing of photo\.png"):
            roi_mask(PATH, image, RegionOfInterest(brightness=(0.2, 0.4)))


def test_judged() -> None:
    """Defects outside make an image neither good nor defective; anything less leaves its label."""
    mask = np.zeros((4, 6), bool)
    mask[1, 1:3] = True
    left, right = np.zeros_like(mask), np.zeros_like(mask)
    left[:, :2], right[:, 3:] = True, True
    assert label_in_roi("defective", mask, right) == "outside"
    assert label_in_roi("defective", mask, left) == "defective"
    assert label_in_roi("defective", mask, None) == "defective"
    assert label_in_roi("defective", None, right) == "defective"
    assert label_in_roi("defective", np.zeros_like(mask), right) == "defective"
    assert label_in_roi("good", None, right) == "good"

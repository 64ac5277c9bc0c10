"""Reports of many images: every image once, in order, on pages that lead to each other and stay small."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from flawmap.core.records import Mask
from flawmap.reporting.case_pictures import CasePictures
from flawmap.reporting.pages import Page
from flawmap.reporting.pictures import EncodedPicture, fitted, heatmap
from flawmap.reporting.reports import (
    IMAGE_BYTES,
    PER_PAGE,
    Captioned,
    Images,
    Shown,
    open_shelf,
    settings_section,
    write_report,
)
from flawmap.reporting.tables import number
from flawmap.scoring.inspection import Band

LIMIT = 10_000_000  # bytes of a page
RNG = np.random.default_rng(0)
TINY = fitted(RNG.integers(0, 256, (6, 8), dtype=np.uint8), 1000)
LARGEST = EncodedPicture("image/jpeg", RNG.bytes(IMAGE_BYTES), 1400, 1000)


def report_of(count: int, picture: EncodedPicture = TINY, seen: int | None = None) -> Images:
    """Images with falling scores, the first `seen` of them with a picture."""

    def shown(place: int) -> Shown:
        pictures: tuple[Captioned, ...] = (("found flaws", picture),)
        cells = ("flawed", *(number((count - place) / 7, 4) for _ in range(5)))
        name = f"line 1/camera 2/{place:04d}.png"
        return Shown(name, cells, f"no {place}", (lambda: pictures) if place < (seen or count) else None)

    columns = ("image", "verdict", "score", "p-value", "regions", "flawed pixels", "largest region")
    return Images(columns, tuple(map(shown, range(count))), "by falling score", (("broken.png", "no image"),))


def test_many_images_are_split(tmp_path: Path) -> None:
    """400 images, 30 a page: each on one page, the worst first, and every name in the table leads to its picture."""
    (tmp_path / "report-15.html").write_text("of a longer report")
    (tmp_path / "report-of-mine.html").write_text("another file")
    page = Page("T", "L", sections=(settings_section({"model": "m.flawmap", "none": None}, {"a.b": 1}),))
    files = write_report(page, report_of(400), tmp_path, per_page=30)
    names = [file.name for file in files]
    assert names == ["report.html", *(f"report-{number}.html" for number in range(2, 15))]
    assert sorted(path.name for path in tmp_path.glob("*")) == sorted([*names, "report-of-mine.html"])
    texts = {name: (tmp_path / name).read_text(encoding="utf-8") for name in names}
    notes = [int(note) for text in texts.values() for note in re.findall(r"<p>no (\d+)</p>", text)]
    assert notes == list(range(400))
    for text in texts.values():
        assert re.findall(r'href="(report[^"#]*)"', text) == names
        assert not re.findall(r'(?:src|href)="(?!data:|#|report)', text)
    links = re.findall(r'<a href="([^"#]*)#(image-\d+)">line 1/camera 2/(\d+)\.png</a>', texts["report.html"])
    assert [int(place) for _, _, place in links] == list(range(400))
    for file, key, place in links:
        found = re.search(rf'id="{key}">.*?<p>no (\d+)</p>', texts[file or "report.html"], re.DOTALL)
        assert found is not None
        assert found[1] == str(int(place))
    assert "broken.png" in texts["report.html"]
    assert [name for name, text in texts.items() if "All images" in text or "Settings and hashes" in text] == names[:1]


def test_a_page_stays_below_ten_megabytes(tmp_path: Path) -> None:
    """Forty images with pictures as large as they may be, and a table of 4,000 images."""
    (path,) = write_report(Page("T", "L"), report_of(4000, LARGEST, seen=PER_PAGE), tmp_path)
    assert IMAGE_BYTES * PER_PAGE < path.stat().st_size < LIMIT


def test_no_pictures_are_one_page(tmp_path: Path) -> None:
    """The table alone, without links."""
    (path,) = write_report(Page("T", "L"), Images(("image",), (Shown("a", (), "", None),), "as found"), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert '<th scope="row">a</th>' in text
    assert "<img" not in text


@pytest.mark.parametrize("size", [(900, 1300), (240, 200), (3, 3000)])
def test_pictures_fit(size: tuple[int, int]) -> None:
    """Noise of any size becomes a picture of at most so many bytes with the same sides' ratio; what fits is kept."""
    values = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    made = fitted(values, 20_000)
    assert len(made.content) <= 20_000
    assert made.width / made.height == pytest.approx(size[1] / size[0], rel=0.02 if min(size) > 9 else 1)
    small = fitted(np.zeros(size, np.uint8), 20_000)
    assert (small.height, small.width) == size


@pytest.mark.parametrize("rows", [50, 7])
def test_pictures_of_an_image_by_bands(rows: int, tmp_path: Path) -> None:
    """However an image arrives: its overlay in the colours of found and true, its reconstruction, its residual map."""
    image, residual = np.full((50, 60, 1), 0.5, np.float32), RNG.random((50, 60), dtype=np.float32)
    truth: Mask = np.zeros((50, 60), np.bool_)
    truth[20:30, 20:30] = True
    inside = np.ones((50, 60), np.bool_)
    with open_shelf(tmp_path) as shelf:
        seen = CasePictures(image.shape, truth, 0.4)
        for top in range(0, 50, rows):
            part = slice(top, top + rows)
            seen.add(Band(top, image[part], residual[part], image[part] / 2, inside[part]))
        for top in range(0, 50, rows):
            seen.add_mask(truth[top : top + rows])
        shelf.put("a", seen.finish())
        shelf.put("b", [("x", TINY)])
        captions, made = zip(*shelf.get("a"), strict=True)
        assert captions == ("found in green, truth in red", "reconstruction", "residual, opened")
        assert shelf.get("b") == [("x", TINY)]
        assert shelf.get("c") == []
    assert list(tmp_path.iterdir()) == []
    overlay, reconstruction, heat = map(opened, made)
    assert overlay[25, 19].tolist() == [0, 230, 90]
    assert overlay[25, 18].tolist() == [255, 45, 60]
    assert set(reconstruction.ravel().tolist()) == {64}
    np.testing.assert_array_equal(heat, heatmap(residual, 0, 1.0))


def opened(picture: EncodedPicture) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture.content)))

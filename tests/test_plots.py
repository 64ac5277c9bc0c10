"""Pictures and figures: what is drawn where, colours against matplotlib, whole files or none, nothing loaded early."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from flawmap.core.errors import InputError
from flawmap.core.records import Curve
from flawmap.reporting.charts import loss_figure, roc_figure
from flawmap.reporting.pictures import DETECTED, TRUTH, ReducedOverlay, heatmap, overlay

GREY = np.full((60, 80, 1), 0.5, np.float32)
SQUARE = np.zeros((60, 80), np.bool_)
SQUARE[20:30, 30:50] = True
NOTHING = np.zeros((60, 80), np.bool_)


def a_curve(power: float, points: int = 200) -> Curve:
    x = np.linspace(0, 1, points) ** 3
    return Curve(x, x**power, np.linspace(1, 0, points))


def has(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((picture == colour).all(axis=2))


# ----------------------------------------------------------------------------------------------------------- pictures


def test_a_detected_flaw_is_ringed_in_green_and_stays_visible() -> None:
    """Green runs one pixel around the flaw; the flaw and everything else keep the image's values."""
    picture = overlay(GREY, SQUARE)
    green = has(picture, DETECTED)
    assert green.sum() == 2 * 10 + 2 * 20, "a closed ring"
    assert not (green & SQUARE).any()
    grown = np.zeros_like(SQUARE)
    grown[19:31, 29:51] = True
    assert not (green & ~grown).any()
    assert (picture[~green] == 128).all()
    assert picture.dtype == np.uint8
    assert picture.shape == (60, 80, 3)


def test_truth_and_detection_are_both_visible_where_they_agree() -> None:
    """A flaw found exactly has a green ring and a red one around it, of full length each."""
    picture = overlay(GREY, SQUARE, SQUARE)
    assert has(picture, DETECTED).sum() == 60
    assert has(picture, TRUTH).sum() >= 60
    assert has(overlay(GREY, NOTHING, SQUARE), TRUTH).any()
    assert not has(overlay(GREY, NOTHING, SQUARE), DETECTED).any()
    assert (overlay(GREY, NOTHING, NOTHING) == 128).all()


def test_a_flaw_that_fills_the_image_is_drawn_along_its_border() -> None:
    """Where a flaw has no outside, its outline runs inside: all and nothing never look alike."""
    green = has(overlay(GREY, ~NOTHING), DETECTED)
    assert green[0].all()
    assert green[:, -1].all()
    assert not green[1:-1, 1:-1].any()


def test_outlines_widen_with_the_image() -> None:
    """Lines are 1 pixel wide at 512 pixels, 2 at 1024, 8 at 4096."""
    for side, width in ((300, 1), (512, 1), (1024, 2), (4096, 8)):
        mask = np.zeros((64, side), np.bool_)
        mask[20:40, 100:200] = True
        column = has(overlay(np.zeros((64, side, 1), np.float32), mask), DETECTED)[:, 150]
        assert column.sum() == 2 * width


def test_colour_and_grey_images_of_the_same_values_look_the_same() -> None:
    """A grey image is its own value in three channels; colours keep their order; values outside [0, 1] are clipped."""
    values = np.random.default_rng(0).uniform(-0.3, 1.3, (60, 80, 1)).astype(np.float32)
    grey = overlay(values, SQUARE)
    assert np.array_equal(grey, overlay(np.repeat(values, 3, axis=2), SQUARE))
    inner = np.clip(values[22:28, 32:48, 0], 0, 1)
    assert np.array_equal(grey[22:28, 32:48, 1], np.rint(inner * 255))
    red = np.zeros((60, 80, 3), np.float32)
    red[..., 0] = 1
    assert overlay(red, NOTHING)[0, 0].tolist() == [255, 0, 0]


def test_heatmap_is_inferno() -> None:
    """All 256 colours are those of matplotlib's inferno, to a rounding, and grow lighter throughout."""
    ramp = np.linspace(2, 3, 256, dtype=np.float32)[None]
    picture = heatmap(ramp, 2, 3)
    theirs = np.array([mpl.colormaps["inferno"](level)[:3] for level in range(256)]) * 255
    assert np.abs(picture[0] - theirs).max() <= 2
    lightness = picture[0].astype(np.float64) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] > 20 * lightness[0] + 200


def test_heatmap_limits_are_absolute() -> None:
    """A pixel's colour depends on its residual and the limits alone, never on its neighbours; outside is clipped."""
    first, second = np.array([[0.2, 0.9]], np.float32), np.array([[0.2, 0.1]], np.float32)
    assert np.array_equal(heatmap(first, 0, 1)[0, 0], heatmap(second, 0, 1)[0, 0])
    assert np.array_equal(heatmap(first * 100, 0, 1), heatmap(np.ones((1, 2), np.float32), 0, 1))
    assert np.array_equal(heatmap(-first, 0, 1), heatmap(np.zeros((1, 2), np.float32), 0, 1))


@pytest.mark.parametrize("bands", [[37], [1] * 37, [5, 20, 12]])
def test_a_reduced_overlay_is_that_of_the_reduced_image(bands: list[int]) -> None:
    """However an image arrives, its overlay is that of the means and of the "any" of blocks, the last ones smaller."""
    rng = np.random.default_rng(0)
    image, mask = rng.random((37, 50, 3), dtype=np.float32), rng.random((37, 50)) > 0.97
    blocks = [(slice(top, top + 3), slice(left, left + 3)) for top in range(0, 37, 3) for left in range(0, 50, 3)]
    means = np.reshape([image[block].mean(axis=(0, 1)) for block in blocks], (13, 17, 3)).astype(np.float32)
    found = np.reshape([mask[block].any() for block in blocks], (13, 17))
    reduced, top = ReducedOverlay(image.shape, factor=3), 0
    for height in bands:
        reduced.add_image(image[top : top + height])
        reduced.add_mask(mask[top : top + height])
        top += height
    assert np.abs(reduced.picture().astype(int) - overlay(means, found)).max() <= 1


# ------------------------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize("count", [1, 3, 9])
def test_roc_figures_are_png_files_with_nothing_left_beside_them(tmp_path: Path, count: int) -> None:
    """One, some and many curves, with names that mean something to a typesetter, give one readable PNG."""
    path = tmp_path / "roc.png"
    roc_figure({f"_curve $\\{index} $": a_curve(0.1 + 0.1 * index) for index in range(count)}, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1440
    assert [file.name for file in tmp_path.iterdir()] == ["roc.png"]


def test_roc_figures_show_area_and_both_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The legend has each area to three digits in the given order, and the second axis is logarithmic from 1e-5 up."""
    drawn: list[Figure] = []
    monkeypatch.setattr("flawmap.reporting.charts.save_figure", lambda figure, path: drawn.append(figure))
    perfect = Curve(np.array([0.0, 0, 1]), np.array([0.0, 1, 1]), np.array([1.0, 0, -1]))
    roc_figure({"perfect": perfect, "square root": a_curve(0.5, 5000)}, tmp_path / "roc.png")
    whole, low = drawn[0].axes
    legend = whole.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["1.000   perfect", "0.667   square root", "0.500   chance"]
    assert low.get_xscale() == "log"
    assert low.get_xlim() == (1e-5, 1)


def test_loss_figures_draw_what_numbers_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows without a series are skipped in it; wide spans are logarithmic, narrow or non-positive ones are not."""
    drawn: list[Figure] = []
    monkeypatch.setattr("flawmap.reporting.charts.save_figure", lambda figure, path: drawn.append(figure))
    rows = [{"step": step, "loss": 1 / (1 + step), "validation": 0.5 if step % 10 == 0 else None} for step in range(50)]
    rows.append({"step": 50, "loss": float("nan")})
    loss_figure(rows, tmp_path / "loss.png")
    loss_figure([{"step": 1, "loss": -0.1}, {"step": 2, "loss": 3.0}], tmp_path / "l.png")
    axes = drawn[0].axes[0]
    assert [len(np.asarray(line.get_xdata())) for line in axes.lines] == [50, 5]
    assert (axes.get_yscale(), drawn[1].axes[0].get_yscale()) == ("log", "linear")
    assert drawn[1].axes[0].get_xlabel() == "step"


def test_loss_figures_are_png_files(tmp_path: Path) -> None:
    """One row is enough for a figure."""
    loss_figure([{"step": 0, "loss": 0.9}], tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (1080, 630)


def test_a_failed_drawing_keeps_the_old_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file is replaced by a whole one or not at all, and no part of one is left."""
    path = tmp_path / "roc.png"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(InputError, match=r"roc\.png cannot be written: disk full$"):
        roc_figure({"a": a_curve(0.5)}, path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["roc.png"]


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path: Path) -> None:
    """Matplotlib comes with the first figure, and pyplot with its global state never."""
    code = f"""
import sys
from pathlib import Path
import flawmap.evaluation.metrics, flawmap.reporting.charts
assert "matplotlib" not in sys.modules
assert "torch" not in sys.modules
flawmap.reporting.charts.loss_figure([{{"step": 0, "loss": 1.0}}], Path({str(tmp_path / "loss.png")!r}))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda path: overlay(GREY, NOTHING[1:]),
            "mask must be (60, 80), as large as the image, got (59, 80)",
        ),
        (
            lambda path: overlay(GREY[..., 0], NOTHING),
            "image must be (H, W, 1) or (H, W, 3), got (60, 80); for a grey image pass image[:, :, None]",
        ),
        (lambda path: heatmap(GREY, 0, 1), "residual must be (H, W), got (60, 80, 1)"),
        (
            lambda path: heatmap(GREY[..., 0], 1, 1),
            "low and high must be finite with low < high, got 1 and 1",
        ),
        (
            lambda path: heatmap(np.full((1, 1), np.nan, np.float32), 0, 1),
            "residual must be finite, got 1 NaN or infinite values of 1",
        ),
        (lambda path: roc_figure({}, path), "curves must name at least one curve, got none"),
        (
            lambda path: loss_figure([{"step": 1}], path),
            "history must hold numbers of loss or validation, got none in 1 rows",
        ),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    """Every refused input is named with its expectation, and no file is written."""
    with pytest.raises(InputError) as caught:
        call(tmp_path / "figure.png")
    assert str(caught.value) == text
    assert not list(tmp_path.iterdir())

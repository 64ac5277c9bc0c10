"""Figures 2 and 3: exact pairs, seeded boards, claims that follow from the numbers, pictures that are whole or not."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flawmap.core.errors import ConfigError, InputError
from flawmap.methods.checkpoint import load_checkpoint
from paper import figure2, figure3
from paper.claims import Claim
from paper.figures import Panel, draw_panels

pytestmark = pytest.mark.slow

PARTS = ("luminance", "contrast", "structure")


# ------------------------------------------------------------------------------------------------- figure 2: the pairs


@pytest.mark.parametrize("name", PARTS)
def test_a_pair_differs_by_exactly_a_half_everywhere(name: str) -> None:
    """|p - q| = 0.5 without rounding, all values in [0, 1], and p is not q's copy of another pair."""
    p, q = figure2.pairs()[name]
    assert p.dtype == q.dtype == np.float32
    assert p.shape == q.shape == (48, 48)
    assert (np.square(p - q) == 0.25).all()
    assert min(p.min(), q.min()) >= 0
    assert max(p.max(), q.max()) <= 1


def test_pairs_differ_in_one_thing_each() -> None:
    """Over a whole patch: one mean, one spread or one pattern differs, the other two agree."""
    pairs = figure2.pairs()
    means = {name: float(abs(p.mean() - q.mean())) for name, (p, q) in pairs.items()}
    spreads = {name: float(abs(p.std() - q.std())) for name, (p, q) in pairs.items()}
    assert means == {"luminance": 0.5, "contrast": 0, "structure": 0}
    assert spreads == {"luminance": 0, "contrast": 0.5, "structure": 0}
    assert np.corrcoef(*(patch.ravel() for patch in pairs["luminance"]))[0, 1] == pytest.approx(1)
    assert np.corrcoef(*(patch.ravel() for patch in pairs["structure"]))[0, 1] == pytest.approx(-1)


def slow_parts(p: NDArray[np.float32], q: NDArray[np.float32], c1: float, c2: float) -> NDArray[np.float64]:
    """Means of l, c, s over all 11 x 11 windows that lie inside, window by window, as eq. 5-7 read."""
    rows = []
    for top in range(p.shape[0] - 10):
        for left in range(p.shape[1] - 10):
            a, b = (patch[top : top + 11, left : left + 11].astype(np.float64) for patch in (p, q))
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            rows.append(
                (
                    (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1),
                    (2 * a.std() * b.std() + c2) / (a.var() + b.var() + c2),
                    (2 * covariance + c2) / (2 * a.std() * b.std() + c2),
                )
            )
    return np.mean(rows, axis=0)


@pytest.mark.parametrize(("constants", "c1", "c2"), [("paper", 0.01, 0.03), ("wang", 0.0001, 0.0009)])
def test_figures_of_the_pairs_are_those_of_the_equations(constants: str, c1: float, c2: float) -> None:
    """l, c, s equal a slow reading of eq. 5-7, the product scikit-image's SSIM."""
    figures = figure2.measure()
    for name, (p, q) in figure2.pairs().items():
        found = figures[constants][name]
        np.testing.assert_allclose([found[part] for part in PARTS], slow_parts(p, q, c1, c2), atol=1e-5)
        _, whole = structural_similarity(
            p.astype(np.float64),
            q.astype(np.float64),
            win_size=11,
            data_range=1,
            K1=math.sqrt(c1),
            K2=math.sqrt(c2),
            use_sample_covariance=False,
            full=True,
        )
        assert found["ssim"] == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-5)


def test_the_claims_of_figure_2_hold() -> None:
    """The pairs show what they were made to show, and the evidence says so in figures."""
    claims = figure2.check(figure2.measure())
    assert [claim.holds for claim in claims] == [True] * 4
    assert claims[0] == Claim(
        "All pairs have the same l2 residual, 0.25 at every pixel.", True, "residuals from 0.2500 to 0.2500"
    )
    assert claims[3].evidence == (
        "structure of the pairs luminance, contrast, structure: 1.00, 1.00, -0.61 (paper); 1.00, 1.00, -0.99 (wang)"
    )


@pytest.mark.parametrize(
    ("where", "value", "broken"),
    [
        (("l2", "contrast", "largest"), 0.26, 0),
        (("wang", "contrast", "luminance"), 0.1, 1),
        (("paper", "luminance", "contrast"), 0.01, 2),
        (("paper", "structure", "structure"), 0.02, 3),
    ],
)
def test_a_claim_of_figure_2_falls_with_its_numbers(where: tuple[str, str, str], value: float, broken: int) -> None:
    """One number changed, and the claim that rests on it no longer holds."""
    figures = figure2.measure()
    figures[where[0]][where[1]][where[2]] = value
    assert not figure2.check(figures)[broken].holds


# ------------------------------------------------------------------------------------------------ figure 3: the boards


def test_boards_are_functions_of_their_numbers() -> None:
    """A board depends on its number alone, not on its mates; values in [0, 1], two tones, all numbers apart."""
    source = figure3.Boards()
    numbers = source.draw(6, np.random.default_rng(1))
    boards = source.cut(numbers)
    assert boards.shape == (6, 1, 128, 128)
    assert boards.dtype == np.float32
    assert 0 <= boards.min() < 0.25
    assert 0.75 < boards.max() <= 1
    assert (source.cut(numbers[::-1])[::-1] == boards).all()
    assert (source.cut(source.draw(6, np.random.default_rng(1))) == boards).all()
    assert len({board.tobytes() for board in boards}) == 6
    for board in boards:
        grey = (board > board.min() + 0.01) & (board < board.max() - 0.01)
        assert grey.mean() < 0.3, "little but the two tones and the edges between them"


def test_defective_boards_are_seeded_and_differ_inside_the_mask_alone() -> None:
    """Image and board agree outside the mask, differ within, and the first boards do not depend on the count."""
    three = list(figure3.defective_boards(3, seed=4))
    for first, again in zip(three, figure3.defective_boards(2, seed=4), strict=False):
        assert (first.image == again.image).all()
        assert (first.mask == again.mask).all()
    for board, image, mask in three:
        assert (board[0][~mask] == image[0][~mask]).all()
        assert np.abs(board - image)[0][mask].mean() > 0.05
        assert image.min() >= 0
        assert image.max() <= 1
    other = next(iter(figure3.defective_boards(1, seed=5)))
    assert (other.board != three[0].board).any()


def test_edges_are_where_the_tones_meet() -> None:
    """Equal to a slow look at every pixel's neighbours."""
    board = next(iter(figure3.defective_boards(1, seed=0))).board[0]
    half = (board.max() - board.min()) / 2
    slow = ndimage.maximum_filter(board, 3) - ndimage.minimum_filter(board, 3) > half
    assert (figure3.board_edges(board) == slow).all()
    assert 0.05 < slow.mean() < 0.5


# ------------------------------------------------------------------------------------------------ figure 3: the figures


def oracle(seed: int, blur: int) -> Callable[[Tensor], Tensor]:
    """Draws the boards of a seed without their defects, one after the other; softened by a mean of blur x blur."""
    boards = figure3.defective_boards(100, seed)

    def reconstruct(images: Tensor) -> Tensor:
        soft = ndimage.uniform_filter(next(boards).board, (0, blur, blur))
        return torch.from_numpy(soft).expand_as(images)

    return reconstruct


def test_defects_are_removed_by_who_draws_the_flawless_board() -> None:
    """An oracle that knows the boards is at no distance from them, and every map but l2's is quiet on its edges."""
    figures = figure3.measure(oracle(3, blur=1), 3, boards=3)
    corrupted = list(figure3.defective_boards(3, 3))
    squares = np.concatenate([np.square(one.board - one.image)[0][one.mask] for one in corrupted])
    assert figures["removed"] == {"boards": 3, "to_board": 0, "to_defects": pytest.approx(squares.mean(), rel=1e-5)}
    assert figures["maps"]["l2"]["defects"] == pytest.approx(squares.mean(), rel=1e-5)
    for seen in figures["maps"].values():
        assert seen["edges"] < 1e-6
    removed, equal, *_ = figure3.check(figures)
    assert removed.holds
    assert not equal.holds, "l2 tells defects apart where no edge is inaccurate"
    assert json.loads(json.dumps(figures)) == figures


def test_soft_edges_confuse_l2_and_not_ssim() -> None:
    """An oracle with soft edges is what the figure is about: the first three claims hold on it."""
    figures = figure3.measure(oracle(0, blur=5), 0, boards=4)
    assert [claim.holds for claim in figure3.check(figures)[:3]] == [True] * 3


def test_nothing_is_claimed_of_a_network_that_copies() -> None:
    """The identity removes no defect, and its maps see nothing: no claim holds."""
    figures = figure3.measure(lambda images: images, 0, boards=2)
    assert figures["removed"]["boards"] == 0
    assert figures["removed"]["to_defects"] == 0 < figures["removed"]["to_board"]
    assert figures["maps"]["l2"]["auroc"] == 0.5
    assert figures["maps"]["l2"]["ratio"] == 1
    assert [claim.holds for claim in figure3.check(figures)[:3]] == [False] * 3


def test_residuals_are_counted_on_defects_and_on_edges_away_from_them() -> None:
    """l2's figures equal those of SciPy's dilation, NumPy's percentiles and scikit-learn's AUROC."""
    corrupted = next(iter(figure3.defective_boards(1, 7)))
    rebuilt = ndimage.uniform_filter(corrupted.board, (0, 4, 4))
    residual = np.square(corrupted.image - rebuilt)[0]
    near = ndimage.binary_dilation(corrupted.mask, np.ones((3, 3)), iterations=11)
    whole = residual[ndimage.binary_erosion(corrupted.mask, np.ones((3, 3)), iterations=5, border_value=1)]
    defects, edges = residual[corrupted.mask], residual[figure3.board_edges(corrupted.board[0]) & ~near]
    found = figure3.measure(lambda _: torch.from_numpy(rebuilt)[None], 7, boards=1)["maps"]["l2"]
    truth = np.repeat([1, 0], [len(defects), len(edges)])
    assert found == {
        "defects": pytest.approx(defects.mean(), rel=1e-5),
        "whole_window": pytest.approx(whole.mean(), rel=1e-5),
        "edges": pytest.approx(edges.mean(), rel=1e-5),
        "ratio": pytest.approx(edges.mean() / defects.mean(), rel=1e-5),
        "ratio_99": pytest.approx(np.percentile(edges, 99) / np.percentile(defects, 99), rel=1e-5),
        "auroc": pytest.approx(roc_auc_score(truth, np.concatenate([defects, edges])), abs=1e-9),
    }


def as_printed() -> dict[str, Any]:
    """Figures on which all claims of figure 3 hold."""
    seen = {"defects": 0.1, "whole_window": None, "edges": 0.02, "ratio": 0.2, "ratio_99": 0.3, "auroc": 0.9}
    return {
        "boards": 20,
        "removed": {"boards": 19, "to_board": 0.01, "to_defects": 0.08},
        "maps": {
            "l2": {"defects": 0.08, "whole_window": None, "edges": 0.08, "ratio": 1.0, "ratio_99": 1.0, "auroc": 0.55},
            "luminance": seen | {"defects": 0.02},
            "contrast": seen | {"defects": 0.2},
            "structure": seen,
            "ssim": seen,
        },
    }


def test_claims_of_figure_3_on_figures_as_the_paper_has_them() -> None:
    """All hold, and the evidence quotes the figures."""
    claims = figure3.check(as_printed())
    assert [claim.holds for claim in claims] == [True] * 4
    assert claims[0].evidence == (
        "closer to the flawless board than to the defects on 19 of 20 boards; "
        "squared difference 0.0100 to the board, 0.0800 to the defects"
    )
    assert claims[1].evidence == (
        "edges weigh 1.00 of the defects in the mean (1.00 at the 99th percentile), AUROC 0.550"
    )
    assert claims[3].evidence == (
        "mean residual on the defects, and AUROC against edges: "
        "luminance 0.020, AUROC 0.900; contrast 0.200, AUROC 0.900; structure 0.100, AUROC 0.900"
    )


def test_whole_windows_are_told_where_there_are_any() -> None:
    """A defect wider than the window is quoted apart, and decides nothing."""
    figures = as_printed()
    for part, residual in zip(PARTS, (0.1, 0.2, 0.9), strict=True):
        figures["maps"][part]["whole_window"] = residual
    claim = figure3.check(figures)[3]
    assert claim.holds
    told = "Where the whole window is defect: luminance 0.100; contrast 0.200; structure 0.900"
    assert claim.evidence == f"{figure3.check(as_printed())[3].evidence}. {told}"


@pytest.mark.parametrize(
    ("part", "key", "value", "broken"),
    [
        ("removed", "boards", 17, [0]),
        ("removed", "to_board", 0.09, [0]),
        ("l2", "ratio", 0.4, [1]),
        ("l2", "ratio", 2.1, [1]),
        ("l2", "auroc", 0.8, [1]),
        ("l2", "auroc", 0.95, [1, 2]),
        ("ssim", "ratio", 1.01, [2]),
        ("ssim", "auroc", 0.5, [2]),
        ("structure", "defects", 0.21, [3]),
    ],
)
def test_a_claim_of_figure_3_falls_with_its_numbers(part: str, key: str, value: float, broken: list[int]) -> None:
    """One number changed, and exactly the claims that rest on it no longer hold."""
    figures = copy.deepcopy(as_printed())
    (figures if part == "removed" else figures["maps"])[part][key] = value
    claims = figure3.check(figures)
    assert [number for number, claim in enumerate(claims) if not claim.holds] == broken


def test_figures_need_a_board() -> None:
    """The message says what was expected and what came."""
    with pytest.raises(InputError, match=r"^boards must be at least 1, got 0$"):
        figure3.measure(lambda images: images, 0, boards=0)


# ----------------------------------------------------------------------------------------------- figure 3: the training


def test_settings_are_the_fast_presets_with_l2() -> None:
    """Ten minutes unless told otherwise; one way of giving the budget replaces the other."""
    usual = figure3.settings()
    assert (usual.method.name, usual.mapped.name, usual.model.channels) == ("l2", "l2", 1)
    assert (usual.training.minutes, usual.training.steps) == (10, None)
    short = figure3.settings({"steps": 3, "seed": 2})
    assert (short.training.minutes, short.training.steps, short.training.seed) == (None, 3, 2)
    with pytest.raises(ConfigError, match="step"):
        figure3.settings({"step": 3})


def test_a_short_training_end_to_end(tmp_path: Path) -> None:
    """The observer sees the steps, the checkpoint is one of boards, the network can be measured and checked."""
    config = figure3.settings(
        {"steps": 2, "batch": 2, "precision": "float32", "device": "cpu", "checkpoint_minutes": 1e-9}
    )
    seen: list[int] = []
    saved = tmp_path / "boards.checkpoint"
    trained = figure3.train(config, checkpoint=saved, observe=lambda progress: seen.append(progress.row.step))
    assert seen == [2]
    found = load_checkpoint(saved, config, "checkerboards", "float32")
    assert found is not None
    assert found.step == 2
    figures = figure3.measure(trained.network, 0, boards=1)
    assert len(figure3.check(figures)) == 4


# ----------------------------------------------------------------------------------------------------------- pictures


def draw_pairs(path: Path) -> None:
    figure2.draw(path)


def draw_boards(path: Path) -> None:
    figure3.draw(oracle(0, blur=3), path, 0, boards=1)


@pytest.mark.parametrize("draw", [draw_pairs, draw_boards])
def test_a_picture_is_whole_or_not_there(
    draw: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG and nothing beside it; a drawing that breaks off leaves the picture that was there."""
    path = tmp_path / "figure.png"
    draw(path)
    whole = path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(set(picture.convert("L").tobytes())) > 50

    def breaks_off(self: Figure, file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", breaks_off)
    with pytest.raises(InputError, match=r"figure\.png cannot be written: No space left on device$"):
        draw(path)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_panels_are_as_many_as_their_titles(tmp_path: Path) -> None:
    """Rows that do not fit the titles are refused, with the numbers."""
    panel = Panel(np.zeros((4, 4), np.float32))
    with pytest.raises(InputError) as caught:
        draw_panels([[panel, panel], [panel]], tmp_path / "x.png", columns=["a", "b"], labels=["1", "2"])
    expected = "panels must be 2 rows of 2, one label a row and one title a column, got 2, 1"
    assert str(caught.value) == expected
    with pytest.raises(InputError, match=r"got none$"):
        draw_panels([], tmp_path / "x.png", columns=["a"], labels=[])


def test_white_may_be_the_lower_value(tmp_path: Path) -> None:
    """A panel whose white lies below its black is drawn the other way round."""
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    for name, black, white in (("up", 0.0, 1.0), ("down", 1.0, 0.0)):
        draw_panels([[Panel(ramp, black, white)]], tmp_path / f"{name}.png", columns=[""], labels=[""])
    up, down = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"), int) for name in ("up", "down"))
    row = up.shape[0] // 2
    inside = slice(up.shape[1] // 2 - 40, up.shape[1] // 2 + 40)
    assert up[row, inside][0] < up[row, inside][-1]
    assert np.abs(up[row, inside] + down[row, inside] - 255).max() <= 2

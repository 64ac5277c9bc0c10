"""Figure 2 of the paper: three pairs of patches that are alike to l2, each of which one part of SSIM tells apart.

Each pair differs by exactly 0.5 at every pixel, so its l2 residual is 0.25 everywhere. The difference shifts the mean
(luminance), or raises the variance about one mean (contrast), or inverts the pattern (structure). All three are built
on one pattern of -1 and +1 whose mean over a window is close to 0.

References:
    Bergmann et al. 2019, arXiv:1807.02011, figure 2 and eq. 4-8. The patches are ours: the text does not give them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flawmap.core.settings import ResidualSettings, SSIMSettings
from flawmap.methods.residuals import l2_residual
from flawmap.nets.similarity import CONSTANTS
from flawmap.nets.ssim import ssim, ssim_parts
from flawmap.nets.window_means import Border
from paper.claims import Claim
from paper.figures import Panel, draw_panels

SIDE = 48  # pixels of a patch
CELL = 3  # pixels: a window of 11 is two repeats of 6 less one pixel, so its mean is 1 / 121 off zero
WINDOW = 11  # K

PARTS = ("luminance", "contrast", "structure")
SIMILARITIES = (*PARTS, "ssim")
FORMULAS = {"luminance": "$l$", "contrast": "$c$", "structure": "$s$", "ssim": "SSIM"}
LEAST = {"luminance": 0.0, "contrast": 0.0, "structure": -1.0, "ssim": -1.0}
"""The lowest value that each similarity can take (for l and c: comes near); all are 1 where the patches agree."""


class Pair(NamedTuple):
    """p, q: (H, W) float32 in [0, 1], with |p - q| = 0.5 at every pixel."""

    p: NDArray[np.float32]
    q: NDArray[np.float32]


def pairs() -> dict[str, Pair]:
    """The three pairs, by the part of SSIM that they differ in. Every value is a binary fraction: nothing is rounded.

    luminance: p is 0 and 1/8, q the same pattern 1/2 brighter. contrast: p is flat at 1/2, q is 0 and 1; with one mean
    and all values in [0, 1] there is no other pair whose standard deviations differ by a half. structure: 1/4 and 3/4,
    exchanged.
    """
    cells = np.arange(SIDE) // CELL
    pattern = np.where((cells[:, None] + cells) % 2 == 0, 1, -1).astype(np.float32)
    dim = (1 + pattern) / np.float32(16)
    half, quarter = np.float32(0.5), np.float32(0.25) * pattern
    return {
        "luminance": Pair(dim, dim + half),
        "contrast": Pair(np.full_like(pattern, half), half + half * pattern),
        "structure": Pair(half + quarter, half - quarter),
    }


def measure() -> dict[str, Any]:
    """The l2 residual and the parts of SSIM of each pair, as JSON's types.

    Returns:
        "window": K. "l2": for each pair the least and the largest residual of all pixels. "paper" and "wang", the
        constants of eq. 5-7 (`nets.similarity.CONSTANTS`): for each pair the mean of l, c, s and their product, under
        "luminance", "contrast", "structure", "ssim", over the windows that lie wholly inside.
    """
    made = pairs()
    return {
        "window": WINDOW,
        "l2": {name: _ends(_l2(pair)) for name, pair in made.items()},
        **{
            constants: {
                name: {key: float(values.mean()) for key, values in _similarities(pair, constants, "valid").items()}
                for name, pair in made.items()
            }
            for constants in CONSTANTS
        },
    }


def check(measured: dict[str, Any]) -> list[Claim]:
    """The paper's claims about figure 2, checked on `measure()`."""
    ends = measured["l2"].values()
    low, high = min(pair["least"] for pair in ends), max(pair["largest"] for pair in ends)
    flat = Claim(
        "All pairs have the same l2 residual, 0.25 at every pixel.",
        low == high == 0.25,
        f"residuals from {low:.4f} to {high:.4f}",
    )
    return [flat, *(_separates(measured, part) for part in PARTS)]


def draw(path: Path, constants: str = "paper") -> None:
    """The picture: a row for each pair; p, q, the l2 residual and the maps of l, c, s and SSIM with the paper's c1, c2.

    Patches and residual run from 0 = black to 1 = white; the similarities from 1 = black, alike, to the least value
    they can take = white. Below each map stands its mean, as in `measure()`.
    """
    rows = [_row(pair, constants) for pair in pairs().values()]
    columns = ("$p$", "$q$", "$\\ell^2$ residual", *(FORMULAS[key] for key in SIMILARITIES))
    legend = (
        "similarities: black = 1, alike; white = the least there can be. Below: means, as far as whole windows reach"
    )
    draw_panels(rows, path, columns=columns, labels=PARTS, legend=legend)


def _separates(measured: dict[str, Any], part: str) -> Claim:
    """Whether a part is lowest for its own pair, and is the lowest part of that pair; s must be negative, too."""
    holds, evidence = True, []
    for constants in CONSTANTS:
        by_pair = {name: values[part] for name, values in measured[constants].items()}
        own = {key: measured[constants][part][key] for key in PARTS}
        holds &= min(by_pair, key=by_pair.__getitem__) == part == min(own, key=own.__getitem__)
        holds &= part != "structure" or own[part] < 0
        evidence.append(f"{', '.join(f'{value:.2f}' for value in by_pair.values())} ({constants})")
    negative = ", with a negative value" if part == "structure" else ""
    return Claim(
        f"Of l, c and s, {part} alone finds the {part} pair unlike{negative}.",
        holds,
        f"{part} of the pairs {', '.join(PARTS)}: {'; '.join(evidence)}",
    )


def _row(pair: Pair, constants: str) -> list[Panel]:
    residual = _l2(pair)
    inside = _similarities(pair, constants, "valid")
    maps = [
        Panel(values, black=1, white=LEAST[key], note=f"{float(inside[key].mean()):.2f}")
        for key, values in _similarities(pair, constants, "reflect").items()
    ]
    return [Panel(pair.p), Panel(pair.q), Panel(residual, note=f"{float(residual.mean()):.2f}"), *maps]


def _l2(pair: Pair) -> NDArray[np.float32]:
    p, q = _tensors(pair)
    residual: NDArray[np.float32] = l2_residual(p, q, ResidualSettings(name="l2"))[0].numpy()
    return residual


def _similarities(pair: Pair, constants: str, border: Border) -> dict[str, NDArray[np.float32]]:
    """The maps of l, c, s and SSIM, by the names of SIMILARITIES."""
    p, q = _tensors(pair)
    settings = SSIMSettings.model_validate({"window": "uniform", "size": WINDOW, "constants": constants})
    maps = (*ssim_parts(p, q, settings, border), ssim(p, q, settings, border))
    return {key: values[0, 0].numpy() for key, values in zip(SIMILARITIES, maps, strict=True)}


def _tensors(pair: Pair) -> tuple[Tensor, Tensor]:
    p, q = (torch.from_numpy(patch)[None, None] for patch in pair)
    return p, q


def _ends(residual: NDArray[np.float32]) -> dict[str, float]:
    return {"least": float(residual.min()), "largest": float(residual.max())}

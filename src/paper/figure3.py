"""Figure 3 of the paper: an l2 autoencoder of checkerboards, and what l2 and SSIM see in boards with strokes and dots.

The network never saw a defect, so it reconstructs the board without it. Its edges are a little inaccurate everywhere,
and l2 gives them the weight of the defect. Every training step draws new boards: cells of 10 to 32 pixels, any
orientation and phase (`data.synthetic`). The strokes and dots are flat grey (`data.defects`), with exact masks.

References:
    Bergmann et al. 2019, arXiv:1807.02011, figure 3 and section 3. How large the boards' cells are, how many strokes
    and dots there are and how long the network is trained is not in the text: these are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from flawmap.core.errors import InputError
from flawmap.core.records import FloatMap, Mask
from flawmap.core.settings import ResidualName, ResidualSettings, SSIMSettings
from flawmap.data.defects import add_flaws
from flawmap.data.synthetic import FITTING, good_images, texture
from flawmap.evaluation.curves import roc_exact
from flawmap.methods.autoencoder import train_network
from flawmap.methods.config import Config
from flawmap.methods.gradient import Trained
from flawmap.methods.interface import FitContext, Progress
from flawmap.methods.overrides import override
from flawmap.methods.presets import preset
from flawmap.methods.residuals import Decoded, residual_of
from flawmap.nets.engines import Run
from paper.claims import Claim
from paper.figures import Panel, draw_panels

SIDE = 128  # pixels of a board, and of the network's patch
LATENT = 500  # d: a board has seven degrees of freedom, but orientation and phase bend them through many dimensions
DEFECTS = (4, 6)  # strokes and dots on a board, fewest and most
BOARDS = 20  # that the figures are taken from

PARTS: tuple[ResidualName, ...] = ("luminance", "contrast", "structure")
MAPS: tuple[ResidualName, ...] = ("l2", *PARTS, "ssim")
SSIM = preset("paper").residual.ssim
"""The paper's: uniform window, K = 11, c1 = 0.01, c2 = 0.03."""

ALIKE = 2.0  # two weights within this factor of each other count as equal
SEPARATE = 0.75  # AUROC halfway between chance and perfect: below it two things count as indistinguishable
MOST = 0.9  # fraction of the boards that stands for all of them


class Boards:
    """Checkerboards to train on, each a pure function of its number; there are 2^62."""

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(count,) numbers of boards."""
        return rng.integers(0, 2**62, size=count)

    def cut(self, drawn: NDArray[np.int64]) -> NDArray[np.float32]:
        """(count, 1, 128, 128) in [0, 1]: the boards with these numbers."""
        return np.stack([_planes(texture("checkerboard", (SIDE, SIDE), int(number))) for number in drawn])


class DefectiveBoard(NamedTuple):
    """board: (1, 128, 128) in [0, 1], without a defect. image: the same with them. mask: (128, 128), where they are."""

    board: NDArray[np.float32]
    image: NDArray[np.float32]
    mask: Mask


def settings(training: Mapping[str, Any] | None = None) -> Config:
    """The preset `fast` for an l2 network of boards, trained for ten minutes by default.

    training: laid over the training's settings, as {"minutes": 5} or {"steps": 2000, "seed": 1}.
    """
    own = {"model": {"patch": SIDE, "channels": 1}, "method": {"latent": LATENT}}
    return override(preset("fast", "l2"), own | {"training": dict(training or {})})


def train(
    config: Config,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    observe: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """An autoencoder of flawless boards. Arguments and errors as for `train_network`; config: from `settings`."""
    context = FitContext(None, checkpoint, resume, "checkerboards", observe)
    return train_network(config, Boards(), context)


def defective_boards(count: int, seed: int) -> Iterator[DefectiveBoard]:
    """Test boards with four to six grey strokes and dots each; the first ones do not depend on `count`."""
    for number, board in enumerate(good_images("checkerboard", count, (SIDE, SIDE), seed, stream="bad")):
        own = int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])
        image, mask, _ = add_flaws(board, own, kinds=FITTING["checkerboard"], count=DEFECTS)
        yield DefectiveBoard(_planes(board), _planes(image), mask)


def measure(network: Run, seed: int, *, boards: int = BOARDS, ssim: SSIMSettings = SSIM) -> dict[str, Any]:
    """How the network reconstructs defective boards, and the residuals of each map, as JSON's types.

    Args:
        network: any callable from (N, 1, 128, 128) to reconstructions of the same shape.
        seed: of the boards and their defects. boards: how many. ssim: window and constants of the SSIM maps.
    Returns:
        "boards", "seed", "ssim": the arguments. "removed": the mean squared difference within the defects of the
        reconstruction to the flawless board ("to_board") and to the defects ("to_defects"), and on how many boards the
        first is the smaller ("boards"). "maps": for l2, luminance, contrast, structure and ssim, over all boards, the
        mean residual on "defects", on those pixels of them whose "whole_window" is defect (None: there are none), and
        on "edges" of the board away from them; "ratio" = edges / defects, "ratio_99" the same of the 99th percentiles,
        and "auroc" of telling defects from those edges. Residuals as in `methods.residuals`: (1 - similarity) / 2 for
        all but l2.
    Raises:
        InputError: fewer than one board.
    """
    if boards < 1:
        raise InputError(f"boards must be at least 1, got {boards}")
    closer, errors = 0, []
    found: dict[str, list[_Residuals]] = {name: [] for name in MAPS}
    for corrupted in defective_boards(boards, seed):
        rebuilt = _rebuilt(network, corrupted.image)
        error = [np.square(rebuilt - other)[0][corrupted.mask] for other in (corrupted.board, corrupted.image)]
        closer += bool(error[0].mean() < error[1].mean())
        errors.append(np.stack(error))
        edges = board_edges(corrupted.board[0]) & ~_dilated(corrupted.mask, ssim.size)
        whole = ~_dilated(~corrupted.mask, ssim.size // 2)
        for name, residual in _maps(corrupted.image, rebuilt, ssim).items():
            found[name].append(_Residuals(residual[corrupted.mask], residual[whole], residual[edges]))
    to_board, to_defects = np.concatenate(errors, axis=1).mean(axis=1)
    return {
        "boards": boards,
        "seed": seed,
        "ssim": ssim.model_dump(mode="json"),
        "removed": {"boards": closer, "to_board": float(to_board), "to_defects": float(to_defects)},
        "maps": {name: _statistics(_Residuals(*map(np.concatenate, zip(*found[name], strict=True)))) for name in MAPS},
    }


def check(measured: dict[str, Any]) -> list[Claim]:
    """The paper's claims about figure 3, checked on `measure(...)`.

    We read equal weight as means within a factor of two, and indistinguishable as an AUROC below 0.75; the text gives
    no numbers.
    """
    removed, maps = measured["removed"], measured["maps"]
    l2, ssim = maps["l2"], maps["ssim"]
    largest = max(PARTS, key=lambda part: float(maps[part]["defects"]))
    return [
        Claim(
            "The autoencoder removes the defects.",
            removed["boards"] >= MOST * measured["boards"] and removed["to_board"] < removed["to_defects"],
            f"closer to the flawless board than to the defects on {removed['boards']} of {measured['boards']} boards; "
            f"squared difference {removed['to_board']:.4f} to the board, {removed['to_defects']:.4f} to the defects",
        ),
        Claim(
            "The l2 map weighs defects and inaccurate edges equally and does not tell them apart.",
            l2["defects"] > 0 and 1 / ALIKE <= l2["ratio"] <= ALIKE and l2["auroc"] < SEPARATE,
            _weights(l2),
        ),
        Claim(
            "Unlike l2, the SSIM map gives more weight to the defects than to inaccurate edges.",
            ssim["ratio"] < min(1, l2["ratio"]) and ssim["auroc"] > l2["auroc"],
            f"SSIM: {_weights(ssim)}; l2: {_weights(l2)}",
        ),
        Claim(
            "Of luminance, contrast and structure, contrast has the largest residuals on these defects.",
            largest == "contrast",
            _parts_seen(maps),
        ),
    ]


def draw(network: Run, path: Path, seed: int, *, boards: int = 3, ssim: SSIMSettings = SSIM) -> None:
    """Draw a row for each board: image, reconstruction, l2 map, the maps of l, c, s and their product.

    Brighter is less alike. l2 is white from 0.25 on, the square of half the range; the others at 0.5, no similarity.
    """
    rows = []
    for corrupted in defective_boards(boards, seed):
        rebuilt = _rebuilt(network, corrupted.image)
        maps = _maps(corrupted.image, rebuilt, ssim)
        residuals = [Panel(residual, white=0.25 if name == "l2" else 0.5) for name, residual in maps.items()]
        rows.append([Panel(corrupted.image[0]), Panel(rebuilt[0]), *residuals])
    columns = ("image", "reconstruction", "$\\ell^2$", "luminance $l$", "contrast $c$", "structure $s$", "SSIM")
    legend = "residuals: the brighter, the less alike image and reconstruction"
    draw_panels(rows, path, columns=columns, labels=[""] * len(rows), legend=legend)


def board_edges(board: FloatMap) -> Mask:
    """Pixels of a flawless (H, W) board at most one pixel from where its two tones meet: (H, W) bool."""
    tensor = torch.from_numpy(np.ascontiguousarray(board))[None, None]
    highest, lowest = (sign * functional.max_pool2d(sign * tensor, 3, stride=1, padding=1) for sign in (1, -1))
    span = float(tensor.max() - tensor.min())
    edges: Mask = (highest - lowest > span / 2)[0, 0].numpy()
    return edges


def _dilated(mask: Mask, pixels: int) -> Mask:
    """The mask and all pixels at most this many rows and columns away from it."""
    tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
    grown: Mask = functional.max_pool2d(tensor, 2 * pixels + 1, stride=1, padding=pixels)[0, 0].numpy() > 0
    return grown


def _rebuilt(network: Run, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The reconstruction (1, H, W) of an image, on the network's device."""
    device = next(network.parameters()).device if isinstance(network, nn.Module) else torch.device("cpu")
    with torch.no_grad():
        output: Tensor = network(torch.from_numpy(image)[None].to(device))
    rebuilt: NDArray[np.float32] = output[0].float().cpu().numpy()
    return rebuilt


def _maps(image: NDArray[np.float32], rebuilt: NDArray[np.float32], ssim: SSIMSettings) -> dict[str, FloatMap]:
    """The residual maps (H, W) of an image (1, H, W) and its reconstruction, by the names of MAPS."""
    batch, decoded = torch.from_numpy(image)[None], Decoded(torch.from_numpy(rebuilt)[None])
    return {name: residual_of(ResidualSettings(name=name, ssim=ssim))(batch, decoded)[0].numpy() for name in MAPS}


class _Residuals(NamedTuple):
    """Residuals, each (N,), of one map: on defects, where a whole window is defect, on edges away from them."""

    defects: FloatMap
    whole: FloatMap
    edges: FloatMap


def _statistics(seen: _Residuals) -> dict[str, float | None]:
    """Statistics of a map on defects and on edges."""
    defects, whole, edges = seen
    scores = np.concatenate([defects, edges])
    curve = roc_exact(scores, np.arange(len(scores)) < len(defects))
    assert curve is not None, "every board has defects, and edges away from them"
    return {
        "defects": float(defects.mean()),
        "whole_window": float(whole.mean()) if len(whole) else None,
        "edges": float(edges.mean()),
        "ratio": _ratio(edges.mean(), defects.mean()),
        "ratio_99": _ratio(np.percentile(edges, 99), np.percentile(defects, 99)),
        "auroc": curve.area,
    }


def _ratio(edges: np.floating[Any], defects: np.floating[Any]) -> float:
    """edges / defects; a map that is 0 on both weighs them equally. Never infinite, because JSON has no infinity."""
    return 1.0 if edges == defects else float(edges / max(float(defects), 1e-12))


def _weights(seen: Mapping[str, float]) -> str:
    return (
        f"edges weigh {seen['ratio']:.2f} of the defects in the mean ({seen['ratio_99']:.2f} at the 99th percentile), "
        f"AUROC {seen['auroc']:.3f}"
    )


def _parts_seen(maps: Mapping[str, Any]) -> str:
    """A wide flat defect has no structure to compare, so s is 1 there and c bears it; at its rim s does."""
    text = "; ".join(f"{part} {maps[part]['defects']:.3f}, AUROC {maps[part]['auroc']:.3f}" for part in PARTS)
    text = f"mean residual on the defects, and AUROC against edges: {text}"
    if maps["contrast"]["whole_window"] is None:
        return text
    whole = "; ".join(f"{part} {maps[part]['whole_window']:.3f}" for part in PARTS)
    return f"{text}. Where the whole window is defect: {whole}"


def _planes(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, C) to (C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))

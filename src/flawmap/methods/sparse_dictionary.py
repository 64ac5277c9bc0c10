"""Sparse codes of windows in a learned dictionary: a window is bad where its error and its code's size are rare.

A dictionary is learnt from windows of good images, each without its mean. In it a window s has the code x that is best
by 1/2 |s - x D|^2 + lambda |x|_1. Its indicators are the error |s - x D| and the norm |x|_1. The residual of a window
is minus the logarithm of their density among good windows, up to a constant, and that of a pixel the mean over the
windows that cover it.

From the papers, with the details of their authors' example for NanoTWICE: windows without means, the learnt dictionary,
the codes, both indicators, their kernel density estimate or Gaussian, a low density as the sign of an anomaly, and dark
windows that are left out. Ours: scikit-learn's algorithm for the dictionary, colour (the mean of each channel is
removed, the code is one), the density beyond its samples, and the mean over windows, where the papers let windows vote.

References:
    Boracchi, Carrera and Wohlberg 2014, doi:10.1109/INTELS.2014.7008985; Carrera, Manganini, Boracchi and Lanzarone
    2017, doi:10.1109/TII.2016.2641472.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from flawmap.core.device import choose_device
from flawmap.core.errors import ArtifactError, ConfigError
from flawmap.core.runtime import Runtime
from flawmap.methods.config import Config
from flawmap.methods.density import Density, gaussian_density, kernel_density, rarity
from flawmap.methods.interface import FitContext, Patches, PatchScorer, PatchScores, State
from flawmap.methods.settings import SparseDictionarySettings
from flawmap.methods.sparse_coding import sparse_codes
from flawmap.nets.engines import refuse_engine

PATCHES, LOT = 512, 64  # that windows are drawn from, and how many are held at once
PASSES, BATCH_WINDOWS, DESCENTS = 4, 64, 50  # of the dictionary's training: over all windows, at once, for a code
FAINT = 1e-3  # norm below which a window is flat: rounding of 8 bits has 0.02
BATCH = 8


def fit(config: Config, patches: Patches, context: FitContext) -> State:
    """Learn the dictionary from windows of good patches, and the density of the indicators from others.

    Raises:
        ConfigError: too few windows have a pattern or are bright enough, or the penalty leaves no code.
    """
    settings, rng = _settings(config), np.random.default_rng(config.training.seed)
    dictionary = _learnt(_drawn(patches, settings, rng), settings, config.training.seed)
    others, _ = centred(_drawn(patches, settings, rng))
    samples = indicators(others, dictionary, settings.penalty).double().numpy()
    try:
        density = (kernel_density if settings.density == "kernel" else gaussian_density)(samples)
    except np.linalg.LinAlgError:
        raise ConfigError(
            f"the codes of good windows are all alike or empty at method.penalty = {settings.penalty:g}; lower it"
        ) from None
    return State({"dictionary": dictionary} | density._asdict(), {"windows": len(samples)})


def scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    """Raises ArtifactError where tensors are missing, ConfigError for another engine than torch."""
    refuse_engine(runtime.engine, config.method.name)
    settings, device = _settings(config), choose_device(runtime.device)
    try:
        dictionary, *parts = (state.tensors[name].to(device) for name in ("dictionary", *Density._fields))
    except KeyError as error:
        raise ArtifactError(f"the model lacks a part of its dictionary or density: {error}") from None
    density, corners = Density(*parts), starts(config.model.patch, settings.window, settings.step)

    def score(patches: Tensor) -> PatchScores:
        signals, mean = centred(windows(patches, corners, settings.window).flatten(0, 2))
        rare = rarity(indicators(signals, dictionary, settings.penalty), density)
        rare = torch.where(mean < settings.darkest, 0, rare).view(len(patches), len(corners), len(corners))
        return PatchScores(spread(rare, corners, settings.window, config.model.patch))

    return PatchScorer(score, device, "float32", BATCH)


def starts(length: int, side: int, step: int) -> list[int]:
    """First pixels of the windows along one side of a patch, the last one flush with its end.

    >>> starts(32, 15, 4)
    [0, 4, 8, 12, 16, 17]
    """
    return [*range(0, length - side, step), length - side]


def windows(patches: Tensor, corners: list[int], side: int) -> Tensor:
    """(N, C, P, P) to (N, n, n, C, side, side): a window at every pair of n corners."""
    chosen = torch.tensor(corners, device=patches.device)
    found = patches.unfold(2, side, 1).index_select(2, chosen).unfold(3, side, 1).index_select(3, chosen)
    return found.permute(0, 2, 3, 1, 4, 5)


def centred(found: Tensor) -> tuple[Tensor, Tensor]:
    """Windows (n, C, side, side) to signals (n, C side^2), each channel without its mean, and (n,), their means."""
    flat = found.flatten(2)
    means = flat.mean(2, keepdim=True)
    return (flat - means).flatten(1), means.flatten(1).mean(1)


def indicators(signals: Tensor, dictionary: Tensor, penalty: float) -> Tensor:
    """(n, D) to (n, 2): the norm of what a signal's sparse code leaves, and the code's l1 norm."""
    codes = sparse_codes(signals, dictionary, penalty)
    return torch.stack((torch.linalg.vector_norm(signals - codes @ dictionary, dim=1), codes.abs().sum(1)), dim=1)


def spread(values: Tensor, corners: list[int], side: int, length: int) -> Tensor:
    """Values of windows (N, n, n) to pixels (N, P, P): the mean over the windows that cover a pixel."""
    first = torch.tensor(corners, device=values.device)
    pixel = torch.arange(length, device=values.device)[:, None]
    covers = ((first <= pixel) & (pixel < first + side)).to(values)  # (P, n)
    covers = covers / covers.sum(1, keepdim=True)
    return covers @ values @ covers.T


def _drawn(patches: Patches, settings: SparseDictionarySettings, rng: np.random.Generator) -> Tensor:
    """(n, C, side, side), n about `samples`: windows at random places of random patches, without dark ones."""
    each, side = math.ceil(settings.samples / PATCHES), settings.window
    found = []
    for _ in range(PATCHES // LOT):
        for patch in patches.cut(patches.draw(LOT, rng)):
            places = sliding_window_view(patch, (side, side), axis=(1, 2))
            rows, columns = rng.integers(places.shape[1], size=(2, each))
            found.append(places[:, rows, columns].swapaxes(0, 1))
    drawn = torch.from_numpy(np.concatenate(found))
    return drawn[drawn.flatten(1).mean(1) >= settings.darkest]


def _learnt(drawn: Tensor, settings: SparseDictionarySettings, seed: int) -> Tensor:
    """(K, D): the dictionary of windows (n, C, side, side), its atoms of norm 1."""
    signals = centred(drawn)[0].double().numpy()
    norms = np.linalg.norm(signals, axis=1)
    shown = norms > FAINT
    if shown.sum() < settings.atoms:
        raise ConfigError(
            f"{settings.atoms} atoms need as many windows with a pattern and a mean of at least "
            f"{settings.darkest:g}, got {shown.sum()}; lower method.atoms or method.darkest"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # codes that still move a little serve as well
        learning = MiniBatchDictionaryLearning(
            settings.atoms,
            alpha=settings.penalty,
            max_iter=PASSES,
            batch_size=BATCH_WINDOWS,
            fit_algorithm="cd",
            transform_max_iter=DESCENTS,
            dict_init=(signals[shown] / norms[shown, None])[: settings.atoms],
            max_no_improvement=None,
            tol=0,
            random_state=seed,
        ).fit(signals)
    return torch.from_numpy(learning.components_.astype(np.float32))


def _settings(config: Config) -> SparseDictionarySettings:
    assert isinstance(config.method, SparseDictionarySettings)  # the table gives these functions no other method
    return config.method

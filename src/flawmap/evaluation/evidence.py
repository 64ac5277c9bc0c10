"""What turns residuals into evidence, from good images: their spread and tails, and what each layer is worth.

Mean, spread and tails of the layers come from images that were trained on. How much each layer counts is learnt from
defects that are pasted into them: a logistic regression tells their pixels from good ones. The tail of the sum, which
sets the unit and changes no order, comes from good images that were held out, where there are any. So these are as new
to the scores as any other image, which the decision's guarantee asks for. No defective image is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from flawmap.core.arrays import as_numpy
from flawmap.core.errors import InputError
from flawmap.core.records import Mask
from flawmap.data.defects import add_flaws
from flawmap.data.splits import ImageRegion
from flawmap.evaluation.histograms import ScoreHistogram
from flawmap.evaluation.pasting import Turn, good_part, turns
from flawmap.evaluation.scans import each, evenly, good_layers
from flawmap.imaging.morphology import dilated
from flawmap.imaging.resize import to_size
from flawmap.scoring.borders import distances
from flawmap.scoring.detector import Detector
from flawmap.scoring.evidence import EvidenceProfile, Layer, Tail, z_scores

Floats = NDArray[np.float64]

GOOD_IMAGES = 20  # at most, whose layers are measured
SAMPLES = 50_000  # pixels of a good image that tails and weights are taken from
PASTED_IMAGES = 24  # good images with pasted defects
FLAWED_SAMPLES = 400  # pixels of an image's pasted defects, so that large ones do not decide alone
LEAST_SPREAD = 1e-6  # of a layer: below it rounding is measured
PENALTY = 1e-3  # of the squared weights
RING = 16  # pixels of the working scale around a defect, within which good pixels are taken
AROUND = 0.1  # their share among the good pixels that weights are learnt from


@dataclass(frozen=True)
class Sums:
    """What the pixels of a good image add up to. count: (D,) by distance to the border; value, square: (L, D)."""

    count: Floats
    value: Floats
    square: Floats
    layers: Floats  # (n, L): some pixels' layers
    places: NDArray[np.int64]  # (n,): and their distances


def evidence_from_good(
    detector: Detector, training: Sequence[ImageRegion], held_out: Sequence[ImageRegion]
) -> EvidenceProfile:
    """The profile of a detector, from good images alone.

    Args:
        detector: one without a profile. training: good images or areas that were trained on, at least one.
        held_out: others, for the tail of the sum; none: those that were trained on.
    Raises:
        InputError: an image cannot be read, or nothing of any of them lies in the region of interest.
    """
    reach = detector.config.model.patch // 2
    good = evenly(training, GOOD_IMAGES)
    measured = each(partial(_sums, detector, reach=reach), good)
    if not measured:
        raise InputError("evidence is measured on good images, but nothing of them lies in the region of interest")
    mean, spread = _profile(measured)
    values = torch.from_numpy(np.concatenate([part.layers for part in measured]).T.astype(np.float32))
    places = torch.from_numpy(np.concatenate([part.places for part in measured]))
    kinds = product(range(detector.scorer.parts), detector.config.scales)
    layers = tuple(
        Layer(part=part, scale=scale, mean=middle, spread=width, tail=_tail(residual, middle, width, places), weight=1)
        for (part, scale), middle, width, residual in zip(kinds, mean, spread, values, strict=True)
    )
    pasted = each(partial(_pasted_into, detector, layers), turns(good, PASTED_IMAGES))
    weights = np.ones(len(layers))
    if pasted:
        flawed, around = (np.concatenate(parts) for parts in zip(*pasted, strict=True))
        weights = weights_of(flawed, _evidence(layers, values, places), around)
    weighted = tuple(
        layer.model_copy(update={"weight": float(weight)}) for layer, weight in zip(layers, weights, strict=True)
    )
    # A profile whose own tail is not known yet: only its sum is asked for.
    unfinished = EvidenceProfile(layers=weighted, total=layers[0].tail)
    total = ScoreHistogram.empty()
    for part in each(partial(_sum_histogram, detector, unfinished), held_out or good):
        total = total + part
    edges = total.binning.edge(total.bins).astype(np.float64)
    return EvidenceProfile(layers=weighted, total=Tail.fitted(edges, total.good))


def weights_of(flawed: Floats, good: Floats, around: Floats) -> Floats:
    """What each layer is worth: weights, at least 0, by which a logistic regression tells flawed pixels from good ones.

    Both kinds count alike, whatever their numbers. Of the good ones a part lies around flaws, so that layers which
    blur a flaw over its edge are worth less. With no layer that helps all weights are 1.

    Args:
        flawed, good, around: (n, L), (m, L) and (k, L), the layers' evidence of pixels of each kind; k may be 0.
    """
    counts = [len(flawed), len(good), len(around)]
    near = AROUND if len(around) else 0.0
    values = np.concatenate([flawed, good, around])
    truth = np.repeat([1.0, 0.0, 0.0], counts)
    share = np.repeat([0.5 / len(flawed), 0.5 * (1 - near) / len(good), 0.5 * near / max(len(around), 1)], counts)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, offset = parameters[:-1], parameters[-1]
        logit = values @ weights + offset
        slope = share * (1 / (1 + np.exp(-logit)) - truth)
        value = share @ np.logaddexp(0, np.where(truth > 0, -logit, logit)) + PENALTY * (weights @ weights)
        return float(value), np.append(values.T @ slope + 2 * PENALTY * weights, slope.sum())

    count = values.shape[1]
    bounds = [(0, None)] * count + [(None, None)]
    found = minimize(loss, np.zeros(count + 1), jac=True, bounds=bounds, method="L-BFGS-B").x[:-1]
    return np.asarray(found, np.float64) if found.max() > 0 else np.ones(count)


# --------------------------------------------------------------------------------------------------- of one good image


def _sums(detector: Detector, region: ImageRegion, reach: int) -> Sums | None:
    count, values, squares, kept, places = np.zeros(reach), [], [], [], []
    random = np.random.default_rng(0)
    for band, inside, top, (height, width) in good_layers(detector, region):
        near = distances(height, width, reach, top=top, rows=band.shape[1])[inside]
        layers = as_numpy(band).astype(np.float64)[:, inside]
        count += np.bincount(near, minlength=reach)
        values.append([np.bincount(near, layer, reach) for layer in layers])
        squares.append([np.bincount(near, layer * layer, reach) for layer in layers])
        share = min(1.0, SAMPLES / (height * width))
        chosen = random.random(len(near)) < share
        kept.append(layers[:, chosen].T)
        places.append(near[chosen])
    if not count.any():
        return None
    return Sums(count, np.sum(values, 0), np.sum(squares, 0), np.concatenate(kept), np.concatenate(places))


def _profile(measured: Sequence[Sums]) -> tuple[list[list[float]], list[list[float]]]:
    """Mean and spread of every layer by distance, (L, D) each; distances that no image has take their neighbours'."""
    count = np.sum([part.count for part in measured], axis=0)
    known = np.flatnonzero(count)
    steps = np.arange(known[-1] + 1)

    def by_distance(sums: Floats) -> Floats:
        return np.array([np.interp(steps, known, row[known] / count[known]) for row in sums])

    mean = by_distance(np.sum([part.value for part in measured], axis=0))
    square = by_distance(np.sum([part.square for part in measured], axis=0))
    spread = np.sqrt(np.maximum(square - mean**2, LEAST_SPREAD**2))
    return mean.tolist(), spread.tolist()


def _pasted_into(detector: Detector, layers: Sequence[Layer], turn: Turn) -> tuple[Floats, Floats] | None:
    """(n, L) and (k, L): evidence of pixels of defects that were pasted into a good image, and of pixels around them;
    None: they found no place."""
    part = good_part(detector, turn)
    if part is None:
        return None
    try:
        flawed, mask, _ = add_flaws(part.pixels, turn.seed, inside=part.inside)
    except InputError:  # no place for one of them
        return None
    rows, roi = part.shown(flawed)
    small = torch.cat(list(detector.working_layers(rows, roi)), dim=1)
    left, top, right, bottom = roi.box
    size, mask = (small.shape[1], small.shape[2]), mask[top:bottom, left:right]
    where = mask if mask.shape == size else to_size(mask.astype(np.float32), size) > 0.5
    if not where.any():
        return None
    random, places = np.random.default_rng(turn.seed), torch.from_numpy(distances(*size, len(layers[0].mean)))

    def drawn(chosen: Mask) -> Floats:
        pixels = np.flatnonzero(chosen)
        some = torch.from_numpy(random.permutation(pixels)[:FLAWED_SAMPLES])
        return _evidence(layers, small.cpu().flatten(1)[:, some], places.flatten()[some])

    beside = dilated(where, RING) & ~dilated(where, 1)
    return drawn(where), drawn(beside)


def _sum_histogram(detector: Detector, profile: EvidenceProfile, region: ImageRegion) -> ScoreHistogram | None:
    """The histogram of the weighted sum of a good image's evidence."""
    total = ScoreHistogram.empty()
    for band, inside, top, (height, _) in good_layers(detector, region):
        summed = as_numpy(profile.weighted(band, top=top, height=height))
        total = total + ScoreHistogram.of(summed[inside])
    return total if len(total.bins) else None


def _tail(residual: Tensor, mean: Sequence[float], spread: Sequence[float], places: Tensor) -> Tail:
    """The tail of the z-scores of good pixels, (n,) each."""
    return Tail.fitted(*np.unique(z_scores(residual, mean, spread, places).double().numpy(), return_counts=True))


def _evidence(layers: Sequence[Layer], residuals: Tensor, places: Tensor) -> Floats:
    """(n, L): the evidence of n pixels in each layer. residuals: (L, n). places: (n,), distances to the border."""
    found = [layer.evidence(residual, places) for layer, residual in zip(layers, residuals, strict=True)]
    return torch.stack(found, dim=1).double().numpy()

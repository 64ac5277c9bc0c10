"""Pretrained features of regions, compared with those of good regions (`cnn-dictionary`). No training by steps.

The method of Napoletano, Piccoli and Schettini: a pretrained network turns each region of an image into one vector of
features, normalised to a sum of 1. Main components keep 95 % of the variance, and the k-means centres of good vectors
are the words of a dictionary. The residual is the mean Euclidean distance to the m nearest words.

Theirs are the regions' sides, 16 to 128 pixels (`region`), dictionaries of 10 to 1000 words (`words`), 95 % of the
variance, and a ResNet-18 of which the last layer is read and averaged over the region.

Ours: their network sees each region by itself, scaled to 224 pixels. Here it runs once over a whole patch at the
image's own scale, layers of middle depth are read, and a region is a window over their activations, every region / 4
pixels; each layer has a sum of 1. A place of a layer sees beyond its window by the layer's receptive field (59 pixels
for SqueezeNet's features.7). m = 5 is ours, too. Regions of 16 pixels are usual here because with them the dictionary
told defects pasted into good images of nanofibres best, of 16, 32 and 64.

Two later measures compare the same vectors, in units of each layer's mean sum:

- `nearest`, the distance to the nearest of a greedy coreset of good vectors (PatchCore). Ours: main components first,
  and no other weight for a whole image. A fifth of the vectors is kept, where theirs are 1 to 25 %: with 4000 of 20,000
  it told defects pasted into good images of nanofibres better than with 1000.
- `gaussian`, the Mahalanobis distance to one Gaussian of all good vectors, without main components: where good
  material hardly varies, flaws are seen best (Rippel et al.).

References:
    Napoletano et al. 2018, doi:10.3390/s18010209; Roth et al. 2022, arXiv:2106.08265, algorithm 1; Rippel et al. 2020,
    arXiv:2005.14140; Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, for the covariance.

Shapes: N batch, P patch side, G places of the grid of regions along a side, D features, M dimensions, K words.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional

from flawmap.core.device import choose_device
from flawmap.core.errors import ArtifactError
from flawmap.core.runtime import Runtime
from flawmap.methods.config import Config
from flawmap.methods.interface import FitContext, Patches, PatchScorer, PatchScores, State
from flawmap.methods.settings import FeatureDictionarySettings
from flawmap.nets.backbone import Backbone, empty_backbone, load_backbone
from flawmap.nets.engines import refuse_engine
from flawmap.nets.taps import TAPS, Tap
from flawmap.nets.weights import weights_summary

Floats = NDArray[np.float64]

PATCHES = 512  # that regions are drawn from
BATCH = 8
LEAST = 1e-12  # sum of a region's features: a layer may be silent there


class Measure(NamedTuple):
    """What good regions are like. mean: (D,) of vectors. basis: (M, D), the axes of distances. words: (K, M)."""

    mean: Tensor
    basis: Tensor
    words: Tensor


def fit(config: Config, patches: Patches, context: FitContext) -> State:
    """Fit the measure of the settings to regions of good patches. Nothing of it is random but the seed's draws.

    Raises:
        InputError: the pretrained weights are missing or another network's.
    """
    settings, seed = _settings(config), config.training.seed
    backbone = load_backbone(settings.features, settings.read_layers)
    vectors = _drawn(config, backbone, patches)
    sizes = _layer_sizes(vectors, settings)
    mean = vectors.mean(axis=0)
    basis, words = MEASURES[settings.measure]((vectors - mean) / sizes, settings, seed)
    parts = {"mean": mean, "basis": basis / sizes, "words": words}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(part, np.float32)) for name, part in parts.items()}
    tensors |= {f"network.{key}": tensor.contiguous() for key, tensor in backbone.steps.state_dict().items()}
    facts = {"regions": len(vectors), "dimensions": len(basis), "words": len(words)}
    return State(tensors, facts, {"features": weights_summary(settings.features)})


def scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    """Raises ArtifactError where the tensors are those of other settings, ConfigError for another engine than torch."""
    refuse_engine(runtime.engine, config.method.name)
    settings, device = _settings(config), choose_device(runtime.device)
    backbone, measure = _restored(settings, state, device)
    side, neighbours = config.model.patch, settings.neighbours if settings.measure == "dictionary" else 1

    def score(patches: Tensor) -> PatchScores:
        found = distances(described(patches, backbone, settings), measure, neighbours)
        whole = functional.interpolate(found[:, None], size=(side, side), mode="bilinear", align_corners=False)
        return PatchScores(whole[:, 0])

    return PatchScorer(score, device, "float32", BATCH)


def described(patches: Tensor, backbone: Backbone, settings: FeatureDictionarySettings) -> Tensor:
    """(N, C, P, P) to (N, G, G, D): the vector of each region, layer after layer."""
    side, taps = patches.shape[-1], TAPS[settings.features.network]
    parts = []
    for name, maps in zip(settings.read_layers, backbone(patches), strict=True):
        means = region_means(side, settings.region, taps[name], maps.shape[-1]).to(maps)
        part = torch.einsum("gh,nchw,kw->ngkc", means, maps.float(), means)
        if settings.measure == "dictionary":
            part = part / part.sum(dim=-1, keepdim=True).clamp(min=LEAST)
        parts.append(part)
    return torch.cat(parts, dim=-1)


def region_means(side: int, region: int, tap: Tap, places: int) -> Tensor:
    """(G, places): each row takes the mean of a layer over one region, along one side of a patch.

    The layer is interpolated to every pixel, and constant beyond its outermost places. Of a region at the border counts
    what lies in the patch. Regions are centred every region / 4 pixels, at region / 8 first.
    """
    pixels = torch.arange(side, dtype=torch.float64) + 0.5
    position = ((pixels - tap.first) / tap.spacing).clamp(0, places - 1)
    interpolation = (1 - (position[:, None] - torch.arange(places)).abs()).clamp(min=0)
    centres = (torch.arange(4 * side // region) + 0.5) * (region / 4)
    inside = ((pixels - centres[:, None]).abs() < region / 2).double()
    return (inside / inside.sum(dim=1, keepdim=True)) @ interpolation


def distances(vectors: Tensor, measure: Measure, neighbours: int) -> Tensor:
    """(..., D) to (...): the mean distance to the nearest words."""
    main = (vectors - measure.mean) @ measure.basis.T
    found = torch.cdist(main.flatten(0, -2), measure.words)
    count = min(neighbours, len(measure.words))
    # The smallest alone is found ten times as fast.
    mean = found.amin(dim=-1) if count == 1 else found.topk(count, largest=False).values.mean(dim=-1)
    return mean.view(main.shape[:-1])


# ------------------------------------------------------------------------------------------------------------ measures


def dictionary(values: Floats, settings: FeatureDictionarySettings, seed: int) -> tuple[Floats, Floats]:
    """Main components, and k-means centres as words. values: (n, D), centred. Returns (M, D) and (K, M)."""
    basis = _main_components(values, settings)
    main = values @ basis.T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different regions than words
        found = KMeans(min(settings.words, len(main)), n_init=1, random_state=seed).fit(main)
    return basis, found.cluster_centers_


def nearest(values: Floats, settings: FeatureDictionarySettings, seed: int) -> tuple[Floats, Floats]:
    """Main components, and a coreset as words. values: (n, D), centred. Returns (M, D) and (K, M)."""
    basis = _main_components(values, settings)
    main = values @ basis.T
    return basis, main[coreset(main, min(settings.coreset, len(main)))]


def gaussian(values: Floats, settings: FeatureDictionarySettings, seed: int) -> tuple[Floats, Floats]:
    """Axes that whiten, and the mean as the only word. values: (n, D), centred. Returns (D, D) and (1, D)."""
    precision = LedoitWolf(assume_centered=True).fit(values).precision_
    basis = np.linalg.cholesky((precision + precision.T) / 2).T  # |basis x|^2 = x^T precision x
    return basis, np.zeros((1, len(basis)))


MEASURES: dict[str, Callable[[Floats, FeatureDictionarySettings, int], tuple[Floats, Floats]]] = {
    "dictionary": dictionary,
    "nearest": nearest,
    "gaussian": gaussian,
}


def coreset(values: Floats, count: int) -> list[int]:
    """Numbers of rows, chosen one by one: the first, then always the one that is farthest from those chosen."""
    chosen = [0]
    nearest = np.full(len(values), np.inf)
    lengths = np.einsum("nm,nm->n", values, values)
    while len(chosen) < count:
        last = chosen[-1]
        np.minimum(nearest, lengths + lengths[last] - 2 * values @ values[last], out=nearest)
        chosen.append(int(nearest.argmax()))
    return chosen


def _main_components(values: Floats, settings: FeatureDictionarySettings) -> Floats:
    found: Floats = PCA(settings.variance, svd_solver="full").fit(values).components_
    return found


# ------------------------------------------------------------------------------------------------------------- vectors


def _drawn(config: Config, backbone: Backbone, patches: Patches) -> Floats:
    """(n, D): regions of good patches, as many of each patch."""
    settings, rng = _settings(config), np.random.default_rng(config.training.seed)
    device = choose_device(config.training.device)
    placed, drawn = backbone.to(device), patches.draw(PATCHES, rng)
    each, found = math.ceil(settings.samples / PATCHES), []
    for start in range(0, PATCHES, BATCH):
        batch = torch.from_numpy(patches.cut(drawn[start : start + BATCH])).to(device)
        with torch.no_grad():
            vectors = described(batch, placed, settings).flatten(1, 2)
        found += [one[torch.from_numpy(rng.permutation(len(one))[:each])] for one in vectors.cpu()]
    backbone.cpu()
    return torch.cat(found)[: settings.samples].double().numpy()


def _layer_sizes(vectors: Floats, settings: FeatureDictionarySettings) -> Floats:
    """(D,): the mean sum of each feature's layer, so that layers count alike."""
    taps = TAPS[settings.features.network]
    counts = [taps[name].maps for name in settings.read_layers]
    parts = np.split(vectors, np.cumsum(counts)[:-1], axis=1)
    return np.repeat([max(float(part.sum(axis=1).mean()), LEAST) for part in parts], counts)


def _restored(settings: FeatureDictionarySettings, state: State, device: torch.device) -> tuple[Backbone, Measure]:
    backbone = empty_backbone(settings.features.network, settings.read_layers)
    tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
    weights = {key.removeprefix("network."): tensor for key, tensor in tensors.items() if key.startswith("network.")}
    try:
        backbone.steps.load_state_dict(weights, assign=True)
        measure = Measure(*(tensors[name] for name in Measure._fields))
    except (KeyError, RuntimeError) as error:
        raise ArtifactError(f"the weights do not fit the settings beside them: {error}") from None
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone.requires_grad_(requires_grad=False).eval(), measure


def _settings(config: Config) -> FeatureDictionarySettings:
    assert isinstance(config.method, FeatureDictionarySettings)  # the table gives these functions no other method
    return config.method

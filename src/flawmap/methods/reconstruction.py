"""Scoring by reconstruction: a patch is compared with what a network makes of it. No torch here: an exported network
needs none.

Which residual compares, and whether overlapping reconstructions or overlapping residuals are averaged, is up to the
settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flawmap.core.arrays import Array, namespace_of
from flawmap.core.errors import ConfigError
from flawmap.core.runtime import Runtime
from flawmap.core.settings import WINDOWED
from flawmap.methods.config import Config
from flawmap.methods.interface import ImageEncoder, PatchScorer, PatchScores, State
from flawmap.methods.residuals import BEYOND, Decoded, residual_of
from flawmap.methods.settings import AutoencoderSettings
from flawmap.nets.engines import ENGINES, engine_for, engine_precision, start_engine
from flawmap.nets.layer_table import NetworkShape, reach, spacing

if TYPE_CHECKING:
    import torch

Decode = Callable[..., Decoded]
"""Patches (N, C, P, P), and their features where the image is encoded once, to what the network makes of them."""


def exported_scorer(config: Config, state: State, runtime: Runtime) -> PatchScorer:
    """What scores patches, as NumPy's arrays, with an exported network.

    Raises:
        ConfigError: the engine cannot run this model, there, or in that precision; or the network was exported for the
            other kind of `tiling.encoder`. InputError: its package, of the extra `export`, is not installed.
    """
    graph = state.graph
    assert graph is not None
    engine = engine_for(runtime.engine, graph)
    if runtime.precision == "auto":
        runtime = replace(runtime, precision="float32")  # as it was compared when it was exported
    precision = engine_precision(replace(runtime, engine=engine), beyond=beyond_engines(config))
    exported = "patches" if graph.encoder is None else "image"
    if exported != config.tiling.encoder:
        raise ConfigError(
            f"the exported network has tiling.encoder {exported}, got {config.tiling.encoder}; use the .flawmap file, "
            "or leave it as it is"
        )
    run = start_engine(engine, graph, precision)
    found = comparing(config, lambda *given: Decoded(run(given[-1])), None, precision, ENGINES[engine].batch)
    if graph.encoder is None:
        return found
    shape = network_shape(config)
    encode = start_engine(engine, graph.encoder, precision)
    return replace(found, encoder=ImageEncoder(encode, spacing(shape), reach(shape)))


def beyond_engines(config: Config) -> str | None:
    """What the residuals need that torch alone does; None: nothing."""
    return next((BEYOND[part.name] for part in config.parts if part.name in BEYOND), None)


def network_shape(config: Config) -> NetworkShape:
    """What the settings say of the method's network."""
    assert isinstance(config.method, AutoencoderSettings)  # the table gives these functions no other method
    return NetworkShape(config.model.patch, config.model.channels or 1, config.method.latent)


def comparing(config: Config, decode: Decode, device: torch.device | None, precision: str, batch: int) -> PatchScorer:
    """The scorer of any function that reconstructs patches (N, C, P, P), by the residual of the settings."""
    parts = [residual_of(settings) for settings in config.parts]

    def residuals(image: Array, decoded: Decoded) -> Array:
        return namespace_of(image).stack([part(image, decoded) for part in parts], axis=1)

    def score(patches: Array, *features: Array) -> PatchScores:
        decoded = decode(patches, *features)
        own = residuals(patches, decoded) if config.averages_residuals else None
        return PatchScores(own, decoded.reconstruction)

    if config.averages_residuals:
        return PatchScorer(score, device, precision, batch, parts=len(parts))
    # A whole window, not half of one: a last band may be a row.
    context = max(settings.ssim.size if settings.name in WINDOWED else 0 for settings in config.parts)
    return PatchScorer(
        score,
        device,
        precision,
        batch,
        lambda image, rebuilt: residuals(image, Decoded(rebuilt)),
        context,
        len(parts),
    )

"""A trained network as a file of another engine: ONNX or OpenVINO, in float32 or in whole numbers of 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from flawmap.core.errors import InputError
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.engines import Graph, imported_openvino, openvino_core
from flawmap.nets.layers import Layers, all_layers, half_layers, ranges_of
from flawmap.nets.onnx_model import onnx_model

Format = Literal["onnx", "openvino"]


class Samples(NamedTuple):
    """What a network gets from good images, batch by batch. images: of an encoder that sees an image once."""

    patches: Sequence[Tensor] = ()
    images: Sequence[Tensor] = ()


NO_SAMPLES = Samples()


def exported_graph(network: Autoencoder, form: Format, samples: Samples = NO_SAMPLES, *, once: bool = False) -> Graph:
    """A network in evaluation mode as an engine's own files.

    Args:
        samples: where there are some, the network computes in whole numbers of 8 bits, whose ranges are found on them.
        once: whether an image is encoded once; the `patches` of samples are their features then.
    Raises:
        InputError: a package of the extra is missing.
    """
    encoder, rest = whole_parts(network, samples, once=once)
    graph = _graph(rest, form)
    return graph if encoder is None else graph._replace(encoder=_graph(encoder, form))


def whole_parts(network: Autoencoder, samples: Samples, *, once: bool) -> tuple[Layers | None, Layers]:
    """The encoder, where it sees an image once, and what follows, each with its ranges over the samples."""
    if not once:
        return None, _with_ranges(all_layers(network), samples.patches)
    encoder, rest = half_layers(network)
    return _with_ranges(encoder, samples.images), _with_ranges(rest, samples.patches)


def _with_ranges(layers: Layers, samples: Sequence[Tensor]) -> Layers:
    return layers._replace(ranges=ranges_of(layers, samples)) if samples else layers


def _graph(layers: Layers, form: Format) -> Graph:
    try:
        model = onnx_model(layers, fused=form == "openvino")
        return Graph("onnx", model) if form == "onnx" else _openvino(model)
    except ModuleNotFoundError as error:
        raise InputError(
            f"an export needs the package {error.name}, which is not installed; pip install 'flawmap[export]'"
        ) from None


def _openvino(model: bytes) -> Graph:
    read = openvino_core().read_model(model)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "network.xml"
        imported_openvino().save_model(read, path, compress_to_fp16=False)
        return Graph("openvino", path.read_bytes(), path.with_suffix(".bin").read_bytes())

"""A trained network as a file of another engine: ONNX, OpenVINO, and OpenVINO in whole numbers of 8 bits."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from flawmap.core.errors import ConfigError, InputError
from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.engines import Graph, imported_openvino, unreported
from flawmap.nets.layers import Layers, all_layers, half_layers, onnx_model

Format = Literal["onnx", "openvino"]


class Samples(NamedTuple):
    """What a network gets from good images, batch by batch. images: of an encoder that sees an image once."""

    patches: Sequence[Tensor] = ()
    images: Sequence[Tensor] = ()


NO_SAMPLES = Samples()


def exported_graph(network: Autoencoder, form: Format, samples: Samples = NO_SAMPLES, *, once: bool = False) -> Graph:
    """A network in evaluation mode as an engine's own files.

    Args:
        samples: where there are some, the network computes in whole numbers of 8 bits, whose ranges are found on them
            (post-training quantisation of NNCF). OpenVINO alone.
        once: whether an image is encoded once; the `patches` of samples are their features then.
    Raises:
        InputError: a package of the extra is missing. ConfigError: whole numbers for another engine than OpenVINO.
    """
    if once:
        encoder, decoder = half_layers(network)
        graph = _graph(decoder, form, samples.patches)
        return graph._replace(encoder=_graph(encoder, form, samples.images))
    return _graph(all_layers(network), form, samples.patches)


def _graph(layers: Layers, form: Format, samples: Sequence[Tensor]) -> Graph:
    if samples and form != "openvino":
        raise ConfigError(f"--int8 is for OpenVINO, got --to {form}; use --to openvino, or leave --int8 out")
    try:
        model = onnx_model(layers)
        return Graph("onnx", model) if form == "onnx" else _openvino(model, samples)
    except ModuleNotFoundError as error:
        raise InputError(
            f"an export needs the package {error.name}, which is not installed; pip install 'flawmap[export]'"
        ) from None


def _openvino(model: bytes, samples: Sequence[Tensor]) -> Graph:
    openvino = imported_openvino()
    read = openvino.Core().read_model(model)
    if samples:
        read = _quantised(read, samples)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "network.xml"
        openvino.save_model(read, path, compress_to_fp16=False)
        return Graph("openvino", path.read_bytes(), path.with_suffix(".bin").read_bytes())


def _quantised(model: Any, samples: Sequence[Tensor]) -> Any:
    with unreported(), redirect_stdout(StringIO()):  # its own progress bar
        nncf = import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        data = nncf.Dataset([batch.contiguous().numpy() for batch in samples])
        # Asymmetric activations, for LeakyReLU.
        return nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(samples))

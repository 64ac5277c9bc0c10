"""A network, or a part of it, as layers in a row, and the same as an ONNX model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from flawmap.nets.autoencoder import Autoencoder
from flawmap.nets.layer_table import spacing

Shape = tuple[int | str, ...]

OPSET, IR_VERSION = 13, 8  # of the ONNX model: old enough for every release of both engines that is taken


class Layers(NamedTuple):
    """A network on its device, or a part of it: layers in a row. given, made: what goes in and comes out, with names
    for the sides of any length."""

    layers: nn.Sequential
    given: tuple[str, Shape]
    made: tuple[str, Shape]


def all_layers(network: Autoencoder) -> Layers:
    """Patches to reconstructions. A network that gives a distribution decodes its mean, as its `forward` does."""
    (patch, channels, _), layers = network.shape, nn.Sequential(*network.encoder, *network.decoder)
    shape: Shape = ("N", channels, patch, patch)
    return Layers(layers, ("patches", shape), ("reconstructions", shape))


def half_layers(network: Autoencoder) -> tuple[Layers, Layers]:
    """Images to features, and patches' features to reconstructions."""
    *before, last = network.encoder
    assert isinstance(last, nn.Conv2d)
    patch, channels, _ = network.shape
    side, number = patch // spacing(network.shape), last.in_channels
    image = Layers(
        nn.Sequential(*before), ("image", (1, channels, "H", "W")), ("features", (1, number, "rows", "columns"))
    )
    rest = nn.Sequential(last, *network.decoder)
    ends = ("features", ("N", number, side, side)), ("reconstructions", ("N", channels, patch, patch))
    return image, Layers(rest, *ends)


def cast(network: Layers, precision: str) -> nn.Sequential:
    """The layers themselves, their weights cast once instead of at every batch; the detector runs them under
    autocast."""
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(getattr(torch, precision))
    return network.layers


def onnx_model(network: Layers) -> bytes:
    """Layers as an ONNX model with their weights in float32. Training is not described."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - an extra

    layers = list(network.layers)
    names = [network.given[0], *(f"layer{number}" for number in range(1, len(layers))), network.made[0]]
    nodes, weights = [], []
    for layer, before, after in zip(layers, names, names[1:], strict=False):
        node, constants = _node(layer, before, after)
        nodes.append(node)
        weights += constants
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (network.given, network.made)
    ]
    graph = helper.make_graph(nodes, "autoencoder", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    data: bytes = model.SerializeToString()
    return data


def _node(layer: nn.Module, before: str, after: str) -> tuple[Any, list[Any]]:
    """ONNX's node for a layer, from the value before it to the one after it, and its constants."""
    from onnx import helper, numpy_helper  # noqa: PLC0415 - an extra

    if isinstance(layer, nn.LeakyReLU):
        return helper.make_node("LeakyRelu", [before], [after], alpha=layer.negative_slope), []
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)  # the networks of table 1 have no others
    constants = [
        numpy_helper.from_array(values.detach().float().cpu().numpy(), f"{after}.{name}")
        for name, values in layer.named_parameters()
    ]
    node = helper.make_node(
        "Conv" if isinstance(layer, nn.Conv2d) else "ConvTranspose",
        [before, *(constant.name for constant in constants)],
        [after],
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=[int(pad) for pad in layer.padding] * 2,
    )
    return node, constants

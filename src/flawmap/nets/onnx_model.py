"""Layers as an ONNX model: in float32, or in whole numbers of 8 bits as every engine reads them.

In 8 bits a value q stands for scale * (q - zero): activations are unsigned with a range of their own, weights signed
and symmetric with a scale for each output channel, biases have 32 bits (Jacob et al. 2018, arXiv:1712.05877). What a
layer gives is rounded to the next layer's numbers and read back (`QuantizeLinear`, `DequantizeLinear`); engines make
integer kernels of the pairs. What the last layer gives stays float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flawmap.core.errors import ConfigError
from flawmap.nets.layers import Layers, Ranges, is_convolution, plain_layers, scale_and_zero

OPSET, IR_VERSION = 13, 8  # of the ONNX model: old enough for every release of both engines that is taken


def onnx_model(network: Layers, *, fused: bool = False) -> bytes:
    """Layers as an ONNX model, in 8 bits where they have ranges. Training is not described.

    Args:
        fused: in 8 bits, whether a convolution's values are rounded after its activation alone. That is a fifth more
            exact; OpenVINO computes both in one, ONNX Runtime would compute in float32.
    Raises:
        ConfigError: the ranges are those of other layers.
    """
    from onnx import TensorProto, helper  # noqa: PLC0415 - an extra

    building = _Building(network.given[0])
    layers = plain_layers(network)
    first, *limits = _activations(layers, network.ranges, fused=fused)
    if first is not None:
        building.rounded(first)
    for place, (layer, limit) in enumerate(zip(layers, limits, strict=True), start=1):
        name = network.made[0] if place == len(layers) else f"layer{place}"
        building.add(layer, name, whole=network.ranges is not None)
        if limit is not None:
            building.rounded(limit)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (network.given, network.made)
    ]
    graph = helper.make_graph(building.nodes, "autoencoder", ends[:1], ends[1:], building.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    data: bytes = model.SerializeToString()
    return data


def _activations(layers: list[nn.Module], ranges: Ranges | None, *, fused: bool) -> list[tuple[float, float] | None]:
    """The range of what goes in and of what each layer gives; None: it is not rounded.

    An activation is monotone, so its range follows; moved pixels keep theirs.
    """
    if ranges is None:
        return [None] * (len(layers) + 1)
    convolutions = sum(map(is_convolution, layers))
    if len(ranges) != convolutions:
        raise ConfigError(
            f"{convolutions} ranges of 8 bits belong to these layers, got {len(ranges)}; find them anew by "
            "`flawmap calibrate MODEL GOOD`"
        )
    left: list[tuple[float, float] | None] = [*ranges, None]
    current = left.pop(0)
    found = [current]
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if is_convolution(layer):
            current = left.pop(0)
            if fused and isinstance(after, nn.LeakyReLU):
                found.append(None)
                continue
        elif isinstance(layer, nn.LeakyReLU) and current is not None:
            current = current[0] * layer.negative_slope, current[1]
        found.append(current)
    return found


class _Building:
    """Nodes in a row, each of which takes what the one before gives, and their constants."""

    def __init__(self, given: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._last, self._scale = given, 0.0  # the value that the next node takes, and its scale where it was rounded

    def rounded(self, limits: tuple[float, float]) -> None:
        """Round the last value to 8 bits of a range that holds 0, and read it back."""
        scale, zero = scale_and_zero(limits)
        pair = self._constant("scale", np.float32(scale)), self._constant("zero", np.uint8(zero))
        self._node("QuantizeLinear", [self._last, *pair], f"{self._last}.rounded")
        self._node("DequantizeLinear", [self._last, *pair], f"{self._last}.read")
        self._scale = scale

    def add(self, layer: nn.Module, name: str, *, whole: bool) -> None:
        """One layer that gives a value of this name. whole: weights in 8 bits."""
        if isinstance(layer, nn.Conv2d):
            weight, bias = (values.detach().float().cpu().numpy() for _, values in layer.named_parameters())
            taken = self._whole(weight, bias, name) if whole else self._plain(weight, bias, name)
            pads = [int(pad) for pad in layer.padding] * 2
            self._node(
                "Conv",
                [self._last, *taken],
                name,
                kernel_shape=layer.kernel_size,
                strides=layer.stride,
                pads=pads,
            )
        elif isinstance(layer, nn.LeakyReLU):
            self._node("LeakyRelu", [self._last], name, alpha=layer.negative_slope)
        elif isinstance(layer, nn.PixelShuffle):
            self._node("DepthToSpace", [self._last], name, blocksize=layer.upscale_factor, mode="CRD")
        else:
            assert isinstance(layer, nn.ZeroPad2d)  # by -1 at each side; the networks of table 1 have no other layers
            cut = {"starts": [1, 1], "ends": [-1, -1], "axes": [2, 3]}
            taken = [self._constant(key, np.array(places, np.int64), name) for key, places in cut.items()]
            self._node("Slice", [self._last, *taken], name)

    def _plain(self, weight: NDArray[np.float32], bias: NDArray[np.float32], name: str) -> list[str]:
        return [self._constant("weight", weight, name), self._constant("bias", bias, name)]

    def _whole(self, weight: NDArray[np.float32], bias: NDArray[np.float32], name: str) -> list[str]:
        """Weights in 8 bits and biases in 32, read back by nodes of their own."""
        scales = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), np.float32(1e-12)) / np.float32(127)
        weights = np.rint(weight / scales[:, None, None, None]).astype(np.int8)
        sums = scales.astype(np.float64) * self._scale  # the unit of a sum of products
        limit = np.iinfo(np.int32).max
        biases = np.clip(np.rint(bias / sums), -limit, limit).astype(np.int32)
        read = []
        for kind, values, units in (("weight", weights, scales), ("bias", biases, sums.astype(np.float32))):
            taken = [self._constant(kind, values, name), self._constant(f"{kind}.scale", units, name)]
            zero = self._constant(f"{kind}.zero", np.zeros(len(units), values.dtype), name)
            read.append(f"{name}.{kind}.read")
            self._append("DequantizeLinear", [*taken, zero], read[-1], axis=0)
        return read

    def _constant(self, kind: str, values: Any, of: str | None = None) -> str:
        from onnx import numpy_helper  # noqa: PLC0415 - an extra

        name = f"{of or self._last}.{kind}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _node(self, kind: str, taken: list[str], name: str, **attributes: Any) -> None:
        self._append(kind, taken, name, **attributes)
        self._last = name

    def _append(self, kind: str, taken: list[str], name: str, **attributes: Any) -> None:
        from onnx import helper  # noqa: PLC0415 - an extra

        self.nodes.append(helper.make_node(kind, taken, [name], **attributes))

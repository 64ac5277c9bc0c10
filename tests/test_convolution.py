"""Convolutions that are computed in other ways: PyTorch's own as the oracle, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flawmap.nets.convolution import Convolution

GEOMETRIES = [(1, 6, 4, 2, 1), (3, 6, 4, 2, 1), (8, 5, 4, 2, 1), (2, 5, 3, 1, 1), (5, 7, 8, 1, 0), (6, 4, 2, 1, 0)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (12, 10)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolutions_equal_pytorch_s(
    geometry: tuple[int, int, int, int, int], size: tuple[int, int], wanted: bool, layout: torch.memory_format
) -> None:
    """Values and gradients in double precision, from the same state; also where the input's gradient is not wanted."""
    ours = Convolution(*geometry).double().to(memory_format=layout)  # type: ignore[call-overload]
    theirs = nn.Conv2d(*geometry).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(3, geometry[0], *size, dtype=torch.float64).to(memory_format=layout)
    found = []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_(wanted)
        output = layer(given)
        output.sin().sum().backward()
        found.append((output.detach(), given.grad, layer.weight.grad, layer.bias.grad))
    for mine, other in zip(*found, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_under_autocast_gradients_arrive_in_single_precision(geometry: tuple[int, int, int, int, int]) -> None:
    """Products are in bfloat16; values and gradients are those of float32 to a few of its roundings."""
    torch.manual_seed(0)
    layer = Convolution(*geometry).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(3, geometry[0], 8, 8).to(memory_format=torch.channels_last)
    exact = layer(x)
    exact.sum().backward()
    assert layer.weight.grad is not None
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.02, atol=0.02)
    half.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0.02, atol=0.02)


def test_half_of_a_layer_may_be_frozen() -> None:
    """No gradient is made of what wants none."""
    layer = Convolution(1, 4, 4, 2, 1)
    layer.weight.requires_grad_(False)
    layer(torch.rand(2, 1, 8, 8)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias is not None
    assert layer.bias.grad is not None

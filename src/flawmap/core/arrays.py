"""Arrays of either library: torch's tensors, or NumPy's arrays where torch is not imported.

Functions on an `Array` take one of either kind and give the same kind, by the array API standard
(https://data-apis.org/array-api). What stands here is what the standard lacks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array: TypeAlias = Any
"""A torch tensor or a NumPy array."""

Given = ParamSpec("Given")
Item = TypeVar("Item")


def namespace_of(array: Array) -> Any:
    """The functions of the array API standard for the array's library."""
    if is_numpy(array):
        return np  # follows the standard by itself
    from array_api_compat import array_namespace  # noqa: PLC0415 - the array is torch's

    return array_namespace(array)


def is_numpy(array: Array) -> bool:
    return isinstance(array, np.ndarray | np.generic)


def device_of(array: Array) -> Any:
    """Torch's device, or "cpu"."""
    return "cpu" if is_numpy(array) else array.device


def on_cpu(array: Array) -> bool:
    return is_numpy(array) or array.device.type == "cpu"


def on_device(values: NDArray[Any], device: torch.device | None) -> Array:
    """NumPy's values as a tensor on torch's device; None: as they are."""
    if device is None:
        return values
    import torch  # noqa: PLC0415 - a device is torch's

    return torch.from_numpy(values).to(device)


def as_numpy(array: Array) -> NDArray[Any]:
    """The values in rows that lie one behind the other, on the processor; a tensor's without its gradients."""
    return np.ascontiguousarray(array if is_numpy(array) else array.detach().cpu().numpy())


def converted(values: NDArray[Any], dtype: Any, device: Any) -> Array:
    """NumPy's values as an array of the library that the type and the device belong to."""
    if isinstance(dtype, np.dtype):
        return np.ascontiguousarray(values, dtype)
    import torch  # noqa: PLC0415 - the type is torch's

    with torch.inference_mode(False):  # what is kept serves trainings, too
        return torch.from_numpy(values).to(dtype).to(device).contiguous()  # MPS knows no float64


def constant_like(values: Sequence[float] | NDArray[Any], array: Array) -> Array:
    """Numbers as an array of the same library, type and device as another one."""
    return converted(np.asarray(values, np.float64), array.dtype, device_of(array))


def beside(values: NDArray[np.int64], array: Array) -> Array:
    """Whole numbers as an array of the same library and device as another one."""
    return on_device(values, None if is_numpy(array) else array.device)


def zeros_of(array: Array, *shape: int) -> Array:
    """Zeros of this shape, of the same library, type and device as another array."""
    return namespace_of(array).zeros(shape, dtype=array.dtype, device=device_of(array))


def unchanging(array: Array) -> Array:
    """The same values as a constant, when gradients are taken."""
    return array if is_numpy(array) else array.detach()


def add_product(total: Array, first: Array, second: Array, factor: float = 1.0) -> None:
    """total += factor * first * second, in place."""
    if is_numpy(total):
        total += factor * (first * second)
    else:
        total.addcmul_(first, second, value=factor)


def interpolated(start: Array, end: Array, share: Array) -> Array:
    """start + share (end - start)."""
    return start + share * (end - start) if is_numpy(start) else start.lerp(end, share)


def without_autocast(array: Array) -> AbstractContextManager[object]:
    """The context in which torch computes in the types that it is given."""
    if is_numpy(array):
        return nullcontext()
    import torch  # noqa: PLC0415 - the array is torch's

    return torch.autocast(array.device.type, enabled=False)


def without_gradients(function: Callable[Given, Iterator[Item]]) -> Callable[Given, Iterator[Item]]:
    """A generator during whose steps torch, where it is imported, records nothing for gradients."""

    @wraps(function)
    def quiet(*args: Given.args, **named: Given.kwargs) -> Iterator[Item]:
        torch = sys.modules.get("torch")
        return function(*args, **named) if torch is None else torch.no_grad()(function)(*args, **named)

    return quiet

"""What runs a network: PyTorch, ONNX Runtime or OpenVINO. Everything around the network is the same for all of them.

The two others are optional. They take the network as an ONNX model in memory, run on the CPU, and are faster than
PyTorch on batches of few patches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

from flawmap.core.arrays import Array, as_numpy, namespace_of
from flawmap.core.cores import own_cores
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.runtime import Runtime, known_precision

if TYPE_CHECKING:
    from flawmap.nets.layers import Layers

BATCH = 32  # patches at once on a CPU at most: more exceed its caches, and SSIM and samples need several times as much
Run = Callable[[Array], Array]
"""What a network does: (N, C, P, P) patches to their reconstructions, or a part of that."""

COMPILED = 4  # networks that an engine keeps compiled, for batch sizes and numbers of cores; a detector needs two


class Graph(NamedTuple):
    """An exported network, as its file or files hold it. weights: of OpenVINO's `.bin`.

    encoder: given where an image is encoded once; the graph itself is what follows the features then.
    """

    format: Literal["onnx", "openvino"]
    model: bytes
    weights: bytes = b""
    encoder: Graph | None = None


Runnable = Union["Layers", Graph]
"""What an engine can run."""


class Engine(NamedTuple):
    """start: makes a function of what it is to run, and its precision. formats: exported networks
    that it reads.

    batch: patches that a detector gives it at once on a CPU. Engines that are quick with one take one.
    """

    start: Callable[[Any, str], Run]
    batch: int
    formats: tuple[str, ...] = ()


def engine_for(engine: str, graph: Graph | None) -> str:
    """The engine that `auto` stands for: torch, or what an exported network is for.

    Raises:
        ConfigError: there is no such engine, or it does not read the exported network.
    """
    if engine == "auto":
        return "torch" if graph is None else {"onnx": "onnxruntime", "openvino": "openvino"}[graph.format]
    if engine not in ENGINES:
        raise ConfigError(f"engine must be auto, {', '.join(ENGINES)}, got {engine!r}")
    if graph is not None and graph.format not in ENGINES[engine].formats:
        able = " or ".join(name for name, one in ENGINES.items() if graph.format in one.formats)
        raise ConfigError(
            f"the engine {engine} does not run a model exported to {graph.format}; use --engine {able}, or the "
            ".flawmap file"
        )
    return engine


def refuse_engine(engine: str, method: str) -> None:
    """Raise ConfigError if an engine other than torch is asked for, by a method without a network of its own."""
    if engine not in ("auto", "torch"):
        raise ConfigError(f"the method {method} has no network that {engine} could run; leave --engine out")


def engine_precision(runtime: Runtime, *, beyond: str | None = None) -> str:
    """The precision in which an engine other than torch runs a network; `auto` takes what the engine can do.

    Args:
        beyond: what the model does that torch alone does, as "the residual probability decodes samples"; None: nothing.
    Raises:
        ConfigError: the engine cannot run there, in that precision, or this model.
    """
    engine, device, precision = runtime.engine, runtime.device, runtime.precision
    if device.split(":")[0] not in ("auto", "cpu"):
        raise ConfigError(
            f"the engine {engine} runs on the CPU, got the device {device}; use --device cpu, or --engine torch"
        )
    if beyond is not None:
        raise ConfigError(f"{beyond}, which the engine {engine} does not; use --engine torch")
    if engine == "onnxruntime" and precision == "bfloat16":
        raise ConfigError(
            "the engine onnxruntime computes in float32, got the precision bfloat16; "
            "use --precision float32, or --engine openvino"
        )
    if precision != "auto":
        return known_precision(precision)
    if engine == "onnxruntime":
        return "float32"
    from flawmap.core.device import choose_device, choose_precision, name_of  # noqa: PLC0415 - torch knows the processor

    return name_of(choose_precision("auto", choose_device("cpu")))


def start_engine(engine: str, network: Runnable, precision: str) -> Run:
    """Layers on their device and in evaluation mode, or an exported network, as the engine runs them.

    Raises:
        InputError: a package of the extra is missing. ConfigError: the engine lacks the precision on this processor.
    """
    try:
        return ENGINES[engine].start(network, precision)
    except ModuleNotFoundError:
        raise InputError(
            f"--engine {engine} needs a package that is not installed; pip install 'flawmap[export]'"
        ) from None


def _torch(network: Layers, precision: str) -> Run:
    from flawmap.nets.layers import cast  # noqa: PLC0415 - torch runs layers alone

    return cast(network, precision)


def _onnxruntime(network: Runnable, precision: str) -> Run:
    import onnxruntime  # noqa: PLC0415 - an extra

    onnxruntime.disable_telemetry_events()  # builds for Windows report to their maker otherwise
    model = _graph(network).model

    def compiled(threads: int, shape: tuple[int, ...]) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
        return lambda batch: session.run(None, {given: batch})[0]

    return _compiled_once(compiled)


def _openvino(network: Runnable, precision: str) -> Run:
    core = imported_openvino().Core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError(
            "the engine openvino has no bfloat16 on this processor; use --precision float32, or --engine torch"
        )
    graph = _graph(network)
    model = core.read_model(graph.model, graph.weights)
    hint = "bf16" if precision == "bfloat16" else "f32"

    def compiled(threads: int, shape: tuple[int, ...]) -> Any:
        """The network for one shape of batch: with a free batch size it would be slower."""
        fixed = model.clone()
        fixed.reshape(list(shape))
        properties = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        ready = core.compile_model(fixed, "CPU", properties | {"INFERENCE_NUM_THREADS": threads})
        return lambda batch: ready.infer_new_request(batch)[0]  # its own request: for threads

    return _compiled_once(compiled)


def _graph(network: Runnable) -> Graph:
    """An exported network as it is, layers as an ONNX model."""
    if isinstance(network, Graph):
        return network
    from flawmap.nets.layers import onnx_model  # noqa: PLC0415 - an exported network has no layers of torch

    return Graph("onnx", onnx_model(network))


def _compiled_once(compiled: Callable[[int, tuple[int, ...]], Any]) -> Run:
    """Runs batches by what `compiled` makes for a number of cores and a shape of batch; the last ones are kept.

    Threads that ask for the same one wait until it is made. Engines compute on as many cores as the calling thread may
    use: threads with an image each divide the cores.
    """
    cached, lock = lru_cache(COMPILED)(compiled), Lock()

    def run(batch: Array) -> Array:
        with lock:
            ready = cached(own_cores(), tuple(batch.shape))
        return namespace_of(batch).asarray(ready(as_numpy(batch)))

    return run


@contextmanager
def unreported() -> Iterator[None]:
    """openvino and nncf, of an extra, report to their maker, unless the package that does so is not found."""
    name = "openvino_telemetry"
    hidden = name not in sys.modules  # else it is the caller's own doing
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def imported_openvino() -> Any:
    """openvino, an extra."""
    with unreported():
        return import_module("openvino")


ENGINES: dict[str, Engine] = {
    "torch": Engine(_torch, BATCH),
    "onnxruntime": Engine(_onnxruntime, 1, ("onnx",)),
    "openvino": Engine(_openvino, 1, ("onnx", "openvino")),
}

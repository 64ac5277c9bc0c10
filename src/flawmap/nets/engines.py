"""What runs a network: PyTorch, ONNX Runtime or OpenVINO. Everything around the network is the same for all of them.

The two others are optional. They take the network as an ONNX model in memory, run on the CPU, are faster than PyTorch
on batches of few patches, and compute in whole numbers of 8 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

from flawmap.core.arrays import Array, as_numpy, namespace_of
from flawmap.core.cores import own_cores
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.processor import has_int8, held_back
from flawmap.core.runtime import Runtime, known_precision

if TYPE_CHECKING:
    from flawmap.nets.layers import Layers

BATCH = 32  # patches at once on a CPU at most: more exceed its caches, and SSIM and samples need several times as much
FEW = 8  # the same of the other engines, which gain nothing from more
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
    """start: makes a function of what it is to run, and its precision. precisions: those it may have, where the
    processor does. formats: exported networks that it reads.

    batch: patches that a detector gives it at once on a CPU, at most.
    """

    start: Callable[[Any, str], Run]
    precisions: tuple[str, ...]
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
    """The precision in which an engine runs a network; `auto` takes what the engine can do, and stays so for torch.

    Args:
        beyond: what the model does that torch alone does, as "the residual probability decodes samples"; None: nothing.
    Raises:
        ConfigError: the engine cannot run there, in that precision, or this model.
    """
    engine, device, precision = runtime.engine, runtime.device, runtime.precision
    own = ENGINES[engine].precisions
    able = [name for name, other in ENGINES.items() if precision in other.precisions]
    if able and precision not in own:
        raise ConfigError(
            f"the engine {engine} computes in {' or '.join(own)}, got the precision {precision}; use --precision "
            f"{own[0]}, or --engine {' or '.join(able)}"
        )
    if engine == "torch":
        return known_precision(precision)
    if device.split(":")[0] not in ("auto", "cpu"):
        raise ConfigError(
            f"the engine {engine} runs on the CPU, got the device {device}; use --device cpu, or --engine torch"
        )
    if beyond is not None:
        raise ConfigError(f"{beyond}, which the engine {engine} does not; use --engine torch")
    if precision in own:
        return precision
    known_precision(precision)
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
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores have work between batches
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
        return lambda batch: session.run(None, {given: batch})[0]

    return _compiled_once(compiled)


def _openvino(network: Runnable, precision: str) -> Run:
    core = openvino_core()
    hint = _HINTS.get(precision, "f32")  # whole numbers stand in the model
    if hint != "f32" and hint.upper() not in _capabilities(core):
        raise ConfigError(
            f"the engine openvino has no {precision} on this processor; use --precision float32, or --engine torch"
        )
    graph = _graph(network, fused=True)
    model = core.read_model(graph.model, graph.weights)

    def compiled(threads: int, shape: tuple[int, ...]) -> Any:
        """The network for one shape of batch: with a free batch size it would be slower."""
        fixed = model.clone()
        fixed.reshape(list(shape))
        properties = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        ready = core.compile_model(fixed, "CPU", properties | {"INFERENCE_NUM_THREADS": threads})
        return lambda batch: ready.infer_new_request(batch)[0]  # its own request: for threads

    return _compiled_once(compiled)


_HINTS = {"bfloat16": "bf16", "float16": "f16"}


def _capabilities(core: Any) -> set[str]:
    """What OpenVINO says of the processor, as BF16, or F16 for its FP16."""
    if held_back():  # it does not ask for that
        return set()
    return {str(name).replace("FP", "F") for name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}


def _graph(network: Runnable, *, fused: bool = False) -> Graph:
    """An exported network as it is, layers as an ONNX model; fused: see `onnx_model`."""
    if isinstance(network, Graph):
        return network
    from flawmap.nets.onnx_model import onnx_model  # noqa: PLC0415 - an exported network has no layers of torch

    return Graph("onnx", onnx_model(network, fused=fused))


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
    """openvino, of an extra, reports to its maker, unless the package that does so is not found."""
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


def openvino_core() -> Any:
    """The one that compiles models, for as long as the process lives.

    OpenVINO gives the thread a stack for signals with each, and takes it away with it: of two, the first that goes may
    leave the thread without, and the next Ctrl-C then ends the process with a segmentation fault.
    """
    return _core_of(imported_openvino())


@cache
def _core_of(openvino: Any) -> Any:
    return openvino.Core()


def runs_here(engine: str, precision: str) -> bool:
    """Whether the engine is installed, and the processor is made for the precision."""
    if engine == "torch":
        from flawmap.core.device import choose_device, has_bfloat16  # noqa: PLC0415 - torch knows the processor

        return precision == "float32" or has_bfloat16(choose_device("cpu"))
    if any(find_spec(package) is None for package in ("onnx", engine)):
        return False
    if precision == "int8":
        return has_int8()
    hint = _HINTS.get(precision)
    return hint is None or hint.upper() in _capabilities(openvino_core())


ENGINES: dict[str, Engine] = {
    "torch": Engine(_torch, ("float32", "bfloat16"), BATCH),
    "onnxruntime": Engine(_onnxruntime, ("float32", "int8"), FEW, ("onnx",)),
    "openvino": Engine(_openvino, ("float32", "bfloat16", "float16", "int8"), FEW, ("onnx", "openvino")),
}

"""What a CUDA GPU makes of flawmap, and what it could: SSIM, a training step, whole images, latencies; in one call.

    PYTHONPATH=src python benchmarks/gpu.py --json gpu.json              everything, within 8 minutes
    PYTHONPATH=src python benchmarks/gpu.py --only training --minutes 4
    PYTHONPATH=src python benchmarks/gpu.py --image good.npy             own images, grey: (H, W) or (N, H, W)
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --quick         tiny, to see that it runs

Needs torch, NumPy, pydantic and safetensors beside this source tree, and no data: without `--image` it weaves its own.
Triton for what is compiled, and the package fused_ssim as an anchor, are used where they are there.

Each row is a median of repeats after some that do not count: by CUDA events, and for latencies by the clock of the
host, device idle before and after. "times" is how many times as fast as the first row of its case. What fails is a row
with its error; what the time no longer allows is a row that says so. Sections each have a share of the time, and leave
what they do not use to the next. Rows marked "flawmap" run the library as it is, the others are experiments of this
file. Where a row says nothing else, products of float32 are exact and convolutions of float32 use TF32, as torch has it
by default; rows marked "strict" use no TF32 at all.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import importlib
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

try:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    from flawmap.core.device import autocast, choose_device, choose_precision, describe_machine, name_of
    from flawmap.core.errors import ConfigError
    from flawmap.core.settings import SSIMSettings
    from flawmap.data.patches import PatchSource, TrainingImage
    from flawmap.data.synthetic import good_images
    from flawmap.methods.autoencoder import BATCH_ELSEWHERE, build_network, train_network
    from flawmap.methods.config import Config
    from flawmap.methods.interface import FitContext, Progress
    from flawmap.methods.losses import loss_of
    from flawmap.methods.overrides import override
    from flawmap.methods.presets import preset
    from flawmap.methods.reconstruction import comparing
    from flawmap.methods.residuals import Decoded, residual_of
    from flawmap.methods.settings import StructuralSettings
    from flawmap.nets.autoencoder import Autoencoder
    from flawmap.nets.filters import gaussian_weights
    from flawmap.nets.initialisation import initialise
    from flawmap.nets.ssim import ssim, window_weights
    from flawmap.nets.window_means import Border
    from flawmap.scoring.pipeline import score_rows, smoothed
    from flawmap.scoring.tiling import Grid, Merger, patch_batches
    from measuring import (
        DEFAULT,
        LOOSE,
        STRICT,
        TUNED,
        Absent,
        Backends,
        Measured,
        Row,
        Work,
        compare,
        durations,
        event,
        nothing_told,
        switched,
        switches,
        table,
    )
    from ondevice import (
        KeptBands,
        Loss,
        Tables,
        convolution_ssim,
        cut,
        gradient_of,
        random_places,
        split_by_rows,
    )
except ModuleNotFoundError as missing:
    sys.exit(
        f"{Path(__file__).name} needs torch, NumPy, pydantic (2), safetensors and the source tree (PYTHONPATH=src); "
        f"this Python, {sys.executable}, has no {missing.name}: install it, or put its wheels' folder on PYTHONPATH"
    )

SCHEMA = 1
TARGET_PATCHES = 2_000_000  # of a training; the aim is 2 minutes, and 10 ms for an image
COMPILING = 45.0  # seconds that must be left for a row that compiles
SMOOTHING = 4.0  # deviation of the Gaussian over the residual map, pixels
RATE = 1e-3  # Adam's
KIND = "fibres"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    image, small: (width, height). gathered: patches of an image in one batch. trained: steps and batch of the network
    that images are inspected with. fitted: steps of flawmap.training.fit. seconds: spent on repeats of one row, of
    which there are `fewest` at least, after `warm` that do not count.
    """

    patch: int = 128
    latent: int = 500
    stride: int = 30
    image: tuple[int, int] = (1024, 696)
    small: tuple[int, int] = (512, 512)
    images: int = 5
    batches: tuple[int, ...] = (32, 128, 512)
    shapes: tuple[tuple[int, int, int, int], ...] = ((32, 1, 128, 128), (1, 1, 1024, 1024), (8, 3, 256, 256))
    product: int = 8192
    copied: int = 2**28  # bytes
    trained: tuple[int, int] = (400, 128)
    fitted: int = 100
    seconds: float = 0.4
    warm: int = 3
    fewest: int = 5
    block_counts: tuple[int, ...] = (128, 620)


QUICK = Sizes(
    patch=32,
    latent=8,
    stride=12,
    image=(50, 40),
    small=(40, 40),
    images=2,
    batches=(2,),
    shapes=((1, 3, 40, 300),),
    product=64,
    copied=2**16,
    trained=(2, 2),
    fitted=2,
    seconds=0.0,
    warm=0,
    fewest=1,
    block_counts=(4,),
)


@dataclass
class Bench:
    """What all sections share. ends: of the section's time, by time.monotonic(). images: (N, 1, H, W) in [0, 1]."""

    where: torch.device
    sizes: Sizes
    images: NDArray[np.float32]
    compiling: bool
    ends: float = math.inf
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def config(self) -> Config:
        """The preset fast, grey, with a smoothed residual map."""
        changes = {
            "model": {"patch": self.sizes.patch, "channels": 1},
            "method": {"latent": self.sizes.latent},
            "tiling": {"stride": self.sizes.stride},
            "residual": {"smoothing": SMOOTHING},
        }
        return override(preset("fast"), changes)

    @cached_property
    def placed(self) -> Tensor:
        """The images on the device."""
        return torch.from_numpy(self.images).to(self.where)

    @cached_property
    def source(self) -> PatchSource:
        return PatchSource((TrainingImage(image.transpose(1, 2, 0)) for image in self.images), self.sizes.patch)

    @cached_property
    def initial(self) -> Autoencoder:
        """The network as training begins with it, on the CPU."""
        network = build_network(self.config)
        initialise(network, torch.from_numpy(self.source.sample(64, np.random.default_rng(0))), 0)
        return network

    @cached_property
    def trained(self) -> Autoencoder:
        """The network after a short training, on the device: residuals of an initial one would be noise."""
        steps, count = self.sizes.trained
        network = self.network(self.initial, channels_last=True)
        variant = Variant("", TUNED, choose_precision("auto", self.where))
        step = training_step(self, variant, count, Feeder(self, count), network)
        with switched(TUNED):
            for _ in range(steps):
                step()
        return network.eval()

    def network(self, original: Autoencoder, *, channels_last: bool) -> Autoencoder:
        """A copy on the device."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        placed: Autoencoder = copy.deepcopy(original).to(self.where, memory_format=layout)  # type: ignore[call-overload]
        return placed

    def drawn(self, count: int) -> Tensor:
        """Patches cut on the device, mirrored at random."""
        return cut(self.placed, random_places(self.placed, self.sizes.patch, count), self.sizes.patch)

    def compiled(self, function: Callable[..., Result]) -> Callable[..., Result]:
        if not self.compiling:
            raise Absent("not compiled: by default on CUDA alone, else with --compile yes")
        made: Callable[..., Result] = torch.compile(function, dynamic=False, fullgraph=True)
        return made


# ------------------------------------------------------------------------------------------------------------ measuring


def captured(work: Callable[[], Result], bench: Bench) -> Callable[[], Result]:
    """The same work as one CUDA graph. What it returns is overwritten by the next call."""
    if bench.where.type != "cuda":
        raise Absent("CUDA graphs need CUDA")
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(bench.sizes.warm):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a feeder's thread may still be waiting
        result = work()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def record(
    bench: Bench, section: str, case: str, variant: str, find: Callable[[], Measured], *, needs: float = 0
) -> None:
    """Add a row. Whatever goes wrong stays in it. needs: seconds that must be left."""
    row = Row(section, case, variant)
    bench.rows.append(row)
    if time.monotonic() + needs > bench.ends:
        row.note = "skipped: no time left"
        return
    cuda = bench.where.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(bench.where)
    try:
        row.milliseconds, row.figures = find()
        if cuda:
            row.figures["peak MiB"] = torch.cuda.max_memory_allocated(bench.where) / 2**20
    except Absent as absent:
        row.note = str(absent)
    except Exception as error:
        row.note = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if bench.compiling:
        torch._dynamo.reset()
    if cuda:
        gc.collect()
        with suppress(RuntimeError):  # the error that broke the row may come up again
            torch.cuda.set_stream(torch.cuda.default_stream(bench.where))  # a capture that failed leaves its own
            torch.cuda.empty_cache()


def timed(
    bench: Bench,
    prepare: Callable[[], Callable[[], Result]],
    backends: Backends,
    tell: Callable[[float, Result], Mapping[str, float]] = nothing_told,
    *,
    by_host: bool = False,
) -> Measured:
    """The median duration of what `prepare` returns, and what `tell` has to say of it and of its result."""
    with switched(backends):
        work = prepare()
        found = durations(
            work,
            bench.where,
            warm=bench.sizes.warm,
            fewest=bench.sizes.fewest,
            seconds=bench.sizes.seconds,
            by_host=by_host,
        )
        median = statistics.median(found)
        figures = dict(tell(median, work()))
        if by_host:
            figures["slowest ms"] = max(found)
        return Measured(median, figures)


# -------------------------------------------------------------------------------------------------------------- machine


def describe(bench: Bench) -> dict[str, Any]:
    """The machine, the versions, and the switches that rows start from."""
    about: dict[str, Any] = describe_machine()
    about |= {"python": sys.version.split()[0], "cuda runtime": torch.version.cuda, "numpy": np.__version__}
    about["default switches"] = dict(switches()._asdict())
    about["float32 matmul precision"] = torch.get_float32_matmul_precision()
    about["compiled"] = bench.compiling
    with suppress(PackageNotFoundError):
        about["triton"] = version("triton")
    if bench.where.type == "cuda":
        card = torch.cuda.get_device_properties(bench.where)
        about |= {
            "gpu": card.name,
            "gpu memory GiB": round(card.total_memory / 2**30, 1),
            "multiprocessors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": _driver(),
        }
    return about


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {type(error).__name__}"


def machine(bench: Bench) -> None:
    """The ceilings: products, memory, copies from the host, launches."""
    side, where = bench.sizes.product, bench.where

    def product(dtype: torch.dtype) -> Callable[[], Tensor]:
        left, right = (torch.randn(side, side, device=where, dtype=dtype) for _ in range(2))
        return lambda: left @ right

    def speed(milliseconds: float, result: object) -> dict[str, float]:
        return {"TFLOP/s": 2 * side**3 / milliseconds / 1e9}

    for name, dtype, backends in (
        ("bfloat16", torch.bfloat16, DEFAULT),
        ("float32, TF32", torch.float32, LOOSE),
        ("float32, strict", torch.float32, STRICT),
    ):
        find = partial(timed, bench, partial(product, dtype), backends, speed)
        record(bench, "machine", f"product of {side} x {side}", name, find)

    size = bench.sizes.copied

    def copying(source: torch.device, pinned: bool) -> Callable[[], Tensor]:
        start = torch.randint(255, (size,), dtype=torch.uint8, device=source, pin_memory=pinned)
        end = torch.empty(size, dtype=torch.uint8, device=where)
        return lambda: end.copy_(start, non_blocking=True)

    def bandwidth(moved: int, milliseconds: float, result: object) -> dict[str, float]:
        return {"GB/s": moved / milliseconds / 1e6}

    cuda, host = where.type == "cuda", torch.device("cpu")
    within = partial(timed, bench, partial(copying, where, False), DEFAULT, partial(bandwidth, 2 * size))
    from_host = partial(timed, bench, partial(copying, host, cuda), DEFAULT, partial(bandwidth, size))
    record(bench, "machine", f"copy of {size / 2**20:g} MiB", "on the device, read and written", within)
    record(bench, "machine", f"copy of {size / 2**20:g} MiB", "from the host", from_host)

    def launching() -> Work:
        number = torch.zeros(1, device=where)
        return lambda: [number.add_(1) for _ in range(100)]

    record(bench, "machine", "100 additions of one number", "", partial(timed, bench, launching, DEFAULT))


# ----------------------------------------------------------------------------------------------------------------- SSIM


def similarity_of(config: Config) -> SSIMSettings:
    """The SSIM of the loss."""
    assert isinstance(config.method, StructuralSettings)
    return config.method.ssim


def kept_loss(bench: Bench, size: tuple[int, int]) -> Loss:
    """The SSIM loss with kept bands, for images of one size (height, width)."""
    settings = similarity_of(bench.config)
    bands = KeptBands(size, window_weights(settings), bench.where)
    return lambda p, q: 1 - bands.ssim(p, q, settings).mean()


def fused_loss() -> Loss:
    """The SSIM loss of the package fused_ssim (3-D Gaussian splatting's), valid windows."""
    try:
        similarity = importlib.import_module("fused_ssim").fused_ssim
    except ImportError:
        raise Absent("the package fused_ssim is not installed") from None
    return lambda p, q: 1 - similarity(q, p, padding="valid")


def ssim_loss(bench: Bench) -> None:
    """The SSIM loss forward and backward. error: of the gradient against float64, relative, over the whole batch."""
    settings, own = similarity_of(bench.config), loss_of(bench.config.method)

    def run(shape: tuple[int, int, int, int], variant: str, make: Callable[[], Loss], backends: Backends) -> None:
        generator = torch.Generator().manual_seed(0)
        p = torch.rand(shape, generator=generator)
        q = (p + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
        p, q = p.to(bench.where), q.to(bench.where)
        border: Border = "valid" if variant.startswith(("grouped", "fused")) else "reflect"

        def tell(milliseconds: float, gradient: Tensor) -> dict[str, float]:
            exact = gradient_of(lambda p, q: 1 - ssim(p, q, settings, border).mean(), p.double(), q.double())()
            return {"error": float((gradient - exact).norm() / exact.norm())}

        def prepare() -> Callable[[], Tensor]:
            work = gradient_of(make(), p, q)
            return captured(work, bench) if variant.endswith("CUDA graph") else work

        find = partial(timed, bench, prepare, backends, tell)
        needs = COMPILING if bench.compiling and "compiled" in variant else 0
        record(bench, "ssim", " x ".join(map(str, shape)), variant, find, needs=needs)

    def compiled_kept(shape: tuple[int, int, int, int]) -> Loss:
        return bench.compiled(kept_loss(bench, shape[-2:]))

    def convolutions(p: Tensor, q: Tensor) -> Tensor:
        return 1 - convolution_ssim(p, q, settings).mean()

    for shape in bench.sizes.shapes:
        kept = partial(kept_loss, bench, shape[-2:])
        run(shape, "grouped convolutions, strict", lambda: convolutions, STRICT)
        run(shape, "flawmap, strict", lambda: own, STRICT)
        run(shape, "flawmap, TF32 products", lambda: own, LOOSE)
        run(shape, "bands kept", kept, TUNED)
        run(shape, "bands kept, TF32 products", kept, LOOSE)
        run(shape, "fused_ssim", fused_loss, DEFAULT)
    for shape in bench.sizes.shapes:
        run(shape, "bands kept, CUDA graph", partial(kept_loss, bench, shape[-2:]), TUNED)
    for shape in bench.sizes.shapes:
        run(shape, "bands kept, compiled", partial(compiled_kept, shape), TUNED)
        run(shape, "flawmap, compiled", lambda: bench.compiled(own), DEFAULT)


# ------------------------------------------------------------------------------------------------------------- training


class Feeder:
    """Batches cut on the CPU by a thread of its own, into two pinned buffers in turn, copied on a stream of its own."""

    def __init__(self, bench: Bench, count: int) -> None:
        cuda, side = bench.where.type == "cuda", bench.sizes.patch
        self.bench, self.count, self.rng = bench, count, np.random.default_rng(0)
        self.buffers = [torch.empty(count, 1, side, side, pin_memory=cuda) for _ in range(2)]
        self.stream = torch.cuda.Stream() if cuda else None  # type: ignore[no-untyped-call]
        self.copied: list[torch.cuda.Event | None] = [None, None]
        self.thread = ThreadPoolExecutor(1)
        self.turn = 0
        self.next = self.thread.submit(self._fill, 0)

    def _fill(self, turn: int) -> None:
        copied = self.copied[turn]
        if copied is not None:
            copied.synchronize()
        self.buffers[turn].numpy()[...] = self.bench.source.sample(self.count, self.rng)

    def __call__(self) -> Tensor:
        """The next batch on the device, while the one after it is being cut."""
        self.next.result()
        turn, self.turn = self.turn, 1 - self.turn
        if self.stream is None:
            batch = self.buffers[turn].clone()
        else:
            with torch.cuda.stream(self.stream):
                batch = self.buffers[turn].to(self.bench.where, non_blocking=True)
                copied = event()
                copied.record(self.stream)
            self.copied[turn] = copied
            torch.cuda.current_stream().wait_stream(self.stream)
            batch.record_stream(torch.cuda.current_stream())
        self.next = self.thread.submit(self._fill, self.turn)
        return batch


class Variant(NamedTuple):
    """How a step is done. plain: flawmap's own loss and torch's default Adam, instead of kept bands and a fused one."""

    name: str
    backends: Backends
    precision: torch.dtype = torch.bfloat16
    channels_last: bool = True
    plain: bool = False
    compiled: bool = False
    graph: bool = False
    from_host: bool = False

    @property
    def stage(self) -> int:
        """When it is measured: a capture or compilation that fails may leave torch in a state that breaks others."""
        return 2 if self.compiled else int(self.graph)


VARIANTS = (
    Variant("float32, strict, NCHW", STRICT, torch.float32, channels_last=False, plain=True),
    Variant("float32, channels last", DEFAULT, torch.float32, plain=True),
    Variant("bf16", DEFAULT, plain=True),
    Variant("bf16, bands kept, fused Adam", TUNED),
    Variant("bf16, batches from the host", TUNED, from_host=True),
    Variant("bf16, CUDA graph", TUNED, graph=True),
    Variant("bf16, CUDA graph, batches from the host", TUNED, graph=True, from_host=True),
    Variant("bf16, CUDA graph, TF32 in SSIM", LOOSE, graph=True),
    Variant("bf16, compiled", TUNED, compiled=True),
    Variant("bf16, compiled, CUDA graph", TUNED, compiled=True, graph=True),
    Variant("bf16, compiled, CUDA graph, TF32 in SSIM", LOOSE, compiled=True, graph=True),
)


def training_step(
    bench: Bench, variant: Variant, count: int, feed: Callable[[], Tensor], network: Autoencoder
) -> Callable[[], Tensor]:
    """One update of the network: batch, forward, loss, backward, Adam. Returns the loss."""
    side, where = bench.sizes.patch, bench.where
    loss = loss_of(bench.config.method) if variant.plain else kept_loss(bench, (side, side))
    fused = None if variant.plain else True
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=fused, capturable=variant.graph)
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format

    def compared(patches: Tensor) -> Tensor:
        with autocast(where, variant.precision):
            return loss(patches, network(patches))

    forward = bench.compiled(compared) if variant.compiled else compared

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = forward(feed().contiguous(memory_format=layout))
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.detach()

    return step


def prepared_step(bench: Bench, variant: Variant, count: int) -> Callable[[], Tensor]:
    """A step with everything around it: a fresh network, where its batches come from, and the graph."""
    if variant.graph and bench.where.type != "cuda":
        raise Absent("CUDA graphs need CUDA")
    network = bench.network(bench.initial, channels_last=variant.channels_last)
    feed: Callable[[], Tensor] = Feeder(bench, count) if variant.from_host else partial(bench.drawn, count)
    if not variant.graph:
        return training_step(bench, variant, count, feed, network)
    if not variant.from_host:
        return captured(training_step(bench, variant, count, feed, network), bench)
    batch = feed().contiguous(memory_format=torch.channels_last)
    replay = captured(training_step(bench, variant, count, lambda: batch, network), bench)

    def step() -> Tensor:
        batch.copy_(feed())
        return replay()

    return step


def operations(bench: Bench, *, backward: bool) -> int:
    """Floating-point operations of the network for one patch: forward, and with them those of the backward pass."""
    network, side = copy.deepcopy(bench.initial), bench.sizes.patch
    with FlopCounterMode(display=False) as counter:
        total = network(torch.rand(1, 1, side, side)).sum()
        if backward:
            total.backward()
    return int(counter.get_total_flops())


def training(bench: Bench) -> None:
    """Training steps by batch: patches a second, the minutes that two million patches take, the network's operations.

    loss: after the repeats, whose number differs; it says no more than that something is learnt.
    """
    each = operations(bench, backward=True)

    def speed(count: int, milliseconds: float, result: Tensor) -> dict[str, float]:
        figures = paces(count / milliseconds * 1e3) | {"TFLOP/s": each * count / milliseconds / 1e9}
        return figures | {"loss": float(result)}

    for stage, count in itertools.product(range(3), bench.sizes.batches):
        case = f"step, batch {count}"
        for variant in VARIANTS:
            if variant.stage == stage:
                prepare = partial(prepared_step, bench, variant, count)
                find = partial(timed, bench, prepare, variant.backends, partial(speed, count))
                needs = COMPILING if variant.compiled and bench.compiling else 0
                record(bench, "training", case, variant.name, find, needs=needs)
        if stage == 0:
            record(bench, "training", case, "flawmap.methods.gradient.train", partial(fitted, bench, count))
            feeding(bench, count)


def feeding(bench: Bench, count: int) -> None:
    """Batches alone: cut on the CPU and copied, and cut on the device."""

    def pace(milliseconds: float, result: Tensor) -> dict[str, float]:
        return paces(count / milliseconds * 1e3)

    feeds: dict[str, Callable[[], Callable[[], Tensor]]] = {
        "cut on the CPU, copied": lambda: Feeder(bench, count),
        "cut on the device": lambda: partial(bench.drawn, count),
    }
    for name, prepare in feeds.items():
        record(bench, "training", f"batch of {count} alone", name, partial(timed, bench, prepare, DEFAULT, pace))


def paces(patches_per_second: float) -> dict[str, float]:
    return {"patches/s": patches_per_second, "minutes": TARGET_PATCHES / patches_per_second / 60}


def fitted(bench: Bench, count: int) -> Measured:
    """flawmap.methods.gradient.train as it is: the median of the speeds it tells its observer."""
    device = str(bench.where)
    changes = {"training": {"steps": bench.sizes.fitted, "batch": count, "device": device, "plateau_steps": 0}}
    speeds: list[float] = []

    def observe(progress: Progress) -> None:
        speeds.append(progress.patches_per_second)

    def initial(network: Autoencoder, patches: Tensor, seed: int) -> None:
        network.load_state_dict(bench.initial.state_dict())

    context = FitContext(on_progress=observe)
    train_network(override(bench.config, changes), bench.source, context, initialise=initial)
    pace = statistics.median(speeds[1:] or speeds)
    return Measured(count / pace * 1e3, paces(pace))


# ----------------------------------------------------------------------------------------------------------- inspection


class Inspector:
    """Images of one size to residual maps, all on the device: everything that depends on the size is made once."""

    def __init__(self, bench: Bench, network: nn.Module, size: tuple[int, int], *, compiled: bool = False) -> None:
        """size: (height, width)."""
        config = bench.config
        self.residual_settings = config.residual.ssim
        self.grid = Grid(config.model.patch, config.tiling.stride)
        self.tables = Tables(self.grid, size, config.tiling.weights, bench.where)
        self.windows = KeptBands(size, window_weights(self.residual_settings), bench.where)
        reach = min(math.ceil(3 * config.residual.smoothing), min(size) - 1)
        self.gaussian = KeptBands(size, gaussian_weights(2 * reach + 1, config.residual.smoothing), bench.where)
        self.precision = choose_precision("auto", bench.where)
        converted = copy.deepcopy(network).to(self.precision)
        self.network: Callable[[Tensor], Tensor] = bench.compiled(converted) if compiled else converted
        self.finish = bench.compiled(self._finished) if compiled else self._finished

    def reconstruct(self, patches: Tensor) -> Tensor:
        """All patches at once, channels last, by weights that are kept in the network's precision."""
        return self.network(patches.to(self.precision, memory_format=torch.channels_last))

    def residual(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """(C, H, W) and the same to (H, W), not smoothed."""
        similarity = self.windows.ssim(image[None], reconstruction[None], self.residual_settings)
        return ((1 - similarity.mean(dim=1)) / 2).clamp(0, 1)[0]

    def _finished(self, image: Tensor, patches: Tensor) -> Tensor:
        """The residual map of an image and its reconstructed patches."""
        return self.gaussian.blur(self.residual(image, self.tables.merge(patches.float())))

    def __call__(self, image: Tensor) -> Tensor:
        """(C, H, W) in [0, 1] to (H, W)."""
        return self.finish(image, self.reconstruct(split_by_rows(image, self.grid)))


def own_reconstruction(
    bench: Bench, network: nn.Module, precision: torch.dtype, batch: int = BATCH_ELSEWHERE
) -> Callable[[Tensor], Tensor]:
    """Patches to reconstructions as `Detector` makes them, so many at once."""

    def reconstruct(patches: Tensor) -> Tensor:
        outputs = []
        for part in torch.split(patches, batch):
            with autocast(bench.where, precision):
                result = network(part.contiguous(memory_format=torch.channels_last))
            outputs.append(result.float().contiguous())
        return torch.cat(outputs)

    return reconstruct


def own_score(bench: Bench, precision: torch.dtype, batch: int, image: Tensor) -> Tensor:
    """pipeline.score_rows of an image (C, H, W) as `Detector` calls it."""
    reconstruct, config = own_reconstruction(bench, bench.trained, precision, batch), bench.config
    scorer = comparing(config, lambda patches: Decoded(reconstruct(patches)), bench.where, name_of(precision), batch)
    size, grid = (image.shape[1], image.shape[2]), Grid(config.model.patch, config.tiling.stride)
    bands = score_rows([image], size, scorer, grid, config.tiling, scales=config.scales)
    return torch.cat(list(bands), dim=1)[0]


def on_device(bench: Bench, image: Tensor, *, compiled: bool, graph: bool) -> Callable[[], Tensor]:
    """An inspector at work on an image that lies on the device."""
    work = partial(Inspector(bench, bench.trained, (image.shape[-2], image.shape[-1]), compiled=compiled), image)
    return captured(work, bench) if graph else work


def inferred(prepare: Callable[[], Callable[[], Result]]) -> Callable[[], Callable[[], Result]]:
    """Prepared and done without gradients."""

    def prepared() -> Callable[[], Result]:
        with torch.no_grad():
            work = prepare()
        return torch.no_grad()(work)

    return prepared


def inspection(bench: Bench) -> None:
    """A whole image, and its parts. difference: the largest of a pixel's residual to the first row's."""
    bench.trained  # noqa: B018 - trained before the first row is timed
    image = bench.placed[0]
    case = f"image of {image.shape[-1]} x {image.shape[-2]}"
    auto = choose_precision("auto", bench.where)
    baseline: list[Tensor] = []

    def tell(milliseconds: float, residual: Tensor) -> dict[str, float]:
        if not baseline:
            baseline.append(residual.clone())
        return {"difference": float((residual - baseline[0]).abs().max())}

    def run(
        variant: str, backends: Backends, prepare: Callable[[], Callable[[], Tensor]], *, compiled: bool = False
    ) -> None:
        find = partial(timed, bench, inferred(prepare), backends, tell)
        record(bench, "inspection", case, variant, find, needs=COMPILING if compiled and bench.compiling else 0)

    own = partial(own_score, bench)
    run("patch by patch, float32, strict", STRICT, lambda: partial(own, torch.float32, 1, image))
    if not baseline:
        raise Absent("without the first row there is nothing to compare with")
    run("flawmap, float32, strict", STRICT, lambda: partial(own, torch.float32, BATCH_ELSEWHERE, image))
    run("flawmap", DEFAULT, lambda: partial(own, auto, BATCH_ELSEWHERE, image))
    for batch in bench.sizes.block_counts:
        run(f"flawmap, batches of {batch}", DEFAULT, lambda batch=batch: partial(own, auto, batch, image))  # type: ignore[misc]
    for compiled, graph in itertools.product((False, True), repeat=2):
        name = "on the device" + ", compiled" * compiled + ", CUDA graph" * graph
        run(name, TUNED, partial(on_device, bench, image, compiled=compiled, graph=graph), compiled=compiled)
    parts(bench, image)


def parts(bench: Bench, image: Tensor) -> None:
    """Cutting, network, merging, residual and smoothing of one image by themselves."""
    config, size = bench.config, (int(image.shape[-2]), int(image.shape[-1]))
    inspector = Inspector(bench, bench.trained, size)
    grid, tables, weights = inspector.grid, inspector.tables, config.tiling.weights
    auto = choose_precision("auto", bench.where)

    def split() -> Tensor:
        patches: Tensor = next(patch_batches([image], grid, size, len(grid.positions(size))))
        return patches

    with torch.no_grad():
        patches = split()
        rebuilt = own_reconstruction(bench, bench.trained, auto)(patches)
        merged = Merger(grid, size, weights).add(rebuilt)
        compare = residual_of(config.mapped)
        mapped = compare(image[None], Decoded(merged[None]))[0]
    each = operations(bench, backward=False)

    def tell(milliseconds: float, result: Tensor) -> dict[str, float]:
        return {"TFLOP/s": each * len(patches) / milliseconds / 1e9}

    reconstruct = {batch: own_reconstruction(bench, bench.trained, auto, batch) for batch in (BATCH_ELSEWHERE, 128)}
    strict = own_reconstruction(bench, bench.trained, torch.float32)
    works: dict[str, dict[str, Callable[[], Callable[[], Tensor]]]] = {
        "cut": {
            "flawmap": lambda: split,
            "by rows and columns": lambda: lambda: split_by_rows(image, grid),
            "one gather": lambda: lambda: tables.split(image),
        },
        "network": {
            "flawmap, float32": lambda: lambda: strict(patches),
            "flawmap": lambda: lambda: reconstruct[BATCH_ELSEWHERE](patches),
            "batches of 128": lambda: lambda: reconstruct[128](patches),
            "one batch": lambda: lambda: inspector.reconstruct(patches),
            "one batch, CUDA graph": lambda: captured(lambda: inspector.reconstruct(patches), bench),
        },
        "merge": {
            "flawmap": lambda: lambda: Merger(grid, size, weights).add(rebuilt),
            "gathered": lambda: lambda: tables.merge(rebuilt),
            "index_add": lambda: lambda: tables.merge_by_addition(rebuilt),
        },
        "residual": {
            "flawmap": lambda: lambda: compare(image[None], Decoded(merged[None]))[0],
            "bands kept": lambda: lambda: inspector.residual(image, merged),
        },
        "smoothing": {
            "flawmap": lambda: lambda: smoothed(mapped, config.residual.smoothing),
            "bands kept": lambda: lambda: inspector.gaussian.blur(mapped),
        },
    }
    for part, variants in works.items():
        for name, prepare in variants.items():
            backends = DEFAULT if name.startswith("flawmap") else TUNED
            told = tell if part == "network" else nothing_told
            find = partial(timed, bench, inferred(prepare), backends, told)
            record(bench, "inspection", part, name, find)


# -------------------------------------------------------------------------------------------------------------- latency


def latency(bench: Bench) -> None:
    """From an image in the host's memory to its residual map there, one at a time, as the host waits for it."""
    bench.trained  # noqa: B018 - trained before the first row is timed
    auto = choose_precision("auto", bench.where)
    side = bench.sizes.patch
    for width, height in ((side, side), bench.sizes.small):
        pixels = torch.from_numpy(next(iter(good_images(KIND, 1, (width, height), 1)))).permute(2, 0, 1).contiguous()
        held = pixels.pin_memory() if bench.where.type == "cuda" else pixels
        own = partial(own_score, bench)

        def own_way(precision: torch.dtype, batch: int, held: Tensor, own: Any) -> Callable[[], Tensor]:
            return lambda: own(precision, batch, held.to(bench.where, non_blocking=True)).cpu()

        def device_way(compiled: bool, graph: bool, held: Tensor) -> Callable[[], Tensor]:
            image = held.to(bench.where)
            work = on_device(bench, image, compiled=compiled, graph=graph)

            def once() -> Tensor:
                image.copy_(held, non_blocking=True)
                return work().cpu()

            return once

        ways: list[tuple[str, Backends, Callable[[], Callable[[], Tensor]]]] = [
            ("flawmap, float32, strict", STRICT, partial(own_way, torch.float32, BATCH_ELSEWHERE, held, own)),
            ("flawmap", DEFAULT, partial(own_way, auto, BATCH_ELSEWHERE, held, own)),
            ("flawmap, batches of 1", DEFAULT, partial(own_way, auto, 1, held, own)),
            ("on the device", TUNED, partial(device_way, False, False, held)),
            ("on the device, CUDA graph", TUNED, partial(device_way, False, True, held)),
            ("on the device, compiled, CUDA graph", TUNED, partial(device_way, True, True, held)),
        ]
        for name, backends, prepare in ways:
            needs = COMPILING if "compiled" in name and bench.compiling else 0
            find = partial(timed, bench, inferred(prepare), backends, by_host=True)
            record(bench, "latency", f"{width} x {height}", name, find, needs=needs)


# ------------------------------------------------------------------------------------------------------------- together

SECTIONS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "machine": (machine, 0.05),
    "ssim": (ssim_loss, 0.2),
    "training": (training, 0.4),
    "inspection": (inspection, 0.25),
    "latency": (latency, 0.1),
}
"""Each with its share of the time; what one does not use, the next ones have."""


def run_section(bench: Bench, name: str) -> list[Row]:
    """The rows of a section. An error between rows ends the section alone."""
    before = len(bench.rows)
    try:
        SECTIONS[name][0](bench)
    except Exception as error:
        bench.rows.append(Row(name, "-", "the rest", note=f"{type(error).__name__}: {' '.join(str(error).split())}"))
    rows = bench.rows[before:]
    compare(rows)
    return rows


def load_images(path: Path) -> NDArray[np.float32]:
    """(N, 1, H, W) in [0, 1] from a .npy file of (H, W) or (N, H, W), uint8 or floating point in [0, 1]."""
    stored = np.load(path, allow_pickle=False)
    images = np.asarray(stored, np.float32) / (255 if stored.dtype == np.uint8 else 1)
    if images.ndim not in (2, 3) or not (images.min() >= 0 and images.max() <= 1):
        sys.exit(f"{path} must hold (H, W) or (N, H, W), uint8 or floating point in [0, 1], got {stored.shape}")
    return np.ascontiguousarray(images.reshape(-1, 1, *images.shape[-2:]))


def woven_images(sizes: Sizes) -> NDArray[np.float32]:
    """(N, 1, H, W): synthetic good images."""
    return np.stack([image.transpose(2, 0, 1) for image in good_images(KIND, sizes.images, sizes.image, 0)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu [cuda]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no row is begun [8]")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by commas [all]")
    parser.add_argument("--compile", choices=("auto", "yes", "no"), default="auto", help="auto: on CUDA [auto]")
    parser.add_argument("--image", type=Path, help="good images, grey, (H, W) or (N, H, W), as .npy [synthetic]")
    parser.add_argument("--json", type=Path, help="file to keep the rows in, written after each section")
    arguments = parser.parse_args(argv)
    started, names = time.monotonic(), arguments.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; they are {', '.join(SECTIONS)}")
    try:
        where = choose_device(arguments.device)
    except ConfigError as error:
        parser.error(str(error))
    if where.index is not None:
        torch.cuda.set_device(where)
    sizes = QUICK if arguments.quick else Sizes()
    images = woven_images(sizes) if arguments.image is None else load_images(arguments.image)
    compiling = arguments.compile == "yes" or (arguments.compile == "auto" and where.type == "cuda")
    bench = Bench(where, sizes, images, compiling)
    this = describe(bench)
    about = {"schema": SCHEMA, "date": datetime.date.today().isoformat(), "device": str(where)}
    about |= {"machine": this, "sizes": asdict(sizes)}
    for name, value in this.items():
        print(f"{name}: {value}")
    whole, passed = sum(SECTIONS[name][1] for name in names), 0.0
    for name in names:
        passed += SECTIONS[name][1]
        bench.ends = started + 60 * arguments.minutes * passed / whole
        begun = time.monotonic()
        rows = run_section(bench, name)
        print(f"\n{name} ({time.monotonic() - begun:.0f} s)\n{table(rows)}", flush=True)
        if arguments.json is not None:
            kept = about | {"minutes": (time.monotonic() - started) / 60, "rows": [asdict(row) for row in bench.rows]}
            arguments.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The engine and precision that `auto` takes for a model: of those that keep its verdicts, the fastest of this machine.

Times are measured once for a machine, its versions and a network's shape, and kept in `engines.json` in the cache
folder, see `core.files.cache_folder`. FLAWMAP_ENGINE_CACHE=off leaves both alone: then `auto` is torch, in the
precision that the processor has. So it is for models without a record of variants, for other devices than the CPU, and
for exported models, which have an engine already.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import inf, isfinite
from pathlib import Path
from typing import Any

from flawmap.core.errors import FlawmapError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import atomic, cache_folder
from flawmap.core.parallel import on_one_core
from flawmap.core.processor import processor_flags
from flawmap.core.runtime import Runtime
from flawmap.nets.engines import runs_here
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import Artifact
from flawmap.scoring.operating_point import OperatingPoint
from flawmap.scoring.pipeline import score_rows
from flawmap.scoring.tiling import Grid
from flawmap.scoring.variants import Variant

log = logging.getLogger(__name__)

SWITCH = "FLAWMAP_ENGINE_CACHE"
STRIDES = 4  # that the measured image is larger than a patch: 25 patches
REPEATS = 3  # of each variant, in turns; the quickest counts, as whatever disturbs makes longer
LEAD = 0.9  # another engine takes at most this share of the usual one's time, or it is not worth a change


@dataclass(frozen=True)
class Times:
    """What was measured here. measured: when, in ISO 8601. milliseconds: of the same image on one core, by variant."""

    measured: str
    milliseconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types; null: it failed."""
        finite = {name: round(taken, 3) if isfinite(taken) else None for name, taken in self.milliseconds.items()}
        return {"measured": self.measured, "milliseconds": finite}


def chosen(
    artifact: Artifact,
    runtime: Runtime,
    *,
    points: Iterable[OperatingPoint] | None = None,
    measure: bool = True,
    events: Events = SILENT,
) -> Runtime:
    """Where and how the model runs, with an engine and a precision instead of `auto` where variants are known.

    Args:
        points: that may decide; None: the model's own. measure: whether times that are not known are measured, in a
            few seconds.
    """
    variants = candidates(artifact, runtime, points)
    if len(variants) < 2:
        return _as(runtime, variants[0]) if variants else runtime
    times = known_times(artifact, variants)
    if times is None and measure:
        events.message(f"measuring {', '.join(map(str, variants))} on this machine, once")
        times = measured_times(artifact, variants)
        log.info("milliseconds on one core: %s", times.milliseconds)
    if times is None:
        return runtime
    best = fastest(variants, times)
    if best != variants[0]:
        events.message(f"the network runs by {best}, the fastest here that keeps the model's verdicts")
    return _as(runtime, best)


def _as(runtime: Runtime, variant: Variant) -> Runtime:
    return replace(runtime, engine=variant.engine, precision=variant.precision)


def candidates(
    artifact: Artifact, runtime: Runtime, points: Iterable[OperatingPoint] | None = None
) -> tuple[Variant, ...]:
    """Variants that `auto` may take here, the usual one first; empty: it is as if there were no record.

    The usual one is torch in the precision that the processor has, unless it changed a verdict; then it is torch in
    float32.
    """
    record = artifact.variants
    own = (artifact.operating_point,) if points is None else tuple(points)
    known = [point for point in own if point is not None]
    if os.environ.get(SWITCH) == "off" or record is None or artifact.graph is not None or runtime.engine != "auto":
        return ()
    from flawmap.core.device import choose_device, choose_precision, name_of  # noqa: PLC0415 - exports need no torch

    device = choose_device(runtime.device)
    if device.type != "cpu" or not known or not record.hold_at(known):
        return ()
    usual = Variant("torch", name_of(choose_precision(runtime.precision, device)))
    kept = [variant for variant in record.kept if runs_here(*variant)]
    if runtime.precision != "auto":
        kept = [variant for variant in kept if variant.precision == runtime.precision]
    elif usual in record.refused:
        usual = Variant("torch", "float32")
    return tuple(dict.fromkeys((usual, *kept)))


def fastest(variants: Sequence[Variant], times: Times) -> Variant:
    """The variant with the least time; the first one unless another leads by a tenth."""
    usual, *_ = variants
    best = min(variants, key=lambda variant: times.milliseconds[str(variant)])
    return best if times.milliseconds[str(best)] <= LEAD * times.milliseconds[str(usual)] else usual


# ----------------------------------------------------------------------------------------------------------- measuring


def measured_times(artifact: Artifact, variants: Sequence[Variant]) -> Times:
    """Measure the variants on one core, as images side by side have one each, and keep the times.

    A variant that fails here, as by a damaged installation, takes infinitely long.
    """
    runs = {}
    for variant in variants:
        try:
            run = partial(_score, Detector.of(artifact, Runtime("cpu", variant.precision, variant.engine)))
            on_one_core(run)  # it compiles
            runs[str(variant)] = run
        except (FlawmapError, RuntimeError, ImportError) as error:
            log.warning("%s cannot be measured: %s", variant, error)
    taken = dict.fromkeys(map(str, variants), inf)
    for _ in range(REPEATS):
        for name, run in runs.items():
            taken[name] = min(taken[name], on_one_core(partial(_milliseconds, run)))
    times = Times(datetime.now(UTC).isoformat(timespec="seconds"), taken)
    _keep(artifact, times)
    return times


def _score(detector: Detector) -> None:
    """The residual map of noise, before all that is the same for every variant."""
    import torch  # noqa: PLC0415 - exports need no torch

    config, scorer = detector.config, detector.scorer
    grid = Grid(config.model.patch, config.tiling.stride)
    side = grid.patch + STRIDES * grid.stride
    noise = torch.rand(config.model.channels or 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in score_rows(iter([noise]), (side, side), scorer, grid, config.tiling, scales=config.scales):
            pass


def _milliseconds(run: partial[None]) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


# --------------------------------------------------------------------------------------------------------------- cache


def known_times(artifact: Artifact, variants: Sequence[Variant]) -> Times | None:
    """The kept times of this machine; None: not of all these variants."""
    with suppress(KeyError, TypeError, ValueError):
        entry = _read()[_key(artifact)]
        kept = {name: entry["milliseconds"][name] for name in map(str, variants)}
        found = {name: inf if taken is None else float(taken) for name, taken in kept.items()}
        return Times(str(entry["measured"]), found)
    return None


def cache_file() -> Path:
    """Where times are kept."""
    return cache_folder() / "engines.json"


def _read() -> dict[str, Any]:
    """All that is kept, of any machine that shares the folder; nothing where it cannot be read."""
    try:
        kept = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep(artifact: Artifact, times: Times) -> None:
    """Keep the times. A folder that cannot be written to is no error: they are measured again."""
    entry = {"of": _identity(artifact), **times.to_dict()}
    try:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic(cache_file()) as part:
            part.write_text(json.dumps(_read() | {_key(artifact): entry}, indent=1) + "\n", encoding="utf-8")
    except (OSError, FlawmapError) as error:
        log.info("times are not kept: %s", error)


def _key(artifact: Artifact) -> str:
    return hashlib.sha256(json.dumps(_identity(artifact), sort_keys=True).encode()).hexdigest()[:16]


def _identity(artifact: Artifact) -> dict[str, Any]:
    """What times depend on: the machine, the versions and the network's shape; not its weights."""
    import torch  # noqa: PLC0415 - exports need no torch

    from flawmap.core.device import describe_machine  # noqa: PLC0415

    config, machine = artifact.config, describe_machine()
    return {
        "processor": machine["processor"],
        "flags": hashlib.sha256(" ".join(sorted(processor_flags())).encode()).hexdigest()[:16],
        "instructions": [torch.backends.cpu.get_cpu_capability(), machine["bfloat16"]],
        "cores": os.cpu_count(),
        "versions": {name: _version(name) for name in ("flawmap", "torch", "onnxruntime", "openvino")},
        "network": [*config.model.model_dump().values(), getattr(config.method, "latent", None)],
        "tiling": [config.tiling.encoder, config.tiling.stride],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

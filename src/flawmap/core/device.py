"""The device and the precision, by what the machine has or the user asks for; its free memory and its description."""

from __future__ import annotations

import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import torch

from flawmap.core.errors import ConfigError
from flawmap.core.runtime import known_precision

MEMBERSHIPS, CONTROL_GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # of Linux


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU. ConfigError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    unknown = ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name} was asked for, but this machine's torch sees no CUDA GPU; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = f"cuda:{torch.cuda.device_count() - 1}"
        raise ConfigError(
            f"device {name} was asked for, but this machine's last CUDA GPU is {last}; use --device {last}"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps was asked for, but this machine's torch has none; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise unknown
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` takes bfloat16 where the device computes it natively, else float32. The network alone runs in it."""
    if known_precision(name) == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16


def name_of(precision: torch.dtype) -> str:
    """ "float32" or "bfloat16"."""
    return str(precision).removeprefix("torch.")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (emulation would be slower than float32).

    On a CPU oneDNN multiplies, and ONEDNN_MAX_CPU_ISA may keep it from instructions that the processor has.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = _processor()
    native = bool(known.get("avx512_bf16", False) or known.get("amx_bf16", False))
    return device.type == "cpu" and native and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """The context a network's forward pass runs in. Other precisions than these two are an engine's own matter."""
    if precision != torch.bfloat16:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def describe_machine() -> dict[str, object]:
    """The machine on which figures were measured: processor, threads, torch, GPU, and whether bfloat16 is native."""
    return {
        "platform": platform.platform(terse=True),
        "processor": _processor().get("cpu_name") or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bfloat16": has_bfloat16(torch.device("cpu")),
    }


def peak_memory() -> int | None:
    """Bytes of resident memory that this process had at most; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage begins with the peak of the process that started this one
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory() -> int:
    """Bytes that this process may still take: what the system has available, and what its control groups leave."""
    return min([int(psutil.virtual_memory().available), *_left_by_groups()])


def _left_by_groups() -> list[int]:
    """Bytes that each limited control group of this process leaves; Linux, versions 1 and 2. Empty without limits.

    A container may name its group as its host does, in folders that it does not see: its own limit lies at the root.
    """
    try:
        lines = MEMBERSHIPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left: list[int] = []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        root = CONTROL_GROUPS / controllers
        files = _VERSION_1 if controllers else _VERSION_2
        inner = PurePosixPath(group.lstrip("/"))
        found = (_left(root / folder, *files) for folder in (inner, *inner.parents))
        left += [count for count in found if count is not None]
    return left


# Of a control group: its limit, its use, and of its statistics the cached files, which go when memory is wanted.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def _left(group: Path, limit: str, use: str, cached: str) -> int | None:
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        limited, used = (int((group / name).read_text(encoding="utf-8")) for name in (limit, use))
        return max(0, limited - used + int(statistics[cached]))
    except (OSError, KeyError, ValueError):  # no such group, or no limit: "max"
        return None


def _processor() -> dict[str, Any]:
    """The processor's name and instructions, as far as this release of torch tells them."""
    known = getattr(torch.cpu, "get_capabilities", None)
    return known() if known else {"avx512_bf16": getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()}

"""Which device and which precision, chosen by the machine or by the user and checked; and the machine's memory."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from flawmap.core.errors import ConfigError

UNKNOWN_MEMORY = 8_000_000_000  # bytes, of a machine that does not tell its own

_TRIM, _MAP = -1, -3  # of glibc: from how many free bytes on they go back, from how many on a block is a mapping


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU. ConfigError if what is asked for is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}") from None
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
        raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` takes bfloat16 where the device computes it natively, else float32. The network alone runs in it."""
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    if name != "auto":
        raise ConfigError(f"precision must be auto, float32 or bfloat16, got {name!r}")
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware (emulation would be slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    capability = getattr(torch.cpu, "get_capabilities", None)  # newer torch says it in public
    if capability is not None:
        known = capability()
        return bool(known.get("avx512_bf16", False) or known.get("amx_bf16", False))
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """The context a network's forward pass runs in."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def describe_machine() -> dict[str, object]:
    """What a figure's reader needs to know of the machine: processor, cores, torch, device."""
    return {
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bfloat16": has_bfloat16(torch.device("cpu")),
    }


def free_memory() -> int:
    """Bytes that programs may still take; where a system does not say, half of its memory, or of 8 GB."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device file, Linux alone has it
            found = dict(line.split(":") for line in lines)
        return 1024 * int(found["MemAvailable"].removesuffix("kB\n"))
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return UNKNOWN_MEMORY // 2


@contextmanager
def kept_memory() -> Iterator[None]:
    """Freed memory stays with this process while the context lasts; where the C library is not glibc nothing changes.

    A training step frees its activations and soon asks for as many again. Where they go back to the system in between,
    each page comes anew and filled with zeros: thousands of page faults, up to a tenth of a step.
    """
    try:
        library = ctypes.CDLL(None)
        allow, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    allow(_MAP, 2**30)
    allow(_TRIM, 2**31 - 1)
    try:
        yield
    finally:
        allow(_MAP, 2**25)  # the most that glibc comes to by itself once large blocks have been freed
        allow(_TRIM, 2**26)
        trim(0)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device file, Linux alone has it
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

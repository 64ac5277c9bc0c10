"""What the processor can compute, as the system tells it. No torch here."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")  # of Linux; other systems tell nothing here

EIGHT_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
"""Instructions that add products of whole numbers of 8 bits in 32 bits: VNNI with and without AVX-512, AMX, and those
of ARM. Without them engines use 16 bits in between, which may overflow."""

WITHOUT_SMALL = frozenset({"SSE41", "AVX", "AVX2", "AVX512_CORE"})
"""Values of ONEDNN_MAX_CPU_ISA without VNNI and bfloat16."""


@cache
def processor_flags() -> frozenset[str]:
    """The instructions of the first core, as Linux names them; empty where they are not told."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.partition(":")[0].strip() in ("flags", "Features"))
    return frozenset(next(found, "").split())


def held_back() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA keeps oneDNN, by which engines compute, from instructions for small numbers."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_SMALL


def has_int8() -> bool:
    """Whether the processor is known to add products of whole numbers of 8 bits without overflow."""
    return bool(EIGHT_BITS & processor_flags()) and not held_back()

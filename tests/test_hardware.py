"""Device and precision: what is chosen, and what is said when a choice cannot be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flawmap.core import device
from flawmap.core.device import autocast, choose_device, choose_precision, describe_machine, has_bfloat16
from flawmap.core.errors import ConfigError


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False) -> None:
    """As if the machine had so many CUDA GPUs, or Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "chosen"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (2, True, "cuda")]
)
def test_auto_takes_the_fastest_device(gpus: int, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA, then Apple's MPS, then the CPU."""
    machine(monkeypatch, gpus=gpus, mps=mps)
    assert choose_device("auto") == torch.device(chosen)


def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """cpu always; cuda, cuda:N and mps where the machine has them."""
    machine(monkeypatch)
    assert choose_device("cpu") == torch.device("cpu")
    machine(monkeypatch, gpus=2, mps=True)
    for name in ("cuda", "cuda:0", "cuda:1", "mps", "cpu"):
        assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "device cuda was asked for, but this machine's torch sees no CUDA GPU; use --device cpu"),
        ("cuda:1", 0, "device cuda:1 was asked for, but this machine's torch sees no CUDA GPU; use --device cpu"),
        ("cuda:2", 2, "device cuda:2 was asked for, but this machine's last CUDA GPU is cuda:1; use --device cuda:1"),
        ("mps", 0, "device mps was asked for, but this machine's torch has none; use --device cpu"),
        ("gpu", 0, "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        ("", 0, "device must be auto, cpu, cuda, cuda:N or mps, got ''"),
        ("cuda:x", 1, "device must be auto, cpu, cuda, cuda:N or mps, got 'cuda:x'"),
        ("meta", 0, "device must be auto, cpu, cuda, cuda:N or mps, got 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing falls back in silence: the message says what is missing and what to use."""
    machine(monkeypatch, gpus=gpus)
    with pytest.raises(ConfigError) as caught:
        choose_device(name)
    assert str(caught.value) == message


def test_precision_is_taken_as_asked_or_by_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is bfloat16 only where the device multiplies it natively."""
    cpu = torch.device("cpu")
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    assert choose_precision("auto", cpu) == (torch.bfloat16 if has_bfloat16(cpu) else torch.float32)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_precision("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("auto", torch.device("cuda")) == torch.bfloat16
    assert choose_precision("auto", torch.device("mps")) == torch.float32
    with pytest.raises(ConfigError) as caught:
        choose_precision("float16", cpu)
    assert str(caught.value) == "precision must be auto, float32 or bfloat16, got 'float16'"


@pytest.mark.parametrize(
    ("known", "allowed", "native"),
    [
        ({"avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, True, True),
        ({"avx512_bf16": True, "amx_bf16": True}, False, False),
        ({"avx512_bf16": False, "avx2": True}, True, False),
        ({}, True, False),
    ],
)
def test_a_processor_needs_the_instructions_and_leave_to_use_them(
    known: dict[str, bool], allowed: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVX-512 or AMX with bfloat16; on other processors it would be emulated, and slow."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: allowed)
    assert has_bfloat16(torch.device("cpu")) is native
    assert has_bfloat16(torch.device("mps")) is False


def test_automatic_precision_follows_the_instructions_in_use() -> None:
    """A process that is held to AVX2 computes in float32, whatever the processor could do."""
    program = "import torch; from flawmap.core.device import *; print(choose_precision('auto', torch.device('cpu')))"
    held = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    ran = subprocess.run([sys.executable, "-c", program], env=held, capture_output=True, text=True, check=True)
    assert ran.stdout == "torch.float32\n"


def test_autocast_is_on_for_bfloat16_alone() -> None:
    """In float32 nothing is cast; in bfloat16 products are, and the context ends."""
    cpu, values = torch.device("cpu"), torch.ones(4, 4)
    with autocast(cpu, torch.float32):
        assert (values @ values).dtype == torch.float32
    with autocast(cpu, torch.bfloat16):
        assert (values @ values).dtype == torch.bfloat16
    assert (values @ values).dtype == torch.float32


def test_a_machine_describes_itself_in_json() -> None:
    """Processor, threads and versions, as JSON's types."""
    found = json.loads(json.dumps(describe_machine()))
    assert set(found) == {"platform", "processor", "threads", "torch", "cuda", "bfloat16"}
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["processor"]


def group(folder: Path, names: tuple[str, str, str], limit: str, use: int, cached: int) -> None:
    """A memory control group as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{use}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(("line", "mount", "names"), [("0::/a/b", ".", V2), ("4:memory:/a/b", "memory", V1)])
def test_free_memory_respects_control_groups(
    line: str, mount: str, names: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tightest limit counts, of the process's own group or one around it; cached files can go."""
    memberships = tmp_path / "cgroup"
    memberships.write_text(f"7:cpuset:/x\n{line}\n")
    monkeypatch.setattr(device, "MEMBERSHIPS", memberships)
    monkeypatch.setattr(device, "CONTROL_GROUPS", tmp_path)
    for place in ("a/b", "a", "."):
        folder = tmp_path / mount / place
        group(folder, names, "max", 900, 50)
        assert device.free_memory() > 1000, "no limit"
        group(folder, names, "1000", 700, 50)
        assert device.free_memory() == 350
        group(folder, names, "600", 700, 50)
        assert device.free_memory() == 0, "more is used than allowed"
        group(folder, names, str(2**62), 700, 50)

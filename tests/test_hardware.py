"""Device and precision: what is chosen, and what is said when a choice cannot be had."""

from __future__ import annotations

import io
import json
import os

import pytest
import torch

from flawmap.core import device
from flawmap.core.device import autocast, choose_device, choose_precision, describe_machine, has_bfloat16, kept_memory
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
    ("known", "native"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_a_processor_needs_the_instructions(
    known: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVX-512 or AMX with bfloat16; on other processors it would be emulated, and slow."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert has_bfloat16(torch.device("cpu")) is native
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert has_bfloat16(torch.device("cpu")) is False


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


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="this system does not say how much memory it has")
def test_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says it can spare; half of all it has where it does not say; else a modest guess."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < device.free_memory() < total
    monkeypatch.setattr("builtins.open", lambda *_, **__: io.StringIO("MemTotal: 9 kB\nMemAvailable:   7 kB\n"))
    assert device.free_memory() == 7 * 1024
    for odd in ("MemTotal: 9 kB\n", "MemAvailable: many\n", "\n"):
        monkeypatch.setattr("builtins.open", lambda *_, odd=odd, **__: io.StringIO(odd))
        assert device.free_memory() == total // 2
    monkeypatch.delattr(os, "sysconf")
    assert device.free_memory() == 4_000_000_000


# --- memory


def test_memory_is_kept_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library is told to keep what is freed, and at the end, also after an error, to give it back."""
    said: list[tuple[str, int, int]] = []

    class Library:
        def mallopt(self, what: int, value: int) -> int:
            said.append(("mallopt", what, value))
            return 1

        def malloc_trim(self, padding: int) -> int:
            said.append(("malloc_trim", padding, 0))
            return 1

    @kept_memory()
    def fail() -> None:
        assert said == [("mallopt", -3, 2**30), ("mallopt", -1, 2**31 - 1)]
        raise KeyError

    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())
    with pytest.raises(KeyError):
        fail()
    assert said[2:] == [("mallopt", -3, 2**25), ("mallopt", -1, 2**26), ("malloc_trim", 0, 0)]


@pytest.mark.parametrize("library", [OSError, TypeError, object()])
def test_memory_elsewhere_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    """Without a C library of its own, or with one that knows no such settings, the work goes on."""

    def opened(name: None) -> object:
        if isinstance(library, type):
            raise library
        return library

    monkeypatch.setattr("ctypes.CDLL", opened)
    with kept_memory():
        pass

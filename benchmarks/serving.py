"""The service as a process of its own, for benchmarks and tests."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2 as httpx

SECONDS = 60.0  # until it must be ready


@contextmanager
def running(model: Path, store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, a free port of this machine, once it is ready; it is killed when the block ends."""
    command = [sys.executable, "-m", "flawmap", "serve", str(model), "--port", "0", "--store", str(store), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = (re.search(r"http://\S+:\d+", line) for line in process.stderr)
        address = next((found[0] for found in said if found is not None), None)
        assert address is not None, "the service did not start"
        deadline = time.monotonic() + SECONDS
        while not _ready(address):
            assert time.monotonic() < deadline, "the service is not ready"
            time.sleep(0.05)
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _ready(address: str) -> bool:
    with suppress(httpx.TransportError):
        return bool(httpx.get(f"{address}/readyz").status_code == 200)
    return False

"""The service under load: requests a second and times by the number of clients, against one process for each image.

    python benchmarks/load.py MODEL IMAGE [--requests 60] [--json FILE]

The service runs as a process of its own on loopback; clients send the same image as fast as they are answered. The
other way is a script that starts Python, loads the model and inspects one image, as libraries without a service are
used from a line's software. Results are stored in both ways of the service: with images and maps, and rows alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np

from flawmap.core.device import describe_machine
from serving import running

CLIENTS = (1, 4, 16)
ALONE = "import sys, flawmap; print(flawmap.Detector.load(sys.argv[1]).inspect(sys.argv[2]).verdict)"


def loaded(address: str, image: bytes, clients: int, requests: int) -> dict[str, float]:
    """Requests a second, and the middle and the 99th percentile of their times in seconds."""
    times: list[float] = []
    lock, left = threading.Lock(), [requests]

    def client() -> None:
        with httpx.Client(base_url=address, timeout=600) as connection:
            while True:
                with lock:
                    if left[0] == 0:
                        return
                    left[0] -= 1
                started = time.perf_counter()
                connection.post("/v1/inspect", content=image).raise_for_status()
                times.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = requests / (time.perf_counter() - started)
    middle, late = np.quantile(times, (0.5, 0.99))
    return {"rate": rate, "p50": float(middle), "p99": float(late)}


def alone(model: Path, image: Path, count: int) -> dict[str, float]:
    """One process for each image, one after the other."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", ALONE, str(model), str(image)], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    middle, late = np.quantile(times, (0.5, 0.99))
    return {"rate": count / sum(times), "p50": float(middle), "p99": float(late)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--requests", type=int, default=60, help="of each line of the table [60]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    content, rows = given.image.read_bytes(), dict[str, Any]()
    for name, options in (("images and maps kept", ()), ("rows alone", ("--no-keep-images",))):
        with (
            tempfile.TemporaryDirectory() as folder,
            running(given.model, Path(folder) / "r", *options) as (_, address),
        ):
            loaded(address, content, 2, 4)  # the first ones compile and allocate
            for clients in CLIENTS:
                rows[f"service, {clients} clients, {name}"] = loaded(address, content, clients, given.requests)
    rows["a process for each image"] = alone(given.model, given.image, max(3, given.requests // 10))
    print(f"{'':44} {'images/s':>9} {'p50, s':>8} {'p99, s':>8}")
    for name, row in rows.items():
        print(f"{name:44} {row['rate']:9.2f} {row['p50']:8.3f} {row['p99']:8.3f}")
    if given.json is not None:
        report = {"machine": describe_machine(), "image": given.image.name, "bytes": len(content), "rows": rows}
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

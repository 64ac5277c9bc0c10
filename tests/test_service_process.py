"""The service as a process: what it acknowledged survives kill -9, and it ends in good order."""

from __future__ import annotations

import json
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from samples import trained, write_cloth

pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")

from flawmap.service.store import Store  # noqa: E402
from serving import running  # noqa: E402

KILLS = 50
FEW = 5  # results that are received before each end of the service

# Four threads store results as fast as they can, and say which ones are stored.
WRITER = """
import sys, threading
from pathlib import Path
from flawmap.service.store import Result, Store, new_id
store = Store(Path(sys.argv[1]))
def write():
    while True:
        number = new_id()
        store.add(Result(number, 0.0, "a", "b", "c", "d", "e", "ok", 1.0, 2.0, None, 3, 4, 0))
        sys.stdout.write(number + "\\n")
        sys.stdout.flush()
for _ in range(4):
    threading.Thread(target=write).start()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """A process that stores results under load is killed at 50 random moments; none that it acknowledged is lost, and
    the database is whole."""
    moments, acknowledged = random.Random(0), set[str]()
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged.add(writer.stdout.readline().strip())
            time.sleep(moments.uniform(0, 0.08))
            writer.kill()
            lines = writer.stdout.read().split("\n")
        acknowledged.update(lines[:-1])  # the last one may be torn
    store = Store(tmp_path)
    assert store._database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    stored = {row.id for row in store.newest(limit=None)}
    store.close()
    assert len(acknowledged) > 10 * KILLS
    assert acknowledged <= stored


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and its images."""
    folder = tmp_path_factory.mktemp("process")
    write_cloth(folder / "good", 12, (96, 80))
    settings: dict[str, Any] = {
        "model": {"patch": 32},
        "method": {"latent": 4},
        "training": {"steps": 3, "batch": 4, "device": "cpu", "plateau_steps": 0},
    }
    trained(folder / "good", folder / "m.flawmap", settings)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_whole_service_is_killed_and_started_again(made: Path, tmp_path: Path) -> None:
    """Under load by four clients; every result that a client received is there afterwards, with its mask."""
    content = next((made / "good").iterdir()).read_bytes()
    received: list[str] = []

    def send(address: str) -> None:
        with suppress(httpx.TransportError), httpx.Client() as client:
            while True:
                answer = client.post(f"{address}/v1/inspect", content=content)
                if answer.status_code == 200:
                    received.append(answer.json()["id"])

    for _ in range(2):
        with running(made / "m.flawmap", tmp_path) as (process, address):
            threads = [threading.Thread(target=send, args=(address,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            enough, ends = len(received) + FEW, time.monotonic() + 60
            while len(received) < enough and time.monotonic() < ends:
                time.sleep(0.02)
            process.kill()
            for thread in threads:
                thread.join()
    assert len(received) >= 2 * FEW
    with running(made / "m.flawmap", tmp_path) as (_, address):
        for number in received:
            assert httpx.get(f"{address}/v1/results/{number}").status_code == 200
            assert httpx.get(f"{address}/v1/results/{number}/mask.png").status_code == 200
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.slow
def test_it_ends_in_good_order(made: Path, tmp_path: Path) -> None:
    """SIGTERM: what is under work is answered, then the process ends without an error."""
    content = next((made / "good").iterdir()).read_bytes()
    with running(made / "m.flawmap", tmp_path) as (process, address):
        files = [("images", (f"{number}.png", content)) for number in range(12)]
        answers: list[Any] = []
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{address}/v1/inspect/batch", files=files, timeout=60))
        )
        thread.start()
        time.sleep(0.1)
        process.terminate()
        thread.join()
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert answers[0].status_code == 200
        assert all("score" in entry for entry in answers[0].json()["results"])


@pytest.mark.slow
def test_a_client_that_hangs_up_harms_nobody(made: Path, tmp_path: Path) -> None:
    """In the middle of a body, and before the answer: nothing is left behind, and the next image is answered."""
    content = next((made / "good").iterdir()).read_bytes()
    with running(made / "m.flawmap", tmp_path) as (_, address):
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        for part in (head[:20], head, head + content[:100], head + content):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(part)
        assert httpx.post(f"{address}/v1/inspect", content=content).status_code == 200
        end = time.monotonic() + 20
        while list((tmp_path / "incoming").iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.slow
def test_a_taken_port_is_told(made: Path, tmp_path: Path) -> None:
    """Two services on one port: the second one says what to do."""
    with running(made / "m.flawmap", tmp_path / "a") as (_, address):
        port = address.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "flawmap", "serve", str(made / "m.flawmap"), "--port", port]
        second = subprocess.run([*command, "--store", str(tmp_path / "b")], capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"cannot listen on 127.0.0.1, port {port}: " in second.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_shown_requests_work(made: Path, tmp_path: Path) -> None:
    """Every curl command of the documentation, as it stands but for the port, gets an answer without an error."""
    page = (Path(__file__).parents[1] / "docs" / "going-live.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("curl ")]
    assert len(shown) >= 4
    folder = tmp_path / "cloth" / "test" / "cut"
    folder.mkdir(parents=True)
    for number in range(2):
        shutil.copy(made / "good" / "00.png", folder / f"{number:03d}.png")
    shutil.copy(made / "m.flawmap", tmp_path / "cloth.flawmap")
    with running(tmp_path / "cloth.flawmap", tmp_path / "store") as (_, address):
        for line in shown:
            words = shlex.split(line.replace("http://127.0.0.1:8000", address))
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
            answer = json.loads(done.stdout)
            assert "error" not in answer, f"{line}: {answer}"

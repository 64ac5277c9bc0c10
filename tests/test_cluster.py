"""`flawmap evaluate --ray`: the same files as in one process, on clusters that run here, and what is refused."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import flawmap
from flawmap.commands.cli import main
from flawmap.commands.outputs import SOME_FAILED
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.runtime import Runtime
from flawmap.data.samples import Sample
from flawmap.scoring.model_file import load_artifact
from samples import TINY, trained

pytest.importorskip("ray.data", reason="needs the extra ray")

from ray.exceptions import AuthenticationError

from flawmap.cluster.scans import resident_detectors
from flawmap.cluster.workers import Workers, check_version, started

PLAIN = Runtime("cpu", "float32")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


@pytest.fixture(scope="module")
def cloth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cloth with defects, an image of it torn."""
    folder = tmp_path_factory.mktemp("set") / "cloth"
    flawmap.synth(folder, "cloth", good=5, bad=4, size=(96, 80), seed=0)
    whole = folder / "test" / "good" / "000.png"
    (folder / "test" / "good" / "torn.png").write_bytes(whole.read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def model(cloth: Path) -> Path:
    return trained(cloth, cloth.parent / "m.flawmap", TINY)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.usefixtures("ray_started", "one_thread")
def test_the_same_files_as_in_one_process(
    model: Path, cloth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures, curve and report with its pictures, to the byte, by a path that only this process understands."""
    monkeypatch.chdir(cloth.parent)
    flawmap.evaluate_model(model, cloth, tmp_path / "plain", runtime=PLAIN)
    options = ["--precision", "float32", "--ray", "local", "--actors", "2"]
    assert main(["evaluate", str(model), "cloth", "-o", str(tmp_path / "ray"), *options]) == SOME_FAILED
    assert set(files(tmp_path / "ray")) == {"metrics.json", "report.html", "roc.png"}
    assert files(tmp_path / "ray") == files(tmp_path / "plain")


def test_results_in_order(ray_started: None, model: Path) -> None:
    """Although a quick image overtakes a slow one; an error of an image stands in its place, any other ends all."""

    def tenfold(detector: flawmap.Detector, item: Sample) -> int:
        number = int(item.path.stem)
        if number == 7:
            raise InputError("7 is refused")
        time.sleep(0.2 if number % 10 == 0 else 0)
        return 10 * number

    def divided(detector: flawmap.Detector, item: Sample) -> float:
        return 1 / int(item.path.stem)

    items = [Sample(Path(f"{number}.png"), "test", "good", "good") for number in range(40)]
    with resident_detectors(load_artifact(model), PLAIN, Workers(actors=2)) as mapper:
        pairs = list(mapper(tenfold, items))
        assert [item for item, _ in pairs] == items
        numbers = [str(found) if isinstance(found, InputError) else found for _, found in pairs]
        assert numbers == [*range(0, 70, 10), "7 is refused", *range(80, 400, 10)]
        with pytest.raises(ZeroDivisionError):
            list(mapper(divided, items[:2]))


def test_no_room(ray_started: None, model: Path) -> None:
    """More detectors than the cluster can hold would never come; one that no machine can hold, neither."""
    expected = r"the cluster has room for \d+ detectors with 1 CPUs and 0 GPUs each, not for 999; see --actors"
    with (
        pytest.raises(ConfigError, match=expected),
        resident_detectors(load_artifact(model), PLAIN, Workers(actors=999)),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="room for 0 detectors with 999 CPUs and 0 GPUs each, not for 1"),
        resident_detectors(load_artifact(model), PLAIN, Workers(cpus=999)),
    ):
        pass


REFUSED = (
    (["--device", "cuda"], "--device cuda with --ray needs --actor-gpus, the GPUs of each detector: 1, or 0.5"),
    (
        ["--device", "cpu", "--actor-gpus", "0.5"],
        "--device cpu does not go with --ray: by --actor-gpus 0.5 detectors run on cuda; leave --device out",
    ),
    (
        ["--device", "mps"],
        "--device mps does not go with --ray: by --actor-gpus 0 detectors run on cpu; leave --device out",
    ),
    (["--actor-gpus", "1"], "GPUs of a cluster may differ; say --precision float32 or --precision bfloat16"),
)


def test_another_version() -> None:
    """A machine with another flawmap is named."""
    check_version(flawmap.__version__)
    with pytest.raises(ConfigError, match=r" has flawmap .*, and this run is by 0\.0\.1; install the same version on"):
        check_version("0.0.1")


@pytest.mark.parametrize("address", ["local", "auto", "host:1"])
def test_the_cluster_that_was_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is told the address: without one it joins any cluster of this machine. It ends with the block."""
    calls = list[object]()
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **given: calls.append((given["address"], "num_cpus" in given)))
    monkeypatch.setattr("ray.shutdown", lambda: calls.append("ended"))
    with started(address):
        assert calls == [(address, address == "local")]
    assert calls[1:] == ["ended"]


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError, AuthenticationError])
def test_no_cluster(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray raises of an address, the error names the address and the last line of the reason."""

    def init(**_: Any) -> None:
        raise kind("Failed to connect\nthe server is asleep")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    expected = r"^no Ray cluster at host:1: the server is asleep[^;]*; start one, or use --ray local$"
    with pytest.raises(InputError, match=expected), started("host:1"):
        pass


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_where_detectors_run(command: str, model: Path, cloth: Path, tmp_path: Path, capsys: Any) -> None:
    """A device that the detectors do not have is refused by name, before Ray starts."""
    out = tmp_path / "out"
    for options, expected in REFUSED:
        assert main([command, str(model), str(cloth), "-o", str(out), "--ray", "local", *options]) == 2
        assert capsys.readouterr().err.strip() == f"error: {expected}"
    assert not out.exists()


def test_options_that_need_ray(model: Path, cloth: Path, capsys: Any) -> None:
    """They are refused without it."""
    for command in ("inspect", "evaluate"):
        assert main([command, str(model), str(cloth), "--actors", "2"]) == 2
        said = "--actors, --actor-cpus and --actor-gpus need --ray, such as --ray local"
        assert said in " ".join(capsys.readouterr().err.split())


def test_without_ray(model: Path, cloth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"--ray needs the package ray\.data, .* pip install 'flawmap\[ray\]'"):
        flawmap.evaluate_model(model, cloth, tmp_path, workers=Workers())


# ------------------------------------------------------------------------------------------------------- a real cluster


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-test-alone"}


@contextmanager
def ray_process(*options: str) -> Iterator[None]:
    """`ray start` as long as the block, once it is up. `ray stop` would end every Ray of this machine."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, "--num-cpus", "1", "--block"]
    told = os.environ | TOKEN
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=told)
    assert process.stdout is not None
    try:
        lines = list(iter_until(process.stdout, "Ray runtime started."))
        assert "Ray runtime started." in lines[-1], "".join(lines)
        yield
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def iter_until(lines: Iterable[str], wanted: str) -> Iterator[str]:
    for line in lines:
        yield line
        if wanted in line:
            return


def free_port() -> int:
    """Below the ports that the system gives away by itself, to the workers of another Ray, say."""
    for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 100):
        with socket.socket() as server:
            if server.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


def command(*arguments: object, address: str) -> subprocess.CompletedProcess[str]:
    """flawmap in a process of its own, for which `auto` is the cluster of an address."""
    told = os.environ | TOKEN | {"RAY_ADDRESS": address}
    given = [sys.executable, "-m", "flawmap", *map(str, arguments), "--precision", "float32"]
    return subprocess.run(given, env=told, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_cluster_of_two(model: Path, cloth: Path, tmp_path: Path) -> None:
    """Two machines in name, joined as docs/scale.md shows: an archive by `auto`, a set by HOST:PORT, on both."""
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{free_port()}"
    head = ("--head", "--port", address.rpartition(":")[2], "--include-dashboard", "false")
    with ray_process(*head), ray_process("--address", address):
        scored = command("inspect", model, cloth / "test", "-o", tmp_path / "scores", "--ray", "auto", address=address)
        assert "5 images scored, 0 before: 1 flawed, 1 unreadable" in scored.stdout + scored.stderr
        assert "by 2 detectors" in scored.stdout + scored.stderr
        ran = command("evaluate", model, cloth, "-o", tmp_path / "ray", "--ray", address, address="")
        assert ran.returncode == SOME_FAILED, ran.stderr
    flawmap.evaluate_model(model, cloth, tmp_path / "plain", runtime=PLAIN)
    assert files(tmp_path / "ray") == files(tmp_path / "plain")

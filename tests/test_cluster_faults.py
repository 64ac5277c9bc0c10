"""What dies, hangs or fills up while an archive is scored: no row is lost, none comes twice, and the run goes on."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore, Event
from typing import Any

import psutil
import pytest

import flawmap
from flawmap.core.errors import ConfigError, InputError, LostProcessError, OutputError
from flawmap.core.runtime import Runtime
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import model_sha256
from samples import TINY, trained, write_cloth

pytest.importorskip("ray.data", reason="needs the extra ray")

import pyarrow
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError

import faulty
from flawmap.cluster import archive, limits, parts, stages
from flawmap.cluster.archive import score_archive
from flawmap.cluster.parts import COLUMNS, part_files, read_scores
from flawmap.cluster.shared import DEATHS, KILLERS, Suspects, beside
from flawmap.cluster.stream import _explained
from flawmap.cluster.workers import Workers

PLAIN = Runtime("cpu", "float32")
ONE = Workers(actors=1)
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""A node is dead after so long, instead of half a minute."""
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # Ray's own
ray.cloudpickle.register_pickle_by_value(faulty)  # workers do not see the folder of the tests


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_cloth(folder / "good", 6, (96, 80), seed=3)
    return trained(folder / "good", folder / "m.flawmap", TINY)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_cloth(tmp_path / "images", 6, (96, 80))
    return tmp_path / "images"


@pytest.fixture
def fragile(ray_started: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images fail as their names say."""
    monkeypatch.setattr(stages, "ScoreImages", faulty.Fragile)


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a folder by path; none twice."""
    rows = read_scores(folder).to_pylist()
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def check_scored(found: dict[str, dict[str, Any]], images: Path, detector: Detector) -> None:
    """Every row is what the detector says of its image without a cluster, to the bit."""
    for path, row in found.items():
        expected = detector.inspect(images / path).to_dict()
        told = set(COLUMNS.names) & set(expected) - {"path"}
        assert {name: row[name] for name in told} == {name: expected[name] for name in told}
        assert row["error"] is None


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What a condition gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing came within {seconds:g} s")


# ----------------------------------------------------------------------------------------------- machines and processes


def score(cluster: Cluster, model: Path, images: Path, out: Path) -> subprocess.Popen[str]:
    """A driver of its own, which scores by slow detectors on all CPUs of the cluster and writes parts of four rows."""
    command = [sys.executable, faulty.__file__, cluster.address, str(model), str(images), str(out)]
    return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def detectors(node: Any) -> list[psutil.Process]:
    """The processes on a node that score."""
    (raylet,) = node.all_processes["raylet"]
    children = psutil.Process(raylet.process.pid).children()
    return [one for one in children if "MapWorker" in title(one)]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ends
        return ""


def test_a_driver_a_detector_and_a_node_are_killed(model: Path, tmp_path: Path) -> None:
    """A driver is killed in mid-run. The next one loses a detector and one of two machines, and completes the table."""
    images, out = tmp_path / "images", tmp_path / "out"
    for first in range(4):
        write_cloth(tmp_path / f"few-{first}", 10, (96, 80), seed=first).clear()
    images.mkdir()
    for place in tmp_path.glob("few-*/*.png"):
        place.rename(images / f"{place.parent.name}-{place.name}")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": QUICK})
    try:
        stays, goes = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
        first = score(cluster, model, images, out)
        wait_for(lambda: part_files(out))
        first.kill()
        first.communicate()
        before = table(out)
        assert 0 < len(before) < 40
        second = score(cluster, model, images, out)
        wait_for(lambda: len(read_scores(out, ["path"])) > len(before))
        (detector,) = detectors(stays)
        detector.send_signal(signal.SIGKILL)
        cluster.remove_node(goes, allow_graceful=False)
        _, said = second.communicate(timeout=100)
        assert second.returncode == 0, said
    finally:
        cluster.shutdown()
    found = table(out)
    assert sorted(found) == sorted(place.name for place in images.iterdir())
    assert {path: found[path] for path in before} == before
    check_scored(found, images, Detector.load(model, PLAIN))


def test_local_is_a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a cluster runs on this machine, which Ray would take if it were not told."""
    given = list[Any]()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: given.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: given.append("ended"))
    with archive.started("local"):
        assert given == ["local"]
    assert given == ["local", "ended"]


def test_another_version_is_refused(
    ray_started: None, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector with another flawmap than the run's ends it, and says what to do."""
    own = flawmap.__version__
    monkeypatch.setattr(flawmap, "__version__", "0.0.1")
    with pytest.raises(
        ConfigError, match=rf"has flawmap {own}, .* by 0\.0\.1; install the same version on every machi"
    ):
        score_archive(model, [images], tmp_path / "out", workers=ONE, runtime=PLAIN)


# -------------------------------------------------------------------------------------------------------------- images


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_images_that_fail(fragile: None, silent: int, model: Path, images: Path, tmp_path: Path) -> None:
    """Each has a row with the reason, and all others their scores. The one that needs memory has its score, too."""
    content = (images / "00.png").read_bytes()
    for name in ("killer", "hungry", "starving"):
        (images / f"{name}.png").write_bytes(content)
    (images / "torn.png").write_bytes(content[:300])
    url = f"s3://key:hidden@bucket/silent.png?scheme=http&endpoint_override=127.0.0.1:{silent}&region=us-east-1"
    (tmp_path / "list.csv").write_text(f"path\n{url}\n", encoding="utf-8")
    workers = replace(ONE, read_timeout=1.0)
    summary = score_archive(model, [images, tmp_path / "list.csv"], tmp_path / "out", workers=workers, runtime=PLAIN)
    assert (summary.images, summary.scored, summary.unreadable, summary.remaining) == (11, 7, 4, 0)
    found = table(tmp_path / "out")
    errors = {path: row["error"] for path, row in found.items() if row["error"] is not None}
    assert errors.pop("killer.png").startswith("it killed its detector, again and again; try it by flawmap inspect")
    assert errors.pop("s3://bucket/silent.png").startswith("not read within 1 s; see whether its drive or server")
    assert errors.pop("starving.png").startswith("MemoryError: Unable to allocate 1.00 PiB for an array")
    assert errors.pop("torn.png").startswith("torn.png ")
    assert not errors
    detector = Detector.load(model, PLAIN)
    fewer = replace(detector, scorer=replace(detector.scorer, batch=4))
    check_scored({"hungry.png": found["hungry.png"]}, images, fewer)
    check_scored({path: row for path, row in found.items() if path[0].isdigit()}, images, detector)


def test_a_machine_without_room(fragile: None, model: Path, images: Path) -> None:
    """It is no image's fault, so it is an error of the run and no row."""
    scoring = archive._scoring(model, ONE, archive.ArchiveOutputs(), PLAIN, None)
    stage = stages.ScoreImages(ray.put(scoring), flawmap.__version__, beside(Suspects))
    file = {"path": "full.png", "content": (images / "00.png").read_bytes()}
    with pytest.raises(OutputError, match=r"has no room for an image in .*flawmap-.*No space left on device"):
        list(stage(pyarrow.Table.from_pylist([file], stages.FILES)))


def test_a_read_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and errors pass; what hangs is given up, and its thread leaves no room until it ends."""
    monkeypatch.setattr(limits, "_free", BoundedSemaphore(1))
    assert limits.within(60.0, lambda: b"bytes") == b"bytes"
    with pytest.raises(KeyError, match="gone"):
        limits.within(60.0, lambda: {}["gone"])
    hangs, ended = Event(), Event()

    def read() -> None:
        hangs.wait(60.0)
        ended.set()

    expected = r"^not read within 0\.05 s; see whether its drive or server answers, or allow more by --read-timeout$"
    with pytest.raises(InputError, match=expected):
        limits.within(0.05, read)
    with pytest.raises(InputError, match=expected):
        limits.within(0.05, lambda: b"never begun")
    hangs.set()
    assert ended.wait(60.0)
    assert limits.within(60.0, lambda: b"bytes") == b"bytes"


def test_the_batch_is_halved_until_it_fits(model: Path) -> None:
    """32, 16, 8 and so on to one patch; other errors are not tried again."""
    detector, tried = Detector.load(model, PLAIN), list[int]()

    def work(one: Detector) -> str:
        tried.append(one.scorer.batch)
        if one.scorer.batch > 8:
            raise MemoryError
        return "done"

    assert limits.in_memory(detector, work) == "done"
    assert tried == [32, 16, 8]
    tried.clear()
    for error in (MemoryError("none"), ValueError("shapes differ")):

        def fail(one: Detector, error: Exception = error) -> None:
            tried.append(one.scorer.batch)
            raise error

        with pytest.raises(type(error), match=str(error)):
            limits.in_memory(detector, fail)
    assert tried == [32, 16, 8, 4, 2, 1, 32]


def test_suspects() -> None:
    """An image is a killer once detectors that say what they begin died with it DEATHS times, others are not."""
    suspects = Suspects()
    assert suspects.started("a") == (False, [])
    for death in range(DEATHS):
        assert suspects.started("a") == (True, [])
        suspects.begun("a", "innocent" if death == 0 else "other")
        suspects.begun("a", "killer")
    assert suspects.started("b") == (False, [])
    assert suspects.started("a") == (True, ["killer"])
    assert suspects.started("a") == (True, ["killer"]), "nothing was begun"
    for number in range(1, KILLERS):
        for _ in range(DEATHS):
            suspects.begun("a", f"{number}")
            assert len(suspects.started("a")[1]) <= KILLERS
    for _ in range(DEATHS - 1):
        suspects.begun("a", "one more")
        suspects.started("a")
    suspects.begun("a", "one more")
    with pytest.raises(LostProcessError, match="more than 100 images killed their detectors, so the images are not"):
        suspects.started("a")


def test_why_a_detector_did_not_start_is_told(ray_started: None) -> None:
    """By the error of flawmap, however deep Ray wraps it, or else by Ray's first line."""
    doomed = beside(faulty.Doomed, beside(faulty.Refusing))
    with pytest.raises(ActorDiedError) as error:
        ray.get(doomed.__ray_ready__.remote())
    told = _explained(error.value)
    assert (type(told), str(told)) == (LostProcessError, "it must not start")
    expected = (
        "The actor died unexpectedly before finishing this task; what was scored stays, and the same command goes on"
    )
    assert str(_explained(ActorDiedError())) == expected


# ----------------------------------------------------------------------------------------------------- disks and models


def test_a_full_disk_and_a_model_that_changes(
    ray_started: None, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part stays whole, half of a part does not, and the next run goes on. All score by the model that was
    loaded at the start, although its file becomes another one in mid-run."""
    place, out, digest = tmp_path / "m.flawmap", tmp_path / "out", model_sha256(model)
    place.write_bytes(model.read_bytes())
    write_table, written = parts.parquet.write_table, list[Path]()

    def full(rows: pyarrow.Table, file: Path) -> None:
        place.write_bytes(b"another model")
        write_table(rows, file)
        written.append(file)
        if len(written) > 1:
            file.write_bytes(file.read_bytes()[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(parts, "ROWS", 2)
        patch.setattr(parts.parquet, "write_table", full)
        with pytest.raises(OutputError, match=r"part-000001\.parquet cannot be written: No space left on device$"):
            score_archive(place, [images], out, workers=ONE, runtime=PLAIN)
    assert [part.name for part in part_files(out)] == ["part-000000.parquet"]
    assert sorted(one.name for one in out.iterdir()) == [".lock", "part-000000.parquet", "run.json"]
    with pytest.raises(flawmap.FlawmapError, match=r"m\.flawmap"):
        score_archive(place, [images], out, workers=ONE, runtime=PLAIN)
    place.write_bytes(model.read_bytes())
    summary = score_archive(place, [images], out, workers=ONE, runtime=PLAIN)
    assert (summary.before, summary.scored, summary.remaining) == (2, 4, 0)
    found = table(out)
    assert {row["model_sha256"] for row in found.values()} == {digest}
    check_scored(found, images, Detector.load(model, PLAIN))

"""A watched folder, what is published of it, and the store's lists and exports."""

from __future__ import annotations

import csv
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import flawmap
from flawmap.commands.cli import main
from flawmap.core.errors import ConfigError, InputError
from flawmap.core.files import sha256_of
from flawmap.core.runtime import Runtime
from flawmap.scoring.model_file import load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint
from samples import trained, write_cloth, write_flawed

pytest.importorskip("fastapi", reason="needs the extra serve")

from flawmap.commands.watch import WatchOptions, watch
from flawmap.service.exports import coco
from flawmap.service.inspector import loaded_models
from flawmap.service.publish import Away, Publisher, Webhook, broker_of
from flawmap.service.state import Service
from flawmap.service.store import Result, Store, new_id
from flawmap.service.watching import FolderWatch

FLOAT32 = Runtime("cpu", "float32")
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `m.flawmap`, whose threshold parts `good.png` and `flawed.png`."""
    folder = tmp_path_factory.mktemp("watch")
    images = write_cloth(folder / "train", 12, (96, 80))
    write_flawed(folder / "flawed.png", images[0], 50)
    shutil.copy(folder / "train" / "00.png", folder / "good.png")
    settings: dict[str, Any] = {
        "model": {"patch": 32},
        "method": {"latent": 8},
        "training": {"steps": 30, "batch": 8, "device": "cpu", "precision": "float32", "plateau_steps": 0},
    }
    trained(folder / "train", folder / "m.flawmap", settings)
    detector = flawmap.Detector.load(folder / "m.flawmap", FLOAT32)
    scores = [detector.inspect(folder / name, threshold=9.0).score for name in ("good.png", "flawed.png")]
    assert scores[0] < scores[1]
    between = OperatingPoint(threshold=sum(scores) / 2)
    save_artifact(load_artifact(folder / "m.flawmap").with_point(between), folder / "m.flawmap")
    return folder


def stored(folder: Path) -> list[Result]:
    store = Store(folder)
    with closing(store):
        return store.newest(limit=None)


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@contextmanager
def watched(made: Path, folder: Path, store: Path, **options: Any) -> Iterator[Store]:
    """A watch on a thread; leaves the store."""
    model = loaded_models([made / "m.flawmap"], FLOAT32)["m"]
    kept = Store(store)
    service, stop = Service.of({"m": model}, kept), threading.Event()
    watching = FolderWatch(folder, service.inspector, service.incoming, model, settle=0.2, **options)
    thread = threading.Thread(target=watching.run, args=(stop,))
    thread.start()
    try:
        yield kept
    finally:
        stop.set()
        thread.join()
        service.close()


# -------------------------------------------------------------------------------------------------------------- folder


def test_each_image_is_inspected_once_and_moved(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders below count, other files and hidden ones do not; good, flawed and unreadable files go their ways, and a
    name that is taken gets a number."""
    line = tmp_path / "line"
    (line / "lane 1").mkdir(parents=True)
    shutil.copy(made / "good.png", line / "a.png")
    shutil.copy(made / "flawed.png", line / "lane 1" / "b.png")
    (line / "broken.png").write_bytes(b"no image")
    (line / "notes.txt").write_text("text")
    shutil.copy(made / "good.png", line / ".hidden.png")
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "a.png").write_bytes(b"taken")
    given = [
        "watch",
        str(made / "m.flawmap"),
        str(line),
        "--store",
        str(tmp_path / "store"),
        "--once",
        "--settle",
        "0.1",
    ]
    for name in ("ok", "flawed", "failed"):
        given += [f"--move-{name}", str(tmp_path / name)]
    (line / "broken.png").touch()
    import os

    os.utime(line / "broken.png", (1e9, 1e9))  # long ago: it is not waited for
    assert main([*given, "--json", "--device", "cpu", "--precision", "float32"]) == 4
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["flawed"], report["failed"]) == (1, 1, 1)
    assert report["problems"][0]["problem"].startswith("broken.png is no known image")
    assert sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png") if "store" not in str(path)
    ) == [
        "failed/broken.png",
        "flawed/lane 1/b.png",
        "line/.hidden.png",
        "ok/a.png",
        "ok/a_1.png",
    ]
    assert {row.name: row.verdict for row in stored(tmp_path / "store")} == {"a.png": "ok", "lane 1/b.png": "flawed"}


def test_a_restart_goes_on_where_it_was(made: Path, tmp_path: Path) -> None:
    """What was inspected stays so, by name and content; a file that was written anew is another one."""
    line, store = tmp_path / "line", tmp_path / "store"
    line.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(made / "good.png", line / name)
    options = WatchOptions(store=store, settle=0.1, once=True)
    assert watch(made / "m.flawmap", line, options, runtime=FLOAT32).ok == 2
    shutil.copy(made / "flawed.png", line / "b.png")
    shutil.copy(made / "good.png", line / "c.png")
    again = watch(made / "m.flawmap", line, options, runtime=FLOAT32)
    assert (again.ok, again.flawed) == (1, 1)
    assert watch(made / "m.flawmap", line, options, runtime=FLOAT32).ok == 0
    assert sorted(row.name for row in stored(store)) == ["a.png", "b.png", "b.png", "c.png"]


def test_half_written_files_are_waited_for(made: Path, tmp_path: Path) -> None:
    """A camera that writes slowly, one that pauses longer than a file settles, and one that renames at the end."""
    line = tmp_path / "line"
    line.mkdir()
    whole = (made / "flawed.png").read_bytes()
    found: list[Any] = []
    with watched(made, line, tmp_path / "store", on_done=lambda path, one: found.append((path.name, one))) as store:
        with (line / "slow.png").open("wb", buffering=0) as file:
            for start in range(0, len(whole), len(whole) // 8 + 1):
                file.write(whole[start : start + len(whole) // 8 + 1])
                time.sleep(0.1)
        with (line / "paused.png").open("wb", buffering=0) as file:
            file.write(whole[:300])
            time.sleep(0.8)
            file.write(whole[300:])
        (line / "part.tmp").write_bytes(whole)
        (line / "part.tmp").rename(line / "renamed.png")
        wait_for(lambda: len(store.newest()) == 3)
    assert sorted(name for name, _ in found) == ["paused.png", "renamed.png", "slow.png"]
    assert all(isinstance(one, Result) and one.verdict == "flawed" for _, one in found)


def test_many_files_at_once_pass_a_small_queue(made: Path, tmp_path: Path) -> None:
    """Forty images, a queue of thirty-two: each is inspected, none twice."""
    line = tmp_path / "line"
    line.mkdir()
    for number in range(40):
        shutil.copy(made / "good.png", line / f"{number:02d}.png")
    with watched(made, line, tmp_path / "store") as store:
        wait_for(lambda: len(store.newest()) == 40)
        time.sleep(0.4)
        assert sorted(row.name for row in store.newest()) == [f"{number:02d}.png" for number in range(40)]


def test_a_file_that_cannot_be_opened_ends_nothing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told like an unreadable one, and the others are inspected; one that went away meanwhile is not told."""
    line = tmp_path / "line"
    line.mkdir()
    for name in ("a.png", "gone.png", "locked.png"):
        shutil.copy(made / "good.png", line / name)

    def opened(path: Path) -> str:
        if path.name == "gone.png":
            path.unlink()
        if path.name != "a.png":
            raise InputError(f"{path.name} cannot be read")
        return sha256_of(path)

    monkeypatch.setattr("flawmap.service.watching.sha256_of", opened)
    options = WatchOptions(store=tmp_path / "store", settle=0.1, patience=0.2, once=True)
    counts = watch(made / "m.flawmap", line, options, runtime=FLOAT32)
    assert (counts.ok, counts.flawed, counts.failed) == (1, 0, 1)
    assert counts.problems == [{"path": str(line / "locked.png"), "problem": "locked.png cannot be read"}]


def test_a_folder_that_is_not_there(made: Path, tmp_path: Path) -> None:
    """And a store inside of the watched folder."""
    with pytest.raises(InputError, match=r"the folder .*nowhere is not there"):
        watch(made / "m.flawmap", tmp_path / "nowhere", WatchOptions(store=tmp_path / "s"), runtime=FLOAT32)
    with pytest.raises(ConfigError, match="lies in the watched folder"):
        watch(made / "m.flawmap", tmp_path, WatchOptions(store=tmp_path / "s"), runtime=FLOAT32)


# ---------------------------------------------------------------------------------------------------------- publishing


def result_of(name: str) -> Result:
    return Result(new_id(), 1.0, name, "b", "cloth", "d", "default", "ok", 1.0, 2.0, None, 3, 4, 0)


def test_a_destination_that_was_away_gets_everything_in_order(tmp_path: Path) -> None:
    """From the first result after it was named; across a restart; each until it is taken."""
    store, heard, away = Store(tmp_path), list[str](), threading.Event()
    store.add(result_of("before"))

    class Flaky:
        name = "flaky"

        def send(self, result: Result) -> None:
            if away.is_set():
                raise Away("unplugged")
            heard.append(result.name)

        def close(self) -> None: ...

    said: list[str] = []
    publisher = Publisher(store, Flaky(), said.append)
    store.add(result_of("1"))
    publisher.tell()
    wait_for(lambda: heard == ["1"])
    away.set()
    for name in ("2", "3"):
        store.add(result_of(name))
        publisher.tell()
    wait_for(lambda: said == ["flaky is away: unplugged; results wait in the store"])
    publisher.close()
    away.clear()
    store.add(result_of("4"))
    publisher = Publisher(store, Flaky(), said.append)
    wait_for(lambda: heard == ["1", "2", "3", "4"])
    publisher.close()
    store.close()


def test_a_webhook_gets_json(tmp_path: Path) -> None:
    """Posted once each with the result's id; a server that fails is asked again."""
    got: list[Any] = []
    codes = iter([500, 200])

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.headers["idempotency-key"], json.loads(body)))
            self.send_response(next(codes))
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with closing(Store(tmp_path)) as store, HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        said: list[str] = []
        hook = Webhook(f"http://127.0.0.1:{server.server_port}/flaws?secret=1")
        assert hook.name == f"webhook http://127.0.0.1:{server.server_port}/flaws"
        publisher = Publisher(store, hook, said.append)
        sent = result_of("a")
        store.add(sent)
        publisher.tell()
        wait_for(lambda: len(got) == 2)
        wait_for(lambda: len(said) == 2)
        publisher.close()
        server.shutdown()
        thread.join()
    assert got == [(sent.id, sent.to_dict())] * 2
    assert said == [
        f"{hook.name} is away: it answers 500; results wait in the store",
        f"{hook.name} is back",
    ]


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "http:///x", "host"])
def test_a_webhook_needs_an_address(url: str) -> None:
    """http and https alone."""
    with pytest.raises(ConfigError, match=r"a webhook is http://HOST/PATH or https://HOST/PATH, got "):
        Webhook(url)


@pytest.mark.parametrize(
    "url", ["mqtt://host", "mqtt:///topic", "http://host/topic", "mqtt://host/a/#", "mqtt://host/+/b"]
)
def test_a_broker_needs_an_address(url: str) -> None:
    """A host and a topic that can be published to."""
    with pytest.raises(ConfigError, match=r"a broker is mqtt://HOST/TOPIC"):
        broker_of(url)
    assert broker_of("mqtts://me:word@host/plant/line")[:] == ("host", 8883, "plant/line", "me", "word", True)


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="needs the broker mosquitto")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_broker_gets_results_even_if_it_comes_late(tmp_path: Path) -> None:
    """A real broker: away at first, then there, then started anew; a subscriber hears every result, in order."""
    client_module = pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt, of the extra serve")
    from paho.mqtt.enums import CallbackAPIVersion

    from flawmap.service.publish import Mqtt

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    heard: list[tuple[str, str]] = []

    @contextmanager
    def broker() -> Iterator[None]:
        process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
        subscriber = client_module.Client(CallbackAPIVersion.VERSION2)
        subscriber.on_message = lambda *given: heard.append((given[2].topic, json.loads(given[2].payload)["name"]))
        try:
            for _ in range(100):
                try:
                    subscriber.connect("127.0.0.1", port)
                    break
                except OSError:
                    time.sleep(0.05)
            subscriber.subscribe("plant/#", qos=1)
            subscriber.loop_start()
            yield
        finally:
            subscriber.disconnect()
            subscriber.loop_stop()
            process.terminate()
            process.wait()

    with closing(Store(tmp_path / "store")) as store:
        said: list[str] = []
        publisher = Publisher(store, Mqtt(f"mqtt://127.0.0.1:{port}/plant/line"), said.append)
        store.add(result_of("1"))
        publisher.tell()
        wait_for(lambda: len(said) == 1)
        assert "is away" in said[0]
        with broker():
            wait_for(lambda: [name for _, name in heard] == ["1"])
            store.add(result_of("2"))
            publisher.tell()
            wait_for(lambda: [name for _, name in heard] == ["1", "2"])
        publisher.close()
    assert {topic for topic, _ in heard} == {"plant/line/cloth"}


# ------------------------------------------------------------------------------------------------------------- results


@pytest.fixture(scope="module")
def store(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a good and a flawed image, the latter rejected."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "line").mkdir()
    for name in ("good.png", "flawed.png"):
        shutil.copy(made / name, folder / "line" / name)
    options = WatchOptions(store=folder / "store", settle=0.1, once=True)
    watch(made / "m.flawmap", folder / "line", options, runtime=FLOAT32)
    with closing(Store(folder / "store")) as kept:
        kept.review(kept.newest(verdict="flawed")[0].id, "reject", '=cmd("x")')
    return folder / "store"


def test_results_are_listed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal and as JSON, chosen by verdict and review."""
    assert main(["results", str(store)]) == 0
    said = capsys.readouterr().out
    assert "good.png" in said
    assert "reject" in said
    assert main(["results", str(store), "--json", "--review", "reject"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(row["name"], row["verdict"]) for row in rows] == [("flawed.png", "flawed")]
    assert main(["results", str(store), "--json", "--verdict", "ok", "--limit", "1"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["results"]] == ["good.png"]


def test_exports_hold_everything(store: Path, tmp_path: Path) -> None:
    """CSV without formulas, JSON lines with regions, and Parquet with types."""
    for form in ("csv", "jsonl"):
        assert main(["results", str(store), "--to", form, "-o", str(tmp_path / f"r.{form}"), "-q"]) == 0
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["flawed.png"]["note"] == '\'=cmd("x")'
    assert int(rows["flawed.png"]["regions"]) > 0
    assert rows["good.png"]["review"] == ""
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [row.to_dict() for row in stored(store)]
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    assert main(["results", str(store), "--to", "parquet", "-o", str(tmp_path / "r.parquet"), "-q"]) == 0
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table.column("score").to_pylist() == [line["score"] for line in lines]
    assert str(table.schema.field("flawed_pixels").type) == "int64"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_coco_is_read_by_its_own_tools(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pycocotools takes the file, and its masks cover the regions."""
    module = pytest.importorskip("pycocotools.coco", reason="needs pycocotools, of the extra dev")
    path = tmp_path / "coco.json"
    assert main(["results", str(store), "--to", "coco", "-o", str(path), "-q"]) == 0
    read = module.COCO(str(path))
    capsys.readouterr()
    assert len(read.getImgIds()) == 2
    flawed = next(row for row in stored(store) if row.verdict == "flawed")
    found = read.loadAnns(read.getAnnIds())
    assert len(found) == len(flawed.regions)
    for annotation, region in zip(found, flawed.regions, strict=True):
        assert annotation["bbox"] == list(region["box"])
        left, top, width, height = region["box"]
        covered = read.annToMask(annotation)
        assert covered[top : top + height, left : left + width].sum() == covered.sum() > 0


def test_a_region_of_one_pixel_is_a_polygon_too() -> None:
    """COCO's polygons have three points or more."""
    region = {"box": [3, 4, 1, 1], "area": 1, "peak": 2.0, "polygon": [[3, 4]]}
    row = result_of("a").to_dict() | {"regions": [region]}
    assert coco([row])["annotations"][0]["segmentation"] == [[3.0, 4.0, 4.0, 4.0, 4.0, 5.0, 3.0, 5.0]]


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking makes none."""
    assert main(["results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: no results in {tmp_path}; `flawmap serve` and `flawmap watch` write them (--store)\n"
    )
    assert list(tmp_path.iterdir()) == []

"""The service: the same results as `flawmap inspect`, durable, and bad requests that harm nobody."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from flawmap.core.errors import ConfigError, InputError
from flawmap.core.runtime import Runtime
from flawmap.scoring.detector import Detector
from flawmap.scoring.model_file import load_artifact, save_artifact
from flawmap.scoring.operating_point import OperatingPoint
from samples import trained, write_cloth, write_flawed

fastapi = pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")

from fastapi.testclient import TestClient  # noqa: E402

from flawmap.service.access import token_of  # noqa: E402
from flawmap.service.api import application  # noqa: E402
from flawmap.service.inspector import clean_name, loaded_models  # noqa: E402
from flawmap.service.state import Limits, Service  # noqa: E402
from flawmap.service.store import Retention, Store  # noqa: E402

FLOAT32 = Runtime("cpu", "float32")
SMALL: dict[str, Any] = {
    "model": {"patch": 32},
    "method": {"latent": 8},
    "training": {"steps": 30, "batch": 8, "device": "cpu", "precision": "float32", "plateau_steps": 0},
    "threshold": {"rule": "conformal", "alpha": 0.2},
    "split": {"validation": 0.4, "test": 0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `cloth.flawmap`, with the points default and low, a good image and a flawed one."""
    folder = tmp_path_factory.mktemp("service")
    images = write_cloth(folder / "train", 15, (96, 80))
    write_flawed(folder / "flawed.png", images[0], 40)
    path = trained(folder / "train", folder / "cloth.flawmap", SMALL)
    artifact = load_artifact(path)
    low = artifact.with_point(OperatingPoint(threshold=0.01), "low").at_point("default")
    save_artifact(low, path)
    return folder


@pytest.fixture
def client(made: Path, tmp_path: Path) -> Iterator[TestClient]:
    yield from serving(made, tmp_path)


def serving(made: Path, store: Path, limits: Limits | None = None, **options: Any) -> Iterator[TestClient]:
    service = Service.of(loaded_models([made / "cloth.flawmap"], FLOAT32), Store(store / "results"), limits)
    with TestClient(application(service, **options), base_url="http://localhost") as client:
        yield client


def image(made: Path) -> bytes:
    return (made / "flawed.png").read_bytes()


# ------------------------------------------------------------------------------------------------------------- results


def test_an_image_gets_the_result_of_inspect(made: Path, client: TestClient) -> None:
    """As a body and as a form, by every operating point: score, verdict, regions, p-value, and the model's hash."""
    for point in ("default", "low"):
        detector = Detector.of(load_artifact(made / "cloth.flawmap").at_point(point), FLOAT32)
        expected = detector.inspect(made / "flawed.png")
        raw = client.post("/v1/inspect", params={"point": point, "name": "a.png"}, content=image(made))
        form = client.post("/v1/inspect", params={"point": point}, files={"image": ("b.png", image(made))})
        for answer, name in ((raw, "a.png"), (form, "b.png")):
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["name"], found["point"], found["model"]) == (name, point, "cloth")
            assert (found["score"], found["verdict"]) == (expected.score, expected.verdict)
            assert (found["threshold"], found["p_value"]) == (expected.threshold, expected.p_value)
            assert (found["width"], found["height"]) == (expected.width, expected.height)
            plain = [{key: value for key, value in region.items() if key != "polygon"} for region in found["regions"]]
            assert plain == [region.to_dict() for region in expected.regions]
            assert set(found["timings"]) == {"queued", "inspected"}
            assert client.get(found["links"]["self"]).json() == found


def test_outlines_lie_in_their_regions(made: Path, client: TestClient) -> None:
    """The polygon of a region spans its box, and its points are pixels of the mask."""
    found = client.post("/v1/inspect", params={"point": "low"}, content=image(made)).json()
    mask = np.asarray(Image.open(io.BytesIO(client.get(found["links"]["mask.png"]).content)))
    assert found["regions"]
    for region in found["regions"]:
        points = np.array(region["polygon"])
        left, top, width, height = region["box"]
        assert (points.min(0) == [left, top]).all()
        assert (points.max(0) == [left + width - 1, top + height - 1]).all()
        assert (mask[points[:, 1], points[:, 0]] == 255).all()


def test_pictures_are_those_of_the_inspection(made: Path, client: TestClient) -> None:
    """Mask and map pixel by pixel; overlay, heat map and image as large as the image."""
    detector = Detector.of(load_artifact(made / "cloth.flawmap").at_point("low"), FLOAT32)
    expected = detector.inspect(made / "flawed.png")
    links = client.post("/v1/inspect", params={"point": "low"}, content=image(made)).json()["links"]
    got = {name: client.get(place) for name, place in links.items() if name != "self"}
    assert all(answer.status_code == 200 for answer in got.values())
    assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in got.values())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(got["mask.png"].content))) > 0, expected.mask)
    assert np.array_equal(tifffile.imread(io.BytesIO(got["evidence.tif"].content)), expected.residual)
    assert np.array_equal(np.frombuffer(got["map"].content, "<f4").reshape(expected.mask.shape), expected.residual)
    for name in ("overlay.png", "evidence.png", "image.png"):
        assert Image.open(io.BytesIO(got[name].content)).size == (expected.width, expected.height)


def test_a_batch_keeps_its_order_and_bad_images_harm_no_other(made: Path, client: TestClient) -> None:
    """Each entry is a result or an error, in the order in which the images came."""
    files = [("images", (f"{number}.png", image(made) if number != 2 else b"no image")) for number in range(5)]
    files.append(("images", ("empty.png", b"")))
    answer = client.post("/v1/inspect/batch", files=files)
    entries = answer.json()["results"]
    assert [entry["name"] for entry in entries] == ["0.png", "1.png", "2.png", "3.png", "4.png", "empty.png"]
    assert ["error" in entry for entry in entries] == [False, False, True, False, False, True]
    assert entries[2]["error"]["message"].startswith("2.png is no known image, whatever its name says")
    assert len({entry["score"] for entry in entries if "score" in entry}) == 1


def test_a_batch_larger_than_the_queue_waits_for_itself(made: Path, tmp_path: Path) -> None:
    """Nine images through a queue of two."""
    for client in serving(made, tmp_path, Limits(queue=2)):
        files = [("images", (f"{number}.png", image(made))) for number in range(9)]
        entries = client.post("/v1/inspect/batch", files=files).json()["results"]
        assert [entry.get("name") for entry in entries] == [f"{number}.png" for number in range(9)]
        assert all("score" in entry for entry in entries)


def test_results_are_listed_and_reviewed(made: Path, client: TestClient) -> None:
    """The newest first, by pages, by verdict and review; a review has a note and can be taken back."""
    ids = [client.post("/v1/inspect", params={"name": f"{n}"}, content=image(made)).json()["id"] for n in range(5)]
    page = client.get("/v1/results", params={"limit": 2}).json()
    assert [row["id"] for row in page] == ids[:2:-1]
    following = client.get("/v1/results", params={"limit": 2, "before": page[-1]["id"]}).json()
    assert [row["id"] for row in following] == ids[2:0:-1]
    changed = client.patch(f"/v1/results/{ids[0]}", json={"review": "reject", "note": "a real cut"}).json()
    assert (changed["review"], changed["note"]) == ("reject", "a real cut")
    assert changed["reviewed_at"] >= changed["at"]
    assert [row["id"] for row in client.get("/v1/results", params={"review": "reject"}).json()] == ids[:1]
    assert len(client.get("/v1/results", params={"review": "none"}).json()) == 4
    assert client.patch(f"/v1/results/{ids[0]}", json={}).json()["review"] is None
    assert client.get("/v1/results", params={"verdict": "ok", "model": "other"}).json() == []
    assert client.patch(f"/v1/results/{ids[0]}", json={"review": "maybe"}).status_code == 422


def test_the_service_tells_of_itself(made: Path, client: TestClient) -> None:
    """Models with their points, health, readiness, counters, and an interface that programs can read."""
    client.post("/v1/inspect", content=image(made))
    card = client.get("/v1/models").json()[0]
    assert (card["name"], card["active"], sorted(card["points"])) == ("cloth", "default", ["default", "low"])
    assert card["good_scores"]["default"] == list(load_artifact(made / "cloth.flawmap").good_scores)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "waiting": 0}
    assert 'flawmap_inspections_total{model="cloth",verdict=' in client.get("/metrics").text
    described = client.get("/openapi.json").json()
    assert set(described["paths"]["/v1/inspect"]["post"]["requestBody"]["content"]) == {
        "application/octet-stream",
        "multipart/form-data",
    }
    assert described["components"]["schemas"]["ResultAnswer"]["properties"]["model"]["examples"] == ["cloth"]


def test_listeners_hear_results_and_reviews(made: Path, tmp_path: Path) -> None:
    """Server-sent events, in order, to everyone who listens; the stream ends with the service."""
    service = Service.of(loaded_models([made / "cloth.flawmap"], FLOAT32), Store(tmp_path / "results"))
    app = application(service)

    async def listen() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        async with app.router.lifespan_context(app):
            first, second = service.live.listen(), service.live.listen()
            waiting = [asyncio.ensure_future(anext(one)) for one in (first, second)]
            await asyncio.sleep(0)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                sent = (await client.post("/v1/inspect", content=image(made))).json()
                results = await asyncio.gather(*waiting)
                await client.patch(f"/v1/results/{sent['id']}", json={"review": "accept"})
                results.append(await anext(first))
            heard += [one.to_dict() for one in results if one is not None]
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        return heard

    heard = asyncio.run(listen())
    assert [one["review"] for one in heard] == [None, None, "accept"]
    assert len({one["id"] for one in heard}) == 1


# ----------------------------------------------------------------------------------------------------------- bad input


def bomb() -> bytes:
    """A PNG of 40,000 x 40,000 pixels in a few hundred bytes."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the image is empty: 0 bytes came"),
        (b"GIF89a", "part.png"),
        (b"<html><script>alert(1)</script>", "part.png is no known image, whatever its name says"),
        (b"\x89PNG\r\n\x1a\n<html>", "part.png"),
        ("truncated", "part.png"),
        ("bomb", "1,600,000,000 pixels"),
    ],
)
def test_what_is_no_image_is_told(made: Path, client: TestClient, content: Any, part: str) -> None:
    """A sentence with the sender's own name and no path of the server; nothing is left behind."""
    whole = image(made)
    body = {"truncated": whole[: len(whole) // 2], "bomb": bomb()}.get(content, content)
    answer = client.post("/v1/inspect", params={"name": "part.png"}, content=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "image"
    assert part in answer.json()["error"]["message"]
    assert "incoming" not in answer.text
    store = client.app.state.service.store  # type: ignore[attr-defined]
    assert list((store.folder / "incoming").iterdir()) == []
    assert store.newest() == []
    assert client.post("/v1/inspect", content=whole).status_code == 200


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/abs/olute.png", "a\nb.png", "..\\..\\x", "=1+1", "\u202eevil", "x" * 999]
)
def test_names_are_labels_alone(made: Path, client: TestClient, name: str) -> None:
    """A sender's name is never a path, has one line, and no more than 200 letters."""
    found = client.post("/v1/inspect", params={"name": name}, content=image(made)).json()
    assert found["name"] == clean_name(name)
    assert len(found["name"]) <= 200
    assert found["name"].isprintable()
    store = client.app.state.service.store  # type: ignore[attr-defined]
    assert {path.name for path in (store.folder / "files").iterdir()} == {f"{found['id']}.image", f"{found['id']}.map"}


@pytest.mark.parametrize(
    ("method", "place", "status", "message"),
    [
        ("POST", "/v1/inspect?model=silk", 404, "no model 'silk' here; there is cloth"),
        (
            "POST",
            "/v1/inspect?point=night",
            404,
            "no operating point 'night' in the model cloth; it has default, low",
        ),
        ("GET", "/v1/results/0", 404, "no result '0'"),
        ("GET", "/v1/results/..%2F..%2Fetc", 404, None),
        ("PATCH", "/v1/results/0", 404, "no result '0'"),
        ("DELETE", "/v1/inspect", 405, "Method Not Allowed"),
        ("GET", "/v1/results?limit=0", 422, "limit: Input should be greater than or equal to 1"),
        ("GET", "/nowhere", 404, "Not Found"),
        ("GET", "/page/..%2Froutes.py", 404, None),
        ("GET", "/page/routes.py", 404, "no file 'routes.py' of the page"),
    ],
)
def test_wrong_requests_are_told(
    made: Path, client: TestClient, *, method: str, place: str, status: int, message: str | None
) -> None:
    """All errors have one shape."""
    body = {"content": image(made)} if method == "POST" else {"json": {}} if method == "PATCH" else {}
    answer = client.request(method, place, **body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message"}
    if message is not None:
        assert answer.json()["error"]["message"] == message


def test_a_form_needs_a_file(client: TestClient) -> None:
    """A text field is no file."""
    for place, field in (("/v1/inspect", "image"), ("/v1/inspect/batch", "images")):
        answer = client.post(place, files={"other": ("a", b"b")})
        assert answer.status_code == 422
        assert f"`{field}`" in answer.json()["error"]["message"]


def test_large_bodies_are_refused(made: Path, tmp_path: Path) -> None:
    """By their announced length before they are read, and by their real one where none is announced."""
    for client in serving(made, tmp_path, Limits(megabytes=0.001)):
        body = os.urandom(3000)
        announced = client.post("/v1/inspect", content=body)
        assert (announced.status_code, announced.json()["error"]["code"]) == (413, "too large")
        chunks = client.post("/v1/inspect", content=(body[i : i + 500] for i in range(0, 3000, 500)))
        assert chunks.status_code == 413
        assert list((tmp_path / "results" / "incoming").iterdir()) == []


def test_hosts_and_tokens(made: Path, tmp_path: Path) -> None:
    """Another Host header is refused (DNS rebinding); a wrong token and none are, too, but for the health checks."""
    token = "0123456789abcdef0123"
    for client in serving(made, tmp_path, token=token, hosts=("localhost", "line7")):
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
        assert client.get("/v1/models").status_code == 401
        for wrong in (f"Bearer {token}x", "Bearer ", token[:-1], "Bearer \u00e9"):
            assert client.get("/v1/models", headers={"authorization": wrong.encode("latin1")}).status_code == 401
        right = {"authorization": f"Bearer {token}"}
        assert client.get("/v1/models", headers=right).status_code == 200
        assert client.get("/v1/models", headers={**right, "host": "line7:8000"}).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/metrics").status_code == 401


def test_other_addresses_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file or the environment, and not a short one; this machine's own addresses need none."""
    monkeypatch.delenv("FLAWMAP_TOKEN", raising=False)
    assert token_of("127.0.0.1", None) is token_of("::1", None) is token_of("localhost", None) is None
    with pytest.raises(ConfigError, match=r"listening on 0.0.0.0 needs a token"):
        token_of("0.0.0.0", None)
    (tmp_path / "token").write_text("a" * 20 + "\n")
    assert token_of("0.0.0.0", tmp_path / "token") == "a" * 20
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigError, match="the token must have 16 letters or more, got 5"):
        token_of("127.0.0.1", tmp_path / "token")
    with pytest.raises(InputError, match="cannot be read"):
        token_of("127.0.0.1", tmp_path / "missing")
    monkeypatch.setenv("FLAWMAP_TOKEN", "b" * 16)
    assert token_of("0.0.0.0", None) == "b" * 16


def test_a_full_queue_asks_to_come_back(made: Path, tmp_path: Path) -> None:
    """200 requests at once at a queue of 8: each gets a result or a 503 with Retry-After, and then all is as before."""
    service = Service.of(loaded_models([made / "cloth.flawmap"], FLOAT32), Store(tmp_path / "r"), Limits(queue=8))
    app = application(service)

    async def storm() -> list[httpx.Response]:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
                one = client.post
                answers = await asyncio.gather(*(one("/v1/inspect", content=image(made)) for _ in range(200)))
                assert service.inspector.waiting == 0
                assert (await client.get("/readyz")).status_code == 200
                return answers

    answers = asyncio.run(storm())
    done = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(done) + len(refused) == 200
    assert len(done) >= 8
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert len({answer.json()["score"] for answer in done}) == 1
    assert list((tmp_path / "r" / "incoming").iterdir()) == []


def test_a_replaced_model_changes_nothing_until_a_restart(made: Path, tmp_path: Path) -> None:
    """The file may be replaced by rubbish or removed while it is served."""
    path = tmp_path / "cloth.flawmap"
    path.write_bytes((made / "cloth.flawmap").read_bytes())
    for client in serving(tmp_path, tmp_path):
        before = client.post("/v1/inspect", content=image(made)).json()
        path.write_bytes(b"rubbish")
        again = client.post("/v1/inspect", content=image(made)).json()
        path.unlink()
        last = client.post("/v1/inspect", content=image(made)).json()
        assert before["score"] == again["score"] == last["score"]
        assert before["model_sha256"] == last["model_sha256"]


def test_a_full_disk_is_told(made: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """507, no row without its files, and the next image is as welcome as before."""

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flawmap.core.files.Path.replace", full)
        answer = client.post("/v1/inspect", content=image(made))
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage")
    store = client.app.state.service.store  # type: ignore[attr-defined]
    assert store.newest() == []
    assert client.post("/v1/inspect", content=image(made)).status_code == 200


def test_without_keeping_images(made: Path, tmp_path: Path) -> None:
    """Rows stay, pictures are not there, and it is said."""
    service = Service.of(loaded_models([made / "cloth.flawmap"], FLOAT32), Store(tmp_path / "r"), keep=False)
    with TestClient(application(service), base_url="http://localhost") as client:
        found = client.post("/v1/inspect", content=image(made)).json()
        assert set(found["links"]) == {"self"}
        answer = client.get(f"/v1/results/{found['id']}/mask.png")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"image and map of the result {found['id']} are not kept"
        assert list((tmp_path / "r" / "files").iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- store


def test_old_results_and_too_many_files_go(made: Path, tmp_path: Path) -> None:
    """By age the whole row, by size the oldest files alone."""
    for client in serving(made, tmp_path):
        ids = [client.post("/v1/inspect", content=image(made)).json()["id"] for _ in range(4)]
    store = Store(tmp_path / "results")
    size = store.newest()[0].bytes
    store.retention = Retention(gigabytes=2.5 * size / 1e9)
    assert store.prune() == 2
    assert [row.id for row in store.newest() if row.bytes] == ids[:1:-1]
    assert not store.file(ids[0], "map").exists()
    assert gzip.decompress(store.file(ids[3], "map").read_bytes())
    store.retention = Retention(days=1)
    store._database.execute("UPDATE results SET at = at - 200000 WHERE id = ?", [ids[3]])
    assert store.prune() == 1
    assert [row.id for row in store.newest()] == ids[2::-1]
    assert not store.file(ids[3], "image").exists()
    store.close()


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """Rubbish, and tables of a newer flawmap."""
    (tmp_path / "results.sqlite").write_bytes(b"rubbish" * 200)
    with pytest.raises(InputError, match="cannot be used as a store of results"):
        Store(tmp_path)
    (tmp_path / "results.sqlite").unlink()
    store = Store(tmp_path)
    store._database.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(InputError, match="has tables of version 99, this flawmap knows 1"):
        Store(tmp_path)


def test_models_need_names_and_points(made: Path, tmp_path: Path) -> None:
    """Two of one name, and one that cannot decide."""
    with pytest.raises(ConfigError, match="two models are called cloth"):
        loaded_models([made / "cloth.flawmap", made / "cloth.flawmap"], FLOAT32)
    bare = replace(load_artifact(made / "cloth.flawmap"), points={})
    save_artifact(bare, tmp_path / "bare.flawmap")
    with pytest.raises(ConfigError, match="has no operating point, so nothing can be decided"):
        loaded_models([tmp_path / "bare.flawmap"], FLOAT32)


def test_a_result_as_json_has_no_surprises(made: Path, client: TestClient) -> None:
    """What is stored is what was answered, number by number."""
    answered = client.post("/v1/inspect", content=image(made)).json()
    store = client.app.state.service.store  # type: ignore[attr-defined]
    assert json.loads(json.dumps(store.newest()[0].to_dict())) == {
        key: value for key, value in answered.items() if key != "links"
    }

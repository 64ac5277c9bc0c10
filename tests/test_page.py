"""The service's page in a real browser: upload, slider, table, review, export, and what may go wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flawmap
from flawmap.core.runtime import Runtime
from flawmap.imaging.writing import write_image
from samples import trained, write_cloth, write_flawed

pytest.importorskip("fastapi", reason="needs the extra serve")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
httpx = pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")

from flawmap.service.inspector import loaded_models  # noqa: E402
from flawmap.service.server import Server  # noqa: E402
from flawmap.service.state import Service  # noqa: E402
from flawmap.service.store import Store  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]
PAGE = Path(flawmap.__file__).parent / "service" / "page"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `cloth.flawmap`, which has a mask level of its own, `good.png` and `flawed.png`."""
    folder = tmp_path_factory.mktemp("page")
    images = write_cloth(folder / "train", 20, (120, 100))
    write_flawed(folder / "flawed.png", images[0], 50)
    shutil.copy(folder / "train" / "01.png", folder / "good.png")
    settings: dict[str, Any] = {
        "model": {"patch": 32},
        "method": {"latent": 8},
        "training": {"steps": 40, "batch": 8, "device": "cpu", "precision": "float32", "plateau_steps": 0},
        "evidence": {"enabled": True, "scales": [0.0, 2.0]},
        "threshold": {"rule": "conformal", "alpha": 0.2, "mask": "pasted"},
        "split": {"validation": 0.4, "test": 0},
    }
    trained(folder / "train", folder / "cloth.flawmap", settings)
    return folder


@contextmanager
def serving(made: Path, store: Path, port: int = 0, token: str | None = None, *, keep: bool = True) -> Iterator[str]:
    """The service on a thread, and its address."""
    models = loaded_models([made / "cloth.flawmap"], Runtime("cpu", "float32"))
    service = Service.of(models, Store(store), keep=keep)
    server = Server(service, token=token, port=port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        found = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a tablet's or a small desk's size; an error in its scripts fails the test."""
    # Its policy allows the page no scripts but its own, and these tests run theirs in it.
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US", bypass_csp=True)
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(15_000)
    yield page
    context.close()
    assert errors == []


def sent(page: Any, *files: Path) -> None:
    """Upload files and wait for the last one's decision."""
    page.set_input_files("#files", [str(file) for file in files])
    page.wait_for_function("document.getElementById('progress').hidden && window.flawmap.active?.mask")


def masked(page: Any) -> Any:
    """The mask that the page shows, (H, W) bool."""
    values, width = page.evaluate("[Array.from(window.flawmap.active.mask), window.flawmap.active.result.width]")
    return np.array(values, np.uint8).reshape(-1, width) > 0


def test_an_image_is_inspected_and_the_slider_decides_at_once(made: Path, tmp_path: Path, page: Any) -> None:
    """At every step of the slider mask and regions are the server's, pixel by pixel."""
    with serving(made, tmp_path) as address:
        page.goto(address)
        sent(page, made / "flawed.png")
        result = httpx.get(f"{address}/v1/results").json()[0]
        assert page.inner_text("#verdict") == ("NG: flawed" if result["verdict"] == "flawed" else "OK")
        steps = int(page.get_attribute("#rate", "max"))
        assert steps >= 5
        sizes, texts = [], []
        for step in range(steps + 1):
            page.evaluate("window.flawmap.active.mask = null")
            page.locator("#rate").fill(str(step))
            page.wait_for_function("window.flawmap.active.mask")
            threshold = page.evaluate("window.flawmap.active.point.threshold")
            answer = httpx.get(f"{address}{result['links']['mask.png']}", params={"threshold": repr(threshold)})
            expected = np.asarray(Image.open(io.BytesIO(answer.content))) > 0
            assert np.array_equal(masked(page), expected), threshold
            assert page.locator("#regions tbody tr").count() == page.evaluate("window.flawmap.active.regions.length")
            sizes.append(int(expected.sum()))
            texts.append(page.inner_text("#rate-text"))
        assert len(set(sizes)) > 1
        rates = [float(re.match(r"at most ([\d.]+) %", text)[1]) for text in texts]  # type: ignore[index]
        assert rates == sorted(rates)
        page.click("#own")
        page.wait_for_function(f"window.flawmap.active.point.threshold === {result['threshold']!r}")


def test_regions_reviews_and_exports(made: Path, tmp_path: Path, page: Any) -> None:
    """A row of the table brings its region to the middle; a rejection with a note is stored; three kinds of files."""
    with serving(made, tmp_path) as address:
        page.goto(address)
        sent(page, made / "good.png", made / "flawed.png")
        assert page.locator("#results li").count() == 2
        page.fill("#threshold", "1")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "window.flawmap.active.point.threshold === 1 && window.flawmap.active.regions.length > 1"
        )
        before = page.evaluate("window.flawmap.active.view")
        page.locator("#regions tbody tr").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("window.flawmap.active.view") != before
        assert page.evaluate("window.flawmap.active.chosen === window.flawmap.active.regions[0]")
        page.fill("#note", "a real cut")
        page.click("button[value=reject]")
        page.wait_for_function("document.getElementById('reviewed').textContent === 'rejected'")
        stored = httpx.get(f"{address}/v1/results", params={"review": "reject"}).json()
        assert [(row["name"], row["note"]) for row in stored] == [("flawed.png", "a real cut")]
        for form in ("csv", "jsonl", "coco"):
            with page.expect_download() as download:
                page.click(f"[data-form={form}]")
            text = Path(download.value.path()).read_text(encoding="utf-8")
            assert "flawed.png" in text
            if form == "coco":
                assert len(json.loads(text)["images"]) == 2
        page.select_option("#filter", "review=none")
        page.wait_for_function("document.querySelectorAll('#results li').length === 1")


def test_bad_files_are_told_and_good_ones_go_on(made: Path, tmp_path: Path, page: Any) -> None:
    """An unreadable file between two good ones; its own sentence stands on the page."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    with serving(made, tmp_path / "store") as address:
        page.goto(address)
        sent(page, made / "good.png", tmp_path / "broken.png", made / "flawed.png")
        assert page.locator("#results li").count() == 2
        assert page.locator("#problems li").all_inner_texts() == [
            "broken.png is no known image, whatever its name says; convert it to PNG, TIFF, JPEG, BMP, WebP, "
            "JPEG 2000, PGM or PPM"
        ]


def test_the_line_is_followed_and_a_lost_connection_comes_back(made: Path, tmp_path: Path, page: Any) -> None:
    """A result of someone else appears by itself; the page says that the connection is lost, and goes on by itself."""
    content = (made / "flawed.png").read_bytes()
    with serving(made, tmp_path) as address:
        page.goto(address)
        page.wait_for_function("document.getElementById('connection').textContent === 'connected'")
        httpx.post(f"{address}/v1/inspect", params={"name": "from the line"}, content=content)
        page.wait_for_function("window.flawmap.active?.mask")
        assert "from the line" in page.inner_text("#results")
    page.wait_for_function("document.getElementById('connection').textContent.startsWith('connection lost')")
    page.select_option("#filter", index=1)
    page.wait_for_selector("#problems li")
    page.click(".export >> nth=0")
    page.wait_for_selector("#problems li:nth-child(2)")
    silent = "The service does not answer; check that it runs, and try again."
    assert page.locator("#problems li").all_inner_texts() == [silent, silent]
    page.select_option("#filter", index=0)
    with serving(made, tmp_path, int(address.rsplit(":", 1)[1])):
        page.wait_for_function("document.getElementById('connection').textContent === 'connected'")
        httpx.post(f"{address}/v1/inspect", params={"name": "afterwards"}, content=content)
        page.wait_for_function("document.getElementById('results').textContent.includes('afterwards')")


def test_without_a_map_the_figures_are_shown(made: Path, tmp_path: Path, page: Any) -> None:
    """A service that keeps no images: the page says so, and shows verdict and regions all the same."""
    with serving(made, tmp_path, keep=False) as address:
        page.goto(address)
        page.set_input_files("#files", str(made / "flawed.png"))
        page.wait_for_function("document.querySelector('figcaption').textContent.includes('not kept')")
        result = httpx.get(f"{address}/v1/results").json()[0]
        assert page.locator("#regions tbody tr").count() == len(result["regions"])
        assert page.inner_text("#verdict") == ("NG: flawed" if result["verdict"] == "flawed" else "OK")


def test_an_image_of_twenty_megapixels_is_looked_at(made: Path, tmp_path: Path, page: Any) -> None:
    """It is inspected by bands, shown with its map, decided in the browser, zoomed and moved."""
    tile = np.asarray(Image.open(made / "good.png"))
    large = np.tile(tile, (-(-4000 // tile.shape[0]), -(-5000 // tile.shape[1])))[:4000, :5000].copy()
    large[2000:2040, 2500:2560] = 255
    write_image(tmp_path / "large.png", large)
    page.set_default_timeout(120_000)
    with serving(made, tmp_path / "store") as address:
        page.goto(address)
        sent(page, tmp_path / "large.png")
        assert page.evaluate("window.flawmap.active.mask.length") == 20_000_000
        page.locator("#regions tbody tr").first.click()
        assert page.evaluate("window.flawmap.active.view.scale") > 0.3
        page.focus(".pane canvas")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("0")
        assert page.evaluate("window.flawmap.active.view.scale") < 0.3


def test_a_token_is_asked_for(made: Path, tmp_path: Path, page: Any) -> None:
    """A wrong one is asked for again."""
    with serving(made, tmp_path, token="0123456789abcdef") as address:
        page.goto(address)
        for token in ("wrong", "0123456789abcdef"):
            page.wait_for_selector("#token-box[open]")
            page.fill("#token", token)
            page.keyboard.press("Enter")
        page.wait_for_function("document.getElementById('connection').textContent === 'connected'")
        sent(page, made / "good.png")


def test_the_page_is_operable_by_keyboard_and_in_two_languages(made: Path, tmp_path: Path, page: Any) -> None:
    """Arrows walk through results, + - 0 zoom; Japanese replaces every word, and dark colours keep their contrast."""
    with serving(made, tmp_path) as address:
        page.goto(address)
        sent(page, made / "good.png", made / "flawed.png")
        page.focus("#results")
        shown = page.inner_text("#numbers dd >> nth=0")
        page.keyboard.press("ArrowDown")
        page.wait_for_function(f"!document.querySelector('#numbers dd').textContent.startsWith({shown.split()[0]!r})")
        page.wait_for_function("window.flawmap.active.mask")
        page.focus(".pane canvas")
        before = page.evaluate("window.flawmap.active.view.scale")
        page.keyboard.press("+")
        assert page.evaluate("window.flawmap.active.view.scale") > before
        page.keyboard.press("0")
        assert page.evaluate("window.flawmap.active.view.fitted")
        english = {node.get_attribute("data-t"): node.inner_text() for node in page.locator("main [data-t]").all()}
        page.select_option("#language", "ja")
        japanese = {node.get_attribute("data-t"): node.inner_text() for node in page.locator("main [data-t]").all()}
        assert [key for key in english if english[key] and english[key] == japanese[key]] == []
        assert page.evaluate("document.documentElement.lang") == "ja"
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = {theme!r}")
            for front, back in (("--text", "--pane"), ("--soft", "--pane"), ("--flawed", "--pane"), ("--ok", "--pane")):
                assert contrast(page, front, back) >= 4.5, f"{theme}: {front} on {back}"
            assert contrast(page, "--on-accent", "--accent") >= 4.5
        page.select_option("#panes", "4")
        assert page.locator(".pane").count() == 4


def contrast(page: Any, front: str, back: str) -> float:
    """The ratio of luminances by WCAG 2.1."""

    def luminance(name: str) -> float:
        value = page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue({name!r}).trim()")
        digits = value.lstrip("#")
        digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
        channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(front), luminance(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_control_has_a_name(made: Path, tmp_path: Path, page: Any) -> None:
    """For screen readers: inputs, buttons and lists have a label or a text."""
    with serving(made, tmp_path) as address:
        page.goto(address)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('input, select, textarea, button')].filter((node) =>
                !(node.labels?.length || node.textContent.trim() || node.getAttribute('aria-label') ||
                  node.getAttribute('aria-labelledby'))).map((node) => node.id || node.outerHTML)"""
        )
        assert nameless == []


def test_its_own_policy_lets_the_page_work(made: Path, tmp_path: Path, browser: Any) -> None:
    """With the policy in force: no complaint of the browser, and an image gets its decision."""
    with serving(made, tmp_path) as address:
        page, said = browser.new_page(), list[str]()
        page.on("console", lambda message: said.append(message.text))
        page.goto(address)
        page.set_input_files("#files", str(made / "flawed.png"))
        page.wait_for_selector("#regions tbody tr")
        page.click("#card-open")
        page.wait_for_selector("#card[open]")
        page.close()
        assert said == []


def test_nothing_comes_from_elsewhere() -> None:
    """No address of another host in the page's files, and no script or style inside of the markup."""
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        found = [url for url in re.findall(r"https?://[^\s\"')]+", text) if not url.startswith("http://www.w3.org/")]
        assert found == [], file.name
    markup = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*src=)|<style| style=| on\w+=", markup) == []
    assert sum(file.stat().st_size for file in PAGE.iterdir()) < 100_000

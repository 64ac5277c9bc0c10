"""The picture of the service's page from what `flawmap demo` left: its images inspected, one of them shown.

    flawmap demo
    python examples/page_picture.py flawmap-demo docs/images/page.png

It needs `pip install 'flawmap[serve]' playwright`, and a Chromium whose path --chromium names.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

from flawmap.core.runtime import Runtime
from flawmap.service.inspector import Job, loaded_models
from flawmap.service.server import Server
from flawmap.service.state import Service
from flawmap.service.store import Store

SIZE: ViewportSize = {"width": 1280, "height": 800}
COLOURS = 64  # of the file, which is to be small


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("demo", type=Path, help="folder of flawmap demo")
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--kind", default="cut", help="kind of flaw that is shown [cut]")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="Chromium's program")
    given = parser.parse_args(arguments)
    images = sorted((given.demo / "data" / "test").glob("*/000.png"))
    with tempfile.TemporaryDirectory() as folder:
        models = loaded_models([given.demo / "ssim.flawmap"], Runtime())
        service = Service.of(models, Store(Path(folder) / "results"))
        for image in sorted(images, key=lambda path: path.parent.name == given.kind):
            copy = Path(folder) / image.parent.name
            shutil.copy(image, copy)
            service.inspector.submit(Job(copy, f"{image.parent.name}-{image.name}", models["ssim"])).result()
        server = Server(service)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            with sync_playwright() as tools:
                browser = tools.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport=SIZE, color_scheme="light", locale="en-GB", timezone_id="UTC")
                page.goto(f"http://127.0.0.1:{port}/")
                page.wait_for_selector("#regions tbody tr")
                page.wait_for_timeout(500)
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                browser.close()
        finally:
            server.should_exit = True
            thread.join()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(given.output, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

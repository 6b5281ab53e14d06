from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.studio.made import make

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with everything in it."""
    return make(tmp_path / "one run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    reason = "needs the playwright package: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Served:
    """The studio on a free port, in a thread: `address`, and what is behind it."""

    def __init__(self, places: list[Path], token: str | None = None) -> None:
        import uvicorn

        from unnoise.studio.jobs import Worker
        from unnoise.studio.models import Models
        from unnoise.studio.runs import Runs, routes
        from unnoise.studio.server import app

        self.socket = socket.create_server(("127.0.0.1", 0))
        port = self.socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.runs, self.worker = Runs(places), Worker()
        self.models = Models(self.runs.folders)
        self.app = app(self.models, self.worker, {f"127.0.0.1:{port}"}, token)
        self.app.router.routes.extend(routes(self.runs))
        config = uvicorn.Config(self.app, log_level="warning", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=[[self.socket]], daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(5)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The studio with an empty folder of runs, `studio.runs.places[0]`."""
    pytest.importorskip("uvicorn", reason="needs the studio: pip install 'unnoise[studio]'")
    served = Served([tmp_path_factory.mktemp("runs")])
    yield served
    served.close()


@pytest.fixture
def tab(browser: Any, studio: Served) -> Iterator[Callable[..., Any]]:
    """Opens the studio in a tab of its own; afterwards the browser complained of nothing."""
    wrong: list[str] = []
    contexts = []

    def open_tab(path: str = "/", width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(studio.address + path)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    expected = ("Failed to load resource: the server responded with a status of 4", "Canvas2D: ")
    assert [text for text in wrong if not text.startswith(expected)] == []

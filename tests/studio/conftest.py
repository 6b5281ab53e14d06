from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.studio.made import make

CHROMIUM = shutil.which("chromium")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser is slow to drive: its tests are long."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)


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


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The studio with an empty folder of runs, `studio.runs.places[0]`."""
    pytest.importorskip("uvicorn", reason="needs the studio: pip install 'unnoise[studio]'")
    from tests.studio.client import studio

    with studio(tmp_path_factory.mktemp("runs")) as running:
        yield running


@pytest.fixture
def tab(browser: Any, studio: Any) -> Iterator[Callable[..., Any]]:
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

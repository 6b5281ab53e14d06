"""Take the studio's pictures for the docs: python docs/screenshots.py RUNS (a folder of runs)."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from unnoise.data.images import save_png

IMAGES = Path(__file__).parent / "images"
ADDRESS = "http://127.0.0.1:8399"
SCREENS = ("studio-play", "studio-runs", "studio-edit", "studio-learn")


def play(tab: Page) -> None:
    """Emoji, chosen and scrubbed back."""
    tab.goto(f"{ADDRESS}/#play")
    _settled(tab, ".caption")
    tab.get_by_label("step", exact=True).fill("6")


def runs(tab: Page) -> None:
    """All runs ticked."""
    tab.goto(f"{ADDRESS}/#runs")
    tab.locator(".entry").first.wait_for()
    for box in tab.get_by_role("checkbox").all():
        box.check()
        tab.wait_for_timeout(500)
    tab.wait_for_timeout(1500)


def edit(tab: Page) -> None:
    """A sample with a part of it painted anew."""
    tab.goto(f"{ADDRESS}/#edit")
    tab.get_by_role("button", name="Use a sample").click()
    tab.locator("canvas").first.wait_for()
    tab.wait_for_timeout(1500)
    box = tab.locator("canvas").first.bounding_box()
    assert box is not None
    x, y, side = box["x"], box["y"], box["width"]
    tab.mouse.move(x + 0.35 * side, y + 0.3 * side)
    tab.mouse.down()
    for share in (0.4, 0.5, 0.6, 0.65):
        tab.mouse.move(x + share * side, y + (share - 0.05) * side)
    tab.mouse.up()
    tab.get_by_role("button", name="Paint it anew").click()
    tab.wait_for_timeout(6000)


def learn(tab: Page) -> None:
    """The lesson on one step of DDPM."""
    tab.goto(f"{ADDRESS}/#learn/step")
    tab.get_by_role("heading", name="One step").wait_for()
    tab.get_by_label("Step:").fill("11")
    tab.wait_for_timeout(500)


def _settled(tab: Page, selector: str) -> None:
    script = "s => /, [0-9.]+ s$/.test(document.querySelector(s)?.innerText ?? '')"
    tab.wait_for_function(script, arg=selector)


def main(folder: str) -> None:
    """Open a studio on a folder of runs and write a picture of each screen."""
    command = [sys.executable, "-m", "unnoise", "studio", folder, "--no-open", "--port", "8399"]
    server = subprocess.Popen(command)
    try:
        while True:
            try:
                urllib.request.urlopen(ADDRESS).close()
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as tool:
            chromium = tool.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox"]
            )
            for name, screen in zip(SCREENS, (play, runs, edit, learn), strict=True):
                tab = chromium.new_page(viewport={"width": 1180, "height": 760})
                screen(tab)
                shot = Image.open(io.BytesIO(tab.screenshot()))
                text = {"unnoise": f"a screen of `unnoise studio`: {screen.__doc__}"}
                save_png(IMAGES / f"{name}.png", shot.convert("RGB"), text)
                print(IMAGES / f"{name}.png")
            chromium.close()
    finally:
        server.terminate()


if __name__ == "__main__":
    main(sys.argv[1])

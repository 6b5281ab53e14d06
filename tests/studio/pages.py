"""What a person sees of the studio's pages, as values."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

PIXELS = """(canvas) => {
  const { width, height } = canvas;
  return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
}"""
DROP = """async ([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""


def canvas(tab: Any, selector: str = ".wall canvas") -> np.ndarray:
    """RGBA (h, w, 4) of a canvas."""
    width, height, values = tab.locator(selector).first.evaluate(PIXELS)
    return np.array(values, np.uint8).reshape(height, width, 4)


def wall(tab: Any, size: tuple[int, int], selector: str = ".wall canvas") -> np.ndarray:
    """The pictures of a wall, RGBA (n, h, w, 4), blank cells too."""
    pixels, (h, w) = canvas(tab, selector), size
    rows, columns = (pixels.shape[0] + 1) // (h + 1), (pixels.shape[1] + 1) // (w + 1)
    return np.stack([
        pixels[y * (h + 1) : y * (h + 1) + h, x * (w + 1) : x * (w + 1) + w]
        for y in range(rows) for x in range(columns)
    ])  # fmt: skip


def done(tab: Any, selector: str = ".caption") -> None:
    """Wait until a job has ended well."""
    tab.wait_for_function(
        "selector => /, [0-9.]+ s$/.test(document.querySelector(selector)?.innerText ?? '')",
        arg=selector, timeout=30_000,
    )  # fmt: skip


def state_of(job: Any) -> str:
    """How a job of the worker ends."""
    until = time.monotonic() + 20
    while not job.ended and time.monotonic() < until:
        time.sleep(0.02)
    return job.state


def drop(tab: Any, path: Path, kind: str = "image/png") -> None:
    """Drop a file on the page."""
    import base64

    tab.evaluate(DROP, [path.name, kind, base64.b64encode(path.read_bytes()).decode()])


def accessible(tab: Any) -> list[str]:
    """What axe-core finds that is serious."""
    axe = __import__("axe_playwright_python.sync_playwright", fromlist=["Axe"]).Axe
    found = axe().run(tab).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]

"""Eight lessons on the bundled digits, as data for a page of the studio and as files of their own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnoise import __version__
from unnoise.files import write_bytes
from unnoise.studio.lessons import learning, sampling
from unnoise.studio.lessons.lesson import Bench, Lesson, plain
from unnoise.studio.page import html

LESSONS: dict[str, tuple[str, Callable[[Bench], Lesson]]] = {
    "noise": ("Noise", learning.noise),
    "schedule": ("Schedule and SNR", learning.schedule),
    "network": ("What the network sees", learning.network),
    "loss": ("Loss by noise level", learning.loss),
    "step": ("One step", sampling.step),
    "steps": ("Steps against quality", sampling.steps),
    "guidance": ("Guidance", sampling.guidance),
    "copies": ("Is it copying?", sampling.copies),
}
"""Name -> title, and what computes the lesson, in the order of reading."""
ONE_AT_A_TIME = threading.Lock()
"""Two readers who open a lesson at once wait for the same computation."""


def record(name: str, device: str = "cpu") -> dict[str, Any]:
    """A lesson of LESSONS as plain data, computed once."""
    with ONE_AT_A_TIME:
        return _computed(name, device)


@functools.cache
def _computed(name: str, device: str) -> dict[str, Any]:
    title, compute = LESSONS[name]
    titles = [[key, words] for key, (words, _) in LESSONS.items()]
    bench = _bench(device)
    made = f"Computed by unnoise {__version__} with its digits model, {bench.model.weights_hash}."
    words = {"name": name, "title": title, "all": titles, "made": made}
    return words | plain(compute(bench))


_bench = functools.cache(Bench.of)


def write(folder: Path, maths: str = "../maths.md") -> list[Path]:
    """Write each lesson as a page that opens offline, NAME.html; `maths` is where docs/maths.md is."""
    paths = [folder / f"{name}.html" for name in LESSONS]
    for path in paths:
        content = html("lesson.html", "lesson", {**record(path.stem), "maths_page": maths})
        write_bytes(path, content.encode())
    return paths

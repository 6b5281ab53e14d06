"""Eight lessons on the bundled digits, as data for the studio's page and as files of their own."""

from __future__ import annotations

import functools
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnoise import __version__
from unnoise.files import write_bytes
from unnoise.studio.lessons import learning, sampling
from unnoise.studio.lessons.lesson import Bench, Shown, plain
from unnoise.studio.page import html

LESSONS: dict[str, Callable[[Bench], Shown]] = {
    "noise": learning.noise,
    "schedule": learning.schedule,
    "network": learning.network,
    "loss": learning.loss,
    "step": sampling.step,
    "steps": sampling.steps,
    "guidance": sampling.guidance,
    "copies": sampling.copies,
}
"""Name -> what computes the lesson, in the order of reading. Their words are in words.toml."""
WORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
ONE_AT_A_TIME = threading.Lock()
"""Two readers who open a lesson at once wait for the same computation."""
MATHS = "https://github.com/unnoise/unnoise/blob/main/docs/maths.md"


def record(name: str, device: str = "cpu") -> dict[str, Any]:
    """A lesson of LESSONS as data for JSON, computed once."""
    with ONE_AT_A_TIME:
        return _computed(name, device)


@functools.cache
def _computed(name: str, device: str) -> dict[str, Any]:
    bench, words = _bench(device), WORDS[name]
    shown = LESSONS[name](bench)
    t = "{value}" if words["control"] == "Time t" else "500"
    said = {key: _kept(words[key].format(**shown.said)) for key in ("text", "answer")}
    return {
        **{key: text.strip() for key, text in {**words, **said}.items()},
        "name": name,
        "all": [[key, WORDS[key]["title"]] for key in LESSONS],
        "code": words["code"].replace("{ten}", WORDS["ten"]).replace("{t}", t).strip(),
        "anchor": words["maths"].lower().replace(".", "").replace(" ", "-"),
        "made": f"Computed by unnoise {__version__} with its digits model, "
        f"{bench.model.weights_hash}.",
        **plain(shown),
    }


_bench = functools.cache(Bench.of)


def _kept(text: str) -> str:
    """A text whose numbers stay with their units, and its equations whole."""
    return text.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")


def write(folder: Path, maths: str = MATHS) -> list[Path]:
    """Write each lesson as a page that opens offline, NAME.html; docs/maths.md is at `maths`."""
    paths = [folder / f"{name}.html" for name in LESSONS]
    for path in paths:
        content = html("lesson.html", "lesson", {**record(path.stem), "maths_page": maths})
        write_bytes(path, content.encode())
    return paths

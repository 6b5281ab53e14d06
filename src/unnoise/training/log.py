"""What training says: a progress line for people, metrics.jsonl for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unnoise.config import RunConfig, to_dict
from unnoise.training.trackers import CLOCKS, Tracker, start


class Log:
    """Appends to metrics.jsonl and keeps one progress bar (plain lines where there is no terminal).

    Of several ranks one speaks; the others are silent and write nothing.
    """

    def __init__(self, path: Path, speaks: bool = True, forgives: bool = False) -> None:
        self.path, self.speaks, self.forgives = path, speaks, forgives
        self.trackers: list[Tracker] = []
        self.plain_at = 0.0
        layout = "{percentage:3.0f}%|{bar:20}| {desc}"
        self.bar = tqdm(
            total=1.0,
            bar_format=layout,
            disable=not (speaks and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def open(self, config: RunConfig, nimg: int) -> None:
        """Start the configured trackers of a run that goes on after nimg images."""
        self.trackers = [
            start(name, self.path.parent, to_dict(config), nimg) for name in config.train.trackers
        ]

    def cut(self, step: int) -> None:
        """Forget the lines after a step: a resumed run writes them again, so that no curve doubles back."""
        if self.speaks and self.path.exists():
            lines = self.path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if _step(line) <= step]
            if kept == lines:
                return
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(self.path)

    def metrics(self, values: dict[str, Any], picture: Path | None = None) -> None:
        """One line of metrics.jsonl; trackers also get the picture."""
        if not self.speaks:
            return
        with self.forgiving("metrics not written"), self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        for tracker in self.trackers:
            tracker.metrics(
                {key: value for key, value in values.items() if key not in CLOCKS}, values["nimg"]
            )
            if picture is not None:
                tracker.picture(picture, values["nimg"])

    @contextmanager
    def forgiving(self, what: str) -> Iterator[None]:
        """With train.on_save_error = continue, a file that cannot be written is said, and training goes on."""
        try:
            yield
        except OSError as error:
            if not self.forgives:
                raise
            self.say(f"{what}, training goes on: {error}")

    def progress(self, done: float, values: dict[str, Any], remaining_sec: float) -> None:
        """Move the bar, or print a line at most every ten seconds."""
        text = (
            f"step {values['step']} · {values['nimg'] / 1000:.1f} kimg · loss {values['loss']:.4f} · "
            f"grad {values['grad_norm']:.2f} · {values['img_per_sec']:.0f} img/s · {duration(remaining_sec)} left"
        )
        if not self.bar.disable:
            self.bar.n = done
            self.bar.set_description_str(text)
        elif time.monotonic() - self.plain_at > 10:
            self.plain_at = time.monotonic()
            self.say(text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self.speaks:
            return
        if self.bar.disable:
            print(text, flush=True)
        else:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        for tracker in self.trackers:
            tracker.close()


def _step(line: str) -> float:
    """The step of a line; infinite for one that a crash left in pieces."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def duration(sec: float) -> str:
    """Seconds as people write them: 1h 02m, 3m 05s, 12s."""
    whole = round(sec)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"

"""What training says: a progress line for people, metrics.jsonl for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unnoise import events
from unnoise.config import RunConfig, to_dict
from unnoise.events import Event, Message, Progress
from unnoise.files import write_bytes
from unnoise.training.trackers import CLOCKS, Tracker, start
from unnoise.units import duration


class Log:
    """Appends to metrics.jsonl and reports progress and messages.

    Of several ranks one speaks; the others are silent and write nothing.
    """

    def __init__(self, path: Path, speaks: bool = True, forgives: bool = False) -> None:
        self.path, self.speaks, self.forgives = path, speaks, forgives
        self.trackers: list[Tracker] = []
        self.listeners = events.listeners()  # a thread that saves speaks through the same ones

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
            write_bytes(self.path, "".join(line + "\n" for line in kept).encode())

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
        """Report how far the run is."""
        text = (
            f"step {values['step']} · {values['nimg'] / 1000:.1f} kimg · loss {values['loss']:.4f} · "
            f"grad {values['grad_norm']:.2f} · {values['img_per_sec']:.0f} img/s · "
            f"{duration(remaining_sec)} left"
        )
        self._send(Progress("training", done, 1.0, detail=text))

    def say(self, text: str) -> None:
        """Report a line for people."""
        self._send(Message(text))

    def _send(self, event: Event) -> None:
        for listener in self.listeners if self.speaks else ():
            listener(event)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def _step(line: str) -> float:
    """The step of a line; infinite for one that a crash left in pieces."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf

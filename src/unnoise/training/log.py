"""What training reports: progress and messages as events, and metrics.jsonl for programs."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from unnoise import events
from unnoise.config import to_dict
from unnoise.errors import CheckpointError
from unnoise.events import Event, Message, Progress
from unnoise.files import write_bytes
from unnoise.records import read_line
from unnoise.training.run import Run
from unnoise.training.state import TrainState
from unnoise.training.trackers import Tracker, start
from unnoise.units import duration

BEAT_SEC = 1.0


class Log:
    """Appends to metrics.jsonl, and sends events; of several ranks only the main one does."""

    def __init__(self, run: Run) -> None:
        self.run, self.path = run, run.folder / "metrics.jsonl"
        self.trackers: list[Tracker] = []
        self.samples: Tensor | None = None
        """Those of the newest preview."""
        self.window = (time.monotonic(), 0)
        """Time and images seen at the last line of `steps`."""
        self.at_sec = self.beaten = 0.0
        """Seconds of training at that line, and the time of the last progress."""

    def open(self, nimg: int) -> None:
        """Start the configured trackers, and the clock, of a run that resumes after nimg images."""
        config, names = to_dict(self.run.config), self.run.config.train.trackers
        self.trackers = [start(name, self.run.folder, config, nimg) for name in names]
        self.window = (time.monotonic(), nimg)

    def cut(self, step: int) -> None:
        """Delete the lines after a step: a resumed run writes them again."""
        if self.run.world.main and self.path.exists():
            text = self.path.read_text(errors="replace")
            kept = "".join(line + "\n" for line in text.splitlines() if _step(line) <= step)
            if kept != text:  # also where the last line has no end
                write_bytes(self.path, kept.encode())

    def metrics(self, values: dict[str, Any], picture: Path | None = None) -> None:
        """Append a line to metrics.jsonl; trackers also get the picture."""
        if not self.run.world.main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        numbers = {key: value for key, value in values.items() if key not in ("step", "nimg")}
        for tracker in self.trackers:
            tracker.write(numbers, values["nimg"], picture)

    def steps(self, state: TrainState, lr: float) -> None:
        """Write the mean loss of the steps since the last line, and report progress."""
        counters, speed = state.counters, self._speed(state)
        self.window, self.at_sec = (time.monotonic(), counters.nimg), counters.train_sec
        counters.loss = counters.loss_sum / counters.loss_steps
        counters.loss_sum, counters.loss_steps = 0.0, 0
        values = {
            "step": counters.step,
            "nimg": counters.nimg,
            "epoch": counters.nimg / self.run.data.num_train,
            "loss": counters.loss,
            "grad_norm": state.grad_norm,
            "lr": lr,
            "img_per_sec": speed,
            "train_sec": counters.train_sec,
        }
        self.metrics(values)
        self.beat(state, speed)

    def _speed(self, state: TrainState) -> float:
        """Images per second since the last line."""
        began, nimg = self.window
        return (state.counters.nimg - nimg) / max(time.monotonic() - began, 1e-9)

    def beat(self, state: TrainState, speed: float | None = None) -> None:
        """Report progress, at most once a second between the lines."""
        counters, now = state.counters, time.monotonic()
        if speed is None and now - self.beaten < BEAT_SEC:
            return
        self.beaten, done = now, self.run.progress(counters)
        left = duration(counters.train_sec * (1 - done) / max(done, 1e-9))
        steps = counters.loss_steps
        loss = counters.loss_sum / steps if steps else counters.loss
        speed = self._speed(state) if speed is None else speed
        read = math.isfinite(loss)  # a device tells it every 20 steps
        told = f"loss {loss:.4f} · grad {state.grad_norm:.2f} · " if read else ""
        self.progress(
            done,
            f"step {counters.step} · {counters.nimg / 1000:.1f} kimg · {told}{speed:.0f} img/s · "
            f"{left} left",
        )

    def progress(self, done: float, detail: str = "") -> None:
        """Report the share of the run that is done."""
        self._send(Progress("training", done, 1.0, detail=detail))

    def say(self, text: str) -> None:
        """Report a line for people."""
        self._send(Message(text))

    def _send(self, event: Event) -> None:
        if self.run.world.main:
            events.send(event)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def _step(line: str) -> float:
    """The step of a line; infinite for one that a crash left in pieces."""
    try:
        return float(read_line(line).get("step", math.inf))
    except CheckpointError:
        return math.inf

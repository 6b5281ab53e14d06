"""One thread that works for the page: a bounded queue of jobs, which outlive their connections.

A job's records are bytes, ready to be sent: u32 length of what follows, u32 kind, and then JSON
(kind 0) or a frame (kind 1): u32 step, u32 evaluations, f32 noise (sigma / alpha), u32 n, c, h, w,
then x_t and the predicted x0 as uint8. The first record is the job's header, the last its end.
"""

from __future__ import annotations

import json
import math
import secrets
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from unnoise.errors import UserError, one_line

if TYPE_CHECKING:
    from unnoise.diffusion.samplers.step import Step
    from unnoise.model import Model
    from unnoise.studio.works import Plan

MOST_WAITING = 16
MOST_KEPT, MOST_KEPT_BYTES = 512, 192_000_000
"""Ended jobs, and bytes of their records, that stay. One who drags a point makes a hundred."""
MOST_FRAMES, MOST_FRAME_BYTES = 100, 96_000_000
"""Frames of a job, and their bytes; a longer one keeps every second, third, .. and the last."""
MOST_SECONDS = 600.0
PATIENCE_SEC = 3.0
"""Torch is imported once the page is there, which it would delay, or after this time."""
JSON, FRAME = 0, 1


class Full(UserError):
    """The queue is full."""


class Stopped(Exception):
    """The job was stopped."""


class Job:
    """A work on its way: its records, and who waits for more of them."""

    def __init__(self, model: Model, plan: Plan, header: dict[str, Any]) -> None:
        self.id = secrets.token_hex(8)
        self.model: Model | None = model
        self.plan: Plan | None = plan
        """Both until it ends: a kept job keeps no model, and no uploads."""
        self.names, self.data = model.names, model.config.data
        self.header = {"id": self.id, **header}
        self.records: list[bytes] = []
        self.bytes = 0
        self.state = "waiting"
        self.stopping = False
        self.pictures: Any = None
        """uint8 (n, c, h, w), once it is done."""
        self.listeners: list[Callable[[], None]] = []
        self.add(JSON, json.dumps(self.header).encode())

    def add(self, kind: int, *parts: bytes) -> None:
        """Append a record and tell who waits."""
        body = b"".join(parts)
        self.records.append(struct.pack("<II", 4 + len(body), kind) + body)
        self.bytes += len(self.records[-1])
        self.tell()

    def tell(self) -> None:
        """Wake who waits for more."""
        for tell in list(self.listeners):
            with suppress(RuntimeError):  # the server has ended
                tell()

    @property
    def ended(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    def end(self, state: str, seconds: float, error: str | None = None) -> None:
        """Say how it ended; nothing comes after this."""
        found = {"state": state, "seconds": round(seconds, 4), "error": error}
        self.add(JSON, json.dumps(found).encode())
        self.model = self.plan = None
        self.state = state  # after its record: who sees it has all
        self.tell()

    def run(self) -> None:
        """Do the work, in the worker's thread."""
        began, state, error = time.perf_counter(), "done", None
        self.state = "running"
        try:
            self._make(began + MOST_SECONDS)
        except Stopped:
            state = "stopped"
        except UserError as raised:
            state, error = "failed", str(raised)
        except Exception as raised:  # noqa: BLE001  (the worker goes on, whatever a job does)
            from unnoise.memory import out_of_memory

            state, error = "failed", "memory ran out; expected fewer or smaller images"
            if not out_of_memory(raised):
                traceback.print_exc()
                error = one_line(f"{type(raised).__name__}: {raised}")
        self.end(state, time.perf_counter() - began, error)

    def _make(self, end: float) -> None:
        """Make the pictures, and keep frames of the steps on the way."""
        plan = self.plan
        assert self.model is not None and plan is not None
        most = max(1, MOST_FRAME_BYTES // (2 * math.prod(self.header["shape"])))
        every, done = math.ceil(plan.steps / min(MOST_FRAMES, most)), 0
        nfe, before = 0, 0

        def on_step(step: Step) -> None:
            nonlocal done, nfe, before
            before += nfe if done in plan.branches else 0
            done, nfe = done + 1, step.nfe
            if self.stopping:
                raise Stopped
            if time.perf_counter() > end:
                raise UserError(f"took more than {MOST_SECONDS:.0f} s; expected less work")
            if done % every == 0 or done == plan.steps:
                self.add(FRAME, *_frame(done, step._replace(nfe=before + nfe)))

        if self.stopping:
            raise Stopped
        self.pictures = plan.make(self.model.watched(on_step))


def _frame(number: int, step: Step) -> tuple[bytes, ...]:
    """x_t, scaled so that it can be seen at any level, and the x0 predicted there."""
    from unnoise.data.images import from_model

    alpha, sigma = float(step.level.alpha), float(step.level.sigma)
    x = from_model(step.x / (alpha**2 + sigma**2) ** 0.5).cpu()
    x0 = from_model(step.prediction.x0 if sigma else step.x).cpu()
    noise = min(sigma / alpha, 1e38) if alpha else math.inf
    head = struct.pack("<IIfIIII", number, step.nfe, noise, *x.shape)
    return head, x.numpy().tobytes(), x0.numpy().tobytes()


class Worker:
    """The thread, its queue, and the jobs that can still be read."""

    def __init__(self) -> None:
        self.waiting: deque[Job] = deque()
        self.jobs: dict[str, Job] = {}
        """The last is the latest that was begun or read."""
        self.running: Job | None = None
        self.state = "starting"
        """starting, ready, or why torch cannot be used."""
        self.wanted, self.ready = threading.Event(), threading.Event()
        self.closed = False
        self.changed = threading.Condition()
        threading.Thread(target=self._work, name="model worker", daemon=True).start()

    def wait(self) -> None:
        """Wait until torch is there, or cannot be used."""
        self.wanted.set()
        self.ready.wait()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue; Full where it has no room."""
        with self.changed:
            if len(self.waiting) >= MOST_WAITING:
                raise Full(f"{MOST_WAITING} jobs are waiting; expected fewer at once")
            self.jobs[job.id] = job
            self.waiting.append(job)
            self._forget()
            self.changed.notify()
        return job

    def find(self, key: str) -> Job | None:
        """A job that is about to be read, and so stays longer than others."""
        with self.changed:
            job = self.jobs.pop(key, None)
            if job is not None:
                self.jobs[key] = job
        return job

    def stop(self, job: Job) -> None:
        """Stop a job at its next step, or now if it waits."""
        with self.changed:
            job.stopping = True
            if job in self.waiting:
                self.waiting.remove(job)
                job.end("stopped", 0.0)

    def close(self) -> None:
        """End all streams and the work, as the server ends."""
        self.closed = True
        for job in list(self.jobs.values()):
            job.stopping = True
            job.tell()

    def _forget(self) -> None:
        """Drop the ended jobs beyond the bounds that were not read for longest."""
        ended = [job for job in self.jobs.values() if job.ended]
        size = sum(job.bytes for job in ended)
        while len(ended) > MOST_KEPT or size > MOST_KEPT_BYTES:
            oldest = ended.pop(0)
            size -= oldest.bytes
            del self.jobs[oldest.id]

    def _work(self) -> None:
        self.wanted.wait(PATIENCE_SEC)
        try:
            import unnoise.studio.works  # noqa: F401  (imports torch)

            self.state = "ready"
        except Exception as error:  # noqa: BLE001  (the page says why)
            self.state = one_line(f"torch cannot be used: {error}")
        self.ready.set()
        while not self.closed:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting)
                self.running = job = self.waiting.popleft()
            job.run()
            with self.changed:
                self.running = None
                self._forget()
            del job

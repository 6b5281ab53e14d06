"""One thread that works for the page: a bounded queue of jobs, whose frames outlive a connection.

A job's records are bytes, ready to be sent: u32 length of what follows, u32 kind, and then JSON
(kind 0) or a frame (kind 1): u32 step, u32 evaluations, f32 noise (sigma / alpha), u32 n, c, h, w,
then x_t and the predicted x0 as uint8. The first record is the job's header, the last its end.
"""

from __future__ import annotations

import json
import math
import queue
import secrets
import struct
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from unnoise.errors import UserError, one_line

if TYPE_CHECKING:
    from unnoise.diffusion.samplers.step import Step
    from unnoise.model import Model
    from unnoise.studio.works import Plan

MOST_WAITING = 16
MOST_KEPT, MOST_KEPT_BYTES = 64, 192_000_000
"""Ended jobs, and bytes of their records, that stay."""
MOST_FRAMES = 100
MOST_SECONDS = 600.0
JSON, FRAME = 0, 1


class Full(UserError):
    """The queue is full."""


class Stopped(Exception):
    """The job was stopped."""


class Job:
    """A work on its way: its records, and who waits for more of them."""

    def __init__(self, model: Model, plan: Plan, header: dict[str, Any]) -> None:
        self.id = secrets.token_hex(8)
        self.model, self.plan = model, plan
        self.header = {"id": self.id, **header}
        self.records: list[bytes] = []
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
        self._tell()

    def _tell(self) -> None:
        for tell in list(self.listeners):
            with suppress(RuntimeError):  # the server has ended
                tell()

    @property
    def ended(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    @property
    def bytes(self) -> int:
        return sum(map(len, self.records))

    def end(self, state: str, seconds: float, error: str | None = None) -> None:
        """Say how it ended; nothing comes after this."""
        found = {"state": state, "seconds": round(seconds, 4), "error": error}
        self.add(JSON, json.dumps(found).encode())
        self.state = state  # after its record: who sees it has all
        self._tell()

    def run(self) -> None:
        """Do the work, in the worker's thread."""
        began, every = time.perf_counter(), math.ceil(self.plan.steps / MOST_FRAMES)
        done, nfe, before = 0, 0, 0

        def on_step(step: Step) -> None:
            nonlocal done, nfe, before
            before += nfe if step.nfe < nfe else 0  # of the walk that this one branches from
            done, nfe = done + 1, step.nfe
            if self.stopping:
                raise Stopped
            if time.perf_counter() - began > MOST_SECONDS:
                raise UserError(f"took more than {MOST_SECONDS:.0f} s; expected less work")
            if done % every == 0 or done == self.plan.steps:
                self.add(FRAME, *_frame(done, step._replace(nfe=before + nfe)))

        self.state = "running"
        try:
            if self.stopping:
                raise Stopped
            self.pictures = self.plan.make(self.model.watched(on_step))
            self.end("done", time.perf_counter() - began)
        except Stopped:
            self.end("stopped", time.perf_counter() - began)
        except UserError as error:
            self.end("failed", time.perf_counter() - began, str(error))
        except Exception as error:  # noqa: BLE001  (the worker goes on, whatever a job does)
            traceback.print_exc()
            self.end("failed", time.perf_counter() - began, one_line(str(error)))


def _frame(number: int, step: Step) -> tuple[bytes, ...]:
    """x_t, scaled so that it can be seen at any level, and the x0 predicted there."""
    from unnoise.data.images import from_model

    alpha, sigma = float(step.level.alpha), float(step.level.sigma)
    x = from_model(step.x / (alpha**2 + sigma**2) ** 0.5).cpu()
    x0 = from_model(step.prediction.x0 if sigma else step.x).cpu()
    noise = sigma / alpha if alpha else math.inf
    head = struct.pack("<IIfIIII", number, step.nfe, noise, *x.shape)
    return head, x.numpy().tobytes(), x0.numpy().tobytes()


class Worker:
    """The thread, its queue, and the jobs that can still be read."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self.jobs: dict[str, Job] = {}
        self.state = "starting"
        """starting, ready, or why torch cannot be used."""
        self.running: Job | None = None
        self.lock = threading.Lock()
        self.ready = threading.Event()
        threading.Thread(target=self._work, name="model worker", daemon=True).start()

    def submit(self, job: Job) -> Job:
        """Put a job into the queue; Full where it has no room."""
        self._forget()
        try:
            self.waiting.put_nowait(job)
        except queue.Full:
            raise Full(f"{MOST_WAITING} jobs are waiting; expected fewer at once") from None
        with self.lock:
            self.jobs[job.id] = job
        return job

    def stop(self, job: Job) -> None:
        """Stop a job at its next step, or before its first."""
        job.stopping = True

    def _forget(self) -> None:
        """Drop the oldest ended jobs beyond the bounds."""
        with self.lock:
            ended = [job for job in self.jobs.values() if job.ended]
            size = sum(job.bytes for job in ended)
            while ended and (len(ended) > MOST_KEPT or size > MOST_KEPT_BYTES):
                oldest = ended.pop(0)
                size -= oldest.bytes
                del self.jobs[oldest.id]

    def _work(self) -> None:
        try:
            from unnoise.studio import works

            self.state = "ready" if works.KINDS else ""
        except Exception as error:  # noqa: BLE001  (the page says why)
            self.state = one_line(f"torch cannot be used: {error}")
        self.ready.set()
        while True:
            job = self.waiting.get()
            self.running = job
            job.run()
            self.running = None

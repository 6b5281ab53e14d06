"""A studio in this process, on a port of its own, and a client of it."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn

from unnoise.studio.jobs import Worker
from unnoise.studio.models import Models
from unnoise.studio.runs import Runs, routes
from unnoise.studio.server import UVICORN, app


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Frame:
    """A step of a job."""

    step: int
    nfe: int
    noise: float
    x: np.ndarray
    x0: np.ndarray


@dataclass
class Done:
    """All records of a job."""

    header: dict[str, Any]
    frames: list[Frame]
    end: dict[str, Any]
    content: bytes

    @property
    def pictures(self) -> torch.Tensor:
        return torch.from_numpy(self.frames[-1].x0.copy())


@dataclass(frozen=True)
class Client:
    """Requests to a server at a port of this machine."""

    port: int

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        content = json.dumps({} if body is None else body).encode()
        return self.request("POST", path, content, {"Content-Type": "application/json", **headers})

    def start(self, **body: Any) -> dict[str, Any]:
        """Put a job into the queue and give its header."""
        answer = self.post("/api/jobs", body)
        assert answer.status == 202, answer.content
        return answer.json

    def finish(self, header: dict[str, Any], first: int = 0) -> Done:
        """All of a job, from record `first` on."""
        return read(self.get(f"/api/jobs/{header['id']}?from={first}").content, header)

    def make(self, **body: Any) -> Done:
        """Do a job, and all that is known of it."""
        return self.finish(self.start(**body))

    def png(self, header: dict[str, Any], query: str = "") -> bytes:
        answer = self.get(f"/api/jobs/{header['id']}/png{query}")
        assert answer.status == 200, answer.content
        assert answer.headers["content-type"] == "image/png"
        return answer.content

    def recipe(self, png: bytes) -> dict[str, Any]:
        answer = self.post("/api/recipe", {"picture": base64.b64encode(png).decode()})
        assert answer.status == 200, answer.content
        return answer.json


def read(content: bytes, header: dict[str, Any]) -> Done:
    """Read a stream of records."""
    frames, end, rest = [], {}, content
    while rest:
        size, kind = struct.unpack_from("<II", rest)
        body, rest = rest[8 : 4 + size], rest[4 + size :]
        if kind == 0:
            end = json.loads(body)
        else:
            step, nfe, noise, *shape = struct.unpack_from("<IIfIIII", body)
            x, x0 = np.frombuffer(body[28:], np.uint8).reshape(2, *shape)
            frames.append(Frame(step, nfe, noise, x, x0))
    return Done(header, frames, end, content)


@dataclass(frozen=True)
class Studio(Client):
    """A client, and what is behind the server."""

    runs: Runs
    worker: Worker
    models: Models

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def studio(*places: Path, token: str | None = None) -> Iterator[Studio]:
    """A running studio."""
    listening = socket.create_server(("127.0.0.1", 0))
    port, worker, runs = listening.getsockname()[1], Worker(), Runs(list(places))
    models = Models(runs.folders, "cpu")
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
    made = app(models, worker, hosts, token, routes(runs))
    server = uvicorn.Server(uvicorn.Config(made, **UVICORN))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Studio(port, runs, worker, models)
    finally:
        worker.close()
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def until(true: Callable[[], Any], sec: float = 30.0) -> Any:
    """Wait for something to become true, and give it."""
    end = time.monotonic() + sec
    while not (found := true()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
    return found

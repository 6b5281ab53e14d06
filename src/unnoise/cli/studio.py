"""unnoise studio."""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import socket
import sys
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

from unnoise.cli.flags import Command, parse
from unnoise.errors import UsageError
from unnoise.ranges import Range

LOCAL, EVERY = ("127.0.0.1", "localhost", "::1"), ("0.0.0.0", "::")
NEXT_PORTS = 20
DEVICES = r"auto|cpu|mps|cuda(:\d{1,3})?"

Port = Annotated[int, Range(least=0, most=65535)]


@dataclass(frozen=True, kw_only=True)
class Studio(Command):
    """Open a page to watch runs, play with models, paint into pictures and compare.

    `unnoise studio [RUNS ..]`: run folders, or folders that hold some; runs/ unless said otherwise.
    The page works offline, and other machines cannot reach it unless you give --host.
    """

    host: str = "127.0.0.1"
    """Address to listen on, such as 0.0.0.0 for every address of this machine. Others can then open
    the page too, with the token that is in the printed address."""
    port: Port = 8347
    """Port to listen on; the next free one where it is taken, any with 0."""
    open: bool = True
    """Open the page in the browser."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""


def studio(arguments: list[str]) -> int:
    """Run `unnoise studio [RUNS ..]`."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    flags, _ = parse(Studio, arguments[len(words) :], "studio")
    if not re.fullmatch(DEVICES, flags.device, re.ASCII):  # torch, which comes later, says the rest
        expected = "expected auto, cpu, cuda, cuda:1 (or another number) or mps"
        raise UsageError(f"--device: got {flags.device!r}, {expected}")
    for word in words:
        if not Path(word).is_dir():
            raise UsageError(f"studio: {word} is no folder; expected runs of `unnoise train`")
    try:
        import uvicorn

        from unnoise.studio.server import UVICORN, app
    except ModuleNotFoundError as error:
        fix = "install it with: pip install 'unnoise[studio]'"
        raise UsageError(f"studio: {error.name} is not installed; {fix}") from None
    from unnoise.studio.jobs import Worker
    from unnoise.studio.models import Models
    from unnoise.studio.runs import Runs, routes

    listening = _listen(flags.host, flags.port)
    port, worker = listening.getsockname()[1], Worker()
    runs = Runs([Path(word) for word in words or ["runs"]])
    token = None if flags.host in LOCAL else secrets.token_urlsafe(16)
    hosts = {f"{name}:{port}".removesuffix(":80") for name in _names(flags.host)}
    made = app(Models(runs.folders, flags.device), worker, hosts, token, routes(runs))

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            worker.close()  # else open streams hold the server
            super().handle_exit(sig, frame)

    name = socket.gethostname() if flags.host in EVERY else flags.host
    name = f"[{name}]" if ":" in name else name
    address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    print(f"studio: {address}\nCtrl-C ends it. Trainings that it started continue.", flush=True)
    if flags.open:
        opening = threading.Timer(0.3, webbrowser.open, [address])
        opening.daemon = True
        opening.start()
    try:
        Server(uvicorn.Config(made, **UVICORN)).run([listening])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(130)  # Python aborts where it ends while torch is at work in another thread
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the port, or at the next that is free."""
    for number in range(port, min(port + NEXT_PORTS, 65536)):
        try:
            if not host:
                raise ValueError("it is empty")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, number), family=family)
        except (OSError, ValueError, TypeError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            reason = getattr(error, "strerror", None) or str(error)
            what = f"--host, --port: cannot listen on {host}:{number} ({reason})"
            raise UsageError(f"{what}; expected an address of this machine") from None
    raise UsageError(f"--port: {port} and the next {NEXT_PORTS - 1} are taken; expected a free one")


def _names(host: str) -> set[str]:
    """The names in a request's Host that mean this server."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    if host not in LOCAL:
        own = socket.gethostname().lower()
        names |= {host.lower(), own, f"{own}.local", socket.getfqdn().lower()}
    return names

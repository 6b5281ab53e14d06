"""unnoise studio."""

from __future__ import annotations

import errno
import itertools
import secrets
import socket
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from unnoise.cli.flags import Command, parse
from unnoise.errors import UsageError
from unnoise.ranges import Range

LOCAL = ("127.0.0.1", "localhost", "::1")
NEXT_PORTS = 20

Port = Annotated[int, Range(least=0, most=65535)]


@dataclass(frozen=True, kw_only=True)
class Studio(Command):
    """Open a page to watch runs, play with models, paint into pictures and compare.

    `unnoise studio [RUNS ..]`: folders of runs, or run folders; without one, runs/. The page works
    offline, and other machines cannot reach it unless you say --host.
    """

    host: str = "127.0.0.1"
    """Address to listen on. With any but 127.0.0.1 other machines can open the page too, if they
    have the token in the address that is printed."""
    port: Port = 8347
    """Port to listen on, or the next free one; 0 is any."""
    open: bool = True
    """Open the page in the browser."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""


def studio(arguments: list[str]) -> int:
    """Run `unnoise studio [RUNS ..]`."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    flags, _ = parse(Studio, arguments[len(words) :], "studio")
    for word in words:
        if not Path(word).is_dir():
            raise UsageError(f"studio: {word} is no folder; expected runs of `unnoise train`")
    try:
        import uvicorn

        from unnoise.studio.server import app
    except ModuleNotFoundError as error:
        fix = "install it with: pip install 'unnoise[studio]'"
        raise UsageError(f"studio: {error.name} is not installed; {fix}") from None
    from unnoise.studio.jobs import Worker
    from unnoise.studio.models import Models
    from unnoise.studio.runs import Runs, routes

    runs = Runs([Path(word) for word in words or ["runs"]])
    listening = _listen(flags.host, flags.port)
    port = listening.getsockname()[1]
    token = None if flags.host in LOCAL else secrets.token_urlsafe(16)
    made = app(Models(runs.folders, flags.device), Worker(), _names(flags.host, port), token)
    made.router.routes.extend(routes(runs))
    name = f"[{flags.host}]" if ":" in flags.host else flags.host
    address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    print(f"studio: {address}\nCtrl-C ends it. Trainings that it started continue.", flush=True)
    if flags.open:
        threading.Timer(0.3, webbrowser.open, [address]).start()
    config: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 1}
    uvicorn.Server(uvicorn.Config(made, server_header=False, **config)).run([listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the port, or at the next that is free."""
    for number in range(port, min(port + NEXT_PORTS, 65536)):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, number), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UsageError(f"--host: {host} cannot be used ({error.strerror})") from None
    raise UsageError(f"--port: {port} and the next {NEXT_PORTS - 1} are taken; expected a free one")


def _names(host: str, port: int) -> set[str]:
    """The values of a request's Host that mean this server."""
    names = {"127.0.0.1", "localhost", "[::1]"}
    if host not in LOCAL:
        own = socket.gethostname().lower()
        names |= {host.lower(), own, f"{own}.local", *socket.gethostbyname_ex(own)[2]}
    return {f"{name}:{port}" for name in names} | (names if port == 80 else set())

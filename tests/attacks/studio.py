"""Bad requests to `unnoise studio`: each gets one line, and afterwards the studio works as before.

The server is a process of its own; an attack is a request, and the line it was told is its error.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.attacks.harness import Attack
from unnoise.errors import UsageError

MOST_MEMORY = 1_500_000_000
GOOD = {"kind": "sample", "model": "digits", "num": 2, "settings": {"steps": 1}}
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Server:
    """A studio, where it listens, and the digest of what a good job makes."""

    process: int
    port: int
    folder: Path

    def send(self, content: bytes, close: bool = False) -> tuple[int, bytes]:
        """Status and body of the answer to the bytes of a request; 0 where there is none."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            try:
                connection.sendall(content)
                if close:
                    return 0, b""
                parts = list(iter(lambda: connection.recv(1 << 20), b""))
            except ConnectionError:  # it had heard enough
                return 0, b""
        head, _, body = b"".join(parts).partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join(re.split(rb"(?:\r\n)?[0-9a-f]+\r\n", body)[1:-1])
        return int(head.split(b" ")[1]), body

    def message(
        self, method: str, path: str, headers: Headers = (), body: bytes | None = None
    ) -> bytes:
        """A request; a header replaces that of the same name, and None leaves it out."""
        given = {name.lower() for name, _ in headers}
        usual = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if method == "POST":
            body = body or b""
            usual |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        all_headers = [(k, v) for k, v in usual.items() if k.lower() not in given]
        all_headers += [(name, value) for name, value in headers if value != "-"]
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in all_headers), "", ""]
        return "\r\n".join(lines).encode("utf-8") + (body or b"")

    def job(self, body: object) -> bytes:
        return self.message("POST", "/api/jobs", (), json.dumps(body).encode())

    def known(self) -> str:
        """The id of a good job."""
        status, header = self.send(self.job(GOOD))
        assert status == 202, header
        return json.loads(header)["id"]

    def works(self) -> str:
        """Do a good job and give the digest of its picture."""
        number = self.known()
        stream = self.send(self.message("GET", f"/api/jobs/{number}"))[1]
        assert b'"state": "done"' in stream, stream[-200:]
        status, png = self.send(self.message("GET", f"/api/jobs/{number}/png"))
        assert status == 200, png
        return hashlib.sha256(png).hexdigest()


def attacks(shared: Path) -> Iterator[Attack]:
    server, process = _start(shared)
    try:
        digest, before = server.works(), _files(shared)
        kinds: list[Iterable[tuple[str, bytes]]] = [
            *(_bodies(server, name, _good(name), bad) for name, bad in BODIES.items()),
            _texts(server), _pictures(server), _headers(server), _queries(server), _paths(server),
            _runs(server),
        ]  # fmt: skip
        for kind in kinds:
            for name, content in kind:
                yield Attack(name, _act(server, content, digest))
        for name, content in _broken(server):
            yield Attack(name, _act(server, content, digest, close=True))
        for name, content in _right(server):
            yield Attack(name, _act(server, content, digest), "done")
        yield Attack("after all: memory and files", lambda: _after(server, before), "done")
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=10)[0]
        assert b"Traceback" not in said, said[-3000:].decode()


def _start(shared: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    """A studio that can write to `shared` alone, as far as we can tell."""
    for name in ("runs", "here", "home", "temporary"):
        (shared / name).mkdir()
    environ = {**os.environ, "HOME": str(shared / "home"), "TMPDIR": str(shared / "temporary"),
               "UNNOISE_CACHE": str(shared / "cache")}  # fmt: skip
    words = [sys.executable, "-m", "unnoise", "studio", str(shared / "runs"), "--no-open",
             "--port", "0", "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(
        words, cwd=shared / "here", env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    address = process.stdout.readline().decode()
    return Server(process.pid, int(address.rpartition(":")[2].strip("/\n")), shared), process


def _act(server: Server, content: bytes, digest: str, close: bool = False) -> Callable[[], object]:
    def act() -> None:
        status, body = server.send(content, close)
        assert server.works() == digest, "a good job makes something else now"
        if status == 0:
            raise UsageError("no answer")
        assert status < 500, f"{status}: {body[:500]!r}"
        if status >= 400:
            text = body.decode()
            said = json.loads(text)["error"] if text.startswith("{") else text
            assert said and "\n" not in said, said
            raise UsageError(said)

    return act


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if ".pyc" not in path.name}


def _after(server: Server, before: set[Path]) -> None:
    assert _files(server.folder) == before, _files(server.folder) - before
    peak = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{server.process}/status").read_text())
    assert peak is not None and int(peak[1]) * 1024 < MOST_MEMORY, peak


HUGE, DEEP = 10**40, json.loads("[" * 300 + "]" * 300)
NAMES = ("guide", "self", "seeds", "start", "label", "model", "seed", "num", "device", "on_step",
         "batch_size", "changes", "deep_cache", "cuda_graphs", "sampler_options.curvature",
         "sample.steps", "train.lr", "__class__", "__proto__", "", " ", "\x1b[31m",
         "é" * 3000)  # fmt: skip
"""Settings that are none, but mean something elsewhere."""
ODD = (None, True, -1, 0.5, "", "x", [], {}, [[]], HUGE, 1e300, DEEP, "\u202e", "x" * 10**6)
"""Values of every kind, of which few suit a field."""


def _good(kind: str) -> dict[str, Any]:
    """A body of a kind that is right."""
    kind = kind.partition(" ")[0]
    edit = {"picture": _base64(_png((8, 8))), "num": 1, "kind": kind, "model": "digits"}
    return {
        "walk": {"kind": "walk", "model": "digits", "corners": [1, 2, 3, 4], "points": [[0, 0.5]]},
        "image": edit, "inpaint": {**edit, "mask": _base64(_mask())},
    }.get(kind, GOOD)  # fmt: skip


def _odd(field: str, *fit: object) -> Iterator[dict[str, Any]]:
    """ODD as a field, without what fits."""
    for value in ODD:
        if not any(value is one or (value == one and type(value) is type(one)) for one in fit):
            yield {field: value}


def _settings() -> Iterator[dict[str, Any]]:
    bad: dict[str, tuple[object, ...]] = {
        "steps": (0, -1, 1.5, "10", True, None, HUGE, 100_001, [10], 1e300),
        "sampler": ("no", "", 3, None, "Fast", "unipc", ["ddim"]),
        "spacing": ("no", "", None, 1), "guidance_scale": (1001, "2", None, 1e300, [1]),
        "guidance_interval": ([1], [2, 1], [-1, 2], [0, 1, 2], "0 1", None, 3),
        "noises": ([1, 2], [0], [-1], [2, 2], 3, "3", [None]), "eta": (2, -0.1, 0.5, "0.5"),
        "churn": (-1, "1", 3), "churn_range": ([2, 1], [1]), "churn_noise": (-1, None),
        "clip_x0": (1, "yes", None, []), "dynamic_threshold": (-1, 2, "0.9"),
        "sampler_options": ({"x": 1}, [1], {"order": "a"}, 3, {"": 1}, {"curvature": None}),
    }  # fmt: skip
    for field, values in bad.items():
        for value in values:
            yield {"settings": {field: value}}
    for name in NAMES:
        yield {"settings": {name: 1}}
    yield from _odd("settings", {})


def _branches() -> Iterator[dict[str, Any]]:
    some = {"settings": {"sampler": "ddim", "steps": 9}}
    for step in (0, -1, 9, 10, 1001, HUGE, 1.5, "3", None, True):
        yield {**some, "branches": [{"step": step}]}
    for steps in ((4, 4), (4, 2), range(1, 30)):
        yield {**some, "branches": [{"step": step, **some} for step in steps]}
    for more in ({"settings": {"guide": 1}}, {"label": 99}, {"label": [1]}, {"at": 3}, {"num": 2},
                 {"settings": {"steps": 0}}, {"settings": []}):  # fmt: skip
        yield {**some, "branches": [{"step": 3, **more}]}
    for value in ({}, [1], "3", [[]], {"step": 3}):
        yield {**some, "branches": value}


LABELS = (10, -1, 1.5, True, HUGE, "", "eleven", "10", [0], [0, 1, 2], {"0": 1}, {"a": 1, "b": 2},
          [[1], [2]], [True, 1], [0, 99], [None, {}], "x" * 10**6, "\x1b[31m")  # fmt: skip
BODIES: dict[str, Sequence[dict[str, Any]]] = {
    "num": [*_odd("num"), *({"num": value} for value in (0, 65, 10**9, "3"))],
    "seed": [*_odd("seed"), *({"seed": value} for value in (2**53, 2**63, 1.5, "0"))],
    "seeds": [*_odd("seeds", None), {"seeds": [-1]}, {"seeds": [2**53]}, {"seeds": [0] * 65},
              {"seeds": ["0"]}, {"seeds": [1.5]}, {"seeds": list(range(100_000))}],
    "label": [{"label": value} for value in LABELS],
    "settings": list(_settings()),
    "branches": list(_branches()),
    "model": [*_odd("model"), *({"model": value} for value in (
        "../../etc/passwd", "/etc/passwd", "digits\0", "digits/../emoji", "file:///etc/passwd",
        "digits.safetensors", "Digits", "0123456789ab", "0123456789ab-step-00000001"))],
    "kind": [*_odd("kind"), *({"kind": value} for value in ("Sample", "edit", "__class__"))],
    "unknown": [{name: 1} for name in ("guide", "device", "out", "corners", "mask", "self")],
    "work": [{"num": 64, "settings": {"steps": 100_000}},
             {"num": 64, "model": "emoji", "settings": {"steps": 5000}}],
    "walk": [{"corners": [1, 2, 3]}, {"corners": [1, 2, 3, -1]}, {"corners": [1, 2, 3, 4, 5]},
             {"points": []}, {"points": [[0, 0]] * 65}, {"points": [[0]]}, {"points": [[2, 0]]},
             {"points": [["a", 0]]}, {"points": [[0, -1e-9]]}, {"points": [0, 0]}, {"seed": 1},
             {"label": "x"}, {"label": [1, 2]}, *_odd("corners"), *_odd("points")],
    "image": [{"strength": value} for value in (0, -1, 1.1, "x", None, 1e300)],
    "inpaint": [{"resample": value} for value in (0, 21, 1.5, "x", None, HUGE)],
    "inpaint label": [{"label": value} for value in (10, "x", [1, 2], {})],
}  # fmt: skip
"""What each attack changes of a good body."""


def _bodies(
    server: Server, name: str, good: dict[str, Any], bad: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    for number, change in enumerate(bad):
        yield f"{name} {number}: {repr(change)[:60]!r}", server.job({**good, **change})
    for key in good.keys() - {"num", "settings"} if name in ("num", "walk", "inpaint") else ():
        missing = {k: value for k, value in good.items() if k != key}
        yield f"{name}: without {key}", server.job(missing)


def _texts(server: Server) -> Iterator[tuple[str, bytes]]:
    """Bodies that are no JSON, or JSON that is too much."""
    good = json.dumps(GOOD)
    bad: dict[str, bytes | str] = {
        "empty": "", "list": "[]", "null": "null", "number": "3", "text": '"x"', "cut": good[:-1],
        "more": good + "x", "deep": "[" * 200_000, "deep object": '{"a":' * 100_000 + "1",
        "deep and closed": '{"model":' + "[" * 50_000 + "]" * 50_000 + "}", "blank": " " * 10**6,
        "utf-8": b'{"model": "\xff"}', "nul": b"\0" * 100, "half character": b'{"kind": "\\ud800"}',
        "half of a name": b'{"kind": "sample", "model": "digits", "\\udfff": 1}',
        "digits": '{"num": ' + "9" * 5000 + "}", "huge": '{"model": "' + "x" * 24_000_001 + '"}',
        "many keys": json.dumps({str(i): i for i in range(200_000)}),
        "form": "kind=sample&model=digits", "xml": "<?xml version='1.0'?><a/>",
    }  # fmt: skip
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        for field in ('"seed": %s', '"settings": {"eta": %s}', '"label": [%s, 1]', '"x": %s'):
            bad[field % number] = good[:-1] + ", " + field % number + "}"
    for name, body in bad.items():
        content = body if isinstance(body, bytes) else body.encode()
        yield f"body {name}", server.message("POST", "/api/jobs", (), content)
    for path in ("/api/recipe", "/api/fit"):
        for body in ("", "{}", "[]", '{"picture": 3}', '{"picture": ""}', '{"picture": "é"}'):
            yield f"{path} {body}", server.message("POST", path, (), body.encode())


def _pictures(server: Server) -> Iterator[tuple[str, bytes]]:
    """Files that are no pictures, or that unpack to too much; and masks that say nothing."""
    whole = _png((8, 8))
    bomb = _chunks((30_000, 30_000), b"")
    inflated = zlib.compress(bytes(1 << 30), 9)
    texts = {
        kind: whole[:33] + _chunk(kind.encode(), head + inflated) + whole[33:]
        for kind, head in (("zTXt", b"unnoise\0\0"), ("iTXt", b"unnoise\0\1\0\0\0"))
    }
    bad = {
        "empty": b"", "text": b"picture", "cut": whole[:-30], "half": whole[:40], "bomb": bomb,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
        "pdf": b"%PDF-1.4\n", "zip": b"PK\x03\x04" + bytes(100), "html": b"<html><img src=x>",
        "pickle": b"\x80\x04cos\nsystem\n", "nothing wide": _chunks((0, 8), b""),
        "wider than it says": _chunks((8, 60_000), zlib.compress(b"\0")),
        "bomb of data": _chunks((7000, 7000), inflated[:20_000]), **texts,
    }  # fmt: skip
    for name, content in bad.items():
        file = _base64(content)
        if name not in texts:  # their pixels are as good as any
            for kind in ("image", "inpaint"):
                yield f"{kind} of {name}", server.job({**_good(kind), "picture": file})
            yield f"mask of {name}", server.job({**_good("inpaint"), "mask": file})
            body = {"model": "digits", "picture": file}
            yield f"fit {name}", server.message("POST", "/api/fit", (), json.dumps(body).encode())
        body = json.dumps({"picture": file}).encode()
        yield f"recipe of {name}", server.message("POST", "/api/recipe", (), body)
    for text in ("[]", "3", '{"a":', '{"steps": NaN}', '{"a": "\\ud800"}', "[" * 10**5, "\0"):
        mine = whole[:33] + _chunk(b"tEXt", b"unnoise\0" + text.encode()) + whole[33:]
        body = json.dumps({"picture": _base64(mine)}).encode()
        yield f"recipe {text[:20]!r}", server.message("POST", "/api/recipe", (), body)
    for name, mask in (("black", _png((8, 8))), ("white", _mask(whole=True))):
        yield f"mask all {name}", server.job({**_good("inpaint"), "mask": _base64(mask)})
    for pixels in (3, "", "x", "AAAA", None, [0] * 64, "A" * 10**6):
        body = json.dumps({"model": "digits", "pixels": pixels}).encode()
        yield f"pixels {str(pixels)[:20]}", server.message("POST", "/api/fit", (), body)


def _headers(server: Server) -> Iterator[tuple[str, bytes]]:
    port, body = server.port, json.dumps(GOOD).encode()
    hosts = ("", "-", "evil.example", "127.0.0.1", f"127.0.0.1:{port + 1}", f"evil.example:{port}",
             f"127.0.0.1:{port}.evil.example", f"127.0.0.1.evil.example:{port}",
             f"localhost:{port}@evil.example", f"localhost.:{port}", f"0.0.0.0:{port}",
             f"127.1:{port}", f"[::ffff:127.0.0.1]:{port}", f"127.0.0.1:{port}, evil.example",
             f"evil.example:{port}#127.0.0.1:{port}", "x" * 10_000)  # fmt: skip
    origins = ("null", "http://evil.example", f"https://127.0.0.1:{port}", "file://", "",
               f"http://127.0.0.1:{port + 1}", f"http://localhost:{port}", "http://127.0.0.1",
               f"http://127.0.0.1:{port}.evil.example", f"http://127.0.0.1:{port}/",
               f"http://evil.example, http://127.0.0.1:{port}")  # fmt: skip
    types = ("-", "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
             "application/json-patch+json", "application/jsonp", "text/json", "*/*",
             "text/plain; application/json", "application/json, text/plain")  # fmt: skip
    sites = ("cross-site", "same-site", "", "x", "none, cross-site")
    bad: dict[str, Sequence[str]] = {
        "Host": hosts, "Origin": origins, "Content-Type": types, "Sec-Fetch-Site": sites,
    }  # fmt: skip
    for name, values in bad.items():
        for value in values:
            yield (
                f"POST {name} {value[:50]!r}",
                server.message("POST", "/api/jobs", [(name, value)], body),
            )
            if name != "Content-Type":
                asked = [(name, value)]
                yield f"GET {name} {value[:50]!r}", server.message("GET", "/api/models", asked)
    two = [("Host", f"127.0.0.1:{port}"), ("Host", "evil.example")]
    yield "two hosts", server.message("GET", "/", two)
    yield "two hosts, turned", server.message("GET", "/", two[::-1])
    for mode, dest in (("no-cors", "script"), ("navigate", "iframe"), ("cors", "empty")):
        kinds = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", mode)]
        yield f"a foreign {dest}", server.message("GET", "/", [*kinds, ("Sec-Fetch-Dest", dest)])
    link = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), kinds[0]]
    yield "a link to what is not the page", server.message("GET", "/api/models", link)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "get", "X" * 300):
        yield f"method {method[:10]}", server.message(method, "/api/jobs")
    for path in ("/", "/api/state", "/api/models", "/api/fields", "/static/base.css"):
        yield f"POST {path}", server.message("POST", path, (), b"{}")
    for path in ("/api/jobs", "/api/recipe", "/api/fit", "/api/jobs/x/stop"):
        yield f"GET {path}", server.message("GET", path)


def _queries(server: Server) -> Iterator[tuple[str, bytes]]:
    known, paths = server.known(), list[str]()  # before attacks make it one of the forgotten
    for index in ("-1", "2", "99999999999", "1e3", "x", "%D9%A3", "0x1", "", "1.0", "%00"):
        paths += [f"/api/jobs/{known}/{what}?index={index}" for what in ("png", "nearest")]
    for first in ("-1", "x", "1.5", "%D9%A3", "9" * 30, "", "1e3"):
        paths.append(f"/api/jobs/{known}?from={first}")
    for number in ("0" * 16, known[:-1], known.upper() + "A", "..", "%2e%2e", "a" * 10_000):
        paths += [f"/api/jobs/{number}", f"/api/jobs/{number}/png"]
    for pair in ("", "?a=digits", "?a=x&b=y", "?a=../..&b=digits", "?a=%00&b=%ff"):
        paths.append(f"/api/compare{pair}")
    for path in paths:
        yield f"path {path[:80]}", server.message("GET", path)
    for number in ("x", "../jobs", known + "0"):
        yield f"stop {number}", server.message("POST", f"/api/jobs/{number}/stop", (), b"{}")


def _runs(server: Server) -> Iterator[tuple[str, bytes]]:
    good = {"source": "digits", "name": "run"}
    names = ("", ".", "..", "../x", "/tmp/x", "a/b", "-x", ".x", "a" * 81, "x\0", "x\n", "é")
    settings = ({"imports": ["x.py"]}, {"data.cache": "/tmp"}, {"data.source": "/"}, {"train": {}},
                {"data": {"cache": "/tmp"}}, {"preset": "x"}, {"train.lr": "x"}, {"train.lr": -1},
                {"stpes": 1}, {"network.kind": "x"}, {"": 1}, [], "x", None)  # fmt: skip
    read = ("/etc/passwd", "/dev", str(server.folder / "runs"))  # which hold no picture
    sources = (*read, "", "nowhere", "/dev/zero", "x\0", "--help", None, 3, [],
               "http://127.0.0.1/x")  # fmt: skip
    bad = [{**good, "name": name} for name in (*names, None, 3, [], {})]
    bad += [{**good, "settings": value} for value in settings]
    bad += [{**good, "source": source} for source in sources] + [{"name": "run"}, {"x": 1}]
    for path in ("/api/runs", "/api/plan"):
        for body in bad if path == "/api/runs" else bad[len(names) + 4 :: 5]:
            if path == "/api/runs" and body.get("source") in read:
                continue  # the training itself says so, in its log
            content = json.dumps(body).encode()
            yield f"{path} {repr(body)[:70]!r}", server.message("POST", path, (), content)
    for number in ("0123456789ab", "..", "%2e%2e%2f", "x" * 10_000):
        for what in ("", "/metrics", "/metrics?from=x", "/picture/data", "/picture/..%2fx"):
            yield f"run {number[:9]}{what}", server.message("GET", f"/api/runs/{number}{what}")
        for what in ("stop", "resume"):
            path = f"/api/runs/{number}/{what}"
            yield f"{what} {number[:9]}", server.message("POST", path, (), b"{}")


def _paths(server: Server) -> Iterator[tuple[str, bytes]]:
    secrets = ("server.py", "../server.py", "../../records.py", "../../../../etc/passwd")
    codes = (str, lambda text: text.replace(".", "%2e"), lambda text: text.replace("/", "%2f"),
             lambda text: text.replace(".", "%252e").replace("/", "%252f"),
             lambda text: text.replace("/", "\\"), lambda text: text + "%00.js",
             lambda text: text.replace("..", "..;"))  # fmt: skip
    paths = {f"/static/{code(secret)}" for secret in secrets for code in codes}
    paths |= {f"/static/vendor/{secret}" for secret in secrets}
    paths |= {"//etc/passwd", "/etc/passwd", "/static", "/static/", "/studio.html", "/api", "/%",
              "/API/STATE", "/api/state/", "/.git/config", "/static/%ff", "/api/jobs/%00/png",
              "/api/jobs/../state", "/api/jobs/..%2f..%2fstate", "/static/base.css/", "/%2e%2e/",
              "http://evil.example/", "/static/vendor/README.md", "/" + "a" * 30_000,
              "/static/" + "../" * 1000, "/api/state%20", "/é"}  # fmt: skip
    for path in sorted(paths):
        yield f"path {path[:80]}", server.message("GET", path)


def _broken(server: Server) -> Iterator[tuple[str, bytes]]:
    """Requests whose sender hangs up."""
    whole = server.job({**GOOD, "num": 8, "settings": {"steps": 20}})
    for size in (1, 10, 100, len(whole) - 60, len(whole) - 1, len(whole)):
        yield f"hangs up after {size} bytes", whole[:size]
    yield "a stream that nobody reads", server.message("GET", f"/api/jobs/{server.known()}")
    longer = [("Content-Length", "1000000")]
    yield "a body that never comes", server.message("POST", "/api/jobs", longer, b"{")
    for name, content in {
        "chunks": b"zz\r\n", "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "nul": bytes(1000),
        "HTTP/0.9": b"GET /\r\n", "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n", "noise": os.urandom(5000),
        "no name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        "long head": b"GET / HTTP/1.1\r\nA: " + b"a" * 10**6,
        "lengths": b"POST /api/jobs HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    }.items():  # fmt: skip
        yield f"no HTTP: {name}", content


def _right(server: Server) -> Iterator[tuple[str, bytes]]:
    port = server.port
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"),
            ("Sec-Fetch-Dest", "document")]  # fmt: skip
    yield "right: a link to the page", server.message("GET", "/", link)
    yield "right: capitals", server.message("GET", "/", [("Host", f"LOCALHOST:{port}")])
    own = [("Origin", f"http://127.0.0.1:{port}"), ("Sec-Fetch-Site", "same-origin")]
    own.append(("Content-Type", "Application/JSON; charset=utf-8"))
    yield "right: its own page", server.message("POST", "/api/jobs", own, json.dumps(GOOD).encode())
    yield "right: HEAD", server.message("HEAD", f"/api/jobs/{server.known()}")
    other = _mask((31, 57))
    yield "right: a mask of another size", server.job({**_good("inpaint"), "mask": _base64(other)})
    twice = json.dumps(GOOD).replace('"num"', '"num": 1, "num"').encode()
    yield "right: a name twice", server.message("POST", "/api/jobs", (), twice)


def _png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return file.getvalue()


def _mask(size: tuple[int, int] = (8, 8), whole: bool = False) -> bytes:
    picture, file = Image.new("L", size, 255 if whole else 0), io.BytesIO()
    picture.paste(255, (0, 0, size[0] // 2, size[1]))
    picture.save(file, "PNG")
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _chunks(size: tuple[int, int], data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()

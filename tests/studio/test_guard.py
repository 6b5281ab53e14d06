"""Who may ask the studio, and how `unnoise studio` starts and ends. tests/attacks/studio.py has
hundreds of bad requests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the studio: pip install 'unnoise[studio]'")

from tests.studio.client import Client
from tests.studio.client import studio as running
from unnoise import cli
from unnoise.errors import ConfigError
from unnoise.model import load

ROOT = Path(__file__).parents[2]


def test_every_answer_has_the_headers_that_protect(studio):
    bad_host = studio.get("/", Host="evil.example")
    for answer in (studio.get("/"), studio.get("/api/state"), studio.get("/no"), bad_host,
                   studio.post("/api/jobs", {}), studio.get("/static/base.css")):  # fmt: skip
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers and "server" not in headers


def test_other_pages_and_names_are_refused(studio):
    own = f"http://127.0.0.1:{studio.port}"
    assert studio.get("/api/state", Origin=own, Host=f"127.0.0.1:{studio.port}").status == 200
    refused = {
        421: [{"Host": "evil.example"}, {"Host": f"evil.example:{studio.port}"},
              {"Host": f"127.0.0.1:{studio.port + 1}"}, {"Host": ""}],
        403: [{"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": own + "0"},
              {"Origin": own.replace("http", "https")}, {"Sec-Fetch-Site": "cross-site"},
              {"Sec-Fetch-Site": "same-site"}],
    }  # fmt: skip
    for status, kinds in refused.items():
        for headers in kinds:
            for answer in (
                studio.get("/api/models", **headers),
                studio.post("/api/jobs", **headers),
            ):
                assert answer.status == status and answer.json["error"], headers
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert studio.get("/", **link, **{"Sec-Fetch-Dest": "document"}).status == 200
    assert studio.get("/", **link, **{"Sec-Fetch-Dest": "iframe"}).status == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert studio.post("/api/jobs", {}, **form).status == 415


def test_get_and_head_change_nothing(studio):
    jobs = dict(studio.worker.jobs)
    routes = ["/", "/api/state", "/api/models", "/api/fields", "/api/jobs", "/api/recipe",
              "/api/fit", "/api/compare?a=digits&b=digits"]  # fmt: skip
    header = studio.start(kind="sample", model="digits", num=1)
    content = studio.finish(header).content
    routes += [f"/api/jobs/{header['id']}{end}" for end in ("", "/stop", "/png", "/nearest")]
    for route in routes:
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            assert studio.request(method, route).status < 500
    assert studio.worker.jobs.keys() == {*jobs, header["id"]}
    assert studio.finish(header).content == content


SETTINGS = [
    {"steps": 0}, {"steps": "5"}, {"sampler": "unipc"}, {"sampler": 3}, {"eta": 0.5}, {"stpes": 5},
    {"guidance_scale": 1e9}, {"noises": [1, 2]}, {"deep_cache": 1}, {"spacing": "", "steps": 3},
]  # fmt: skip


def test_the_message_is_that_of_python_and_the_command_line(studio):
    model = load("digits", "cpu")
    for settings in SETTINGS:
        answer = studio.post(
            "/api/jobs", {"kind": "sample", "model": "digits", "settings": settings}
        )
        with pytest.raises(ConfigError) as raised:
            model.settings(**settings)
        assert answer.status == 400 and answer.json["error"] == str(raised.value)
    for more in ({"label": 10}, {"label": "eleven"}, {"num": 2, "label": [1]}):
        answer = studio.post("/api/jobs", {"kind": "sample", "model": "digits", **more})
        with pytest.raises(ConfigError) as raised:
            model.labels(range(more.get("num", 16)), more["label"])
        assert answer.status == 400 and answer.json["error"] == str(raised.value)


def test_a_token_becomes_a_cookie_of_this_port():
    with running(token="the token") as studio:
        for path in ("/", "/api/state", "/static/base.css", "/?token=", "/?token=another"):
            assert studio.get(path).status == 401
        assert studio.post("/api/jobs", {"kind": "sample"}).status == 401
        assert studio.get("/api/state?token=the+token").status == 401
        answer = studio.get("/?token=the+token")
        assert answer.status == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"unnoise_token_{studio.port}=")
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        given = cookie.partition(";")[0]
        for sent in (given, f"a=b; {given}; c", f"bad[name=\x7f; {given}"):
            assert studio.get("/", Cookie=sent).status == 200
        assert studio.get("/", Cookie="unnoise_token=the token").status == 401
        assert studio.get("/", Cookie=given.replace("the", "The")).status == 401
        assert studio.get("/", Cookie=given, Origin="http://evil.example").status == 403
        names = {f"192.168.0.9:{studio.port}": 200, "192.168.0.9:1": 421, "evil.example": 421,
                 f"[::1]:{studio.port}": 200, f"evil.example:{studio.port}": 421}  # fmt: skip
        for host, status in names.items():  # digits cannot be pointed here by somebody's DNS
            assert studio.get("/", Cookie=given, Host=host).status == status, host


@contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`unnoise studio`, ended in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unnoise", "studio", "--no-open", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": "src"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_page_comes_before_torch_and_ctrl_c_ends_it_with_a_stream_open():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        command("--port", str(taken.getsockname()[1])) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.rpartition(":")[2].strip().strip("/"))
        assert line.startswith("studio: http://127.0.0.1:") and port > taken.getsockname()[1]
        client = Client(port)
        assert client.get("/").status == 200
        time.sleep(0.5)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        assert client.get("/api/state").json["worker"] == "starting"
        slow = {"sampler": "ddpm", "steps": 900, "spacing": "uniform"}
        header = client.start(kind="sample", model="digits", num=64, settings=slow)
        with socket.create_connection(("127.0.0.1", port)) as stream:
            asked = f"GET /api/jobs/{header['id']} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            stream.sendall(asked.encode())
            assert stream.recv(100).startswith(b"HTTP/1.1 200")
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=5)
        assert time.monotonic() - began < 4
        assert process.returncode == 130 and said == "stopped\n"


def test_for_other_machines_the_address_has_a_token():
    with command("--host", "0.0.0.0", "--port", "0") as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        assert address.startswith(f"http://{socket.gethostname()}:")
        port, _, token = address.rpartition(":")[2].partition("/?token=")
        client = Client(int(port))
        assert len(token) > 16 and client.get("/").status == 401
        cookie = client.get(f"/?token={token}").headers["set-cookie"].partition(";")[0]
        own = {"Host": f"{socket.gethostname()}:{port}", "Cookie": cookie}
        assert client.get("/", **own).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=5)[1] == "" and process.returncode in (143, -15)


def test_what_cannot_start_says_so_in_a_line(capsys, monkeypatch):
    cases = {
        "--host 300.1.1.1": "--host", "--host example.invalid": "--host",
        "--host " + "é" * 99: "--host", "--port 65536": "--port: got 65536", "--port x": "--port",
        "nowhere": "nowhere is no folder", "README.md": "README.md is no folder",
        "--prot 1": "did you mean '--port'",
    }  # fmt: skip
    for words, expected in cases.items():
        assert cli.main(["studio", "--no-open", *words.split()]
                        if words[0] == "-" else ["studio", words]) == 2  # fmt: skip
        said = capsys.readouterr().err
        assert expected in said and len(said.splitlines()) == 1, said
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["studio"]) == 2
    assert "pip install 'unnoise[studio]'" in capsys.readouterr().err


def test_help_and_the_server_import_no_torch():
    code = (
        "import sys, unnoise.studio.server\nfrom unnoise import cli\n"
        "try: cli.main(['studio', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "src"}, cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--host" in done.stdout

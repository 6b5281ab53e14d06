"""Models on the Hub, by the real client against a small server that speaks the Hub's protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import unnoise
from unnoise.cli import main
from unnoise.hub import UNMEASURED, quality

huggingface_hub = pytest.importorskip("huggingface_hub")
REVISION = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: {name: {file: bytes}}."""

    repos: dict[str, dict[str, bytes]]
    private: set[str]
    protocol_version = "HTTP/1.1"

    def answer(self, code: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        if path.startswith("api/models/"):
            name = "/".join(path.split("/")[2:4])
            missing = {"X-Error-Code": "RepoNotFound"}
            if name not in self.repos:
                return self.answer(404, {"error": "Repository not found"}, missing)
            files = [{"rfilename": file} for file in self.repos[name]]
            return self.answer(200, {"id": name, "sha": REVISION, "siblings": files})
        owner, name, _, _, file = path.split("/", 4)
        content = self.repos[f"{owner}/{name}"][file]
        tag = hashlib.sha256(content).hexdigest()
        return self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": REVISION})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization')}/{asked['name']}"
            self.repos.setdefault(name, {})
            if "private" in (asked.get("visibility"), asked.get("private") and "private"):
                self.private.add(name)
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{name}", "id": name})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.repos[name][entry["value"]["path"]] = content
        url = f"http://{self.headers['Host']}/{name}/commit/{REVISION}"
        return self.answer(200, {"commitOid": REVISION, "commitUrl": url})

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch):
    """The server; the client is sent to it."""
    Hub.repos, Hub.private = {}, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _endpoint(monkeypatch, server.server_port)
    yield Hub
    server.shutdown()


def _endpoint(monkeypatch, port: int) -> None:
    """Make every client talk to this machine; where it asks is fixed as it is imported."""
    original = huggingface_hub.HfApi
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(
        huggingface_hub, "HfApi", lambda **known: original(address, token="hf_test", **known)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder whose record names folders of this machine, with an evaluation."""
    model = unnoise.load("digits", "cpu")
    config = {**model.record["config"]}
    config["data"] = {**config["data"], "source": "/home/me/secret/photos", "path": "/home/me/x"}
    config["train"] = {**config["train"], "start": "/home/me/secret/old.safetensors"}
    model.record = {**model.record, "config": config, "optimizer": "/home/me/secret"}
    folder = tmp_path_factory.mktemp("runs") / "photos"
    folder.mkdir()
    model.save(folder / "model.safetensors")
    data = unnoise.load_data(unnoise.preset("digits"))
    few = {"likelihood_num": 2, "likelihood_terms": 2, "features": "tiny"}
    unnoise.evaluate(str(folder), folder, 20, {"steps": 2}, data, **few)
    return folder


def test_a_model_comes_back_as_it_was_pushed(hub, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(run), "me/photos", "--license", "mit", "--private"]) == 0
    assert "/me/photos" in capsys.readouterr().out and hub.private == {"me/photos"}
    sent = hub.repos["me/photos"]
    assert sorted(sent) == ["README.md", "model.safetensors", "samples.png"]
    assert not [
        name for name, content in sent.items() if b"secret" in content or b"/home" in content
    ]
    assert main(["pull", "me/photos"]) == 0
    ours, theirs = unnoise.load(run, "cpu"), unnoise.load("photos.safetensors", "cpu")
    assert torch.equal(ours.sample(3), theirs.sample(3))
    assert theirs.record["config"]["data"]["source"] == "photos"
    assert theirs.record["config"]["train"]["start"] == "old.safetensors"


def test_the_card_says_what_the_run_says(hub, run, tmp_path):
    assert main(["push", str(run), "me/photos"]) == 0
    card = huggingface_hub.ModelCard(hub.repos["me/photos"]["README.md"].decode())
    assert card.data.library_name == "unnoise" and "diffusion" in card.data.tags
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert f"of weights {evaluation['model']['weights']}" in card.text
    assert f"{evaluation['copying']['num_copies']} of 20 samples are copies" in card.text
    record = json.loads((run / "evaluation.json").read_text())
    record["model"]["weights"] = "1" * 12
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "evaluation.json").write_text(json.dumps(record))
    assert quality(str(copied), unnoise.load(run, "cpu")) == UNMEASURED


def test_what_is_no_model_is_refused_and_nothing_is_written(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other)
    hub.repos = Hub.repos = {
        "me/other": {"model.safetensors": other.read_bytes()},
        "me/unet": {"unet/config.json": b"{}"},
    }
    other.unlink()
    for name, said in {
        "me/other": "has no unnoise record",
        "me/unet": "hf download me/unet --local-dir FOLDER, then unnoise import FOLDER",
        "me/gone": "is not on the Hub, or is private",
        "gone": "got 'gone', expected OWNER/NAME",
    }.items():
        assert main(["pull", name]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error
    assert main(["push", "digits", "me/digits", "--license", "a: b\nc"]) == 2
    assert "license: got" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["push", "digits", "me/digits"], ["pull", "me/digits"]])
def test_without_an_answer_it_ends_with_a_line(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unnoise.hub.TIMEOUT_SEC", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _endpoint(monkeypatch, silent.getsockname()[1])
        start = time.monotonic()
        assert main(command) == 2
        assert time.monotonic() - start < 20
    error = capsys.readouterr().err.strip()
    assert error.startswith("unnoise: me/digits: the Hub says: ") and "\n" not in error


def test_what_would_be_sent_can_be_looked_at(tmp_path, capsys):
    folder = tmp_path / "card"
    assert main(["push", "digits", "me/digits", "--out", str(folder)]) == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "model.safetensors",
        "samples.png",
    ]
    assert main(["push", "digits", "me/digits", "--out", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err

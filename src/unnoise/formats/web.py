"""A model as a web page that samples it: one file that opens offline, or a folder for a server.

The page is static/page.html with the ONNX export (`onnx.files`) and onnxruntime-web, which is not
part of unnoise: it comes from a folder or archive of the user's, or is downloaded once.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.data.cache import root
from unnoise.data.config import DataConfig
from unnoise.data.download import download
from unnoise.errors import ConfigError
from unnoise.files import write_bytes
from unnoise.formats import onnx
from unnoise.model import Model

VERSION = "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
REGISTRY = "https://registry.npmjs.org"
VARIABLE = "UNNOISE_ORT_WEB"
SCRIPT = "ort.wasm.min.js"
RUNTIME = (SCRIPT, "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MOST_BYTES = 1 << 26
STATIC = Path(__file__).parent / "static"
STYLES = Path(__file__).parents[1] / "studio" / "static"
OWN = ("index.html", "page.css", "page.js")
FILES = (*onnx.FILES, *RUNTIME, *OWN)


def runtime(given: str | None) -> dict[str, bytes]:
    """The files of onnxruntime-web, from a folder or .tgz that is given or in $UNNOISE_ORT_WEB.

    Without these, version VERSION is downloaded into the cache. ConfigError where there is none.
    """
    place = Path(given or os.environ.get(VARIABLE) or root(DataConfig()) / ARCHIVE)
    if not given and not os.environ.get(VARIABLE):
        registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
        download([f"{registry}/onnxruntime-web/-/{ARCHIVE}"], place, SHA256, "--runtime FILE")
    try:
        return {name: _read(place, name) for name in RUNTIME}
    except (OSError, KeyError, tarfile.TarError, EOFError) as error:
        why = getattr(error, "strerror", None) or error
        expected = f"the package onnxruntime-web {VERSION} as a folder or .tgz: --runtime"
        raise ConfigError(
            f"runtime: {place} cannot be used ({why}); expected {expected}"
        ) from error


def _read(place: Path, name: str) -> bytes:
    """A file of the package, which is never unpacked."""
    if place.is_dir():
        inner = place / "dist"
        return ((inner if inner.is_dir() else place) / name).read_bytes()
    with tarfile.open(place, "r:gz") as archive:
        file = archive.extractfile(f"package/dist/{name}")
        assert file is not None
        return file.read(MOST_BYTES)


def export(
    model: Model, name: str, out: Path, parts: Mapping[str, bytes], settings: Mapping[str, Any]
) -> None:
    """Write a page of a model, called `name` there, with the parts of `runtime`.

    A folder of FILES where `out` does not end in .html.
    """
    parts = {**parts, **onnx.files(model, True, settings, name)}
    css = "".join((STYLES / name).read_text("utf-8") for name in ("base.css", "studio.css"))
    texts = {"page.css": css + (STATIC / "page.css").read_text("utf-8")}
    texts |= {"page.js": (STATIC / "page.js").read_text("utf-8")}
    if out.suffix == ".html":
        write_bytes(out, _one_file(parts, texts).encode())
        return
    policy = "script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'"
    page = {"index.html": _html({"<!-- policy -->": _policy(policy)})}
    own = {name: text.encode() for name, text in (texts | page).items()}
    onnx.write_folder(out, {**parts, **own})


def _one_file(parts: Mapping[str, bytes], texts: Mapping[str, str]) -> str:
    """The page with everything inside; the browser is forbidden anything else."""
    scripts = {SCRIPT: parts[SCRIPT].decode(), "page.js": texts["page.js"]}
    hashes = " ".join(map(_hash, scripts.values()))
    policy = f"script-src {hashes} 'wasm-unsafe-eval' blob:; style-src {_hash(texts['page.css'])}"
    data = "".join(
        f'<script type="text/plain" id="{name}">{_packed(content)}</script>\n'
        for name, content in parts.items()
        if name != SCRIPT
    )
    style, first = '<link rel="stylesheet" href="page.css">', f'<script src="{SCRIPT}"></script>'
    filled = {"<!-- policy -->": _policy(policy), style: f"<style>{texts['page.css']}</style>"}
    filled |= {first: f"{data}<script>{scripts[SCRIPT]}</script>"}
    filled |= {'<script src="page.js"></script>': f"<script>{scripts['page.js']}</script>"}
    return _html(filled)


def _html(filled: Mapping[str, str]) -> str:
    page = (STATIC / "page.html").read_text("utf-8")
    licence = (STATIC / "onnxruntime.txt").read_text("utf-8")
    for mark, text in {"<!-- licence -->": licence, **filled}.items():
        page = page.replace(mark, text, 1)
    return page


def _policy(allowed: str) -> str:
    none = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{none}; {allowed}">'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()

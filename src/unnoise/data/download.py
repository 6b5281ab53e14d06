"""Downloads that go on where they broke off and are checked before they count."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from unnoise.errors import DataError
from unnoise.events import Counter

TIMEOUT_SEC = 30


def download(urls: Sequence[str], path: Path, digest: str, local: str = "--data.path") -> None:
    """Fetch the first url that works into `path`, unless it is there; DataError if none does.

    `digest` is its MD5 or SHA-256, and `local` the flag that takes a local copy.
    """
    kind = {32: "MD5", 64: "SHA-256"}[len(digest)]
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    reasons = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{path.parent}: cannot be written ({error.strerror})"
        raise DataError(f"{what}; choose --data.cache FOLDER") from error
    for url in urls:
        try:
            _fetch(url, part)
        except OSError as error:  # also a URLError or a timeout; the part stays for the next try
            reasons.append(f"{url}: {error}")
            continue
        if hashlib.new(kind.replace("-", ""), part.read_bytes()).hexdigest() == digest:
            os.replace(part, path)
            return
        part.unlink()
        reasons.append(f"{url}: the file's {kind} is not {digest}")
    fix = f"run the command again to go on, or give a local copy with {local}"
    raise DataError(f"download of {path.name} failed ({'; '.join(reasons)}); {fix}")


def _fetch(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SEC)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with response:
        have, mode = (have, "ab") if response.status == 206 else (0, "wb")
        total = int(response.headers.get("Content-Length") or 0) + have
        bar = Counter(part.stem, total, "B", done=have)
        with part.open(mode) as file:
            while block := response.read(1 << 16):
                file.write(block)
                bar.step(len(block))
        if total and part.stat().st_size < total:
            raise OSError(f"connection lost after {part.stat().st_size} of {total} bytes")

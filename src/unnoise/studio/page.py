"""The page of a run as one file that opens offline: static/, with the data and pictures inside."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from unnoise import __version__
from unnoise.errors import UserError
from unnoise.files import write_bytes
from unnoise.studio import commands
from unnoise.studio.run_folder import Record, read

STATIC = Path(__file__).parent / "static"
NAMED = r'(<link rel="stylesheet" href="(.+?)">|(<script.*?) src="(.+?)"></script>)'
"""The tags of report.html that name another file."""
IMPORT = re.compile(r'^import [^;]* from "\./([\w.]+)";\n', re.MULTILINE)
MOST_GRIDS = 24
MOST_CHARACTERS = 9_000_000
"""Length of all pictures of a page together, as data URIs."""
LARGE_BYTES = 700_000
"""A larger picture is drawn again as a JPEG of at most LARGE_PIXELS a side."""
LARGE_PIXELS = 1280


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run to `out` or RUN/report.html; CheckpointError where it is no run."""
    run = read(folder)
    _embed(folder, run)
    again = commands.command("report", folder, *([] if out is None else [f"--out={out}"]))
    run["commands"].append({"about": "Make this page again", "line": again})
    run["made"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by unnoise {__version__}"
    path = folder / "report.html" if out is None else out
    write_bytes(path, html("report.html", "run", run).encode())
    return path


def html(name: str, key: str, content: Record) -> str:
    """Fill a page of static/: styles, scripts and `content`, which it finds as JSON in #key.

    The browser is forbidden any other styles and scripts.
    """
    page = (STATIC / name).read_text(encoding="utf-8")
    allowed = {"style": "", "script": ""}
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")  # no tag, and ASCII only
    contents = {"<!-- data -->": f'<script id="{key}" type="application/json">{data}</script>'}
    for tag, style, script, source in re.findall(NAMED, page):
        text = _source(style or source)
        kind, begin = ("style", "<style") if style else ("script", script)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[kind] += f" 'sha256-{digest}'"
        contents[tag] = f"{begin}>{text}</{kind}>"
    policy = "; ".join(f"{kind}-src{hashes}" for kind, hashes in allowed.items())
    policy = f"default-src 'none'; img-src data:; {policy}"
    contents["<!-- policy -->"] = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    for tag, text in contents.items():
        page = page.replace(tag, text)
    return page


def _source(name: str, done: set[str] | None = None) -> str:
    """Give a file of static/; a module with those before it that it imports, each once.

    Nothing is renamed, so no two modules may use a name of the top level for different things.
    """
    done = set() if done is None else done
    text = (STATIC / name).read_text(encoding="utf-8")
    done.add(name)
    before = [_source(one, done) for one in IMPORT.findall(text) if one not in done]
    return "".join([*before, re.sub("^export ", "", IMPORT.sub("", text), flags=re.MULTILINE)])


def _embed(folder: Path, run: Record) -> None:
    """Give every picture a data URI as its `src`; of many grids, evenly chosen ones."""
    evaluation = run["evaluation"] or {}
    others = [run["data"]["picture"], evaluation.get("samples"), evaluation.get("neighbours")]
    room = MOST_CHARACTERS - sum(_load(folder, one, run["problems"]) for one in others if one)
    run["grids"] = len(run["samples"])
    few = _evenly(run["samples"], MOST_GRIDS)
    grids = [one for one in few if _load(folder, one, run["problems"])]
    choices = (_evenly(grids, most) for most in range(len(grids), 0, -1))
    fitting = (some for some in choices if sum(len(one["src"]) for one in some) <= room)
    run["samples"] = next(fitting, grids[-1:])


def _load(folder: Path, picture: Record, problems: list[str]) -> int:
    """Give a picture its `src`, smaller where it is large; gives its length, or 0 for none."""
    path = folder / picture["path"]
    try:
        content, kind = path.read_bytes(), "png"
        if len(content) > LARGE_BYTES:
            content, kind = _smaller(path, content), "jpeg"
    except (OSError, UserError) as error:
        problems.append(f"{picture['path']}: {error}")
        return 0
    picture["src"] = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return len(picture["src"])


def _smaller(path: Path, content: bytes) -> bytes:
    """Give the picture as a smaller JPEG. Imports torch: Pillow belongs to data."""
    import torch

    from unnoise.data.fit import Target
    from unnoise.data.folder import read_picture
    from unnoise.data.images import to_pil

    width, height = struct.unpack(">II", content[16:24])
    scale = min(1.0, LARGE_PIXELS / max(width, height, 1))
    wanted = Target(math.ceil(height * scale), math.ceil(width * scale), 3, "white")
    file = io.BytesIO()
    to_pil(torch.from_numpy(read_picture(path, wanted))).save(file, "JPEG", quality=85)
    return file.getvalue()


def _evenly(items: Sequence[Record], most: int) -> list[Record]:
    """Choose at most `most` items, evenly spread, with the first and the last; of one, the last."""
    if len(items) <= most:
        return list(items)
    last = len(items) - 1
    return [items[round(i * last / (most - 1))] for i in range(most)] if most > 1 else [items[-1]]

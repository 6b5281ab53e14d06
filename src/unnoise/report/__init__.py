"""One HTML page about a run: what it is, what it makes, its curves, its settings. One file, no requests, no torch."""

from __future__ import annotations

import os
from pathlib import Path

from unnoise.report.page import render
from unnoise.report.read import read

PAGE = "report.html"


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run folder to `out` or RUN/report.html, whole or not at all; CheckpointError where it is no run."""
    page = render(read(folder), out).encode(errors="replace")
    path = folder / PAGE if out is None else out
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return path

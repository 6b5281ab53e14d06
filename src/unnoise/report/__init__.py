"""One HTML page about a run: what it is, what it makes, its curves, its settings. One file, no requests, no torch."""

from __future__ import annotations

from pathlib import Path

from unnoise.files import write_bytes
from unnoise.report.page import render
from unnoise.report.read import read

PAGE = "report.html"


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run folder to `out` or RUN/report.html, whole or not at all; CheckpointError where it is no run."""
    page = render(read(folder), out).encode(errors="replace")
    path = folder / PAGE if out is None else out
    write_bytes(path, page)
    return path

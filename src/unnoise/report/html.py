"""Values as text of the page: escaped, rounded, in tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape


def text(value: object) -> str:
    """Anything as text of the page."""
    if isinstance(value, list | dict):
        value = json.dumps(value)
    return escape("none" if value is None else str(value))


def number(value: float | None) -> str:
    """Four significant digits."""
    return "unknown" if value is None else f"{value:.4g}"


def duration(sec: float | None) -> str:
    """Seconds as people write them: 1h 02m, 3m 05s, 12s."""
    if sec is None:
        return "unknown"
    whole = round(sec)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], long: int | None = None) -> str:
    """A table whose cells are text; column `long` may wrap."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=long' * (i == long)}>{text(cell)}</td>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'

"""Results as tables of docs/results.md, each between its two marks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.columns import ceilings, data, memory, profile, sampling, startup, training

Rows = list[list[str]]
COLUMNS: dict[str, Callable[[dict[str, Any]], tuple[list[str], Rows]]] = {
    "training": training, "sampling": sampling, "memory": memory, "data": data, "startup": startup, "profile": profile,
    "ceilings": ceilings,
}  # fmt: skip
"""What -> its head and rows."""


class MarkerError(ValueError):
    """A page without the marks of a table."""


def table(result: dict[str, Any]) -> str:
    """One result as Markdown: where it comes from, and its table."""
    head, rows = COLUMNS[result["what"]](result)
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n\n".join(filter(None, (_origin(result), "\n".join(lines), _remarks(result))))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _origin(result: dict[str, Any]) -> str:
    threads = "" if result["device"] == "cuda" else f", {result['threads']} threads"
    return (
        f"{result['machine']}{threads}, torch {result['torch']}, {result['date']}, commit {result['commit']}: "
        f"`{result['command']}`"
    )


def _remarks(result: dict[str, Any]) -> str:
    """What the subjects' rows have to say, and how quiet the machine was."""
    rows = result.get("rows", [])
    notes = dict.fromkeys(f"{row['subject']}: {row['note']}." for row in rows if row.get("note"))
    counted = [result, *rows]
    redone, disturbed = (
        sum(part.get(name, 0) for part in counted) for name in ("redone", "disturbed")
    )
    kept = f"{redone} samples were taken again because others used the processors, {disturbed} kept although they did."
    return " ".join([*notes, *([kept] if redone or disturbed else [])])


def between(page: str, what: str, text: str, name: str) -> str:
    """The page with a text between the marks of `what`."""
    begin, end = f"<!-- speed:{what} -->", f"<!-- /speed:{what} -->"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not found.search(page):
        raise MarkerError(
            f"{name}: no mark {begin}; put it and {end} on lines of their own where the table belongs"
        )
    return found.sub(lambda _: f"{begin}\n{text}\n{end}", page, count=1)


def render(results: Path, page: Path) -> list[str]:
    """Write the tables of all results into the page; gives the names of those written."""
    texts: dict[str, list[str]] = {}
    for path in sorted(results.glob("speed-*.json")):
        result = json.loads(path.read_text())
        texts.setdefault(result["what"], []).append(table(result))
    content = page.read_text()
    for what, parts in texts.items():
        content = between(content, what, "\n\n".join(parts), page.name)
    page.write_text(content)
    return list(texts)

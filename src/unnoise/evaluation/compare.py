"""Evaluations side by side, and what keeps their numbers from being compared. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from unnoise.evaluation.summary import Record, Table, tables

SAME = (
    "num_images",
    "seeds",
    "labels",
    "steps",
    "spacing",
    "variance",
    "clip_x0",
    "terms",
    "solver",
    "trace",
    "probes",
)
"""Of a likelihood's recipe."""


def comparison(records: Mapping[str, Record]) -> list[Table]:
    """A table per extractor and one for the rest: a row per number, a column per evaluation (its samples')."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name, record in records.items():
        for part in tables(record):
            for row, value, *_ in part.rows:
                if not row.startswith("copies"):
                    found.setdefault(part.head[0], {}).setdefault(row, {})[name] = value
            if part.head[0]:
                found[part.head[0]].setdefault("samples", {})[name] = part.head[1].removesuffix(
                    " samples"
                )
        if record["copying"] is not None:
            text = f"{record['copying']['num_copies']} of {record['copying']['num_samples']}"
            found.setdefault("", {}).setdefault("copies of training images", {})[name] = text
    return [
        Table(
            (title, *records),
            [(row, *(values.get(name, "-") for name in records)) for row, values in rows.items()],
        )
        for title, rows in found.items()
    ]


def warnings(records: Mapping[str, Record]) -> list[str]:
    """One line for every way in which two evaluations measured different things."""
    return [
        line
        for (a, one), (b, other) in combinations(records.items(), 2)
        for line in _different(a, one, b, other)
    ]


def _different(a: str, one: Record, b: str, other: Record) -> list[str]:
    lines: list[str] = []
    if one["samples"]["num"] != other["samples"]["num"]:
        counts = f"{one['samples']['num']:,} samples and {other['samples']['num']:,}"
        lines.append(
            f"not comparable: {a} and {b} are of {counts}; distances fall as the number grows"
        )
    mine, theirs = ({d["extractor"]: d for d in record["distances"]} for record in (one, other))
    for extractor in sorted(mine.keys() ^ theirs.keys()):
        lines.append(f"{extractor} was measured for one of {a} and {b} alone")
    same_images = one["data"]["fingerprint"] == other["data"]["fingerprint"]
    for extractor in sorted(mine.keys() & theirs.keys()):
        x, y = mine[extractor], theirs[extractor]
        if x["fingerprint"] != y["fingerprint"]:
            lines.append(
                f"not comparable: {extractor} of {a} and {b} is another network or preprocessing"
            )
        if x["reference"] != y["reference"] or not (same_images or "SHA-256" in x["reference"]):
            lines.append(
                f"not comparable: references of {a} ({x['reference']}) and {b} ({y['reference']})"
            )
    for method in sorted(one["likelihood"].keys() & other["likelihood"].keys()):
        x, y = (
            {k: v for k, v in (r["likelihood"][method] or {}).items() if k in SAME}
            for r in (one, other)
        )
        if x != y or not same_images:
            lines.append(
                f"not comparable: the {method}'s bits/dim of {a} and {b} are of other images or settings"
            )
    return lines

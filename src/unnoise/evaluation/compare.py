"""Evaluations side by side, and what keeps their numbers from being compared. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from unnoise.evaluation.summary import Record, Table, tables


def comparison(records: Mapping[str, Record]) -> list[Table]:
    """A table per extractor and one for the rest: a row per number, a column per evaluation (its samples')."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name, record in records.items():
        for part in tables(record):
            for row, value, *_ in part.rows:
                if not row.startswith("copies"):
                    found.setdefault(part.head[0], {}).setdefault(row, {})[name] = value
            if part.head[0]:
                found[part.head[0]].setdefault("samples", {})[name] = part.head[1].removesuffix(" samples")
        if record["copying"] is not None:
            text = f"{record['copying']['num_copies']} of {record['copying']['num_samples']}"
            found.setdefault("", {}).setdefault("copies of training images", {})[name] = text
    return [
        Table((title, *records), [(row, *(values.get(name, "-") for name in records)) for row, values in rows.items()])
        for title, rows in found.items()
    ]


def warnings(records: Mapping[str, Record]) -> list[str]:
    """One line for every way in which two evaluations measured different things."""
    (first, one), *others = records.items()
    lines: list[str] = []
    for name, other in others:
        if one["data"]["fingerprint"] != other["data"]["fingerprint"]:
            lines.append(f"not comparable: {first} and {name} have other reference images")
        if one["samples"]["num"] != other["samples"]["num"]:
            counts = f"{one['samples']['num']:,} samples and {other['samples']['num']:,}"
            lines.append(f"not comparable: {first} and {name} are of {counts}; distances fall as the number grows")
        mine, theirs = ({d["extractor"]: d for d in record["distances"]} for record in (one, other))
        for extractor in mine.keys() ^ theirs.keys():
            lines.append(f"{extractor} was measured for one of {first} and {name} alone")
        for extractor in mine.keys() & theirs.keys():
            a, b = mine[extractor], theirs[extractor]
            if a["fingerprint"] != b["fingerprint"]:
                lines.append(f"not comparable: {extractor} of {first} and {name} is another network or preprocessing")
            if a["reference"] != b["reference"]:
                lines.append(f"not comparable: references of {first} ({a['reference']}) and {name} ({b['reference']})")
    return lines

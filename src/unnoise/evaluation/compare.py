"""Evaluations in one table, and what keeps their numbers from being compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from unnoise.evaluation.summary import Record, Table, tables

SAME = (
    "num_images", "seeds", "labels", "steps", "spacing", "variance", "clip_x0", "terms", "solver",
    "trace", "probes",
)  # fmt: skip
"""The part of a likelihood's recipe that must be the same."""


class Reason(NamedTuple):
    """A way in which two evaluations measured different things."""

    text: str
    part: str | None = None
    """What it makes incomparable: distances or likelihood; None = nothing."""
    name: str | None = None
    """The extractor or the method; None = all of the part."""

    def forbids(self, part: str, name: str) -> bool:
        """Whether the numbers of an extractor or a method may not be compared."""
        return self.part == part and self.name in (None, name)


def comparison(records: Mapping[str, Record]) -> list[Table]:
    """A table per extractor and one for the rest: a row per number, a column per evaluation."""
    found: dict[str, dict[str, dict[str, str]]] = {}

    def add(title: str, label: str, name: str, value: str) -> None:
        found.setdefault(title, {}).setdefault(label, {})[name] = value

    for name, record in records.items():
        for part in tables(record):
            title = part.head[0]
            for label, value, *_ in part.rows:
                if label != "copies":
                    add(title, label, name, value)
            if title:
                add(title, "samples", name, part.head[1].removesuffix(" samples"))
        if (copying := record["copying"]) is not None:
            text = f"{copying['num_copies']} of {copying['num_samples']}"
            add("", "copies of training images", name, text)

    def row(label: str, values: dict[str, str]) -> tuple[str, ...]:
        return (label, *(values.get(name, "-") for name in records))

    return [
        Table((title, *records), [row(*each) for each in rows.items()])
        for title, rows in found.items()
    ]


def reasons(records: Mapping[str, Record]) -> list[Reason]:
    """Every way in which two evaluations measured different things."""
    pairs = combinations(records.items(), 2)
    return [each for (a, one), (b, other) in pairs for each in _different(a, one, b, other)]


def _different(a: str, one: Record, b: str, other: Record) -> Iterator[Reason]:
    both = f"{a} and {b}"
    nums = [record["samples"]["num"] for record in (one, other)]
    if nums[0] != nums[1]:
        counts = f"{nums[0]:,} samples and {nums[1]:,}"
        text = f"not comparable: {both} are of {counts}; distances fall as the number grows"
        yield Reason(text, "distances")
    mine, theirs = ({d["extractor"]: d for d in record["distances"]} for record in (one, other))
    for extractor in sorted(mine.keys() ^ theirs.keys()):
        yield Reason(f"{extractor} was measured for one of {both} alone")
    same_images = one["data"]["fingerprint"] == other["data"]["fingerprint"]
    for extractor in sorted(mine.keys() & theirs.keys()):
        x, y = mine[extractor], theirs[extractor]
        if x["fingerprint"] != y["fingerprint"]:
            text = f"not comparable: {extractor} of {both} is another network or preprocessing"
            yield Reason(text, "distances", extractor)
        if x["reference"] != y["reference"] or not (same_images or "SHA-256" in x["reference"]):
            references = f"{a} ({x['reference']}) and {b} ({y['reference']})"
            yield Reason(f"not comparable: references of {references}", "distances", extractor)
    for method in sorted(one["likelihood"].keys() & other["likelihood"].keys()):
        x, y = (record["likelihood"][method] or {} for record in (one, other))
        if not same_images or any(x.get(key) != y.get(key) for key in SAME):
            text = f"not comparable: bits/dim ({method}) of {both} are of other images or settings"
            yield Reason(text, "likelihood", method)

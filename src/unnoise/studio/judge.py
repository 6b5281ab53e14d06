"""Two evaluations side by side: which is better, by which number, and what may not be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unnoise.evaluation import record as evaluations
from unnoise.evaluation import summary
from unnoise.evaluation.compare import reasons
from unnoise.evaluation.metrics import METRICS, labels

Record = dict[str, Any]
Side = tuple[float, float]


def of_folder(folder: Path) -> Record | None:
    """The evaluation of a run; None where there is none."""
    path = folder / "evaluation.json"
    return evaluations.read(path) if path.is_file() else None


def judge(a: Record, b: Record) -> dict[str, Any]:
    """Rows of numbers with the better side ("a", "b" or None), warnings, and a verdict in lines."""
    said = reasons({"A": a, "B": b})
    ours, theirs = ({one["extractor"]: one for one in record["distances"]} for record in (a, b))
    rows = []
    for name in (each for each in ours if each in theirs):
        fair = not any(each.forbids("distances", name) for each in said)
        rows += _rows(ours[name], theirs[name], fair)
    for method, x in a["likelihood"].items():
        y = b["likelihood"].get(method)
        if x and y:
            values = [each["bits_per_dim"] for each in (x, y)]
            sides = [_around(each["bits_per_dim"], each["standard_error"]) for each in (x, y)]
            fair = not any(each.forbids("likelihood", method) for each in said)
            better = _better(sides, False) if fair else None
            rows.append([f"bits/dim, {method} ↓", *(f"{value:.4g}" for value in values), better])
    return {
        "titles": [summary.title(a), summary.title(b)],
        "rows": rows,
        "warnings": [each.text for each in said],
        "verdict": list(_verdict(rows, any(each.part for each in said), (a, b))),
    }


def _rows(x: Record, y: Record, fair: bool) -> Iterator[list[str | None]]:
    names = labels(x["standard"])
    for key, metric in METRICS.items():
        values = [each["samples"].get(key) for each in (x, y)]
        if None in values:
            continue
        sides = [_side(each["samples"], key) for each in (x, y)]
        judged = fair and metric.more_is_better is not None
        better = _better(sides, bool(metric.more_is_better)) if judged else None
        shown = [f"{value:.4g}" for value in values]
        if key == "frechet":
            pairs = zip(shown, sides, strict=True)
            shown = [f"{v} [{side[0]:.4g}, {side[1]:.4g}]" if side else v for v, side in pairs]
        yield [f"{x['extractor']}: {names[key]}", *shown, better]


def _side(numbers: Record, key: str) -> Side | None:
    """The interval of a number; None where it has none, and so decides nothing."""
    if key == "frechet" and numbers.get("interval"):
        low, high = numbers["interval"]
        return low, high
    return _around(numbers[key], numbers.get(f"{key}_error"))


def _around(value: float, error: float | None) -> Side | None:
    """Two standard errors on either side."""
    return None if error is None else (value - 2 * error, value + 2 * error)


def _better(sides: Sequence[Side | None], more: bool) -> str | None:
    """The better side, where both have intervals, and these do not overlap."""
    a, b = sides
    if a is None or b is None or (a[0] <= b[1] and b[0] <= a[1]):
        return None
    return "a" if (a[0] > b[1]) == more else "b"


def _verdict(rows: list[Any], refused: bool, records: tuple[Record, Record]) -> Iterator[str]:
    wins = {side: [row[0] for row in rows if row[3] == side] for side in ("a", "b")}
    if refused and not any(wins.values()):
        yield "These two may not be compared by their numbers: the reasons are below."
    elif wins["a"] and wins["b"]:
        yield f"A is better by {', '.join(wins['a'])}; B by {', '.join(wins['b'])}."
    elif wins["a"] or wins["b"]:
        side = "a" if wins["a"] else "b"
        by = ", ".join(wins[side])
        yield f"{side.upper()} is better, by {by}: the intervals do not overlap."
    elif rows:
        yield "The numbers do not tell the two apart: no intervals of theirs are apart."
    else:
        yield "The two have no number in common."
    for name, record in zip("AB", records, strict=True):
        copying = record["copying"]
        if copying is not None and copying["num_copies"]:
            count = f"{copying['num_copies']} of {copying['num_samples']} samples"
            yield f"{name} copies: {count} are training images."

"""An evaluation as tables, for the terminal and the report. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unnoise.evaluation.metrics import labels

Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A head, rows of the same length, and what the numbers are numbers of."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    about: str = ""


def title(record: Record) -> str:
    """What was measured."""
    model, samples, data = record["model"], record["samples"], record["data"]
    if model is None:
        c, h, w = data["size"]
        pictures = f"samples: {samples['num']:,} pictures of {samples['name']}; data {data['name']}"
        return f"{pictures}; compared at {h} x {w}, {c} channel{'s' if c > 1 else ''}"
    steps = len(model["noises"]) - 1 if model["noises"] else model["steps"]
    guided = f", guidance {model['guidance_scale']:g}" if model["guidance_scale"] != 1 else ""
    first, last = samples["first_seed"], samples["first_seed"] + samples["num"] - 1
    return (
        f"{samples['num']:,} samples (seeds {first} to {last}) of weights {model['weights']}: "
        f"{model['sampler']}, {steps} steps{guided}; data {data['name']}"
    )


def tables(record: Record) -> list[Table]:
    """One for each extractor, and one for everything else."""
    return [*(_distances(one) for one in record["distances"]), *_rest(record)]


def summary(record: Record) -> str:
    """What evaluation.json says, for a terminal."""
    notes = [f"note: {note}" for note in record["notes"]]
    return "\n".join([title(record), *layout(tables(record)), "", *notes])


def layout(parts: Iterable[Table]) -> list[str]:
    """Tables in columns, an empty line before each."""
    lines: list[str] = []
    for part in parts:
        rows = [part.head, *part.rows] if any(part.head) else part.rows
        widths = [max(len(row[i]) for row in rows) for i in range(len(part.head))]
        lines.append("")
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join(cells).rstrip())
        lines += [part.about] if part.about else []
    return lines


def _distances(one: Record) -> Table:
    """One extractor's numbers, samples next to held-out real images."""
    ours, real, fid = one["samples"], one["held_out"], one["standard"]
    names = one.get("metrics") or labels(fid)  # a record of before METRICS has no labels
    rows = [
        (label, _cell(name, ours, fid), _cell(name, real, fid) if real else "")
        for name, label in names.items()
    ]
    distance = "FID" if fid else "Fréchet distance"
    rows += [
        (f"{distance}, class {c['class_name']}", _number(c["distance"]), "")
        for c in one["per_class"]
    ]
    about = (
        f"{one['network']}; resize: {one['resize']}; range: {one['range']}; reference: "
        f"{one['reference']}; in brackets: {ours.get('interval_words', 'nothing')}"
    )
    held_out = f"{real['num']:,} held-out images" if real else ""
    head = (one["extractor"], f"{ours['num']:,} samples", held_out)
    return Table(head, [row for row in rows if row[1]], about)


def _cell(name: str, numbers: Record, fid: bool) -> str:
    """A metric's number, with its error or interval where it has one."""
    value = numbers.get(name)
    if value is None:
        return ""
    if name == "frechet" and (interval := numbers.get("interval")) is not None:
        low, high = map(_number, interval)
        return f"{value:.4g} [{low}, {high}]"
    times = 1000 if name == "kernel" and fid else 1
    error = numbers.get(f"{name}_error")
    return _plus_minus(times * value, error and times * error)


def _rest(record: Record) -> list[Table]:
    rows = [
        (f"bits/dim, {method}", _plus_minus(found["bits_per_dim"], found["standard_error"]))
        for method, found in record["likelihood"].items()
        if found is not None
    ]
    if (found := record["classes"]) is not None:
        share, (low, high) = found["overall"]["share"], found["overall"]["interval_95"]
        real = found.get("held_out")
        beside = "" if real is None else f"; held-out real images {_percent(real['share'])}"
        read = f"{_percent(share)} [{low:.1%}, {high:.1%}] by {found['classifier']}{beside}"
        rows.append(("read as their label", read))
    if (loss := ((record["model"] or {}).get("training") or {}).get("held_out_loss")) is not None:
        rows.append(("held-out loss", f"{_number(loss)}, at the end of training"))
    if record["copying"] is not None:
        rows += [("copies", line) for line in record["copying"]["summary"]]
    return [Table(("", ""), rows)] if rows else []


def _plus_minus(value: float | None, error: float | None) -> str:
    return _number(value) + ("" if error is None else f" ± {error:.2g}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"

"""An evaluation as tables: printed in a terminal, and drawn on the report page. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A head, rows of the same length, and what the numbers are numbers of."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    about: str = ""


def title(record: Record) -> str:
    """Of what these are the numbers."""
    model, samples = record["model"], record["samples"]
    steps = len(model["noises"]) - 1 if model["noises"] else model["steps"]
    guided = f", guidance {model['guidance_scale']:g}" if model["guidance_scale"] != 1 else ""
    last = samples["first_seed"] + samples["num"] - 1
    return (
        f"{samples['num']:,} samples (seeds {samples['first_seed']} to {last}) of weights {model['weights']}: "
        f"{model['sampler']}, {steps} steps{guided}; data {record['data']['name']}"
    )


def tables(record: Record) -> list[Table]:
    """One for each extractor, and one for everything else."""
    return [*(_distances(one) for one in record["distances"]), *_rest(record)]


def summary(record: Record) -> str:
    """What evaluation.json says, for a terminal."""
    return "\n".join(
        [title(record), *layout(tables(record)), "", *(f"note: {note}" for note in record["notes"])]
    )


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
    """One extractor's numbers, samples beside held-out real images."""
    ours, real = one["samples"], one["held_out"]
    distance, kernel = (
        ("FID", "KID x 1000") if one["standard"] else ("Fréchet distance", "kernel distance")
    )
    shown: tuple[tuple[str, Callable[[Record], str]], ...] = (
        (distance, _frechet),
        (f"{distance}, extrapolated to infinite N", _infinity),
        (
            f"{distance} of a perfect model at this N, about",
            lambda m: _number(m["frechet_of_perfect"]),
        ),
        (kernel, lambda m: _kernel(m, 1000 if one["standard"] else 1)),
        ("precision", lambda m: _number(m["precision"])),
        ("recall", lambda m: _number(m["recall"])),
        ("density", lambda m: _number(m["density"])),
        ("coverage", lambda m: _number(m["coverage"])),
    )
    rows = [(name, show(ours), show(real) if real else "") for name, show in shown]
    rows += [
        (f"{distance}, class {c['class_name']}", _number(c["distance"]), "")
        for c in one["per_class"]
    ]
    about = (
        f"{one['network']}; resize: {one['resize']}; range: {one['range']}; reference: {one['reference']}; "
        f"in brackets: {ours['interval_words']}"
    )
    head = (
        one["extractor"],
        f"{ours['num']:,} samples",
        f"{real['num']:,} held-out images" if real else "",
    )
    return Table(head, [row for row in rows if row[1]], about)


def _rest(record: Record) -> list[Table]:
    rows: list[tuple[str, str]] = []
    for method, found in record["likelihood"].items():
        if found is not None:
            rows.append(
                (f"bits/dim, {method}", _plus_minus(found["bits_per_dim"], found["standard_error"]))
            )
    if record["classes"] is not None:
        rows.append(("read as their label", _classes(record["classes"])))
        if "classifier_score" in record["classes"]:
            score = record["classes"]["classifier_score"]
            rows.append(
                (
                    "classifier score",
                    f"{score['mean']:.4g} ± {score['spread']:.2g} (Inception Score's formula)",
                )
            )
    if record["copying"] is not None:
        rows += [("copies", line) for line in record["copying"]["summary"]]
    return [Table(("", ""), rows)] if rows else []


def _frechet(m: Record) -> str:
    return _number(m["frechet"]) + (
        "" if m["interval"] is None else " [{:.4g}, {:.4g}]".format(*m["interval"])
    )


def _infinity(m: Record) -> str:
    return _number(m["frechet_infinity"])


def _kernel(m: Record, times: float) -> str:
    return (
        "" if m["kernel"] is None else _plus_minus(times * m["kernel"], times * m["kernel_error"])
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _plus_minus(value: float, error: float | None) -> str:
    return f"{value:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _classes(found: Record) -> str:
    overall = found["overall"]
    low, high = overall["interval_95"]
    real = found.get("held_out")
    beside = "" if real is None else f"; held-out real images {real['share']:.1%}"
    return f"{overall['share']:.1%} [{low:.1%}, {high:.1%}] by {found['classifier']}{beside}"

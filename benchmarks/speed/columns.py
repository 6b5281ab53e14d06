"""The columns of each table."""

from __future__ import annotations

from typing import Any

Table = tuple[list[str], list[list[str]]]
Result = dict[str, Any]
WAYS = {"shipped": "as shipped", "best": "at best"}


def short(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float) -> str:
    return f"{100 * value:.0f} %"


def times(spread: dict[str, float] | None) -> str:
    """Median with quartiles; 1 for what is compared with."""
    if spread is None:
        return "1"
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def gigabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**30:.2f}"


def computed(row: Result) -> str:
    """Precision, memory format, compilation."""
    return " ".join(filter(None, (row["precision"], row.get("format"), row.get("compiled"))))


def _subject(row: Result) -> str:
    name = f"**{row['subject']}**" if row["subject"].startswith("unnoise") else row["subject"]
    return f"{name} {row['version']}" if row["subject"] != "unnoise fp32" else "**unnoise** in fp32"


def training(result: Result) -> Table:
    """Images per second, beside ours and beside the peak."""
    head = [
        "batch", "way", "subject", "computed in", "million parameters", "GFLOP per image", "images/s",
        "time of a step, ours = 1", "time per FLOP, ours = 1", "of the convolution peak", "of the roofline", "peak GB",
    ]  # fmt: skip
    return head, [[*_rates(row), gigabytes(row["peak_bytes"])] for row in result["rows"]]


def sampling(result: Result) -> Table:
    """The same of samplers."""
    head = [
        "images", "way", "subject", "computed in", "million parameters", "GFLOP per image", "images/s",
        "time, ours = 1", "time per FLOP, ours = 1", "of the convolution peak", "of the roofline", "network calls",
    ]  # fmt: skip
    return head, [[*_rates(row), str(row["calls"])] for row in result["rows"]]


def _rates(row: Result) -> list[str]:
    return [
        str(row["batch"]), WAYS[row["way"]], _subject(row), computed(row), f"{row['parameters'] / 1e6:.1f}",
        f"{row['gflop_per_image']:.3f}", short(row["images_per_sec"]), times(row.get("sec_to_ours")),
        f"{row.get('sec_per_flop_to_ours', 1):.2f}", share(row["utilisation"]), share(row["roofline_share"]),
    ]  # fmt: skip


def memory(result: Result) -> Table:
    """Gigabytes."""
    head = ["batch", "way", "subject", "computed in", "peak GB"]
    rows = [
        [
            str(row["batch"]),
            WAYS[row["way"]],
            _subject(row),
            computed(row),
            gigabytes(row["peak_bytes"]),
        ]
        for row in result["rows"]
    ]
    return head, rows


def data(result: Result) -> Table:
    """Milliseconds of a batch."""
    head = ["batch", "reader", "ms per batch", "images/s", "time, ours = 1"]
    rows = [
        [
            str(row["batch"]), row["subject"], short(row["ms_per_batch"]), short(row["images_per_sec"]),
            short(row["sec_to_ours"]),
        ]
        for row in result["rows"]
    ]  # fmt: skip
    return head, rows


def startup(result: Result) -> Table:
    """Seconds of a command."""
    head = ["command", "seconds (quartiles)"]
    return head, [[f"`{row['command']}`", times(row["sec"])] for row in result["rows"]]


def profile(result: Result) -> Table:
    """Shares of a step by kind, one column per work, batch and precision."""
    rows = result["rows"]
    kinds = sorted(
        {kind for row in rows for kind in row["sec"]},
        key=lambda k: -max(r["sec"].get(k, 0) for r in rows),
    )
    head = ["", *(f"{row['work']}, batch {row['batch']}, {row['precision']}" for row in rows)]
    lines = [
        [kind, *(share(row["sec"].get(kind, 0) / sum(row["sec"].values())) for row in rows)]
        for kind in kinds
    ]
    lines.append(["seconds in all", *(short(sum(row["sec"].values())) for row in rows)])
    lines.append(
        ["convolutions, of their peak", *(share(row["convolution_share_of_peak"]) for row in rows)]
    )
    return head, lines


def ceilings(result: Result) -> Table:
    """The best of every kind."""
    found = result["ceilings"]
    rows = [
        [f"{kind}, {precision}", name, f"{rate / 1e9:.0f} GFLOP/s"]
        for precision, kinds in found["flop_per_sec"].items()
        for kind, rates in kinds.items()
        for name, rate in [max(rates.items(), key=lambda pair: pair[1])]
    ]
    for place, rates in found["bytes_per_sec"].items():
        name, rate = max(rates.items(), key=lambda pair: pair[1])
        rows.append([f"bytes, {place}", name, f"{rate / 1e9:.1f} GB/s"])
    return ["", "fastest", "rate"], rows

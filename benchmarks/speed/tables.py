"""Results as tables of docs/results/speed.md, each between its two marks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import markdown, share, short

Result = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
WAYS = {"shipped": "as shipped", "best": "at best"}
RATES = ("way", "subject", "computed in", "million parameters", "GFLOP per image", "images/s")
ENDS = {
    "training": ("batch", "time of a step, ours = 1", "peak GB"),
    "sampling": ("images", "time, ours = 1", "network calls"),
}
SHARES = ("time per FLOP, ours = 1", "of the convolution peak", "of the roofline")


def rates(result: Result) -> Table:
    """Images per second of training or sampling, next to ours and to the peak."""
    training, rows = result["what"] == "training", []
    for row in result["rows"]:
        name = row["subject"]
        if name.startswith("unnoise"):
            name = name.replace("unnoise", "**unnoise**").replace(" fp32", " in fp32")
        version, to_ours = "" if "fp32" in name else f" {row['version']}", "1"
        if ratio := row.get("sec_to_ours"):
            to_ours = "{median:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        computed = filter(None, (row["precision"], row.get("format"), row.get("compiled")))
        last = f"{(row['peak_bytes'] or 0) / 2**30:.2f}" if training else str(row["calls"])
        rows.append([
            str(row["batch"]), WAYS[row["way"]], name + version, " ".join(computed),
            f"{row['parameters'] / 1e6:.1f}", f"{row['gflop_per_image']:.3f}",
            short(row["images_per_sec"]), to_ours, f"{row.get('sec_per_flop_to_ours', 1):.2f}",
            share(row["utilisation"]), share(row["roofline_share"]), last,
        ])  # fmt: skip
    first, time, end = ENDS[result["what"]]
    return [first, *RATES, time, *SHARES, end], rows


def ceilings(result: Result) -> Table:
    """The best of every kind."""
    found, rows = result["ceilings"], []
    for precision, kinds in found["flop_per_sec"].items():
        for kind, rates in kinds.items():
            name = max(rates, key=rates.get)
            rows.append([f"{kind}, {precision}", name, f"{rates[name] / 1e9:.0f} GFLOP/s"])
    for place, rates in found["bytes_per_sec"].items():
        name = max(rates, key=rates.get)
        rows.append([f"bytes, {place}", name, f"{rates[name] / 1e9:.1f} GB/s"])
    return ["", "fastest", "rate"], rows


COLUMNS: dict[str, Callable[[Result], Table]] = {
    "training": rates, "sampling": rates, "ceilings": ceilings,
}  # fmt: skip
"""What -> its head and rows; results of what is gone are left alone."""


def table(result: Result) -> str:
    """One result as Markdown: where it comes from, its table, and what its rows have to say."""
    threads = "" if result["device"] == "cuda" else f", {result['threads']} threads"
    origin = (
        f"{result['machine']}{threads}, torch {result['torch']}, {result['date']}, "
        f"commit {result['commit']}: `{result['command']}`"
    )
    lines = markdown(*COLUMNS[result["what"]](result))
    return "\n\n".join(filter(None, (origin, lines, remarks(result))))


def remarks(result: Result) -> str:
    """What the subjects' rows have to say, and how quiet the machine was."""
    rows = result.get("rows", [])
    notes = dict.fromkeys(f"{row['subject']}: {row['note']}." for row in rows if row.get("note"))
    redone, disturbed = (
        sum(part.get(name, 0) for part in (result, *rows)) for name in ("redone", "disturbed")
    )
    kept = (
        f"{redone} samples were taken again because others used the processors, "
        f"{disturbed} kept although they did."
    )
    return " ".join([*notes, *([kept] if redone or disturbed else [])])


def render(results: Path, page: Path) -> list[str]:
    """Write the tables of all results into the page; gives the names of those written."""
    texts: dict[str, list[str]] = {}
    for path in sorted(results.glob("speed-*.json")):
        result = json.loads(path.read_text())
        if result["what"] in COLUMNS:
            texts.setdefault(result["what"], []).append(table(result))
    content = page.read_text()
    for what, parts in texts.items():
        begin, end = f"<!-- speed:{what} -->", f"<!-- /speed:{what} -->"
        if not 0 <= content.find(begin) < content.find(end):
            where = "on lines of their own where the table belongs"
            raise ValueError(f"{page.name}: no mark {begin}; put it and {end} {where}")
        before, _, rest = content.partition(begin)
        _, _, after = rest.partition(end)
        text = "\n\n".join(parts)
        content = f"{before}{begin}\n{text}\n{end}{after}"
    page.write_text(content)
    return list(texts)

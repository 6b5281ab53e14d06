"""Training steps: images per second beside the peers, and what share of the machine they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.speed import ceilings, pairs, record, roofline
from benchmarks.speed.flags import Flags
from benchmarks.speed.interleave import ratio, spread
from benchmarks.speed.pairs import Pair
from benchmarks.speed.subjects import OURS, SUBJECTS
from benchmarks.speed.subjects.subject import Setting

FP32 = "unnoise fp32"
WAYS = ("shipped", "best")


def settings(flags: Flags, work: str) -> Iterator[Setting]:
    """Every way at every batch."""
    for batch in flags.batch:
        for way in flags.ways or WAYS:
            yield Setting(OURS, way, work, batch, flags.device, flags.peers, flags.base_channels)


def peers(flags: Flags, way: str) -> list[str]:
    """The subjects beside ours; at their best all are in the same precision, so ours in fp32 is for the other way."""
    chosen = flags.subjects or SUBJECTS
    return [name for name in chosen if name != OURS and (name != FP32 or way == "shipped")]


def row(pair: Pair, setting: Setting, found: dict[str, Any]) -> dict[str, Any]:
    """What is known of one subject at one setting."""
    about, operations = pair.worker.about, pair.worker.operations
    times = spread(pair.timings.sec[pair.peer])
    flop = roofline.TRAINING_PASSES * roofline.total_flop(operations)
    ceiling = ceilings.ceiling(found, about["precision"])
    least = roofline.TRAINING_PASSES * roofline.seconds(operations, ceiling, about["precision"])
    values: dict[str, Any] = {
        "subject": pair.peer, "way": setting.way, "batch": setting.batch, **about,
        "gflop_per_image": roofline.total_flop(operations) / setting.batch / 1e9,
        "sec": dataclasses.asdict(times), "samples": pair.timings.sec[pair.peer],
        "images_per_sec": setting.batch / times.median, "flop_per_sec": flop / times.median,
        "utilisation": roofline.utilisation(flop, times.median, ceiling), "roofline_share": least / times.median,
        "peak_bytes": pair.worker.ask(do="peak")["bytes"],
    }  # fmt: skip
    if pair.peer != OURS:
        values |= {"redone": pair.timings.redone, "disturbed": pair.timings.disturbed}
        values["sec_to_ours"] = dataclasses.asdict(ratio(pair.timings, pair.peer, OURS))
    return values


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """The result, again after every subject."""
    result = record.about("training", flags.torch_device, pairs.WARM["training"], flags.plan)
    result["ceilings"] = found = ceilings.measured(flags.torch_device, flags.plan, flags.scale)
    result["rows"] = []
    for setting in settings(flags, "training"):
        rows: list[dict[str, Any]] = []
        for pair in pairs.each(setting, peers(flags, setting.way), flags.plan):
            rows.append(row(pair, setting, found))
            yield {**result, "rows": result["rows"] + rows}
        per_flop(rows)
        result["rows"] += [rows[-1], *rows[:-1]]
        yield result


def per_flop(rows: list[dict[str, Any]]) -> None:
    """Adds how many times as long a peer takes per floating-point operation of its model."""
    ours = rows[-1]["gflop_per_image"]
    for values in rows[:-1]:
        values["sec_per_flop_to_ours"] = (
            values["sec_to_ours"]["median"] * ours / values["gflop_per_image"]
        )

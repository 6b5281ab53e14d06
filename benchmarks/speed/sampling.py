"""Sampling: 8 images with 20 network evaluations each, by every project's own sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.speed import ceilings, pairs, record, roofline
from benchmarks.speed.flags import Flags
from benchmarks.speed.interleave import ratio, spread
from benchmarks.speed.pairs import Pair
from benchmarks.speed.subjects import OURS
from benchmarks.speed.subjects.subject import Setting
from benchmarks.speed.training import WAYS, peers, per_flop

NUM = 8


def row(pair: Pair, setting: Setting, found: dict[str, Any]) -> dict[str, Any]:
    """What is known of one sampler."""
    about, operations = pair.worker.about, pair.worker.operations
    times = spread(pair.timings.sec[pair.peer])
    ceiling = ceilings.ceiling(found, about["precision"])
    flop = setting.nfe * roofline.total_flop(operations)
    values: dict[str, Any] = {
        "subject": pair.peer, "way": setting.way, "batch": setting.batch, "nfe": setting.nfe, **about,
        "gflop_per_image": roofline.total_flop(operations) / setting.batch / 1e9,
        "sec": dataclasses.asdict(times), "samples": pair.timings.sec[pair.peer],
        "images_per_sec": setting.batch / times.median, "flop_per_sec": flop / times.median,
        "utilisation": roofline.utilisation(flop, times.median, ceiling),
        "roofline_share": setting.nfe * roofline.seconds(operations, ceiling, about["precision"]) / times.median,
    }  # fmt: skip
    if pair.peer != OURS:
        values |= {"redone": pair.timings.redone, "disturbed": pair.timings.disturbed}
        values["sec_to_ours"] = dataclasses.asdict(ratio(pair.timings, pair.peer, OURS))
    return values


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """The result, again after every way."""
    result = record.about("sampling", flags.torch_device, pairs.WARM["sampling"], flags.plan)
    result["ceilings"] = found = ceilings.measured(flags.torch_device, flags.plan, flags.scale)
    result["rows"] = []
    for way in flags.ways or WAYS:
        setting = Setting(
            OURS, way, "sampling", NUM, flags.device, flags.peers, flags.base_channels
        )
        rows = [
            row(pair, setting, found) for pair in pairs.each(setting, peers(flags, way), flags.plan)
        ]
        per_flop(rows)
        result["rows"] += [rows[-1], *rows[:-1]]
        yield result

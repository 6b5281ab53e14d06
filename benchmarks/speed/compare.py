"""Ours and the peers, training or sampling: images per second, and share of the peak."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks import record
from benchmarks.speed import ceilings, flops
from benchmarks.speed.child import SUBJECTS
from benchmarks.speed.subject import OURS, Setting
from benchmarks.speed.worker import Pair, pairs
from benchmarks.timing import Plan, ratio, spread

Result = dict[str, Any]
PROTOCOL = (
    "Every subject runs in a process of its own, beside ours and nothing else; the two take turns "
    "(A B A B), one call a turn, after a warm-up. Medians over the rounds; ratios are medians and "
    "quartiles of the ratio of a round. A sample is taken again, up to {tries} tries, while other "
    "processes use more than 10 % of the processors. OpenMP waits passively ({policy})."
)
FP32 = "unnoise fp32"
WAYS = ("shipped", "best")
NUM = 8
"""Images that are sampled."""


def parse(words: Sequence[str], whats: Sequence[str], about: str | None) -> argparse.Namespace:
    """The command line's words, and what follows from them."""
    parser = record.flags(about)
    add = parser.add_argument
    add("what", choices=whats)
    add("--device", default="cpu")
    add("--batch", type=int, nargs="+", default=[8, 32], help="images of a step")
    add("--repeats", type=int, default=Plan.rounds, help="rounds")
    add("--tries", type=int, default=Plan.tries, help="tries of a sample while others compute")
    add("--peers", help="folder of the peers' repositories [$UNNOISE_PEERS]")
    add("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    add("--ways", nargs="+", choices=WAYS, default=WAYS)
    add("--base-channels", type=int, default=Setting.base_channels, help="fewer to try things out")
    flags = parser.parse_args(words)
    flags.setting = Setting(
        OURS, device=flags.device, peers=flags.peers, base_channels=flags.base_channels
    )
    # Next to a GPU, others on the processors hardly matter.
    flags.plan = Plan(flags.repeats, flags.tries if flags.device == "cpu" else 1)
    return flags


def limits(flags: argparse.Namespace) -> Iterator[Result]:
    """What the machine can do, with the head of a result."""
    device = torch.device(flags.device)
    policy = os.environ.get("OMP_WAIT_POLICY", "its own default")
    protocol = PROTOCOL.format(tries=flags.plan.tries, policy=policy)
    head = {"what": flags.what, **record.about("benchmarks.speed", device), "protocol": protocol}
    scale = flags.base_channels / Setting.base_channels  # the work shrinks with the network
    yield head | {"ceilings": ceilings.measured(device, flags.plan, scale)}


def peers(flags: argparse.Namespace, way: str) -> list[str]:
    """The subjects next to ours; at best all have one precision, so ours in fp32 has no place."""
    left_out = (OURS,) if way == "shipped" else (OURS, FP32)
    return [name for name in flags.subjects if name not in left_out]


def row(pair: Pair, setting: Setting, found: Result) -> Result:
    """What is known of one subject at one setting."""
    about, operations = pair.worker.about, pair.worker.operations
    training, times = setting.work == "training", spread(pair.timings.sec[pair.peer])
    passes = flops.TRAINING_PASSES if training else setting.nfe
    flop = flops.total(operations)
    ceiling = ceilings.ceiling(found, about["precision"])
    least = passes * flops.least_sec(operations, ceiling, about["precision"])
    rate = passes * flop / times["median"]
    values: Result = {
        "subject": pair.peer, "way": setting.way, "batch": setting.batch, **about,
        "gflop_per_image": flop / setting.batch / 1e9, "sec": times,
        "samples": pair.timings.sec[pair.peer], "images_per_sec": setting.batch / times["median"],
        "flop_per_sec": rate, "utilisation": rate / ceiling.convolution_flop_per_sec,
        "roofline_share": least / times["median"],
    }  # fmt: skip
    values |= {"peak_bytes": pair.worker.ask(do="peak")["bytes"]} if training else {"nfe": passes}
    if pair.peer != OURS:
        values |= {"redone": pair.timings.redone, "disturbed": pair.timings.disturbed}
        values["sec_to_ours"] = ratio(pair.timings, pair.peer, OURS)
    return values


def per_flop(rows: list[Result]) -> None:
    """Adds how many times as long a peer takes per floating-point operation of its model."""
    ours = rows[-1]["gflop_per_image"]
    for values in rows[:-1]:
        per_image = values["sec_to_ours"]["median"]
        values["sec_per_flop_to_ours"] = per_image * ours / values["gflop_per_image"]


def run(flags: argparse.Namespace) -> Iterator[Result]:
    """The result, again after every subject."""
    result, done = next(limits(flags)), []
    for batch in flags.batch if flags.what == "training" else (NUM,):
        for way in flags.ways:
            setting = dataclasses.replace(flags.setting, way=way, work=flags.what, batch=batch)
            rows: list[Result] = []
            for pair in pairs(setting, peers(flags, way), flags.plan):
                rows.append(row(pair, setting, result["ceilings"]))
                yield {**result, "rows": done + rows}
            per_flop(rows)
            done += [rows[-1], *rows[:-1]]
            yield {**result, "rows": done}

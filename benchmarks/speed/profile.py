"""Where the time of our training step and of our sampling goes, by operation."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity

from benchmarks.speed import ours
from benchmarks.speed.compare import Result, limits
from benchmarks.speed.subject import OURS, wake
from benchmarks.timing import Work, synchroniser

WARM, NFE = 2, 2


def seconds(work: Work, device: torch.device, calls: int) -> dict[str, float]:
    """Seconds per call of each operation without those it calls, the longest first."""
    for _ in range(WARM):
        work()
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(calls):
            work()
        synchroniser(device)()
    clock = "self_device_time_total" if cuda else "self_cpu_time_total"
    found = {one.key: getattr(one, clock) / 1e6 / calls for one in profiler.key_averages()}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def run(flags: argparse.Namespace) -> Iterator[Result]:
    """The result, again after every precision."""
    device, result = torch.device(flags.device), next(limits(flags)) | {"rows": []}
    for batch in flags.batch:
        for precision in ("fp32", "bf16"):
            setting = dataclasses.replace(flags.setting, batch=batch)
            # A compiled step has no operations to tell apart.
            parts = ours.build(setting, precision, compiles=False)
            wake(parts.network)
            sample = lambda parts=parts, batch=batch: parts.sample(batch, NFE)
            for work, call in (("training", parts.shipped_step()), ("sampling", sample)):
                parts.network.train(work == "training")
                about = {"subject": OURS, "work": work, "batch": batch, "precision": precision}
                result["rows"].append(about | {"sec": seconds(call, device, flags.repeats)})
            yield result

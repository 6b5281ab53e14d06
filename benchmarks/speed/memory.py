"""The most memory that a training step takes, one subject at a time.

On a CPU it is the most that the whole process held at once (libraries included), on CUDA what torch allocated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.speed import record
from benchmarks.speed.flags import Flags
from benchmarks.speed.subjects import OURS
from benchmarks.speed.subjects.subject import Missing
from benchmarks.speed.training import peers, settings
from benchmarks.speed.worker import Failed, Worker

STEPS = 2


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """The result, again after every subject."""
    result = record.about("memory", flags.torch_device, 1, flags.plan) | {"rows": []}
    for setting in settings(flags, "training"):
        for name in [OURS, *peers(flags, setting.way)]:
            try:
                with Worker(dataclasses.replace(setting, subject=name)) as worker:
                    worker.ask(do="warm", times=1)
                    for _ in range(STEPS):
                        worker.take()
                    peak = worker.ask(do="peak")["bytes"]
                    values = {
                        "subject": name,
                        "way": setting.way,
                        "batch": setting.batch,
                        **worker.about,
                    }
                    result["rows"].append(values | {"peak_bytes": peak})
            except (Missing, Failed) as reason:
                print(reason)
            yield result

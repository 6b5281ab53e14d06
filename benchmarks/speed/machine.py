"""The ceilings alone, as a result of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.speed import ceilings, record
from benchmarks.speed.flags import Flags


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """What the machine can do."""
    result = record.about("ceilings", flags.torch_device, 1, flags.plan)
    yield result | {"ceilings": ceilings.measured(flags.torch_device, flags.plan, flags.scale)}

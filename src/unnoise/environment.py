"""Where a run runs: versions, machine, arithmetic. Written into the run folder at every start."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

from unnoise.errors import CheckpointError
from unnoise.files import write_json
from unnoise.precision import Arithmetic
from unnoise.records import read_starts

FILE = "environment.json"


def describe(arithmetic: Arithmetic) -> dict[str, Any]:
    """What ran where, ready for JSON."""
    from unnoise import __version__

    device = arithmetic.device
    return {
        "unnoise": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": str(arithmetic.dtype).removeprefix("torch."),
        "channels_last": arithmetic.channels_last,
        "compile": arithmetic.compile,
    }


def write(folder: Path, arithmetic: Arithmetic, step: int) -> None:
    """Add this start to environment.json: a list, the newest last."""
    path = folder / FILE
    starts = []
    with suppress(CheckpointError):  # a missing or damaged note of the past stops nobody
        starts = read_starts(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, [*starts, {"started": now, "step": step, **describe(arithmetic)}])


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

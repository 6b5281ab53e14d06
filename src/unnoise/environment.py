"""Where a run runs: versions, machine, arithmetic. Written into the run folder at every start."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch

from unnoise.errors import CheckpointError
from unnoise.files import read_json, write_json
from unnoise.precision import Arithmetic

FILE = "environment.json"


def describe(arithmetic: Arithmetic) -> dict[str, Any]:
    """Versions, machine and arithmetic, ready for JSON."""
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
    try:
        starts = read_json(path, list) if path.exists() else []
    except CheckpointError:  # a damaged note of the past stops nobody
        starts = []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, [*starts, {"started": now, "step": step, **describe(arithmetic)}])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )

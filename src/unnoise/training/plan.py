"""What a run will cost, measured by a few real steps in memory: parameters, GFLOP, speed, memory, time to the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from unnoise.config import RunConfig
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.training.loop import Run, prepare
from unnoise.training.step import draw, train_step

DRY_RUN_SEC = 20
"""A dry run starts no further step after so long."""


@dataclass(frozen=True)
class Probe:
    """What a dry run measured."""

    parameters: int
    gflop_per_image: float
    """Of one forward pass."""
    img_per_sec: float
    memory_bytes: int
    """Largest resident (CPU) or allocated (GPU) memory."""
    remaining_sec: float


def dry_run(config: RunConfig, data: ImageData, steps: int = 3) -> Probe:
    """Up to `steps` real steps in memory, nothing written: parameters, GFLOP, speed, memory, time to the end."""
    run = prepare(config, data, Path("dry-run"))
    run.log.close()
    batches = Batches(data, config.seed, run.arithmetic.device)
    size, times = config.train.batch_size, []
    for _ in range(steps):
        began = time.monotonic()
        batch = draw(run.objective, run.state.step, *batches.get(run.state.nimg, size))
        loss, _ = train_step(run.objective, run.state, batch, 0.0)
        float(loss)
        times.append(time.monotonic() - began)
        if sum(times) > DRY_RUN_SEC:
            break
    speed = size / min(times)
    remaining = min(run.total_sec, run.total_nimg / speed)
    parameters = sum(p.numel() for p in run.state.network.parameters())
    return Probe(parameters, _gflop(run), speed, _peak_memory(run.arithmetic.device), remaining)


def _gflop(run: Run) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, run.shape.channels, run.shape.height, run.shape.width, device=run.arithmetic.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.state.ema(x, torch.ones(1, device=x.device))
    return counter.get_total_flops() / 1e9


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

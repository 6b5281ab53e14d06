"""What a run costs on this machine: some seconds of real steps, in memory; nothing is written.

What is a rule of thumb and not measured is a constant.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from unnoise import build
from unnoise.config import RunConfig
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.diffusion.samplers import evaluations
from unnoise.errors import ConfigError
from unnoise.precision import find_device
from unnoise.training import state as states
from unnoise.training.preview import HELD_OUT_IMAGES, PREVIEW_IMAGES
from unnoise.training.run import Run, prepare
from unnoise.training.state import TrainState
from unnoise.training.step import draw, train_step
from unnoise.units import size

STEPS_SEC = 13.0
"""The probe's time for training steps; a first step may take longer."""
REPEATS = 3
"""The median of this many steps of one size counts."""
SAFE_SHARE = 0.9
"""Rule of thumb: a run may use this share of the available memory."""
FORWARD_SHARE = 1 / 3
"""Rule of thumb: the share of a training step that evaluating the network takes."""
STATE_BYTES_PER_PARAMETER = 20
"""fp32 weights, gradients, average and two moments."""


class Speed(NamedTuple):
    """Real training steps with one micro-batch."""

    micro_batch: int
    img_per_sec: float
    peak_bytes: int


@dataclass(frozen=True)
class Measured:
    """What the probe found on this machine, now."""

    device: str
    precision: str
    parameters: int
    gflop_per_image: float
    """GFLOP of one forward pass."""
    speeds: list[Speed]
    """Sorted by micro-batch; one at least."""
    too_large: float
    """The smallest micro-batch that ran out of memory; infinite where none did."""
    available_bytes: int
    preview_sec: float
    checkpoint_bytes: int
    """A checkpoint and its model file."""
    free_bytes: int
    num_train: int
    probe_sec: float

    def largest_fit(self, batch_size: int) -> int:
        """The largest micro-batch that fits into memory; one image does, as it was tried."""
        limit = SAFE_SHARE * self.available_bytes
        fits = [m for m in sizes(batch_size) if m < self.too_large]
        return max((m for m in fits if peak_bytes(self.speeds, m) <= limit), default=1)


def img_per_sec(speeds: Sequence[Speed], micro_batch: int) -> float:
    """Take the speed of the next smaller size that was measured: larger passes are no faster."""
    return ([s for s in speeds if s.micro_batch <= micro_batch] or speeds[:1])[-1].img_per_sec


def peak_bytes(speeds: Sequence[Speed], micro_batch: int) -> float:
    """Memory of a pass: as measured, or on the line through the two largest sizes measured."""
    known = {s.micro_batch: s.peak_bytes for s in speeds}
    if micro_batch in known:
        return known[micro_batch]
    *_, (low, less), (high, most) = (0, 0), *sorted(known.items())
    return most + max(most - less, 0) / (high - low) * (micro_batch - high)


def sizes(batch_size: int) -> list[int]:
    """Powers of two up to a batch size, and itself."""
    return [*(2**i for i in range(batch_size.bit_length()) if 2**i < batch_size), batch_size]


def measure(config: RunConfig, data: ImageData, out: Path) -> Measured:
    """Probe a configuration; `out` is the folder that the run would write to."""
    began = time.monotonic()
    available = available_bytes(find_device(config.device))
    _check_weights(config, data, available)
    whole = replace(config, train=replace(config.train, micro_batch=None))
    run, state = prepare(whole, data, out)
    device = run.arithmetic.device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        x = torch.zeros(1, *data.images.shape[1:], device=device)
        state.ema(x, torch.ones(1, device=device))
    speeds, too_large = _speeds(run, state, available)
    groups = states.tensors(state)
    written = [value for group in (*groups.values(), groups["ema"]) for value in group.values()]
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=str(run.arithmetic.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in state.network.parameters()),
        gflop_per_image=counter.get_total_flops() / 1e9,
        speeds=speeds,
        too_large=too_large,
        available_bytes=available,
        preview_sec=_preview_sec(run, max(speed.img_per_sec for speed in speeds)),
        checkpoint_bytes=sum(value.nbytes for value in written),
        free_bytes=shutil.disk_usage(there).free,
        num_train=data.num_train,
        probe_sec=time.monotonic() - began,
    )


def _check_weights(config: RunConfig, data: ImageData, available: int) -> None:
    """ConfigError where the weights alone do not fit, before any are made."""
    with torch.device("meta"):
        network = build.network(config, build.Shape(*data.images.shape[1:]))
    parameters = sum(p.numel() for p in network.parameters())
    needed = STATE_BYTES_PER_PARAMETER * parameters
    if needed > SAFE_SHARE * available:
        raise ConfigError(
            f"{config.preset}: {parameters:,} parameters need {size(needed)} to train, "
            f"{size(available)} are available; expected a smaller network"
        )


def _speeds(run: Run, state: TrainState, available: int) -> tuple[list[Speed], float]:
    """From one image up, while time and memory last, and the smallest size that did not fit."""
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)
    ends, batch_size = time.monotonic() + STEPS_SEC, run.config.train.batch_size
    speeds: list[Speed] = []
    # compiling takes a minute for each size: the whole batch alone, or what fits of it
    for count in [batch_size] if run.arithmetic.compile else sizes(batch_size):
        if speeds and (
            peak_bytes(speeds, count) > SAFE_SHARE * available
            or time.monotonic() + 2 * count / speeds[-1].img_per_sec > ends
        ):
            break
        speed = _speed(run, state, batches, count, ends)
        if speed.micro_batch < count:  # memory ran out, and the step has halved it
            return speeds or [speed], 2 * speed.micro_batch
        speeds.append(speed)
    return speeds, math.inf


def _speed(run: Run, state: TrainState, batches: Batches, count: int, ends: float) -> Speed:
    """Time some steps that change no weight, after a first one; the median counts."""
    device, times = run.arithmetic.device, list[float]()
    least = 2 if run.arithmetic.compile else 1  # the first step is spent on compiling
    while len(times) < least or (len(times) <= REPEATS and time.monotonic() + times[-1] < ends):
        _reset_peak(device)
        began = time.monotonic()
        batch = draw(run, state.counters.step, *batches.get(state.counters.nimg, count))
        float(train_step(run, state, batch, 0.0)[0])  # waits for a GPU
        times.append(time.monotonic() - began)
    speed = count / statistics.median(times[1:] or times)
    return Speed(state.micro_batch or count, speed, _peak_memory(device))


def _preview_sec(run: Run, fastest: float) -> float:
    """Seconds of a grid of samples and two held-out losses, by FORWARD_SHARE."""
    sample, images = run.config.sample, run.data.images
    steps = len(build.grid(sample, run.diffusion.schedule)) - 1
    guided = 2 if run.shape.num_classes and sample.guidance_scale != 1 else 1
    sampling = PREVIEW_IMAGES * guided * evaluations(sample.sampler, steps)
    held_out = min(HELD_OUT_IMAGES, len(images) - run.data.num_train)
    return FORWARD_SHARE * (sampling + 2 * held_out) / fastest


def available_bytes(device: torch.device) -> int:
    """Memory that this process may use, in a GPU or in the machine and its container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if sys.platform != "linux":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = _memory("/proc/meminfo", "MemAvailable") + _memory("/proc/self/status", "VmRSS")
    with suppress(OSError, ValueError):  # no control groups, or no limit, which is "max"
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return machine


def _memory(file: str, key: str) -> int:
    """A number of bytes from a file of lines such as `MemAvailable:  22235984 kB`."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
    return 1024 * int(lines[key].split()[0])


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone has it; elsewhere the process's peak counts
            Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        return _memory("/proc/self/status", "VmHWM")
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

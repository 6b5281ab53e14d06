"""What a run costs on this machine: some seconds of real steps and of sampling, in memory.

Nothing is written. A step on a batch of B images in micro-batches of m takes
B / m * pass_sec(m) + update_sec. What is a rule of thumb and not measured is a constant.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unnoise import build, units
from unnoise.config import RunConfig
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid
from unnoise.diffusion.samplers import evaluations
from unnoise.errors import ConfigError
from unnoise.model import Model
from unnoise.precision import find_device
from unnoise.training import state as states
from unnoise.training.preview import HELD_OUT_IMAGES, PREVIEW_IMAGES
from unnoise.training.run import Run, prepare
from unnoise.training.state import TrainState
from unnoise.training.step import draw, train_step

STEPS_SEC, PREVIEW_SEC = 13.0, 4.0
"""The probe's time for training steps and for sampling; a first step may take longer."""
REPEATS = 3
"""The median of this many steps of one size counts."""
SAFE_SHARE = 0.9
"""Rule of thumb: a run may use this share of the available memory."""
STATE_BYTES_PER_PARAMETER = 20
"""fp32 weights, gradients, average and two moments."""
HEADER_BYTES = 110
"""Rule of thumb: what safetensors writes about each tensor."""


@dataclass(frozen=True)
class Speed:
    """Real training steps with one micro-batch."""

    micro_batch: int
    pass_sec: float
    """Seconds of drawing, forward, backward and clipping."""
    update_sec: float
    """Seconds of the optimizer and the average: once per step, whatever the batch."""
    peak_bytes: int


@dataclass(frozen=True)
class Measured:
    """What the probe found on this machine, now."""

    device: str
    precision: str
    probe_sec: float
    parameters: int
    gflop_per_image: float
    """GFLOP of one forward pass."""
    speeds: tuple[Speed, ...]
    """Sorted by micro-batch; () where not even one image fits."""
    too_large: float
    """The smallest micro-batch that ran out of memory; infinite where none did."""
    available_bytes: int
    preview_sec: float
    checkpoint_bytes: int
    model_bytes: int
    sample_bytes: int
    free_bytes: int
    num_train: int

    def largest_fit(self, batch_size: int) -> int | None:
        """The largest micro-batch that fits into memory; None where not one image does."""
        limit = SAFE_SHARE * self.available_bytes
        fits = [m for m in sizes(batch_size) if m < self.too_large]
        fits = [m for m in fits if peak_bytes(self.speeds, m) <= limit]
        return max(fits, default=None) if self.speeds else None


def step_sec(speeds: Sequence[Speed], batch_size: int, micro_batch: int) -> float:
    """Seconds of a step; passes larger than all measured are as fast as the largest of them."""
    near = ([s for s in speeds if s.micro_batch <= micro_batch] or speeds[:1])[-1]
    return batch_size / near.micro_batch * near.pass_sec + near.update_sec


def peak_bytes(speeds: Sequence[Speed], micro_batch: int) -> float:
    """Memory of a pass: as measured, or on the line through the two largest sizes measured."""
    known = {s.micro_batch: s.peak_bytes for s in speeds}
    if micro_batch in known or not known:
        return known.get(micro_batch, 0)
    *_, low, high = 0, *sorted(known)
    slope = (known[high] - known.get(low, 0)) / (high - low)
    return known[high] + max(slope, 0) * (micro_batch - high)


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
    record = len(json.dumps(run.record(state.counters), indent=2))
    picture = io.BytesIO()  # a grid of samples is as large as one of training images
    grid(torch.from_numpy(data.images[:PREVIEW_IMAGES].copy())).save(picture, "png")
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=str(run.arithmetic.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in state.network.parameters()),
        gflop_per_image=counter.get_total_flops() / 1e9,
        speeds=speeds,
        too_large=too_large,
        available_bytes=available,
        preview_sec=_preview_sec(run, state) if speeds else 0.0,
        checkpoint_bytes=record + sum(_file_bytes(group) for group in groups.values()),
        model_bytes=record + _file_bytes(groups["ema"]),
        sample_bytes=len(picture.getvalue()),
        free_bytes=shutil.disk_usage(there).free,
        num_train=data.num_train,
        probe_sec=time.monotonic() - began,
    )


def _check_weights(config: RunConfig, data: ImageData, available: int) -> None:
    """ConfigError where the weights alone do not fit, before any are made."""
    with torch.device("meta"):
        network = build.network(config, build.Shape(*data.images.shape[1:]))
    parameters = sum(p.numel() for p in network.parameters())
    if STATE_BYTES_PER_PARAMETER * parameters > SAFE_SHARE * available:
        raise ConfigError(
            f"{config.preset}: {parameters:,} parameters need "
            f"{units.size(STATE_BYTES_PER_PARAMETER * parameters)} to train, "
            f"{units.size(available)} are "
            "available; expected a smaller network"
        )


def _file_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes + HEADER_BYTES for value in tensors.values())


def _speeds(run: Run, state: TrainState, available: int) -> tuple[tuple[Speed, ...], float]:
    """From one image up, while time and memory last; compiled, from the whole batch down."""
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)
    speeds: list[Speed] = []
    ends, too_large = time.monotonic() + STEPS_SEC, float("inf")
    down = run.arithmetic.compile  # which takes a minute for each size
    for size in sorted(sizes(run.config.train.batch_size), reverse=down):
        expected = 2 * step_sec(speeds, size, size) if speeds else 0  # a first step and one more
        fits = down or peak_bytes(speeds, size) <= SAFE_SHARE * available
        if not fits or time.monotonic() + expected > ends:
            break
        speed = _speed(run, state, batches, size, ends)
        if speed is None:
            too_large = size
        else:
            speeds.append(speed)
        if (speed is None) != down:
            break
    return tuple(speeds), too_large


def _speed(run: Run, state: TrainState, batches: Batches, size: int, ends: float) -> Speed | None:
    """The median of some steps on `size` images after a first one; None where memory runs out."""
    device = run.arithmetic.device
    _reset_peak(device)
    times: list[tuple[float, float]] = []
    try:
        while len(times) <= REPEATS and (
            time.monotonic() + sum((times or [(0.0, 0.0)])[-1]) < ends
            or len(times) < 1 + run.arithmetic.compile  # the first step is spent on compiling
        ):
            times.append(_timed_step(run, state, batches, size))
    except (torch.OutOfMemoryError, ConfigError):
        state.micro_batch = size
    if state.micro_batch is not None:  # which a step sets that ran out of memory
        state.micro_batch = None
        state.optimizer.zero_grad(set_to_none=True)
        return None
    passes, updates = zip(*(times[1:] or times), strict=True)
    return Speed(size, statistics.median(passes), statistics.median(updates), _peak_memory(device))


def _timed_step(run: Run, state: TrainState, batches: Batches, size: int) -> tuple[float, float]:
    """Seconds up to the optimizer, and in it and the average, of a step that changes no weight."""
    marks = [time.monotonic()]

    def mark(*_: object) -> None:
        if run.arithmetic.device.type != "cpu":
            torch.accelerator.synchronize()
        marks.append(time.monotonic())

    handle = state.optimizer.register_step_pre_hook(mark)
    batch = draw(run, state.counters.step, *batches.get(state.counters.nimg, size))
    train_step(run, state, batch, 0.0)
    mark()
    handle.remove()
    return marks[1] - marks[0], marks[-1] - marks[1]


def _preview_sec(run: Run, state: TrainState) -> float:
    """Seconds of a grid of samples and two held-out losses, from a few steps on few images."""
    model, chosen = run.model(state.ema, state.counters), run.config.sample
    sec = _evaluation_sec(model, 1)
    affordable = min(PREVIEW_IMAGES, int(PREVIEW_SEC / (16 * sec)))  # steps of up to 4 evaluations
    if affordable > 1:
        sec = _evaluation_sec(model, 1 << affordable.bit_length() - 1)
    guided = 2 if run.shape.num_classes and chosen.guidance_scale != 1 else 1
    sampling = PREVIEW_IMAGES * guided * evaluations(chosen.sampler, len(model.grid(chosen)) - 1)
    held_out = min(HELD_OUT_IMAGES, len(run.data.images) - run.data.num_train)
    return sec * (sampling + 2 * held_out)


def _evaluation_sec(model: Model, count: int) -> float:
    """Seconds of a network evaluation per image, from the second to the fourth sampling step."""
    marks: list[tuple[float, int]] = [(time.monotonic(), 0)]
    for step in itertools.islice(model.steps(range(count)), 4):
        float(step.x.sum())  # waits for a GPU
        marks.append((time.monotonic(), step.nfe))
    (began, before), (ended, after) = marks[min(1, len(marks) - 2)], marks[-1]
    return (ended - began) / (after - before) / count


def available_bytes(device: torch.device) -> int:
    """Memory that this process may use, in a GPU or in the machine and its containers."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        machine = 1024 * _fields(Path("/proc/meminfo"))["MemAvailable"]
        own = 1024 * _fields(Path("/proc/self/status"))["VmRSS"]
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        min([machine, *_container_bytes(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]) + own
    )


def _container_bytes(root: Path, mine: Path) -> Iterator[int]:
    """What the memory limits of this process's control groups (version 2) leave, up to the root."""
    groups = [
        line
        for line in (mine.read_text() if mine.exists() else "").splitlines()
        if line.startswith("0::")
    ]
    for line in groups:
        group = root / line.removeprefix("0::").lstrip("/")
        for folder in {group, *group.parents} - set(root.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit says "max"
                limit, usage = (
                    int((folder / f"memory.{n}").read_text()) for n in ("max", "current")
                )
                cached = _fields(folder / "memory.stat").get("inactive_file", 0)
                yield max(0, limit - usage + cached)


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of lines such as `MemAvailable:  22235984 kB`."""
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(
            OSError
        ):  # Linux alone has it; elsewhere the process's peak counts
            Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return 1024 * _fields(Path("/proc/self/status"))["VmHWM"]
    except (OSError, KeyError):
        import resource  # which Windows lacks

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

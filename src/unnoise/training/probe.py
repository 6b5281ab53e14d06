"""What a run does on this machine: some seconds of real steps and of sampling in memory, and sizes on disk.

Nothing is written. plan.py makes a plan of what `measure` finds: a step on a batch of B images in micro-batches of m
takes B / m * pass_sec(m) + update_sec. What is a rule of thumb and not measured is a constant, here and there.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unnoise import build
from unnoise.config import RunConfig
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid
from unnoise.diffusion.samplers import evaluations
from unnoise.errors import ConfigError
from unnoise.model import Model
from unnoise.precision import find_device
from unnoise.training import state as states
from unnoise.training.plan import SAFE_SHARE, narrower, peak_bytes, sizes, step_sec
from unnoise.training.preview import HELD_OUT_IMAGES, PREVIEW_IMAGES
from unnoise.training.run import Run, prepare
from unnoise.training.step import draw, train_step

# --- a dry run

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


def dry_run(config: RunConfig, data: ImageData) -> Probe:
    """Up to three real steps in memory, nothing written: parameters, GFLOP, speed, memory, time to the end."""
    run = prepare(config, data, Path("dry-run"))
    run.log.close()
    batches = Batches(data, config.seed, run.arithmetic.device)
    size, times = config.train.batch_size, []
    while len(times) < 3 and sum(times) <= DRY_RUN_SEC:
        times.append(sum(_timed_step(run, batches, size)))
    speed = size / min(times)
    remaining = min(run.total_sec, run.total_nimg / speed)
    parameters = sum(p.numel() for p in run.state.network.parameters())
    return Probe(parameters, _gflop(run), speed, _peak_memory(run.arithmetic.device), remaining)


def _gflop(run: Run) -> float:
    x = torch.zeros(
        1, run.shape.channels, run.shape.height, run.shape.width, device=run.arithmetic.device
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.state.ema(x, torch.ones(1, device=x.device))
    return counter.get_total_flops() / 1e9


# --- measuring

STEPS_SEC, PREVIEW_SEC = 13.0, 4.0
"""The probe's time for training steps and for sampling; a first step may take longer."""
REPEATS = 3
"""Steps of one size, of which the median counts."""
STATE_BYTES_PER_PARAMETER = 20
"""fp32 weights, gradients, average and two moments."""


@dataclass(frozen=True)
class Speed:
    """Real training steps on `micro_batch` images in one pass."""

    micro_batch: int
    pass_sec: float
    """Drawing, forward, backward and clipping."""
    update_sec: float
    """Optimizer and average: once per step, whatever the batch."""
    peak_bytes: int
    warm: bool = True
    """False where the one step there was time for was the first of its size."""


@dataclass(frozen=True)
class Measured:
    """What the probe found; all of it is of this machine, now."""

    device: str
    precision: str
    probe_sec: float
    parameters: int
    gflop_per_image: float
    """Of one forward pass."""
    speeds: tuple[Speed, ...]
    """By rising micro-batch; () where not even one image fits."""
    too_large: int | None
    """The smallest micro-batch that ran out of memory."""
    image_bytes: int
    """Memory of one image more in a pass, at least; 0 if unknown."""
    available_bytes: int
    preview_sec: float
    checkpoint_bytes: int
    model_bytes: int
    sample_bytes: int
    free_bytes: int
    num_train: int


def measure(config: RunConfig, data: ImageData, out: Path) -> Measured:
    """Some seconds of real steps at rising micro-batches and of sampling, in memory; nothing is written."""
    began = time.monotonic()
    device = find_device(config.device)
    available = available_bytes(device)
    _check_state(config, data, available)
    whole = replace(config, train=replace(config.train, micro_batch=None))
    run = prepare(whole, data, out)
    run.log.close()
    gflop = _gflop(run)
    image_bytes = 0 if device.type == "cuda" else _image_bytes(run)  # on CUDA what fits is tried
    speeds, too_large = _measure_speeds(run, available, image_bytes)
    tensors = states.tensors(run.state)
    record = json.dumps(run.record(), indent=2)
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=str(run.arithmetic.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in run.state.network.parameters()),
        gflop_per_image=gflop,
        speeds=speeds,
        too_large=too_large,
        image_bytes=image_bytes,
        available_bytes=available,
        preview_sec=_preview_sec(run) if speeds else 0.0,
        checkpoint_bytes=checkpoint_bytes(tensors.values(), record),
        model_bytes=safetensors_bytes(tensors["ema"]) + len(record),
        sample_bytes=_sample_bytes(data),
        free_bytes=shutil.disk_usage(
            next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
        ).free,
        num_train=data.num_train,
        probe_sec=time.monotonic() - began,
    )


def _check_state(config: RunConfig, data: ImageData, available: int) -> None:
    """ConfigError where the weights alone do not fit, before any are made."""
    with torch.device("meta"):
        network = build.network(config, build.Shape(*data.images.shape[1:]))
    parameters = sum(p.numel() for p in network.parameters())
    needed = STATE_BYTES_PER_PARAMETER * parameters
    if needed > SAFE_SHARE * available:
        width = narrower(config, SAFE_SHARE * available / needed / 2)
        raise ConfigError(
            f"{config.preset}: {parameters:,} parameters need {needed / 2**30:.1f} GiB to train, {available / 2**30:.1f} "
            f"GiB are available; try --network.base-channels {width}"
        )


def _image_bytes(run: Run) -> int:
    """What one image more keeps in memory from the forward to the backward pass."""
    plain = replace(run.objective, model=replace(run.objective.model, network=run.state.network))
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)

    def kept(count: int) -> int:
        storages: dict[int, int] = {}

        def pack(value: Tensor) -> Tensor:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        batch = draw(run.objective, 0, *batches.get(0, count))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            loss = plain.loss(batch.x0, batch.eps, batch.t, batch.label)
        return sum(storages.values()) if loss.requires_grad else 0

    return max(0, kept(2) - kept(1))


def _measure_speeds(
    run: Run, available: int, image_bytes: int
) -> tuple[tuple[Speed, ...], int | None]:
    """On CUDA from the whole batch down to what fits; elsewhere from one image up, while time and memory last."""
    device, speeds, too_large = run.arithmetic.device, [], None
    batches = Batches(run.data, run.config.seed, device)
    ends, cuda = time.monotonic() + STEPS_SEC, device.type == "cuda"
    for size in sorted(sizes(run.config.train.batch_size), reverse=cuda):
        fits = cuda or peak_bytes(speeds, size, image_bytes) <= SAFE_SHARE * available
        expected = 2 * step_sec(speeds, size, size) if speeds else 0  # a first step and one more
        if not fits or time.monotonic() + expected > ends:
            break
        speed = _measure_speed(run, batches, size, ends)
        if speed is None:
            too_large = size
        else:
            speeds.append(speed)
        if (speed is None and not cuda) or (
            speeds and run.arithmetic.compile
        ):  # compiling takes a minute a size
            break
    return tuple(sorted(speeds, key=lambda s: s.micro_batch)), too_large


def _measure_speed(run: Run, batches: Batches, size: int, ends: float) -> Speed | None:
    """Median of some steps on `size` images after a first one; None where memory runs out."""
    compiled = run.arithmetic.compile
    if compiled:
        torch.compiler.reset()  # as in the real run, which compiles for one size
    _reset_peak(run.arithmetic.device)
    rest: list[tuple[float, float]] = []
    try:
        first = _timed_step(run, batches, size)
        ends = (
            time.monotonic() + STEPS_SEC if compiled else ends
        )  # the first step was spent on compiling
        while len(rest) < REPEATS and time.monotonic() + sum(rest[-1] if rest else first) < ends:
            rest.append(_timed_step(run, batches, size))
    except (torch.OutOfMemoryError, ConfigError):
        first = None
    if (
        first is None or run.state.micro_batch is not None
    ):  # which a step sets that ran out of memory
        run.state.micro_batch = None
        run.state.optimizer.zero_grad(set_to_none=True)
        if run.arithmetic.device.type == "cuda":
            torch.cuda.empty_cache()
        return None
    passes, updates = zip(*(rest or [first]), strict=True)
    peak = _peak_memory(run.arithmetic.device)
    return Speed(size, statistics.median(passes), statistics.median(updates), peak, warm=bool(rest))


def _timed_step(run: Run, batches: Batches, size: int) -> tuple[float, float]:
    """Seconds up to the optimizer, and in it and the average, of a real step that changes no weight."""
    marks = [time.monotonic()]

    def mark(*_: object) -> None:
        if run.arithmetic.device.type != "cpu":
            torch.accelerator.synchronize()
        marks.append(time.monotonic())

    handle = run.state.optimizer.register_step_pre_hook(mark)
    batch = draw(run.objective, run.state.step, *batches.get(run.state.nimg, size))
    train_step(run.objective, run.state, batch, 0.0)
    mark()
    handle.remove()
    return marks[1] - marks[0], marks[-1] - marks[1]


def _preview_sec(run: Run) -> float:
    """Time of a grid of samples and two held-out losses, from a few sampling steps on as many images as time allows."""
    model, chosen = run.model(run.state.ema), run.config.sample
    sec = _evaluation_sec(model, 1)
    affordable = min(
        PREVIEW_IMAGES, int(PREVIEW_SEC / (16 * sec))
    )  # some steps of up to four evaluations
    if affordable > 1:
        sec = _evaluation_sec(model, 1 << affordable.bit_length() - 1)
    guided = 2 if run.shape.num_classes and chosen.guidance_scale != 1 else 1
    sampling = PREVIEW_IMAGES * guided * evaluations(chosen.sampler, len(model.grid(chosen)) - 1)
    held_out = min(HELD_OUT_IMAGES, len(run.data.images) - run.data.num_train)
    return sec * (sampling + 2 * held_out)


def _evaluation_sec(model: Model, count: int) -> float:
    """Time of one network evaluation per image in a batch, from the second to the fourth step of sampling."""
    marks: list[tuple[float, int]] = [(time.monotonic(), 0)]
    for step in itertools.islice(model.steps(range(count)), 4):
        float(step.x.sum())  # waits for a GPU
        marks.append((time.monotonic(), step.nfe))
    (began, before), (ended, after) = marks[min(1, len(marks) - 2)], marks[-1]
    return (ended - began) / (after - before) / count


def _sample_bytes(data: ImageData) -> int:
    """Size of a PNG grid, by one of training images."""
    file = io.BytesIO()
    grid(torch.from_numpy(data.images[:PREVIEW_IMAGES].copy())).save(file, "png")
    return len(file.getvalue())


# --- memory


def available_bytes(device: torch.device) -> int:
    """What this process may use, with what it uses already: of the GPU, or of machine and container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        machine = 1024 * _fields(Path("/proc/meminfo"))["MemAvailable"]
        own = 1024 * _fields(Path("/proc/self/status"))["VmRSS"]
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_bytes(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]) + own


def _cgroup_bytes(root: Path, mine: Path) -> Iterator[int]:
    """What the memory limits of a process's groups leave, group by group up to the root: version 2 and 1."""
    files = {
        "": ("memory.max", "memory.current"),
        "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }
    for line in mine.read_text().splitlines() if mine.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in files:
            continue
        top = root / controllers
        group = top / path.lstrip("/")
        for folder in {group, *group.parents} - set(root.parents) - ({root} - {top}):
            limit, usage = (_number(folder / name) for name in files[controllers])
            if limit is not None and usage is not None:
                cached = _fields(folder / "memory.stat").get("inactive_file", 0)
                yield max(0, limit - usage + cached)


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, as for "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


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
        ):  # Linux alone has it; elsewhere the peak is of the whole process
            Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return 1024 * _fields(Path("/proc/self/status"))["VmHWM"]
    except (OSError, KeyError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


# --- sizes on disk


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of a safetensors file: 8 bytes, a JSON header padded to 8, the values."""
    header, end = {}, 0
    for name, value in tensors.items():
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [start, end]}
    return 8 + 8 * math.ceil(len(json.dumps(header, separators=(",", ":"))) / 8) + end


def checkpoint_bytes(groups: Iterable[Mapping[str, Tensor]], record: str) -> int:
    """Size of a checkpoint: a file per group of tensors, the record, a manifest of some lines per file."""
    files = [safetensors_bytes(group) for group in groups]
    return sum(files) + len(record) + 150 * len(files)

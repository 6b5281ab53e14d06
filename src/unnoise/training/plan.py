"""What a run will cost and what fits: a probe of real steps in memory, and the arithmetic from it to a plan.

`measure` touches the machine; all below it is pure. A step on a batch of B images in micro-batches of m takes
B / m * pass_sec(m) + update_sec. What is a rule of thumb and not measured is a constant here.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from unnoise import build
from unnoise.config import ConfigError, RunConfig, override, seconds
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid
from unnoise.diffusion.samplers import evaluations
from unnoise.model import Model
from unnoise.presets import PRESETS
from unnoise.training import state as states
from unnoise.training.loop import Run, prepare
from unnoise.training.preview import HELD_OUT_IMAGES, PREVIEW_IMAGES
from unnoise.training.step import draw, train_step

DRY_RUN_SEC = 20
"""A dry run starts no further step after so long."""
STEPS_SEC, PREVIEW_SEC = 13.0, 4.0
"""The probe's time for training steps and for sampling; a first step may take longer."""
REPEATS = 3
"""Steps of one size, of which the median counts."""

TRAIN_PER_FORWARD = 3
"""Rule of thumb: the backward pass does twice the forward pass's arithmetic."""
SAFE_SHARE = 0.9
"""Rule of thumb: so much of the available memory may be used."""
FASTER = 1.15
"""A smaller micro-batch is advised from this gain in speed on; less is noise."""
WRITE_BYTES_PER_SEC = 300e6
"""Rule of thumb: writing, syncing and hashing a checkpoint."""
STATE_BYTES_PER_PARAMETER = 20
"""fp32 weights, gradients, average and two moments."""
PREVIEW_SHARE = 0.1
"""Rule of thumb: previews may take so much of training."""
SHORT_SHARE = 0.05
"""Rule of thumb: warm-up and the average's half-life are this share of a run."""
FEW_EPOCHS = 3
CHECKPOINT_MINUTES = 60
"""Rule of thumb: no more training than this should be lost."""


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


# --- measuring


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
    device = build.device(config.device)
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
        free_bytes=shutil.disk_usage(next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())).free,
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


def sizes(batch_size: int) -> list[int]:
    """Powers of two up to a batch size, and itself."""
    return [*(2**i for i in range(batch_size.bit_length()) if 2**i < batch_size), batch_size]


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


def _measure_speeds(run: Run, available: int, image_bytes: int) -> tuple[tuple[Speed, ...], int | None]:
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
        if (speed is None and not cuda) or (speeds and run.arithmetic.compile):  # compiling takes a minute a size
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
        ends = time.monotonic() + STEPS_SEC if compiled else ends  # the first step was spent on compiling
        while len(rest) < REPEATS and time.monotonic() + sum(rest[-1] if rest else first) < ends:
            rest.append(_timed_step(run, batches, size))
    except (torch.OutOfMemoryError, ConfigError):
        first = None
    if first is None or run.state.micro_batch is not None:  # which a step sets that ran out of memory
        _free(run)
        return None
    passes, updates = zip(*(rest or [first]), strict=True)
    peak = _peak_memory(run.arithmetic.device)
    return Speed(size, statistics.median(passes), statistics.median(updates), peak, warm=bool(rest))


def _free(run: Run) -> None:
    run.state.micro_batch = None
    run.state.optimizer.zero_grad(set_to_none=True)
    if run.arithmetic.device.type == "cuda":
        torch.cuda.empty_cache()


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
    model, chosen = Model(run.state.ema, run.config, run.record()), run.config.sample
    sec = _evaluation_sec(model, 1)
    affordable = min(PREVIEW_IMAGES, int(PREVIEW_SEC / (16 * sec)))  # some steps of up to four evaluations
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
    files = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
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
        with contextlib.suppress(OSError):  # Linux alone has it; elsewhere the peak is of the whole process
            Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return 1024 * _fields(Path("/proc/self/status"))["VmHWM"]
    except (OSError, KeyError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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


# --- arithmetic


def step_sec(speeds: Sequence[Speed], batch_size: int, micro_batch: int) -> float:
    """Time of a step; a pass larger than all measured is as fast per image as the largest of them."""
    near = max([s for s in speeds if s.micro_batch <= micro_batch] or speeds[:1], key=lambda s: s.micro_batch)
    return batch_size / near.micro_batch * near.pass_sec + near.update_sec


def peak_bytes(speeds: Sequence[Speed], micro_batch: int, image_bytes: int = 0) -> float:
    """Largest memory of a pass: as measured, or on the line through the two largest sizes measured; 0 without any.

    The line may be too flat, as small passes use what the allocator holds anyway: it rises by `image_bytes` at least.
    """
    known = {s.micro_batch: s.peak_bytes for s in speeds}
    if micro_batch in known or not known:
        return known.get(micro_batch, 0)
    sizes, high = sorted(known), max(known)
    slope = (known[high] - known[sizes[-2]]) / (high - sizes[-2]) if len(sizes) > 1 else 0.0
    return known[high] + max(slope, image_bytes) * (micro_batch - high)


def largest_fit(measured: Measured, batch_size: int) -> int | None:
    """The largest micro-batch that fits into memory; None where not one image does."""
    speeds, limit = measured.speeds, measured.too_large or math.inf
    fits = [
        m
        for m in sizes(batch_size)
        if m < limit and peak_bytes(speeds, m, measured.image_bytes) <= SAFE_SHARE * measured.available_bytes
    ]
    return max(fits, default=None) if speeds else None


def best_micro_batch(measured: Measured, config: RunConfig) -> int | None:
    """The configured micro-batch unless it does not fit or a measured one is faster by FASTER; None where none fits."""
    batch = config.train.batch_size
    largest = largest_fit(measured, batch)
    if largest is None:
        return None
    asked = min(config.train.micro_batch or batch, batch)
    fitting = [s.micro_batch for s in measured.speeds if s.micro_batch <= largest]
    fastest = min(fitting, key=lambda m: step_sec(measured.speeds, batch, m))
    known = asked in fitting
    gain = step_sec(measured.speeds, batch, asked) / step_sec(measured.speeds, batch, fastest)
    if asked <= largest:
        return fastest if known and gain >= FASTER else asked
    return fastest if gain >= FASTER else largest


@dataclass(frozen=True)
class Plan:
    """What a run does in its time."""

    config: RunConfig
    measured: Measured
    budget_sec: float | None
    micro_batch: int
    img_per_sec: float
    train_sec: float
    """Without previews and checkpoints, as --time counts."""
    own_nimg: float
    """Where the configuration ends by images."""

    @property
    def ends_itself(self) -> bool:
        """Whether its images end the run before its time does."""
        return self.nimg >= self.own_nimg * (1 - 1e-9)

    @property
    def nimg(self) -> float:
        return self.train_sec * self.img_per_sec

    @property
    def epochs(self) -> float:
        return self.nimg / self.measured.num_train

    @property
    def previews(self) -> int:
        return _times(self.nimg, self.config.train.sample_every_kimg)

    @property
    def checkpoints(self) -> int:
        """How many are written: at their interval, and where a preview was the best so far."""
        train = self.config.train
        count = _times(self.nimg, train.checkpoint_every_kimg)
        apart = train.keep_best and train.checkpoint_every_kimg != train.sample_every_kimg
        return count + (self.previews if apart else 0)

    @property
    def write_sec(self) -> float:
        return (self.measured.checkpoint_bytes + self.measured.model_bytes) / WRITE_BYTES_PER_SEC

    @property
    def wall_sec(self) -> float:
        return self.train_sec + self.previews * self.measured.preview_sec + self.checkpoints * self.write_sec

    @property
    def kept(self) -> int:
        """Checkpoints that stay, at most."""
        train = self.config.train
        rounds = 0 if train.keep_every_kimg is None else int(self.nimg / (1000 * train.keep_every_kimg))
        return min(self.checkpoints, train.keep_checkpoints + train.keep_best + rounds)

    @property
    def run_bytes(self) -> int:
        """The run folder's largest size: one checkpoint and model file more while they are written."""
        of = self.measured
        return (self.kept + 1) * of.checkpoint_bytes + 2 * of.model_bytes + self.previews * of.sample_bytes

    @property
    def preview_share(self) -> float:
        """Of the training between two previews, or of the whole run."""
        return self.measured.preview_sec / min(self.train_sec, self.minutes(self.config.train.sample_every_kimg) * 60)

    @property
    def peak_bytes(self) -> float:
        return peak_bytes(self.measured.speeds, self.micro_batch, self.measured.image_bytes)

    def minutes(self, kimg: float) -> float:
        """How long so many thousand images take to train on."""
        return 1000 * kimg / self.img_per_sec / 60


def _times(nimg: float, every_kimg: float) -> int:
    """How often something is done at an interval and at the end."""
    return max(1, math.ceil(nimg / (1000 * every_kimg) - 1e-9))


def make(config: RunConfig, measured: Measured, budget_sec: float | None = None) -> Plan:
    """The plan of a configuration: to its own end, or with all its previews and checkpoints within a budget."""
    micro_batch = best_micro_batch(measured, config)
    if micro_batch is None:
        raise ConfigError(
            f"{config.preset}: not one image fits into {measured.available_bytes / 2**30:.1f} GiB; "
            f"try --network.base-channels {narrower(config, 0.5)}"
        )
    train = config.train
    speed = train.batch_size / step_sec(measured.speeds, train.batch_size, micro_batch)
    ends = (math.inf if train.epochs is None else train.epochs * measured.num_train,
            math.inf if train.kimg is None else 1000 * train.kimg)  # fmt: skip
    own_sec = budget_sec or (math.inf if train.time is None else seconds(train.time))
    plan = Plan(config, measured, budget_sec, micro_batch, speed, min(own_sec, min(ends) / speed), min(ends))
    return plan if budget_sec is None or plan.wall_sec <= budget_sec else _within(plan, budget_sec)


def _within(plan: Plan, budget_sec: float) -> Plan:
    """The longest training that leaves time for its previews and checkpoints; one step at least."""
    low, high = plan.config.train.batch_size / plan.img_per_sec, plan.train_sec
    for _ in range(60):
        middle = (low + high) / 2
        fits = replace(plan, train_sec=middle).wall_sec <= budget_sec
        low, high = (middle, high) if fits else (low, middle)
    return replace(plan, train_sec=low)


# --- advice


@dataclass(frozen=True)
class Advice:
    """A line, and the settings that follow it by dotted key; none for what changes the network."""

    text: str
    changes: tuple[tuple[str, float], ...] = ()


def advise(plan: Plan) -> list[Advice]:
    """What to change so that the run fits its time, memory and disk."""
    if plan.budget_sec is not None and plan.wall_sec > 1.001 * plan.budget_sec:
        return [_hopeless(plan)]
    rules = (_memory, _length, _warmup, _average, _previews, _checkpoints, _disk)
    return [advice for advice in (rule(plan) for rule in rules) if advice is not None]


def _hopeless(plan: Plan) -> Advice:
    step, preview = plan.config.train.batch_size / plan.img_per_sec, plan.measured.preview_sec
    text = f"budget: too small for one step ({step:.1f}s) and the preview at the end ({preview:.1f}s)"
    return Advice(f"{text}; {_enough(plan)}; try {_less(plan, 0)}")


def follow(config: RunConfig, advice: Iterable[Advice]) -> RunConfig:
    """The configuration with the advised settings."""
    return override(config, {key: value for line in advice for key, value in line.changes})


def _memory(plan: Plan) -> Advice | None:
    batch, size = plan.config.train.batch_size, plan.micro_batch
    asked = min(plan.config.train.micro_batch or batch, batch)
    if size == asked:
        return None
    largest = largest_fit(plan.measured, batch) or 0
    gain = step_sec(plan.measured.speeds, batch, asked) / step_sec(plan.measured.speeds, batch, size)
    reason = f"{gain:.2f} times as fast" if asked <= largest else f"{asked} images at once do not fit, {largest} do"
    return Advice(f"micro-batch: {reason}: --train.micro-batch {size}", (("train.micro_batch", size),))


def _length(plan: Plan) -> Advice | None:
    if plan.budget_sec is not None and plan.ends_itself and plan.wall_sec < 0.9 * plan.budget_sec:
        ends = " ".join(f"--train.{name} None" for name in ("epochs", "kimg") if getattr(plan.config.train, name))
        return Advice(f"length: the run ends by itself before the budget does; {ends} uses all of it")
    if plan.epochs >= FEW_EPOCHS:
        return None
    return Advice(f"length: {plan.epochs:.2g} epochs show little; {_enough(plan)}; try {_less(plan, plan.epochs)}")


def _enough(plan: Plan) -> str:
    minutes = FEW_EPOCHS * plan.minutes(plan.measured.num_train / 1000)
    needed = f"{minutes / 60:.2g}h" if minutes > 90 else f"{minutes:.2g}m"
    return f"{FEW_EPOCHS} epochs (rule of thumb) take {needed}"


def _less(plan: Plan, epochs: float) -> str:
    """What is smaller by enough for FEW_EPOCHS in place of `epochs`."""
    ways = [f"`unnoise plan {name}`" for name in smaller(plan.config)]
    width = narrower(plan.config, epochs / FEW_EPOCHS)
    ways += [f"--network.base-channels {width}"] if width < plan.config.network.base_channels else []
    return " or ".join(ways or ["a smaller --image-size"])


def smaller(config: RunConfig) -> list[str]:
    """Presets of a narrower network for the same data."""
    made = {name: preset() for name, preset in PRESETS.items()}
    return [
        name
        for name, other in made.items()
        if other.data.source == config.data.source and other.network.base_channels < config.network.base_channels
    ]


def _warmup(plan: Plan) -> Advice | None:
    warmup = plan.config.train.warmup_kimg
    if 1000 * warmup <= plan.nimg / 2:
        return None
    value = nice(SHORT_SHARE * plan.nimg / 1000)
    text = f"warm-up: {warmup:g} kimg is more than half of the run: --train.warmup-kimg {value:g}"
    return Advice(text, (("train.warmup_kimg", value),))


def _average(plan: Plan) -> Advice | None:
    train = plan.config.train
    ramp = train.ema_rampup * plan.nimg / 1000 if train.ema_rampup > 0 else math.inf
    if 1000 * min(train.ema_halflife_kimg, ramp) <= plan.nimg:
        return None
    value = nice(SHORT_SHARE * plan.nimg / 1000)
    text = f"average: its half-life, {train.ema_halflife_kimg:g} kimg, is longer than the run"
    return Advice(f"{text}: --train.ema-halflife-kimg {value:g}", (("train.ema_halflife_kimg", value),))


def _previews(plan: Plan) -> Advice | None:
    if plan.preview_share <= PREVIEW_SHARE:
        return None
    every = nice(1.25 * plan.measured.preview_sec / PREVIEW_SHARE * plan.img_per_sec / 1000)
    text = f"previews: each takes {plan.preview_share:.0%} of the training before it"
    if 1000 * every <= plan.nimg:
        return Advice(f"{text}: --train.sample-every-kimg {every:g}", (("train.sample_every_kimg", every),))
    steps = max(1, int(plan.config.sample.steps * PREVIEW_SHARE / plan.preview_share))
    return Advice(f"{text}: --sample.steps {steps} (coarser pictures)")


def _checkpoints(plan: Plan) -> Advice | None:
    every = plan.minutes(plan.config.train.checkpoint_every_kimg)
    if min(every, plan.train_sec / 60) <= CHECKPOINT_MINUTES:
        return None
    value = nice(plan.img_per_sec * 60 * CHECKPOINT_MINUTES / 2 / 1000)
    text = f"checkpoints: a crash may lose {min(every, plan.train_sec / 60) / 60:.1f}h (a stop by Ctrl-C loses nothing)"
    return Advice(f"{text}: --train.checkpoint-every-kimg {value:g}", (("train.checkpoint_every_kimg", value),))


def _disk(plan: Plan) -> Advice | None:
    if plan.run_bytes <= plan.measured.free_bytes:
        return None
    free, needed = (value / 2**30 for value in (plan.measured.free_bytes, plan.run_bytes))
    text = f"disk: {needed:.1f} GiB do not fit into {free:.1f} GiB: another --out, or --train.keep-checkpoints 1"
    return Advice(text, (("train.keep_checkpoints", 1),))


def narrower(config: RunConfig, share: float) -> int:
    """Base channels for so much of the cost (rule of thumb: it grows with their square), whole normalisation groups."""
    network = config.network
    groups = math.lcm(network.norm_groups, network.attention_heads)
    return min(network.base_channels, max(1, int(network.base_channels * share**0.5 / groups)) * groups)


def nice(value: float) -> float:
    """Two digits."""
    return float(f"{value:.2g}")

"""What a run will cost and what fits, from what probe.py measured: arithmetic and advice, no torch.

A step on a batch of B images in micro-batches of m takes B / m * pass_sec(m) + update_sec. What is a rule of thumb and
not measured is a constant here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unnoise.config import RunConfig, override
from unnoise.errors import ConfigError
from unnoise.presets import PRESETS
from unnoise.units import seconds

if TYPE_CHECKING:
    from unnoise.training.probe import Measured, Speed

# --- arithmetic

SAFE_SHARE = 0.9
"""Rule of thumb: so much of the available memory may be used."""
FASTER = 1.15
"""A smaller micro-batch is advised from this gain in speed on; less is noise."""
WRITE_BYTES_PER_SEC = 300e6
"""Rule of thumb: writing, syncing and hashing a checkpoint."""


def step_sec(speeds: Sequence[Speed], batch_size: int, micro_batch: int) -> float:
    """Time of a step; a pass larger than all measured is as fast per image as the largest of them."""
    near = max(
        [s for s in speeds if s.micro_batch <= micro_batch] or speeds[:1],
        key=lambda s: s.micro_batch,
    )
    return batch_size / near.micro_batch * near.pass_sec + near.update_sec


def sizes(batch_size: int) -> list[int]:
    """Powers of two up to a batch size, and itself."""
    return [*(2**i for i in range(batch_size.bit_length()) if 2**i < batch_size), batch_size]


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
        if m < limit
        and peak_bytes(speeds, m, measured.image_bytes) <= SAFE_SHARE * measured.available_bytes
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
    gain = step_sec(measured.speeds, batch, asked) / step_sec(measured.speeds, batch, fastest)
    comparable = asked in fitting or asked > largest
    return fastest if comparable and gain >= FASTER else min(asked, largest)


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
        return (
            self.train_sec
            + self.previews * self.measured.preview_sec
            + self.checkpoints * self.write_sec
        )

    @property
    def kept(self) -> int:
        """Checkpoints that stay, at most."""
        train = self.config.train
        rounds = (
            0 if train.keep_every_kimg is None else int(self.nimg / (1000 * train.keep_every_kimg))
        )
        return min(self.checkpoints, train.keep_checkpoints + train.keep_best + rounds)

    @property
    def run_bytes(self) -> int:
        """The run folder's largest size: one checkpoint and model file more while they are written."""
        of = self.measured
        return (
            (self.kept + 1) * of.checkpoint_bytes
            + 2 * of.model_bytes
            + self.previews * of.sample_bytes
        )

    @property
    def preview_share(self) -> float:
        """Of the training between two previews, or of the whole run."""
        return self.measured.preview_sec / min(
            self.train_sec, self.minutes(self.config.train.sample_every_kimg) * 60
        )

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
    plan = Plan(
        config, measured, budget_sec, micro_batch, speed, min(own_sec, min(ends) / speed), min(ends)
    )
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

PREVIEW_SHARE = 0.1
"""Rule of thumb: previews may take so much of training."""
SHORT_SHARE = 0.05
"""Rule of thumb: warm-up and the average's half-life are this share of a run."""
FEW_EPOCHS = 3
"""Rule of thumb: fewer show little."""
CHECKPOINT_MINUTES = 60
"""Rule of thumb: no more training than this should be lost."""


@dataclass(frozen=True)
class Advice:
    """A line, and the settings that follow it by dotted key; none for what changes the network."""

    text: str
    changes: tuple[tuple[str, float], ...] = ()


def advise(plan: Plan) -> list[Advice]:
    """What to change so that the run fits its time, memory and disk."""
    if plan.budget_sec is not None and plan.wall_sec > 1.001 * plan.budget_sec:
        step, preview = plan.config.train.batch_size / plan.img_per_sec, plan.measured.preview_sec
        text = f"budget: too small for one step ({step:.1f}s) and the preview at the end ({preview:.1f}s)"
        return [Advice(f"{text}; {_enough(plan)}; try {_less(plan, 0)}")]
    rules = (_memory, _length, _warmup, _average, _previews, _checkpoints, _disk)
    return [advice for advice in (rule(plan) for rule in rules) if advice is not None]


def follow(config: RunConfig, advice: Iterable[Advice]) -> RunConfig:
    """The configuration with the advised settings."""
    return override(config, {key: value for line in advice for key, value in line.changes})


def _memory(plan: Plan) -> Advice | None:
    batch, size = plan.config.train.batch_size, plan.micro_batch
    asked = min(plan.config.train.micro_batch or batch, batch)
    if size == asked:
        return None
    largest = largest_fit(plan.measured, batch) or 0
    gain = step_sec(plan.measured.speeds, batch, asked) / step_sec(
        plan.measured.speeds, batch, size
    )
    reason = (
        f"{gain:.2f} times as fast"
        if asked <= largest
        else f"{asked} images at once do not fit, {largest} do"
    )
    return Advice(
        f"micro-batch: {reason}: --train.micro-batch {size}", (("train.micro_batch", size),)
    )


def _length(plan: Plan) -> Advice | None:
    if plan.budget_sec is not None and plan.ends_itself and plan.wall_sec < 0.9 * plan.budget_sec:
        ends = " ".join(
            f"--train.{name} None"
            for name in ("epochs", "kimg")
            if getattr(plan.config.train, name)
        )
        return Advice(
            f"length: the run ends by itself before the budget does; {ends} uses all of it"
        )
    if plan.epochs >= FEW_EPOCHS:
        return None
    return Advice(
        f"length: {plan.epochs:.2g} epochs show little; {_enough(plan)}; try {_less(plan, plan.epochs)}"
    )


def _enough(plan: Plan) -> str:
    minutes = FEW_EPOCHS * plan.minutes(plan.measured.num_train / 1000)
    needed = f"{minutes / 60:.2g}h" if minutes > 90 else f"{minutes:.2g}m"
    return f"{FEW_EPOCHS} epochs (rule of thumb) take {needed}"


def _less(plan: Plan, epochs: float) -> str:
    """What is smaller by enough for FEW_EPOCHS in place of `epochs`: presets for the same data, fewer channels."""
    config, channels = plan.config, plan.config.network.base_channels
    presets = {name: make() for name, make in PRESETS.items()}
    ways = [
        f"`unnoise plan {name}`"
        for name, other in presets.items()
        if other.data.source == config.data.source and other.network.base_channels < channels
    ]
    width = narrower(config, epochs / FEW_EPOCHS)
    ways += [f"--network.base-channels {width}"] if width < channels else []
    return " or ".join(ways or ["a smaller --image-size"])


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
    return Advice(
        f"{text}: --train.ema-halflife-kimg {value:g}", (("train.ema_halflife_kimg", value),)
    )


def _previews(plan: Plan) -> Advice | None:
    if plan.preview_share <= PREVIEW_SHARE:
        return None
    every = nice(1.25 * plan.measured.preview_sec / PREVIEW_SHARE * plan.img_per_sec / 1000)
    text = f"previews: each takes {plan.preview_share:.0%} of the training before it"
    if 1000 * every <= plan.nimg:
        return Advice(
            f"{text}: --train.sample-every-kimg {every:g}", (("train.sample_every_kimg", every),)
        )
    steps = max(1, int(plan.config.sample.steps * PREVIEW_SHARE / plan.preview_share))
    return Advice(f"{text}: --sample.steps {steps} (coarser pictures)")


def _checkpoints(plan: Plan) -> Advice | None:
    lost = min(plan.minutes(plan.config.train.checkpoint_every_kimg), plan.train_sec / 60)
    if lost <= CHECKPOINT_MINUTES:
        return None
    value = nice(plan.img_per_sec * 60 * CHECKPOINT_MINUTES / 2 / 1000)
    text = f"checkpoints: a crash may lose {lost / 60:.1f}h (a stop by Ctrl-C loses nothing)"
    return Advice(
        f"{text}: --train.checkpoint-every-kimg {value:g}",
        (("train.checkpoint_every_kimg", value),),
    )


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
    return min(
        network.base_channels, max(1, int(network.base_channels * share**0.5 / groups)) * groups
    )


def nice(value: float) -> float:
    """Two digits."""
    return float(f"{value:.2g}")

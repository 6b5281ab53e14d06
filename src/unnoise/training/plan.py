"""What a run will cost and what fits, from what probe.py measured: arithmetic, advice and text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from unnoise.config import RunConfig, override
from unnoise.errors import ConfigError
from unnoise.presets import PRESETS
from unnoise.training.probe import Measured, peak_bytes, step_sec
from unnoise.units import digits, duration, seconds, size

FASTER = 1.15
"""A smaller micro-batch is advised from this gain in speed on; less is noise."""
WRITE_BYTES_PER_SEC = 300e6
"""Rule of thumb: writing, flushing and hashing a checkpoint."""
PREVIEW_SHARE, SHORT_SHARE = 0.1, 0.05
"""Rules of thumb: previews may take this share of training; warm-up and half-life this of a run."""
FEW_EPOCHS, CHECKPOINT_MINUTES = 3, 60
"""Rules of thumb: fewer epochs show little; a crash should not lose more training than this."""


@dataclass(frozen=True)
class Plan:
    """What a run does: to its own end, or with its previews and checkpoints within a budget."""

    config: RunConfig
    measured: Measured
    budget_sec: float = math.inf

    @cached_property
    def micro_batch(self) -> int:
        """The configured one, unless it does not fit or a measured one is faster by FASTER."""
        batch, speeds = self.config.train.batch_size, self.measured.speeds
        largest = self.measured.largest_fit(batch)
        if largest is None:
            raise ConfigError(
                f"{self.config.preset}: not one image fits into "
                f"{size(self.measured.available_bytes)}; try {smaller(self.config, 0.5)}"
            )
        fitting = [s.micro_batch for s in speeds if s.micro_batch <= largest]
        fastest = min(fitting, key=lambda m: step_sec(speeds, batch, m))
        known = self.asked in fitting or self.asked > largest
        return fastest if known and self.gain(fastest) >= FASTER else min(self.asked, largest)

    @property
    def asked(self) -> int:
        """The micro-batch of the configuration."""
        train = self.config.train
        return min(train.micro_batch or train.batch_size, train.batch_size)

    def gain(self, micro_batch: int) -> float:
        """How many times as fast a micro-batch is as the configured one."""
        batch, speeds = self.config.train.batch_size, self.measured.speeds
        return step_sec(speeds, batch, self.asked) / step_sec(speeds, batch, micro_batch)

    @cached_property
    def img_per_sec(self) -> float:
        batch = self.config.train.batch_size
        return batch / step_sec(self.measured.speeds, batch, self.micro_batch)

    @property
    def own_nimg(self) -> float:
        """Where the configuration ends by images."""
        train = self.config.train
        by_epochs = math.inf if train.epochs is None else train.epochs * self.measured.num_train
        return min(by_epochs, math.inf if train.kimg is None else 1000 * train.kimg)

    @cached_property
    def train_sec(self) -> float:
        """Seconds of training without previews and checkpoints, as --time counts."""
        time = self.config.train.time
        own = self.own_nimg / self.img_per_sec
        own = min(own, self.budget_sec, math.inf if time is None else seconds(time))
        if self.wall_sec(own) <= self.budget_sec:
            return own
        low, high = self.config.train.batch_size / self.img_per_sec, own
        for _ in range(60):
            middle = (low + high) / 2
            fits = self.wall_sec(middle) <= self.budget_sec
            low, high = (middle, high) if fits else (low, middle)
        return low

    def wall_sec(self, train_sec: float | None = None) -> float:
        """All seconds of a run with so much training; this plan's unless told."""
        sec = self.train_sec if train_sec is None else train_sec
        previews, checkpoints = self.counts(sec)
        return sec + previews * self.measured.preview_sec + checkpoints * self.write_sec

    def counts(self, train_sec: float) -> tuple[int, int]:
        """Previews and checkpoints: each at its interval and at the end, and where one is best."""
        train, kimg = self.config.train, train_sec * self.img_per_sec / 1000
        previews = max(1, math.ceil(kimg / train.sample_every_kimg - 1e-9))
        checkpoints = max(1, math.ceil(kimg / train.checkpoint_every_kimg - 1e-9))
        apart = train.keep_best and train.checkpoint_every_kimg != train.sample_every_kimg
        return previews, checkpoints + (previews if apart else 0)

    @property
    def nimg(self) -> float:
        return self.train_sec * self.img_per_sec

    @property
    def epochs(self) -> float:
        return self.nimg / self.measured.num_train

    @property
    def write_sec(self) -> float:
        return (self.measured.checkpoint_bytes + self.measured.model_bytes) / WRITE_BYTES_PER_SEC

    @property
    def run_bytes(self) -> int:
        """The run folder's largest size, while one checkpoint and model more are written."""
        train, of = self.config.train, self.measured
        previews, checkpoints = self.counts(self.train_sec)
        rounds = int(self.nimg / (1000 * train.keep_every_kimg)) if train.keep_every_kimg else 0
        kept = min(checkpoints, train.keep_checkpoints + train.keep_best + rounds)
        return (kept + 1) * of.checkpoint_bytes + 2 * of.model_bytes + previews * of.sample_bytes

    def minutes(self, kimg: float) -> float:
        """Minutes of training on so many thousand images."""
        return 1000 * kimg / self.img_per_sec / 60


@dataclass(frozen=True)
class Advice:
    """A line, and the settings that follow it by dotted key."""

    text: str
    changes: tuple[tuple[str, float], ...] = ()

    @staticmethod
    def to_set(text: str, key: str, value: float) -> Advice:
        """Advice that names the flag of one setting."""
        return Advice(f"{text}: --{key.replace('_', '-')} {value:g}", ((key, value),))


def follow(config: RunConfig, advice: Sequence[Advice]) -> RunConfig:
    """The configuration with the advised settings."""
    return override(config, {key: value for line in advice for key, value in line.changes})


def advise(plan: Plan) -> list[Advice]:
    """What to change so that the run fits its time, memory and disk."""
    if plan.wall_sec() > 1.001 * plan.budget_sec:
        step, preview = plan.config.train.batch_size / plan.img_per_sec, plan.measured.preview_sec
        text = f"too small for one step ({step:.1f}s) and the preview at the end ({preview:.1f}s)"
        return [Advice(f"budget: {text}; {_enough(plan)}; try {smaller(plan.config, 0)}")]
    return [*_about_resources(plan), *_about_length(plan), *_about_intervals(plan)]


def _about_length(plan: Plan) -> Iterator[Advice]:
    train, short = plan.config.train, nice(SHORT_SHARE * plan.nimg / 1000)
    if (
        plan.nimg >= plan.own_nimg * (1 - 1e-9)
        and plan.wall_sec() < 0.9 * plan.budget_sec < math.inf
    ):
        ends = " ".join(f"--train.{n} None" for n in ("epochs", "kimg") if getattr(train, n))
        yield Advice(f"length: the run ends before the budget does; {ends} uses all of it")
    elif plan.epochs < FEW_EPOCHS:
        less = smaller(plan.config, plan.epochs / FEW_EPOCHS)
        yield Advice(f"length: {plan.epochs:.2g} epochs show little; {_enough(plan)}; try {less}")
    if 1000 * train.warmup_kimg > plan.nimg / 2:
        text = f"warm-up: {train.warmup_kimg:g} kimg is more than half of the run"
        yield Advice.to_set(text, "train.warmup_kimg", short)
    ramp = train.ema_rampup * plan.nimg / 1000 if train.ema_rampup > 0 else math.inf
    if 1000 * min(train.ema_halflife_kimg, ramp) > plan.nimg:
        text = f"average: its half-life, {train.ema_halflife_kimg:g} kimg, is longer than the run"
        yield Advice.to_set(text, "train.ema_halflife_kimg", short)


def _about_intervals(plan: Plan) -> Iterator[Advice]:
    train, preview = plan.config.train, plan.measured.preview_sec
    share = preview / min(plan.train_sec, 60 * plan.minutes(train.sample_every_kimg))
    every = nice(1.25 * preview / PREVIEW_SHARE * plan.img_per_sec / 1000)
    text = f"previews: each takes {share:.0%} of the training before it"
    if share > PREVIEW_SHARE and 1000 * every <= plan.nimg:
        yield Advice.to_set(text, "train.sample_every_kimg", every)
    elif share > PREVIEW_SHARE:
        steps = max(1, int(plan.config.sample.steps * PREVIEW_SHARE / share))
        yield Advice(f"{text}: --sample.steps {steps} (coarser pictures)")
    lost = min(plan.minutes(train.checkpoint_every_kimg), plan.train_sec / 60)
    if lost > CHECKPOINT_MINUTES:
        text = f"checkpoints: a crash may lose {lost / 60:.1f}h (a stop by Ctrl-C loses nothing)"
        kimg = nice(plan.img_per_sec * 60 * CHECKPOINT_MINUTES / 2 / 1000)
        yield Advice.to_set(text, "train.checkpoint_every_kimg", kimg)


def _about_resources(plan: Plan) -> Iterator[Advice]:
    if plan.micro_batch != plan.asked:
        largest = plan.measured.largest_fit(plan.config.train.batch_size) or 0
        reason = f"{plan.gain(plan.micro_batch):.2f} times as fast"
        if plan.asked > largest:
            reason = f"{plan.asked} images at once do not fit, {largest} do"
        yield Advice.to_set(f"micro-batch: {reason}", "train.micro_batch", plan.micro_batch)
    if plan.run_bytes > plan.measured.free_bytes:
        text = f"disk: {size(plan.run_bytes)} do not fit into {size(plan.measured.free_bytes)}"
        yield Advice.to_set(f"{text}; choose another --out, or", "train.keep_checkpoints", 1)


def _enough(plan: Plan) -> str:
    needed = duration(60 * FEW_EPOCHS * plan.minutes(plan.measured.num_train / 1000))
    return f"{FEW_EPOCHS} epochs take {needed}"


def smaller(config: RunConfig, share: float) -> str:
    """What costs this share (rule of thumb: by the square of the channels): presets, or a flag."""
    channels = getattr(config.network, "base_channels", 0)
    ways = [
        f"`unnoise plan {name}`"
        for name, other in ((name, make()) for name, make in PRESETS.items())
        if other.data.source == config.data.source
        and getattr(other.network, "base_channels", channels) < channels
    ]
    narrower = config.network.narrower(float(share)).items()
    ways += [f"--network.{name.replace('_', '-')} {value}" for name, value in narrower]
    return " or ".join(ways or ["a smaller --image-size"])


def nice(value: float) -> float:
    """Two digits."""
    return float(f"{value:.2g}")


def describe(plan: Plan) -> list[str]:
    """What was measured and what follows from it, in lines of text."""
    of, train = plan.measured, plan.config.train
    known = [s.micro_batch for s in of.speeds]
    speeds = [f"{m}: {digits(m / step_sec(of.speeds, m, m))}" for m in known]
    guess = f", extrapolated from {known[-1]}" if plan.micro_batch > known[-1] else ""
    share = "" if plan.own_nimg == math.inf else f" of {digits(plan.own_nimg / 1000)}"
    previews, checkpoints = plan.counts(plan.train_sec)
    within = f"within {duration(plan.budget_sec)}" if plan.budget_sec < math.inf else "to its end"
    last = f"{size(of.speeds[-1].peak_bytes)} at batch {known[-1]}"
    memory = size(peak_bytes(of.speeds, plan.micro_batch))
    every = duration(60 * plan.minutes(train.checkpoint_every_kimg))
    found = {
        "network": (
            f"{of.parameters:,} parameters, {of.gflop_per_image:.3g} GFLOP per image forward"
        ),
        "images/s": f"by batch: {' · '.join(speeds)}",
        "memory": f"{last}; {size(of.available_bytes)} available",
        "preview": f"{duration(of.preview_sec)}, scaled up from a few sampling steps",
    }
    follows = {
        "batch": (
            f"{train.batch_size}, {plan.micro_batch} at once (largest that fits: "
            f"{of.largest_fit(train.batch_size)}){guess}: {memory} of memory"
        ),
        "speed": f"{digits(plan.img_per_sec)} images/s",
        "images": f"{digits(plan.nimg / 1000)}{share} kimg, {digits(plan.epochs)} epochs",
        "time": (
            f"{duration(plan.wall_sec())}: {duration(plan.train_sec)} training, {previews} x "
            f"preview, {checkpoints} x checkpoint ({duration(plan.write_sec)} each, rule of thumb)"
        ),
        "disk": (
            f"at most {size(plan.run_bytes)}; a checkpoint, {size(of.checkpoint_bytes)}, every"
            f" {every}"
        ),
    }
    return [
        f"{plan.config.preset} {within}, on {of.device} in {of.precision}",
        f"measured now, in {of.probe_sec:.0f}s:",
        *(f"  {name:<10}{line}" for name, line in found.items()),
        "computed from it:",
        *(f"  {name:<10}{line}" for name, line in follows.items()),
    ]


def command(words: Sequence[str], final: Plan, advice: Sequence[Advice]) -> str:
    """`unnoise train ..` as it was asked for, with the budget's time and the advised settings."""
    flags: list[str] = []
    if final.budget_sec < math.inf:
        ends_itself = final.nimg >= final.own_nimg * (1 - 1e-9)
        flags += ["--time", brief(final.budget_sec if ends_itself else final.train_sec)]
    for key, value in (change for line in advice for change in line.changes):
        flags += ["--" + key.replace("_", "-"), f"{value:g}"]
    return f"run ({duration(final.wall_sec())}):\n  {shlex.join([*words, *flags])}"


def brief(sec: float) -> str:
    """Seconds as --time takes them, rounded down: whole minutes from ten minutes on."""
    whole = max(1, int(sec))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60 if whole < 600 else 0
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{value}{unit}" for value, unit in parts if value)

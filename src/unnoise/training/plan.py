"""What a run will cost and what fits, from what probe.py measured: arithmetic, advice and text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from unnoise.config import RunConfig, override
from unnoise.training.checkpointing import SAVE_SEC
from unnoise.training.probe import Measured, img_per_sec, peak_bytes
from unnoise.training.run import ends, preview_times
from unnoise.training.step import WARMUP_SHARE
from unnoise.units import digits, duration, size

WRITE_BYTES_PER_SEC = 300e6
"""Rule of thumb: writing, flushing and hashing a checkpoint."""
PREVIEW_SHARE = 0.1
"""Rule of thumb: the share of a run that previews may take."""
FEW_EPOCHS = 3
"""Rule of thumb: fewer epochs show little."""


class Plan:
    """What a run does: to its own end, or with its previews and checkpoints within a budget."""

    def __init__(self, config: RunConfig, of: Measured, budget_sec: float = math.inf) -> None:
        self.config, self.measured, self.budget_sec, train = config, of, budget_sec, config.train
        self.asked = min(train.micro_batch or train.batch_size, train.batch_size)
        self.micro_batch = min(self.asked, of.largest_fit(train.batch_size))
        self.img_per_sec = img_per_sec(of.speeds, self.micro_batch)
        self.step_sec = train.batch_size / self.img_per_sec
        self.write_sec = of.checkpoint_bytes / WRITE_BYTES_PER_SEC

        self.own_nimg, time_sec = ends(train, of.num_train)
        end = min(time_sec, budget_sec)
        marks = preview_times(end)
        # one preview and checkpoint at the end, others in proportion to the training before
        left = budget_sec - (1 + len(marks)) * of.preview_sec - self.write_sec
        per_kimg = (
            of.preview_sec / train.sample_every_kimg + self.write_sec / train.checkpoint_every_kimg
        )
        within = max(self.step_sec, left / (1 + per_kimg * self.img_per_sec / 1000))
        # without previews and checkpoints, as --time counts
        self.train_sec = min(self.own_nimg / self.img_per_sec, time_sec, within)
        self.ends_itself = self.train_sec == self.own_nimg / self.img_per_sec

        self.nimg = self.train_sec * self.img_per_sec
        self.epochs = self.nimg / of.num_train
        shown = sum(sec < self.train_sec for sec in marks)
        self.previews = self.times(train.sample_every_kimg) + shown
        timely = math.ceil(self.train_sec / SAVE_SEC)
        self.checkpoints = max(self.times(train.checkpoint_every_kimg), timely)
        self.wall_sec = (
            self.train_sec + self.previews * of.preview_sec + self.checkpoints * self.write_sec
        )
        rounds = int(self.nimg / (1000 * train.keep_every_kimg)) if train.keep_every_kimg else 0
        kept = min(self.checkpoints, train.keep_checkpoints + train.keep_best + rounds)
        self.run_bytes = (kept + 1) * of.checkpoint_bytes  # one more while it is written

    def times(self, every_kimg: float) -> int:
        """How often something is due: at its interval, and at the end."""
        return max(1, math.ceil(self.nimg / 1000 / every_kimg - 1e-9))


class Advice(NamedTuple):
    """A line, and the dotted key and value of the setting that follows it, if one does."""

    text: str
    key: str = ""
    value: float = 0

    @property
    def flag(self) -> list[str]:
        return ["--" + self.key.replace("_", "-"), f"{self.value:g}"] if self.key else []

    def __str__(self) -> str:
        return f"{self.text}: {' '.join(self.flag)}" if self.key else self.text


def follow(config: RunConfig, advice: Sequence[Advice]) -> RunConfig:
    """The configuration with the advised settings."""
    return override(config, {line.key: line.value for line in advice if line.key})


def advise(plan: Plan) -> list[Advice]:
    """What to change so that the run fits its memory, disk and time, in this order."""
    train, of, advice = plan.config.train, plan.measured, list[Advice]()
    enough = f"{FEW_EPOCHS} epochs take {duration(FEW_EPOCHS * of.num_train / plan.img_per_sec)}"
    if plan.wall_sec > 1.001 * plan.budget_sec:
        parts = f"one step ({plan.step_sec:.1f}s) and the last preview ({of.preview_sec:.1f}s)"
        return [Advice(f"budget: too small for {parts}; {enough}; {smaller(plan.config, 0.0)}")]
    if plan.micro_batch < plan.asked:
        text = f"micro-batch: {plan.asked} images at once do not fit, {plan.micro_batch} do"
        advice.append(Advice(text, "train.micro_batch", plan.micro_batch))
    if plan.run_bytes > of.free_bytes:
        text = f"disk: {size(plan.run_bytes)} do not fit into {size(of.free_bytes)}"
        advice.append(Advice(f"{text}; choose another --out, or", "train.keep_checkpoints", 1))
    if plan.ends_itself and plan.wall_sec < 0.9 * plan.budget_sec < math.inf:
        flags = " ".join(f"--train.{n} None" for n in ("epochs", "kimg") if getattr(train, n))
        text = f"length: the run ends before the budget does; {flags} uses all of it"
        advice.append(Advice(text))
    elif plan.epochs < FEW_EPOCHS:
        way = smaller(plan.config, plan.epochs / FEW_EPOCHS)
        advice.append(Advice(f"length: {plan.epochs:.2g} epochs show little; {enough}; {way}"))
    if 1000 * (train.warmup_kimg or 0) > plan.nimg / 2:
        text = f"warm-up: {train.warmup_kimg:g} kimg is more than half of the run"
        advice.append(Advice(text, "train.warmup_kimg", nice(WARMUP_SHARE * plan.nimg / 1000)))
    kimg_per_sec = plan.img_per_sec / 1000
    share = of.preview_sec / min(plan.train_sec, train.sample_every_kimg / kimg_per_sec)
    every = nice(1.25 * of.preview_sec / PREVIEW_SHARE * kimg_per_sec)
    if share > PREVIEW_SHARE and 1000 * every <= plan.nimg:
        text = f"previews: each takes {share:.0%} of the training before it"
        advice.append(Advice(text, "train.sample_every_kimg", every))
    return advice


def smaller(config: RunConfig, share: float) -> str:
    """What costs this share."""
    narrower = config.network.narrower(share).items()
    flags = [f"--network.{name.replace('_', '-')} {value}" for name, value in narrower]
    return f"try {' '.join(flags) or 'a smaller --image-size'}"


def nice(value: float) -> float:
    """Two digits."""
    return float(f"{value:.2g}")


def describe(plan: Plan) -> list[str]:
    """What was measured and what follows from it, in lines of text."""
    of, train = plan.measured, plan.config.train
    speeds = " · ".join(f"{s.micro_batch}: {digits(s.img_per_sec)}" for s in of.speeds)
    last = of.speeds[-1]
    within = f"within {duration(plan.budget_sec)}" if plan.budget_sec < math.inf else "to its end"
    share = "" if plan.own_nimg == math.inf else f" of {digits(plan.own_nimg / 1000)}"
    guess = f", extrapolated from {last.micro_batch}" if plan.micro_batch > last.micro_batch else ""
    fits = f"{plan.micro_batch} at once (largest that fits: {of.largest_fit(train.batch_size)})"
    memory = size(peak_bytes(of.speeds, plan.micro_batch))
    every = duration(min(SAVE_SEC, 1000 * train.checkpoint_every_kimg / plan.img_per_sec))
    write = f"checkpoint ({duration(plan.write_sec)} each, rule of thumb)"
    found = {
        "network": f"{of.parameters:,} parameters, {of.gflop_per_image:.3g} GFLOP per image",
        "images/s": f"by batch: {speeds}",
        "memory": f"{size(last.peak_bytes)} at batch {last.micro_batch}; "
        f"{size(of.available_bytes)} available",
        "preview": f"{duration(of.preview_sec)}, by the speed of training, rule of thumb",
    }
    follows = {
        "batch": f"{train.batch_size}, {fits}{guess}: {memory} of memory",
        "speed": f"{digits(plan.img_per_sec)} images/s",
        "images": f"{digits(plan.nimg / 1000)}{share} kimg, {digits(plan.epochs)} epochs",
        "time": f"{duration(plan.wall_sec)}: {duration(plan.train_sec)} training, "
        f"{plan.previews} x preview, {plan.checkpoints} x {write}",
        "disk": f"about {size(plan.run_bytes)}; a checkpoint with its model file, "
        f"{size(of.checkpoint_bytes)}, every {every}",
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
    flags = [word for line in advice for word in line.flag]
    if final.budget_sec < math.inf:
        sec = final.budget_sec if final.ends_itself else final.train_sec
        flags = ["--time", duration(max(1, int(sec))).replace(" ", ""), *flags]
    return f"run ({duration(final.wall_sec)}):\n  {shlex.join([*words, *flags])}"

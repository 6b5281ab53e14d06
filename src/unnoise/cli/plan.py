"""unnoise plan: what a run will cost on this machine, and what to change so that it fits."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from unnoise.cli.flags import first_word, option, parse
from unnoise.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unnoise.training.plan import Advice, Plan

PLAN_EXTRA = ("--out", "--objective", "--resume", "--budget")
TRAIN_PER_FORWARD = 3
"""Rule of thumb: the backward pass does twice the forward pass's arithmetic."""


def plan(arguments: list[str]) -> int:
    """unnoise plan PRESET|FOLDER|ZIP."""
    target, arguments = first_word(arguments, "plan", "a preset, a folder or a zip of pictures")
    budget, flags = option(arguments, "--budget")
    budget_sec = None if budget is None else _budget_sec(budget, flags)
    words = ["unnoise", "train", target or "", *flags]
    out, flags = option(flags, "--out")
    objective, flags = option(flags, "--objective")
    _, flags = option(flags, "--resume")
    from unnoise.config import check, override
    from unnoise.presets import named

    if target is None:
        print(
            "unnoise plan PRESET|FOLDER|ZIP [--budget 2h] [the words and flags of unnoise train]\n"
        )
    config = parse(
        named(target or "digits", objective),
        flags,
        f"unnoise plan {target or ''}".strip(),
        PLAN_EXTRA,
    )
    if budget_sec is not None:
        config = override(config, {"train.time": budget})
    check(config)
    from unnoise import api
    from unnoise.training import plan as planner
    from unnoise.training.probe import measure

    data, busy = api.load_data(config), _busy()
    measured = measure(config, data, Path(out) if out else api.default_folder(config, objective))
    asked = planner.make(config, measured, budget_sec)
    advice = planner.advise(asked)
    final = planner.make(planner.follow(config, advice), measured, budget_sec)
    print(
        "\n".join(
            [
                *_found(asked),
                *busy,
                *_computed(asked),
                *_change(advice),
                command(words, final, advice),
            ]
        )
    )
    return 0


def _budget_sec(text: str, flags: list[str]) -> float:
    """The seconds of --budget; UsageError where it is no time, or --time says another."""
    from unnoise.errors import ConfigError
    from unnoise.units import seconds

    try:
        sec = seconds(text)
    except ConfigError:
        sec = 0.0
    if sec <= 0:
        raise UsageError(f"--budget: got {text!r}, expected a time such as 90s, 20m or 1h30m")
    if any(flag.split("=")[0] in ("--time", "--train.time") for flag in flags):
        raise UsageError("--budget: got --time too, which is the same end; give one of them")
    return sec


def _busy() -> list[str]:
    """A line where others use more than half of the processor, which the probe would take for the machine's speed."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    line = f"  note      the machine is busy (load {load:.1f} on {cores} cores); alone it is faster"
    return [line] if load > cores / 2 else []


def _found(plan: Plan) -> list[str]:
    """What the probe measured."""
    from unnoise.units import duration

    of, budget, last = plan.measured, plan.budget_sec, plan.measured.speeds[-1]
    question = "to its end" if budget is None else f"within {duration(budget)}"
    speeds = " · ".join(
        f"{s.micro_batch}: {_digits(s.micro_batch / (s.pass_sec + s.update_sec))}"
        for s in of.speeds
    )
    lines = (
        (
            "network",
            f"{of.parameters:,} parameters, {of.gflop_per_image:.3g} GFLOP per image forward",
        ),
        ("images/s", f"by batch: {speeds}"),
        (
            "memory",
            f"{_size(last.peak_bytes)} at batch {last.micro_batch}; {_size(of.available_bytes)} available",
        ),
        (
            "preview",
            f"{duration(of.preview_sec)} for 64 samples and held-out losses, scaled up from a few sampling steps",
        ),
    )
    cold = "  (a first step, slower than the others, and the only one there was time for)"
    return [
        f"{plan.config.preset} {question}, on {of.device} in {of.precision}",
        f"measured now, in {of.probe_sec:.0f}s:",
        *(f"  {name:<10}{line}" for name, line in lines),
        *([] if last.warm else [cold]),
    ]


def _computed(plan: Plan) -> list[str]:
    """What follows from it."""
    from unnoise.training.plan import largest_fit
    from unnoise.units import duration

    of, train = plan.measured, plan.config.train
    largest, known = largest_fit(of, train.batch_size), of.speeds[-1].micro_batch
    gflops = plan.img_per_sec * TRAIN_PER_FORWARD * of.gflop_per_image
    guess = f", extrapolated from {known}" if plan.micro_batch > known else ""
    share = "" if plan.own_nimg == float("inf") else f" of {_digits(plan.own_nimg / 1000)}"
    every = duration(60 * plan.minutes(train.checkpoint_every_kimg))
    passes = f"{train.batch_size}, {plan.micro_batch} at once (largest that fits: {largest}){guess}"
    rate = f"{_digits(plan.img_per_sec)} images/s, {_digits(gflops)} GFLOP/s"
    previews = f"{plan.previews} x preview ({plan.preview_share:.1%} of the training before it)"
    checkpoints = (
        f"{plan.checkpoints} x checkpoint ({duration(plan.write_sec)} each, rule of thumb)"
    )
    lines = (
        ("batch", f"{passes}: {_size(plan.peak_bytes)} of memory"),
        ("speed", f"{rate} (rule of thumb: training is {TRAIN_PER_FORWARD} x forward)"),
        ("images", f"{_digits(plan.nimg / 1000)}{share} kimg, {_digits(plan.epochs)} epochs"),
        (
            "time",
            f"{duration(plan.wall_sec)}: {duration(plan.train_sec)} training, {previews}, {checkpoints}",
        ),
        (
            "disk",
            f"at most {_size(plan.run_bytes)}; a checkpoint, {_size(of.checkpoint_bytes)}, every {every}",
        ),
    )
    return ["computed from it:", *(f"  {name:<10}{line}" for name, line in lines)]


def _change(advice: Sequence[Advice]) -> list[str]:
    return ["to change:", *(f"  {line.text}" for line in advice)] if advice else []


def command(words: Sequence[str], final: Plan, advice: Sequence[Advice]) -> str:
    """`unnoise train ..` as it was asked for, with the budget's training time and the advised settings."""
    from unnoise.units import duration

    flags: list[str] = []
    if final.budget_sec is not None:
        flags += ["--time", brief(final.budget_sec if final.ends_itself else final.train_sec)]
    for line in advice:
        for key, value in line.changes:
            flags += ["--" + key.replace("_", "-"), f"{value:g}"]
    return f"run ({duration(final.wall_sec)}):\n  {shlex.join([*words, *flags])}"


def brief(sec: float) -> str:
    """Seconds as --time takes them, rounded down: whole minutes from ten minutes on."""
    whole = max(1, int(sec))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60 if whole < 600 else 0
    return "".join(
        f"{value}{unit}" for value, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if value
    )


def _digits(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(value: float) -> str:
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"

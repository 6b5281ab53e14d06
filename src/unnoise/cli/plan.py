"""unnoise plan: what a run will cost on this machine, and what to change so that it fits."""

from __future__ import annotations

import math
import os
from pathlib import Path

from unnoise.cli.flags import first_word, option, parse
from unnoise.errors import UsageError

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
    asked = planner.Plan(config, measured, budget_sec or math.inf)
    advice = planner.advise(asked)
    final = planner.Plan(planner.follow(config, advice), measured, budget_sec or math.inf)
    change = ["to change:", *(f"  {line.text}" for line in advice)] if advice else []
    lines = [*planner.describe(asked), *busy, *change, planner.command(words, final, advice)]
    print("\n".join(lines))
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

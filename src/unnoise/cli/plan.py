"""unnoise plan: what a run will cost on this machine, and what to change so that it fits."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from unnoise.cli.flags import Command, peek
from unnoise.cli.train import Run, configured
from unnoise.errors import UsageError
from unnoise.presets import changed
from unnoise.records import is_run
from unnoise.units import seconds


@dataclass(frozen=True, kw_only=True)
class Budget(Command):
    """What `unnoise plan` takes besides the flags of `unnoise train`."""

    budget: str | None = None
    """Time for everything: 90s, 20m, 2h [to the run's end]."""


@dataclass(frozen=True, kw_only=True)
class Plan(Budget, Run):
    """Say what a run takes on this machine and what to change, before it costs anything."""


def plan(arguments: list[str]) -> int:
    """Run `unnoise plan PRESET|PATH`."""
    _, rest = peek(Budget, arguments)
    run, config = configured(Plan, arguments, "plan")
    if is_run(run.target):
        raise UsageError(f"plan: got the run {run.target}; expected a preset, folder or file")
    budget_sec = math.inf
    if run.budget is not None:
        budget_sec = _budget_sec(run.budget, rest)
        config = changed(config, {"train.time": run.budget})
    from unnoise import api, build
    from unnoise.training import plan as planner
    from unnoise.training.probe import measure

    build.check(config)
    data, busy = api.load_data(config), _busy()
    measured = measure(config, data, run.folder(config))
    asked = planner.Plan(config, measured, budget_sec)
    advice = planner.advise(asked)
    final = planner.Plan(planner.follow(config, advice), measured, budget_sec)
    change = ["to change:", *(f"  {line}" for line in advice)] if advice else []
    command = planner.command(["unnoise", "train", *rest], final, advice)
    print("\n".join([*planner.describe(asked), *busy, *change, command]))
    return 0


def _budget_sec(text: str, flags: list[str]) -> float:
    """The seconds of --budget; UsageError where --time says another end."""
    if any(flag.split("=")[0] in ("--time", "--train.time") for flag in flags):
        raise UsageError("--budget: got --time too, which is the same end; give one of them")
    sec = seconds(text, "--budget")
    if sec <= 0:
        raise UsageError(f"--budget: got {text!r}, expected a time such as 90s, 20m or 1h30m")
    return sec


def _busy() -> list[str]:
    """A line where others use more than half of the processor: the probe measures what is left."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    line = f"  note      the machine is busy (load {load:.1f} on {cores} cores); alone it is faster"
    return [line] if load > cores / 2 else []

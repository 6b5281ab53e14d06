"""Losses, gradients and weights that are not finite."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.faults import harness
from tests.faults.harness import STEPS, Fault, Lab, Problems
from unnoise import checkpoint
from unnoise.diffusion.losses import Loss
from unnoise.training import loop

KINDS = ("loss", "gradient", "in a row", "weights")
VALUES = (math.nan, math.inf, -math.inf)


class Poison(torch.autograd.Function):
    """The identity; its gradient is multiplied by a value."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, value: float) -> torch.Tensor:
        context.value = value
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * context.value, None


def _inject(steps: set[int], kind: str, value: float) -> None:
    """In a forked trainer: one loss or gradient of these steps has the value; compare weights."""
    now = {"step": -1}
    real_loss, real_step = Loss.forward, loop.train_step

    def forward(*arguments: Any) -> torch.Tensor:
        loss = real_loss(*arguments)
        if now["step"] in steps and torch.is_grad_enabled():
            first = loss[:1] * value if kind == "loss" else Poison.apply(loss[:1], value)
            loss = torch.cat([first, loss[1:]])
        return loss

    def train_step(objective: Any, state: Any, batch: Any, lr: float) -> Any:
        now["step"] = state.counters.step
        before = _fingerprint(state)
        result = real_step(objective, state, batch, lr)
        changed = before != _fingerprint(state)
        if changed == (now["step"] in steps):
            print(f"WRONG: step {now['step']} {'changed' if changed else 'kept'} the weights")
        now["step"] = -1
        return result

    Loss.forward, loop.train_step = forward, train_step


def _fingerprint(state: Any) -> list[str]:
    from unnoise.training.state import tensors

    return [checkpoint.fingerprint(group) for group in tensors(state).values()]


def trial(lab: Lab, number: int) -> Problems:
    """Kinds and values in turn, at random steps."""
    draw, kind = lab.random("non-finite", number), KINDS[number % len(KINDS)]
    value, run = VALUES[number // len(KINDS) % 3], lab.fresh("nonfinite") / "run"
    if kind == "weights":
        problems = _weights(
            run, draw.randrange(1, STEPS - 1), draw.choice(("ema", "network", "optimizer")), value
        )
    elif kind == "in a row":
        problems = _diverges(run, draw.randrange(0, STEPS - 6), draw.choice((1, 2, 4)), value)
    else:
        problems = _passes(
            run, set(draw.sample(range(STEPS), draw.choice((1, 1, 2, 5)))), kind, value
        )
    return [f"{kind} {value}: {problem}" for problem in problems + _finite(run)]


def _passes(run: Path, steps: set[int], kind: str, value: float) -> Problems:
    """Some steps are skipped; the run ends, with their number."""
    problems = harness.finish(run, (), lambda: _inject(steps, kind, value))
    out = run.with_suffix(".out").read_text()
    problems += re.findall("WRONG: .*", out)
    lines = [
        line for line in map(json.loads, (run / "metrics.jsonl").open()) if "skipped_steps" in line
    ]
    right = [(step + 1, i + 1) for i, step in enumerate(sorted(steps))]
    if [(line["step"], line["skipped_steps"]) for line in lines] != right:
        problems.append(f"metrics say {lines}, expected {right}")
    if out.count("not applied, ") != len(steps):
        problems.append("a skipped step was not said")
    last = checkpoint.checkpoints(run / "checkpoints")[-1]
    counted = json.loads((last / "state.json").read_text())["skipped"]
    return (
        problems
        if counted == len(steps)
        else [*problems, f"state.json counts {counted}, expected {len(steps)}"]
    )


def _diverges(run: Path, first: int, most: int, value: float) -> Problems:
    """From a step on all are bad: after `most` of them one line and exit code 3."""
    bad = set(range(first, STEPS))
    kind = "loss" if first % 2 else "gradient"
    child = harness.start(
        run, ("--train.max-skipped", str(most)), lambda: _inject(bad, kind, value)
    )
    child.wait()
    saved = [
        step for step in harness.steps_of(run) if step < first + most
    ]  # one may be due between two bad ones
    good = f"{checkpoint.name(saved[-1])} is intact" if saved else "there is no earlier checkpoint"
    words = (
        f"training diverged at step {first + most}",
        f"{most} steps in a row",
        good,
    )
    return child.one_line(3, *words) + re.findall("WRONG: .*", child.out)


def _weights(run: Path, at: int, where: str, value: float) -> Problems:
    """A weight, an average or a moment is bad: it is not saved, and training stops."""

    def spoil(state: Any) -> None:
        if state.counters.step == at:
            first = next(state.network.parameters())
            of = {"ema": next(state.ema.parameters()), "network": first}
            target = state.optimizer.state[first]["exp_avg"] if where == "optimizer" else of[where]
            target.data.view(-1)[0] = value

    child = harness.start(run, ("--train.max-skipped", "3"), lambda: harness.before_step(spoil))
    child.wait()
    return [f"in {where} at step {at}: {problem}" for problem in child.one_line(3)]


def _finite(run: Path) -> Problems:
    """No checkpoint and no model with a number that is not finite, and all of them verify."""
    _, problems = checkpoint.newest(run / "checkpoints")
    for path in run.rglob("*.safetensors"):
        bad = [name for name, value in load_file(path).items() if not value.isfinite().all()]
        problems += [f"{path.relative_to(run)}: {name} is not finite" for name in bad]
    return problems


FAULT = Fault(
    "non-finite",
    30,
    8,
    "step changes no bit, counted, logged; in a row: exit code 3; all saved finite",
    trial,
)

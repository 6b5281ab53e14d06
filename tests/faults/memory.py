"""Memory runs out above a number of images, in the forward or backward pass, from some step on."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch

from tests.faults import harness
from tests.faults.harness import BATCH, STEPS, Fault, Lab, Problems
from unnoise.diffusion.losses import Loss
from unnoise.training import loop

WORDS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "DefaultCPUAllocator: can't allocate memory",
)
SMOOTH = ("--train.lr", "1e-4")
"""Rounding differs between a batch and two halves of it; a small rate does not magnify that."""


def _inject(first: int, most: int, backward: bool, word: str) -> None:
    """In a forked trainer: a pass of more than `most` images raises, early or late."""
    now = {"step": -1, "images": 0}
    real_loss, real_step = Loss.forward, loop.train_step

    def full() -> None:
        if now["step"] >= first and now["images"] > most:
            raise torch.OutOfMemoryError(word) if "CUDA" in word else RuntimeError(word)

    def forward(*arguments: Any) -> torch.Tensor:
        now["images"] = len(arguments[2].x0)
        if not backward and torch.is_grad_enabled():
            full()
        return real_loss(*arguments)

    def train_step(objective: Any, state: Any, batch: Any, lr: float) -> Any:
        if now["step"] < 0 and backward:  # the first parameter is the last to have its gradient
            next(state.network.parameters()).register_hook(lambda _: full())
        now["step"] = state.counters.step
        result = real_step(objective, state, batch, lr)
        now["step"] = -1 if not backward else -0.5
        return result

    Loss.forward, loop.train_step = forward, train_step


def trial(lab: Lab, number: int) -> Problems:
    """Every fifth trial has no room for one image."""
    draw, run = lab.random("memory", number), lab.fresh("memory") / "run"
    most = 0 if number % 5 == 4 else draw.choice((1, 2, 3, 5, 7))
    first, backward, word = draw.randrange(0, STEPS), bool(number % 2), WORDS[number // 2 % 2]
    child = harness.start(run, SMOOTH, lambda: _inject(first, most, backward, word))
    child.wait()
    where = f"room for {most} images from step {first} on, {'back' if backward else 'for'}ward: "
    if not most:
        problems = child.one_line(2, "out of memory with one image at a time")
        problems += [] if "Traceback" not in child.err else ["a traceback"]
        return [where + problem for problem in problems]
    said, expected = [int(size) for size in re.findall(r": trying (\d+)", child.out)], [BATCH]
    while expected[-1] > most:
        expected.append((expected[-1] + 1) // 2)
    problems = (
        []
        if child.code == 0 and not child.err
        else [f"exit code {child.code}: {child.err[-300:]!r}"]
    )
    if said != expected[1:]:  # each said once, in the step in which it happened
        problems.append(f"tried micro-batches of {said}, expected {expected[1:]}")
    return [where + problem for problem in problems + _same_curve(lab.whole(*SMOOTH), run)]


def _same_curve(a: Path, b: Path) -> Problems:
    """Losses and gradient norms of all lines within 1e-6, relative."""
    one, other = harness.curve(a), harness.curve(b)
    if len(one) != len(other):
        return [f"{len(other)} lines of metrics, expected {len(one)}"]
    pairs = [
        (k, float(x[k]), float(y[k]))
        for x, y in zip(one, other, strict=True)
        for k in x
        if "loss" in k
    ]
    off = [(abs(x - y) / abs(x), k) for k, x, y in pairs if not math.isclose(x, y, rel_tol=1e-6)]
    return [f"{max(off)[1]} is off by {max(off)[0]:.1e}, relative"] if off else []


FAULT = Fault(
    "memory", 20, 5, "losses within 1e-6 relative, said once; at one image one line", trial
)

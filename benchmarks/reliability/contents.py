"""Tensors whose contents tell which save they belong to, and how two states differ."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Groups = dict[str, list[Tensor]]
"""Tensors by what they are: weights, ema, moments."""


@lru_cache(None)
def _noise(group: str, index: int, shape: tuple[int, ...]) -> Tensor:
    seed = {"weights": 1, "ema": 2, "moments": 3}[group] * 10_000 + index
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def content(group: str, index: int, shape: tuple[int, ...], step: int) -> Tensor:
    """What that tensor holds at that step: its own noise in 0..1, plus the step."""
    return _noise(group, index, shape) + step


@torch.no_grad()
def fill(groups: Groups, step: int) -> None:
    for group, tensors in groups.items():
        for index, tensor in enumerate(tensors):
            tensor.copy_(content(group, index, tuple(tensor.shape), step))


def steps(groups: Groups) -> list[int]:
    """The steps whose contents these are: one if all is well; -1 for what is no step's."""
    found = {
        _step(group, index, tensor)
        for group, tensors in groups.items()
        for index, tensor in enumerate(tensors)
    }
    return sorted(found)


def _step(group: str, index: int, tensor: Tensor) -> int:
    value = float((tensor.detach() - _noise(group, index, tuple(tensor.shape))).median())
    step = round(value) if abs(value) < 1e9 else -1
    return step if torch.equal(tensor, content(group, index, tuple(tensor.shape), step)) else -1


@dataclass
class Turns:
    """The saves of one process: fills in the next, tells of each that is done, ends the process after `last`."""

    tell: Callable[[Any], None]
    last: int | None = None
    step: int = 0
    sizes: list[list[int]] = field(default_factory=list)

    def next(self, groups: Groups) -> int:
        """Fill in the next save's contents; gives its number."""
        self.step += 1
        self.sizes = [list(tensor.shape) for tensor in groups["weights"]]
        fill(groups, self.step)
        return self.step

    def saved(self) -> None:
        """The save of this step has returned."""
        self.tell({"step": self.step, "weights": self.sizes} if self.last else {"step": self.step})
        if self.step == self.last:
            os._exit(0)


def compare(a: Groups, b: Groups) -> dict[str, float | None]:
    """By group the largest difference of a tensor, relative to its largest number; None where all is bitwise the same."""
    return {name: _difference(a[name], b[name]) for name in a}


def _difference(a: list[Tensor], b: list[Tensor]) -> float | None:
    assert len(a) == len(b) > 0
    if all(torch.equal(x, y) for x, y in zip(a, b, strict=True)):
        return None
    return max(
        float((x - y).abs().max() / y.abs().max().clamp_min(1e-30))
        for x, y in zip(a, b, strict=True)
    )


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"

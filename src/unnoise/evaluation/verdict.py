"""Where a finished run stands, in two lines, by what was measured on the way.

The held-out loss of the averaged weights, at the previews, over log(images seen):

- noise: how far each of the newest eight previews lies off the line through its two neighbours,
  over what that is for independent errors of size 1. A bend counts as noise.
- every preview of the last third above the lowest by more than 1 %, and by more than 2 noises (or
  each of the newest four above the one before): it rises
- lower than at two thirds by more than 0.5 %, and by more than 2 standard errors of that (or each
  of the newest four below the one before): it still falls
- else it is flat; of fewer than four previews, or ten held-out pictures, nothing is said

Copies (`memorization.py`) are appearing where the last preview's samples have more of them, by more
than 2 standard errors of the difference, than held-out pictures, which nobody copied; or, where
there are fewer than ten of these, than training pictures have of the other training pictures.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from unnoise import checkpoint
from unnoise.config import RunConfig
from unnoise.data.dataset import ImageData
from unnoise.errors import CheckpointError
from unnoise.evaluation.memorization import in_pixels
from unnoise.records import read_line
from unnoise.units import seconds

FEWEST_PREVIEWS, FEWEST_HELD_OUT, NEWEST = 4, 10, 8
FALLS, RISES = 0.005, 0.01
"""Smaller shares of the loss are flat, whatever the noise."""
MOST_VALUES = 5 * 10**7
"""Numbers in all training images through which copies are looked for: a few seconds."""
Point: TypeAlias = tuple[float, float]


class Trend(NamedTuple):
    """What a curve of held-out losses does at its end."""

    kind: Literal["falling", "flat", "rising"]
    change: float
    """The share of the loss by which it changed in the last third, or is above its lowest."""
    lowest: int
    """The index of the lowest."""


def trend(nimg: Sequence[float], loss: Sequence[float]) -> Trend:
    """The trend of four or more losses by rising images seen; see the module's text."""
    points, last = [*zip(map(math.log, nimg), loss, strict=True)], len(loss) - 1
    squares = []
    for i in range(max(1, last - NEWEST + 2), last):
        line, size = _between(points[i][0], points[i - 1], points[i + 1])
        squares.append((loss[i] - line) ** 2 / (1 + size**2))
    noise = math.sqrt(sum(squares) / len(squares))
    then = math.log(nimg[-1] * 2 / 3)
    i = max((i for i in range(last) if points[i][0] <= then), default=0)
    lowest = min(range(len(loss)), key=loss.__getitem__)
    rise, newest = min(loss[i + 1 :]) - loss[lowest], [*loss[-FEWEST_PREVIEWS:]]
    if rise > RISES * loss[lowest] and (rise > 2 * noise or newest == sorted({*newest})):
        return Trend("rising", loss[-1] / loss[lowest] - 1, lowest)
    before, size = _between(then, points[i], points[i + 1])
    fall = before - loss[-1]
    sure = fall > 2 * noise * math.hypot(1, size) or newest == sorted({*newest}, reverse=True)
    falls = sure and fall > FALLS * before
    return Trend("falling" if falls else "flat", -fall / before, lowest)


def _between(x: float, a: Point, b: Point) -> Point:
    """The line through two points at x, and its error where theirs are 1."""
    share = (x - a[0]) / (b[0] - a[0])
    return a[1] + share * (b[1] - a[1]), math.hypot(share, 1 - share)


def verdict(config: RunConfig, data: ImageData, folder: Path, samples: Tensor) -> list[str]:
    """Two lines about a run that is done, with the samples of its last preview."""
    copies, appearing = _copies(data, samples, folder)
    return [_loss(config, data, folder, advises=not appearing), copies]


def _loss(config: RunConfig, data: ImageData, folder: Path, advises: bool) -> str:
    curve = dict[float, dict[str, float]]()
    for text in (folder / "metrics.jsonl").read_text(errors="replace").splitlines():
        with suppress(CheckpointError):  # a line in pieces
            line = read_line(text)
            curve |= {line["nimg"]: line} if "held_out_loss" in line else {}
    nimg, held_out = sorted(curve), len(data.images) - data.num_train
    if held_out < FEWEST_HELD_OUT:
        few = f"needs {FEWEST_HELD_OUT} held-out pictures, got {held_out}"
        return f"held-out loss: no verdict ({few})"
    if len(nimg) < FEWEST_PREVIEWS:
        return f"held-out loss: no verdict (needs {FEWEST_PREVIEWS} previews, got {len(nimg)})"
    losses = [curve[n]["held_out_loss"] for n in nimg]
    if not all(0 < loss < math.inf for loss in losses):
        return "held-out loss: no verdict (it was not always a number above 0)"
    found = trend(nimg, losses)
    if found.kind == "rising":
        at = nimg[found.lowest]
        best = folder / "checkpoints" / checkpoint.name(int(curve[at]["step"]))
        lowest = f"its lowest, of {at / 1000:.3g} kimg{f' ({best})' if best.is_dir() else ''}"
        helps = "more pictures help, more time does not"
        return f"held-out loss {found.change:.1%} above {lowest}: overfitting: {helps}"
    said = f"({found.change:+.1%} over the last third of the run)"
    if found.kind == "flat" and abs(found.change) > RISES:
        return f"held-out loss without a clear trend {said}: within its noise"
    if found.kind == "flat":
        return f"held-out loss flat {said}: more time alone helps little"
    words = ["unnoise", "train", str(folder), *(f"--import={path}" for path in config.imports)]
    command = shlex.join([*words, *_twice(config, nimg[-1], data.num_train)])
    longer = f": more time helps: {command}" if advises else ""
    return f"held-out loss still falling {said}{longer}"


def _twice(config: RunConfig, nimg: float, num_train: int) -> list[str]:
    """Flags for a run of twice the length: that of the end which was reached."""
    train = config.train
    ends = {"--epochs": (train.epochs, num_train), "--kimg": (train.kimg, 1000)}
    reached = [(flag, end) for flag, (end, each) in ends.items() if end and nimg >= end * each]
    flags = [part for flag, end in reached for part in (flag, f"{2 * end:g}")]
    if not reached and train.time is not None:
        sec = 2 * seconds(train.time)
        unit, size = next(((u, n) for u, n in (("h", 3600), ("m", 60)) if sec % n == 0), ("s", 1))
        flags += ["--time", f"{sec / size:g}{unit}"]
    return flags


def _copies(data: ImageData, samples: Tensor, folder: Path) -> tuple[str, bool]:
    """A line, and whether copies are appearing."""
    train, num = data.images[: data.num_train], len(samples)
    if len(train) < 2:
        return "copies: not looked for (1 training picture)", False
    if train.size > MOST_VALUES:
        many = f"copies: not looked for among {len(train):,} pictures"
        return f"{many}; unnoise evaluate {folder} does", False
    held_out = data.images[data.num_train :]
    few = len(held_out) < FEWEST_HELD_OUT
    others = torch.from_numpy((train if few else held_out)[: 2 * num].copy())
    count = sum(in_pixels(samples, train).copied)
    real = sum(in_pixels(others, train, of_train=few).copied)
    kind = "training pictures among themselves" if few else "held-out pictures"
    found = f"{count} of {num} samples, {real} of {len(others)} {kind}"
    share = (real + 0.5) / (len(others) + 1)
    error = math.sqrt(share * (1 - share) * (1 / num + 1 / len(others)))
    if count / num > share + 2 * error:
        return f"copies are appearing ({found}): more pictures, or stop here", True
    return f"copies: {found}", False

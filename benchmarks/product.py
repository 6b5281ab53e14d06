"""The training of unnoise in pieces: what the benchmarks need beyond its public functions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import unnoise
from unnoise import RunConfig, build
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.training.loop import READ_EVERY
from unnoise.training.run import Run, prepare
from unnoise.training.state import TrainState
from unnoise.training.step import collect_outcomes, draw, learning_rate, train_step


def network(
    preset: str, channels: int, size: int, changes: Mapping[str, Any] | None = None
) -> nn.Module:
    """A preset's network, for images without classes."""
    return build.network(unnoise.preset(preset, changes), build.Shape(channels, size, size))


def random_data(count: int = 256, size: int = 32, classes: int = 0) -> ImageData:
    """Random pictures as a data set, with classes in turns or none."""
    values = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    labels, names = (
        (np.arange(count) % classes, map(str, range(classes))) if classes else (None, ())
    )
    return ImageData("random", values, labels, tuple(names), count, True, "random")


def prepared(config: RunConfig, data: ImageData | None = None) -> tuple[Run, TrainState]:
    """All that a training loop holds, in a temporary folder."""
    data = unnoise.load_data(config) if data is None else data
    run, state = prepare(config, data, Path(tempfile.mkdtemp()) / "run")
    state.network.train()
    return run, state


def stepper(run: Run, state: TrainState) -> Callable[[], object]:
    """One turn of the training loop: batch, noise and times, gradients, optimizer, average."""
    train, counters = run.config.train, state.counters
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)
    every = READ_EVERY.get(run.arithmetic.device.type, 20)

    def step() -> object:
        batch = draw(run, counters.step, *batches.get(counters.nimg, train.batch_size))
        lr = learning_rate(train, counters.nimg, run.progress(counters))
        result = train_step(run, state, batch, lr)
        if len(state.waiting) >= every:
            list(collect_outcomes(state))
        return result

    return step

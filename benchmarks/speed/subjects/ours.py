"""unnoise: the `cifar10` preset, the step of its training loop, and Model.sample."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import unnoise
from benchmarks.speed.subjects.subject import IMAGE_SIZE, Parts, Setting, pixels, times, wake
from unnoise.config import RunConfig, override
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.presets import named
from unnoise.training.loop import READ_EVERY
from unnoise.training.run import Run, prepare
from unnoise.training.step import draw, learning_rate, read, train_step

IMAGES = 256
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def config(setting: Setting, precision: str, compiles: bool) -> RunConfig:
    """The preset with the batch and device of a setting."""
    changes = {
        "train.batch_size": setting.batch, "train.precision": precision, "device": setting.device,
        "train.compile": "auto" if compiles else "off", "network.base_channels": setting.base_channels,
    }  # fmt: skip
    return override(named("cifar10"), changes)


def images(count: int = IMAGES, size: int = IMAGE_SIZE) -> ImageData:
    """Random pictures as a data set."""
    values = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    return ImageData("random", values, None, (), count, True, "random")


def stepper(run: Run) -> Callable[[], object]:
    """One turn of the training loop: batch, noise and times, gradients, clipping, optimizer, average."""
    train, state = run.config.train, run.state
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)
    state.network.train()

    def step() -> object:
        batch = draw(run.objective, state.step, *batches.get(state.nimg, train.batch_size))
        result = train_step(
            run.objective, state, batch, learning_rate(train, state.nimg, run.progress())
        )
        list(
            read(run.objective, state)
            if len(state.unread) >= READ_EVERY.get(run.arithmetic.device.type, 20)
            else ()
        )
        return result

    return step


def build(setting: Setting, precision: str = "auto", compiles: bool = True) -> Parts:
    """What `unnoise train cifar10` makes."""
    run = prepare(config(setting, precision, compiles), images(), Path(tempfile.mkdtemp()) / "run")
    network = run.state.network
    wake(network)
    wake(run.state.ema)
    dtype = NAMES[run.arithmetic.dtype]
    tf32 = setting.torch_device.type == "cuda" and run.config.train.tf32 and dtype == "fp32"

    @functools.cache  # made when first asked: the step needs none
    def model() -> unnoise.Model:
        return run.model(run.state.ema)

    return Parts(
        network=network,
        evaluate=lambda count: network(pixels(count, setting), times(count, setting).float()),
        loss=lambda x0: x0.mean(),
        shipped_step=lambda: stepper(run),
        sample=lambda count, nfe: model().sample(count, sampler="ddim", steps=nfe),
        version=unnoise.__version__,
        precision="tf32" if tf32 else dtype,
        format="nhwc" if _channels_last(run, setting) else "nchw",
        compiled="compiled" if run.arithmetic.compile else "",
        sampled=lambda: model().network,
        own_best=True,
    )


def _channels_last(run: Run, setting: Setting) -> bool:
    """Sampling has a copy of its own where it has another precision."""
    copied = setting.work == "sampling" and run.arithmetic.dtype != torch.float32
    return run.arithmetic.sample_channels_last if copied else run.arithmetic.channels_last


def build_fp32(setting: Setting) -> Parts:
    """The same in the precision that the peers ship with."""
    return build(setting, "fp32")

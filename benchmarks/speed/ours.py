"""unnoise: the `cifar10` preset, the step of its training loop, and Model.sample."""

from __future__ import annotations

import functools

import torch

import unnoise
from benchmarks import product
from benchmarks.speed.subject import Parts, Setting, wake

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def config(setting: Setting, precision: str, compiles: bool) -> unnoise.RunConfig:
    """The preset with the batch and device of a setting."""
    changes = {
        "train.batch_size": setting.batch, "train.precision": precision, "device": setting.device,
        "train.compile": "auto" if compiles else "off",
        "network.base_channels": setting.base_channels,
    }  # fmt: skip
    return unnoise.preset("cifar10", changes)


def build(setting: Setting, precision: str = "auto", compiles: bool = True) -> Parts:
    """What `unnoise train cifar10` makes."""
    run, state = product.prepared(config(setting, precision, compiles), product.random_data())
    network, how = state.network, run.arithmetic
    wake(state.ema)
    dtype = NAMES[how.dtype]
    tf32 = setting.torch_device.type == "cuda" and run.config.train.tf32 and dtype == "fp32"
    # Sampling has a copy of its own where it has another precision.
    copied = setting.work == "sampling" and how.dtype != torch.float32
    nhwc = how.sample_channels_last if copied else how.channels_last

    @functools.cache  # made when first asked: the step needs none
    def model() -> unnoise.Model:
        return run.model(state.ema, state.counters)

    return Parts(
        network, lambda x0: x0.mean(), lambda: product.stepper(run, state),
        lambda count, nfe: model().sample(count, sampler="ddim", steps=nfe), unnoise.__version__,
        evaluate=lambda count: network(setting.pixels(count), setting.times(count).float()),
        precision="tf32" if tf32 else dtype, format="nhwc" if nhwc else "nchw",
        compiled="compiled" if how.compile else "", sampled=lambda: model().network, own_best=True,
    )  # fmt: skip

"""Where and how a network is computed: device, precision, memory format, and what must be exact."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from unnoise.config import RunConfig
from unnoise.errors import ConfigError
from unnoise.networks.network import cast_weights

N = TypeVar("N", bound=nn.Module)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device of a name; auto is CUDA, then Apple's GPU, then the CPU."""
    if name == "auto":
        there = torch.accelerator.is_available()
        accelerator = torch.accelerator.current_accelerator() if there else None
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        there = ["auto", "cpu", *cuda, *["mps"] * torch.backends.mps.is_available()]
        expected = f"expected {' or '.join(there)}"
        raise ConfigError(f"device: {name!r} is not there; {expected}") from error
    return chosen


@dataclass(frozen=True)
class Arithmetic:
    """How a network is computed on a device: precision, memory format, compilation."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    compile: bool
    sample_channels_last: bool = False
    """Whether the network's copy for sampling, where there is one, is in channels_last."""

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision, or nothing for fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def place(self, net: N) -> N:
        """Move a network to the device, in this memory format."""
        if self.device.type == "cpu":
            keep_freed_memory()
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        moved = net.to(device=self.device)
        return moved.to(memory_format=layout)  # pyright: ignore[reportCallIssue]

    def for_sampling(self, net: nn.Module) -> nn.Module:
        """The network, or a copy that holds its weights in this precision."""
        if self.dtype == torch.float32:
            return net
        return cast_weights(net, self.dtype, self.sample_channels_last)


def choose(config: RunConfig) -> Arithmetic:
    """The configured arithmetic; "auto" follows the measurements in docs/results/kernels.md."""
    where, train = find_device(config.device), config.train
    on_cuda = where.type == "cuda"
    if train.precision != "auto":
        dtype = DTYPES[train.precision]
    elif on_cuda:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    else:
        fast = where.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        dtype = torch.bfloat16 if fast else torch.float32
    if dtype == torch.float16 and not on_cuda:
        got = f"got device {where.type}"
        raise ConfigError(f"train.precision: 'fp16' needs CUDA, {got}; expected fp32 or bf16")
    return Arithmetic(
        where,
        dtype,
        channels_last=_is_on(train.channels_last, on_cuda),
        compile=_is_on(train.compile, on_cuda),
        sample_channels_last=on_cuda or config.network.sample_channels_last,
    )


def _is_on(value: str, auto: bool) -> bool:
    return auto if value == "auto" else value == "on"


def allow_tf32(device: torch.device) -> None:
    """Let CUDA round the factors of fp32 products and convolutions to TensorFloat-32."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute fp32 products and convolutions in fp32, whatever training has allowed."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step: to return it costs 10 % of a step."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3  # of mallopt(3); 32 MiB is the most for the second
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 * 2**20)
        libc.mallopt(trim_threshold, 2**31 - 1)

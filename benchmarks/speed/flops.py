"""What a network computes and moves, and how long that must take at least on a machine.

A multiplication and an addition are two operations. Convolutions, matrix products and attention
count; everything else has bytes only. Model FLOP belong to the architecture, not to how it is
computed: an upsampling folded into a transposed convolution (4x4, stride 2) counts as the 3x3
convolution of the upsampled image that it stands for.

In the roofline each operation takes the longer of its arithmetic at the measured peak and its
bytes at the measured bandwidth. Training is three forward passes: the backward pass computes the
gradient of the input and that of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATTENTION = "_scaled_dot_product"
TRAINING_PASSES = 3
ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Operation:
    """One operation of a pass."""

    name: str
    flop: int
    bytes: int


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do in one precision."""

    convolution_flop_per_sec: float
    matmul_flop_per_sec: float
    bytes_per_sec: float


class Counter(TorchDispatchMode):
    """Notes every operation under it; with no_grad, as inference mode hides linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        read, written = [*_tensors(args), *_tensors(kwargs or {})], [*_tensors(out)]
        if read and written and not _only_seen_differently(func, read, written[0]):
            moved = sum(t.numel() * t.element_size() for t in read + written)
            self.operations.append(Operation(name, flop(name, args, written[0]), moved))
        return out


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple | dict):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(part)


def _only_seen_differently(func: Any, read: list[Tensor], written: Tensor) -> bool:
    """Whether the result is a view, for which nothing moves."""
    if func._schema.is_mutable:
        return False
    place = written.untyped_storage()._cdata
    return func.is_view or any(place == t.untyped_storage()._cdata for t in read)


def flop(name: str, args: Any, out: Tensor) -> int:
    """Floating-point operations of one operation."""
    if name == "convolution":
        return _convolution(args, out)
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        return 2 * out.numel() * args[1 if "add" in name else 0].shape[-1]
    if name.startswith(ATTENTION):
        queries, keys, values = args[:3]
        scores = math.prod(queries.shape[:-1]) * keys.shape[-2]
        return 2 * scores * (queries.shape[-1] + values.shape[-1])
    return 0


def _convolution(args: Any, out: Tensor) -> int:
    x, weight, _bias, stride, _padding, _dilation, transposed, _output_padding, groups = args[:9]
    kernel = math.prod(weight.shape[2:])
    if not transposed:
        return 2 * out.numel() * weight.shape[1] * kernel
    if kernel == 16 and list(stride) == [2, 2] and groups == 1:
        return 2 * out.numel() * weight.shape[0] * 9
    return 2 * x.numel() * weight.shape[1] * kernel


def count(forward: Callable[[], object]) -> list[Operation]:
    """The operations of a pass."""
    with torch.no_grad(), Counter() as counter:
        forward()
    return counter.operations


def total(operations: Iterable[Operation]) -> int:
    """Floating-point operations of a pass."""
    return sum(operation.flop for operation in operations)


def least_sec(operations: Iterable[Operation], ceiling: Ceiling, precision: str) -> float:
    """The roofline's time of operations that were counted in fp32, computed in a precision."""
    bandwidth = ceiling.bytes_per_sec * 4 / ELEMENT_BYTES[precision]
    convolution, matmul = ceiling.convolution_flop_per_sec, ceiling.matmul_flop_per_sec
    return sum(
        max(
            one.flop / (convolution if one.name == "convolution" else matmul), one.bytes / bandwidth
        )
        for one in operations
    )

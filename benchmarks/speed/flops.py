"""What a network computes and moves: floating-point operations and bytes of every operation of a pass.

A multiplication and an addition are two operations. Convolutions, matrix products and attention count; everything else has
bytes only. Model FLOPs belong to the architecture, not to how it is computed: an upsampling folded into a transposed
convolution (4x4, stride 2) counts as the 3x3 convolution of the upsampled image that it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATTENTION = "_scaled_dot_product"


@dataclass(frozen=True)
class Operation:
    """One operation of a pass."""

    name: str
    flop: int
    bytes: int

    @property
    def kind(self) -> str:
        """Which ceiling it has: convolution, matmul, or memory alone."""
        return "convolution" if self.name == "convolution" else "matmul" if self.flop else "memory"


class Counter(TorchDispatchMode):
    """Notes every operation that is computed under it (with gradients off, as inference mode hides linear layers)."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        read, written = list(_tensors(args)) + list(_tensors(kwargs or {})), list(_tensors(out))
        if read and written and not _only_seen_differently(func, read, written):
            moved = sum(t.numel() * t.element_size() for t in read + written)
            self.operations.append(Operation(name, flop(name, args, written[0]), moved))
        return out


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _only_seen_differently(func: Any, read: list[Tensor], written: list[Tensor]) -> bool:
    """Whether the result is a view, for which nothing moves."""
    if func._schema.is_mutable:
        return False
    return func.is_view or any(
        written[0].untyped_storage()._cdata == t.untyped_storage()._cdata for t in read
    )


def flop(name: str, args: Any, out: Tensor) -> int:
    """Floating-point operations of one operation."""
    if name == "convolution":
        return _convolution(args, out)
    if name in ("mm", "bmm"):
        return 2 * out.numel() * args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return 2 * out.numel() * args[1].shape[-1]
    if name.startswith(ATTENTION):
        queries, keys, values = args[:3]
        scores = math.prod(queries.shape[:-1]) * keys.shape[-2]
        return 2 * scores * (queries.shape[-1] + values.shape[-1])
    return 0


def _convolution(args: Any, out: Tensor) -> int:
    x, weight, _bias, stride, _padding, _dilation, transposed, _output_padding, _groups = args[:9]
    kernel = math.prod(weight.shape[2:])
    if not transposed:
        return 2 * out.numel() * weight.shape[1] * kernel
    if kernel == 16 and list(stride) == [2, 2] and _groups == 1:
        return 2 * out.numel() * weight.shape[0] * 9
    return 2 * x.numel() * weight.shape[1] * kernel


def count(forward: Callable[[], object]) -> list[Operation]:
    """The operations of a pass."""
    with torch.no_grad(), Counter() as counter:
        forward()
    return counter.operations

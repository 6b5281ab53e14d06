"""How long a pass must take at least on this machine, and how near to that it comes.

Each operation takes the longer of its arithmetic at the measured peak and its bytes at the measured bandwidth. Training is
three forward passes: the backward pass computes the gradient of the input and that of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.speed.flops import Operation

TRAINING_PASSES = 3
ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do in one precision."""

    convolution_flop_per_sec: float
    matmul_flop_per_sec: float
    bytes_per_sec: float


def seconds(operations: Iterable[Operation], ceiling: Ceiling, precision: str) -> float:
    """The roofline's time of operations that were counted in fp32, computed in a precision."""
    share = ELEMENT_BYTES[precision] / 4
    return sum(_second(operation, ceiling, share) for operation in operations)


def _second(operation: Operation, ceiling: Ceiling, share: float) -> float:
    convolves = operation.kind == "convolution"
    peak = ceiling.convolution_flop_per_sec if convolves else ceiling.matmul_flop_per_sec
    return max(operation.flop / peak, share * operation.bytes / ceiling.bytes_per_sec)


def total_flop(operations: Iterable[Operation]) -> int:
    """Floating-point operations of a pass."""
    return sum(operation.flop for operation in operations)


def utilisation(flop: float, sec: float, ceiling: Ceiling) -> float:
    """MFU: the model's operations per second over the measured peak of convolutions."""
    return flop / sec / ceiling.convolution_flop_per_sec

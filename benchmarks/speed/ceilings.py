"""What this machine can do: the fastest matrix products and convolutions, and how fast memory is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.speed.interleave import Plan, measure, spread
from benchmarks.speed.meter import repeated
from benchmarks.speed.roofline import Ceiling

CONVOLUTIONS = ((128, 128, 32), (256, 256, 16), (512, 256, 16), (256, 256, 8))
"""(channels in, channels out, size): the 3x3 convolutions where the 35.7M network spends most of its time."""
PIXELS = {"cpu": 1 << 14, "cuda": 1 << 18}
"""Of one convolution, over its batch."""
MATMULS = {"cpu": (1024, 2048, 4096), "cuda": (2048, 4096, 8192)}
BYTES = {"memory": 1 << 28, "cache": 1 << 20}
"""Of each array of a copy or triad: far beyond, or within, the cache of a processor."""
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SAMPLE_SEC = 0.05


def precisions(device: torch.device) -> tuple[str, ...]:
    """Those with a peak worth knowing on a device."""
    return ("fp32", "tf32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")


def allow_tf32(allowed: bool) -> None:
    """Whether fp32 on CUDA may be computed as TensorFloat-32."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def synchroniser(device: torch.device) -> Callable[[], object]:
    """What waits until a device has done all that it was asked."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def matmuls(
    device: torch.device, precision: str, sizes: tuple[int, ...]
) -> dict[str, tuple[Callable[[], object], int]]:
    """Products of square matrices, with their floating-point operations."""
    works = {}
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=DTYPES[precision]) for _ in range(2))
        works[f"{n}"] = (lambda a=a, b=b: a @ b, 2 * n**3)
    return works


def convolutions(
    device: torch.device, precision: str, pixels: int
) -> dict[str, tuple[Callable[[], object], int]]:
    """3x3 convolutions in both memory formats, with their floating-point operations."""
    works = {}
    for before, after, size in CONVOLUTIONS:
        batch = max(1, pixels // size**2)
        for name, layout in (("nchw", torch.contiguous_format), ("nhwc", torch.channels_last)):
            x = torch.randn(batch, before, size, size, device=device, dtype=DTYPES[precision])
            w = torch.randn(after, before, 3, 3, device=device, dtype=DTYPES[precision])
            x, w = x.to(memory_format=layout), w.to(memory_format=layout)
            flop = 2 * batch * size**2 * after * before * 9
            work = lambda x=x, w=w: torch.nn.functional.conv2d(x, w, padding=1)
            works[f"{before} to {after} at {size}, batch {batch}, {name}"] = (work, flop)
    return works


def streams(device: torch.device, array_bytes: int) -> dict[str, tuple[Callable[[], object], int]]:
    """A copy and a triad, with the bytes they read and write."""
    a, b, c = (torch.ones(array_bytes // 4, device=device) for _ in range(3))
    return {
        "copy": (lambda: a.copy_(b), 2 * array_bytes),
        "triad": (lambda: torch.add(b, c, alpha=3.0, out=a), 3 * array_bytes),
    }


def rates(
    works: dict[str, tuple[Callable[[], object], int]], device: torch.device, plan: Plan
) -> dict[str, float]:
    """Amount per second of each work, by its median time."""
    synchronise = synchroniser(device)
    with torch.inference_mode():
        takers = {
            name: repeated(work, synchronise, SAMPLE_SEC) for name, (work, _) in works.items()
        }
        timings = measure(takers, plan)
    return {name: amount / spread(timings.sec[name]).median for name, (_, amount) in works.items()}


def measured(device: torch.device, plan: Plan, scale: float = 1.0) -> dict[str, Any]:
    """All ceilings of a device; `scale` below 1 shrinks the work, to try this out."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    sizes = tuple(max(64, int(n * scale)) for n in MATMULS[kind])
    found: dict[str, Any] = {"flop_per_sec": {}, "bytes_per_sec": {}}
    for precision in precisions(device):
        allow_tf32(precision == "tf32")
        found["flop_per_sec"][precision] = {
            "matmul": rates(matmuls(device, precision, sizes), device, plan),
            "convolution": rates(
                convolutions(device, precision, int(PIXELS[kind] * scale)), device, plan
            ),
        }
    for place, size in BYTES.items():
        found["bytes_per_sec"][place] = rates(
            streams(device, max(1 << 16, int(size * scale))), device, plan
        )
    if kind == "cuda":
        torch.cuda.empty_cache()
    return found


def ceiling(found: dict[str, Any], precision: str) -> Ceiling:
    """The best of what was measured in one precision."""
    rates = found["flop_per_sec"][precision]
    return Ceiling(
        max(rates["convolution"].values()),
        max(rates["matmul"].values()),
        max(found["bytes_per_sec"]["memory"].values()),
    )

"""What this machine can do: the fastest matrix products and convolutions, and memory's speed."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed.flops import Ceiling
from benchmarks.timing import Plan, Work, measure, repeated, synchroniser

CONVOLUTIONS = ((128, 128, 32), (256, 256, 16), (512, 256, 16), (256, 256, 8))
"""(channels in, channels out, size): the 3x3 convolutions that take most time of 35.7M."""
PIXELS = {"cpu": 1 << 14, "cuda": 1 << 18}
"""Pixels of one convolution, over its batch."""
MATMULS = {"cpu": (1024, 2048, 4096), "cuda": (2048, 4096, 8192)}
BYTES = {"memory": 1 << 28, "cache": 1 << 20}
"""Size of each array of a copy or triad: far beyond, or within, the cache of a processor."""
DTYPES = {
    "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SAMPLE_SEC = 0.05
Works = dict[str, tuple[Work, int]]
"""Name -> work, and the operations or bytes of it."""


def matmuls(device: torch.device, precision: str, scale: float = 1.0) -> Works:
    """Products of square matrices."""
    works: Works = {}
    for size in MATMULS[device.type]:
        n = max(64, int(size * scale))
        a, b = (torch.randn(n, n, device=device, dtype=DTYPES[precision]) for _ in range(2))
        works[f"{n}"] = (lambda a=a, b=b: a @ b, 2 * n**3)
    return works


def convolutions(device: torch.device, precision: str, scale: float = 1.0) -> Works:
    """3x3 convolutions in both memory formats."""
    works: Works = {}
    for before, after, size in CONVOLUTIONS:
        batch = max(1, int(PIXELS[device.type] * scale) // size**2)
        for name, layout in FORMATS.items():
            x = torch.randn(batch, before, size, size, device=device, dtype=DTYPES[precision])
            w = torch.randn(after, before, 3, 3, device=device, dtype=DTYPES[precision])
            x, w = x.to(memory_format=layout), w.to(memory_format=layout)
            work = lambda x=x, w=w: torch.nn.functional.conv2d(x, w, padding=1)
            flop = 2 * batch * size**2 * after * before * 9
            works[f"{before} to {after} at {size}, batch {batch}, {name}"] = (work, flop)
    return works


def streams(device: torch.device, array_bytes: int) -> Works:
    """A copy and a triad, with the bytes they read and write."""
    a, b, c = (torch.ones(array_bytes // 4, device=device) for _ in range(3))
    return {
        "copy": (lambda: a.copy_(b), 2 * array_bytes),
        "triad": (lambda: torch.add(b, c, alpha=3.0, out=a), 3 * array_bytes),
    }


def rates(works: Works, device: torch.device, plan: Plan) -> dict[str, float]:
    """Amount per second of each work, by its median time."""
    wait = synchroniser(device)
    with torch.inference_mode():
        takers = {name: repeated(work, wait, SAMPLE_SEC) for name, (work, _) in works.items()}
        took = measure(takers, plan).medians()
    return {name: amount / took[name] for name, (_, amount) in works.items()}


def measured(device: torch.device, plan: Plan, scale: float = 1.0) -> dict[str, Any]:
    """All ceilings of a device; `scale` below 1 shrinks the work, to try this out."""
    cuda = device.type == "cuda"
    found: dict[str, Any] = {"flop_per_sec": {}, "bytes_per_sec": {}}
    for precision in ("fp32", "tf32", "bf16", "fp16") if cuda else ("fp32", "bf16"):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        found["flop_per_sec"][precision] = {
            "matmul": rates(matmuls(device, precision, scale), device, plan),
            "convolution": rates(convolutions(device, precision, scale), device, plan),
        }
    for place, size in BYTES.items():
        works = streams(device, max(1 << 16, int(size * scale)))
        found["bytes_per_sec"][place] = rates(works, device, plan)
    if cuda:
        torch.cuda.empty_cache()
    return found


def ceiling(found: dict[str, Any], precision: str) -> Ceiling:
    """The best of what was measured in one precision."""
    flop, memory = found["flop_per_sec"][precision], found["bytes_per_sec"]["memory"]
    best = (max(rates.values()) for rates in (flop["convolution"], flop["matmul"], memory))
    return Ceiling(*best)

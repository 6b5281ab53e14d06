"""The fused norm kernel against PyTorch: microseconds, GB/s and the fraction of a copy's bandwidth, on a CUDA device.

    python -m benchmarks.norm_kernel [--autocast] [--repeats 21] [--out benchmarks/results/h200-norm.json]

silu(group_norm(x)) in bf16 at the shapes of the 35.7M network, batch 128 and 256, for NHWC and NCHW inputs: stock
PyTorch, torch.compile's kernels, ours (on NCHW with its copy to NHWC). Candidates run interleaved (A B A B ..); a
time is the median of CUDA events around CALLS calls, launched as in eager mode and replayed from a CUDA graph, where
the host's launches cost nothing. GB/s counts the least that must move, in bf16: forward reads x and writes y,
backward reads x and dy and writes dx. The kernels read x and dy twice, the second time from L2 where they fit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = [
    (128, 32),
    (256, 32),
    (384, 32),
    (256, 16),
    (512, 16),
    (256, 8),
    (512, 8),
    (256, 4),
    (512, 4),
]
"""(channels, height = width): the blocks' inputs and, with the skips concatenated, those of the way up."""
BATCHES = (128, 256)
GROUPS, EPS, CALLS = 32, 1e-6, 10
Work = Callable[[], object]
Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def stock(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, weight, bias, EPS))


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from unnoise.networks.triton_norm import group_norm_silu

    return group_norm_silu(x, GROUPS, weight, bias, EPS)


def repeated(work: Work, autocast: bool) -> Work:
    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast, cache_enabled=False):
            for _ in range(CALLS):
                work()

    return run


def captured(run: Work) -> Work:
    """The same launches replayed from a CUDA graph, after a first run that compiles what needs it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def microseconds(candidates: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median over interleaved repeats of one call of each; a candidate makes CALLS of them."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 2):  # the first two warm up
        for name, work in candidates.items():
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            work()
            ended.record()
            ended.synchronize()
            if turn >= 2:
                times[name].append(1000 * began.elapsed_time(ended) / CALLS)
    return {name: statistics.median(values) for name, values in times.items()}


def works(x: Tensor, backward: bool, autocast: bool) -> dict[str, Work]:
    """One candidate per implementation and way of launching; backward is forward and backward together."""
    x = x.detach().requires_grad_(backward)
    dtype = torch.float32 if autocast else x.dtype
    weight, bias = (
        torch.randn(x.shape[1], device=x.device, dtype=dtype, requires_grad=backward)
        for _ in range(2)
    )
    torch._dynamo.reset()  # each shape compiled for itself
    candidates: dict[str, Work] = {}
    for name, function in {
        "stock": stock,
        "compiled": torch.compile(stock, dynamic=False),
        "ours": ours,
    }.items():
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            dy = torch.randn_like(function(x, weight, bias))  # autocast's is float32

        def work(function: Norm = function, dy: Tensor = dy) -> object:
            y = function(x, weight, bias)
            return torch.autograd.grad(y, (x, weight, bias), dy) if backward else y

        run = repeated(work, autocast)
        candidates |= {name: run, f"{name}, graph": captured(run)}
    return candidates


def copy_bandwidth(numel: int, repeats: int) -> float:
    """Bytes read and written a second, in GB, by y.copy_(x) of so many bf16 numbers, from a CUDA graph."""
    x = torch.randn(numel, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    return (
        4
        * numel
        / microseconds({"copy": captured(repeated(lambda: y.copy_(x), False))}, repeats)["copy"]
        / 1000
    )


def measure(
    batch: int, channels: int, size: int, repeats: int, autocast: bool
) -> list[dict[str, Any]]:
    """One row per memory format, direction and candidate."""
    rows: list[dict[str, Any]] = []
    shape = (batch, channels, size, size)
    copy = copy_bandwidth(batch * channels * size * size, repeats)
    for layout, memory_format in (("NHWC", torch.channels_last), ("NCHW", torch.contiguous_format)):
        x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=memory_format)
        for backward in (False, True):
            for name, time_us in microseconds(works(x, backward, autocast), repeats).items():
                rate = 2 * x.numel() * (5 if backward else 2) / time_us / 1000
                row = {
                    "shape": "x".join(map(str, shape)),
                    "layout": layout,
                    "candidate": name,
                    "us": time_us,
                }
                row |= {"what": "forward+backward" if backward else "forward", "gb_per_s": rate}
                rows.append(row | {"copy_gb_per_s": copy, "of_copy": rate / copy})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per shape, layout and direction; microseconds and the fraction of the copy's bandwidth."""
    names = list(dict.fromkeys(str(row["candidate"]) for row in rows))
    lines = [f"| shape | layout | | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    cells: dict[tuple[object, ...], list[str]] = {}
    for row in rows:
        cells.setdefault((row["shape"], row["layout"], row["what"]), []).append(
            f"{row['us']:.0f} ({row['of_copy']:.0%})"
        )
    lines += [
        f"| {' | '.join(map(str, key))} | {' | '.join(values)} |" for key, values in cells.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument(
        "--autocast",
        action="store_true",
        help="as in training: stock PyTorch's norm is float32 then",
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.norm_kernel measures a CUDA device, and there is none here")
    how = (arguments.repeats, arguments.autocast)
    rows = [row for batch in BATCHES for shape in SHAPES for row in measure(batch, *shape, *how)]
    print(table(rows))
    if arguments.out:
        record = {
            "machine": torch.cuda.get_device_name(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
            "repeats": arguments.repeats, "autocast": arguments.autocast, "rows": rows,
        }  # fmt: skip
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

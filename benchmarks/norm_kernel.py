"""The fused norm kernel against PyTorch, on a CUDA device: microseconds, GB/s, share of a copy's.

    python -m benchmarks.norm_kernel [--autocast] [--repeats 21] [--out FILE.json]

silu(group_norm(x)) in bf16 at the shapes of the 35.7M network, batch 128 and 256, for NHWC and NCHW
inputs: stock PyTorch, torch.compile's kernels, ours (on NCHW with its copy to NHWC). A time is the
median, in turns, of CUDA events around CALLS calls, launched as in eager mode and replayed from a
CUDA graph, where the host's launches cost nothing. GB/s counts the least that must move, in bf16:
forward reads x and writes y, backward reads x and dy and writes dx. The kernels read x and dy
twice, the second time from L2 where they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import record
from benchmarks.speed.ceilings import FORMATS
from benchmarks.timing import Plan, Sample, Work, measure
from unnoise.networks.triton_norm import group_norm_silu

SHAPES = (
    (128, 32), (256, 32), (384, 32), (256, 16), (512, 16), (256, 8), (512, 8), (256, 4), (512, 4),
)  # fmt: skip
"""(channels, height = width): the blocks' inputs, with the skips concatenated on the way up."""
BATCHES = (128, 256)
GROUPS, EPS, CALLS = 32, 1e-6, 10
Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def stock(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, weight, bias, EPS))


def repeated(work: Work, autocast: bool = False) -> Work:
    """CALLS calls."""

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast, cache_enabled=False):
            for _ in range(CALLS):
                work()

    return run


def captured(run: Work) -> Work:
    """The same launches replayed from a CUDA graph, after a first run that compiles."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def medians(candidates: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of one call, by CUDA events around CALLS of them, after a warm-up."""

    def take(run: Work) -> Sample:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        ended.synchronize()
        return Sample(began.elapsed_time(ended) / 1000 / CALLS)

    takers = {name: lambda run=run: take(run) for name, run in candidates.items()}
    measure(takers, Plan(2, tries=1))
    return measure(takers, Plan(repeats, tries=1)).medians()


def works(x: Tensor, backward: bool, autocast: bool) -> dict[str, Work]:
    """One candidate per implementation and way of launching; `backward` is with the forward."""
    x = x.detach().requires_grad_(backward)
    dtype = torch.float32 if autocast else x.dtype
    weight, bias = (
        torch.randn(x.shape[1], device=x.device, dtype=dtype, requires_grad=backward)
        for _ in range(2)
    )
    torch._dynamo.reset()  # each shape compiled for itself
    functions: dict[str, Norm] = {
        "stock": stock,
        "compiled": torch.compile(stock, dynamic=False),
        "ours": lambda x, weight, bias: group_norm_silu(x, GROUPS, weight, bias, EPS),
    }
    candidates: dict[str, Work] = {}
    for name, function in functions.items():
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            dy = torch.randn_like(function(x, weight, bias))  # autocast's is float32

        def work(function: Norm = function, dy: Tensor = dy) -> object:
            y = function(x, weight, bias)
            return torch.autograd.grad(y, (x, weight, bias), dy) if backward else y

        run = repeated(work, autocast)
        candidates |= {name: run, f"{name}, graph": captured(run)}
    return candidates


def copy_bandwidth(numel: int, repeats: int) -> float:
    """GB per second, read and written, of y.copy_(x) of bf16 numbers from a CUDA graph."""
    x = torch.randn(numel, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    copy = captured(repeated(lambda: y.copy_(x)))
    return 4 * numel / medians({"copy": copy}, repeats)["copy"] / 1e9


def rows_of(shape: tuple[int, ...], repeats: int, autocast: bool) -> list[dict[str, Any]]:
    """One row per memory format, direction and candidate."""
    rows: list[dict[str, Any]] = []
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    copy = copy_bandwidth(x.numel(), repeats)
    for layout, memory_format in FORMATS.items():
        x = x.to(memory_format=memory_format)
        for what, backward in (("forward", False), ("forward+backward", True)):
            for name, sec in medians(works(x, backward, autocast), repeats).items():
                rate = 2 * x.numel() * (5 if backward else 2) / sec / 1e9
                rows.append({
                    "shape": "x".join(map(str, shape)), "layout": layout.upper(), "what": what,
                    "candidate": name, "us": 1e6 * sec, "gb_per_s": rate, "copy_gb_per_s": copy,
                    "of_copy": rate / copy,
                })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Microseconds and the share of the copy's bandwidth, by shape, layout and direction."""
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    cells: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        key = (row["shape"], row["layout"], row["what"])
        cells.setdefault(key, []).append(f"{row['us']:.0f} ({row['of_copy']:.0%})")
    lines = [(*key, *values) for key, values in cells.items()]
    return record.markdown(["shape", "layout", "", *names], lines)


def main() -> None:
    parser = record.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument(
        "--autocast", action="store_true", help="as in training, where stock is fp32"
    )
    flags = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("measures a CUDA device, and there is none here")
    how = {"repeats": flags.repeats, "autocast": flags.autocast}
    shapes = [(batch, channels, size, size) for batch in BATCHES for channels, size in SHAPES]
    rows = [row for shape in shapes for row in rows_of(shape, **how)]
    print(table(rows))
    origin = record.about("benchmarks.norm_kernel", torch.device("cuda"))
    record.write(flags.out, {**origin, **how, "rows": rows})


if __name__ == "__main__":
    main()

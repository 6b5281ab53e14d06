"""Which memory format, precision and attention kernel is fastest here: the measurements behind build.arithmetic.

    python benchmarks/kernels.py [--device cuda] [--repeats 7] [--out benchmarks/results/cpu.json]

The candidates of one comparison run interleaved (A B A B ..) on the same work, and the table gives medians and their ratio
to the first. Training steps are forward, backward and AdamW; forwards are without gradients.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from unnoise import build
from unnoise.networks.layers import attend
from unnoise.networks.unet import UNet
from unnoise.presets import named

NETWORKS = {  # preset: (image size, channels, batch on a CPU, batch on a GPU)
    "digits": (8, 1, 64, 64),
    "cifar10-small": (32, 3, 32, 256),
    "cifar10": (32, 3, 8, 128),
}
ATTENTION = {  # (batch, heads, tokens, channels per head)
    "cifar10 16x16": (8, 1, 256, 256),
    "iddpm 16x16": (8, 4, 256, 64),
    "cifar10-small 8x8": (32, 2, 64, 32),
    "digits 4x4": (64, 2, 16, 32),
}
Work = Callable[[], object]


def measure(candidates: dict[str, Work], device: torch.device, repeats: int) -> dict[str, float]:
    """Median milliseconds of each candidate, interleaved, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for work in candidates.values():
        work()
    for _ in range(repeats):
        for name, work in candidates.items():
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def network(preset: str, device: torch.device, channels_last: bool) -> UNet:
    size, channels, _, _ = NETWORKS[preset]
    net = build.network(named(preset), build.Shape(channels, size, size)).to(device)
    for p in (
        net.parameters()
    ):  # no zero-initialised layer: their gradients would be cheaper than real ones
        nn.init.normal_(p, std=0.02)
    return net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def steps(
    preset: str, device: torch.device, train: bool, dtypes: dict[str, torch.dtype]
) -> dict[str, Work]:
    """One candidate per precision and memory format."""
    size, channels, cpu_batch, gpu_batch = NETWORKS[preset]
    batch = gpu_batch if device.type == "cuda" else cpu_batch
    x, t = (
        torch.randn(batch, channels, size, size, device=device),
        torch.rand(batch, device=device) * 999,
    )
    candidates: dict[str, Work] = {}
    for name, dtype in dtypes.items():
        for channels_last in (False, True):
            net = network(preset, device, channels_last)
            optimizer = torch.optim.AdamW(net.parameters(), fused=True)
            autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

            def step(
                net: UNet = net,
                optimizer: torch.optim.AdamW = optimizer,
                autocast: torch.autocast = autocast,
            ):
                with autocast:
                    loss = (net(x, t).float() ** 2).mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            def forward(net: UNet = net, autocast: torch.autocast = autocast):
                with torch.inference_mode(), autocast:
                    net(x, t)

            candidates[f"{name} {'nhwc' if channels_last else 'nchw'}"] = step if train else forward
    return candidates


def attentions(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Work]:
    """SDPA and the plain formula, forward and backward."""
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))

    def plain() -> torch.Tensor:
        weights = torch.softmax(q @ k.transpose(-1, -2) * shape[-1] ** -0.5, dim=-1)
        return weights @ v

    kernels = {
        "sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v),
        "plain": plain,
        "ours": lambda: attend(q, k, v),
    }
    return {
        name: lambda kernel=kernel: kernel().float().sum().backward()
        for name, kernel in kernels.items()
    }


def projections(preset: str, device: torch.device) -> dict[str, Work]:
    """The time projection of all residual blocks: one matrix, or one per block."""
    _, _, cpu_batch, gpu_batch = NETWORKS[preset]
    net = network(preset, device, False)
    one = net.time_projection
    many = nn.ModuleList(nn.Linear(one.in_features, width) for width in net._embedding_widths).to(
        device
    )
    x = torch.randn(
        gpu_batch if device.type == "cuda" else cpu_batch, one.in_features, device=device
    )

    def batched() -> None:
        sum(part.sum() for part in one(x).split(net._embedding_widths, dim=1)).backward()

    def separate() -> None:
        sum(layer(x).sum() for layer in many).backward()

    return {"one matrix": batched, "one per block": separate}


def run(device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        dtypes["fp16"] = torch.float16
    results: dict[str, dict[str, float]] = {}
    for preset in NETWORKS:
        results[f"train step, {preset}"] = measure(
            steps(preset, device, True, dtypes), device, repeats
        )
        results[f"forward, {preset}"] = measure(
            steps(preset, device, False, dtypes), device, repeats
        )
        results[f"time projections, {preset}"] = measure(
            projections(preset, device), device, repeats * 5
        )
    for name, shape in ATTENTION.items():
        for kind, dtype in dtypes.items():
            results[f"attention {kind}, {name}"] = measure(
                attentions(device, shape, dtype), device, repeats * 3
            )
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown: milliseconds, the fastest in bold."""
    lines = ["| work | median ms |", "|---|---|"]
    for name, values in results.items():
        best = min(values.values())
        texts = {k: f"{k} {v:.0f}" if v >= 100 else f"{k} {v:.3g}" for k, v in values.items()}
        cells = (f"**{text}**" if values[k] == best else text for k, text in texts.items())
        lines.append(f"| {name} | {' · '.join(cells)} |")
    return "\n".join(lines)


def machine(device: torch.device) -> str:
    """The GPU's name, or the processor's and its widest instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return f"{found[1] if found else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    results = run(device, arguments.repeats)
    print(table(results))
    if arguments.out:
        record = {
            "machine": machine(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"), "repeats": arguments.repeats, "median_ms": results,
        }  # fmt: skip
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

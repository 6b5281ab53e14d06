"""What unnoise's own options bring on a GPU: compilation, norm, recorded calls, batch size.

    python -m benchmarks.gpu_options --out benchmarks/results/h100-options.json
    python -m benchmarks.gpu_options --device cpu --set '{"network.base_channels": 32}' --batch 4

Every option runs in a process of its own, which may fail; its figures are written when they are
there, and --minutes ends it all. Compilations go on side by side, measurements one by one. A
training step is that of the loop, on random images of CIFAR-10's shape; its gradients are compared
with those of the plain network in float32. Shares are of the fastest convolution or product that
was measured in the same run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import unnoise
from benchmarks import product, record
from benchmarks.speed import ceilings, flops
from benchmarks.timing import Plan, synchroniser
from unnoise import events
from unnoise.networks.kernels import GroupNorm
from unnoise.training.compiled import differing
from unnoise.training.run import Run

PRESET = "cifar10-speedrun"
CEILINGS = "ceilings"
TRAINING: dict[str, dict[str, Any]] = {
    "eager": {"train.compile": "off", "train.fused_norm": "off"},
    "eager, fused norm": {"train.compile": "off", "train.fused_norm": "on"},
    "compiled": {"train.compile": "on", "train.fused_norm": "off"},
    "compiled, fused norm": {"train.compile": "on", "train.fused_norm": "on"},
    "compiled, cudnn benchmark": {"train.compile": "on", "train.fused_norm": "off"},
}
"""In the order in which they are measured, for the case that the time ends before them."""
SAMPLING: dict[str, dict[str, Any]] = {
    "sample": {"train.fused_norm": "off"},
    "sample, fused norm": {"train.fused_norm": "on"},
}
AT_ONCE = {"cuda": (64, 128, 256, 512), "cpu": (2,)}
NFE, WARM, TURNS, STEPS = 10, 5, 5, {"cuda": 10, "cpu": 1}
STAND_IN = {"cpu": {"backend": "aot_eager"}}
"""Where compilation would take minutes, the same path without code generation."""


class Unfused(nn.Module):
    """A network with PyTorch's own group normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.norms = [m for m in network.modules() if isinstance(m, GroupNorm)]

    def forward(self, *inputs: Any) -> Any:
        fused = [norm.triton for norm in self.norms]
        for norm in self.norms:
            norm.triton = False
        out = self.network(*inputs)
        for norm, flag in zip(self.norms, fused, strict=True):
            norm.triton = flag
        return out


@contextmanager
def alone() -> Iterator[None]:
    """One process at a time."""
    with open(os.environ["UNNOISE_LOCK"], "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def flop_per_image(run: Run) -> int:
    """Floating-point operations of the network, forward."""
    shape, device = run.shape, run.arithmetic.device
    x = torch.zeros(1, shape.channels, shape.height, shape.width, device=device)
    label = torch.zeros(1, dtype=torch.long, device=device) if shape.num_classes else None
    network, time_ = run.diffusion.network, torch.ones(1, device=device)
    plain = getattr(network, "_orig_mod", network)
    return flops.total(flops.count(lambda: plain(x, time_, label)))


def training(name: str, config: unnoise.RunConfig) -> dict[str, Any]:
    """Speed and memory of an option's training step, and gradients that are wrong."""
    said: list[str] = []
    began = time.monotonic()
    with events.listening(lambda event: said.append(str(event))):
        run, state = product.prepared(config, product.random_data(2048, classes=10))
    found: dict[str, Any] = {"prepare_sec": time.monotonic() - began, "said": said}
    device = run.arithmetic.device
    cuda, count = device.type == "cuda", STEPS[device.type]
    if "fused" in name:
        plain, size = Unfused(state.network), min(64, config.train.batch_size)
        found["wrong"] = differing(state.network, plain, run.shape, size, run.arithmetic)
    wait, step = synchroniser(device), product.stepper(run, state)
    if cuda:  # other options are being measured meanwhile
        torch.cuda.empty_cache()
    with alone():
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):
            step()
        turns, hosts = [], []
        for _ in range(TURNS):  # the median: others may just be starting
            wait()
            began = time.monotonic()
            for _ in range(count):
                step()
            hosts.append((time.monotonic() - began) / count)
            wait()
            turns.append((time.monotonic() - began) / count)
        sec, host = statistics.median(turns), statistics.median(hosts)
    images = config.train.batch_size / sec
    return found | {
        "images_per_sec": images, "step_sec": sec, "host_share": host / sec,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "flop_per_sec": images * flops.TRAINING_PASSES * flop_per_image(run),
        "compiled": run.arithmetic.compile, "micro_batch": state.micro_batch,
    }  # fmt: skip


def sampling(config: unnoise.RunConfig) -> dict[str, Any]:
    """Images per second by images at once, with and without recorded calls."""
    run, state = product.prepared(
        unnoise.override(config, {"train.compile": "off"}), product.random_data(64, classes=10)
    )
    model, device = run.model(state.ema, state.counters), run.arithmetic.device
    wait, found = synchroniser(device), dict[str, Any]()
    for graphs in (False, True) if device.type == "cuda" else (False,):
        for count in AT_ONCE[device.type]:

            def draw(count: int = count, graphs: bool = graphs) -> object:
                how: dict[str, Any] = {"sampler": "ddim", "steps": NFE, "cuda_graphs": graphs}
                return model.sample(count, batch_size=count, guidance_scale=1.0, **how)

            draw()
            with alone():
                wait()
                began = time.monotonic()
                for _ in range(3):
                    draw()
                wait()
                sec = (time.monotonic() - began) / 3
            name = f"{count} at once{', recorded' * graphs}"
            found[name] = {
                "images_per_sec": count / sec,
                "flop_per_sec": count / sec * NFE * flop_per_image(run),
            }  # fmt: skip
    return found


def limits(device: torch.device) -> dict[str, Any]:
    """The fastest convolutions and products in bf16, and a copy of memory."""
    plan, scale = Plan(rounds=3, tries=1), 1.0 if device.type == "cuda" else 0.05
    works = {
        "convolution": ceilings.convolutions(device, "bf16", scale),
        "matmul": ceilings.matmuls(device, "bf16", scale),
        "memory": ceilings.streams(device, max(1 << 16, int((1 << 28) * scale))),
    }
    with alone():
        return {name: ceilings.rates(each, device, plan) for name, each in works.items()}


def child(name: str, flags: argparse.Namespace) -> None:
    """One option; the last line is its result."""
    device = torch.device(flags.device)
    if device.type in STAND_IN:
        real: Callable[..., Any] = torch.compile
        torch.compile = lambda network, **_: real(network, **STAND_IN[device.type])
    torch.backends.cudnn.benchmark = "cudnn" in name
    if name == CEILINGS:
        found = limits(device)
    else:
        changes = {**TRAINING, **SAMPLING}[name]
        base = {"device": flags.device, "network.dropout": 0.0, "train.batch_size": flags.batch}
        config = unnoise.preset(PRESET, {**base, **changes, **flags.set})
        found = training(name, config) if name in TRAINING else sampling(config)
    print("\n" + json.dumps(found), flush=True)


def start(name: str) -> subprocess.Popen[str]:
    """The same command for one option."""
    command = [sys.executable, "-m", "benchmarks.gpu_options", "--only", name, *sys.argv[1:]]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=record.ROOT
    )


def ended(process: subprocess.Popen[str], ends: float) -> dict[str, Any]:
    """What a process found, or the end of what it said."""
    try:
        text = process.communicate(timeout=max(1.0, ends - time.monotonic()))[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return {"error": "out of time: " + process.communicate()[0][-1500:]}
    if process.returncode:
        return {"error": text[-1500:]}
    return json.loads(text.splitlines()[-1])


def table(result: dict[str, Any]) -> str:
    """A row per option."""
    options, rows = result["options"], list[tuple[str, ...]]()
    limits = options.get(CEILINGS, {})
    rates = [limits[kind].values() for kind in ("convolution", "matmul") if kind in limits]
    peak = max((rate for each in rates for rate in each), default=float("nan"))

    def row(name: str, one: dict[str, Any]) -> None:
        rate = f"{one['images_per_sec']:,.0f}"
        memory = f"{one['peak_bytes'] / 2**30:.1f}" if "peak_bytes" in one else ""
        rows.append((name, rate, record.share(one["flop_per_sec"] / peak), memory))

    for name in (name for name in (*TRAINING, *SAMPLING) if name in options):
        found = options[name]
        if "error" in found:
            rows.append((name, "failed", "", ""))
        elif name in TRAINING:
            row(name + (", wrong gradients" if found.get("wrong") else ""), found)
        else:
            for how, one in found.items():
                row(f"{name}, {how}", one)
    return record.markdown(["", "images/s", "of the peak", "peak GiB"], rows)


def main() -> None:
    parser = record.flags(__doc__)
    add = parser.add_argument
    add("--device", default="cuda")
    add("--batch", type=int, default=256)
    add("--minutes", type=float, default=3.0)
    add("--set", type=json.loads, default={}, metavar="JSON", help="changes of the preset")
    add("--options", nargs="+", default=[CEILINGS, *TRAINING, *SAMPLING])
    add("--only", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.only:
        child(flags.only, flags)
        return
    began = time.monotonic()
    ends = began + 60 * flags.minutes
    os.environ.setdefault("UNNOISE_LOCK", str(Path(tempfile.mkdtemp()) / "lock"))
    result = record.about("benchmarks.gpu_options", torch.device(flags.device))
    result |= {"preset": PRESET, "batch": flags.batch, "set": flags.set, "options": {}}
    ahead = {name: start(name) for name in flags.options if "compiled" in name}
    for name in flags.options:
        result["options"][name] = ended(ahead.get(name) or start(name), ends)
        record.write(flags.out, result)
        print(f"{time.monotonic() - began:.0f} s: {name}: {result['options'][name]}", flush=True)
    print(table(result))


if __name__ == "__main__":
    main()

"""What unnoise's own options bring on a GPU: compilation, images at once.

    python -m benchmarks.gpu_options --out benchmarks/results/h100-options.json
    python -m benchmarks.gpu_options --device cpu --set '{"network.base_channels": 32}' --batch 4

Every option runs in a process of its own, one after the other, which may fail; its figures are
written when they are there, and --minutes ends it all. A training step is that of the loop, on
random images of CIFAR-10's shape; a compiled network's gradients are compared with the plain one's
(unnoise.training.compiled). Shares are of the fastest convolution or product that was measured in
the same run.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import unnoise
from benchmarks import product, record
from benchmarks.speed import ceilings, flops
from benchmarks.timing import Plan, synchroniser
from unnoise import events
from unnoise.networks.config import Shape

PRESET = "cifar10-speedrun"
CEILINGS = "ceilings"
TRAINING: dict[str, dict[str, Any]] = {
    "eager": {"train.compile": "off"},
    "compiled": {"train.compile": "on"},
    "compiled, cudnn benchmark": {"train.compile": "on"},
}
SAMPLING = {"sample": {}, "sample, cudnn benchmark": {}, "sample, compiled": {}}
ORDER = ("ceilings", "eager", "compiled", "sample", "compiled, cudnn benchmark", *SAMPLING)
"""What matters most first, for the case that the time ends before the others."""
AT_ONCE = {"cuda": (512, 64, 256), "cpu": (2,)}
NFE, WARM, TURNS, STEPS = 10, 5, 5, {"cuda": 10, "cpu": 1}
STAND_IN = {"cpu": {"backend": "aot_eager"}}
"""Where compilation would take minutes, the same path without code generation."""


def flop_per_image(network: nn.Module, shape: Shape, device: torch.device) -> int:
    """Floating-point operations of a network, forward."""
    x = torch.zeros(1, shape.channels, shape.height, shape.width, device=device)
    label = torch.zeros(1, dtype=torch.long, device=device) if shape.num_classes else None
    time_ = torch.ones(1, device=device)
    return flops.total(flops.count(lambda: network(x, time_, label)))


def training(config: unnoise.RunConfig) -> dict[str, Any]:
    """Speed and memory of a training step, and the host's share of its time."""
    said: list[str] = []
    began = time.monotonic()
    with events.listening(lambda event: said.append(str(event))):
        run, state = product.prepared(config, product.random_data(2048, classes=10))
    found: dict[str, Any] = {"prepare_sec": time.monotonic() - began, "said": said}
    device = run.arithmetic.device
    cuda, count = device.type == "cuda", STEPS[device.type]
    wait, step = synchroniser(device), product.stepper(run, state)
    for _ in range(WARM):
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    turns, hosts = [], []
    for _ in range(TURNS):
        wait()
        began = time.monotonic()
        for _ in range(count):
            step()
        hosts.append((time.monotonic() - began) / count)
        wait()
        turns.append((time.monotonic() - began) / count)
    sec, host = statistics.median(turns), statistics.median(hosts)
    images = config.train.batch_size / sec
    flop = flops.TRAINING_PASSES * flop_per_image(state.network, run.shape, device)
    return found | {
        "images_per_sec": images, "step_sec": sec, "host_share": host / sec,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "flop_per_sec": images * flop,
        "compiled": run.arithmetic.compile, "micro_batch": state.micro_batch,
    }  # fmt: skip


def sampling(config: unnoise.RunConfig, compiled: bool) -> dict[str, Any]:
    """Images per second by images at once."""
    config = unnoise.override(config, {"train.compile": "off"})
    run, state = product.prepared(config, product.random_data(64, classes=10))
    model, device = run.model(state.ema, state.counters), run.arithmetic.device
    if compiled:
        vars(model)["_rounded"] = torch.compile(model._rounded)  # the cached property
    flop = NFE * flop_per_image(state.network, run.shape, device)
    wait, found = synchroniser(device), dict[str, Any]()
    how: dict[str, Any] = {"sampler": "ddim", "steps": NFE, "guidance_scale": 1.0}
    for count in AT_ONCE[device.type]:
        draw = functools.partial(model.sample, count, batch_size=count, **how)
        draw()
        wait()
        began = time.monotonic()
        for _ in range(3):
            draw()
        wait()
        rate = 3 * count / (time.monotonic() - began)
        found[f"{count} at once"] = {"images_per_sec": rate, "flop_per_sec": rate * flop}
    return found


def limits(device: torch.device) -> dict[str, Any]:
    """The fastest convolutions and products in bf16, and a copy of memory."""
    plan, scale = Plan(rounds=3, tries=1), 1.0 if device.type == "cuda" else 0.05
    works = {
        "convolution": ceilings.convolutions(device, "bf16", scale),
        "matmul": ceilings.matmuls(device, "bf16", scale),
        "memory": ceilings.streams(device, max(1 << 16, int((1 << 28) * scale))),
    }
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
        found = training(config) if name in TRAINING else sampling(config, "compiled" in name)
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
            row(name, found)
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
    add("--options", nargs="+", default=[*dict.fromkeys(ORDER)])
    add("--only", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.only:
        child(flags.only, flags)
        return
    began = time.monotonic()
    ends = began + 60 * flags.minutes
    result = record.about("benchmarks.gpu_options", torch.device(flags.device))
    result |= {"preset": PRESET, "batch": flags.batch, "set": flags.set, "options": {}}
    for name in flags.options:
        result["options"][name] = ended(start(name), ends)
        record.write(flags.out, result)
        print(f"{time.monotonic() - began:.0f} s: {name}: {result['options'][name]}", flush=True)
    print(table(result))


if __name__ == "__main__":
    main()

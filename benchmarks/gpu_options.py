"""What each of unnoise's own options brings on a GPU: compilation, the fused norm, the memory format, recorded calls.

    python -m benchmarks.gpu_options --out benchmarks/results/h200-options.json
    python -m benchmarks.gpu_options --device cpu --base-channels 32 --batch 4 --rounds 1      # a rehearsal

The `cifar10` network and the training step of the loop; 64 images with 20 network calls of `Model.sample`. All take turns; images
per second are of the median, memory is the most of one turn. Shares are of the convolution peak measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels import machine
from benchmarks.speed import ceilings
from benchmarks.speed.ceilings import synchroniser
from benchmarks.speed.interleave import Plan
from benchmarks.speed.subjects import ours
from benchmarks.speed.subjects.subject import Setting, wake
from unnoise.config import override
from unnoise.training.run import prepare

FORWARD_FLOP = 12.444e9
"""Per image of the cifar10 network."""
TRAINING: dict[str, dict[str, str]] = {
    "compiled": {"train.compile": "on"},
    "compiled, fused norm": {"train.compile": "on", "train.fused_norm": "on"},
    "eager": {"train.compile": "off"},
    "eager, fused norm": {"train.compile": "off", "train.fused_norm": "on"},
    "eager, nchw": {"train.compile": "off", "train.channels_last": "off"},
    "eager, fp16": {"train.compile": "off", "train.precision": "fp16"},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "recorded": {"cuda_graphs": True},
}
COUNT, NFE = 64, 20


def works(setting: Setting, folder: Path) -> dict[str, Callable[[], object]]:
    """One turn of each option."""
    cuda, found = setting.torch_device.type == "cuda", {}
    for name, changes in TRAINING.items():
        if not cuda and any(word in name for word in ("compiled", "fused", "fp16")):
            continue
        config = override(ours.config(setting, "bf16", True), changes)
        run = prepare(config, ours.images(), folder / name)
        wake(run.state.network)
        found[f"train, {name}"] = ours.stepper(run)
        model = run.model(run.state.ema)
        if name in ("eager", "eager, fused norm"):
            for how, options in SAMPLING.items():
                if "cuda_graphs" in options and not cuda:
                    continue
                found[f"sample, {name.removeprefix('eager, ')}, {how}"] = (
                    lambda model=model, options=options: model.sample(
                        COUNT if cuda else 2, sampler="ddim", steps=NFE, batch_size=COUNT, **options
                    )
                )
    return found


def measure(
    candidates: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, dict[str, float]]:
    """Median seconds and the most memory of each."""
    synchronise = synchroniser(device)
    took: dict[str, list[float]] = {name: [] for name in candidates}
    peaks = dict.fromkeys(candidates, 0)
    for work in candidates.values():
        for _ in range(3):
            work()
    for _ in range(rounds):
        for name, work in candidates.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            synchronise()
            began = time.perf_counter()
            for _ in range(1 if name.startswith("sample") else 5):
                work()
            synchronise()
            took[name].append(
                (time.perf_counter() - began) / (1 if name.startswith("sample") else 5)
            )
            peaks[name] = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        name: {"sec": statistics.median(took[name]), "peak_bytes": peaks[name]}
        for name in candidates
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| | images/s | of the convolution peak | peak GB |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['images_per_sec']:.0f} | {row['share']:.1%} | {row['peak_bytes'] / 2**30:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--base-channels", type=int, default=128)
    parser.add_argument("--work", type=Path, default=Path("runs/gpu-options"))
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    setting = Setting(
        "unnoise", device=flags.device, batch=flags.batch, base_channels=flags.base_channels
    )
    device = setting.torch_device
    scale = flags.base_channels / 128
    peak = ceilings.ceiling(
        ceilings.measured(device, Plan(5, 1), scale), "bf16"
    ).convolution_flop_per_sec
    rows = measure(works(setting, flags.work), device, flags.rounds)
    for name, row in rows.items():
        images, flop = (
            (flags.batch, 3)
            if name.startswith("train")
            else ((COUNT if device.type == "cuda" else 2), NFE)
        )
        row["images_per_sec"] = images / row["sec"]
        row["share"] = images * flop * FORWARD_FLOP * scale**2 / row["sec"] / peak
    print(table(rows))
    if flags.out:
        record = {"machine": machine(device), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "batch": flags.batch,
                  "convolution_flop_per_sec": peak, "rows": rows}  # fmt: skip
        flags.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What unnoise's own options bring on a GPU: compilation, norm, memory format, recorded calls.

    python -m benchmarks.gpu_options --out benchmarks/results/h200-options.json
    python -m benchmarks.gpu_options --device cpu --base-channels 32 --batch 4 --rounds 1   # to try

The `cifar10` network and the training step of the loop; 64 images with 20 network calls of
`Model.sample`. All take turns; images per second are of the median, memory is the most of one turn.
Shares are of the convolution peak measured in the same run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

import unnoise
from benchmarks import product, record
from benchmarks.speed import ceilings, ours
from benchmarks.speed.flops import TRAINING_PASSES
from benchmarks.speed.subject import OURS, Setting, wake
from benchmarks.timing import Plan, Sample, Work, measure, synchroniser, take

FORWARD_FLOP = 12.444e9
"""Floating-point operations of the cifar10 network, forward, for one image."""
TRAINING: dict[str, dict[str, str]] = {
    "compiled": {"train.compile": "on"},
    "compiled, fused norm": {"train.compile": "on", "train.fused_norm": "on"},
    "eager": {"train.compile": "off"},
    "eager, fused norm": {"train.compile": "off", "train.fused_norm": "on"},
    "eager, nchw": {"train.compile": "off", "train.channels_last": "off"},
    "eager, fp16": {"train.compile": "off", "train.precision": "fp16"},
}
SAMPLING: dict[str, dict[str, Any]] = {"plain": {}, "recorded": {"cuda_graphs": True}}
ONLY_CUDA = ("compiled", "fused", "fp16", "recorded")
COUNT, NFE, STEPS = 64, 20, 5


def works(setting: Setting) -> dict[str, Work]:
    """One turn of each option."""
    found: dict[str, Work] = {}
    count = COUNT if setting.device == "cuda" else 2
    for name, changes in TRAINING.items():
        if setting.device != "cuda" and any(word in name for word in ONLY_CUDA):
            continue
        config = unnoise.override(ours.config(setting, "bf16", True), changes)
        run, state = product.prepared(config, product.random_data())
        wake(state.network)
        found[f"train, {name}"] = product.stepper(run, state)
        if name not in ("eager", "eager, fused norm"):
            continue
        model = run.model(state.ema, state.counters)
        for how, options in SAMPLING.items():
            if setting.device == "cuda" or how not in ONLY_CUDA:
                options = {"sampler": "ddim", "steps": NFE, "batch_size": COUNT, **options}
                draw = functools.partial(model.sample, count, **options)
                found[f"sample, {name.removeprefix('eager, ')}, {how}"] = draw
    return found


def measured(found: dict[str, Work], setting: Setting, rounds: int, peak: float) -> list[Any]:
    """Images per second, share of the peak and the most memory of each."""
    device, peaks = setting.torch_device, dict.fromkeys(found, 0)
    cuda, wait = device.type == "cuda", synchroniser(device)

    def turn(name: str) -> Sample:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        sample = take(found[name], wait, 1 if name.startswith("sample") else STEPS)
        peaks[name] = torch.cuda.max_memory_allocated() if cuda else 0
        return sample

    for work in found.values():
        for _ in range(3):
            work()
    takers = {name: lambda name=name: turn(name) for name in found}
    rows, scale = [], setting.base_channels / Setting.base_channels
    for name, sec in measure(takers, Plan(rounds, tries=1)).medians().items():
        training = name.startswith("train")
        images = setting.batch if training else COUNT if cuda else 2
        flop = images * (TRAINING_PASSES if training else NFE) * FORWARD_FLOP * scale**2
        rows.append({
            "option": name, "sec": sec, "peak_bytes": peaks[name], "images_per_sec": images / sec,
            "share": flop / sec / peak,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = record.flags(__doc__)
    parser.add_argument("--device", default="cuda")
    for name, default in (("--batch", 256), ("--rounds", 7), ("--base-channels", 128)):
        parser.add_argument(name, type=int, default=default)
    flags = parser.parse_args()
    setting = Setting(
        OURS, device=flags.device, batch=flags.batch, base_channels=flags.base_channels
    )
    scale, device = flags.base_channels / Setting.base_channels, setting.torch_device
    limits = ceilings.measured(device, Plan(5, 1), scale)
    peak = ceilings.ceiling(limits, "bf16").convolution_flop_per_sec
    rows = measured(works(setting), setting, flags.rounds, peak)
    cells = [
        (row["option"], f"{row['images_per_sec']:.0f}", f"{row['share']:.1%}",
         f"{row['peak_bytes'] / 2**30:.1f}")
        for row in rows
    ]  # fmt: skip
    print(record.markdown(["", "images/s", "of the convolution peak", "peak GB"], cells))
    result = {"batch": flags.batch, "convolution_flop_per_sec": peak, "rows": rows}
    record.write(flags.out, record.about("benchmarks.gpu_options", device) | result)


if __name__ == "__main__":
    main()

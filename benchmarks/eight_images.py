"""How long 8 images of 32x32 take with the 35.7M network of `cifar10`, by sampler: the question of the project we started from.

    python -m benchmarks.eight_images [--repeats 3] [--skip-ddpm]

Weights do not matter for the time, so the network is untrained. Medians, after one warm-up run of 2 steps.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import unnoise
from unnoise import build
from unnoise.config import to_dict
from unnoise.model import Model

SETTINGS = {
    "unipc_2, 10 evaluations": {"sampler": "unipc_2", "steps": 10},
    "unipc_2, 20 evaluations": {"sampler": "unipc_2", "steps": 20},
    "ddim, 50 evaluations": {"sampler": "ddim", "steps": 50},
    "ddpm, 1,000 evaluations": {"sampler": "ddpm", "steps": 1000},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-ddpm", action="store_true")
    arguments = parser.parse_args()
    config = unnoise.preset("cifar10")
    shape = build.Shape(3, 32, 32)
    model = Model(build.network(config, shape), config, {"shape": to_dict(shape)})
    where = model.arithmetic
    print(f"{where.device}, {where.dtype}, {torch.get_num_threads()} threads")
    model.sample(8, steps=2)
    for name, settings in SETTINGS.items():
        slow = settings["steps"] == 1000
        if slow and arguments.skip_ddpm:
            continue
        times = []
        for _ in range(1 if slow else arguments.repeats):
            began = time.monotonic()
            model.sample(8, **settings)
            times.append(time.monotonic() - began)
        print(f"{name}: {statistics.median(times):.2f} s", flush=True)


if __name__ == "__main__":
    main()

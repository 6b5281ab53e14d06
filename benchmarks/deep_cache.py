"""What keeping deep features between steps costs in accuracy and gains in time, beside simply fewer steps.

    python -m benchmarks.deep_cache [digits|RUN ...] [--out benchmarks/results/deep-cache.json]

Error: rms pixel difference (pixels in 0..1) of 32 pictures to 1,000 steps of DPM-Solver++ 3M from the same seeds. Time: of one network
call of the pictures' batch, cached over full, interleaved; a walk's cost is counted in full calls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unnoise
from benchmarks.samplers import rms
from unnoise.config import SampleConfig
from unnoise.model import Model, last
from unnoise.networks.sampling import DeepCache

SEEDS = range(32)
STEPS, INTERVALS = (10, 20, 30, 50), (1, 2, 3, 5)
SAMPLERS = ("ddim", "unipc_2")


def pictures(model: Model, settings: SampleConfig) -> Tensor:
    """Final x in [-1, 1]."""
    denoiser = model.denoiser(model.labels(SEEDS, None), settings)
    walk = model.walk(denoiser, model.grid(settings), model.noise(SEEDS), settings)
    return last(walk).x.clamp(-1, 1).cpu()


def cached_cost(model: Model, rounds: int = 15) -> float:
    """Time of a call that takes the deep features from before, over a full one."""
    x, times = model.noise(SEEDS).normal(), torch.full((len(SEEDS),), 500.0)
    labels, plain = model.labels(SEEDS, None), model.fast(model.settings(deep_cache=1)).network
    kept = DeepCache(plain, 10**9)
    took: dict[str, list[float]] = {"full": [], "cached": []}
    with torch.inference_mode(), model.arithmetic.autocast():
        kept(x, times, labels)
        for _ in range(rounds):
            for name, call in (("full", plain), ("cached", kept)):
                began = time.perf_counter()
                call(x, times, labels)
                took[name].append(time.perf_counter() - began)
    return statistics.median(took["cached"]) / statistics.median(took["full"])


def measure(name: str) -> dict[str, Any]:
    model = unnoise.load(name, "cpu")
    plain = replace(model.settings(guidance_scale=1.0), noises=())
    reference = pictures(model, replace(plain, sampler="dpmpp_3m", steps=1000, spacing="log_snr"))
    cost, rows = cached_cost(model), []
    for sampler in SAMPLERS:
        for steps in STEPS:
            for interval in INTERVALS:
                spacing = "trailing" if sampler == "ddim" else "log_snr"
                chosen = replace(
                    plain, sampler=sampler, steps=steps, spacing=spacing, deep_cache=interval
                )
                full = -(-steps // interval)
                rows.append({
                    "sampler": sampler, "steps": steps, "deep_cache": interval, "error": rms(pictures(model, chosen), reference),
                    "calls": full + cost * (steps - full),
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
    return {"model": model.weights_hash, "name": Path(name).stem, "cached_call": cost, "rows": rows}


def table(results: list[dict[str, Any]]) -> str:
    """Error and, in brackets, the cost in full calls."""
    lines = [
        "| model | sampler | steps | " + " | ".join(f"every {n}" for n in INTERVALS) + " |",
        "|---" * (3 + len(INTERVALS)) + "|",
    ]
    for result in results:
        for sampler in SAMPLERS:
            for steps in STEPS:
                rows = [
                    row
                    for row in result["rows"]
                    if (row["sampler"], row["steps"]) == (sampler, steps)
                ]
                cells = " | ".join(f"{row['error']:.4f} ({row['calls']:.1f})" for row in rows)
                lines.append(f"| {result['name']} | {sampler} | {steps} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["digits"])
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    results = [measure(name) for name in flags.models]
    print(table(results))
    if flags.out:
        flags.out.write_text(
            json.dumps(
                {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "results": results},
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()

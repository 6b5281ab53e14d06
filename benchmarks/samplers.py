"""Solvers at few evaluations: distance from the exact solution, and from the data.

    python -m benchmarks.samplers RUN|FILE --out results.json [--resnet56 WEIGHTS] [--samples 1000] [--data-path PATH]

For every solver and budget of denoiser evaluations, on the spacing of the registry that suits it best there (chosen on 16
other seeds), and for the tuned settings that the model carries (`unnoise tune-sampler` first):

- error: rms pixel difference (pixels in 0..1) to a reference of 1,000 steps from the same seeds;
- Fréchet distance of samples to all training images, on the pixels themselves or on ResNet-56 features: it is no FID.

A line is printed as soon as it is measured, and a run that was cut off goes on from its file. Without --out the first word is
such a file, and its table is printed.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unnoise
from benchmarks.resnet56 import ResNet56
from unnoise.config import SampleConfig
from unnoise.data.dataset import load
from unnoise.data.images import from_model
from unnoise.diffusion import grids
from unnoise.diffusion.samplers import STOCHASTIC, steps_within
from unnoise.evaluation.frechet import frechet_distance, moments

SOLVERS = (
    "ddim",
    "heun",
    "dpmpp_2m",
    "dpmpp_3m",
    "unipc_2",
    "unipc_3",
    "ipndm",
    "dpmpp_2m_sde",
    "ddpm",
)
BUDGETS = (5, 8, 10, 15, 20, 50)
BATCH = 128


class Bench:
    """A model, its reference pictures and the moments of the data."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.model = unnoise.load(arguments.model)
        self.plain = replace(
            self.model.settings(guidance_scale=arguments.guidance_scale), noises=()
        )
        self.judge = ResNet56(arguments.resnet56) if arguments.resnet56 else None
        self.samples, self.compared = arguments.samples, min(arguments.reference, arguments.samples)
        data = load(replace(self.model.config.data, path=arguments.data_path))
        self.data = moments(self.features(torch.from_numpy(data.images[: data.num_train].copy())))
        held_out = torch.from_numpy(data.images[data.num_train :].copy())
        self.floor = frechet_distance(*moments(self.features(held_out)), *self.data)
        exact = replace(self.plain, sampler="dpmpp_3m", steps=1000, spacing="log_snr")
        self.reference = self.run(exact, range(self.compared))
        self.choosing = self.run(replace(exact, steps=200), range(90_000, 90_016))

    def features(self, images: Tensor) -> Tensor:
        return (
            images.flatten(1).float() / 255 if self.judge is None else self.judge.features(images)
        )

    def run(self, settings: SampleConfig, seeds: range) -> Tensor:
        """Final x in [-1, 1] of some seeds."""
        model, parts = self.model, []
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]
            denoiser = model.denoiser(model.labels(part, None), settings)
            steps = model.walk(denoiser, model.grid(settings), model.noise(part), settings)
            parts.append(deque(steps, maxlen=1).pop().x.clamp(-1, 1).cpu())
        return torch.cat(parts)

    def best_spacing(self, solver: str, steps: int) -> SampleConfig:
        """Trailing for the stochastic ones, which have no exact solution to compare with."""
        settings = replace(self.plain, sampler=solver, steps=steps, spacing="trailing")
        if solver in STOCHASTIC:
            return settings
        candidates = [replace(settings, spacing=name) for name in grids.SPACINGS]
        return min(candidates, key=lambda s: rms(self.run(s, range(90_000, 90_016)), self.choosing))

    def row(self, settings: SampleConfig, name: str, budget: int) -> dict[str, Any]:
        x = self.run(settings, range(self.samples))
        distance = frechet_distance(*moments(self.features(from_model(x))), *self.data)
        error = None if settings.sampler in STOCHASTIC else rms(x[: self.compared], self.reference)
        return {
            "solver": name, "evaluations": budget, "sampler": settings.sampler, "steps": settings.steps,
            "spacing": "tuned" if settings.noises else settings.spacing, "error": error, "frechet": distance,
        }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The rows as a table: error and Fréchet distance by solver and evaluations; the best error of each column in bold."""
    budgets = sorted({row["evaluations"] for row in result["rows"]})
    cells = {(row["solver"], row["evaluations"]): row for row in result["rows"]}
    lines = [
        "| solver | " + " | ".join(map(str, budgets)) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for solver in dict.fromkeys(row["solver"] for row in result["rows"]):
        parts = []
        for budget in budgets:
            row = cells.get((solver, budget))
            errors = [
                r["error"]
                for r in result["rows"]
                if r["evaluations"] == budget and r["error"] is not None
            ]
            if row is None:
                parts.append("")
            elif row["error"] is None:
                parts.append(f"- · {row['frechet']:.3g}")
            else:
                text = f"{row['error']:.4f}"
                parts.append(
                    f"{f'**{text}**' if row['error'] == min(errors) else text} · {row['frechet']:.3g}"
                )
        lines.append(f"| {solver} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def rms(a: Tensor, b: Tensor) -> float:
    """Root mean square difference of pixels in 0..1."""
    return float((a - b).double().pow(2).mean() ** 0.5) / 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resnet56")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--reference", type=int, default=128)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--data-path")
    parser.add_argument("--solvers", nargs="+", default=SOLVERS)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    arguments = parser.parse_args()
    if arguments.out is None:
        print(table(json.loads(Path(arguments.model).read_text())))
        return
    bench = Bench(arguments)
    result: dict[str, Any] = (
        json.loads(arguments.out.read_text()) if arguments.out.exists() else {"rows": []}
    )
    result |= {
        "model": bench.model.weights_hash,
        "features": "resnet56" if arguments.resnet56 else "pixels",
    }
    result |= {
        "samples": bench.samples,
        "compared": bench.compared,
        "guidance_scale": arguments.guidance_scale,
    }
    result["held_out"] = bench.floor
    done = {(row["solver"], row["evaluations"]) for row in result["rows"]}
    for budget in arguments.budgets:
        for solver in (*arguments.solvers, "tuned"):
            tuned = bench.model.tuned.get(f"nfe_{budget}")
            if (solver, budget) in done or (solver == "tuned" and tuned is None):
                continue
            if solver == "tuned":
                settings = bench.model.settings(
                    sampler=f"nfe_{budget}", guidance_scale=arguments.guidance_scale
                )
            else:
                settings = bench.best_spacing(solver, steps_within(solver, budget))
            result["rows"].append(bench.row(settings, solver, budget))
            print(json.dumps(result["rows"][-1]), flush=True)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

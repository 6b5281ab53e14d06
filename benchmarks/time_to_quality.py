"""Which recipe is best after a given time: the study behind the presets `digits` and `cifar10-small`.

    python -m benchmarks.time_to_quality digits --out benchmarks/results/time-to-quality-digits.json
    python -m benchmarks.time_to_quality cifar10-small --data-path CIFAR --resnet56 FILE --out ..
    python -m benchmarks.time_to_quality benchmarks/results/time-to-quality-digits.json     # the table again

Every variant changes one thing of the recipe it starts from. First the speed of all is measured, interleaved; then each is trained
for as many images as it gets through in the study's time at that speed, so that what else the machine does meanwhile changes
nothing; with three seeds. The quality is the Fréchet distance of unguided samples (UniPC-2, 30 even steps in log-SNR, 15 for CIFAR-10) to all
training images, on the features of the built-in digit classifier or of a CIFAR-10 ResNet-56. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unnoise
from benchmarks.kernels import machine
from benchmarks.overhead import bare
from benchmarks.resnet56 import ResNet56
from unnoise.config import RunConfig, override
from unnoise.data.batches import Batches
from unnoise.evaluation.extractors import extractor
from unnoise.evaluation.frechet import frechet_distance, moments
from unnoise.training.run import prepare

Changes = dict[str, Any]
BEFORE: dict[str, Changes] = {
    "digits": {"train.optimizer": "adamw", "train.lr": 2e-3, "train.precision": "fp32"},
    "cifar10-small": {"objective": "v", "train.optimizer": "adamw", "train.lr": 1e-3},
}
"""What the presets were; they are now the best of what was found."""
FIRST = "as it was"
DIT: Changes = {"network.kind": "dit"}
COMMON: dict[str, Changes] = {
    FIRST: {},
    "edm": {"objective": "edm"},
    "flow": {"objective": "flow"},
    "eps, cosine": {"diffusion.parameterization": "eps"},
    "half the learning rate": {"train.lr": 0.5},
    "twice the learning rate": {"train.lr": 2.0},
    "half the batch": {"train.batch_size": 0.5},
    "twice the batch": {"train.batch_size": 2.0},
    "1.5 x the channels": {"network.base_channels": 1.5},
    "linear to zero": {"train.lr_schedule": "linear"},
    "linear over the last 40 %": {"train.lr_schedule": "linear", "train.lr_decay": 0.4},
    "muon": {"train.optimizer": "muon"},
    "muon, twice the rate": {"train.optimizer": "muon", "train.lr": 2.0},
    "bf16": {"train.precision": "bf16"},
    "bf16, twice the rate": {"train.precision": "bf16", "train.lr": 2.0},
    "bf16, flow": {"train.precision": "bf16", "objective": "flow"},
    "bf16, muon, twice the rate": {
        "train.precision": "bf16",
        "train.optimizer": "muon",
        "train.lr": 2.0,
    },
    "flow, twice the rate": {"objective": "flow", "train.lr": 2.0},
    "flow, muon, twice the rate": {"objective": "flow", "train.optimizer": "muon", "train.lr": 2.0},
    "flow, muon": {"objective": "flow", "train.optimizer": "muon"},
    "half-life 0.4": {"train.ema_halflife_kimg": 0.4},
    "dit, bf16, muon": DIT | {"train.precision": "bf16", "train.optimizer": "muon"},
    "dit, bf16, muon, twice the rate": DIT
    | {"train.precision": "bf16", "train.optimizer": "muon", "train.lr": 2.0},
    "dit, flow, muon": DIT | {"objective": "flow", "train.optimizer": "muon"},
    "dit, flow, muon, twice the rate": DIT
    | {"objective": "flow", "train.optimizer": "muon", "train.lr": 2.0},
    "betas 0.9, 0.99": {"train.betas": (0.9, 0.99)},
    "scale and shift": {"network.conditioning": "scale_shift"},
    "optimal transport": {"train.pairing": "optimal_transport"},
}
"""Factors (numbers) are of the preset's own value."""
SECONDS = {"digits": 40, "cifar10-small": 120}
FACTORS = ("train.lr", "train.batch_size", "network.base_channels", "train.ema_halflife_kimg")
STEPS = {"digits": 30, "cifar10-small": 15}
SAMPLES = {"digits": 2000, "cifar10-small": 1000}


def configuration(preset: str, changes: Changes, data_path: str | None, seed: int = 0) -> RunConfig:
    """The recipe as it was before this study, with one variant's changes."""
    before, changes = dict(BEFORE[preset]), dict(changes)
    objective = changes.pop("objective", before.pop("objective", None))
    config = unnoise.preset(preset, {"data.path": data_path, "seed": seed, **before}, objective)
    for key in FACTORS:
        if key in changes:
            group, name = key.split(".")
            value = getattr(getattr(config, group), name)
            changes[key] = type(value)(value * changes[key])
    quiet = {
        "train.sample_every_kimg": 1e9,
        "train.checkpoint_every_kimg": 1e9,
        "train.time": None,
        "train.kimg": 100.0,
    }
    return override(config, {**quiet, **changes})


def speeds(
    preset: str, variants: dict[str, Changes], data_path: str | None, rounds: int
) -> dict[str, float]:
    """Images per second of each variant's steps, by the median of turns."""
    runs = {}
    for name, changes in variants.items():
        config = configuration(preset, changes, data_path)
        run = prepare(config, unnoise.load_data(config), Path(tempfile.mkdtemp()))
        run.state.network.train()
        batches = Batches(run.data, 0, run.arithmetic.device)
        bare(run, batches, 2)
        runs[name] = (run, batches)
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, batches) in runs.items():
            began = time.perf_counter()
            bare(run, batches, 4)
            took[name].append((time.perf_counter() - began) / 4)
    return {
        name: run.config.train.batch_size / statistics.median(took[name])
        for name, (run, _) in runs.items()
    }


class Judge:
    """Features, and the moments of all training images."""

    def __init__(self, config: RunConfig, resnet56: str | None) -> None:
        self.network = ResNet56(resnet56) if resnet56 else None
        self.tiny = None if resnet56 else extractor("tiny", "cpu", None)
        data = unnoise.load_data(config)
        self.data = moments(self.features(torch.from_numpy(data.images[: data.num_train].copy())))
        self.floor = frechet_distance(
            *moments(self.features(torch.from_numpy(data.images[data.num_train :].copy()))),
            *self.data,
        )

    def features(self, images: Tensor) -> Tensor:
        if self.network is not None:
            return self.network.features(images)
        assert self.tiny is not None
        return self.tiny.features(images)

    def distance(self, model: unnoise.Model, num: int) -> float:
        images = model.sample(
            num,
            sampler="unipc_2",
            spacing="log_snr",
            steps=STEPS[model.config.preset],
            guidance_scale=1.0,
        )
        return frechet_distance(*moments(self.features(images)), *self.data)


def table(record: dict[str, Any]) -> str:
    """A row per variant, the best first."""
    rows = []
    for name, speed in record["images_per_sec"].items():
        found = [run["distance"] for run in record["runs"] if run["variant"] == name]
        if found:
            rows.append((statistics.mean(found), name, speed, found))
    lines = [
        "| variant | images/s | thousand images | Fréchet distance, mean | of each seed |",
        "|---|---|---|---|---|",
    ]
    for mean, name, speed, found in sorted(rows):
        each = " · ".join(f"{value:.3g}" for value in found)
        lines.append(
            f"| {name} | {speed:.0f} | {speed * record['seconds'] / 1000:.1f} | {mean:.3g} | {each} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="digits, cifar10-small, or a result to print")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-quality"))
    parser.add_argument("--data-path")
    parser.add_argument("--resnet56")
    parser.add_argument("--variants", nargs="+", default=list(COMMON))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--speeds-only", action="store_true")
    flags = parser.parse_args()
    if flags.out is None:
        print(table(json.loads(Path(flags.study).read_text())))
        return
    record = (
        json.loads(flags.out.read_text())
        if flags.out.exists()
        else {"study": flags.study, "runs": []}
    )
    if "images_per_sec" not in record:
        record |= {
            "machine": machine(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        record |= {
            "seconds": SECONDS[flags.study],
            "samples": SAMPLES[flags.study],
            "date": time.strftime("%Y-%m-%d"),
        }
        record["images_per_sec"] = {}
    known = record["images_per_sec"]
    if missing := {name: COMMON[name] for name in flags.variants if name not in known}:
        found = speeds(flags.study, {FIRST: {}, **missing}, flags.data_path, flags.rounds)
        scale = (
            known.get(FIRST, found[FIRST]) / found[FIRST]
        )  # of a later run: relative to the recipe itself
        known |= {
            FIRST: known.get(FIRST, found[FIRST]),
            **{name: scale * found[name] for name in missing},
        }
        flags.out.write_text(json.dumps(record, indent=1) + "\n")
    if flags.speeds_only:
        return
    judge = Judge(configuration(flags.study, {}, flags.data_path), flags.resnet56)
    record["held_out"] = judge.floor
    for seed in flags.seeds:
        for name in flags.variants:
            if any((run["variant"], run["seed"]) == (name, seed) for run in record["runs"]):
                continue
            kimg = record["images_per_sec"][name] * record["seconds"] / 1000
            config = configuration(
                flags.study, {**COMMON[name], "train.kimg": kimg}, flags.data_path, seed
            )
            model = unnoise.train(
                config, flags.work / flags.study / f"{name.replace(' ', '-')}-{seed}"
            )
            distance = judge.distance(model, record["samples"])
            held_out = model.record["training"]["held_out_loss"]
            record["runs"].append(
                {
                    "variant": name,
                    "seed": seed,
                    "kimg": kimg,
                    "distance": distance,
                    "held_out_loss": held_out,
                }
            )
            print(json.dumps(record["runs"][-1]), flush=True)
            flags.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()

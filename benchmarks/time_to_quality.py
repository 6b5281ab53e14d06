"""Which recipe and shape is best after a given time: the study behind `cifar10-small`.

    python -m benchmarks.time_to_quality --data-path CIFAR --resnet56 FILE --out FILE.json
    python -m benchmarks.time_to_quality --out FILE.json --table

Every variant changes something of what the preset was before this study. Time is that of one core:
first the images per second of processor time of all variants are measured, in turns, on one thread;
then each is trained for as many images as that gives in the study's seconds, so that what else the
machine does meanwhile changes nothing. The quality is the Fréchet distance of samples (UniPC-2,
even steps in log-SNR, `--guidance`) to all training images, on the features of a CIFAR-10
ResNet-56; precision and recall against the held-out images, and the share that it reads right,
judge what they did not choose. A stopped run resumes, and several processes can share the work: a
run is of the process that made its file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unnoise
from benchmarks import product, record
from benchmarks.resnet56 import ResNet56
from benchmarks.speed import ceilings, flops
from benchmarks.speed.ours import NAMES
from benchmarks.timing import Plan
from unnoise import RunConfig, build
from unnoise.evaluation.coverage import coverage
from unnoise.evaluation.frechet import frechet_distance, moments
from unnoise.precision import choose

Changes = dict[str, Any]

PRESET = "cifar10-small"
BEFORE: Changes = {
    "network.base_channels": 32, "network.channel_multipliers": (1, 2, 2, 2),
    "network.blocks_per_level": 1, "network.norm_groups": 8, "network.skips": "every_block",
    "network.attention_sizes": (8,), "network.attention_levels": (), "network.attention_heads": 2,
    "network.patch_size": 1, "network.conditioning": "additive",
    "diffusion.times": "logit_normal", "diffusion.weighting": "none",
    "diffusion.parameterization": "flow", "train.batch_size": 16, "train.lr": 2e-3,
    "train.warmup_kimg": 2.0, "train.betas": (0.9, 0.999), "train.channels_last": "auto",
}  # fmt: skip
"""What the preset was, wherever a variant changes it."""
SAMPLES, STEPS, ROUNDS = 1000, 15, 9
SECONDS = 240.0
"""Of one core; two runs side by side take two minutes of two cores each."""
QUIET: Changes = {
    "device": "cpu",
    "train.sample_every_kimg": 1e9, "train.checkpoint_every_kimg": 1e9, "train.time": None,
    "train.kimg": 100.0,
}  # fmt: skip
FIRST = "as it was"


def shape(base: int, multipliers: tuple[int, ...], groups: int, patch: int = 1) -> Changes:
    """A U-Net in channels_last, whose norms are fast there with 16, 32, .. channels in a group."""
    return {
        "network.base_channels": base, "network.channel_multipliers": multipliers,
        "network.norm_groups": groups, "network.patch_size": patch, "train.channels_last": "on",
    }  # fmt: skip


def density(mean: float, std: float) -> Changes:
    """ln(sigma / alpha) of the training times ~ N(mean, std^2)."""
    name = "diffusion.times"
    return {name: "log_normal_sigma", "diffusion.p_mean": mean, "diffusion.p_std": std}


EDM = density(-1.2, 1.2)
W48, W64 = shape(48, (1, 1, 2), 3), shape(64, (1, 1, 2), 4)
VARIANTS: dict[str, Changes] = {
    FIRST: {},
    "32 x (1, 2, 2)": shape(32, (1, 2, 2), 2),
    "64 x (1, 1, 2)": W64,
    "patches of 2, 64 x (1, 2)": shape(64, (1, 2), 8, patch=2),
    "EDM's density": EDM,
    "density (-0.6, 1.4)": density(-0.6, 1.4),
    "edm prediction": {"diffusion.parameterization": "edm"},
    "scale and shift": {"network.conditioning": "scale_shift"},
    "short warm-up, beta2 0.99": {"train.warmup_kimg": 0.5, "train.betas": (0.9, 0.99)},
    "twice the rate": {"train.lr": 4e-3},
    "48 x (1, 1, 2), EDM's density": W48 | EDM,
    "64 x (1, 1, 2), EDM's density": W64 | EDM,
    "64 x (1, 2, 2), EDM's density": shape(64, (1, 2, 2), 4) | EDM,
    "64 x (1, 1, 2), EDM's density, a skip per level": W64 | EDM | {"network.skips": "per_level"},
    "48 x (1, 2, 2), EDM's density": shape(48, (1, 2, 2), 3) | EDM,
    "64 x (1, 1, 2), EDM's density, twice the rate": W64 | EDM | {"train.lr": 4e-3},
    "64 x (1, 1, 2), EDM's density, learned": W64 | EDM | {"diffusion.weighting": "learned"},
}


def configuration(changes: Changes, data_path: str | None, seed: int = 0) -> RunConfig:
    """The preset as it was, with one variant's changes."""
    base = {**QUIET, **BEFORE, "data.path": data_path, "seed": seed}
    return unnoise.preset(PRESET, base | changes)


def speeds(variants: dict[str, Changes], data_path: str | None) -> dict[str, float]:
    """Images per second of processor time of each variant's steps, by the median of turns."""
    configs = {name: configuration(each, data_path) for name, each in variants.items()}
    data = unnoise.load_data(next(iter(configs.values())))
    steps = {name: product.stepper(*product.prepared(each, data)) for name, each in configs.items()}
    took: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(ROUNDS + 1):
        for name, step in steps.items():
            began = time.process_time()
            step()
            step()
            if round_:  # the first is to warm up
                took[name].append((time.process_time() - began) / 2)
    size = {name: each.train.batch_size for name, each in configs.items()}
    return {name: size[name] / statistics.median(values) for name, values in took.items()}


def flop_per_image(changes: Changes, data_path: str | None) -> int:
    """Floating-point operations of a training step, of one image."""
    net = build.network(configuration(changes, data_path), build.Shape(3, 32, 32, 10))
    x, t, label = torch.zeros(1, 3, 32, 32), torch.ones(1), torch.zeros(1, dtype=torch.long)
    return flops.TRAINING_PASSES * flops.total(flops.count(lambda: net(x, t, label)))


def peak() -> float:
    """FLOP/s of the fastest convolution on one thread, in the precision that trains here."""
    device = torch.device("cpu")
    works = ceilings.convolutions(device, NAMES[choose(configuration({}, None)).dtype])
    return max(ceilings.rates(works, device, Plan(rounds=5, tries=1)).values())


class Judge:
    """Distance to all training images, precision and recall against held-out ones, read right."""

    def __init__(self, config: RunConfig, resnet56: str) -> None:
        data = unnoise.load_data(config)
        images, n = torch.from_numpy(data.images.copy()), data.num_train
        self.network = ResNet56(resnet56)
        self.training = moments(self.network.features(images[:n]))
        self.held_out = self.network.features(images[n:])

    def __call__(self, images: Tensor) -> dict[str, float]:
        features = self.network.features(images)
        found = coverage(features, self.held_out)
        asked = torch.arange(len(images)) % 10
        return {
            "distance": frechet_distance(*moments(features), *self.training),
            "precision": found.precision, "recall": found.recall,
            "read_right": float((self.network.classes(features) == asked).double().mean()),
        }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """A row per variant, time and guidance, the best first."""
    groups: dict[tuple[float, str, float], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        key = (run["seconds"], run["variant"], run.get("guidance", 1.0))
        groups.setdefault(key, []).append(run)
    rows = []
    for (seconds, name, guidance), runs in groups.items():
        mean = {key: statistics.mean(run[key] for run in runs) for key in ("distance", "recall")}
        rate, flop = result["images_per_cpu_sec"][name], result["flop_per_image"][name]
        cells = [
            f"{seconds:g}", name, f"{rate:.1f}", f"{rate * flop / result['peak_flop_per_sec']:.1%}",
            f"{runs[0]['kimg']:.1f}", f"{guidance:g}", f"{mean['distance']:.3g}",
            " · ".join(f"{run['distance']:.3g}" for run in runs), f"{mean['recall']:.2f}",
        ]  # fmt: skip
        rows.append((seconds, mean["distance"], cells))
    head = [
        "core seconds", "variant", "images per core second", "share of the peak",
        "thousand images", "guidance", "Fréchet distance, mean", "of each seed", "recall",
    ]  # fmt: skip
    return record.markdown(head, [cells for *_, cells in sorted(rows, key=lambda row: row[:2])])


def measure(result: dict[str, Any], names: list[str], data_path: str | None) -> None:
    """Speeds of the variants that have none; a later measurement is relative to the first's."""
    known = result.setdefault("images_per_cpu_sec", {})
    if missing := {name: VARIANTS[name] for name in names if name not in known}:
        found = speeds({FIRST: {}, **missing}, data_path)
        scale = known.setdefault(FIRST, found[FIRST]) / found[FIRST]
        known |= {name: scale * found[name] for name in missing}
        result.setdefault("flop_per_image", {}).update(
            {name: flop_per_image(VARIANTS[name], data_path) for name in missing}
        )
    result.setdefault("peak_flop_per_sec", peak())


def train(result: dict[str, Any], flags: argparse.Namespace) -> None:
    """Train and judge all runs that no process has begun, a file in --work for each."""
    judge: Judge | None = None
    for seed, name in ((seed, name) for seed in flags.seeds for name in flags.variants):
        kimg = result["images_per_cpu_sec"][name] * flags.seconds / 1000
        folder = flags.work / f"{name.replace(' ', '-')}-{flags.seconds:g}-{seed}"
        file = Path(f"{folder}-x{flags.guidance:g}.json")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(exist_ok=False)
        except FileExistsError:
            continue
        config = configuration(VARIANTS[name] | {"train.kimg": kimg}, flags.data_path, seed)
        try:
            model = unnoise.train(config, folder)
            images = model.sample(
                SAMPLES, sampler="unipc_2", spacing="log_snr", steps=STEPS,
                guidance_scale=flags.guidance,
            )  # fmt: skip
            judge = judge or Judge(config, flags.resnet56)
            asked = {"variant": name, "seconds": flags.seconds, "seed": seed, "kimg": kimg}
            record.write(file, {**asked, "guidance": flags.guidance, **judge(images)})
        except BaseException:
            file.unlink()  # a later call begins it again, from its checkpoint
            raise
        print(file.read_text(), flush=True)


def main() -> None:
    parser = record.flags(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-quality"))
    parser.add_argument("--data-path")
    parser.add_argument("--resnet56")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="processor time of a run")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the samples")
    parser.add_argument("--table", action="store_true", help="only print the table of --out")
    flags = parser.parse_args()
    result = record.read(flags.out) or {
        **record.about("benchmarks.time_to_quality", torch.device("cpu")), "samples": SAMPLES,
        "steps": STEPS, "runs": [],
    }  # fmt: skip
    if not flags.table:
        torch.set_num_threads(1)
        measure(result, flags.variants, flags.data_path)
        record.write(flags.out, result)
        train(result, flags)
        files = [file for file in sorted(flags.work.glob("*.json")) if file.stat().st_size]
        result["runs"] = [json.loads(file.read_text()) for file in files]
        record.write(flags.out, result)
    print(table(result))


if __name__ == "__main__":
    main()

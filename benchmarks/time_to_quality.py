"""Which recipe is best after a given time: the study behind `digits` and `cifar10-small`.

    python -m benchmarks.time_to_quality digits --out FILE.json
    python -m benchmarks.time_to_quality cifar10-small --data-path CIFAR --resnet56 FILE --out ..
    python -m benchmarks.time_to_quality FILE.json    # its table

Every variant changes one thing of the recipe it starts from. First the speed of all is measured, in
turns; then each is trained for as many images as it gets through in the study's time at that speed,
so that what else the machine does meanwhile changes nothing; with three seeds. The quality is the
Fréchet distance of unguided samples (UniPC-2, even steps in log-SNR) to all training images, on the
features of the built-in digit classifier or of a CIFAR-10 ResNet-56. A stopped run resumes.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unnoise
from benchmarks import product, record
from benchmarks.resnet56 import ResNet56
from benchmarks.timing import medians
from unnoise import RunConfig
from unnoise.evaluation.extractors import extractor
from unnoise.evaluation.frechet import frechet_distance, moments

Changes = dict[str, Any]

BEFORE: dict[str, Changes] = {
    "digits": {"train.optimizer": "adamw", "train.lr": 2e-3, "train.precision": "fp32"},
    "cifar10-small": {"objective": "v", "train.optimizer": "adamw", "train.lr": 1e-3},
}
"""What the presets were; they are now the best of what was found."""
SECONDS = {"digits": 40, "cifar10-small": 120}
SAMPLES = {"digits": 2000, "cifar10-small": 1000}
STEPS = {"digits": 30, "cifar10-small": 15}
ROUNDS = 9
FIRST = "as it was"
TWICE: Changes = {"train.lr": 2.0}
FLOW: Changes = {"objective": "flow"}
MUON: Changes = {"train.optimizer": "muon"}
BF16: Changes = {"train.precision": "bf16"}
DIT: Changes = {"network.kind": "dit"}
LINEAR: Changes = {"train.lr_schedule": "linear"}
VARIANTS: dict[str, Changes] = {
    FIRST: {},
    "edm": {"objective": "edm"},
    "flow": FLOW,
    "twice the learning rate": TWICE,
    "half the batch": {"train.batch_size": 0.5},
    "twice the batch": {"train.batch_size": 2.0},
    "1.5 x the channels": {"network.base_channels": 1.5},
    "linear to zero": LINEAR,
    "linear over the last 40 %": LINEAR | {"train.lr_decay": 0.4},
    "muon": MUON,
    "muon, twice the rate": MUON | TWICE,
    "bf16": BF16,
    "bf16, twice the rate": BF16 | TWICE,
    "bf16, flow": BF16 | FLOW,
    "bf16, muon, twice the rate": BF16 | MUON | TWICE,
    "flow, twice the rate": FLOW | TWICE,
    "flow, muon, twice the rate": FLOW | MUON | TWICE,
    "flow, muon": FLOW | MUON,
    "half-life 0.4": {"train.ema_halflife_kimg": 0.4},
    "dit, bf16, muon": DIT | BF16 | MUON,
    "dit, bf16, muon, twice the rate": DIT | BF16 | MUON | TWICE,
    "dit, bf16, muon, four times the rate": DIT | BF16 | MUON | {"train.lr": 4.0},
    "dit, flow, muon": DIT | FLOW | MUON,
    "dit, flow, muon, twice the rate": DIT | FLOW | MUON | TWICE,
    "dit of 4x4, flow, muon, twice the rate": DIT | FLOW | MUON | TWICE | {"network.patch_size": 4},
}
FACTORS = ("train.lr", "train.batch_size", "network.base_channels", "train.ema_halflife_kimg")
"""Their numbers are factors of the preset's own value."""
QUIET = {
    "train.sample_every_kimg": 1e9, "train.checkpoint_every_kimg": 1e9, "train.time": None,
    "train.kimg": 100.0,
}  # fmt: skip


def configuration(preset: str, changes: Changes, data_path: str | None, seed: int = 0) -> RunConfig:
    """The recipe as it was before this study, with one variant's changes."""
    wanted = BEFORE[preset] | {"data.path": data_path, "seed": seed}
    objective = changes.get("objective", wanted.get("objective"))
    wanted, changes = ({k: v for k, v in d.items() if k != "objective"} for d in (wanted, changes))
    config = unnoise.preset(preset, wanted, objective)
    for key in FACTORS:
        if key in changes:
            group, name = key.split(".")
            value = getattr(getattr(config, group), name)
            changes[key] = type(value)(value * changes[key])
    return unnoise.override(config, {**QUIET, **changes})


def speeds(preset: str, variants: dict[str, Changes], data_path: str | None) -> dict[str, float]:
    """Images per second of each variant's steps, by the median of turns."""
    configs = {name: configuration(preset, each, data_path) for name, each in variants.items()}
    steps = {name: product.stepper(*product.prepared(each)) for name, each in configs.items()}
    took = medians(steps, ROUNDS, torch.device("cpu"), calls=4)
    return {name: each.train.batch_size / took[name] for name, each in configs.items()}


def judge(config: RunConfig, resnet56: str | None) -> tuple[Callable[[Tensor], float], float]:
    """The distance of images to all training images; and that of the held-out ones."""
    judge = ResNet56(resnet56) if resnet56 else extractor("tiny", "cpu", None)
    data = unnoise.load_data(config)
    images, n = torch.from_numpy(data.images.copy()), data.num_train
    training = moments(judge.features(images[:n]))
    distance = lambda images: frechet_distance(*moments(judge.features(images)), *training)
    return distance, distance(images[n:])


def table(result: dict[str, Any]) -> str:
    """A row per variant, the best first."""
    rows = []
    for name, speed in result["images_per_sec"].items():
        found = [run["distance"] for run in result["runs"] if run["variant"] == name]
        if found:
            kimg = f"{speed * result['seconds'] / 1000:.1f}"
            rows.append((statistics.mean(found), name, f"{speed:.0f}", kimg, found))
    head = ["variant", "images/s", "thousand images", "Fréchet distance, mean", "of each seed"]
    cells = (
        (*words, f"{mean:.3g}", " · ".join(f"{value:.3g}" for value in found))
        for mean, *words, found in sorted(rows)
    )
    return record.markdown(head, cells)


def main() -> None:
    parser = record.flags(__doc__)
    parser.add_argument("study", help="digits, cifar10-small, or a result to print")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-quality"))
    parser.add_argument("--data-path")
    parser.add_argument("--resnet56")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    if flags.out is None:
        print(table(json.loads(Path(flags.study).read_text())))
        return
    study, data_path = flags.study, flags.data_path
    result = record.read(flags.out) or {
        **record.about("benchmarks.time_to_quality", torch.device("cpu")), "study": study,
        "runs": [], "seconds": SECONDS[study], "samples": SAMPLES[study], "images_per_sec": {},
    }  # fmt: skip
    known = result["images_per_sec"]
    if missing := {name: VARIANTS[name] for name in flags.variants if name not in known}:
        found = speeds(study, {FIRST: {}, **missing}, data_path)
        scale = (
            known.setdefault(FIRST, found[FIRST]) / found[FIRST]
        )  # a later run is relative to it
        known |= {name: scale * found[name] for name in missing}
        record.write(flags.out, result)
    config = configuration(study, {}, data_path)
    distance, result["held_out"] = judge(config, flags.resnet56)
    done = {(run["variant"], run["seed"]) for run in result["runs"]}
    for seed, name in ((seed, name) for seed in flags.seeds for name in flags.variants):
        if (name, seed) in done:
            continue
        kimg = known[name] * result["seconds"] / 1000
        config = configuration(study, VARIANTS[name] | {"train.kimg": kimg}, data_path, seed)
        folder = flags.work / study / f"{name.replace(' ', '-')}-{seed}"
        model = unnoise.train(config, folder)
        images = model.sample(
            result["samples"], sampler="unipc_2", spacing="log_snr", steps=STEPS[study],
            guidance_scale=1.0,
        )  # fmt: skip
        result["runs"].append({
            "variant": name, "seed": seed, "kimg": kimg, "distance": distance(images),
            "held_out_loss": model.record["training"]["held_out_loss"],
        })  # fmt: skip
        print(json.dumps(result["runs"][-1]), flush=True)
        record.write(flags.out, result)
    print(table(result))


if __name__ == "__main__":
    main()

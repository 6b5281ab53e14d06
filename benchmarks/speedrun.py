"""The CIFAR-10 run on one GPU, from the first step to the model file, in commands that may end at any time.

    python -m benchmarks.speedrun run --work runs/speedrun --out FILE.json --data-path CIFAR --inception FILE --resnet56 FILE --minutes 9
    python -m benchmarks.speedrun recipes --work runs/recipes --out FILE.json ..       # variants of the recipe, 4 minutes each, two seeds
    python -m benchmarks.speedrun table FILE.json

`run` trains the preset `cifar10-speedrun`, chooses among its averages by FID of 5,000 samples, then guidance for the best, tunes 10
evaluations, measures 50,000 samples by each way of sampling, and exports the model as fp16 with its card. It stops by itself after
--minutes; the same command goes on where it stopped. `--set train.time=60s network.base_channels=32` and smaller numbers of samples
rehearse all of it on a CPU, with `--features benchmarks.resnet56:features`, as Inception would take hours there for the training images.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unnoise
from benchmarks.kernels import machine
from benchmarks.speed import ceilings
from benchmarks.speed.flops import Counter
from benchmarks.speed.interleave import Plan
from benchmarks.speed.roofline import TRAINING_PASSES, total_flop
from unnoise import tuning
from unnoise.checkpoint import checkpoints
from unnoise.cli.export import export
from unnoise.config import RunConfig, to_dict
from unnoise.evaluation.evaluate import ALONE, FOLDER, evaluate
from unnoise.evaluation.extractors import extractor
from unnoise.evaluation.settings import Settings
from unnoise.evaluation.store import Samples, made_samples, sample_features
from unnoise.files import sha256, write_json
from unnoise.model import Model
from unnoise.parallel import World
from unnoise.precision import find_device
from unnoise.training.quality import Quality, prepared

PRESET = "cifar10-speedrun"
SCALES, INTERVALS = (1.25, 1.5, 2.0), ((0.0, 1e9), (0.2, 2.0), (0.3, 5.0))
AUTO_SCALES = (1.5, 2.0, 2.5)
FEW = 10
"""Evaluations of the cheap way of sampling."""
PIECE = 15 * 2**20
RECIPES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "adamw": {"train.optimizer": "adamw"},
    "muon at twice the rate": {"train.muon_lr": 2e-3},
    "muon at half the rate": {"train.muon_lr": 5e-4},
    "linear from the start": {"train.lr_decay": 1.0},
    "no learned weighting": {"diffusion.weighting": "none"},
    "no dropout": {"network.dropout": 0.0},
    "batch 256": {"train.batch_size": 256},
    "flow": {
        "diffusion": {"schedule": "flow", "parameterization": "flow", "times": "logit_normal"}
    },
}


class OutOfTimeError(Exception):
    """The command's minutes are over; everything is saved."""


@dataclass(frozen=True)
class Job:
    """What all parts of a command share."""

    flags: argparse.Namespace
    ends: float
    """By time.monotonic()."""
    record: dict[str, Any]

    def save(self) -> None:
        self.flags.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.flags.out, self.record)

    def hurry(self) -> None:
        if time.monotonic() > self.ends:
            raise OutOfTimeError

    def config(self, **changes: Any) -> RunConfig:
        base = {"data.path": self.flags.data_path, "device": self.flags.device}
        return unnoise.preset(PRESET, {**base, **changes, **self.flags.changes})

    def train(self, config: RunConfig, folder: Path) -> Model:
        """Train to the end, or stop and save when the minutes are over."""
        self.hurry()
        timer = threading.Timer(
            self.ends - time.monotonic(), os.kill, (os.getpid(), signal.SIGTERM)
        )
        timer.start()
        try:
            return unnoise.train(config, folder)
        except KeyboardInterrupt as stopped:
            raise OutOfTimeError from stopped
        finally:
            timer.cancel()

    def measure(self, samples: Samples, settings: Settings) -> dict[str, Any]:
        """The record of an evaluation; its pieces are kept in the work folder."""
        self.hurry()
        config = samples.model.config.data
        return evaluate(
            samples,
            unnoise.load_data(samples.model.config),
            config,
            settings,
            self.flags.work / "measured",
        )

    @functools.cached_property
    def quality(self) -> Quality:
        """The extractor that chooses, and what the training images look like to it."""
        config, spec = self.config(), self.flags.features[0]
        extract = extractor(spec, find_device(self.flags.device), self.flags.inception)
        found = prepared(config, unnoise.load_data(config), extract, World())
        assert found is not None
        return found

    def fid(self, model: Model, guide: Model | None = None, **sampling: Any) -> float:
        """The distance of --choose samples, without all that `evaluate` measures beside it."""
        self.hurry()
        samples = Samples(model, sampling, self.flags.choose, self.flags.choose_seed, guide=guide)
        out = self.flags.work / "measured" / FOLDER
        images = made_samples(samples, out, ALONE)
        return self.quality.reference.distance(
            sample_features(self.quality.extract, samples, images, out, ALONE)
        )


def trained(job: Job) -> tuple[Model, Path]:
    """The run, and what it cost."""
    folder, record = job.flags.work / "run", job.record
    config = job.config(**{"train.keep_every_kimg": job.flags.keep_kimg})
    model = job.train(config, folder)
    if "training" not in record:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        done = model.record["training"]
        flop, peak = TRAINING_PASSES * forward_flop(model), peak_flop(model)
        speed = done["nimg"] / done["train_sec"]
        record |= {
            "machine": machine(model.arithmetic.device), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
            "config": to_dict(config), "parameters": sum(p.numel() for p in model.network.parameters()),
            "training": {**done, "img_per_sec": speed, "flop_per_img": flop, "peak_flop_per_sec": peak, "mfu": speed * flop / peak},
            "log": lines,
        }  # fmt: skip
        job.save()
    return model, folder


def forward_flop(model: Model) -> int:
    """Floating-point operations of one image, forward."""
    shape, device = model.shape, model.arithmetic.device
    x = torch.zeros(1, shape.channels, shape.height, shape.width, device=device)
    with Counter() as counter, torch.no_grad():
        model.network(
            x, torch.ones(1, device=device), torch.zeros(1, dtype=torch.long, device=device)
        )
    return total_flop(counter.operations)


def peak_flop(model: Model) -> float:
    """The fastest convolution or matrix product of this machine in the run's precision, operations per second."""
    device = model.arithmetic.device
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[
        model.arithmetic.dtype
    ]
    kind = "cuda" if device.type == "cuda" else "cpu"
    works = ceilings.convolutions(device, precision, ceilings.PIXELS[kind])
    works |= ceilings.matmuls(device, precision, ceilings.MATMULS[kind])
    return max(ceilings.rates(works, device, Plan(rounds=3, tries=1, pause_sec=0.0)).values())


def best_average(job: Job, folder: Path) -> Path:
    """The model file of the lowest FID, unguided."""
    found = job.record.setdefault("averages", {})
    for path in sorted(folder.glob("model*.safetensors")):
        model = unnoise.load(path, job.flags.device)
        kimg = f"{model.record['training']['ema_halflife_kimg']:g}"
        if kimg not in found:
            found[kimg] = {"file": path.name, "fid": job.fid(model, guidance_scale=1.0)}
            print(f"half-life {kimg} kimg: FID {found[kimg]['fid']:.3f}", flush=True)
            job.save()
    return folder / str(min(found.values(), key=lambda one: one["fid"])["file"])


def best_guidance(job: Job, model: Model, folder: Path) -> dict[str, Any]:
    """Of classifier-free guidance by scale and interval, and autoguidance by the earliest checkpoint there is."""
    found = job.record.setdefault("guidance", [])
    ways: list[dict[str, Any]] = [
        {"guidance_scale": scale, "guidance_interval": interval}
        for interval in INTERVALS
        for scale in SCALES
    ]
    early = checkpoints(folder / "checkpoints")[:1]
    ways += [
        {"guidance_scale": scale, "guidance_interval": INTERVALS[0], "guide": early[0].name}
        for scale in AUTO_SCALES
        if early and len(checkpoints(folder / "checkpoints")) > 1
    ]
    for way in json.loads(json.dumps(ways)):
        if any(one["way"] == way for one in found):
            continue
        found.append({"way": way, "fid": job.fid(model, **guided(way, folder, job.flags.device))})
        print(f"{way}: FID {found[-1]['fid']:.3f}", flush=True)
        job.save()
    return min(found, key=lambda one: one["fid"])["way"]


def guided(way: dict[str, Any], folder: Path, device: str) -> dict[str, Any]:
    """A way of guidance with its guide as a model."""
    if "guide" not in way:
        return way
    return {**way, "guide": unnoise.load(folder / "checkpoints" / way["guide"], device)}


def tuned(job: Job, model: Model, path: Path) -> Model:
    """The model with its FEW evaluations tuned, without guidance."""
    if path.exists():
        return unnoise.load(path, job.flags.device)
    job.hurry()
    settings, rows = tuning.tune(
        model, (*job.flags.budgets, FEW), evaluations=job.flags.tune, guidance_scale=1.0
    )
    print(tuning.table(rows), flush=True)
    model.with_tuned(settings).save(path)
    return unnoise.load(path, job.flags.device)


def finals(job: Job, model: Model, guidance: dict[str, Any], folder: Path) -> None:
    """--num samples by each way of sampling, measured whole."""
    found = job.record.setdefault("final", {})
    ways: dict[str, dict[str, Any]] = {
        "heun, 35 evaluations": {"guidance_scale": 1.0},
        f"tuned, {FEW} evaluations": {"sampler": f"nfe_{FEW}", "guidance_scale": 1.0},
        "heun, guided": guided(guidance, folder, job.flags.device),
    }
    for name, way in ways.items():
        if name in found:
            continue
        settings = Settings(
            features=job.flags.features,
            inception=job.flags.inception,
            likelihood=("bound",) if not found else (),
            likelihood_num=job.flags.likelihood,
            copying=not found or "guided" in name,
            classifier="benchmarks.resnet56:logits" if job.flags.resnet56 else None,
        )
        guide = way.pop("guide", None)
        began = time.monotonic()
        samples = Samples(model, way, job.flags.num, 0, guide=guide)
        found[name] = {**job.measure(samples, settings), "wall_sec": time.monotonic() - began}
        job.save()


def exported(job: Job, path: Path) -> None:
    """models/cifar10.safetensors in fp16, its log and card, and the file in pieces."""
    out = job.flags.work / "export"
    out.mkdir(exist_ok=True)
    file = out / "cifar10.safetensors"
    export([str(path), "--out", str(file), "--half"])
    (out / "cifar10.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in job.record["log"])
    )
    job.record["file"] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (out / "card.md").write_text(card(job.record))
    content = file.read_bytes()
    for old in out.glob("piece-*"):
        old.unlink()
    for number, start in enumerate(range(0, len(content), PIECE)):
        (out / f"piece-{number}").write_bytes(content[start : start + PIECE])
    job.save()
    print(f"{out}: cat piece-* > cifar10.safetensors", flush=True)


def card(record: dict[str, Any]) -> str:
    """What belongs into models/README.md."""
    done = record["training"]
    return (
        f"## cifar10\n\nClass-conditional 32x32 CIFAR-10, {record['parameters']:,} parameters, float16, "
        f"{record['file']['bytes'] / 1e6:.1f} MB, SHA-256 `{record['file']['sha256']}`; `cifar10.jsonl` is its training log.\n\n"
        f"- **Made by** `unnoise train {PRESET}` ({done['nimg'] / 1e6:.2f} million images in {done['train_sec'] / 60:.1f} minutes) on one "
        f"{record['machine']}, torch {record['torch']}, {record['date']}; average chosen by FID of 5,000 samples.\n"
        "- **Data**: the 50,000 training images of CIFAR-10 (A. Krizhevsky, 2009).\n"
        f"- **Quality**\n\n{table(record)}\n- **Licence**: MIT, as the code.\n"
    )


def table(record: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    if "recipes" in record:
        lines = [
            "| recipe | seed | million images | FID by half-life (kimg) |\n|---|---|---|---|",
            *(
                f"| {one['recipe']} | {one['seed']} | {one['nimg'] / 1e6:.2f} | "
                + " · ".join(f"{kimg}: {fid:.2f}" for kimg, fid in one["fid"].items()) + " |"
                for one in record["recipes"]
            ),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"
    done, lines = record["training"], []
    lines.append(
        f"{done['train_sec'] / 60:.1f} minutes of training on one {record['machine']}, {done['nimg'] / 1e6:.2f} million images, "
        f"{done['img_per_sec']:,.0f} images/s, MFU {done['mfu']:.1%} of {done['peak_flop_per_sec'] / 1e12:,.3g} TFLOP/s; held-out loss "
        f"{done['held_out_loss']:.4f}.\n"
    )
    first_found = next(iter(record.get("final", {}).values()), {"distances": []})
    names = [one["extractor"] for one in first_found["distances"]]
    head = [
        "sampling",
        *(f"distance, {name}" for name in names),
        "KID",
        "precision, recall",
        "classes read right",
        "copies",
    ]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found in record.get("final", {}).items():
        by = {one["extractor"]: one["samples"] for one in found["distances"]}
        fids = (
            f"{one['frechet']:.2f} ({one['interval'][0]:.2f} to {one['interval'][1]:.2f})"
            for one in by.values()
        )
        first, right = next(iter(by.values())), found["classes"]
        kernel = "" if first["kernel"] is None else f"{first['kernel']:.5f}"
        pairs = (
            "" if first["precision"] is None else f"{first['precision']:.3f}, {first['recall']:.3f}"
        )
        read = (
            ""
            if right is None
            else f"{right['overall']['share']:.1%} (real: {right['held_out']['share']:.1%})"
        )
        copies = "" if found["copying"] is None else "; ".join(found["copying"]["summary"])
        lines.append(f"| {name} | {' | '.join(fids)} | {kernel} | {pairs} | {read} | {copies} |")
    lines.append("\n| average, half-life in kimg | FID of fewer samples |\n|---|---|")
    lines += [f"| {kimg} | {one['fid']:.2f} |" for kimg, one in record.get("averages", {}).items()]
    lines.append("\n| guidance | FID of fewer samples |\n|---|---|")
    for one in sorted(record.get("guidance", []), key=lambda one: one["fid"]):
        low, high = one["way"]["guidance_interval"]
        by = "an early checkpoint" if "guide" in one["way"] else "no class"
        where = "" if (low, high) == INTERVALS[0] else f", sigma {low:g} to {high:g}"
        lines.append(
            f"| away from {by}, {one['way']['guidance_scale']:g}{where} | {one['fid']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def run(job: Job) -> None:
    """All of it, in order."""
    _, folder = trained(job)
    chosen = best_average(job, folder)
    model = unnoise.load(chosen, job.flags.device)
    guidance = best_guidance(job, model, folder)
    path = job.flags.work / "tuned.safetensors"
    finals(job, tuned(job, model, path), guidance, folder)
    exported(job, path)
    print(table(job.record))


def recipes(job: Job) -> None:
    """Every variant for --time, with each seed, by FID of --choose samples of each average."""
    found = job.record.setdefault("recipes", [])
    for seed in job.flags.seeds:
        for name in job.flags.recipes:
            if any((one["recipe"], one["seed"]) == (name, seed) for one in found):
                continue
            config = job.config(
                **{"train.time": job.flags.time, "seed": seed, **flat(RECIPES[name])}
            )
            folder = job.flags.work / f"{name.replace(' ', '-')}-{seed}"
            done = job.train(config, folder).record["training"]
            fids = {}
            for path in sorted(folder.glob("model*.safetensors")):
                model = unnoise.load(path, job.flags.device)
                fids[f"{model.record['training']['ema_halflife_kimg']:g}"] = job.fid(
                    model, guidance_scale=1.0
                )
            found.append({"recipe": name, "seed": seed, "fid": fids, **done})
            print(f"{name}, seed {seed}: {fids}", flush=True)
            job.save()
    print(table(job.record))


def flat(changes: dict[str, Any]) -> dict[str, Any]:
    """Nested changes by dotted key."""
    return {
        f"{key}.{name}" if isinstance(value, dict) else key: part
        for key, value in changes.items()
        for name, part in (value.items() if isinstance(value, dict) else [("", value)])
    }


def changes(words: list[str]) -> dict[str, Any]:
    """KEY=VALUE words; values as JSON where they are."""
    found: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        found[key] = value
        with suppress(ValueError):
            found[key] = json.loads(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "recipes", "table"))
    parser.add_argument("file", nargs="?", type=Path, help="of table")
    parser.add_argument("--work", type=Path, default=Path("runs/speedrun"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speedrun.json"))
    parser.add_argument("--data-path")
    parser.add_argument("--inception", type=Path)
    parser.add_argument("--resnet56", type=Path)
    parser.add_argument(
        "--features",
        nargs="+",
        default=["edm", "pytorch-fid"],
        help="extractors; the first chooses",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--minutes",
        type=float,
        default=1e6,
        help="stop after so many, to go on with the same command",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="changes", type=str
    )
    parser.add_argument(
        "--keep-kimg", type=float, default=2000, help="checkpoints that stay, for autoguidance"
    )
    parser.add_argument("--choose", type=int, default=5000, help="samples of every choice")
    parser.add_argument("--num", type=int, default=50_000, help="samples of the final measurements")
    parser.add_argument(
        "--choose-seed", type=int, default=1_000_000, help="the first of the samples that choose"
    )
    parser.add_argument("--likelihood", type=int, default=500, help="held-out images")
    parser.add_argument(
        "--tune", type=int, default=40_000, help="evaluations of the refinement of a budget"
    )
    parser.add_argument(
        "--budgets", type=int, nargs="*", default=[5, 20], help=f"evaluations to tune beside {FEW}"
    )
    parser.add_argument("--time", default="4m", help="of each recipe")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    flags = parser.parse_args()
    if flags.what == "table":
        print(table(json.loads(flags.file.read_text())))
        return
    flags.changes, flags.features = changes(flags.changes), tuple(flags.features)
    if flags.resnet56:
        os.environ["RESNET56"] = str(flags.resnet56)
    record = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    job = Job(flags, time.monotonic() + 60 * flags.minutes, record)
    try:
        {"run": run, "recipes": recipes}[flags.what](job)
    except OutOfTimeError:
        print("stopped, everything is saved; the same command goes on")


if __name__ == "__main__":
    main()

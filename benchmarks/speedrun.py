"""The CIFAR-10 run on one GPU, from the first step to the model file, in commands that may end.

    python -m benchmarks.speedrun run --work runs/speedrun --out FILE.json --data-path CIFAR \
        --inception FILE --resnet56 FILE --minutes 9
    python -m benchmarks.speedrun recipes --work runs/recipes --out FILE.json ..    # 4 minutes each
    python -m benchmarks.speedrun table FILE.json

`run` trains the preset `cifar10-speedrun`, chooses among its averages by FID of 5,000 samples, then
guidance for the best, tunes 10 evaluations, measures 50,000 samples by each way of sampling, and
exports the model as fp16. It stops by itself after --minutes; the same command resumes. On a CPU
`--set '{"train.time": "60s", "network.base_channels": 32}'`, fewer samples and `--features
benchmarks.resnet56:features` (Inception would take hours) rehearse it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unnoise
from benchmarks import record
from benchmarks.speed import ceilings, flops
from benchmarks.speed.ours import NAMES
from benchmarks.timing import Plan
from unnoise import Model, RunConfig, tuning
from unnoise.data.cache import root
from unnoise.evaluation.evaluate import ALONE, evaluate
from unnoise.evaluation.extractors import Extractor, extractor
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.settings import Settings
from unnoise.evaluation.store import DataStore, Samples, made_samples, sample_features
from unnoise.precision import find_device

PRESET = "cifar10-speedrun"
SCALES, INTERVALS = (1.25, 1.5, 2.0), ((0.0, 1e9), (0.2, 2.0), (0.3, 5.0))
AUTO_SCALES = (1.5, 2.0, 2.5)
FEW = 10  # evaluations of the cheap way of sampling
CHOOSE_SEED = 1_000_000  # the samples that choose are not those that are measured
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
        "diffusion.schedule": "flow", "diffusion.parameterization": "flow",
        "diffusion.times": "logit_normal",
    },
}  # fmt: skip


class OutOfTimeError(Exception):
    """The command's minutes are over; everything is saved."""


@dataclass(frozen=True)
class Job:
    """What all parts of a command share."""

    flags: argparse.Namespace
    ends: float  # by time.monotonic()
    record: dict[str, Any]

    def save(self) -> None:
        record.write(self.flags.out, self.record)

    def hurry(self) -> None:
        if time.monotonic() > self.ends:
            raise OutOfTimeError

    def config(self, **changes: Any) -> RunConfig:
        base = {"data.path": self.flags.data_path, "device": self.flags.device}
        return unnoise.preset(PRESET, {**base, **changes, **self.flags.set})

    def load(self, path: Path) -> Model:
        return unnoise.load(path, self.flags.device)

    def train(self, config: RunConfig, folder: Path) -> Model:
        """Train to the end, or stop and save when the minutes are over."""
        self.hurry()
        left = self.ends - time.monotonic()
        timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        try:
            return unnoise.train(config, folder)
        except KeyboardInterrupt as stopped:
            raise OutOfTimeError from stopped
        finally:
            timer.cancel()

    @functools.cached_property
    def judge(self) -> tuple[Extractor, FrechetTo]:
        """The extractor that chooses, and what the training images look like to it."""
        config, device = self.config(), find_device(self.flags.device)
        extract = extractor(self.flags.features[0], device, self.flags.inception)
        data = unnoise.load_data(config)
        store, rows = DataStore(data, root(config.data), ALONE), range(data.num_train)
        found = store.features(extract, rows)
        return extract, FrechetTo(store.statistics(extract, rows, found))

    def fid(self, model: Model, guide: Model | None = None, **sampling: Any) -> float:
        """The distance of --choose samples, without all else that `evaluate` measures."""
        self.hurry()
        extract, training = self.judge
        samples = Samples(model, sampling, self.flags.choose, CHOOSE_SEED, guide=guide)
        out = self.flags.work / "measured" / "evaluation"
        images = made_samples(samples, out, ALONE)
        return training.distance(sample_features(extract, samples, images, out, ALONE))

    def averages(self, folder: Path, known: dict[str, Any]) -> dict[str, Any]:
        """The model files of a run and their FID, unguided, by half-life; adds to what is known."""
        for path in sorted(folder.glob("model*.safetensors")):
            model = self.load(path)
            kimg = f"{model.record['training']['ema_halflife_kimg']:g}"
            if kimg not in known:
                known[kimg] = {"file": path.name, "fid": self.fid(model, guidance_scale=1.0)}
                print(f"half-life {kimg} kimg: FID {known[kimg]['fid']:.3f}", flush=True)
                self.save()
        return known


def trained(job: Job) -> Path:
    """The run, and what it cost."""
    folder, found = job.flags.work / "run", job.record
    model = job.train(job.config(**{"train.keep_every_kimg": job.flags.keep_kimg}), folder)
    if "training" not in found:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found |= record.about("benchmarks.speedrun", model.arithmetic.device) | {
            "config": model.record["config"], "log": [json.loads(line) for line in lines],
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "training": {**model.record["training"], **cost(model)},
        }  # fmt: skip
        job.save()
    return folder


def cost(model: Model) -> dict[str, float]:
    """Images per second, and their share of the machine's fastest convolution or product."""
    shape, device, done = model.shape, model.arithmetic.device, model.record["training"]
    x = torch.zeros(1, shape.channels, shape.height, shape.width, device=device)
    t, label = torch.ones(1, device=device), torch.zeros(1, dtype=torch.long, device=device)
    flop = flops.TRAINING_PASSES * flops.total(flops.count(lambda: model.network(x, t, label)))
    precision = NAMES[model.arithmetic.dtype]
    works = ceilings.convolutions(device, precision) | ceilings.matmuls(device, precision)
    peak = max(ceilings.rates(works, device, Plan(rounds=3, tries=1)).values())
    speed = done["nimg"] / done["train_sec"]
    rates = {"img_per_sec": speed, "flop_per_img": flop, "peak_flop_per_sec": peak}
    return {**rates, "mfu": speed * flop / peak}


def best_guidance(job: Job, model: Model, folder: Path) -> dict[str, Any]:
    """The best of classifier-free guidance by scale and interval, and autoguidance by scale.

    The guide of autoguidance is the earliest checkpoint, where there is more than the last one.
    """
    found, kept = job.record.setdefault("guidance", []), sorted((folder / "checkpoints").glob("s*"))
    settings = [(scale, interval) for interval in INTERVALS for scale in SCALES]
    ways = [{"guidance_scale": scale, "guidance_interval": list(on)} for scale, on in settings]
    if len(kept) > 1:
        early = {"guidance_interval": list(INTERVALS[0]), "guide": kept[0].name}
        ways += [{"guidance_scale": scale, **early} for scale in AUTO_SCALES]
    for way in ways:
        if all(one["way"] != way for one in found):
            found.append({"way": way, "fid": job.fid(model, **guided(job, way, folder))})
            print(f"{way}: FID {found[-1]['fid']:.3f}", flush=True)
            job.save()
    return min(found, key=lambda one: one["fid"])["way"]


def guided(job: Job, way: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A way of guidance with its guide as a model."""
    guide = {"guide": job.load(folder / "checkpoints" / way["guide"])} if "guide" in way else {}
    return way | guide


def tuned(job: Job, model: Model, path: Path) -> Model:
    """The model with its FEW evaluations tuned, without guidance."""
    if not path.exists():
        job.hurry()
        budgets, trials = (*job.flags.budgets, FEW), job.flags.tune
        settings, rows = tuning.tune(model, budgets, evaluations=trials, guidance_scale=1.0)
        print(tuning.table(rows), flush=True)
        model.with_tuned(settings).save(path)
    return job.load(path)


def finals(job: Job, model: Model, guidance: dict[str, Any], folder: Path) -> None:
    """--num samples by each way of sampling, measured whole."""
    found, flags = job.record.setdefault("final", {}), job.flags
    ways: dict[str, dict[str, Any]] = {
        "heun, 35 evaluations": {"guidance_scale": 1.0},
        f"tuned, {FEW} evaluations": {"sampler": f"nfe_{FEW}", "guidance_scale": 1.0},
        "heun, guided": guided(job, guidance, folder),
    }
    for name, way in ways.items():
        if name in found:
            continue
        job.hurry()
        settings = Settings(
            features=flags.features, inception=flags.inception, likelihood_num=flags.likelihood,
            likelihood=() if found else ("bound",), copying=not found or "guided" in name,
            classifier="benchmarks.resnet56:logits" if flags.resnet56 else None,
        )  # fmt: skip
        guide = way.pop("guide", None)
        samples, data = Samples(model, way, flags.num, 0, guide=guide), model.config.data
        images, began = unnoise.load_data(model.config), time.monotonic()
        measured = evaluate(samples, images, data, settings, flags.work / "measured")
        found[name] = {**measured, "wall_sec": time.monotonic() - began}
        job.save()


def exported(job: Job, path: Path) -> None:
    """The model file in fp16."""
    file = job.flags.work / "cifar10.safetensors"
    unnoise.load(path, "cpu").save(file, half=True)
    content = file.read_bytes()
    job.record["file"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    job.save()
    print(f"{file}: {job.record['file']}", flush=True)


def table(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    if "recipes" in found:
        rows = []
        for one in found["recipes"]:
            fids = " · ".join(f"{kimg}: {fid:.2f}" for kimg, fid in one["fid"].items())
            rows.append((one["recipe"], one["seed"], f"{one['nimg'] / 1e6:.2f}", fids))
        head = ["recipe", "seed", "million images", "FID by half-life (kimg)"]
        return record.markdown(head, rows)
    done, final = found["training"], found.get("final", {})
    cost = (
        f"{done['train_sec'] / 60:.1f} minutes of training on one {found['machine']}, "
        f"{done['nimg'] / 1e6:.2f} million images, {done['img_per_sec']:,.0f} images/s, MFU "
        f"{done['mfu']:.1%} of {done['peak_flop_per_sec'] / 1e12:,.3g} TFLOP/s; held-out loss "
        f"{done['held_out_loss']:.4f}."
    )
    distances = next((one["distances"] for one in final.values()), [])
    names = (f"distance, {one['extractor']}" for one in distances)
    head = ["sampling", *names, "KID", "precision, recall", "classes read right", "copies"]
    way_rows = [(name, *quality(one)) for name, one in final.items()]
    average_rows = [(kimg, f"{one['fid']:.2f}") for kimg, one in found.get("averages", {}).items()]
    guidance = sorted(found.get("guidance", []), key=lambda one: one["fid"])
    return "\n\n".join([
        cost,
        record.markdown(head, way_rows),
        record.markdown(["average, half-life in kimg", "FID of fewer samples"], average_rows),
        record.markdown(["guidance", "FID of fewer samples"], map(guidance_row, guidance)),
    ])  # fmt: skip


def quality(found: dict[str, Any]) -> list[str]:
    """The cells of one way of sampling."""
    by = [one["samples"] for one in found["distances"]]
    cells = ["{:.2f} ({:.2f} to {:.2f})".format(one["frechet"], *one["interval"]) for one in by]
    first, right, copying = by[0], found["classes"], found["copying"]
    cells.append("" if first["kernel"] is None else f"{first['kernel']:.5f}")
    pair = "" if first["precision"] is None else f"{first['precision']:.3f}, {first['recall']:.3f}"
    shares = (right[of]["share"] for of in ("overall", "held_out")) if right else ()
    read = "{:.1%} (real: {:.1%})".format(*shares) if right else ""
    return [*cells, pair, read, "; ".join(copying["summary"]) if copying else ""]


def guidance_row(one: dict[str, Any]) -> tuple[str, str]:
    """The cells of one way of guidance."""
    way = one["way"]
    low, high = way["guidance_interval"]
    by = "an early checkpoint" if "guide" in way else "no class"
    where = "" if (low, high) == INTERVALS[0] else f", sigma {low:g} to {high:g}"
    return f"away from {by}, {way['guidance_scale']:g}{where}", f"{one['fid']:.2f}"


def run(job: Job) -> None:
    """All of it, in order."""
    folder, path = trained(job), job.flags.work / "tuned.safetensors"
    averages = job.averages(folder, job.record.setdefault("averages", {}))
    model = job.load(folder / min(averages.values(), key=lambda one: one["fid"])["file"])
    guidance = best_guidance(job, model, folder)
    finals(job, tuned(job, model, path), guidance, folder)
    exported(job, path)


def recipes(job: Job) -> None:
    """Every variant for --time, with each seed, by FID of --choose samples of each average."""
    found, flags = job.record.setdefault("recipes", []), job.flags
    for seed, name in ((seed, name) for seed in flags.seeds for name in flags.recipes):
        if any((one["recipe"], one["seed"]) == (name, seed) for one in found):
            continue
        config = job.config(**{"train.time": flags.time, "seed": seed, **RECIPES[name]})
        folder = flags.work / f"{name.replace(' ', '-')}-{seed}"
        done = job.train(config, folder).record["training"]
        fids = {kimg: one["fid"] for kimg, one in job.averages(folder, {}).items()}
        found.append({"recipe": name, "seed": seed, "fid": fids, **done})
        job.save()


def main() -> None:
    parser = record.flags(__doc__)
    add = parser.add_argument
    parser.set_defaults(out=Path("benchmarks/results/speedrun.json"))
    add("what", choices=("run", "recipes", "table"))
    add("file", nargs="?", type=Path, help="result of which to print the table")
    add("--work", type=Path, default=Path("runs/speedrun"))
    add("--data-path")
    add("--inception", type=Path)
    add("--resnet56", type=Path)
    add("--features", nargs="+", default=["edm", "pytorch-fid"], help="the first chooses")
    add("--device", default="auto")
    add("--minutes", type=float, default=1e6, help="stop then; the same command resumes")
    add("--set", type=json.loads, default={}, metavar="JSON", help="changes of the preset")
    add("--keep-kimg", type=float, default=2000, help="checkpoints that stay, for autoguidance")
    add("--choose", type=int, default=5000, help="samples of every choice")
    add("--num", type=int, default=50_000, help="samples of the final measurements")
    add("--likelihood", type=int, default=500, help="held-out images")
    add("--tune", type=int, default=40_000, help="evaluations of the refinement of a budget")
    add("--budgets", type=int, nargs="*", default=[5, 20], help=f"to tune besides {FEW}")
    add("--time", default="4m", help="time of each recipe")
    add("--recipes", nargs="+", default=list(RECIPES))
    add("--seeds", type=int, nargs="+", default=[0, 1])
    flags = parser.parse_args()
    if flags.what == "table":
        print(table(record.read(flags.file)))
        return
    if flags.resnet56:
        os.environ["RESNET56"] = str(flags.resnet56)
    job = Job(flags, time.monotonic() + 60 * flags.minutes, record.read(flags.out))
    try:
        {"run": run, "recipes": recipes}[flags.what](job)
        print(table(job.record))
    except OutOfTimeError:
        print("stopped, everything is saved; the same command resumes")


if __name__ == "__main__":
    main()

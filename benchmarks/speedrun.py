"""CIFAR-10 in a quarter of an hour of one GPU: train, export, measure.

    python -m benchmarks.gpu_options --out OPTIONS.json
    python -m benchmarks.speedrun train --options OPTIONS.json --data-path CIFAR --minutes 6
    python -m benchmarks.speedrun measure --data-path CIFAR --inception FILE --resnet56 FILE
    python -m benchmarks.speedrun table FILE.json

`train` trains the preset `cifar10-speedrun` with the fastest options whose gradients are right, or
the next ones where a process dies, and exports the weights as fp16. `measure` writes the reference
statistics, chooses among the averages by FID of --choose samples, exports the best, and measures
--num samples, unguided and by the best of --guide ways of guidance. Every figure is written when it
is there; the same command goes on. It needs no network and no installation: PYTHONPATH=src:.

On a CPU `--device cpu --set '{"network.base_channels": 32, "train.batch_size": 4}' --num 50
--choose 20 --features tiny` rehearses it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import unnoise
from benchmarks import gpu_options, record
from benchmarks.gpu_options import PRESET, TRAINING
from benchmarks.resnet56 import ResNet56
from benchmarks.speed import flops
from unnoise import Model, RunConfig, api
from unnoise.data.images import grid, save_png
from unnoise.evaluation.extractors import Extractor, extractor
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.statistics import Statistics
from unnoise.precision import find_device
from unnoise.terminal import shown_by_default
from unnoise.training import loop
from unnoise.training.run import Run, compiled_run
from unnoise.training.state import TrainState

CHOOSE_SEED = 1_000_000  # the samples that choose are not those that are measured
END_SEC = 20
"""Previews and checkpoints, which are no training, and the export."""
CHEAP: dict[str, Any] = {
    "sampler": "unipc_2", "spacing": "karras", "steps": 18, "guidance_scale": 1.0
}  # fmt: skip
"""18 evaluations an image, without guidance."""
GUIDANCE: list[dict[str, Any]] = [
    {"guidance_scale": scale, "guidance_interval": on}
    for scale, on in ((1.5, (0.2, 3.0)), (1.25, (0.0, 1e9)), (2.0, (0.2, 3.0)), (1.5, (0.0, 1e9)))
]


class Job:
    """A command's flags, its record, and when it must end."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags, self.ends = flags, time.monotonic() + 60 * flags.minutes
        self.record: dict[str, Any] = record.read(flags.out)
        self.device = find_device(flags.device)

    def save(self, **found: Any) -> None:
        """Add to the record, and write it."""
        self.record |= found
        record.write(self.flags.out, self.record)

    def say(self, text: str) -> None:
        print(f"[{self.left:.0f} s left] {text}", flush=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the time is over, so that nothing new begins."""
        return self.left < 0

    def config(self, **changes: Any) -> RunConfig:
        base = {"data.path": self.flags.data_path, "device": self.flags.device}
        return unnoise.preset(PRESET, {**base, **changes, **self.flags.set})

    def export(self, path: Path) -> None:
        """The model file in fp16: the result, whatever fails after it."""
        file = self.flags.work / "cifar10.safetensors"
        unnoise.load(path, "cpu").save(file, half=True)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self.save(file={"of": path.name, "bytes": file.stat().st_size, "sha256": digest})
        self.say(f"exported {path.name}")


def ranked(path: Path | None) -> list[str]:
    """The options whose gradients are right, the fastest first; always the plain ones."""
    found = record.read(path).get("options", {})
    right = {
        name: one["images_per_sec"]
        for name, one in found.items()
        if name in TRAINING and "error" not in one
        and one["compiled"] == ("compiled" in name) and not one["micro_batch"]
    }  # fmt: skip
    return [*dict.fromkeys([*sorted(right, key=lambda name: -right[name]), "eager"])]


def train(job: Job) -> None:
    """Train in a process of its own, with the next options where it dies."""
    flags = job.flags
    for name in flags.option or ranked(flags.options):
        if job.left < 2 * END_SEC:
            break
        job.say(f"training with: {name}")
        again = [sys.executable, "-m", "benchmarks.speedrun", "fit", *sys.argv[2:]]
        minutes = str((job.left - 1) / 60)
        process = subprocess.Popen([*again, "--option", name, "--minutes", minutes])
        timer = threading.Timer(job.left + END_SEC, process.send_signal, (signal.SIGTERM,))
        timer.start()  # it has an end of its own: this is for one that hangs
        code = process.wait()
        timer.cancel()
        job.record = record.read(flags.out)
        if code == 0:
            return
        job.say(f"{name} ended with {code}")


def run_folder(job: Job) -> Path:
    return job.flags.work / job.record["option"].replace(", ", "-").replace(" ", "-")


def fit(job: Job) -> None:
    """Train with one option for the time that is left after compilation, and export."""
    name = job.flags.option[0]
    torch.backends.cudnn.benchmark = "cudnn" in name
    job.save(option=name, **record.about("benchmarks.speedrun", job.device))

    def timed(run: Run, state: TrainState) -> Run:
        run = compiled_run(run, state)
        left = f"{max(job.left - END_SEC, 1):.0f}s"
        job.say(f"the first step, {left} of training")
        return replace(run, config=unnoise.override(run.config, {"train.time": left}))

    with mock.patch.object(loop, "compiled_run", timed), shown_by_default():
        # a run that goes on has another time
        api.train_here(job.config(**TRAINING[name]), run_folder(job), resume="anyway")
    finished(job)


def finished(job: Job) -> None:
    """Export what there is of a run, and note what it cost."""
    folder = run_folder(job)
    job.export(folder / "model.safetensors")
    model = unnoise.load(folder, job.flags.device)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    done = model.record["training"]
    flop = flops.TRAINING_PASSES * gpu_options.flop_per_image(
        model.network, model.shape, model.arithmetic.device
    )
    job.save(
        config=model.record["config"], log=log, training={**done, "flop_per_image": flop},
        parameters=sum(p.numel() for p in model.network.parameters()),
        images_per_sec=done["nimg"] / done["train_sec"],
    )  # fmt: skip


class Judge:
    """Features of the training images, by Inception and a classifier, and distances to them."""

    def __init__(self, job: Job) -> None:
        self.job, flags = job, job.flags
        data = unnoise.load_data(job.config())
        self.real = torch.from_numpy(data.images[: data.num_train].copy())
        self.fingerprint, self.rows = data.fingerprint, range(data.num_train)
        path = flags.resnet56
        self.classifier = ResNet56(path, job.device) if path else None
        self.to = functools.cache(self._to)

    def _to(self, name: str) -> tuple[Extractor, FrechetTo]:
        """An extractor and distances to the training images, whose statistics are written."""
        extract = extractor(name, self.job.device, self.job.flags.inception)
        path = self.job.flags.work / f"cifar10-{name.split(':')[0]}.npz"
        if not path.exists():
            began = time.monotonic()
            made = Statistics.of(extract.features(self.real).to(self.job.device))
            about = {"data": self.fingerprint, "extractor": extract.fingerprint,
                     "rows": str(self.rows)}  # fmt: skip
            Statistics(len(self.real), made.mean.cpu(), made.cov.cpu(), about).save(path)
            self.job.say(f"{name}: statistics in {time.monotonic() - began:.0f} s")
        dimension = extract.features(self.real[:2]).shape[1]
        return extract, FrechetTo(Statistics.load(path, dimension))

    def distance(self, name: str, images: Tensor) -> dict[str, Any]:
        """A distance of images with its 95 % interval."""
        extract, to = self.to(name)
        estimate = to.estimate(extract.features(images))
        return {"distance": estimate.value, "interval": estimate.interval}

    def read_right(self, images: Tensor) -> dict[str, float]:
        """The share of images, of classes 0, 1, .. in turns, that the classifier reads as such."""
        if self.classifier is None:
            return {}
        read = self.classifier.classes(self.classifier.features(images.to(self.job.device)))
        wanted = torch.arange(len(images), device=read.device) % 10
        return {"read_right": float((read == wanted).float().mean())}


def measure(job: Job) -> None:
    """Choose among averages and guidance, then measure, each as far as the time goes."""
    # TorchScript's fuser compiles anew for each batch size
    torch._C._jit_set_texpr_fuser_enabled(False)
    flags, judge, folder = job.flags, Judge(job), run_folder(job)
    chosen: dict[str, Any] = job.record.setdefault("chosen", {})

    def choose(name: str, model: Model, how: dict[str, Any]) -> None:
        """The distance of --choose samples, and how long they took."""
        if name in chosen or job.over:
            return
        began = time.monotonic()
        images = model.sample(flags.choose, CHOOSE_SEED, batch_size=flags.at_once, **how)
        distance = judge.distance(flags.features[0], images)["distance"]
        sec = time.monotonic() - began
        chosen[name] = {"model": name.split(":")[0], "way": how, "distance": distance, "sec": sec}
        job.save()
        job.say(f"{name}: {distance:.3f} in {sec:.1f} s")

    def best() -> dict[str, Any]:
        return min(chosen.values(), key=lambda one: one["distance"])

    for path in sorted(folder.glob("model*.safetensors")):
        choose(path.name, unnoise.load(path, flags.device), CHEAP)
    if job.record["file"]["of"] != (file := best()["model"]):
        job.export(folder / file)
    model = unnoise.load(folder / file, flags.device)
    for way in GUIDANCE[: flags.guide]:
        choose(f"{file}: {words(way)}", model, CHEAP | way)
    final, plain = job.record.setdefault("final", {}), chosen[file]
    made: dict[str, Tensor] = {}
    for one in [best(), plain] if best() is not plain else [plain]:
        name, each = words(one["way"]), one["sec"] / flags.choose
        fits = [num for num in (flags.num, 10_000, 5000) if num * each < job.left]
        if name in final or not fits:
            continue
        began = time.monotonic()
        images = made[name] = model.sample(fits[0], batch_size=flags.at_once, **one["way"])
        final[name] = {"num": fits[0], "sample_sec": time.monotonic() - began}
        final[name] |= judge.read_right(images)
        final[name][flags.features[0]] = judge.distance(flags.features[0], images)
        picture = grid(images[:100], columns=10)
        save_png(flags.work / f"samples-{len(final)}.png", picture, {"unnoise": name})
        job.save()
        job.say(f"{name}: {final[name]}")
    for feature in flags.features[1:]:
        for name, images in made.items():
            if not job.over:
                final[name][feature] = judge.distance(feature, images)
                job.save()
                job.say(f"{name}: {feature}: {final[name][feature]}")


def words(way: dict[str, Any]) -> str:
    """A way of sampling in words."""
    scale, (low, high) = way["guidance_scale"], way.get("guidance_interval", (0.0, 1e9))
    where = "" if high > 1e6 else f" from sigma {low:g} to {high:g}"
    return "unguided" if scale == 1 else f"guidance {scale:g}{where}"


def table(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    done = found["training"]
    cost = (
        f"{done['train_sec'] / 60:.1f} minutes of training on one {found['machine']} "
        f"({found['option']}), {done['nimg'] / 1e6:.2f} million images, "
        f"{found['images_per_sec']:,.0f} images/s, "
        f"{found['images_per_sec'] * done['flop_per_image'] / 1e12:.0f} TFLOP/s."
    )
    final = found.get("final", {})
    features = [name for one in final.values() for name in one if isinstance(one[name], dict)]
    features = [*dict.fromkeys(features)]
    head = ["sampling", "samples", *(f"FID, {name}" for name in features), "classes read right"]
    rows = []
    for name, one in final.items():
        by = (one[f] for f in features)
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(f["distance"], *f["interval"]) for f in by]
        rows.append((name, f"{one['num']:,}", *cells, f"{one.get('read_right', 0):.1%}"))
    choice = [(name, f"{one['distance']:.2f}") for name, one in found.get("chosen", {}).items()]
    tables = [record.markdown(head, rows), record.markdown(["choice", "FID of few"], choice)]
    return "\n\n".join([cost, *tables])


def main() -> None:
    parser = record.flags(__doc__)
    add = parser.add_argument
    parser.set_defaults(out=Path("benchmarks/results/speedrun.json"))
    add("what", choices=("train", "fit", "measure", "table"))
    add("file", nargs="?", type=Path, help="result of which to print the table")
    add("--work", type=Path, default=Path("runs/speedrun"))
    add("--data-path")
    add("--options", type=Path, help="result of benchmarks.gpu_options")
    add("--option", nargs="+", choices=TRAINING, help="options to use, in this order")
    add("--inception", type=Path)
    add("--resnet56", type=Path)
    add("--features", nargs="+", default=["edm", "pytorch-fid"], help="the first chooses")
    add("--device", default="auto")
    add("--minutes", type=float, default=1e6, help="end then")
    add("--set", type=json.loads, default={}, metavar="JSON", help="changes of the preset")
    add("--choose", type=int, default=5000, help="samples of every choice")
    add("--num", type=int, default=50_000, help="samples of the final measurements")
    add("--guide", type=int, default=len(GUIDANCE), help="ways of guidance to try")
    add("--at-once", type=int, default=512, help="images at once in sampling")
    flags = parser.parse_args()
    if flags.what == "table":
        print(table(record.read(flags.file)))
        return
    flags.work.mkdir(parents=True, exist_ok=True)
    job = Job(flags)
    {"train": train, "fit": fit, "measure": measure}[flags.what](job)
    if flags.what != "fit" and "training" in job.record:
        print(table(job.record))


if __name__ == "__main__":
    main()

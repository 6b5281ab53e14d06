"""Everything that one source tree computes, as arrays: python probe.py OUT MODELS PICTURE PART...

`python -m tests.golden` runs this file twice, with PYTHONPATH naming one tree and then the other.
It may only use what is meant to stay: the command line, `unnoise.load(..).sample(..)`, the files of
a run folder, and the names in PRESETS, SAMPLERS and SPACINGS.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from safetensors.numpy import load_file

FIXTURE = Path(__file__).parent.parent / "fixtures" / "run-0.1"
CLOCK = re.compile(r"(^|[._])(sec|seconds|img_per_sec|finished|environment)($|\.)")

Parts = dict[str, np.ndarray]
"""What a row consists of, by name."""
Jobs = Iterator[tuple[str, Callable[[], Parts]]]
"""A row's name, and what computes it."""

TINY = """ --network.base-channels 8 --network.norm-groups 4 --batch-size 16 --kimg 0.384
  --train.warmup-kimg 0.1 --train.ema-halflife-kimg 0.1 --train.log-every-kimg 0.048
  --train.sample-every-kimg 0.192 --train.checkpoint-every-kimg 0.064 --sample.steps 2
  --device cpu"""
"""24 steps of a small network: a log line every 3, a checkpoint every 4, samples every 12."""
ON_DIGITS = """ --data.source digits --data.flip False --network.attention-sizes 4
  --train.time None --train.epochs None --kimg 0.064 --train.precision fp32"""
"""4 steps of any preset."""

FP32 = "digits --train.precision fp32"
RUNS = {
    "fp32 adamw": f"{FP32} --train.optimizer adamw",
    "fp32 muon": f"{FP32} --train.optimizer muon",
    "bf16 adamw": "digits --train.precision bf16 --train.optimizer adamw",
    "bf16 muon": "digits --train.precision bf16 --train.optimizer muon",
    "ddpm": f"{FP32} --objective ddpm",
    "iddpm": f"{FP32} --objective iddpm",
    "edm, learned weighting": f"{FP32} --objective edm",
    "flow": f"{FP32} --objective flow",
    "min_snr": f"{FP32} --diffusion.weighting min_snr --train.lr-schedule linear"
    " --train.no-stratified --train.label-dropout 0.3",
    "micro-batches, averages": f"{FP32} --train.micro-batch 6 --train.lr-decay 0.5"
    " --train.optimizer adamw --train.ema-also-kimg 0.05 0.2 --train.weight-decay 0.01",
}
"""Training runs, each also stopped and resumed."""

RANKS = {
    "2 ranks": f"{FP32} --objective edm",
    "2 ranks, fsdp": f"{FP32} --train.optimizer adamw --train.parallel fsdp --train.micro-batch 6",
}
MODELS = {
    "cosine": f"{FP32} --objective v",
    "edm": f"{FP32} --objective edm",
    "flow": f"{FP32} --objective flow",
    "iddpm": f"{FP32} --objective iddpm",
}
"""Models that BASE trains, for both trees to sample from."""

ONE_NOISE = {"sampler": "heun", "steps": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    "eta": {"sampler": "ddim", "eta": 0.5},
    "no clipping": {"clip_x0": False},
    "dynamic threshold": {"dynamic_threshold": 0.9},
    "guidance interval": {"guidance_scale": 3.0, "guidance_interval": (0.3, 5.0)},
    "noises": {"noises": (20.0, 4.0, 1.0, 0.3, 0.05)},
    "churn": {**ONE_NOISE, "churn": 5.0},
    "churn range, noise": {
        **ONE_NOISE, "churn": 5.0, "churn_range": (0.2, 8.0), "churn_noise": 1.01,
    },
    "label": {"label": 3, "guidance_scale": 2.0},
    "label none": {"label": "none", "guidance_scale": 1.0},
    **{f"tuned {name}": {"sampler": name} for name in ("fast", "balanced", "best", "nfe_10")},
}  # fmt: skip
EDITS = {
    "inpaint box": "inpaint digits PICTURE --box 2,2,4,4 --resample 2 --seeds 0-1",
    "inpaint mask": "inpaint digits PICTURE --mask PICTURE --seeds 0-1 --label 3",
    "outpaint": "outpaint digits PICTURE --extend 2,0,3,4 --seeds 0-1",
    "image": "image digits PICTURE --strength 0.6 --seeds 0-1 --sampler dpmpp_2m",
    "interpolate": "interpolate digits PICTURE 5 --frames 4 --animate gif",
    "reconstruct": "reconstruct digits PICTURE --iterations 2",
    "variations": "variations digits PICTURE --strength 0.4 --seeds 0-1",
    "variations of a seed": "variations digits 7 --seeds 0-1 --sampler heun",
    "morph": "morph digits 7 --from 1 --to 8 --frames 4",
}
EVALUATIONS = {
    "digits": "--sampler fast -n 64 --likelihood-num 4 --features tiny",
    "edm": "--steps 4 -n 32 --likelihood-num 8 --likelihood-terms 4 --features tiny",
    "iddpm": "--steps 4 -n 32 --likelihood-num 8 --likelihood-terms 4 --features tiny",
}


def unnoise(*words: str) -> int:
    """`python -m unnoise`, without the seconds of another process; gives its exit code."""
    sys.argv = ["unnoise", *words]
    with open("log.txt", "a") as log, contextlib.redirect_stdout(log):
        try:
            runpy.run_module("unnoise", run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def done(*words: str) -> None:
    """A command that must succeed."""
    code = unnoise(*words)
    assert code == 0, f"unnoise {' '.join(words)}: exit code {code}"


# --- what files say


def pixels(folder: Path) -> Parts:
    """The pictures of a folder; not their bytes, which the versions in their texts are part of."""
    files = sorted(path for path in folder.glob("*") if path.suffix in (".png", ".gif"))
    assert files, f"{folder} has no pictures"
    frames = {path.name: ImageSequence.Iterator(Image.open(path)) for path in files}
    return {
        name: np.stack([np.asarray(f.convert("RGB")) for f in each])
        for name, each in frames.items()
    }


def numbers(value: Any, where: str = "") -> Parts:
    """The numbers in a JSON value, but for what a clock says."""
    if CLOCK.search(where):
        return {}
    if isinstance(value, bool | int | float):
        return {where: np.array(value, np.float64)}
    items = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())(value)
    inner = (numbers(each, f"{where}.{key}".strip(".")) for key, each in items)
    return {name: number for parts in inner for name, number in parts.items()}


def tensors(path: Path) -> Parts:
    """The tensors of a file, and their names as one part, so that a renamed one is a difference."""
    values = load_file(path)
    named = {f"{path.stem}/{name}": value for name, value in values.items()}
    return {**named, f"{path.stem} names": np.array(sorted(values))}


def run_folder(folder: Path) -> Parts:
    """Weights, averages and optimizer of the last checkpoint, models, metrics and sample grids."""
    last = max(folder.glob("checkpoints/step-*"))
    state = json.loads((last / "state.json").read_text())
    parts = numbers({k: v for k, v in state.items() if not isinstance(v, dict)}, "state")
    for path in [*last.glob("*.safetensors"), *folder.glob("model*.safetensors")]:
        parts |= tensors(path)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    parts |= numbers([json.loads(line) for line in lines], "metrics")
    return {**parts, **pixels(folder / "samples"), "checkpoint": np.array(last.name)}


# --- rows


def training() -> Jobs:
    """Short runs, each also stopped and resumed; every preset's network; two ranks."""
    from unnoise import PRESETS

    for name, words in RUNS.items():
        yield f"train {name}", partial(trained, words + TINY)
        yield f"train {name}, resumed", partial(trained, words + TINY, stop=True)
    for name in sorted(PRESETS.keys() - {"digits", "pictures"}):
        yield f"train preset {name}", partial(trained, name + TINY + ON_DIGITS)
    for name, words in RANKS.items():
        yield f"train {name}", partial(trained, words + TINY, ranks=2)


def trained(words: str, stop: bool = False, ranks: int = 1) -> Parts:
    folder = Path(tempfile.mkdtemp(dir=".")) / "run"
    command = ["train", *words.split(), "--out", str(folder)]
    if stop:
        stopped(command, folder)
    if ranks == 1:
        done(*command)
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc-per-node", str(ranks), "-m", "unnoise"]
        with open("log.txt", "a") as log:
            subprocess.run([*torchrun, *command], stdout=log, check=True)
    return run_folder(folder)


def stopped(command: list[str], folder: Path) -> None:
    """Train, with a Ctrl-C after the first checkpoint; it does not matter at which step."""

    def press() -> None:
        while not any(folder.glob("checkpoints/step-*")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    code = unnoise(*command)
    assert code == 130, f"{folder}: not stopped, exit code {code}"


def sampling(models: Path, picture: Path) -> Jobs:
    """Every sampler and spacing on every model, every setting, the commands, every edit."""
    import unnoise as package
    from unnoise.diffusion.grids import SPACINGS
    from unnoise.diffusion.samplers import SAMPLERS

    folders = {name: models / name for name in MODELS} | {"digits": "digits", "run-0.1": FIXTURE}
    loaded = {name: package.load(folder, "cpu") for name, folder in folders.items()}
    for name, model in loaded.items():
        for sampler in SAMPLERS:
            scales = {"plain": {"guidance_scale": 1.0}, "guided": {"guidance_scale": 2.0}}
            yield f"sample {name} {sampler}", partial(made, model, scales, sampler=sampler, steps=6)
        for spacing in SPACINGS:
            counts = {f"{steps} steps": {"steps": steps} for steps in (1, 3, 10)}
            yield f"sample {name} {spacing}", partial(made, model, counts, spacing=spacing)
    guided = {"guide": loaded["cosine"], "guidance_scale": 2.0}
    for name, settings in {**SETTINGS, "autoguidance": guided}.items():
        yield f"sample digits {name}", partial(made, loaded["digits"], {"images": settings})
    for name, words in EDITS.items():
        command = ["edit", *words.replace("PICTURE", str(picture)).split()]
        yield f"edit {name}", partial(written, command)
    words = "sample digits --seeds 3,7 --batch-size 1 --animate gif --trajectory"
    yield "sample command", partial(written, words.split())
    yield "export --half", exported


def made(model: Any, variants: dict[str, dict[str, Any]], **common: Any) -> Parts:
    """16 images of every variant of the settings: two would hide small changes in their 8 bits."""
    return {k: model.sample(16, seed=1, **common, **v).numpy() for k, v in variants.items()}


def written(command: list[str]) -> Parts:
    """The pictures that a command writes."""
    out = tempfile.mkdtemp(dir=".")
    done(*command, "--device", "cpu", "--out", out)
    return pixels(Path(out))


def exported() -> Parts:
    done("export", "digits", "--half", "--out", "half.safetensors")
    return tensors(Path("half.safetensors"))


def evaluation(models: Path) -> Jobs:
    """The numbers of evaluation.json."""
    for name, words in EVALUATIONS.items():
        target = name if name == "digits" else str(models / name)
        yield f"evaluate {name}", partial(evaluated, [target, *words.split()])


def evaluated(words: list[str]) -> Parts:
    out = tempfile.mkdtemp(dir=".")
    done("evaluate", *words, "--device", "cpu", "--out", out)
    return numbers(json.loads(Path(out, "evaluation.json").read_text()))


def train_models(models: Path) -> None:
    for name, words in MODELS.items():
        done("train", *(words + TINY).split(), "--out", str(models / name))


def main() -> None:
    import unnoise as package

    source = Path(os.environ["PYTHONPATH"])
    assert source in Path(package.__file__).parents, f"{package.__file__} is not from {source}"
    out, models, picture, *parts = (Path(word) for word in sys.argv[1:])
    jobs = {
        "training": training,
        "sampling": partial(sampling, models, picture),
        "evaluation": partial(evaluation, models),
    }
    if not parts:
        return train_models(models)
    rows = {}
    for name, job in itertools.chain.from_iterable(jobs[part.name]() for part in parts):
        try:
            values = job()
        except Exception as error:  # noqa: BLE001  (it is the row's, and the others go on)
            traceback.print_exc()
            values = {"error": np.array(f"{type(error).__name__}: {error}")}
        rows |= {f"{name}|{key}": value for key, value in values.items()}
    np.savez(out, **rows)


if __name__ == "__main__":
    main()

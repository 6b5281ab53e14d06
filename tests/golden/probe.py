"""Everything that one source tree computes, as arrays: python probe.py OUT MODELS PICTURE PART...

`python -m tests.golden` runs this file twice, with PYTHONPATH naming one tree and then the other.
It may only use what is meant to stay: the command line, `unnoise.load(..).sample(..)`, the files of
a run folder, and the names in PRESETS, SAMPLERS and SPACINGS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from safetensors.numpy import load_file

FIXTURE = Path(__file__).parent.parent / "fixtures" / "run-0.1"
CLOCK = re.compile(r"(^|[._])(sec|seconds|img_per_sec|finished|environment)($|\.)")

Parts = dict[str, np.ndarray]
"""What a row consists of, by name."""

TINY = """--network.base-channels 8 --network.norm-groups 4 --batch-size 16 --kimg 0.384
  --train.warmup-kimg 0.1 --train.ema-halflife-kimg 0.1 --train.log-every-kimg 0.048
  --train.sample-every-kimg 0.192 --train.checkpoint-every-kimg 0.064 --sample.steps 2
  --device cpu"""
"""24 steps of a small network: a log line every 3, a checkpoint every 4, samples every 12."""

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
    "min_snr, transport": f"{FP32} --diffusion.weighting min_snr --train.lr-schedule linear"
    " --train.pairing optimal_transport --train.no-stratified --train.label-dropout 0.3",
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
    "eta": {"eta": 0.5},
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
    "digits": "--sampler fast -n 64 --likelihood bound,ode --likelihood-num 4 --features tiny",
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
    items = value.items() if isinstance(value, dict) else enumerate(value) if value else ()
    if isinstance(value, str):
        items = ()
    return {
        k: v for key, each in items for k, v in numbers(each, f"{where}.{key}".strip(".")).items()
    }


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


def training() -> Iterator[tuple[str, Parts]]:
    """Short runs, each also stopped and resumed; every preset's network; two ranks."""
    from unnoise import PRESETS

    for number, (name, words) in enumerate(RUNS.items()):
        whole, halves = Path(f"whole-{number}"), Path(f"halves-{number}")
        done("train", *words.split(), *TINY.split(), "--out", str(whole))
        yield f"train {name}", run_folder(whole)
        stopped(*words.split(), *TINY.split(), "--out", str(halves))
        done("train", *words.split(), *TINY.split(), "--out", str(halves))
        yield f"train {name}, resumed", run_folder(halves)
    for name in sorted(PRESETS.keys() - {"digits", "pictures"}):
        words = f"{name} --data.source digits --data.flip False --network.attention-sizes 4"
        short = "--train.time None --train.epochs None --kimg 0.064 --train.precision fp32"
        done("train", *words.split(), *TINY.split(), *short.split(), "--out", f"preset-{name}")
        yield f"train preset {name}", run_folder(Path(f"preset-{name}"))
    for name, words in RANKS.items():
        folder = Path(name.replace(", ", "-").replace(" ", "-"))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", "-m", "unnoise", "train", *words.split()]
        with open("log.txt", "a") as log:
            subprocess.run([*command, *TINY.split(), "--out", str(folder)], stdout=log, check=True)
        yield f"train {name}", run_folder(folder)


def stopped(*words: str) -> None:
    """Train, with a Ctrl-C after the first checkpoint; it does not matter at which step."""
    folder = Path(words[-1])

    def press() -> None:
        while not any(folder.glob("checkpoints/step-*")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    code = unnoise("train", *words)
    assert code == 130, f"{folder}: not stopped, exit code {code}"


def sampling(models: Path, picture: Path) -> Iterator[tuple[str, Parts]]:
    """Every sampler on every model, every spacing and setting, the commands, every edit."""
    import unnoise as package
    from unnoise.diffusion.grids import SPACINGS
    from unnoise.diffusion.samplers import SAMPLERS

    folders = {name: models / name for name in MODELS} | {"digits": "digits", "run-0.1": FIXTURE}
    loaded = {name: package.load(folder, "cpu") for name, folder in folders.items()}
    digits = loaded["digits"]

    def made(model: Any, **settings: Any) -> np.ndarray:
        """Two images, or the kind of error that there was."""
        try:
            return model.sample(2, seed=1, **settings).numpy()
        except ValueError as error:
            return np.array(type(error).__name__)

    for name, model in loaded.items():
        for sampler in SAMPLERS:
            common = {"sampler": sampler, "steps": 6}
            scales = {"plain": 1.0, "guided": 2.0}
            parts = {k: made(model, guidance_scale=v, **common) for k, v in scales.items()}
            yield f"sample {name} {sampler}", parts
        for spacing in SPACINGS:
            steps = {f"{n} steps": made(model, spacing=spacing, steps=n) for n in (1, 3, 10)}
            yield f"sample {name} {spacing}", steps
    for name, settings in SETTINGS.items():
        yield f"sample digits {name}", {"images": made(digits, **settings)}
    guided = made(digits, guide=loaded["cosine"], guidance_scale=2.0)
    yield "sample digits autoguidance", {"images": guided}
    done("export", "digits", "--half", "--out", "half.safetensors")
    yield "export --half", tensors(Path("half.safetensors"))
    for name, words in EDITS.items():
        out = f"edit-{name}"
        done("edit", *words.replace("PICTURE", str(picture)).split(), "--out", out)
        yield f"edit {name}", pixels(Path(out))
    words = "digits --seeds 3,7 --batch-size 1 --animate gif --trajectory --out sampled"
    done("sample", *words.split())
    yield "sample command", pixels(Path("sampled"))


def evaluation(models: Path) -> Iterator[tuple[str, Parts]]:
    """The numbers of evaluation.json, one row for each of its parts."""
    for name, words in EVALUATIONS.items():
        target = name if name == "digits" else str(models / name)
        done("evaluate", target, *words.split(), "--device", "cpu", "--out", f"evaluation-{name}")
        record = json.loads(Path(f"evaluation-{name}", "evaluation.json").read_text())
        for part, value in record.items():
            if found := numbers(value, part):
                yield f"evaluate {name} {part}", found


def train_models(models: Path) -> None:
    for name, words in MODELS.items():
        done("train", *words.split(), *TINY.split(), "--out", str(models / name))


def main() -> None:
    import unnoise as package

    source = Path(os.environ["PYTHONPATH"])
    assert source in Path(package.__file__).parents, f"{package.__file__} is not from {source}"
    out, models, picture, *parts = (Path(word) for word in sys.argv[1:])
    probes = {
        "training": training,
        "sampling": lambda: sampling(models, picture),
        "evaluation": lambda: evaluation(models),
    }
    if not parts:
        return train_models(models)
    rows = {}
    for part in parts:
        for name, values in probes[part.name]():
            rows |= {f"{name}|{key}": value for key, value in values.items()}
    np.savez(out, **rows)


if __name__ == "__main__":
    main()

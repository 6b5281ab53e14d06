"""Command lines: every flag with values that it cannot have, other tools' flags, wrong words."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.attacks.harness import Attack, Ending
from tests.attacks.pictures import good
from unnoise import records
from unnoise.config import DiffusionConfig, SampleConfig, TrainConfig
from unnoise.data.config import DataConfig
from unnoise.evaluation.settings import Settings
from unnoise.networks.config import UNetConfig

VALUES = ("nan", "inf", "-1", "0", "1e400", "-1e400", "10" * 40, "", "x", "1e-310", "--", "None",
          "\x1b[31mred", "é🙂", "0x10", "1,2", "9" * 12, "1_000", " 8 ", "true")  # fmt: skip
SHORT = ("--device", "cpu", "--train.kimg", "0.02", "--train.batch-size", "4", "--train.time", "1s",
         "--network.base-channels", "8", "--sample.steps", "1", "--out", "run")  # fmt: skip
TRAIN: dict[str, Any] = {"train": TrainConfig, "network": UNetConfig, "diffusion": DiffusionConfig,
                         "data": DataConfig, "sample": SampleConfig}  # fmt: skip
FOREIGN = {
    "--learning-rate": "lr", "--cfg": "guidance-scale", "--class": "label", "--wandb": "trackers",
    "--gpu": "device", "--fp16": "precision", "--resolution": "image-size", "--ema": "ema",
    "--batch": "batch-size", "--workers": "", "--dataset": "data", "--model": "", "--prompt": "",
    "--steps-per-epoch": "", "--num_workers": "",
    "--cfg-scale": "guidance-scale", "--seed": "seed", "--output": "out", "--epoch": "epochs",
}  # fmt: skip
"""What other tools call a flag -> a part of our name, which the message must say."""
ONLY = {
    "--learning-rate": "train", "--wandb": "train", "--fp16": "train", "--resolution": "train",
    "--ema": "train", "--epoch": "train", "--dataset": "train",
    "--cfg": "sample", "--cfg-scale": "sample", "--class": "sample",
}  # fmt: skip
"""The command that has such a flag, where only one has."""


def attacks(shared: Path) -> Iterator[Attack]:
    """Flags of sample, train, evaluate and edit; counts beyond all measure; words that are none."""
    draw = random.Random(0)
    for name in _fields(SampleConfig):
        for value in draw.sample(VALUES, 6):
            words = ("sample", "digits", "-n", "1", f"--{name}", value)
            yield Attack(f"sample --{name} {value[:12]!r}", words, "either")
    for group, kind in TRAIN.items():
        for name in _fields(kind):
            for value in draw.sample(VALUES, 2):
                words = ("train", "digits", *SHORT, f"--{group}.{name}", value)
                yield Attack(f"train --{group}.{name} {value[:12]!r}", words, "either")
    for name in _fields(Settings):
        value = draw.choice([value for value in VALUES if value not in ("0", "None", "true")])
        yield Attack(
            f"evaluate --{name} {value[:12]!r}",
            ("evaluate", "digits", "--num", "2", f"--{name}", value),
            "either",
        )
    yield from _absurd()
    yield from _words()
    yield from _places()


def _fields(kind: Any) -> list[str]:
    return [each.name.replace("_", "-") for each in dataclasses.fields(kind)]


SAMPLE = f"""\
--num {10**9}
--num {"9" * 30}
--num 1e9
--num 0
--steps {10**12}
--batch-size {10**12}
--scale 100000
--seeds 0-999999999
--seeds 0-9999999,0-9999999
--seeds 5-1
--seeds -1
--seeds {2**70}
--guidance-scale 1e39
--noises 1 2 3
--label 3.7
--label -1
--label 10
--label cat"""
ENDS = f"""\
log-every-kimg 1e-310
lr 100
lr 1e300
batch-size {"9" * 12}
kimg 1e-310
epochs 1e308
time {"9" * 400}s
time -5m
time 5
time 1h1h
ema-also-kimg 1 1
betas 0.9"""


def _absurd() -> Iterator[Attack]:
    for line in SAMPLE.splitlines():
        flag, value = line.split(" ", 1)
        words = (
            "sample",
            "digits",
            *(("-n", "1") if flag not in ("--num", "--seeds") else ()),
            flag,
            *value.split(),
        )
        yield Attack(
            f"sample {flag} {value[:16]}", words, "either" if flag == "--batch-size" else "refused"
        )
    for kind in ("interpolate", "morph"):
        ends = ("--from", "1", "--to", "2") if kind == "morph" else ()
        words = ("edit", kind, "digits", *("1", "2")[: 1 + (kind != "morph")], *ends)
        for frames in ("1000000000", "0", "-3", "1e9", "9" * 40):
            yield Attack(f"edit {kind} --frames {frames[:12]}", (*words, "--frames", frames))
    for line in ENDS.splitlines():
        flag, value = line.split(" ", 1)
        words = ("train", "digits", *SHORT, f"--train.{flag}", *value.split(" "))
        yield Attack(f"train --train.{flag} {value[:12]}", words, "either")
    for size in ("0", "-8", "100000", "9" * 30, "8.5", "8x8"):
        yield Attack(
            f"train --image-size {size[:9]}", ("train", "digits", *SHORT, "--image-size", size)
        )
    for channels in ("1000000000", "0", "-1", "7"):
        words = ("train", "digits", *SHORT, "--network.base-channels", channels)
        yield Attack(f"train --network.base-channels {channels}", words, "either")
    for budget in ("0s", "-1h", "x", "9" * 300 + "h", "nan", ""):
        yield Attack(f"plan --budget {budget[:9]!r}", ("plan", "digits", "--budget", budget))
    for num in ("0", "1", "-1", "x", "9" * 30, "1000000000"):
        yield Attack(f"evaluate --num {num[:9]}", ("evaluate", "digits", "--num", num))


WORDS = (
    *("sampel digits", "train", "sample", "edit", "edit inpaint", "edit paint digits", "evaluate"),
    *("compare", "compare x", "tune-sampler x", "export x", "info", "report x", "--nope"),
    *("sample digits extra", "train digits digits", "sample --num 3", "sample digits --num"),
    *("sample digits --num 3 --num", "train digist", "sample digits --=3", "sample digits -"),
    *("sample digits ---num 3", "sample digits --num=3=4", "train digits --kimg"),
    *("sample README.md", "sample digits --import nothing.py", "sample digits --device cuda"),
    *("sample digits --device cuda:99", "sample digits --device tpu", "train digits --out "),
    *("sample digits --device \x1b[31m", "sample digits \x1b[31mred", "sample \x1b[31mred"),
    *("\x1b[31mred", "train digits --train.stratified -1", "edit interpolate digits 1 2 --out "),
)


def _words() -> Iterator[Attack]:
    for flag, ours in FOREIGN.items():
        for command in ("train", "sample"):
            if (command, flag) == ("train", "--seed"):
                continue
            there = flag not in ONLY or ONLY[flag] == command
            told = lambda e, o=ours if there else "": _suggests(e, o)
            yield Attack(f"{command} {flag}", (command, "digits", flag, "1"), "refused", None, told)
    near = lambda e: None if "ddim" in e.err else f"ddim is nearest: {e.err}"
    yield Attack(
        "sample --sampler ddmi", ("sample", "digits", "--sampler", "ddmi"), "refused", None, near
    )
    text = lambda here: (here / "README.md").write_text("# words\n" * 99)
    for words in (tuple(line.split(" ")) for line in WORDS):
        code = "usage" if words == ("edit",) else "refused"
        yield Attack(" ".join(words)[:40].replace("\x1b", "ESC"), words, code, text)


def _suggests(ending: Ending, ours: str) -> str | None:
    """Our name where there is one, and else no nonsense."""
    if ours:
        return None if ours in ending.err else f"expected {ours}"
    return f"suggests {ending.err}" if "did you mean" in ending.err else None


def _places() -> Iterator[Attack]:
    """Where pictures and runs may not be written."""
    kept = lambda e: None if (e.folder / "mine.txt").read_text() == "mine" else "the file is gone"
    write = lambda here: (here / "mine.txt").write_text("mine")
    commands = {
        "sample": ("sample", "digits", "-n", "1"),
        "train": ("train", "digits", *SHORT[:-2]),
        "data": ("data", "digits"),
        "export": ("export", "model.safetensors"),
        "edit": ("edit", "interpolate", "digits", "1", "2", "--frames", "2"),
    }

    def prepare(here: Path) -> None:
        write(here)
        os.mkfifo(here / "device")  # stands for all that is no file: root would replace /dev/null
        shutil.copy(records.bundled()["digits"], here / "model.safetensors")

    for name, words in commands.items():
        for place in ("mine.txt", "mine.txt/below", "device", "/proc/nothing", "/sys/x"):
            yield Attack(
                f"{name} --out {place}", (*words, "--out", place), "refused", prepare, kept
            )
        yield Attack(
            f"{name} --out of 5000", (*words, "--out", "x" * 5000), "refused", prepare, kept
        )
    photo = lambda here: good(here / "p")
    yield Attack(
        "data p --out p/good-0.png", ("data", "p", "--out", "p/good-0.png"), "refused", photo
    )

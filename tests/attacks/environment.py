"""Environments, outputs and places that a shell or a cluster gives: each in a Python of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.attacks.harness import Attack, Ending, Expected

SAMPLE = ("sample", "digits", "-n", "1", "--steps", "2", "--out", "out")
TRAIN = ("train", "digits", "--kimg", "0.1", "--device", "cpu", "--network.base-channels", "8",
         "--sample.steps", "1", "--out", "run", "--train.log-every-kimg", "0.01",
         "--train.batch-size", "8")  # fmt: skip


def attacks(shared: Path) -> Iterator[Attack]:
    """Variables, encodings, closed and full outputs, folders that cannot be read or written."""
    base = {
        "PATH": os.environ["PATH"], "HOME": str(shared), "UNNOISE_CACHE": str(shared / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8",
    }  # fmt: skip

    def sample(name: str, expected: Expected = "done", without: str = "", **more: str) -> Attack:
        environ = {key: value for key, value in {**base, **more}.items() if key != without}
        return Attack(name, SAMPLE, expected, environ=environ)

    yield sample("no HOME", without="HOME")
    yield sample("no HOME and no cache", HOME="", UNNOISE_CACHE="")
    yield sample("HOME that is not there", HOME="/nowhere")
    for code in ("ascii", "latin-1", "utf-16", "cp1252"):
        yield sample(f"output in {code}", PYTHONIOENCODING=code)
    yield sample("LANG=C", LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        for value in ("", " ", "0", "1", "2", "-1", "x", "1.5", "9" * 40, "\u0663"):
            alone = name != "WORLD_SIZE" or value.strip() in ("", "0", "1")
            wrong = lambda e, n=name: None if not e.code or n in e.err else f"{n} is not named"
            environ = {**base, name: value}
            expected: Expected = "done" if alone else "refused"
            yield Attack(f"{name}={value!r} alone", SAMPLE, expected, None, wrong, environ)
    yield sample("a cache that is a file", "either", UNNOISE_CACHE="/proc/version")
    yield sample("COLUMNS=1", COLUMNS="1")
    yield sample("COLUMNS=x", COLUMNS="x")
    yield sample("TERM=", TERM="")
    yield sample("OMP_NUM_THREADS=0", "either", OMP_NUM_THREADS="0")

    def trained(ending: Ending) -> str | None:
        return None if (ending.folder / "run" / "model.safetensors").exists() else "no model"

    for name, shell in OUTPUTS.items():
        yield Attack(f"train {name}", TRAIN, "done", None, trained, base, shell)
        yield Attack(f"sample {name}", SAMPLE, "either", None, None, base, shell)
        yield Attack(f"version {name}", ("--version",), "either", None, None, base, shell)
        yield Attack(f"help {name}", ("train", "--help"), "either", None, None, base, shell)
    for name, shell in PLACES.items():
        words = ("data", "'a folder'", "--size", "8", "--out", "m.png")
        yield Attack(f"data: {name}", words, "either", _pictures, None, base, shell)


OUTPUTS = {
    "into head": "{{ {} ; echo $? > code; }} | head -1 > /dev/null; exit $(cat code)",
    "to a full device": "{} > /dev/full",
    "to full devices": "{} > /dev/full 2> /dev/full",
    "without stdout": "{} >&-",
    "without stderr": "{} 2>&-",
    "without both": "{} >&- 2>&-",
    "without stdin": "{} <&-",
}
PLACES = {
    "a folder without permission":
        "chmod 0 'a folder'; {}; code=$?; chmod 755 'a folder'; exit $code",
    "the current folder is gone": "mkdir gone; cd gone; rmdir ../gone; {}",
    "no file descriptors": "ulimit -n 16; {}",
    "little memory": "ulimit -v 9000000; {}",
    "no file larger than 1 kB": "ulimit -f 1; {}",
}  # fmt: skip


def _pictures(here: Path) -> None:
    (here / "a folder").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "a folder" / f"{i}.png")

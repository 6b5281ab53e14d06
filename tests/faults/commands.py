"""kill -9 of `sample`, `export`, `evaluate` and of a cache that fills; and then the same again."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from tests.faults import harness
from tests.faults.harness import Fault, Lab, Problems
from unnoise import cli
from unnoise.checkpoint import fingerprint

SAMPLE = ("sample", "digits", "-n", "24", "--steps", "4", "--batch-size", "4", "--out", "out")
EVALUATE = ("evaluate", "digits", "--num", "300", "--features", "tiny", "--no-likelihood",
            "--out", "out", "--steps", "3")  # fmt: skip
COMMANDS = {
    "sample": SAMPLE,
    "export": ("export", "digits", "--out", "out/small.safetensors", "--half"),
    "evaluate": EVALUATE,
    "cache": ("data", "pictures", "--size", "16", "--cache", "out/cache", "--out", "out/m.png"),
}


def trial(lab: Lab, number: int) -> Problems:
    """Killed at a random moment, once or twice; the same command then leaves what it should."""
    name = list(COMMANDS)[number % len(COMMANDS)]
    draw, folder = lab.random("commands", number), lab.fresh("commands")
    known = lab.once(f"command {name}", lambda run: _run(run, name)[0])
    took = float((known / "took").read_text())
    run = folder / "run"
    _prepare(run)
    for _ in range(draw.choice((1, 1, 2))):
        child = _start(run, name)
        harness.pause(draw.random() * took)
        child.send(signal.SIGKILL)
        child.wait()
    problems, _ = _run(run, name)
    return problems or _different(known, run)


def _prepare(run: Path) -> None:
    (run / "pictures").mkdir(parents=True, exist_ok=True)
    for i in range(150):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = run / "pictures" / f"{i:03d}.png"
        if not path.exists():
            Image.fromarray(pixels).save(path)
            os.utime(path, (1, 1))


def _start(run: Path, name: str) -> harness.Child:
    def work() -> int:
        os.chdir(run)
        return cli.main(list(COMMANDS[name]))

    return harness.fork(work, run.with_suffix(""))


def _run(run: Path, name: str) -> tuple[Problems, float]:
    """Run a command to its end."""
    _prepare(run)
    began = time.monotonic()
    child = _start(run, name)
    code = child.wait()
    took = time.monotonic() - began
    (run / "took").write_text(str(took))
    return [] if code == 0 else [f"{name}: exit code {code}: {child.err[-400:]!r}"], took


def _different(known: Path, run: Path) -> Problems:
    """Other files, or other contents but for clocks."""
    one, other = (_files(folder / "out") for folder in (known, run))
    names = [f"left over: {n}" for n in other.keys() - one.keys()]
    names += [f"missing: {n}" for n in one.keys() - other.keys()]
    return names + [f"{n} differs" for n in one.keys() & other.keys() if one[n] != other[n]]


def _files(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(_unclocked(json.loads(content))).encode()
            if path.suffix == ".safetensors":  # whose header has no order
                content = fingerprint(load_file(path)).encode()
            found[str(path.relative_to(folder))] = content
    return found


def _unclocked(value: object) -> object:
    if isinstance(value, dict):
        clocks = ("seconds", "finished", "sec", "pixels", "stamp")
        return {k: _unclocked(v) for k, v in value.items() if k not in clocks}
    return [_unclocked(v) for v in value] if isinstance(value, list) else value


FAULT = Fault(
    "commands",
    40,
    4,
    "killed while it samples, exports, evaluates, fills the cache: the same again is bitwise",
    trial,
)

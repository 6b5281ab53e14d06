"""One trial's tools: a forked trainer that tells its steps, and a comparison of two runs.

The process of the suite imports torch once and forks for every trial, so that a trial costs its
steps alone. It never computes a gradient itself.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (imported before the forks, as all below: AdamW asks for it)

import unnoise.api
import unnoise.cli.train  # noqa: F401
from unnoise import checkpoint, cli
from unnoise.errors import CheckpointError
from unnoise.training import loop

STEPS, BATCH, EVERY = 30, 8, 5
"""Steps of a run, images of a step, steps between checkpoints."""
FLAGS = (
    "--device", "cpu", "--network.base-channels", "8", "--train.batch-size", str(BATCH),
    "--train.kimg", str(STEPS * BATCH / 1000), "--train.warmup-kimg", "0.1",
    "--train.ema-halflife-kimg", "0.1", "--train.log-every-kimg", str(3 * BATCH / 1000),
    "--train.sample-every-kimg", str(10 * BATCH / 1000),
    "--train.checkpoint-every-kimg", str(EVERY * BATCH / 1000), "--train.keep-checkpoints", "2",
    "--train.precision", "fp32", "--train.compile", "off", "--sample.steps", "1",
    "--sample.guidance-scale", "1",
)  # fmt: skip
CLOCKS = (
    "img_per_sec",
    "train_sec",
    "sample_sec",
    "record",
)  # record: a digest that covers the times
LIMIT_SEC = 60.0
"""No child may be silent for longer."""

Problems = list[str]


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    full: int
    subset: int
    compared: str
    trial: Callable[[Lab, int], Problems]


@dataclass
class Lab:
    """Where the trials run, and what they are compared with."""

    folder: Path
    seed: int = 0
    known: dict[str, Path] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    """What could not be done here, for the foot of the table."""

    def random(self, row: str, trial: int) -> random.Random:
        """Everything random of a trial."""
        return random.Random(f"{self.seed} {row} {trial}")

    def fresh(self, name: str) -> Path:
        """An empty place of that name; the run folder `run` is to lie in it."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def whole(self, *flags: str) -> Path:
        """The run folder of an undisturbed run with these flags beside FLAGS."""
        return self.once(f"whole {' '.join(flags)}", lambda run: finish(run, flags))

    def once(self, name: str, make: Callable[[Path], Problems]) -> Path:
        """A run folder that is made once and only copied after that."""
        if name not in self.known:
            run = self.fresh(f"known-{len(self.known)}") / "run"
            problems = make(run)
            assert not problems, (name, problems)
            self.known[name] = run
        return self.known[name]


@dataclass
class Child:
    """A forked trainer."""

    pid: int
    pipe: int
    texts: Path
    steps: list[int] = field(default_factory=list)
    """The steps it began, as it told them."""
    code: int | None = None

    def reached(self, step: int) -> bool:
        """Wait until it begins a step; False if it ended before."""
        while not self.steps or self.steps[-1] < step:
            if not self._hear(LIMIT_SEC):
                return False
        return True

    def _hear(self, limit_sec: float) -> bool:
        """Take note of one more step; False at its end."""
        if not select.select([self.pipe], [], [], limit_sec)[0]:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"process {self.pid} said nothing for {limit_sec} s")
        told = os.read(self.pipe, 4)
        if told:
            self.steps.append(struct.unpack("i", told)[0])
        return bool(told)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)  # not yet waited for, so the id is still its own

    def wait(self, limit_sec: float = LIMIT_SEC) -> int:
        """Its exit code (minus the signal that ended it), when it has ended."""
        while self._hear(limit_sec):
            pass
        os.close(self.pipe)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    @property
    def out(self) -> str:
        return self.texts.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        return self.texts.with_suffix(".err").read_text()

    def one_line(self, code: int, *parts: str) -> Problems:
        """What is wrong with its one-line error: exit code, lines on stderr, words in it."""
        problems = [] if self.code == code else [f"exit code {self.code}, expected {code}"]
        lines = self.err.splitlines()
        if len(lines) != 1 or not lines[0].startswith("unnoise: "):
            problems.append(f"expected one line on stderr, got {len(lines)}: {self.err[-400:]!r}")
        return problems + [f"no {part!r} in {self.err!r}" for part in parts if part not in self.err]


def command(run: Path, flags: Sequence[str] = ()) -> list[str]:
    """The arguments of `unnoise` for the run of the suite in that folder."""
    return ["train", "digits", "--out", str(run), *FLAGS, *flags]


def start(run: Path, flags: Sequence[str] = (), fault: Callable[[], None] | None = None) -> Child:
    """`unnoise train` in a forked process that tells its steps; `fault` is called in it first."""
    texts = run.with_suffix("")
    return fork(lambda: cli.main(command(run, flags)), texts, fault)


def fork(work: Callable[[], int], texts: Path, fault: Callable[[], None] | None = None) -> Child:
    """Some work in a forked process; its outputs go to files beside `texts`."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return Child(pid, reader, texts)
    code = 1
    try:
        os.close(reader)
        for number, suffix in ((1, ".out"), (2, ".err")):
            file = os.open(texts.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
        if fault is not None:
            fault()
        _tell_steps(writer)  # last, so that a step is told before a fault in it
        code = work()
    except BaseException:  # noqa: BLE001  (as the interpreter does at its end)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)  # never back into the suite


def _tell_steps(pipe: int) -> None:
    before_step(lambda state: os.write(pipe, struct.pack("i", state.counters.step)))


def before_step(call: Callable[[Any], object]) -> None:
    """In a forked trainer: call this with the TrainState before every step."""
    real = loop.train_step

    def step(objective: Any, state: Any, batch: Any, lr: float) -> Any:
        call(state)
        return real(objective, state, batch, lr)

    loop.train_step = step


def finish(
    run: Path, flags: Sequence[str] = (), fault: Callable[[], None] | None = None
) -> Problems:
    """Run (on) to the end; what went wrong."""
    child = start(run, flags, fault)
    code = child.wait()
    return [] if code == 0 else [f"not finished, exit code {code}: {child.err[-600:]!r}"]


def resumed(run: Path, whole: Path, flags: Sequence[str] = ()) -> Problems:
    """Run on to the end, and compare with the undisturbed run."""
    return finish(run, flags) or different(whole, run)


def different(a: Path, b: Path) -> Problems:
    """How two finished runs differ: weights, optimizer, counters, metrics, pictures, model."""
    if not steps_of(b):
        return ["no checkpoint is there"]
    one, other = (checkpoint.checkpoints(run / "checkpoints")[-1] for run in (a, b))
    problems = (
        [] if one.name == other.name else [f"last checkpoint is {other.name}, expected {one.name}"]
    )
    try:
        for path in checkpoint.checkpoints(b / "checkpoints"):
            checkpoint.verify(path)
        if _model(a) != _model(b):
            problems.append("model.safetensors differs")
    except CheckpointError as error:
        return [*problems, str(error)]
    for name in ("network", "ema", "optimizer"):
        if (one / f"{name}.safetensors").read_bytes() != (
            other / f"{name}.safetensors"
        ).read_bytes():
            problems.append(f"{name} differs")
    if _state(one) != _state(other):
        problems.append("state.json differs")
    if curve(a) != curve(b):
        problems.append("metrics.jsonl differs")
    pictures = [{p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (a, b)]
    if pictures[0] != pictures[1]:
        problems.append("samples differ")
    return problems + [f"left over: {p.relative_to(b)}" for p in b.rglob(".*") if p.name != ".lock"]


def curve(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    return [
        _unclocked(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def _unclocked(value: Any) -> Any:
    if not isinstance(value, dict):
        return repr(value)  # nan is nan
    return {k: _unclocked(v) for k, v in value.items() if k not in CLOCKS}


def _state(path: Path) -> dict[str, Any]:
    return _unclocked(json.loads((path / "state.json").read_text()))


def _model(run: Path) -> dict[str, Any]:
    return _unclocked(checkpoint.read_model(run / checkpoint.MODEL_FILE)[1])


def steps_of(run: Path) -> list[int]:
    """The steps of which there is a checkpoint."""
    return [
        int(path.name.removeprefix("step-")) for path in checkpoint.checkpoints(run / "checkpoints")
    ]


def pause(sec: float) -> None:
    """Wait without the scheduler's grain."""
    end = time.perf_counter() + sec
    while time.perf_counter() < end:
        pass

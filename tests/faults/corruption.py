"""Damage to the files of a run folder: the newest checkpoint, or the model file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import harness
from tests.faults.harness import Fault, Lab, Problems
from unnoise import checkpoint
from unnoise.errors import CheckpointError

RUN_EVERY = 12
"""One trial in so many also runs on to the end."""
PARTS = (
    "network.safetensors",
    "ema.safetensors",
    "optimizer.safetensors",
    "state.json",
    checkpoint.MANIFEST,
)
FILES = (*PARTS, checkpoint.MODEL_FILE)
FLIPS, REST = 100, 45
"""Of 145 trials: flipped bits, and the others."""


def _stopped(run: Path) -> Problems:
    """A run with three checkpoints, stopped."""
    child = harness.start(run, ("--train.keep-checkpoints", "3"), lambda: _stop_at(12))
    return [] if child.wait() == 130 and harness.steps_of(run) == [5, 10, 13] else [child.err]


def _stop_at(step: int) -> None:
    harness.before_step(
        lambda state: os.kill(os.getpid(), signal.SIGINT) if state.counters.step == step else None
    )


def flip(path: Path, draw: random.Random) -> str:
    """One bit, half of the time in the header; never in "torch", which guards nothing."""
    content = bytearray(path.read_bytes())
    header = (
        8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else len(content)
    )
    record = (
        content.index(b'"unnoise"') if path.name == checkpoint.MODEL_FILE else 0
    )  # beside the weights' table
    at = draw.choice((draw.randrange(len(content)), draw.randrange(record, header)))
    if path.name == checkpoint.MANIFEST:
        start = content.index(b'"torch"')
        end = content.index(b"\n", start)
        while start <= at <= end:
            at = draw.randrange(len(content))
    bit = draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} of {path.name} flipped"


def truncate(path: Path, draw: random.Random) -> str:
    size = draw.randrange(1, path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes"


def empty(path: Path, draw: random.Random) -> str:
    os.truncate(path, 0)
    return f"{path.name} emptied"


def missing(path: Path, draw: random.Random) -> str:
    path.unlink()
    return f"{path.name} deleted"


def swap_parts(path: Path, draw: random.Random) -> str:
    a, b = (path.parent / name for name in draw.sample(PARTS, 2))
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)
    return f"{a.name} and {b.name} swapped"


def swap_steps(path: Path, draw: random.Random) -> str:
    older = min(path.parent.parent.glob("step-*"))
    shutil.copy(older / path.name, path)
    return f"{path.name} is {older.name}'s"


def manifest(path: Path, draw: random.Random) -> str:
    """Valid JSON that is not the manifest that was written."""
    file = path.parent / checkpoint.MANIFEST
    right = json.loads(file.read_text())
    name = draw.choice(sorted(right["files"]))

    def changed(**entries: Any) -> dict[str, Any]:
        return {**right, **entries}

    entry = right["files"][name]
    without = {key: value for key, value in right["files"].items() if key != name}
    damaged = draw.choice([
        {}, [], None, changed(files={}), changed(files=[]), changed(files=without),
        changed(files=None), changed(format=99),
        changed(files={**right["files"], name: {}}), changed(files={**right["files"], name: 5}),
        changed(files={**right["files"], name: {**entry, "bytes": str(entry["bytes"])}}),
        changed(files={**without, name.upper(): entry}),
    ])  # fmt: skip
    file.write_text(json.dumps(damaged))
    return f"manifest is {json.dumps(damaged)[:160]}"


def both(path: Path, draw: random.Random) -> str:
    """The two newest checkpoints."""
    before = checkpoint.checkpoints(path.parent.parent)[-2]
    return f"{truncate(path, draw)}, and in {before.name} {truncate(before / path.name, draw)}"


OTHERS: tuple[tuple[Callable[[Path, random.Random], str], int], ...] = (
    (truncate, 15), (empty, 5), (missing, 5), (swap_parts, 5), (swap_steps, 5), (manifest, 7),
    (both, 3),
)  # fmt: skip


def _kind(number: int) -> Callable[[Path, random.Random], str]:
    """The kinds mixed in every stretch of trials, in the proportions of 145."""
    place = number * 64 % (FLIPS + REST)  # 64 and 145 have no common divisor
    for kind, count in ((flip, FLIPS), *OTHERS):
        if place < count:
            return kind
        place -= count
    raise AssertionError


def trial(lab: Lab, number: int) -> Problems:
    """Damage one file of a copy; nothing of it may be loaded."""
    draw, kind = lab.random("corruption", number), _kind(number)
    base = lab.once("stopped", _stopped)
    run = shutil.copytree(base, lab.fresh("corruption") / "run")
    newest, before = checkpoint.checkpoints(run / "checkpoints")[-2:][::-1]
    # Flips go round the files; other damage to the model file is the first of FILES' last places.
    name = (
        FILES[number % len(FILES)]
        if kind in (flip, truncate, empty, missing)
        else PARTS[number % len(PARTS)]
    )
    path = run / name if name == checkpoint.MODEL_FILE else newest / name
    what = kind(path, draw)
    if kind is both:
        problems = _kept(lab, run)
    elif name == checkpoint.MODEL_FILE:
        problems = _model_refused(path, base / name)
    else:
        problems = _skipped(run, newest, before)
    if number % RUN_EVERY == 0 and not problems and kind is not both:
        problems = _runs_on(lab, run, newest, before, name != checkpoint.MODEL_FILE)
    return [f"{what}: {problem}" for problem in problems]


def _skipped(run: Path, newest: Path, before: Path) -> Problems:
    """The damaged one is named and the one before it is found; loading it by name is refused."""
    found, skipped = checkpoint.newest(run / "checkpoints")
    problems = (
        []
        if found == before
        else [f"newest() gives {found and found.name}, expected {before.name}"]
    )
    if [str(newest) in reason for reason in skipped] != [True]:
        problems.append(f"newest() says {skipped}")
    try:
        checkpoint.load(newest)
    except CheckpointError:
        return problems
    return [*problems, "loaded silently"]


def _model_refused(path: Path, right: Path) -> Problems:
    try:
        _, record = checkpoint.read_model(path)
    except CheckpointError:
        return []
    expected = checkpoint.read_model(right)[1]
    fields = [
        key for key in expected.keys() | record.keys() if expected.get(key) != record.get(key)
    ]
    return [f"model file loaded silently, {', '.join(fields) or 'nothing'} changed"]


def _kept(lab: Lab, run: Path) -> Problems:
    """Resumed from the third newest and stopped: what was saved is there."""
    flags = ("--train.keep-checkpoints", "2", "--train.no-keep-best")
    child = harness.start(run, flags, lambda: _stop_at(6))
    child.wait()
    found, _ = checkpoint.newest(run / "checkpoints")
    if child.code != 130 or found is None or found.name != checkpoint.name(7):
        there = harness.steps_of(run)
        return [
            f"saved step 7 (exit code {child.code}), newest sound one is {found}, there are {there}"
        ]
    return harness.resumed(run, lab.whole(*flags), flags)


def _runs_on(lab: Lab, run: Path, newest: Path, before: Path, skips: bool) -> Problems:
    """The real command says what it skips, resumes, and ends as the undisturbed run."""
    child = harness.start(run, ("--train.keep-checkpoints", "3"))
    if child.wait():
        return [f"not resumed, exit code {child.code}: {child.err[-600:]!r}"]
    said = (
        "skipped: checkpoint" in child.out
        and newest.name in child.out
        and f"{before.name} (" in child.out
    )
    problems = ["the damaged one was not named"] if skips and not said else []
    return problems + harness.different(lab.whole("--train.keep-checkpoints", "3"), run)


FAULT = Fault(
    "corruption",
    FLIPS + REST,
    48,
    "detected, named, previous one used, none loaded silently; resumed bitwise",
    trial,
)

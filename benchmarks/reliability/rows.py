"""The three rows, the same for every subject."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reliability.child import Tell, done, fork
from benchmarks.reliability.contents import Turns, compare, content, steps
from benchmarks.reliability.subject import Subject

SOON, LATE = (0.02, 0.25), (0.02, 2.0)
"""Seconds after the first complete save between which the kill comes; late ones also meet the end of a slow save."""
STOPS = (3, 5, 8, 10, 14)
"""Steps to stop after; 5 and 10 are ends of an epoch."""


def _found(subject: Subject, folder: Path, tell: Tell) -> None:
    step, groups = subject.resume(folder)
    tell({"step": step, "contents": steps(groups)})


def _resume(subject: Subject, folder: Path) -> dict[str, Any]:
    return done(lambda tell: _found(subject, folder, tell), folder.with_suffix(".log")) or {
        "error": "died"
    }


def _good(found: dict[str, Any]) -> bool:
    return "error" not in found and found["step"] > 0 and found["contents"] == [found["step"]]


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def kills(subject: Subject, room: Path, trials: int, within: tuple[float, float]) -> dict[str, Any]:
    """Row A: killed while it saves."""
    outcomes, errors, lost, by_hand = Counter[str](), Counter[str](), [], 0
    for trial in range(trials):
        folder = _fresh(room, "kills")
        child = fork(
            lambda tell, folder=folder: subject.save(folder, Turns(tell)),
            folder.with_suffix(".log"),
        )
        assert child.wait_for_line(), folder
        time.sleep(random.Random(f"kill {trial}").uniform(*within))
        told = child.end(kill=True)
        assert "error" not in told[-1], told[-1]
        found = _resume(subject, folder)
        if _good(found):
            outcomes["resumed"] += 1
            lost.append(told[-1]["step"] - found["step"])
        elif "error" in found:
            outcomes["not resumed"] += 1
            errors[_reason(found, folder)] += 1
            _remove(subject.newest(folder))
            by_hand += _good(_resume(subject, folder))
        else:
            outcomes["resumed wrongly"] += 1
            errors[str(found)] += 1
    return {
        **outcomes, "errors": dict(errors.most_common(4)), "the one before could be named by hand": by_hand,
        "complete saves lost, at most": max([0, *lost]) if lost else None,
    }  # fmt: skip


def _reason(found: dict[str, Any], folder: Path) -> str:
    """An error without the names in it."""
    return f"{found['error']}: {found.get('says', '').split(f' {folder}')[0][:70]}".split(" '")[
        0
    ].rstrip(": ")


def flips(subject: Subject, room: Path, trials: int, cuts: int) -> dict[str, Any]:
    """Row C: one bit of the newest weights flipped, or their file cut; three saves were made."""
    base = _fresh(room, "flips-base")
    told = fork(
        lambda tell: subject.save(base, Turns(tell, last=3)), base.with_suffix(".log")
    ).end()
    assert told[-1].get("step") == 3, told[-1]
    assert _resume(subject, base) == {"step": 3, "contents": [3]}, _resume(subject, base)
    shapes = [tuple(shape) for shape in told[-1]["weights"]]
    result = {"MB": round(sum(p.stat().st_size for p in _files(subject.newest(base))) / 1e6, 1)}
    for name, count in (("flipped", trials), ("cut", cuts)):
        outcomes = Counter[str]()
        for trial in range(count):
            folder = _fresh(room, "flips")
            shutil.copytree(base, folder, dirs_exist_ok=True, symlinks=True)
            path = subject.weights(subject.newest(folder))
            draw = random.Random(f"{name} {trial}")
            if name == "cut":
                os.truncate(path, draw.randrange(1, path.stat().st_size))
            else:
                _flip(path, shapes, draw)
            outcomes[_noticed(_resume(subject, folder))] += 1
        result[name] = dict(outcomes)
    return result


def _files(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def _noticed(found: dict[str, Any]) -> str:
    if "error" in found:
        return "error"
    if _good(found):
        return "the one before used" if found["step"] == 2 else "not affected"
    return "loaded silently"


def _flip(path: Path, shapes: list[tuple[int, ...]], draw: random.Random) -> None:
    """One random bit of all that are the network's weights."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    index = draw.choices(range(len(sizes)), sizes)[0]
    data = bytearray(path.read_bytes())
    start = data.find(content("weights", index, shapes[index], 3).numpy().tobytes())
    assert start > 0, path
    data[start + draw.randrange(4 * sizes[index])] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def resumes(subject: Subject, room: Path) -> dict[str, Any]:
    """Row B: the run stopped after step k and gone on with in a new process, against the run that was not stopped."""
    whole = _trained(subject, room, "whole")
    again = compare(subject.final(whole), subject.final(_trained(subject, room, "again")))
    result: dict[str, Any] = {"not stopped, twice": _same(again)}
    for stop in STOPS:
        run = _trained(subject, room, f"stop-{stop}", stop)
        result[f"after {stop}"] = _same(compare(subject.final(whole), subject.final(run)))
    return result


def _trained(subject: Subject, room: Path, name: str, stop: int | None = None) -> Path:
    folder = _fresh(room, name)
    for until in (stop, None) if stop else (None,):
        told = done(
            lambda tell, until=until: subject.train(folder, until), folder.with_suffix(".log")
        )
        assert told is None, (folder, told)
    return folder


def _same(differences: dict[str, float | None]) -> dict[str, Any]:
    return {
        name: "same" if value is None else float(f"{value:.2g}")
        for name, value in differences.items()
    }


def _fresh(room: Path, name: str) -> Path:
    folder = room / name
    for path in (folder, folder.with_suffix(".log")):
        if path.exists():
            _remove(path)
    folder.mkdir(parents=True)
    return folder

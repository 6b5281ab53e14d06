"""The three rows, the same for every subject."""

from __future__ import annotations

import functools
import math
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.child import Tell, fork
from benchmarks.reliability.subject import Subject, Turns, compare, content, steps

KILLS, FLIPS, CUTS = 60, 40, 10
STOPS = (3, 5, 8, 10, 14)
"""Steps to stop after; 5 and 10 are ends of an epoch."""


def _resume(subject: Subject, folder: Path) -> dict[str, Any]:
    """The step and contents that a new process resumes from, or its error."""

    def work(tell: Tell) -> None:
        step, groups = subject.resume(folder)
        tell({"step": step, "contents": steps(groups)})

    told = fork(work, folder.with_suffix(".log")).end()
    return told[-1] if told else {"error": "died"}


def _good(found: dict[str, Any]) -> bool:
    return "error" not in found and found["step"] > 0 and found["contents"] == [found["step"]]


def kills(subject: Subject, room: Path, trials: int | None, latest: float) -> dict[str, Any]:
    """Row A: killed while it saves, 20 ms to `latest` seconds after the first complete save."""
    outcomes, errors, lost, by_hand = Counter[str](), Counter[str](), [], 0
    for trial in range(trials or KILLS):
        folder = _fresh(room, "kills")
        log = folder.with_suffix(".log")
        child = fork(lambda tell, folder=folder: subject.save(folder, Turns(tell)), log)
        assert child.wait_for_line(), folder
        time.sleep(random.Random(f"kill {trial}").uniform(0.02, latest))
        told = child.end(kill=True)
        assert "error" not in told[-1], told[-1]
        found = _resume(subject, folder)
        if _good(found):
            outcomes["resumed"] += 1
            lost.append(told[-1]["step"] - found["step"])
        elif "error" in found:
            outcomes["not resumed"] += 1
            says = found.get("says", "").split(f" {folder}")[0][:70]  # without the names in it
            errors[f"{found['error']}: {says}".split(" '")[0].rstrip(": ")] += 1
            newest = subject.newest(folder)
            shutil.rmtree(newest) if newest.is_dir() else newest.unlink()
            by_hand += _good(_resume(subject, folder))
        else:
            outcomes["resumed wrongly"] += 1
            errors[str(found)] += 1
    return {
        **outcomes, "errors": dict(errors.most_common(4)),
        "the one before could be named by hand": by_hand,
        "complete saves lost, at most": max([0, *lost]) if lost else None,
    }  # fmt: skip


def flips(subject: Subject, room: Path, trials: int | None) -> dict[str, Any]:
    """Row C: one bit of the newest weights flipped, or their file cut; three saves were made."""
    base = _fresh(room, "flips-base")
    save = lambda tell: subject.save(base, Turns(tell, last=3))
    told = fork(save, base.with_suffix(".log")).end()
    assert told[-1].get("step") == 3, told[-1]
    assert _resume(subject, base) == {"step": 3, "contents": [3]}, _resume(subject, base)
    shapes = [tuple(shape) for shape in told[-1]["weights"]]
    newest = subject.newest(base)
    files = [path for path in (newest, *newest.rglob("*")) if path.is_file()]
    result: dict[str, Any] = {"MB": round(sum(path.stat().st_size for path in files) / 1e6, 1)}
    for name, count in (("flipped", FLIPS), ("cut", CUTS)):
        outcomes = Counter[str]()
        for trial in range(trials or count):
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


def _noticed(found: dict[str, Any]) -> str:
    if _good(found):
        return "the one before used" if found["step"] == 2 else "not affected"
    return "error" if "error" in found else "loaded silently"


def _flip(path: Path, shapes: list[tuple[int, ...]], draw: random.Random) -> None:
    """One random bit of all that are the network's weights."""
    sizes = [math.prod(shape) for shape in shapes]
    index = draw.choices(range(len(sizes)), sizes)[0]
    data = bytearray(path.read_bytes())
    start = data.find(content("weights", index, shapes[index], 3).numpy().tobytes())
    assert start > 0, path
    data[start + draw.randrange(4 * sizes[index])] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def resumes(subject: Subject, room: Path, _trials: int | None) -> dict[str, Any]:
    """Row B: a run stopped after step k and resumed in a new process, against one not stopped."""
    whole = subject.final(_trained(subject, room, "whole"))
    runs = {"not stopped, twice": ("again", None)}
    runs |= {f"after {stop}": (f"stop-{stop}", stop) for stop in STOPS}
    return {
        name: compare(whole, subject.final(_trained(subject, room, folder, stop)))
        for name, (folder, stop) in runs.items()
    }


def _trained(subject: Subject, room: Path, name: str, stop: int | None = None) -> Path:
    folder = _fresh(room, name)
    log = folder.with_suffix(".log")
    for until in (stop, None) if stop else (None,):
        told = fork(lambda _tell, until=until: subject.train(folder, until), log).end()
        assert not told, (folder, told)
    return folder


def _fresh(room: Path, name: str) -> Path:
    folder = room / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".log").unlink(missing_ok=True)
    folder.mkdir(parents=True)
    return folder


ROWS = {
    "kills": functools.partial(kills, latest=0.25),
    "late kills": functools.partial(kills, latest=2.0),  # they also meet the end of slow saves
    "flips": flips,
    "resume": resumes,
}

"""Trainings as processes of their own, which outlive the page and the server. Imports no torch.

A training that is started here writes to RUN/train.log, and holds a lock on it until it ends. So it
is found again by whoever asks, whatever has become of the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unnoise.config import check, flat, override
from unnoise.errors import ConfigError
from unnoise.presets import named
from unnoise.records import LOCK, is_run
from unnoise.studio import commands

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOG = "train.log"
LEFT = {LOG, LOCK}
"""What a training leaves that has not begun."""
TAIL_BYTES = 4000
TAIL_LINES = 12
ORDERLY = ("done", "stopped")
"""How the last line of a log begins that ended in order."""
UNNOISE = (sys.executable, "-P", "-m", "unnoise")
"""The command line, whatever files the current folder holds."""
REFUSED = ("imports", "data.cache", "preset", "data.source")
"""Settings that a page may not give: the first would run a file, the second write anywhere."""


def flags(source: str, settings: Mapping[str, Any]) -> list[str]:
    """Give what follows `unnoise train`, or ConfigError with the command line's own message."""
    source = source if source.startswith("hf:") else os.path.expanduser(source)
    if is_run(source):
        raise ConfigError(f"source: {source} is a run; expected a preset, folder or file")
    for key in settings:
        if key in REFUSED:
            raise ConfigError(f"{key}: cannot be given here; use the command line")
    base = named(source)
    config = override(base, settings)
    check(config)
    values, before = flat(config), flat(base)
    if groups := settings.keys() - values.keys():
        raise ConfigError(f"{min(groups)}: is a group; expected single settings, such as train.lr")
    given = [key for key in values if key in settings]
    words = [word for key in given for word in commands.flag(key, values[key], before.get(key))]
    return [f"./{source}" if source.startswith("-") else source, *words]


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Run `unnoise ARGUMENTS` as the trainer of a folder; ConfigError where one is at work."""
    with (folder / LOG).open("ab") as log:
        if process(folder) is not None or not _lock(log):
            raise ConfigError(f"{folder.name}: is in training already; stop it first")
        child = subprocess.Popen(
            [*UNNOISE, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        (folder / LOCK).write_text(str(child.pid))  # as the trainer does once it has loaded
    return child


def process(folder: Path) -> int | None:
    """Give the process that trains in a folder on this machine, if there is one."""
    try:
        number = int((folder / LOCK).read_bytes())
        os.kill(number, 0)  # so that no trainer that starts just now meets a lock of ours
    except (OSError, ValueError, OverflowError):
        return None
    locked = any(held(folder / name) for name in (LOCK, LOG))
    return number if number > 0 and locked else None


def stop(folder: Path) -> int:
    """Ask the trainer of a folder to save and end, as Ctrl-C does; gives its process."""
    number = process(folder)
    if number is None:
        raise ConfigError(f"{folder.name}: is not in training here; there is nothing to stop")
    os.kill(number, signal.SIGINT)
    return number


def last_words(folder: Path) -> str | None:
    """Give the end of a log whose trainer ended badly; None for others and where there is none."""
    with suppress(OSError), (folder / LOG).open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        if lines and not lines[-1].startswith(ORDERLY):
            return "\n".join(lines[-TAIL_LINES:])
    return None


def held(path: Path) -> bool:
    """Whether a process has locked a file; one that is not there is not."""
    with suppress(OSError), path.open("rb") as file:
        return not _lock(file, shared=True)
    return False


def _lock(file: Any, shared: bool = False) -> bool:
    """Lock a file until it is closed by all who have it; False where another has."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
        except BlockingIOError:
            return False
    return True

"""One attack: a forked child, a time limit, and a verdict from what it said and how it ended.

The suite imports torch once and forks for every attack, which therefore costs no more than itself.
"""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch._dynamo  # noqa: F401  (imported before the forks, as all below)

import unnoise.api
import unnoise.cli.edit
import unnoise.cli.evaluate
import unnoise.cli.plan
import unnoise.cli.sample
import unnoise.cli.train
import unnoise.evaluation.evaluate
import unnoise.sampling  # noqa: F401
from unnoise import cli
from unnoise.cli.output import Output
from unnoise.errors import UserError

LIMIT_SEC = 10
"""Of the processor's time in a forked child; more is a hang."""
PATIENCE_SEC = 60.0
"""Of the clock's; a busy machine can stand still for ten seconds."""
MOST_BYTES = 16 << 30
"""Address space of a child: what asks for more gets a MemoryError, and not the machine's last."""
STOPPED = (130, 141, 143)

Expected = Literal["refused", "done", "either", "usage"]


@dataclass(frozen=True)
class Ending:
    """What was left of a child."""

    code: int
    """Exit code, or minus the signal that ended it."""
    out: str
    err: str
    folder: Path
    """Where it ran."""
    hung: bool
    """It took too long; `err` of a forked child then says where it stood."""


Check = Callable[[Ending], object]
"""What is wrong with an ending, or nothing."""


@dataclass(frozen=True)
class Attack:
    """Something bad, and what is expected of it."""

    name: str
    act: Callable[[], object] | Sequence[str]
    """A function, which may raise a UserError; or the words after `unnoise`."""
    expected: Expected = "refused"
    prepare: Callable[[Path], object] | None = None
    """Fill the empty folder that is the current one of the act."""
    check: Check | None = None
    environ: Mapping[str, str] | None = None
    """The whole environment: such an attack runs in a Python of its own."""
    shell: str = "{}"
    """What stands around the command there, such as `{} | head -1`."""


@dataclass
class Result:
    """How the attacks of a kind went."""

    name: str
    count: int = 0
    sec: float = 0.0
    failures: dict[str, list[str]] = field(default_factory=dict)
    """Kind of failure -> lines."""


def run(attack: Attack, folder: Path) -> tuple[Ending, str | None]:
    """What became of an attack, and the kind of its failure."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "here").mkdir(parents=True)
    if attack.prepare is not None:
        attack.prepare(folder / "here")
    ending = _forked(attack, folder) if attack.environ is None else _own_python(attack, folder)
    return ending, verdict(attack, ending)


def verdict(attack: Attack, ending: Ending) -> str | None:
    """The kind of failure, or None."""
    text = ending.out + ending.err
    if ending.hung:
        return "hang"
    if "Traceback (most recent" in text or ending.code == 1:
        return "traceback"
    if ending.code < 0:
        return "crash"
    if re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text):
        return "raw control characters"
    refused = ending.code in (2, 3)
    lines = [line for line in ending.err.splitlines() if line.strip()]
    if attack.expected == "usage":
        return None if ending.code == 2 and text.startswith("usage: ") else "no usage"
    if refused and (len(lines) != 1 or not lines[0].startswith("unnoise: ")):
        return "not one line"
    if refused and len(lines[0]) > 2000:
        return "a very long line"
    if attack.expected == "refused" and ending.code == 0:
        return "silent"
    if attack.expected == "done" and ending.code != 0:
        return "refused what is right"
    if not refused and ending.code not in (0, *STOPPED):
        return f"exit code {ending.code}"
    wrong = attack.check(ending) if attack.check is not None else None
    return f"wrong: {wrong}" if wrong else None


def _forked(attack: Attack, folder: Path) -> Ending:
    began = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _child(attack, folder)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > PATIENCE_SEC:
            os.kill(pid, signal.SIGXCPU)
            status = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    return _ending(code, folder, hung=code == -signal.SIGXCPU)


def _ending(code: int, folder: Path, hung: bool, encoding: str = "utf-8") -> Ending:
    out, err = ((folder / name).read_bytes().decode(encoding, "replace") for name in ("out", "err"))
    return Ending(code, out, err, folder / "here", hung)


def _child(attack: Attack, folder: Path) -> None:
    code = 1
    try:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
        faulthandler.register(signal.SIGXCPU, file=2, chain=True)  # the stack, and then the end
        sys.stdout, sys.stderr = (
            Output(os.fdopen(os.dup(number), "w", encoding="utf-8")) for number in (1, 2)
        )  # as `cli.entry` does it
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SEC, 2 * LIMIT_SEC))
        os.chdir(folder / "here")
        code = _act(attack)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  (of an attack: it is its failure)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _act(attack: Attack) -> int:
    if not callable(attack.act):
        return cli.main(list(attack.act))
    try:
        attack.act()
    except UserError as error:
        print(f"unnoise: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _own_python(attack: Attack, folder: Path) -> Ending:
    assert not callable(attack.act) and attack.environ is not None
    words = " ".join([sys.executable, "-m", "unnoise", *attack.act])
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        child = subprocess.Popen(
            ["bash", "-c", "set -o pipefail; " + attack.shell.format(words)],
            stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=folder / "here",
            env=dict(attack.environ), start_new_session=True,
        )  # fmt: skip
        try:
            code, hung = child.wait(PATIENCE_SEC), False
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            code, hung = child.wait(), True
    encoding = attack.environ.get("PYTHONIOENCODING", "utf-8")
    return _ending(code - 128 - 128 if code > 160 else code, folder, hung, encoding)

"""A rank killed under torchrun's own engine: two ranks, gloo, one restart.

Most trials start that engine (torch.distributed.launcher, what torchrun itself calls) in a forked
process with forked workers, so that a trial costs its steps; one in so many is a real `torchrun`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.faults import harness
from tests.faults.harness import STEPS, Fault, Lab, Problems
from unnoise import checkpoint, cli

REAL_EVERY = 12
MOST_SEC = 60.0
"""From the kill to the end of the whole job."""
DIES = "UNNOISE_FAULTS_DIES"
"""rank:step of the rank that is killed, of the first start."""


def rank(arguments: list[str]) -> None:
    """One rank, which may kill itself at a step."""
    wanted, _, at = os.environ.get(DIES, "").partition(":")
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if first and os.environ["RANK"] == wanted:
        harness.before_step(lambda state: _die(state.counters.step == int(at)))
    code = cli.main(arguments)
    if code:
        sys.exit(code)


def _die(now: bool) -> None:
    if now:
        print(f"\nDIES {time.time()}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def _launch(run: Path, dies: str, real: bool) -> harness.Child:
    """Two ranks, and their end."""
    arguments = harness.command(run)

    def work() -> int:
        os.environ[DIES] = dies
        if real:
            torchrun = [
                str(Path(sys.executable).parent / "torchrun"),
                "--nproc-per-node",
                "2",
                "--max-restarts",
                "1",
            ]
            module = [
                "--rdzv-backend",
                "c10d",
                "--rdzv-endpoint",
                "127.0.0.1:0",
                "-m",
                "tests.faults.ranks",
            ]
            return subprocess.run([*torchrun, *module, *arguments], check=False).returncode
        config = LaunchConfig(
            1, 1, 2, run_id=str(os.getpid()), rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0", max_restarts=1,
            start_method="fork", monitor_interval=0.1,
        )  # fmt: skip
        elastic_launch(config, rank)(arguments)
        return 0

    child = harness.fork(work, run)
    child.wait(300.0)
    return child


def _undisturbed(run: Path) -> Problems:
    child = _launch(run, "", False)
    return [child.err[-900:]] if child.code else []


def trial(lab: Lab, number: int) -> Problems:
    """One of two ranks is killed at a step; the job starts again and ends as undisturbed."""
    draw, real = lab.random("ranks", number), number % REAL_EVERY == REAL_EVERY - 1
    whole = lab.once("two ranks", _undisturbed)
    run, dies = lab.fresh("ranks") / "run", f"{number % 2}:{draw.randrange(0, STEPS)}"
    child = _launch(run, dies, real)
    ended = time.time()
    died = re.search(r"DIES ([\d.]+)", child.out)
    problems = [] if died else ["no rank was killed"]
    if died and ended - float(died[1]) > MOST_SEC:
        problems.append(
            f"ended {ended - float(died[1]):.0f} s after the kill, expected at most {MOST_SEC:.0f}"
        )
    if child.code:
        return [f"rank {dies}: exit code {child.code}: {child.err[-900:]}"]
    weights = [
        checkpoint.read_model(folder / checkpoint.MODEL_FILE)[1]["weights"]
        for folder in (whole, run)
    ]
    problems += [] if weights[0] == weights[1] else ["another hash of the final weights"]
    return [f"rank {dies}: {problem}" for problem in problems + harness.different(whole, run)]


FAULT = Fault(
    "ranks",
    25,
    2,
    "the job restarts and ends within 60 s of the kill, same final hash, all bitwise",
    trial,
)

if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    rank(sys.argv[1:])

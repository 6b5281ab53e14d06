"""Run the suite.

python -m tests.faults [ROW ..] [--full] [--seed S] [--trials N] [--trial I] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.faults import FAULTS
from tests.faults.harness import Fault, Lab


@dataclass
class Result:
    """A row as it came out."""

    fault: Fault
    trials: int
    failures: list[str]
    sec: float

    def line(self) -> str:
        name = self.fault.name
        numbers = f"{self.trials:6} | {len(self.failures):8} | {self.sec:7.0f}"
        return f"| {name:12} | {numbers} | {self.fault.compared} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument(
        "rows", nargs="*", help=f"some of {', '.join(FAULTS)}; all of them if none is named"
    )
    parser.add_argument(
        "--full", action="store_true", help="all trials; else the subset of make test"
    )
    parser.add_argument("--seed", type=int, default=int(os.environ.get("UNNOISE_FAULTS_SEED", "0")))
    parser.add_argument("--trials", type=int, help="so many of every row")
    parser.add_argument("--trial", type=int, help="this one alone")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - FAULTS.keys()
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; expected {', '.join(FAULTS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="unnoise-faults-") as folder:
        os.environ.setdefault("UNNOISE_CACHE", f"{folder}/cache")
        lab = Lab(Path(folder), arguments.seed)
        results = [_row(lab, FAULTS[name], arguments) for name in arguments.rows or FAULTS]
    print(table(results, lab))
    if arguments.json:
        lines = {
            r.fault.name: {"trials": r.trials, "failures": r.failures, "sec": r.sec}
            for r in results
        }
        arguments.json.write_text(
            json.dumps({"seed": lab.seed, "notes": sorted(lab.notes), "rows": lines}, indent=2)
        )
    return int(any(result.failures for result in results))


def _row(lab: Lab, fault: Fault, arguments: argparse.Namespace) -> Result:
    count = arguments.trials or (fault.full if arguments.full else fault.subset)
    numbers = range(count) if arguments.trial is None else [arguments.trial]
    began, failures = time.monotonic(), []
    for number in numbers:
        try:
            problems = fault.trial(lab, number)
        except Exception:  # noqa: BLE001  (of a trial: it is its failure, and the others go on)
            problems = [traceback.format_exc()]
        if problems:
            repeat = f"python -m tests.faults {fault.name} --seed {lab.seed} --trial {number}"
            failures.append(f"{repeat}: {'; '.join(problems)}")
            print(f"FAILED {failures[-1]}", file=sys.stderr, flush=True)
    result = Result(fault, len(numbers), failures, time.monotonic() - began)
    summary = f"{fault.name}: {result.trials} trials, {len(failures)} failures, {result.sec:.0f} s"
    print(summary, file=sys.stderr, flush=True)
    return result


def table(results: list[Result], lab: Lab) -> str:
    """The one table, and what it was made with."""
    head = f"| {'fault':12} | trials | failures | seconds | compared |\n|---|---:|---:|---:|---|"
    machine = f"{platform.platform()}, {os.cpu_count()} cores, 1 thread"
    foot = f"seed {lab.seed}, torch {torch.__version__}, {machine}"
    return "\n".join(
        ["", head, *(result.line() for result in results), "", foot, *sorted(lab.notes)]
    )


if __name__ == "__main__":
    sys.exit(main())

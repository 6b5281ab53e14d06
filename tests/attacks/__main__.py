"""Run the attacks: python -m tests.attacks [KIND ..] [--only TEXT] [--every N] [--show]"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.attacks import KINDS
from tests.attacks.harness import Result, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks")
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(KINDS)}; all unless named")
    parser.add_argument("--only", default="", help="attacks with this text in their names")
    parser.add_argument("--every", type=int, default=1, help="one of so many attacks of each kind")
    parser.add_argument("--show", action="store_true", help="print what each attack was told")
    parser.add_argument("--json", type=Path, help="write the results here too")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - KINDS.keys():
        parser.error(f"no kind {', '.join(sorted(unknown))}; expected {', '.join(KINDS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="unnoise-attacks-") as folder:
        os.environ["UNNOISE_CACHE"] = f"{folder}/cache"
        os.environ.pop("UNNOISE_INCEPTION", None)
        results = [_kind(name, Path(folder), arguments) for name in arguments.kinds or KINDS]
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(result) for result in results], indent=2))
    return int(any(result.failures for result in results))


def _kind(name: str, folder: Path, arguments: argparse.Namespace) -> Result:
    result, began = Result(name), time.monotonic()
    shared = folder / name
    shared.mkdir()
    for number, attack in enumerate(KINDS[name](shared)):
        if arguments.only not in attack.name or number % arguments.every:
            continue
        ending, failure = run(attack, folder / "attack")
        result.count += 1
        lines = (ending.err.strip() or ending.out.strip()).splitlines() or [""]
        line = f"{name}: {attack.name}: {lines[-1][:300]}"
        if failure is not None:
            result.failures.setdefault(failure.partition(":")[0], []).append(line)
            stack = f"\n{ending.err}" if ending.hung else ""
            print(f"FAILED ({failure}) {line}{stack}", file=sys.stderr, flush=True)
        elif arguments.show:
            print(f"{ending.code} {line}", flush=True)
    result.sec = time.monotonic() - began
    return result


def table(results: list[Result]) -> str:
    """The one table."""
    rows = [f"| {'attack':12} | inputs | failures | seconds |", "|---|---:|---:|---:|"]
    for each in [*results, _sum(results)]:
        bad = sum(len(lines) for lines in each.failures.values())
        rows.append(f"| {each.name:12} | {each.count:6} | {bad:8} | {each.sec:7.0f} |")
    return "\n".join(["", *rows])


def _sum(results: list[Result]) -> Result:
    failures = {f"{r.name} {k}": lines for r in results for k, lines in r.failures.items()}
    return Result("all", sum(r.count for r in results), sum(r.sec for r in results), failures)


if __name__ == "__main__":
    sys.exit(main())

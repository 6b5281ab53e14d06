"""Results: what each says of where it comes from, its file, its table and its command line."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def machine(device: torch.device) -> str:
    """The GPU's name, or the processor's and its widest instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return f"{found[1] if found else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str:
    """The checkout's commit, marked where files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")


def source(commit: str) -> str:
    """The state of src in a commit; that of a checkout with changes, or an unknown one, is its
    name."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "--verify", "-q", f"{commit}:src"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found or commit


def about(name: str, device: torch.device) -> dict[str, Any]:
    """The head of a result of `python -m NAME`."""
    words = re.sub(r"--peers \S+", "--peers PEERS", " ".join(sys.argv[1:]))
    return {
        "machine": machine(device), "device": device.type, "threads": torch.get_num_threads(),
        "processors": os.cpu_count(), "torch": torch.__version__, "commit": commit(),
        "date": datetime.date.today().isoformat(), "command": f"python -m {name} {words}",
    }  # fmt: skip


def read(path: Path | None, empty: dict[str, Any] | None = None) -> dict[str, Any]:
    """A result that is there already, to add to, or an empty one."""
    return json.loads(path.read_text()) if path and path.exists() else empty or {}


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result whole or not at all; nothing if no file was asked for."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        temporary.replace(path)


def markdown(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def short(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.0f} %"


def flags(description: str | None) -> argparse.ArgumentParser:
    """A command line with the module's docstring as its help, and --out."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=plain)
    parser.add_argument("--out", type=Path, help="the result, as JSON")
    return parser


if __name__ == "__main__":  # python -m benchmarks.record makes one
    from benchmarks import records

    raise SystemExit(records.main())

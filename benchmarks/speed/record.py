"""What every result says of where it comes from."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.interleave import Plan

PROTOCOL = (
    "Every subject runs in a process of its own, beside ours and nothing else; the two take turns (A B A B), one call a turn, "
    "after {warm} calls to warm up. Medians over the rounds; ratios are medians and quartiles of the ratio of a round. "
    "A sample is taken again, up to {tries} tries, while other processes use more than 10 % of the processors. OpenMP waits "
    "passively ({policy})."
)
ROOT = Path(__file__).resolve().parents[2]


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
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")


def command(arguments: list[str]) -> str:
    """The command as it can be given anywhere: folders of this machine are named, not told."""
    words, hidden = ["python -m benchmarks.speed"], {"--peers": "PEERS"}
    for before, word in zip(["", *arguments], arguments, strict=False):
        words.append(hidden.get(before, word))
    return " ".join(words)


def about(what: str, device: torch.device, warm: int, plan: Plan) -> dict[str, Any]:
    """The head of a result."""
    return {
        "what": what, "machine": machine(device), "device": device.type, "threads": torch.get_num_threads(),
        "processors": os.cpu_count(), "torch": torch.__version__, "date": datetime.date.today().isoformat(),
        "command": command(sys.argv[1:]), "commit": commit(),
        "protocol": PROTOCOL.format(warm=warm, tries=plan.tries, policy=os.environ.get("OMP_WAIT_POLICY", "its own default")),
    }  # fmt: skip

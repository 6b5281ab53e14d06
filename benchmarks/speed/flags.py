"""What the command line says."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.speed.interleave import Plan
from benchmarks.speed.subjects import SUBJECTS
from benchmarks.speed.subjects.subject import Setting


@dataclass(frozen=True)
class Flags:
    """The settings of a measurement."""

    device: str = "cpu"
    batch: tuple[int, ...] = (8, 32)
    repeats: int = Plan.rounds
    tries: int = Plan.tries
    peers: str | None = None
    out: Path | None = None
    subjects: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    base_channels: int = Setting.base_channels

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @property
    def plan(self) -> Plan:
        # Beside a GPU, others on the processors hardly matter.
        return Plan(self.repeats, self.tries if self.torch_device.type == "cpu" else 1)

    @property
    def scale(self) -> float:
        """Of the ceilings' work: less than 1 only where the network is smaller too, to try things out."""
        return self.base_channels / Setting.base_channels


def parse(words: list[str], whats: list[str], description: str | None) -> tuple[str, Flags]:
    """WHAT and the settings."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=whats)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=list(Flags.batch), help="images of a step"
    )
    parser.add_argument("--repeats", type=int, default=Flags.repeats, help="rounds")
    parser.add_argument(
        "--tries", type=int, default=Flags.tries, help="of a sample while others use the processors"
    )
    parser.add_argument("--peers", help="folder of the peers' repositories [$UNNOISE_PEERS]")
    parser.add_argument(
        "--out", type=Path, help="such as benchmarks/results/speed-training-cpu.json"
    )
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=[])
    parser.add_argument("--ways", nargs="+", choices=["shipped", "best"], default=[])
    parser.add_argument(
        "--base-channels",
        type=int,
        default=Flags.base_channels,
        help="fewer only to try things out",
    )
    given = parser.parse_args(words)
    return given.what, Flags(
        given.device, tuple(given.batch), given.repeats, given.tries, given.peers, given.out, tuple(given.subjects),
        tuple(given.ways), given.base_channels,
    )  # fmt: skip

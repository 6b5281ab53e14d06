"""Asks all subjects, one after the other, and writes the answers: `python -m benchmarks.reliability --help`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.reliability.accelerate_loop import (
    AccelerateLoop,
    AccelerateSeedable,
    AccelerateStateful,
)
from benchmarks.reliability.diffusers_script import DiffusersScript
from benchmarks.reliability.lightning_loop import LightningElsewhere, LightningLoop
from benchmarks.reliability.lucidrains import Lucidrains
from benchmarks.reliability.ours import Ours
from benchmarks.reliability.rows import LATE, SOON, flips, kills, resumes
from benchmarks.reliability.subject import Place, Subject, write_images

SUBJECTS = {
    "unnoise": Ours, "diffusers": DiffusersScript, "lucidrains": Lucidrains, "accelerate": AccelerateLoop,
    "accelerate-seedable": AccelerateSeedable, "lightning": LightningLoop, "lightning-elsewhere": LightningElsewhere,
    "accelerate-stateful": AccelerateStateful,  # last: only where torchdata is installed
}  # fmt: skip


def ask(subject: Subject, room: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The rows of one subject."""
    answers: dict[str, Any] = {
        "versions": {name: importlib.metadata.version(name) for name in subject.packages}
    }
    if "kills" in arguments.rows:
        answers["kills"] = kills(subject, room, arguments.kills, SOON)
    if "late-kills" in arguments.rows:
        answers["late kills"] = kills(subject, room, arguments.kills, LATE)
    if "flips" in arguments.rows:
        answers["flips"] = flips(subject, room, arguments.flips, arguments.cuts)
    if "resume" in arguments.rows:
        answers["resume"] = resumes(subject, room)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--diffusers-script", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="written (on) after every subject")
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS][:-1], choices=SUBJECTS)
    parser.add_argument("--rows", nargs="+", default=["kills", "late-kills", "flips", "resume"])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--flips", type=int, default=40)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument(
        "--room", help="where to work; None = a temporary folder, deleted at the end"
    )
    parser.add_argument("--machine", default="", help="what it says in the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"subjects": {}}
    result |= {
        "machine": arguments.machine or result.get("machine", ""), "threads": 1, "torch": torch.__version__,
        "date": datetime.date.today().isoformat(), "seed": 0,
    }  # fmt: skip
    with (
        contextlib.nullcontext(arguments.room)
        if arguments.room
        else tempfile.TemporaryDirectory() as room
    ):
        os.environ["UNNOISE_CACHE"] = f"{room}/unnoise"
        place = Place(Path(room) / "images", arguments.diffusers_script.resolve())
        write_images(place.images)
        for name in arguments.subjects:
            subject = SUBJECTS[name](place)
            answers = result["subjects"].setdefault(subject.name, {})
            answers |= ask(subject, Path(room) / name, arguments)
            print(subject.name, json.dumps(answers, indent=1), flush=True)
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

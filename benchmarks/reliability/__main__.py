"""Asks all subjects, one after the other, and writes the answers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks import record, reliability
from benchmarks.reliability.ours import Ours
from benchmarks.reliability.peers import DiffusersScript, Lucidrains
from benchmarks.reliability.rows import ROWS
from benchmarks.reliability.subject import Subject, write_images

SUBJECTS: dict[str, type[Subject]] = {
    "unnoise": Ours,
    "diffusers": DiffusersScript,
    "lucidrains": Lucidrains,
}


def main() -> None:
    parser = record.flags(reliability.__doc__)
    parser.add_argument("--diffusers-script", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS], choices=SUBJECTS)
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=ROWS)
    parser.add_argument("--trials", type=int, help="fewer of each kind, to try it out")
    parser.add_argument("--room", help="where to work; None = a temporary folder")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    result = record.read(flags.out, {"subjects": {}})
    result |= record.about("benchmarks.reliability", torch.device("cpu")) | {"seed": 0}
    made = tempfile.TemporaryDirectory
    with contextlib.nullcontext(flags.room) if flags.room else made() as room:
        os.environ["UNNOISE_CACHE"] = f"{room}/unnoise"
        images = Path(room) / "images"
        write_images(images)
        for name in flags.subjects:
            subject = SUBJECTS[name](images, flags.diffusers_script.resolve())
            answers = result["subjects"].setdefault(subject.name, {})
            answers["versions"] = {one: importlib.metadata.version(one) for one in subject.packages}
            answers |= {
                row: ROWS[row](subject, Path(room) / name, flags.trials) for row in flags.rows
            }
            print(subject.name, json.dumps(answers, indent=1), flush=True)
            record.write(flags.out, result)


if __name__ == "__main__":
    main()

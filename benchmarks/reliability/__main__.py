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
from benchmarks.reliability import rows
from benchmarks.reliability.ours import Ours
from benchmarks.reliability.peers import DiffusersScript, Lucidrains
from benchmarks.reliability.subject import Place, Subject, write_images

SUBJECTS: dict[str, type[Subject]] = {
    "unnoise": Ours,
    "diffusers": DiffusersScript,
    "lucidrains": Lucidrains,
}
ROWS = {
    "kills": lambda subject, room, flags: rows.kills(subject, room, flags.kills, rows.SOON),
    "late kills": lambda subject, room, flags: rows.kills(subject, room, flags.kills, rows.LATE),
    "flips": lambda subject, room, flags: rows.flips(subject, room, flags.flips, flags.cuts),
    "resume": lambda subject, room, _flags: rows.resumes(subject, room),
}


def main() -> None:
    parser = record.flags(reliability.__doc__)
    parser.add_argument("--diffusers-script", type=Path, required=True)
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS], choices=SUBJECTS)
    parser.add_argument("--rows", nargs="+", default=[*ROWS], choices=ROWS)
    for name, count in (("--kills", 60), ("--flips", 40), ("--cuts", 10)):
        parser.add_argument(name, type=int, default=count)
    parser.add_argument("--room", help="where to work; None = a temporary folder")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    result = record.read(flags.out, {"subjects": {}})
    result |= record.about("benchmarks.reliability", torch.device("cpu")) | {"seed": 0}
    made = tempfile.TemporaryDirectory
    with contextlib.nullcontext(flags.room) if flags.room else made() as room:
        os.environ["UNNOISE_CACHE"] = f"{room}/unnoise"
        place = Place(Path(room) / "images", flags.diffusers_script.resolve())
        write_images(place.images)
        for name in flags.subjects:
            subject = SUBJECTS[name](place)
            answers = result["subjects"].setdefault(subject.name, {})
            answers["versions"] = {one: importlib.metadata.version(one) for one in subject.packages}
            answers |= {row: ROWS[row](subject, Path(room) / name, flags) for row in flags.rows}
            print(subject.name, json.dumps(answers, indent=1), flush=True)
            record.write(flags.out, result)


if __name__ == "__main__":
    main()

"""How fast unnoise is: `python -m benchmarks.speed WHAT`, see --help.

training   images per second of a training step beside the peers', share of the machine's peak
sampling   8 images with 20 network evaluations each, every project's own sampler
memory     the most memory that a training step takes
data       batches per second of our reader and of DataLoader
startup    seconds from nothing to an import, a help page and a picture
profile    where the time of our step goes, and what keeps it from the peak
ceilings   what the machine can do
tables     render all results into docs/results.md

The peers' repositories are looked for in --peers or $UNNOISE_PEERS, their packages in this Python; what is absent is skipped.
"""

from __future__ import annotations

import os
import sys

# Before torch is imported, here and in the subjects' processes: a process that waits for its turn must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
from pathlib import Path

import torch

from benchmarks.speed import data, machine, memory, profile, sampling, startup, tables, training
from benchmarks.speed.flags import parse

WHATS = {
    "training": training.run, "sampling": sampling.run, "memory": memory.run, "data": data.run, "startup": startup.run,
    "profile": profile.run, "ceilings": machine.run,
}  # fmt: skip
RESULTS, PAGE = Path("benchmarks/results"), Path("docs/results.md")


def main() -> None:
    what, flags = parse(sys.argv[1:], [*WHATS, "tables"], __doc__)
    if what == "tables":
        print(", ".join(tables.render(RESULTS, PAGE)))
        return
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(torch.get_num_threads())
    )  # the same for all subjects
    result = {}
    for result in WHATS[what](flags):
        if flags.out:
            flags.out.parent.mkdir(parents=True, exist_ok=True)
            flags.out.write_text(json.dumps(result, indent=2) + "\n")
    print(tables.table(result))


if __name__ == "__main__":
    main()
